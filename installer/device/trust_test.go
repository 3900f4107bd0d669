package device

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// newcomer is a device where nothing is installed and nobody answers.
func newcomer(t *testing.T) *Machine {
	return &Machine{
		Root: t.TempDir(), Version: "(devel)", Now: time.Now, Getenv: func(string) string { return "" },
		Note: func(string, ...any) {}, Step: func(string, string) {}, Report: func(installer.Event) {}, Secret: func(string, string, string) {},
	}
}

// TestForeignSignerEnv: which line of a local file says whom to trust is not for a
// bundle to choose that nobody has verified, and neither is the file.
func TestForeignSignerEnv(t *testing.T) {
	m, c := bundletest.Tree(t, bundletest.Spec{App: "shop"}, bundletest.TreeFiles("shop", "1.2.3"))
	m.Device.Tree.SignerEnv, m.Device.Tree.EnvFile = "OTHER", "/etc/other/other.env"
	b := verifytest.NewSigner(t).Bundle(t, m, c)
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	p := newcomer(t)
	write := func(path, text string) {
		path = filepath.Join(p.Root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("opt/shop/.env", "OTHER=.*\n")
	write("etc/other/other.env", "OTHER=.*\nTRUSTED_SIGNER_IDENTITY=.*\n")
	if policy, _, err := p.policyFor(t.Context(), r, Options{First: true}); err == nil || !strings.Contains(err.Error(), "no signer is trusted") {
		t.Errorf("policy %v, error %v", policy, err)
	}
	write("etc/shop/shop.env", "OTHER=x\nTRUSTED_SIGNER_IDENTITY=y\n")
	policy, pin, err := p.policyFor(t.Context(), r, Options{First: true, Trust: Trust{Issuer: "https://example.com"}})
	if err != nil || !pin || len(policy.Signers) != 1 || policy.Signers[0].IdentityRegexp != "y" {
		t.Errorf("policy %v, error %v", policy, err)
	}
}

// TestTrustIsAskedOnce: a bundle that is taken in place of another one is of whom
// the operator trusted a moment ago, for the same app only.
func TestTrustIsAskedOnce(t *testing.T) {
	s := verifytest.NewSigner(t)
	m, c := bundletest.Release(t, bundletest.Spec{App: "shop"})
	b := s.Bundle(t, m, c)
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		instead *Candidate
		trusted bool
	}{
		{&Candidate{App: "shop", policy: s.Policy(), pin: true}, true},
		{&Candidate{App: "till", policy: s.Policy(), pin: true}, false},
		{&Candidate{App: "shop", policy: s.Policy()}, false}, // it was the device's, which is gone
		{nil, false},
	} {
		policy, pin, err := newcomer(t).policyFor(t.Context(), r, Options{First: true, instead: tc.instead})
		if (err == nil) != tc.trusted || pin != true || tc.trusted && !policy.Same(verify.Policy{Signers: s.Policy().Signers}) {
			t.Errorf("%+v: policy %v, pin %v, error %v", tc.instead, policy, pin, err)
		}
	}
}
