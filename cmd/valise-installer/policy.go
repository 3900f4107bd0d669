package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

// deviceConfig is /etc/valise/APP.yaml. It belongs to the device: no release
// changes it.
type deviceConfig struct {
	Trust struct {
		Signers []verify.Signer `yaml:"signers"`
		// TrustedRoot is a Sigstore trusted_root.json beside this file; empty
		// for the public instance's, which is built in.
		TrustedRoot string `yaml:"trusted_root,omitempty"`
	} `yaml:"trust"`
	// Source is where releases come from, when they are not brought.
	Source source.Config `yaml:"source,omitempty"`
	// Updates is for the daemon; see package daemon.
	Updates daemon.Config `yaml:"updates,omitempty"`
}

// goType is what the YAML library says of an unknown key beyond its name.
var goType = regexp.MustCompile(`(?m) not found in type .*$`)

const configHead = "# Whose releases of %s this device accepts. Written at the first installation;\n# it belongs to this device and no release changes it.\n"

func (p *program) configPath(app string) string {
	return filepath.Join(p.root, "etc/valise", app+".yaml")
}

// readConfig reads the device's configuration of an app. The error is
// fs.ErrNotExist when there is none.
func (p *program) readConfig(app string) (c deviceConfig, err error) {
	b, err := os.ReadFile(p.configPath(app))
	if err != nil {
		return c, fmt.Errorf("read trust policy: %w", err)
	}
	if err := yaml.Load(b, &c, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		return c, fmt.Errorf("read trust policy %s: %s", p.configPath(app), goType.ReplaceAllString(err.Error(), " is not a known key"))
	}
	return c, nil
}

// readPolicy returns the trust policy of an app. The error is fs.ErrNotExist
// when there is none.
func (p *program) readPolicy(app string) (verify.Policy, error) {
	c, err := p.readConfig(app)
	if err != nil {
		return verify.Policy{}, err
	}
	policy := verify.Policy{Signers: c.Trust.Signers}
	if c.Trust.TrustedRoot != "" {
		var err error
		if policy.TrustedRoot, err = os.ReadFile(filepath.Join(filepath.Dir(p.configPath(app)), filepath.Base(c.Trust.TrustedRoot))); err != nil {
			return policy, fmt.Errorf("read trusted root that %s names: %w", p.configPath(app), err)
		}
	}
	return policy, nil
}

// writePolicy makes the trust policy of an app durable, and where its releases
// come from.
func (p *program) writePolicy(app string, policy verify.Policy, from source.Config) error {
	c := deviceConfig{Source: from}
	c.Trust.Signers = policy.Signers
	dir, err := openDir(filepath.Dir(p.configPath(app)), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if policy.TrustedRoot != nil {
		c.Trust.TrustedRoot = app + ".trusted_root.json"
		if err := release.WriteFile(dir, c.Trust.TrustedRoot, policy.TrustedRoot, 0o644); err != nil {
			return err
		}
	}
	b, err := yaml.Dump(c)
	if err != nil {
		return fmt.Errorf("write trust policy: %w", err)
	}
	return release.WriteFile(dir, app+".yaml", append(fmt.Appendf(nil, configHead, app), b...), 0o644)
}

// policyFor is the policy that decides about a bundle: that of the device; or,
// at a first installation without one, what the operator passes, which is to be
// pinned. Nobody is trusted silently.
func (p *program) policyFor(app string, o applyOptions) (policy verify.Policy, pin bool, err error) {
	have, err := p.readPolicy(app)
	if !o.first || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return have, false, err
	}
	if !o.trust.Given() {
		if err != nil {
			return have, false, cli.WithHint(fmt.Errorf("install %s: nobody is trusted to sign it yet", app),
				"pass the signer's public key with --key FILE, or their --identity; get it from the maker of the app, not from the stick the bundle is on")
		}
		return have, false, nil
	}
	given, terr := o.trust.Policy()
	if terr != nil {
		return have, false, terr
	}
	if _, nerr := verify.New(given); nerr != nil {
		return have, false, fmt.Errorf("read %s: %w", strings.Join(slices.DeleteFunc([]string{o.trust.Key, o.trust.TrustedRoot}, func(s string) bool { return s == "" }), " or "), nerr)
	}
	if err != nil {
		return given, true, nil
	}
	if signer := given.Signers[0]; !slices.ContainsFunc(have.Signers, func(s verify.Signer) bool { return s.String() == signer.String() }) {
		return have, false, cli.WithHint(fmt.Errorf("install %s: %s is not trusted here, %s says so", app, signer, p.configPath(app)),
			"edit that file if the maker of the app signs differently now")
	}
	return have, false, nil
}

// openDir opens a directory, making it and its parents first.
func openDir(path string, mode fs.FileMode) (*os.Root, error) {
	if err := os.MkdirAll(path, mode); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return dir, nil
}
