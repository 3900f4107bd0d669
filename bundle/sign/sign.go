// Package sign makes signatures over bundles on the release side.
//
// A signature is a Sigstore bundle, version 0.3, over a SHA-256 digest: of
// manifest.json for the signature inside a bundle, of the whole file for the one
// beside it. The keys are those of cosign. cosign's Go API has no stability
// promise, so nothing outside this package imports it.
package sign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	sgsign "github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"google.golang.org/protobuf/encoding/protojson"
)

// GenerateKey returns a new key pair in cosign's PEM files, the private one
// encrypted with password.
func GenerateKey(password []byte) (private, public []byte, err error) {
	keys, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return password, nil })
	if err != nil {
		return nil, nil, fmt.Errorf("generate key pair: %w", err)
	}
	return keys.PrivateBytes, keys.PublicBytes, nil
}

// Key signs with a private key.
type Key struct {
	signer signature.SignerVerifier
	public *ecdsa.PublicKey
	pem    string
}

// LoadKey reads a private key as GenerateKey or cosign wrote it.
func LoadKey(private, password []byte) (*Key, error) {
	signer, err := cosign.LoadPrivateKey(private, password, nil)
	if err != nil {
		return nil, fmt.Errorf("load private key: %w", err)
	}
	pub, err := signer.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("load private key: %w", err)
	}
	public, ok := pub.(*ecdsa.PublicKey)
	if !ok || public.Curve.Params().BitSize != 256 {
		return nil, fmt.Errorf("load private key: got %T, want ECDSA on P-256, which cosign generates", pub)
	}
	b, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return nil, fmt.Errorf("load private key: %w", err)
	}
	return &Key{signer, public, string(b)}, nil
}

// PublicPEM returns the public key that verifies k's signatures.
func (k *Key) PublicPEM() string { return k.pem }

// Sign returns the Sigstore bundle over a SHA-256 digest, as JSON, and the bare
// signature in base64, as cosign's .sig files hold it.
func (k *Key) Sign(ctx context.Context, sum [sha256.Size]byte) (sigstore, legacy []byte, err error) {
	b, err := sgsign.Bundle(digestContent(sum), k, sgsign.BundleOptions{Context: ctx})
	if err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	sigstore, err = protojson.MarshalOptions{}.Marshal(b)
	if err != nil {
		return nil, nil, fmt.Errorf("encode signature: %w", err)
	}
	return sigstore, []byte(base64.StdEncoding.EncodeToString(b.GetMessageSignature().GetSignature())), nil
}

// digestContent is content of which only the digest is at hand, so that a large
// file is read once and never held.
type digestContent [sha256.Size]byte

func (d digestContent) PreAuthEncoding() []byte { return d[:] }

func (d digestContent) Bundle(b *protobundle.Bundle, sig, digest []byte, algorithm protocommon.HashAlgorithm) {
	(&sgsign.PlainData{}).Bundle(b, sig, digest, algorithm)
}

// The methods below make Key a keypair of the Sigstore library.

func (k *Key) GetHashAlgorithm() protocommon.HashAlgorithm {
	return protocommon.HashAlgorithm_SHA2_256
}

func (k *Key) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
}

// GetHint names the key as cosign does: by the digest of its encoding.
func (k *Key) GetHint() []byte {
	der, err := cryptoutils.MarshalPublicKeyToDER(k.public)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(der)
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}

func (k *Key) GetKeyAlgorithm() string          { return "ECDSA" }
func (k *Key) GetPublicKey() crypto.PublicKey   { return k.public }
func (k *Key) GetPublicKeyPem() (string, error) { return k.pem, nil }

// SignData signs digest, which is what digestContent hands over.
func (k *Key) SignData(ctx context.Context, digest []byte) (sig, sum []byte, err error) {
	sig, err = k.signer.SignMessage(nil, options.WithContext(ctx), options.WithDigest(digest))
	return sig, digest, err
}
