package sign_test

import (
	"crypto/sha256"
	"encoding/base64"
	"testing"

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
