package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

// signerEnv is the key of an environment file by which update scripts that are
// older than Valise know whom to trust: a regular expression for the identity of
// a GitHub Actions workflow.
const signerEnv = "TRUSTED_SIGNER_IDENTITY"

// Trust is whom the operator trusts, as they say it now.
type Trust struct {
	// Policy is what they say of the signer; nil when they name no signer.
	Policy func() (verify.Policy, error)
	// Issuer and TrustedRoot, a file, are of a signer that is found elsewhere.
	Issuer, TrustedRoot string
}

// root is a policy with the trusted root alone.
func (t Trust) root() (policy verify.Policy, err error) {
	if t.TrustedRoot != "" {
		if policy.TrustedRoot, err = os.ReadFile(t.TrustedRoot); err != nil {
			return policy, fmt.Errorf("read trusted root: %w", err)
		}
	}
	return policy, nil
}

// policy is what the operator says; or, when they name nobody, the identity that
// fallback gives. It has no signer when there is none.
func (t Trust) policy(fallback func() (string, error)) (verify.Policy, error) {
	if t.Policy != nil {
		return t.Policy()
	}
	identity, err := fallback()
	if err != nil || identity == "" {
		return verify.Policy{}, err
	}
	policy, err := t.root()
	policy.Signers = []verify.Signer{{Issuer: t.Issuer, IdentityRegexp: identity}}
	return policy, err
}

// policyFor is the policy that decides about a bundle: that of the device; or,
// at a first installation without one, what the operator says, which is to be
// pinned. Nobody is trusted silently.
func (m *Machine) policyFor(ctx context.Context, r *bundle.Reader, o Options) (policy verify.Policy, pin bool, err error) {
	app := r.Manifest().App
	have, err := m.Policy(ctx, app)
	none := errors.Is(err, fs.ErrNotExist)
	if !o.First || err != nil && !none {
		return have, false, err
	}
	if o.Trust.Policy == nil {
		if !none {
			return have, false, nil
		}
		if c := o.instead; c != nil && c.pin && c.App == app {
			return c.policy, true, nil
		}
		given, err := m.whomToTrust(app, r, o.Trust)
		return given, true, err
	}
	given, err := o.Trust.Policy()
	if err != nil {
		return have, false, err
	}
	if none {
		return given, true, nil
	}
	if signer := given.Signers[0]; !slices.ContainsFunc(have.Signers, func(s verify.Signer) bool { return s.String() == signer.String() }) {
		return have, false, advise(fmt.Errorf("install %s: %s is not trusted here, %s says so", app, signer, m.ConfigPath(app)), AddTrust)
	}
	return have, false, nil
}

// whomToTrust finds out whom a device without a policy shall trust: from the
// environment file that is there already, else by asking.
func (m *Machine) whomToTrust(app string, r *bundle.Reader, trust Trust) (verify.Policy, error) {
	policy, err := trust.root()
	if err != nil {
		return policy, err
	}
	identity, file, err := signerFromEnv(filepath.Join(m.AppDir(app), ".env"), filepath.Join(m.Root, "etc", app, app+".env"))
	if err != nil {
		return policy, err
	}
	if identity != "" {
		policy.Signers = []verify.Signer{{Issuer: trust.Issuer, IdentityRegexp: identity}}
		if _, err := verify.New(policy); err != nil {
			return policy, fmt.Errorf("read %s of %s: %w", signerEnv, file, err)
		}
		m.Note("%s of %s says who signs: %s", signerEnv, file, policy.Signers[0])
		return policy, nil
	}
	person := m.person()
	if person == nil {
		return policy, m.nobodyTrusted(app)
	}
	if r.Signature() == nil {
		return policy, &verify.Error{Check: verify.CheckUnsigned, Reason: "the bundle is not signed; get a signed release from its maker"}
	}
	found, err := verify.Identify(sha256.Sum256(r.ManifestBytes()), r.Signature(), policy.TrustedRoot)
	if err != nil {
		return policy, err
	}
	signer, anyTag := lasting(found)
	if !person.Trust(app, r.Manifest().Version, found, anyTag) {
		return policy, m.nobodyTrusted(app)
	}
	policy.Signers = []verify.Signer{signer}
	return policy, nil
}

func (m *Machine) nobodyTrusted(app string) error {
	return advise(fmt.Errorf("install %s: no signer is trusted yet", app), NameSigner)
}

