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
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/valise-ota/valise/bundle"
)

// Names of the checks, as Error.Check and exit messages show them.
const (
	CheckUnsigned  = "unsigned"
	CheckSignature = "signature"
	CheckSigner    = "signer"
	CheckTime      = "time"
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
	policy     Policy
	keys       []keyVerifier
	identities []sgverify.PolicyOption // of signers with an identity
	keyless    *sgverify.Verifier      // nil when no signer has an identity
}

type keyVerifier struct {
	signer Signer
	entity *sgverify.Verifier
}

// New returns the verifier of a policy. A policy that names nobody is an error:
// it could not accept anything.
func New(p Policy) (*Verifier, error) {
	v := &Verifier{policy: p}
	for _, s := range p.Signers {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("trust policy: %w", err)
		}
		var err error
		if s.Key != "" {
			err = v.addKey(s)
		} else {
			err = v.addIdentity(s)
		}
		if err != nil {
			return nil, fmt.Errorf("trust policy: %w", err)
		}
	}
	if len(p.Signers) == 0 {
		return nil, fmt.Errorf("trust policy: it names no signer")
	}
	return v, nil
}

func (v *Verifier) addKey(s Signer) error {
	key, err := s.publicKey()
	if err != nil {
		return err
	}
	ecdsaVerifier, err := signature.LoadECDSAVerifier(key, crypto.SHA256)
	if err != nil {
		return err
	}
	// The policy names the key itself, so there is no certificate whose
	// validity a timestamp would have to prove.
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(ecdsaVerifier, time.Time{}, time.Time{}), nil
	})
	entity, err := sgverify.NewVerifier(material, sgverify.WithNoObserverTimestamps())
	if err != nil {
		return err
	}
	v.keys = append(v.keys, keyVerifier{s, entity})
	return nil
}

func (v *Verifier) addIdentity(s Signer) error {
	identity, err := sgverify.NewShortCertificateIdentity(s.Issuer, "", s.Identity, s.anchored())
	if err != nil {
		return err
	}
	v.identities = append(v.identities, sgverify.WithCertificateIdentity(identity))
	if v.keyless != nil {
		return nil
	}
	raw := v.policy.TrustedRoot
	if raw == nil {
		raw = PublicGood
	}
	trusted, err := root.NewTrustedRootFromJSON(raw)
	if err != nil {
		return fmt.Errorf("trusted root: %w", err)
	}
	// A certificate lives for minutes: that the signature was made in them is
	// shown by a log entry with its time or by a timestamp, never by a clock.
	options := []sgverify.VerifierOption{sgverify.WithTransparencyLog(1), sgverify.WithObserverTimestamps(1)}
	if len(trusted.CTLogs()) > 0 {
		options = append(options, sgverify.WithSignedCertificateTimestamps(1))
	}
	v.keyless, err = sgverify.NewVerifier(trusted, options...)
	return err
}

// Digest checks a Sigstore bundle over a file of which sum is the SHA-256, and
// returns who signed it, or who attested something about it.
func (v *Verifier) Digest(sum [sha256.Size]byte, sigstore []byte) (Signer, error) {
	sig, err := parseSignature(sigstore)
	if err != nil {
		return Signer{}, err
	}
	return v.signature(sum, sig)
}

func parseSignature(sigstore []byte) (*sgbundle.Bundle, error) {
	sig := new(sgbundle.Bundle)
	if err := sig.UnmarshalJSON(sigstore); err != nil {
		return nil, refuse(CheckSignature, err, "the signature is not a Sigstore bundle (%v); the file is damaged or was not made by a signer", err)
	}
	return sig, nil
}

