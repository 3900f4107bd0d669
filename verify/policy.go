package verify

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// Policy says whose bundles are accepted: those of any of its signers.
type Policy struct {
	Signers []Signer
}

// Signer is somebody who may sign releases.
type Signer struct {
	Key string `json:"key,omitempty" yaml:"key"` // public key, PEM
}

// String names the signer as messages do.
func (s Signer) String() string {
	der, err := s.keyDER()
	if err != nil {
		return "an unreadable key"
	}
	sum := sha256.Sum256(der)
	return "key sha256:" + hex.EncodeToString(sum[:])[:16]
}

func (s Signer) keyDER() ([]byte, error) {
	block, rest := pem.Decode([]byte(s.Key))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 && string(rest) != "\n" {
		return nil, errors.New("not one PEM block of type PUBLIC KEY")
	}
	return block.Bytes, nil
}

func (s Signer) publicKey() (*ecdsa.PublicKey, error) {
	der, err := s.keyDER()
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PublicKey)
	if !ok || key.Curve.Params().BitSize != 256 {
		return nil, fmt.Errorf("got %T, want ECDSA on P-256, which cosign generates", k)
	}
	return key, nil
}
