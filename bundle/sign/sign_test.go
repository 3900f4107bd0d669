package sign_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/verify"
)

func TestKey(t *testing.T) {
	private, public, err := sign.GenerateKey([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign.LoadKey(private, []byte("wrong")); err == nil {
		t.Error("a wrong password opens the key")
	}
	key, err := sign.LoadKey(private, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("manifest"))
	s, err := key.Sign(t.Context(), sum)
	if err != nil {
		t.Fatal(err)
	}
	if s.Certificate != nil {
		t.Error("a key has a certificate")
	}
	v, err := verify.New(verify.Policy{Signers: []verify.Signer{{Key: string(public)}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Digest(sum, s.Sigstore); err != nil {
		t.Error(err)
	}
	bare, err := base64.StdEncoding.DecodeString(string(s.Legacy))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Bare(sum, bare); err != nil {
		t.Error(err)
	}
	other := sha256.Sum256([]byte("another manifest"))
	if _, err := v.Digest(other, s.Sigstore); err == nil {
		t.Error("the signature holds for another digest")
	}
	if _, err := v.Bare(other, bare); err == nil {
		t.Error("the bare signature holds for another digest")
	}
}

// TestKeyless signs with the services that scripts/sigstore.sh runs.
func TestKeyless(t *testing.T) {
	config, trusted := os.Getenv("VALISE_SIGNING_CONFIG"), os.Getenv("VALISE_TRUSTED_ROOT")
	if config == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("VALISE_SIGNING_CONFIG is not set: run scripts/test.sh")
		}
		t.Skip("no private Sigstore: eval \"$(scripts/sigstore.sh up DIR)\"")
	}
	token, err := sign.AmbientToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.Keyless(b, token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("manifest"))
	s, err := signer.Sign(t.Context(), sum)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(s.Certificate), "-----BEGIN CERTIFICATE-----\n") {
		t.Errorf("certificate is %.40q", s.Certificate)
	}
	root, err := os.ReadFile(trusted)
	if err != nil {
		t.Fatal(err)
	}
	anybody := verify.Signer{Issuer: "https://token.actions.githubusercontent.com", IdentityRegexp: "https://github.com/.*"}
	v, err := verify.New(verify.Policy{Signers: []verify.Signer{anybody}, TrustedRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	found, err := v.Digest(sum, s.Sigstore)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("signed by %s", found)
	for name, p := range map[string]verify.Policy{
		"another identity":      {Signers: []verify.Signer{{Issuer: found.Issuer, Identity: found.Identity + "x"}}, TrustedRoot: root},
		"unanchored expression": {Signers: []verify.Signer{{Issuer: found.Issuer, IdentityRegexp: "github.com"}}, TrustedRoot: root},
		"another issuer":        {Signers: []verify.Signer{{Issuer: "https://accounts.example.com", Identity: found.Identity}}, TrustedRoot: root},
		"public trusted root":   {Signers: []verify.Signer{found}},
	} {
		v, err := verify.New(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Digest(sum, s.Sigstore); !errors.As(err, new(*verify.Error)) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
