package verify_test

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/verify"
)

const (
	githubIssuer = "https://token.actions.githubusercontent.com"
	workflow     = "https://github.com/valise-test/app/.github/workflows/release.yml"
)

// The fixtures were made by real servers (bundle/sign, TestFixtures). Their
// certificates have expired long ago: what counts is when they were used.
func fixture(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/keyless", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keyless(t *testing.T, signers ...verify.Signer) *verify.Verifier {
	t.Helper()
	v, err := verify.New(verify.Policy{Signers: signers, TrustedRoot: fixture(t, "trusted_root.json")})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var (
	releaseTag = verify.Signer{Issuer: githubIssuer, Identity: workflow + "@refs/tags/v1.0.0"}
	anyTag     = verify.Signer{Issuer: githubIssuer, IdentityRegexp: `https://github\.com/valise-test/app/\.github/workflows/release\.yml@refs/tags/v[0-9.]+`}
	sum        = sha256.Sum256([]byte("fixture"))
)

func TestIdentityAccepted(t *testing.T) {
	key := verify.Signer{Key: string(mustRead(t, "../testdata/vectors/signer.pub"))}
	for _, name := range []string{"good", "good-rekor1"} {
		for _, signers := range [][]verify.Signer{{releaseTag}, {anyTag}, {key, releaseTag}, {{Issuer: githubIssuer, Identity: "x"}, anyTag}} {
			found, err := keyless(t, signers...).Digest(sum, fixture(t, name+".sigstore.json"))
			if err != nil {
				t.Errorf("%s for %v: %v", name, signers, err)
			} else if found != releaseTag {
				t.Errorf("%s: found %v", name, found)
			}
		}
	}
}

// TestIdentityRefused is the table of attacks on a keyless signature.
func TestIdentityRefused(t *testing.T) {
	for _, tc := range []struct{ name, check, says string }{
		{"fork", verify.CheckSigner, "github.com/evil/app"},
		{"branch", verify.CheckSigner, "@refs/heads/main"},
		{"other-workflow", verify.CheckSigner, "evil.yml"},
		{"other-issuer", verify.CheckSigner, githubIssuer + "/evil"},
		{"no-sct", verify.CheckSignature, "certificate timestamp"},
		{"of-another-file", verify.CheckSignature, "does not match digest"},
		{"no-entry", verify.CheckSignature, "log"},
		{"no-timestamp", verify.CheckTime, "timestamp"},
		{"entry-of-another", verify.CheckSignature, "log"},
		{"timestamp-of-another", verify.CheckTime, "timestamp"},
		{"certificate-of-another", verify.CheckSignature, ""},
		{"no-proof", verify.CheckSignature, "inclusion proof"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := keyless(t, anyTag).Digest(sum, fixture(t, tc.name+".sigstore.json"))
			var v *verify.Error
			if !errors.As(err, &v) || v.Check != tc.check || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v\nwant check %s and %q", err, tc.check, tc.says)
			}
		})
	}
}

// TestIdentityPolicies: what a policy does not say it does not allow.
func TestIdentityPolicies(t *testing.T) {
	good := fixture(t, "good.sigstore.json")
	for name, s := range map[string]verify.Signer{
		"expression matches a part": {Issuer: githubIssuer, IdentityRegexp: "valise-test/app"},
		"expression with an or":     {Issuer: githubIssuer, IdentityRegexp: "x|y" + "|https://github.com/valise-test"},
		"identity is a prefix":      {Issuer: githubIssuer, Identity: workflow},
		"another issuer":            {Issuer: "https://accounts.example.com", Identity: releaseTag.Identity},
		"issuer is a prefix":        {Issuer: "https://token.actions", Identity: releaseTag.Identity},
		"multi-line expression":     {Issuer: githubIssuer, IdentityRegexp: "(?m)^https.*app$"},
	} {
		var v *verify.Error
		if _, err := keyless(t, s).Digest(sum, good); !errors.As(err, &v) || v.Check != verify.CheckSigner {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The same signature under another root of trust, and under a policy of keys.
	public, err := verify.New(verify.Policy{Signers: []verify.Signer{releaseTag}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := public.Digest(sum, good); err == nil {
		t.Error("the public root accepts a certificate of a private authority")
	}
	keys, err := verify.New(verify.Policy{Signers: []verify.Signer{{Key: string(mustRead(t, "../testdata/vectors/signer.pub"))}}})
	if err != nil {
		t.Fatal(err)
	}
	var v *verify.Error
	if _, err := keys.Digest(sum, good); !errors.As(err, &v) || v.Check != verify.CheckSigner || !strings.Contains(err.Error(), workflow) {
		t.Errorf("a policy of keys says %v", err)
	}
	for name, s := range map[string]verify.Signer{
		"no issuer":          {Identity: "x"},
		"no identity":        {Issuer: githubIssuer},
		"both identities":    {Issuer: githubIssuer, Identity: "x", IdentityRegexp: "x"},
		"key and identity":   {Key: "x", Issuer: githubIssuer, Identity: "x"},
		"broken expression":  {Issuer: githubIssuer, IdentityRegexp: "("},
		"escaping the group": {Issuer: githubIssuer, IdentityRegexp: ")|(.*"},
	} {
		if _, err := verify.New(verify.Policy{Signers: []verify.Signer{s}}); err == nil {
			t.Errorf("policy with %s: accepted", name)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
