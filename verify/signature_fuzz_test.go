package verify_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// FuzzSignature puts any bytes where the signature belongs, before a device that trusts
// a key and an identity. None of the seeds is a signature of this release, and each
// is refused by a check or a rule.
func FuzzSignature(f *testing.F) {
	root, err := os.ReadFile("testdata/keyless/trusted_root.json")
	if err != nil {
		f.Fatal(err)
	}
	s := verifytest.NewSigner(f)
	policy := s.Policy()
	policy.TrustedRoot = root
	policy.Signers = append(policy.Signers, verify.Signer{Identity: "https://github.com/valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0", Issuer: "https://token.actions.githubusercontent.com"})
	m, c := bundletest.Release(f, bundletest.Spec{})
	unsigned := bundletest.Write(f, m, c)
	f.Add([]byte("{}"))
	f.Add(s.Sign(f, []byte("something else")))
	f.Add(s.Attest(f, []byte("something else")))
	files, err := filepath.Glob("testdata/keyless/*.sigstore.json")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, signature []byte) {
		r, err := bundle.Open(bytes.NewReader(unsigned), int64(len(unsigned)))
		if err != nil {
			t.Fatal(err)
		}
		var sealed bytes.Buffer
		if err := bundle.Seal(t.Context(), &sealed, r, signature); err != nil {
			return
		}
		_, err = check(t, policy, sealed.Bytes(), verify.Want{})
		if e, b := (*verify.Error)(nil), (*bundle.FormatError)(nil); err == nil || !errors.As(err, &e) && !errors.As(err, &b) {
			t.Errorf("got %v, want a refusal", err)
		}
	})
}
