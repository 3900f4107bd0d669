// Package verify decides whether a bundle may be installed. It is the only
// package that does, and the same one on the laptop and on the device.
//
// Who may attack: who can hand over a file (the stick, the download, the
// upload page), including old and foreign bundles of the right signer. The
// signature covers manifest.json, and manifest.json pins every other byte, the
// app, the version and the platforms. Nothing here asks the network or the
// clock. No option turns a check off: Want only adds expectations, except
// Forced, which is an operator's word about versions and not about trust.
package verify

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/valise-ota/valise/bundle"
)

// Names of the checks, as Error.Check and exit messages show them.
const (
	CheckPolicy     = "policy"
	CheckUnsigned   = "unsigned"
	CheckSignature  = "signature"
	CheckSigner     = "signer"
	CheckTime       = "time"
	CheckApp        = "app"
	CheckVersion    = "version"
	CheckPlatform   = "platform"
	CheckDowngrade  = "downgrade"
	CheckBad        = "failed-before"
	CheckTrust      = "trust"
	CheckProvenance = "provenance"
	CheckSBOM       = "sbom"
	CheckChecksums  = "checksums"
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

// Kind names the check for front ends.
func (e *Error) Kind() string { return "check." + e.Check }

func refuse(check string, err error, format string, args ...any) error {
	return &Error{Check: check, Reason: fmt.Sprintf(format, args...), Err: err}
}

// Want is what the caller expects of a release beyond trust. An empty field
// expects nothing.
type Want struct {
	App      string
	Version  string          // exactly this one
	Platform bundle.Platform // must be in the release
	Floor    string          // nothing below it, and of its precedence only this version
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

// New returns the verifier of a policy. A policy without a signer is an error:
// it could not accept anything.
func New(p Policy) (*Verifier, error) {
	v := &Verifier{policy: p}
	if len(p.Signers) == 0 {
		return nil, errors.New("trust policy: it names no signer")
	}
	if err := p.Provenance.validate(); err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	for _, s := range p.Signers {
		err := s.check()
		switch {
		case err != nil:
		case s.Key != "":
			err = v.addKey(s)
		default:
			err = v.addIdentity(s)
		}
		if err != nil {
			return nil, fmt.Errorf("trust policy: %w", err)
		}
	}
	return v, nil
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
	return v.checkFiles(rel)
}

// Remote is Release for a file of which only parts will be read, because the rest
// would have to come over a network. Who signed the manifest and what is wanted of
// it is decided here and in full; content is compared with the manifest whenever
// it is opened, and what is never opened is neither known nor used. The error
// bundle.ErrTOC means that the file cannot be read in parts: Release, over the
// whole of it, gives the verdict.
func (v *Verifier) Remote(r *bundle.Reader, want Want) (*Release, error) {
	rel, err := v.trusted(r, want)
	if err != nil {
		return nil, err
	}
	if err := r.Locate(); err != nil {
		return nil, err
	}
	return v.checkFiles(rel)
}

// checkFiles checks what stands in files of a release whose manifest is trusted.
func (v *Verifier) checkFiles(rel *Release) (_ *Release, err error) {
	if err := v.policy.Provenance.check(rel); err != nil {
		return nil, err
	}
	if rel.rotation, err = v.rotate(rel); err != nil {
		return nil, err
	}
	return rel, nil
}

// trusted makes the decision about the manifest of r, which pins everything else.
func (v *Verifier) trusted(r *bundle.Reader, want Want) (*Release, error) {
	if r.Signature() == nil {
		return nil, refuse(CheckUnsigned, nil, "the bundle is not signed; sign it with \"valise sign\" before it goes to a device")
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
	sum := sha256.Sum256(r.ManifestBytes())
	by, err := v.signature(crypto.SHA256, sum[:], sig)
	if err != nil {
		return nil, err
	}
	rel := &Release{reader: r, digest: bundle.DigestOf(r.ManifestBytes()), by: by}
	if err := rel.Check(want); err != nil {
		return nil, err
	}
	return rel, nil
}

// compare compares a release, which a trusted signer made, with what is expected of
// it.
func compare(m *bundle.Manifest, digest bundle.Digest, by Signer, want Want) error {
	if want.App != "" && m.App != want.App {
		return refuse(CheckApp, nil, "it is a release of %q, signed by %s, and not of %q: get one of %q from its maker", m.App, by, want.App, want.App)
	}
	if want.Version != "" && m.Version != want.Version {
		return refuse(CheckVersion, nil, "%s signed it as version %s, %s was asked for: the file was renamed or is the wrong one; get %s from its maker", by, m.Version, want.Version, want.Version)
	}
	if want.Platform != "" && !slices.Contains(m.Platforms, want.Platform) {
		return refuse(CheckPlatform, nil, "it holds images for %v, this machine is %s: %s signed it for other machines; ask its maker for a release for %s", m.Platforms, want.Platform, by, want.Platform)
	}
	if want.Forced {
		return nil
	}
	if known, ok := want.Known[m.Version]; ok && known != digest {
		return refuse(CheckVersion, nil, "version %s is installed with other content: %s signed two releases of one version (--force installs it all the same)", m.Version, by)
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
			return refuse(CheckDowngrade, nil, "version %s is older than %s, the newest that ran here: signed by %s, but it may have known holes (--force installs it)", m.Version, want.Floor, by)
		}
		// Build metadata has no order, so either could be the older one.
		if version.Equal(floor) && m.Version != want.Floor {
			return refuse(CheckDowngrade, nil, "version %s differs from %s, the newest that ran here, in build metadata only, which has no order: signed by %s (--force installs it)", m.Version, want.Floor, by)
		}
	}
	if slices.Contains(want.Bad, m.Version) {
		return refuse(CheckBad, nil, "version %s failed on this device before: signed by %s, but it would most likely fail again (--force tries it again)", m.Version, by)
	}
	return nil
}
