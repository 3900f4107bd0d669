package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/fleet"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/yamledit"
	"github.com/valise-ota/valise/verify"
)

// Config is /etc/valise/APP.yaml. It belongs to the device: a release
// changes it by a signed rotation only.
type Config struct {
	Trust struct {
		Signers []verify.Signer `yaml:"signers"`
		// TrustedRoot is a Sigstore trusted_root.json beside this file; empty
		// for the public instance's, which is built in.
		TrustedRoot string                  `yaml:"trusted_root,omitempty"`
		Provenance  verify.ProvenancePolicy `yaml:"provenance,omitempty"`
	} `yaml:"trust"`
	// Source is where releases come from, when they are not brought.
	Source source.Config `yaml:"source,omitempty"`
	// Fleet is a server that decides when this app is updated; see package fleet.
	Fleet fleet.Config `yaml:"fleet,omitempty"`
	// Rollout says which rollout files count, and who this device is in them.
	Rollout RolloutConfig `yaml:"rollout,omitempty"`
	// Limits overrule those of the releases.
	Limits bundle.Limits `yaml:"limits,omitempty"`
	// Updates is for the daemon; see package daemon.
	Updates daemon.Config `yaml:"updates,omitempty"`
}

// RolloutConfig is about rollout files. The zero value heeds those that the signers of
// releases signed, and needs none.
type RolloutConfig struct {
	// Signers are who may sign them, in place of those of releases.
	Signers []verify.Signer `yaml:"signers,omitempty"`
	// Required holds back what no rollout file names.
	Required bool `yaml:"required,omitempty"`
	// Groups are those that this device is in.
	Groups []string `yaml:"groups,omitempty"`
	// ID decides about the turn of this device; /etc/machine-id when it is empty.
	ID string `yaml:"id,omitempty"`
}

// goType is what the YAML library says of an unknown key beyond its name.
var goType = lazyregexp.New(`(?m) not found in type .*$`)

// YAMLError is what the YAML library says of a file, for people.
func YAMLError(err error) string {
	return goType.ReplaceAllString(err.Error(), " is not a known key")
}

const configHead = "# Whose releases of %s this device accepts. It belongs to this device: \"valise-installer trust\"\n# changes it, and so does a release that a signer named here signed, when it names the signers after it.\n"

// ConfigPath is the file that says whom the device trusts for an app, and how it
// updates: /etc/valise/APP.yaml.
func (m *Machine) ConfigPath(app string) string {
	return filepath.Join(m.Root, "etc/valise", app+".yaml")
}

// ReadConfig reads the device's configuration of an app. The error is
// fs.ErrNotExist when there is none.
func (m *Machine) ReadConfig(app string) (c Config, err error) {
	b, err := os.ReadFile(m.ConfigPath(app))
	if err != nil {
		return c, fmt.Errorf("read trust policy: %w", err)
	}
	if err := yaml.Load(b, &c, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		return c, fmt.Errorf("read trust policy %s: %s", m.ConfigPath(app), YAMLError(err))
	}
	return c, nil
}

// limits are how long the parts of a change to a release may take on this device.
func (m *Machine) limits(app string, manifest *bundle.Manifest) (bundle.Limits, error) {
	c, err := m.ReadConfig(app)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return manifest.Device.TimeLimits(bundle.Limits{}), err
	}
	if err := c.Limits.Check(); err != nil {
		return manifest.Device.TimeLimits(bundle.Limits{}), fmt.Errorf("read %s: limits: %w", m.ConfigPath(app), err)
	}
	return manifest.Device.TimeLimits(c.Limits), nil
}

// Policy returns the trust policy of an app: that of its file, and what a
// committed release changed about it and a power cut kept from the file. The
// error is fs.ErrNotExist when there is none.
func (m *Machine) Policy(ctx context.Context, app string) (verify.Policy, error) {
	policy, err := m.policyFile(app)
	if err != nil || !m.hasRecords(app) {
		return policy, err
	}
	j, st, err := m.ReadState(ctx, app)
	if err != nil {
		return policy, err
	}
	return policy.After(st.Rotation), j.Close()
}

func (m *Machine) policyFile(app string) (verify.Policy, error) {
	c, err := m.ReadConfig(app)
	if err != nil {
		return verify.Policy{}, err
	}
	policy := verify.Policy{Signers: c.Trust.Signers, Provenance: c.Trust.Provenance}
	if c.Trust.TrustedRoot != "" {
		var err error
		if policy.TrustedRoot, err = os.ReadFile(filepath.Join(filepath.Dir(m.ConfigPath(app)), filepath.Base(c.Trust.TrustedRoot))); err != nil {
			return policy, fmt.Errorf("read trusted root that %s names: %w", m.ConfigPath(app), err)
		}
	}
	return policy, nil
}

