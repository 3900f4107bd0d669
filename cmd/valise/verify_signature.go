package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/verify"
)

// whole checks the signature that the flags name over a whole file. digest
// returns the file's digest by the hash that the signature uses.
func whole(v *verify.Verifier, flags verifyFlags, digest func(crypto.Hash) ([]byte, error)) (verify.Signer, error) {
	sig, err := os.ReadFile(flags.signature)
	if err != nil {
		return verify.Signer{}, fmt.Errorf("read signature: %w", err)
	}
	bare, berr := base64.StdEncoding.DecodeString(strings.TrimSpace(string(sig)))
	hash := crypto.SHA256
	if berr != nil {
		if hash, err = verify.HashOf(sig); err != nil {
			return verify.Signer{}, err
		}
	}
	sum, err := digest(hash)
	switch {
	case err != nil:
		return verify.Signer{}, err
	case berr != nil:
		return v.File(hash, sum, sig)
	case flags.certificate != "":
		err := bareCertificate(flags.certificate, [sha256.Size]byte(sum), bare)
		// What the two lack is in the .sigstore.json of the same signing.
		proofs, perr := os.ReadFile(strings.TrimSuffix(flags.signature, ".sig") + sigstoreSuffix)
		if refused := new(verify.Error); perr == nil && errors.As(err, &refused) && refused.Check == verify.CheckTime && holdsSignature(proofs, bare) {
			return v.File(hash, sum, proofs)
		}
		return verify.Signer{}, err
	}
	return v.Bare([sha256.Size]byte(sum), bare)
}

// holdsSignature reports whether a Sigstore bundle is about this very signature.
func holdsSignature(sigstore, signature []byte) bool {
	var b struct {
		MessageSignature struct{ Signature []byte }
	}
	return json.Unmarshal(sigstore, &b) == nil && bytes.Equal(b.MessageSignature.Signature, signature)
}

// readChecksums checks the list of checksums and its signature.
func readChecksums(v *verify.Verifier, flags verifyFlags) (*verify.Checksums, error) {
	list, err := os.ReadFile(flags.checksums)
	if err != nil {
		return nil, fmt.Errorf("read checksums: %w", err)
	}
	name := flags.signature
	if name == "" {
		name = flags.checksums + sigstoreSuffix
	}
	sig, err := os.ReadFile(name)
	if flags.signature == "" && errors.Is(err, fs.ErrNotExist) {
		return nil, cli.WithHint(&verify.Error{Check: verify.CheckUnsigned, Reason: fmt.Sprintf("there is no %s, the signature of the list of checksums: a list alone proves nothing", name)},
			"name its signature with --bundle")
	}
	if err != nil {
		return nil, fmt.Errorf("read signature of checksums: %w", err)
	}
	return v.Checksums(list, sig)
}

// bareCertificate says what a .sig and a .cert prove by themselves, which is not
// enough: a certificate is valid for minutes, and nothing in the two shows that
// the signature was made in them.
func bareCertificate(file string, sum [sha256.Size]byte, sig []byte) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	if inner, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b))); err == nil {
		b = inner // cosign writes base64 of PEM
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return fmt.Errorf("read certificate: %s holds no certificate", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, sum[:], sig) {
		return &verify.Error{Check: verify.CheckSignature, Reason: "the signature was not made with the key of the certificate, or the file was changed after signing"}
	}
	return cli.WithHint(&verify.Error{Check: verify.CheckTime, Reason: fmt.Sprintf("the signature belongs to the certificate, but the certificate was valid until %s only, and a bare .sig and .cert hold no log entry or timestamp that proves the signature was made before",
		cert.NotAfter.UTC().Format("2006-01-02 15:04:05Z"))}, "use the .sigstore.json that was published with the file, or a trusted public key")
}