// lasting is the signer to remember for one that signed one release: a workflow
// that runs for tags has the tag in its identity, and the next release another.
func lasting(s verify.Signer) (_ verify.Signer, anyTag bool) {
	workflow, _, ok := strings.Cut(s.Identity, "@refs/tags/")
	if !ok {
		return s, false
	}
	return verify.Signer{Issuer: s.Issuer, IdentityRegexp: regexp.QuoteMeta(workflow) + `@refs/tags/.+`}, true
}

// signerFromEnv reads whom the first environment file that names anybody names,
// of those there are. The file is parsed, not run, and the text must stand in it as it is: an expression that
// quotes or variables change would not be what its author wrote.
func signerFromEnv(files ...string) (identity, file string, err error) {
	for _, file := range files {
		// Scripts read the line as it is, and compose's grammar is nearer to that.
		env, err := environ.Compose.Load(file)
		if err != nil {
			if env, err = environ.Systemd.Load(file); err != nil {
				return "", file, err
			}
		}
		identity, _ := env.Lookup(signerEnv)
		if identity == "" {
			continue
		}
		if !bytes.Contains(env.Bytes(), []byte(identity)) {
			return "", file, fmt.Errorf("read %s: the value of %s changes when it is read; put it in single quotes", file, signerEnv)
		}
		return identity, file, nil
	}
	return "", "", nil
}

// RemoveSigner takes the signer of a name out of a policy: its key, its identity, or
// what String says of it.
func RemoveSigner(policy *verify.Policy, name string) error {
	is := func(s verify.Signer) bool {
		return name == s.String() || name == strings.TrimPrefix(s.String(), "key ") || name != "" && (name == s.Identity || name == s.IdentityRegexp)
	}
	left := slices.DeleteFunc(slices.Clone(policy.Signers), is)
	switch {
	case len(left) == len(policy.Signers):
		return advise(fmt.Errorf("there is no signer %q", name), ListSigners)
	case len(left) == 0:
		return advise(errors.New("it is the only signer: without it, this device would accept no release"), RotateInstead)
	}
	policy.Signers = left
	return nil
}

// TrustApp is the app that a trust command is about. It may have a policy and
// not be installed yet.
func (m *Machine) TrustApp() (string, error) {
	if m.App != "" {
		if !bundle.ValidApp(m.App) {
			return "", usagef("%q is not the name of an app", m.App)
		}
		return m.App, nil
	}
	found, err := filepath.Glob(m.ConfigPath("*"))
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", advise(fmt.Errorf("there is no trust policy in %s", filepath.Dir(m.ConfigPath("x"))), WritePolicy)
	case 1:
		return strings.TrimSuffix(filepath.Base(found[0]), ".yaml"), nil
	}
	return "", advise(usagef("there are policies of several apps"), NameApp)
}

// ChangeTrust changes the trust policy of an app, under its lock: no update
// decides meanwhile, and no rotation of a release is lost.
func (m *Machine) ChangeTrust(ctx context.Context, what string, change func(*verify.Policy) error) (app string, policy verify.Policy, err error) {
	app, err = m.TrustApp()
	if err != nil {
		return app, policy, err
	}
	if _, err := m.policyFile(app); err != nil && (what == "remove" || !errors.Is(err, fs.ErrNotExist)) {
		return app, policy, err
	}
	state, err := release.OpenDir(m.stateDir(app), 0o700)
	if err != nil {
		return app, policy, err
	}
	state.Close()
	unlock, err := m.lock(ctx, app, "trust "+what)
	if err != nil {
		return app, policy, err
	}
	defer unlock()
	if err := m.finishRotation(ctx, app); err != nil {
		return app, policy, err
	}
	policy, err = m.policyFile(app)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return app, policy, err
	}
	if err := change(&policy); err != nil {
		return app, policy, err
	}
	if _, err := verify.New(policy); err != nil {
		return app, policy, err
	}
	return app, policy, m.writePolicy(app, policy, source.Config{})
}

// finishRotation brings a rotation into the policy that a power cut kept from it.
// The caller holds the app's lock.
func (m *Machine) finishRotation(ctx context.Context, app string) error {
	if !m.hasRecords(app) {
		return nil
	}
	j, err := m.openRecords(ctx, app)
	if err != nil {
		return err
	}
	defer j.Close()
	st, err := j.Load(ctx)
	if err != nil || st.Rotation == nil {
		return err
	}
	if err := m.rotate(app)(ctx, st.Rotation); err != nil {
		return err
	}
	return j.Rotated(ctx)
}