// writePolicy makes signers and trusted root of a policy durable, in one step:
// the root has its digest in its name and is there before the file names it. What
// else stands in the file stays, comments too. from is where releases come from,
// when that is to be remembered as well.
func (m *Machine) writePolicy(app string, policy verify.Policy, from source.Config) error {
	raw, err := os.ReadFile(m.ConfigPath(app))
	if errors.Is(err, fs.ErrNotExist) {
		raw = fmt.Appendf(nil, configHead+"trust: {}\n", app)
	} else if err != nil {
		return err
	}
	dir, err := release.OpenDir(filepath.Dir(m.ConfigPath(app)), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	root := ""
	if policy.TrustedRoot != nil {
		root = app + ".trusted_root." + bundle.DigestOf(policy.TrustedRoot).Hex()[:16] + ".json"
		if err := release.WriteFile(dir, root, policy.TrustedRoot, 0o644); err != nil {
			return err
		}
	}
	text, err := editConfig(raw, policy.Signers, root, from)
	if err != nil {
		return fmt.Errorf("write trust policy %s: %w", m.ConfigPath(app), err)
	}
	if err := release.WriteFile(dir, app+".yaml", text, 0o644); err != nil {
		return err
	}
	return removeRoots(dir, app, root)
}

// removeRoots removes the trusted roots of an app which nothing names any more.
func removeRoots(dir *os.Root, app, but string) error {
	ours := regexp.MustCompile(`^` + regexp.QuoteMeta(app) + `\.trusted_root\.[0-9a-f]{16}\.json$`)
	entries, err := fs.ReadDir(dir.FS(), ".")
	for _, e := range entries {
		if ours.MatchString(e.Name()) && e.Name() != but {
			err = errors.Join(err, release.RemoveAll(dir, e.Name()))
		}
	}
	return err
}

// removePolicy removes what the device knows of an app, its trust above all.
func (m *Machine) removePolicy(app string) error {
	dir, err := release.OpenDir(filepath.Dir(m.ConfigPath(app)), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	return errors.Join(release.RemoveAll(dir, app+".yaml"), removeRoots(dir, app, ""))
}

// editConfig returns the text of a config file with other signers and another
// trusted root, and everything else as it was.
func editConfig(text []byte, signers []verify.Signer, root string, from source.Config) ([]byte, error) {
	out, again, err := editYAML(text, func(top *yaml.Node) error {
		trust := yamledit.Member(top, "trust")
		if trust == nil || trust.Kind != yaml.MappingNode {
			return errors.New("trust is not a map")
		}
		trust.Style = 0
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, s := range signers {
			one := &yaml.Node{Kind: yaml.MappingNode}
			for _, field := range []struct{ key, value string }{{"key", s.Key}, {"issuer", s.Issuer}, {"identity", s.Identity}, {"identity_regexp", s.IdentityRegexp}} {
				setText(one, field.key, field.value)
			}
			list.Content = append(list.Content, one)
		}
		yamledit.Set(trust, "signers", list)
		setText(trust, "trusted_root", root)
		if from.IsZero() {
			return nil
		}
		b, err := yaml.Dump(from)
		if err != nil {
			return err
		}
		var n yaml.Node
		if err := yaml.Load(b, &n); err != nil {
			return err
		}
		if n.Kind == yaml.DocumentNode {
			n = *n.Content[0]
		}
		yamledit.Set(top, "source", &n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if got := (verify.Policy{Signers: again.Trust.Signers}); !got.Same(verify.Policy{Signers: signers}) || again.Trust.TrustedRoot != root {
		return nil, errRoundTrip
	}
	return out, nil
}

var errRoundTrip = errors.New("the result would have another meaning")

// editYAML returns the text of a config file after edit, comments and all, and
// what it says now. The caller looks whether that is what was meant.
func editYAML(text []byte, edit func(top *yaml.Node) error) (_ []byte, now Config, err error) {
	var doc yaml.Node
	if err := yaml.Load(text, &doc, yaml.WithUniqueKeys()); err != nil {
		return nil, now, err
	}
	top := &doc
	if doc.Kind == yaml.DocumentNode {
		top = doc.Content[0]
	}
	if err := edit(top); err != nil {
		return nil, now, err
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&doc), e.Close()); err != nil {
		return nil, now, err
	}
	err = yaml.Load(out.Bytes(), &now, yaml.WithKnownFields(), yaml.WithUniqueKeys())
	return out.Bytes(), now, err
}

// setText sets a member of a map to a text; an empty one removes it.
func setText(m *yaml.Node, key, value string) {
	if value == "" {
		yamledit.Set(m, key, nil)
	} else {
		yamledit.Set(m, key, yamledit.Text(value))
	}
}
