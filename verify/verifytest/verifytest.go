// Package verifytest signs bundles for tests with a key of its own, without the
// release side's dependencies.
package verifytest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/verify"
)

// Signer signs with a key made on the spot.
type Signer struct {
	key *ecdsa.PrivateKey
	pem string
}

// NewSigner makes a key.
func NewSigner(t testing.TB) *Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

// FixedSigner has the same key each time, so that it makes the same signatures.
func FixedSigner(t testing.TB, name string) *Signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

func newSigner(t testing.TB, key *ecdsa.PrivateKey) *Signer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &Signer{key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

// PublicPEM returns the public key.
func (s *Signer) PublicPEM() string { return s.pem }

// Policy trusts s and nobody else.
func (s *Signer) Policy() verify.Policy {
	return verify.Policy{Signers: []verify.Signer{{Key: s.pem}}}
}

// sign has no randomness in it (RFC 6979): files made with a FixedSigner stay what they are.
func (s *Signer) sign(t testing.TB, b []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(b)
	sig, err := s.key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// Sign returns a Sigstore bundle over b.
func (s *Signer) Sign(t testing.TB, b []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(b)
	sig := s.sign(t, b)
	out, err := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "test"}},
		"messageSignature":     map[string]any{"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": sum[:]}, "signature": sig},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Attest returns a Sigstore bundle with an in-toto statement about b: s says
// something of b and does not sign it.
func (s *Signer) Attest(t testing.TB, b []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(b)
	const kind = "application/vnd.in-toto+json"
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"b","digest":{"sha256":"%x"}}],"predicateType":"https://example.com/scan","predicate":{"result":"bad"}}`, sum)
	sig := s.sign(t, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement))
	out, err := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "test"}},
		"dsseEnvelope":         map[string]any{"payload": statement, "payloadType": kind, "signatures": []any{map[string]any{"sig": sig}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Bundle returns the signed bundle of a release.
func (s *Signer) Bundle(t testing.TB, m *bundle.Manifest, c bundle.Content) []byte {
	t.Helper()
	return s.BundleAs(t, bundle.Gzip, m, c)
}

// BundleAs is Bundle with a compression.
func (s *Signer) BundleAs(t testing.TB, compression bundle.Compression, m *bundle.Manifest, c bundle.Content) []byte {
	t.Helper()
	b := bundletest.WriteAs(t, compression, m, c)
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := bundle.Seal(context.Background(), &out, r, s.Sign(t, r.ManifestBytes())); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Release returns the verified release of a spec.
func (s *Signer) Release(t testing.TB, spec bundletest.Spec) *verify.Release {
	t.Helper()
	m, c := bundletest.Release(t, spec)
	b := s.Bundle(t, m, c)
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.New(s.Policy())
	if err != nil {
		t.Fatal(err)
	}
	rel, err := v.Release(context.Background(), r, verify.Want{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}
