package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/valise-ota/valise/bundle"
)

// Rotation is who signs from a release on, as that release says: the policy it
// was accepted under answers for it. It has an effect when a device commits the
// release, and not before.
type Rotation struct {
	Signers []Signer `json:"signers"` // all of them
	// TrustedRoot takes the place of the one before; nil leaves that.
	TrustedRoot json.RawMessage `json:"trusted_root,omitempty"`
}

// After returns the policy after a rotation, which may be nil.
func (p Policy) After(r *Rotation) Policy {
	if r == nil {
		return p
	}
	p.Signers = r.Signers
	if r.TrustedRoot != nil {
		p.TrustedRoot = r.TrustedRoot
	}
	return p
}

// rotate returns what a release changes about trust, nil when it changes nothing.
func (v *Verifier) rotate(rel *Release) (*Rotation, error) {
	t := rel.Manifest().Trust
	if t == nil {
		return nil, nil
	}
	next := &Rotation{Signers: v.policy.Signers}
	if len(t.Signers) > 0 {
		next.Signers = nil
		for _, s := range t.Signers {
			next.Signers = append(next.Signers, Signer(s))
		}
	}
	if t.TrustedRoot != "" {
		carried, err := v.carriedRoot(rel, t.TrustedRoot)
		if err != nil {
			return nil, err
		}
		next.TrustedRoot = carried
	}
	if next.TrustedRoot == nil && slices.Equal(next.Signers, v.policy.Signers) {
		return nil, nil
	}
	if _, err := New(v.policy.After(next)); err != nil {
		return nil, refuse(CheckTrust, err, "signed by %s, but with the signers that it names (%v) this device would never accept another release", rel.Signer(), err)
	}
	return next, nil
}

// carriedRoot returns the trusted root in a file of the release, nil when the
// device has that one or a newer one. A root is a link of a chain: what a device
// trusts vouches for the next one by the signature of the release, and the next
// one must still vouch for that signature. So neither a stranger nor a mistake
// can leave a device with a root that knows nobody.
func (v *Verifier) carriedRoot(rel *Release, path string) (json.RawMessage, error) {
	f, err := rel.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	carried, err := io.ReadAll(io.LimitReader(f, bundle.MaxTrustedRoot+1))
	if err != nil {
		return nil, err
	}
	date, err := RootDate(carried)
	if err != nil {
		return nil, refuse(CheckTrust, err, "it is signed by %s, but %s in it is not a Sigstore trusted root (%v); ask its maker for a release that is right", rel.Signer(), path, err)
	}
	have := v.policy.TrustedRoot
	if have == nil {
		have = PublicGood
	}
	if bytes.Equal(have, carried) {
		return nil, nil
	}
	if v.keyless != nil { // else nobody has used the root that is there
		old, err := RootDate(have)
		if err != nil {
			return nil, fmt.Errorf("trusted root: %w", err)
		}
		if date.Before(old) {
			return nil, nil
		}
	}
	if rel.by.certificate == nil {
		return carried, nil
	}
	keyless, err := keylessVerifier(carried)
	if err == nil {
		sig, perr := parseSignature(rel.Signature())
		if perr != nil {
			return nil, perr
		}
		sum := sha256.Sum256(rel.ManifestBytes())
		_, err = keyless.Verify(sig, sgverify.NewPolicy(sgverify.WithArtifactDigest("sha256", sum[:]), v.identities...))
	}
	if err != nil {
		return nil, refuse(CheckTrust, err, "signed by %s, but the trusted root in it does not vouch for that signature: this device might accept no signer any more (%v)", rel.Signer(), err)
	}
	return carried, nil
}

// RootDate returns when a trusted root was last changed, as far as it shows: the
// latest time at which one of its keys or certificates begins or ceases to be
// valid. It orders the roots of one instance.
func RootDate(trustedRoot []byte) (time.Time, error) {
	t, err := root.NewTrustedRootProtobuf(trustedRoot)
	if err == nil {
		_, err = root.NewTrustedRootFromProtobuf(t)
	}
	if err != nil {
		return time.Time{}, err
	}
	var latest time.Time
	see := func(r *protocommon.TimeRange) {
		for _, at := range []interface{ AsTime() time.Time }{r.GetStart(), r.GetEnd()} {
			if when := at.AsTime(); when.After(latest) {
				latest = when
			}
		}
	}
	for _, log := range slices.Concat(t.GetTlogs(), t.GetCtlogs()) {
		see(log.GetPublicKey().GetValidFor())
	}
	for _, ca := range slices.Concat(t.GetCertificateAuthorities(), t.GetTimestampAuthorities()) {
		see(ca.GetValidFor())
	}
	return latest, nil
}
