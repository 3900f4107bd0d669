package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/valise-ota/valise/bundle"
)

// PublicGood is the trusted root of the public Sigstore instance: who issues
// certificates and timestamps there and who keeps the logs. It came with this
// program; a Policy with a root of its own does not use it.
//
//go:embed trustroot/public-good.json
var PublicGood []byte

// Policy says whose bundles are accepted: those of any of its signers.
type Policy struct {
	Signers []Signer
	// TrustedRoot is the Sigstore trusted_root.json that certificates of
	// signers are checked against; PublicGood when it is nil.
	TrustedRoot []byte
	// Provenance is what a release must show besides its signature.
	Provenance ProvenancePolicy
}

// Signer is a bundle.Signer that a policy trusts.
type Signer bundle.Signer

// Same reports whether two policies trust the same signers under the same root.
func (p Policy) Same(other Policy) bool {
	return slices.Equal(p.Signers, other.Signers) && bytes.Equal(p.TrustedRoot, other.TrustedRoot) && p.Provenance == other.Provenance
}

// String names the signer as messages do.
func (s Signer) String() string {
	switch {
	case s.Identity != "":
		return fmt.Sprintf("%s (issuer %s)", s.Identity, s.Issuer)
	case s.IdentityRegexp != "":
		return fmt.Sprintf("an identity that matches %s (issuer %s)", s.IdentityRegexp, s.Issuer)
	}
	der, err := s.keyDER()
	if err != nil {
		return "an unreadable key"
	}
	sum := sha256.Sum256(der)
	return "key sha256:" + hex.EncodeToString(sum[:])[:16]
}

// check says what is wrong with a signer of a policy.
func (s Signer) check() error {
	if s.Key != "" {
		if s.Issuer != "" || s.Identity != "" || s.IdentityRegexp != "" {
			return errors.New("a signer has a key or an identity, not both")
		}
		_, err := s.publicKey()
		return err
	}
	if s.Issuer == "" || (s.Identity == "") == (s.IdentityRegexp == "") {
		return errors.New("a signer has a key, or an issuer with identity or identity_regexp")
	}
	if _, err := regexp.Compile(s.IdentityRegexp); err != nil {
		return fmt.Errorf("identity_regexp: %w", err)
	}
	return nil
}

// anchored is the expression that matches what IdentityRegexp matches as a
// whole: an identity that merely contains a good one is somebody else's.
func (s Signer) anchored() string {
	if s.IdentityRegexp == "" {
		return ""
	}
	return `\A(?:` + s.IdentityRegexp + `)\z`
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
		return nil, fmt.Errorf("public key: %w", err)
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key, ok := k.(*ecdsa.PublicKey)
	if !ok || key.Curve.Params().BitSize != 256 {
		return nil, fmt.Errorf("public key: got %T, want ECDSA on P-256, which cosign generates", k)
	}
	return key, nil
}