func (v *Verifier) signature(sum [sha256.Size]byte, sig *sgbundle.Bundle) (Signer, error) {
	content, err := sig.VerificationContent()
	if err != nil {
		return Signer{}, refuse(CheckSignature, err, "the signature is not a usable Sigstore bundle (%v)", err)
	}
	artifact := sgverify.WithArtifactDigest("sha256", sum[:])
	if cert := content.Certificate(); cert != nil {
		return v.byIdentity(sig, cert, artifact)
	}
	var last error
	for _, k := range v.keys {
		_, err := k.entity.Verify(sig, sgverify.NewPolicy(artifact, sgverify.WithKey()))
		if err == nil {
			return k.signer, nil
		}
		last = err
	}
	if last == nil {
		return Signer{}, refuse(CheckSignature, nil, "it was signed with a key; this policy trusts %s", v.expected())
	}
	return Signer{}, refuse(CheckSignature, last, "it was not signed by %s, the only signer this policy trusts, or it was changed after signing (%v)", v.expected(), last)
}

// byIdentity checks a signature with a certificate.
func (v *Verifier) byIdentity(sig *sgbundle.Bundle, cert *x509.Certificate, artifact sgverify.ArtifactPolicyOption) (Signer, error) {
	claimed := Signer{Identity: "somebody without a name", Issuer: "unknown"}
	if s, err := certificate.SummarizeCertificate(cert); err == nil {
		claimed = Signer{Identity: s.SubjectAlternativeName, Issuer: s.Issuer}
	}
	if v.keyless == nil {
		return Signer{}, refuse(CheckSigner, nil, "its certificate says it was signed by %s; this policy trusts %s", claimed, v.expected())
	}
	_, err := v.keyless.Verify(sig, sgverify.NewPolicy(artifact, v.identities...))
	if err == nil {
		return claimed, nil
	}
	if errors.As(err, new(*sgverify.ErrNoMatchingCertificateIdentity)) {
		return Signer{}, refuse(CheckSigner, err, "it was signed by %s; this policy trusts %s", claimed, v.expected())
	}
	return Signer{}, refuse(CheckSignature, err, "its certificate names %s, but that does not hold: %v", claimed, err)
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
	for _, s := range v.policy.Signers {
		names = append(names, s.String())
	}
	return strings.Join(names, " or ")
}

// Release runs every check: signature, app, version, platform, downgrade, and
// then the content of the whole file. progress, which may be nil, gets the bytes
// of the file read.
func (v *Verifier) Release(ctx context.Context, r *bundle.Reader, want Want, progress func(done, total int64)) (*Release, error) {
	rel, err := v.trusted(r, want)
	if err != nil {
		return nil, err
	}
	if err := r.Check(ctx, progress); err != nil {
		return nil, err
	}
	return rel, nil
}

// Remote is Release for a file of which only parts will be read, because the rest
// would have to come over a network. Who signed the manifest and what is wanted of
// it is decided here and in full; content is compared with the manifest whenever
// it is opened, and what is never opened is neither known nor used. An error that
// is no refusal means that the file cannot be read in parts: its table of contents
// is not usable, and Release, over the whole of it, gives the verdict.
func (v *Verifier) Remote(r *bundle.Reader, want Want) (*Release, error) {
	rel, err := v.trusted(r, want)
	if err != nil {
		return nil, err
	}
	if err := r.Locate(); err != nil {
		return nil, err
	}
	return rel, nil
}

// trusted makes the decision about the manifest of r, which pins everything else.
func (v *Verifier) trusted(r *bundle.Reader, want Want) (*Release, error) {
	if r.Signature() == nil {
		return nil, refuse(CheckUnsigned, nil, "it carries no signature; sign it with \"valise sign\" before it goes to a device")
	}
	sig, err := parseSignature(r.Signature())
	if err != nil {
		return nil, err
	}
	// Whoever attests something about a release, a finding for example, does
	// not say that devices shall run it.
	if sig.GetMessageSignature() == nil {
		return nil, refuse(CheckSignature, nil, "it carries a statement about the release, not a signature of it")
	}
	signer, err := v.signature(sha256.Sum256(r.ManifestBytes()), sig)
	if err != nil {
		return nil, err
	}
	rel := &Release{reader: r, digest: bundle.DigestOf(r.ManifestBytes()), signer: signer}
	if err := rel.Meets(want); err != nil {
		return nil, err
	}
	return rel, nil
}

// meets compares a release with what is expected of it.
func meets(m *bundle.Manifest, digest bundle.Digest, want Want) error {
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
