package cli

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/valise-ota/valise/verify"
)

// GitHubIssuer vouches for the identities of GitHub Actions workflows.
const GitHubIssuer = "https://token.actions.githubusercontent.com"

// Trust is who must have signed, as flags say it.
type Trust struct {
	Key, Issuer, Identity, IdentityRegexp, TrustedRoot string
}

// Register adds the flags.
func (t *Trust) Register(f *pflag.FlagSet) {
	f.StringVar(&t.Key, "key", "", "public key (PEM file) that must have signed")
	f.StringVar(&t.Identity, "identity", "", "identity that must have signed, for example a workflow: https://github.com/OWNER/REPO/.github/workflows/release.yml@refs/tags/v1.2.3")
	f.StringVar(&t.IdentityRegexp, "identity-regexp", "", "regular expression that the whole identity must match")
	f.StringVar(&t.Issuer, "issuer", GitHubIssuer, "OIDC issuer that must vouch for the identity")
	f.StringVar(&t.TrustedRoot, "trusted-root", "", "Sigstore trusted_root.json (default: the public instance's, built in)")
}

// Given reports whether the flags name a signer.
func (t *Trust) Given() bool { return t.Key != "" || t.Identity != "" || t.IdentityRegexp != "" }

// Policy is the trust policy of the flags.
func (t *Trust) Policy() (verify.Policy, error) {
	var p verify.Policy
	switch {
	case !t.Given():
		return p, Usagef("say who must have signed: --key FILE, or --identity or --identity-regexp")
	case t.Key != "" && (t.Identity != "" || t.IdentityRegexp != ""), t.Identity != "" && t.IdentityRegexp != "":
		return p, Usagef("--key, --identity and --identity-regexp exclude each other")
	case t.Key != "":
		key, err := os.ReadFile(t.Key)
		if err != nil {
			return p, fmt.Errorf("read public key: %w", err)
		}
		p.Signers = []verify.Signer{{Key: string(key)}}
	default:
		p.Signers = []verify.Signer{{Issuer: t.Issuer, Identity: t.Identity, IdentityRegexp: t.IdentityRegexp}}
	}
	if t.TrustedRoot != "" {
		root, err := os.ReadFile(t.TrustedRoot)
		if err != nil {
			return p, fmt.Errorf("read trusted root: %w", err)
		}
		p.TrustedRoot = root
	}
	return p, nil
}
