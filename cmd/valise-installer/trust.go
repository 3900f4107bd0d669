package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/verify"
)

func trustCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "Show and change the trusted signers",
		Long: "trust shows and changes /etc/valise/APP.yaml, which belongs to this device. A release can\n" +
			"change the trusted signers only if one of them signed it and the release names the new ones.",
		Example: "  valise-installer trust show\n  valise-installer trust rotate --key new.pub",
		Args:    cobra.NoArgs,
	}
	c.AddCommand(
		&cobra.Command{
			Use: "show", Short: "Show the trusted signers", Args: cobra.NoArgs,
			Example: "  valise-installer trust show --output json",
			RunE:    func(cmd *cobra.Command, _ []string) error { return p.showTrust(cmd.Context()) },
		},
		p.changeTrustCommand("add", "Trust another signer", func(policy *verify.Policy, given verify.Policy) error {
			if slices.Contains(policy.Signers, given.Signers[0]) {
				return fmt.Errorf("%s is trusted already", given.Signers[0])
			}
			policy.Signers = append(slices.Clone(policy.Signers), given.Signers[0])
			return nil
		}),
		p.changeTrustCommand("rotate", "Replace all trusted signers with one", func(policy *verify.Policy, given verify.Policy) error {
			policy.Signers = given.Signers
			return nil
		}),
		&cobra.Command{
			Use: "remove SIGNER", Short: "Stop trusting a signer", Args: cobra.ExactArgs(1),
			Long: "remove removes a signer. SIGNER is what trust show prints: the sha256:… of a key, or the\n" +
				"identity.",
			Example: "  valise-installer trust remove sha256:2a6487f34ab437aa",
			RunE: func(cmd *cobra.Command, args []string) error {
				return p.changeTrust(cmd.Context(), "remove", func(policy *verify.Policy) error { return device.RemoveSigner(policy, args[0]) })
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

func (p *program) showTrust(ctx context.Context) error {
	app, err := p.TrustApp()
	if err != nil {
		return err
	}
	policy, err := p.Policy(ctx, app)
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
		App         string                  `json:"app"`
		File        string                  `json:"file"`
		Signers     []verify.Signer         `json:"signers"`
		TrustedRoot string                  `json:"trusted_root"` // digest
		BuiltIn     bool                    `json:"built_in"`     // it is the public instance's, which came with this program
		Changed     string                  `json:"changed"`      // when the root was last changed
		Provenance  verify.ProvenancePolicy `json:"provenance,omitzero"`
	}{app, p.ConfigPath(app), policy.Signers, string(bundle.DigestOf(raw)), policy.TrustedRoot == nil, device.Stamp(date), policy.Provenance}
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

// changeTrust changes the trust policy of an app and shows it.
func (p *program) changeTrust(ctx context.Context, what string, change func(*verify.Policy) error) error {
	app, policy, err := p.ChangeTrust(ctx, what, change)
	if err != nil {
		return err
	}
	return p.reportTrust(app, policy)
}
