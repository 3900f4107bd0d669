package main

import (
	"bufio"
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

	"golang.org/x/term"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/verify"
)

// signerEnv is the key of an environment file by which update scripts that are
// older than Valise know whom to trust: a regular expression for the identity of
// a GitHub Actions workflow.
const signerEnv = "TRUSTED_SIGNER_IDENTITY"

// policyFor is the policy that decides about a bundle: that of the device; or,
// at a first installation without one, what the operator says, which is to be
// pinned. Nobody is trusted silently.
func (p *program) policyFor(ctx context.Context, r *bundle.Reader, o applyOptions) (policy verify.Policy, pin bool, err error) {
	app := r.Manifest().App
	have, err := p.readPolicy(ctx, app)
	none := errors.Is(err, fs.ErrNotExist)
	if !o.first || err != nil && !none {
		return have, false, err
	}
	if !o.trust.Given() {
		if !none {
			return have, false, nil
		}
		if c := o.instead; c != nil && c.pin && c.app == app {
			return c.policy, true, nil
		}
		given, err := p.whomToTrust(app, r, o.trust)
		return given, true, err
	}
	given, err := o.trust.Policy()
	if err != nil {
		return have, false, err
	}
	if _, err := verify.New(given); err != nil {
		return have, false, fmt.Errorf("read %s: %w", strings.Join(slices.DeleteFunc([]string{o.trust.Key, o.trust.TrustedRoot}, func(s string) bool { return s == "" }), " or "), err)
	}
	if none {
		return given, true, nil
	}
	if signer := given.Signers[0]; !slices.ContainsFunc(have.Signers, func(s verify.Signer) bool { return s.String() == signer.String() }) {
		return have, false, cli.WithHint(fmt.Errorf("install %s: %s is not trusted here, %s says so", app, signer, p.configPath(app)),
			"use %q if the maker of the app signs differently now", "valise-installer trust add")
	}
	return have, false, nil
}

// whomToTrust finds out whom a device without a policy shall trust: from the
// environment file that is there already, else by asking.
func (p *program) whomToTrust(app string, r *bundle.Reader, trust cli.Trust) (verify.Policy, error) {
	var policy verify.Policy
	var err error
	if trust.TrustedRoot != "" {
		if policy.TrustedRoot, err = os.ReadFile(trust.TrustedRoot); err != nil {
			return policy, fmt.Errorf("read trusted root: %w", err)
		}
	}
	identity, file, err := signerFromEnv(filepath.Join(p.appDir(app), ".env"), filepath.Join(p.root, "etc", app, app+".env"))
	if err != nil {
		return policy, err
	}
	if identity != "" {
		policy.Signers = []verify.Signer{{Issuer: trust.Issuer, IdentityRegexp: identity}}
		if _, err := verify.New(policy); err != nil {
			return policy, fmt.Errorf("read %s of %s: %w", signerEnv, file, err)
		}
		p.Note("%s of %s says who signs: %s", signerEnv, file, policy.Signers[0])
		return policy, nil
	}
	person := p.person()
	if person == nil {
		return policy, p.nobodyTrusted(app)
	}
	if r.Signature() == nil {
		return policy, &verify.Error{Check: verify.CheckUnsigned, Reason: "nobody signed it; get a release that its maker signed"}
	}
	found, err := verify.Identify(sha256.Sum256(r.ManifestBytes()), r.Signature(), policy.TrustedRoot)
	if err != nil {
		return policy, err
	}
	signer, more := lasting(found)
	fmt.Fprintf(p.Stderr, "%s %s was signed by %s (issuer %s).\n", app, r.Manifest().Version, found.Identity, found.Issuer)
	if !p.agrees(person, fmt.Sprintf("Trust it%s for app %s from now on?", more, app)) {
		return policy, p.nobodyTrusted(app)
	}
	policy.Signers = []verify.Signer{signer}
	return policy, nil
}

// person reads what the person at the terminal types; nil when there is none.
func (p *program) person() *bufio.Reader {
	if in, ok := p.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		return bufio.NewReader(in)
	}
	return nil
}

func (p *program) agrees(person *bufio.Reader, question string) bool {
	fmt.Fprintf(p.Stderr, "%s [y/N] ", question)
	line, err := person.ReadString('\n')
	a := strings.ToLower(strings.TrimSpace(line))
	return err == nil && (a == "y" || a == "yes")
}

func (p *program) nobodyTrusted(app string) error {
	return cli.WithHint(fmt.Errorf("install %s: nobody is trusted to sign it yet", app),
		"pass the signer's public key with --key FILE, or their --identity; get it from the maker of the app, not from the stick the bundle is on")
}

// lasting is the signer to remember for one that signed one release: a workflow
// that runs for tags has the tag in its identity, and the next release another.
func lasting(s verify.Signer) (_ verify.Signer, more string) {
	workflow, _, ok := strings.Cut(s.Identity, "@refs/tags/")
	if !ok {
		return s, ""
	}
	return verify.Signer{Issuer: s.Issuer, IdentityRegexp: regexp.QuoteMeta(workflow) + `@refs/tags/.+`}, ", and the same workflow at other tags,"
}

// signerFromEnv reads whom the first environment file that names anybody names,
// of those there are. The file is parsed, not run, and the text must stand in it as it is: an expression that
// quotes or variables change would not be what its author wrote.
func signerFromEnv(files ...string) (identity, file string, err error) {
	for _, file := range files {
		env, err := environ.Load(file)
		if err != nil {
			return "", file, err
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
