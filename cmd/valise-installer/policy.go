package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify"
)

// deviceConfig is /etc/valise/APP.yaml. It belongs to the device: no release
// changes it.
type deviceConfig struct {
	Trust struct {
		Signers []verify.Signer `yaml:"signers"`
	} `yaml:"trust"`
}

// goType is what the YAML library says of an unknown key beyond its name.
var goType = regexp.MustCompile(`(?m) not found in type .*$`)

const configHead = "# Whose releases of %s this device accepts. Written at the first installation;\n# it belongs to this device and no release changes it.\n"

func (p *program) configPath(app string) string {
	return filepath.Join(p.root, "etc/valise", app+".yaml")
}

// readPolicy returns the trust policy of an app. The error is fs.ErrNotExist
// when there is none.
func (p *program) readPolicy(app string) (verify.Policy, error) {
	b, err := os.ReadFile(p.configPath(app))
	if err != nil {
		return verify.Policy{}, fmt.Errorf("read trust policy: %w", err)
	}
	var c deviceConfig
	if err := yaml.Load(b, &c, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		return verify.Policy{}, fmt.Errorf("read trust policy %s: %s", p.configPath(app), goType.ReplaceAllString(err.Error(), " is not a known key"))
	}
	return verify.Policy{Signers: c.Trust.Signers}, nil
}

// writePolicy makes the trust policy of an app durable.
func (p *program) writePolicy(app string, policy verify.Policy) error {
	var c deviceConfig
	c.Trust.Signers = policy.Signers
	b, err := yaml.Dump(c)
	if err != nil {
		return fmt.Errorf("write trust policy: %w", err)
	}
	dir, err := openDir(filepath.Dir(p.configPath(app)), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	return release.WriteFile(dir, app+".yaml", append(fmt.Appendf(nil, configHead, app), b...), 0o644)
}

// policyFor is the policy that decides about a bundle: that of the device; or,
// at a first installation without one, the key the operator passes, which is to
// be pinned. Nobody is trusted silently.
func (p *program) policyFor(app string, o applyOptions) (policy verify.Policy, pin bool, err error) {
	have, err := p.readPolicy(app)
	if !o.first || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return have, false, err
	}
	if o.key == "" {
		if err != nil {
			return have, false, cli.WithHint(fmt.Errorf("install %s: nobody is trusted to sign it yet", app),
				"pass the signer's public key with --key FILE; get it from the maker of the app, not from the stick the bundle is on")
		}
		return have, false, nil
	}
	pem, rerr := os.ReadFile(o.key)
	if rerr != nil {
		return have, false, fmt.Errorf("read public key: %w", rerr)
	}
	signer := verify.Signer{Key: string(pem)}
	given := verify.Policy{Signers: []verify.Signer{signer}}
	if _, err := verify.New(given); err != nil {
		return have, false, fmt.Errorf("read %s: %w", o.key, err)
	}
	if err != nil {
		return given, true, nil
	}
	if !slices.ContainsFunc(have.Signers, func(s verify.Signer) bool { return s.String() == signer.String() }) {
		return have, false, cli.WithHint(fmt.Errorf("install %s: %s is not trusted here, %s says so", app, signer, p.configPath(app)),
			"edit that file if the maker of the app has a new key")
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
