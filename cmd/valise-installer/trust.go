package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

func trustCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "Show and change whose releases are accepted",
		Long: "trust works on /etc/valise/APP.yaml, which belongs to this device. A release changes it\n" +
			"only when a signer named there signed it and it names the signers after it.",
		Example: "  valise-installer trust show\n  valise-installer trust rotate --key new.pub",
		Args:    cobra.NoArgs,
	}
	c.AddCommand(
		&cobra.Command{
			Use: "show", Short: "Show whose releases are accepted", Args: cobra.NoArgs,
			Example: "  valise-installer trust show --output json",
			RunE:    func(cmd *cobra.Command, _ []string) error { return p.showTrust(cmd.Context()) },
		},
		p.changeTrustCommand("add", "Accept another signer too", func(policy *verify.Policy, given verify.Policy) error {
			if slices.Contains(policy.Signers, given.Signers[0]) {
				return fmt.Errorf("%s is trusted already", given.Signers[0])
			}
			policy.Signers = append(slices.Clone(policy.Signers), given.Signers[0])
			return nil
		}),
		p.changeTrustCommand("rotate", "Accept one signer in place of all that are accepted now", func(policy *verify.Policy, given verify.Policy) error {
			policy.Signers = given.Signers
			return nil
		}),
		&cobra.Command{
			Use: "remove SIGNER", Short: "Accept a signer no longer", Args: cobra.ExactArgs(1),
			Long:    "remove takes a signer away. SIGNER is what trust show prints of them: a key's sha256:…,\nor the identity.",
			Example: "  valise-installer trust remove sha256:2a6487f34ab437aa",
			RunE: func(cmd *cobra.Command, args []string) error {
				return p.changeTrust(cmd.Context(), "remove", func(policy *verify.Policy) error { return removeSigner(policy, args[0]) })
			},
		},
	)
	return c
}

func (p *program) changeTrustCommand(name, short string, change func(policy *verify.Policy, given verify.Policy) error) *cobra.Command {
	var trust cli.Trust
	c := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		Long: short + ". --trusted-root replaces the root that certificates are checked against.",
		Example: "  valise-installer trust " + name + " --key new.pub\n" +
			"  valise-installer trust " + name + " --identity-regexp 'https://github\\.com/acme/shop/\\.github/workflows/release\\.yml@refs/tags/v.*'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			given, err := trust.Policy()
			if err != nil {
				return err
			}
			if _, err := verify.New(given); err != nil {
				return err
			}
			return p.changeTrust(cmd.Context(), name, func(policy *verify.Policy) error {
				if given.TrustedRoot != nil {
					policy.TrustedRoot = given.TrustedRoot
				}
				return change(policy, given)
			})
		},
	}
	trust.Register(c.Flags())
	return c
}

func removeSigner(policy *verify.Policy, name string) error {
	is := func(s verify.Signer) bool {
		return name == s.String() || name == strings.TrimPrefix(s.String(), "key ") || name != "" && (name == s.Identity || name == s.IdentityRegexp)
	}
	left := slices.DeleteFunc(slices.Clone(policy.Signers), is)
	switch {
	case len(left) == len(policy.Signers):
		return cli.WithHint(fmt.Errorf("no signer is called %q", name), "%q lists them", "valise-installer trust show")
	case len(left) == 0:
		return cli.WithHint(errors.New("that is the only signer: this device would accept no release at all"), "name the one that comes instead: %q", "valise-installer trust rotate")
	}
	policy.Signers = left
	return nil
}

// trustApp is the app that a trust command is about. It may have a policy and
// not be installed yet.
func (p *program) trustApp() (string, error) {
	if p.name != "" {
		if !bundle.ValidApp(p.name) {
			return "", cli.Usagef("--app %q is not the name of an app", p.name)
		}
		return p.name, nil
	}
	found, err := filepath.Glob(p.configPath("*"))
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", cli.WithHint(fmt.Errorf("there is no trust policy in %s", filepath.Dir(p.configPath("x"))), "%q writes one", "valise-installer install BUNDLE --key FILE")
	case 1:
		return strings.TrimSuffix(filepath.Base(found[0]), ".yaml"), nil
	}
	return "", cli.Usagef("there are policies of several apps: name one with --app")
}

func (p *program) showTrust(ctx context.Context) error {
	app, err := p.trustApp()
	if err != nil {
		return err
	}
	policy, err := p.readPolicy(ctx, app)
	if err != nil {
		return err
	}
	return p.reportTrust(app, policy)
}

func (p *program) reportTrust(app string, policy verify.Policy) error {
	raw := policy.TrustedRoot
	if raw == nil {
		raw = verify.PublicGood
	}
	date, err := verify.RootDate(raw)
	if err != nil {
		return fmt.Errorf("read trusted root of %s: %w", app, err)
	}
	result := struct {
		App         string            `json:"app"`
		File        string            `json:"file"`
		Signers     []verify.Signer   `json:"signers"`
		TrustedRoot string            `json:"trusted_root"` // digest
		BuiltIn     bool              `json:"built_in"`     // it is the public instance's, which came with this program
		Changed     string            `json:"changed"`      // when the root was last changed
		Provenance  verify.Provenance `json:"provenance,omitzero"`
	}{app, p.configPath(app), policy.Signers, string(bundle.DigestOf(raw)), policy.TrustedRoot == nil, stamp(date), policy.Provenance}
	return p.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "%-13s %s\n", "app", app)
		for _, s := range policy.Signers {
			fmt.Fprintf(w, "%-13s %s\n", "signer", s)
		}
		which := "its own"
		if result.BuiltIn {
			which = "the public Sigstore's, built in"
		}
		fmt.Fprintf(w, "%-13s %s, last changed %s\n", "trusted root", which, result.Changed)
		for _, line := range policy.Provenance.Lines() {
			fmt.Fprintf(w, "%-13s %s\n", "must show", line)
		}
		fmt.Fprintf(w, "%-13s %s\n", "file", result.File)
	})
}

// changeTrust changes the trust policy of an app, under its lock: no update
// decides meanwhile, and no rotation of a release is lost.
func (p *program) changeTrust(ctx context.Context, what string, change func(*verify.Policy) error) error {
	app, err := p.trustApp()
	if err != nil {
		return err
	}
	if _, err := p.policyFile(app); err != nil && (what == "remove" || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	state, err := openDir(p.stateDir(app), 0o700)
	if err != nil {
		return err
	}
	state.Close()
	unlock, err := release.Lock(filepath.Join(p.stateDir(app), "lock"), "valise-installer trust "+what, p.Now())
	if locked := new(release.LockedError); errors.As(err, &locked) {
		return cli.WithHint(err, "wait until it has ended; see %q", "valise-installer status")
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.finishRotation(ctx, app); err != nil {
		return err
	}
	policy, err := p.policyFile(app)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := change(&policy); err != nil {
		return err
	}
	if _, err := verify.New(policy); err != nil {
		return err
	}
	if err := p.writePolicy(app, policy, source.Config{}); err != nil {
		return err
	}
	return p.reportTrust(app, policy)
}

// finishRotation brings a rotation into the policy that a power cut kept from it.
// The caller holds the app's lock.
func (p *program) finishRotation(ctx context.Context, app string) error {
	if !p.hasRecords(app) {
		return nil
	}
	j, err := p.openRecords(ctx, app)
	if err != nil {
		return err
	}
	defer j.Close()
	st, err := j.Load(ctx)
	if err != nil || st.Rotation == nil {
		return err
	}
	if err := p.rotate(app)(ctx, st.Rotation); err != nil {
		return err
	}
	return j.Rotated(ctx)
}
