// Package sign makes signatures over bundles on the release side.
//
// A signature is a Sigstore bundle, version 0.3, over a SHA-256 digest: of
// manifest.json for the signature inside a bundle, of the whole file for the one
// beside it. It is made with a key of cosign's, or without one: with a
// certificate that Fulcio issues to an OIDC identity for some minutes, a
// timestamp and a log entry. cosign's Go API has no stability promise, so
// nothing outside this package imports it.
package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"fmt"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	sgsign "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"
)

// Signature is a signature in the forms that verifiers take.
type Signature struct {
	Sigstore    []byte // the Sigstore bundle, JSON
	Legacy      []byte // the bare signature in base64, as cosign's .sig files hold it
	Certificate []byte // PEM, as cosign's .cert files; nil when it was made with a key
}

// Signer signs SHA-256 digests.
type Signer interface {
	Sign(ctx context.Context, sum [sha256.Size]byte) (*Signature, error)
}

// GenerateKey returns a new key pair in cosign's PEM files, the private one
// encrypted with password.
func GenerateKey(password []byte) (private, public []byte, err error) {
	keys, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		return nil, nil, fmt.Errorf("generate key pair: %w", err)
	}
	return keys.PrivateBytes, keys.PublicBytes, nil
}

// LoadKey reads a private key as GenerateKey or cosign wrote it.
func LoadKey(private, password []byte) (Signer, error) {
	loaded, err := cosign.LoadPrivateKey(private, password, nil)
	if err != nil {
		return nil, fmt.Errorf("load private key: %w", err)
	}
	signer, ok := loaded.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("load private key: got %T, want ECDSA on P-256, which cosign generates", loaded)
	}
	if public, ok := signer.Public().(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("load private key: got %T, want ECDSA on P-256, which cosign generates", signer.Public())
	}
	return keySigner{signer}, nil
}

// PublicKey returns the public key, PEM, of a private key that LoadKey reads.
func PublicKey(private, password []byte) ([]byte, error) {
	s, err := LoadKey(private, password)
	if err != nil {
		return nil, err
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(s.(keySigner).Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return public, nil
}

type keySigner struct{ crypto.Signer }

func (k keySigner) Sign(ctx context.Context, sum [sha256.Size]byte) (*Signature, error) {
	return makeSignature(sum, k.Signer, sgsign.BundleOptions{Context: ctx})
}

func makeSignature(sum [sha256.Size]byte, key crypto.Signer, options sgsign.BundleOptions) (*Signature, error) {
	b, err := sgsign.Bundle(digestContent(sum), &keypair{key, sum[:]}, options)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	s := &Signature{Legacy: []byte(base64.StdEncoding.EncodeToString(b.GetMessageSignature().GetSignature()))}
	if s.Sigstore, err = protojson.Marshal(b); err != nil {
		return nil, fmt.Errorf("encode signature: %w", err)
	}
	if cert := b.GetVerificationMaterial().GetCertificate(); cert != nil {
		s.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.GetRawBytes()})
	}
	return s, nil
}

// digestContent is content of which only the digest is at hand, so that a large
// file is read once and never held.
type digestContent [sha256.Size]byte

func (d digestContent) PreAuthEncoding() []byte { return d[:] }

func (d digestContent) Bundle(b *protobundle.Bundle, sig, digest []byte, algorithm protocommon.HashAlgorithm) {
	(&sgsign.PlainData{}).Bundle(b, sig, digest, algorithm)
}

// keypair is an ECDSA key on P-256 as the Sigstore library takes one.
type keypair struct {
	key    crypto.Signer
	digest []byte // signed as it is; everything else is hashed first
}

func (k *keypair) GetHashAlgorithm() protocommon.HashAlgorithm {
	return protocommon.HashAlgorithm_SHA2_256
}

func (k *keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
}

// GetHint names the key as cosign does: by the digest of its encoding.
func (k *keypair) GetHint() []byte {
	der, err := cryptoutils.MarshalPublicKeyToDER(k.key.Public())
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(der)
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}

func (k *keypair) GetKeyAlgorithm() string        { return "ECDSA" }
func (k *keypair) GetPublicKey() crypto.PublicKey { return k.key.Public() }

func (k *keypair) GetPublicKeyPem() (string, error) {
	b, err := cryptoutils.MarshalPublicKeyToPEM(k.key.Public())
	return string(b), err
}

// SignData signs the digest that digestContent hands over, or the digest of
// other data, such as the proof of possession that Fulcio asks for.
func (k *keypair) SignData(_ context.Context, data []byte) (sig, digest []byte, err error) {
	digest = k.digest
	if !bytes.Equal(data, digest) {
		sum := sha256.Sum256(data)
		digest = sum[:]
	}
	sig, err = k.key.Sign(rand.Reader, digest, crypto.SHA256)
	return sig, digest, err
}
