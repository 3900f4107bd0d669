// Package verify decides whether a bundle may be installed. It is the only
// package that does, and the same one on the laptop and on the device.
//
// Who may attack: whoever can hand over a file (the stick, the download, the
// upload page), including old and foreign bundles of the right signer. The
// signature covers manifest.json, and manifest.json pins every other byte, the
// app, the version and the platforms. Nothing here asks the network or the
// clock. No option turns a check off: Want only adds expectations, except
// Forced, which is an operator's word about versions and not about trust.
package verify

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/valise-ota/valise/bundle"
)

// Names of the checks, as Error.Check and exit messages show them.
const (
	CheckUnsigned  = "unsigned"
	CheckSignature = "signature"
	CheckApp       = "app"
	CheckVersion   = "version"
	CheckPlatform  = "platform"
	CheckDowngrade = "downgrade"
	CheckBad       = "failed-before"
	CheckContent   = "content"
)

// Error is a refusal.
type Error struct {
	Check  string // one of the names above
	Reason string // what was found, what was expected, what it means
	Err    error  // what the check reported, may be nil
}

func (e *Error) Error() string {
	return fmt.Sprintf("bundle refused by check %q: %s", e.Check, e.Reason)
}
func (e *Error) Unwrap() error { return e.Err }

func refuse(check string, err error, format string, args ...any) error {
	return &Error{Check: check, Reason: fmt.Sprintf(format, args...), Err: err}
}

// Want is what the caller expects of a release beyond trust. An empty field
// expects nothing.
type Want struct {
	App      string
	Version  string          // exactly this one
	Platform bundle.Platform // must be in the release
	Floor    string          // nothing below it
	Bad      []string        // versions that failed here
	// Known are releases this device has: a version means one release.
	Known map[string]bundle.Digest
	// Forced is set when the operator of the device asks for an older version,
	// one that failed before, or another release of a version it has.
	Forced bool
}

// Verifier checks bundles against one policy. It may be used concurrently.
type Verifier struct {
	keys []keyVerifier
}

type keyVerifier struct {
	signer Signer
	entity *sgverify.Verifier
}

// New returns the verifier of a policy. A policy that names nobody is an error:
// it could not accept anything.
func New(p Policy) (*Verifier, error) {
	v := new(Verifier)
	for _, s := range p.Signers {
		key, err := s.publicKey()
		if err != nil {
			return nil, fmt.Errorf("trust policy: public key: %w", err)
		}
		ecdsaVerifier, err := signature.LoadECDSAVerifier(key, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("trust policy: public key: %w", err)
		}
		// The policy names the key itself, so there is no certificate whose
		// validity a timestamp would have to prove.
		material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			return root.NewExpiringKey(ecdsaVerifier, time.Time{}, time.Time{}), nil
		})
		entity, err := sgverify.NewVerifier(material, sgverify.WithNoObserverTimestamps())
		if err != nil {
			return nil, fmt.Errorf("trust policy: %w", err)
		}
		v.keys = append(v.keys, keyVerifier{s, entity})
	}
	if len(v.keys) == 0 {
		return nil, fmt.Errorf("trust policy: it names no signer")
	}
	return v, nil
}

// Digest checks a Sigstore bundle over a file of which sum is the SHA-256, and
// returns who signed.
func (v *Verifier) Digest(sum [sha256.Size]byte, sigstore []byte) (Signer, error) {
	sig := new(sgbundle.Bundle)
	if err := sig.UnmarshalJSON(sigstore); err != nil {
		return Signer{}, refuse(CheckSignature, err, "the signature is not a Sigstore bundle (%v); the file is damaged or was not made by a signer", err)
	}
	var last error
	for _, k := range v.keys {
		_, err := k.entity.Verify(sig, sgverify.NewPolicy(sgverify.WithArtifactDigest("sha256", sum[:]), sgverify.WithKey()))
		if err == nil {
			return k.signer, nil
		}
		last = err
	}
	return Signer{}, refuse(CheckSignature, last, "it was not signed by %s, the only signer this policy trusts, or it was changed after signing (%v)", v.expected(), last)
}

// Bare checks a signature without a Sigstore bundle around it, as cosign's .sig
// files hold it. Only a key can vouch for one: it proves no time and no identity.
func (v *Verifier) Bare(sum [sha256.Size]byte, sig []byte) (Signer, error) {
	for _, k := range v.keys {
		if key, err := k.signer.publicKey(); err == nil && ecdsa.VerifyASN1(key, sum[:], sig) {
			return k.signer, nil
		}
	}
	return Signer{}, refuse(CheckSignature, nil, "it was not signed by %s, the only signer this policy trusts, or it was changed after signing", v.expected())
}

func (v *Verifier) expected() string {
	var names []string
	for _, k := range v.keys {
		names = append(names, k.signer.String())
	}
	return strings.Join(names, " or ")
}

// Release runs every check: signature, app, version, platform, downgrade, and
// then the content of the whole file. progress, which may be nil, gets the bytes
// of the file read.
func (v *Verifier) Release(ctx context.Context, r *bundle.Reader, want Want, progress func(done, total int64)) (*Release, error) {
	if r.Signature() == nil {
		return nil, refuse(CheckUnsigned, nil, "it carries no signature; sign it with \"valise sign\" before it goes to a device")
	}
	sum := sha256.Sum256(r.ManifestBytes())
	signer, err := v.Digest(sum, r.Signature())
	if err != nil {
		return nil, err
	}
	if err := checkWant(r.Manifest(), bundle.DigestOf(r.ManifestBytes()), want); err != nil {
		return nil, err
	}
	if err := r.Check(ctx, progress); err != nil {
		return nil, err
	}
	return &Release{reader: r, digest: bundle.DigestOf(r.ManifestBytes()), signer: signer}, nil
}

func checkWant(m *bundle.Manifest, digest bundle.Digest, want Want) error {
	if want.App != "" && m.App != want.App {
		return refuse(CheckApp, nil, "it is a release of %q, this is %q", m.App, want.App)
	}
	if want.Version != "" && m.Version != want.Version {
		return refuse(CheckVersion, nil, "it is signed as version %s, %s was asked for; the file was renamed or is the wrong one", m.Version, want.Version)
	}
	if want.Platform != "" && !slices.Contains(m.Platforms, want.Platform) {
		return refuse(CheckPlatform, nil, "it holds images for %v, this machine is %s", m.Platforms, want.Platform)
	}
	if want.Forced {
		return nil
	}
	if known, ok := want.Known[m.Version]; ok && known != digest {
		return refuse(CheckVersion, nil, "version %s is installed with other content; a new release needs a new version (--force installs it all the same)", m.Version)
	}
	version, err := bundle.ParseVersion(m.Version)
	if err != nil {
		return err
	}
	if want.Floor != "" {
		floor, err := bundle.ParseVersion(want.Floor)
		if err != nil {
			return fmt.Errorf("downgrade floor: %w", err)
		}
		if version.LessThan(floor) {
			return refuse(CheckDowngrade, nil, "version %s is older than %s, the newest that ran here; an old release may have known holes (--force installs it all the same)", m.Version, want.Floor)
		}
	}
	if slices.Contains(want.Bad, m.Version) {
		return refuse(CheckBad, nil, "version %s failed on this device before (--force tries it again)", m.Version)
	}
	return nil
}
