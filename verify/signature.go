package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	_ "crypto/sha512" // of signatures over files of others
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

func (v *Verifier) addKey(s Signer) error {
	key, err := s.publicKey()
	if err != nil {
		return err
	}
	ecdsaVerifier, err := signature.LoadECDSAVerifier(key, crypto.SHA256)
	if err != nil {
		return err
	}
	// The policy names the key itself, so there is no certificate whose
	// validity a timestamp would have to prove.
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(ecdsaVerifier, time.Time{}, time.Time{}), nil
	})
	entity, err := sgverify.NewVerifier(material, sgverify.WithNoObserverTimestamps())
	if err != nil {
		return err
	}
	v.keys = append(v.keys, keyVerifier{s, entity})
	return nil
}

func (v *Verifier) addIdentity(s Signer) (err error) {
	identity, err := sgverify.NewShortCertificateIdentity(s.Issuer, "", s.Identity, s.anchored())
	if err != nil {
		return err
	}
	v.identities = append(v.identities, sgverify.WithCertificateIdentity(identity))
	if v.keyless == nil {
		v.keyless, err = keylessVerifier(v.policy.TrustedRoot)
	}
	return err
}

// keylessVerifier checks certificates against a trusted root, PublicGood when it
// is nil.
func keylessVerifier(trustedRoot []byte) (*sgverify.Verifier, error) {
	if trustedRoot == nil {
		trustedRoot = PublicGood
	}
	trusted, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	// A certificate lives for minutes: that the signature was made in them is
	// shown by a log entry with its time or by a timestamp, never by a clock.
	options := []sgverify.VerifierOption{sgverify.WithTransparencyLog(1), sgverify.WithObserverTimestamps(1)}
	if len(trusted.CTLogs()) > 0 {
		options = append(options, sgverify.WithSignedCertificateTimestamps(1))
	}
	return sgverify.NewVerifier(trusted, options...)
}

// Digest checks a Sigstore bundle over a file of which sum is the SHA-256, and
// returns who signed it, or who attested something about it.
func (v *Verifier) Digest(sum [sha256.Size]byte, sigstore []byte) (Signer, error) {
	return v.File(crypto.SHA256, sum[:], sigstore)
}

// Text checks a signature over a text of which nothing was taken yet, and returns who
// signed it. A statement about it is not a signature of it.
func (v *Verifier) Text(text, sigstore []byte) (Signer, error) {
	sig, err := parseSignature(sigstore)
	if err != nil {
		return Signer{}, err
	}
	if sig.GetMessageSignature() == nil {
		return Signer{}, refuse(CheckSignature, nil, "it is a statement about the file, not a signature of it")
	}
	sum := sha256.Sum256(text)
	by, err := v.signature(crypto.SHA256, sum[:], sig)
	return by.signer, err
}

// File is Digest with the hash that HashOf returned.
func (v *Verifier) File(hash crypto.Hash, sum, sigstore []byte) (Signer, error) {
	sig, err := parseSignature(sigstore)
	if err != nil {
		return Signer{}, err
	}
	by, err := v.signature(hash, sum, sig)
	return by.signer, err
}

// HashOf returns the hash by which a Sigstore bundle names the file it is over:
// what the file has to be hashed with before File can compare. Statements about
// packages of npm use SHA-512, nearly everything else SHA-256.
func HashOf(sigstore []byte) (crypto.Hash, error) {
	sig, err := parseSignature(sigstore)
	if err != nil {
		return 0, err
	}
	content, err := sig.SignatureContent()
	if err != nil {
		return 0, unusable(err)
	}
	named := map[string]bool{}
	if envelope := content.EnvelopeContent(); envelope != nil {
		statement, err := envelope.Statement()
		if err != nil {
			return 0, unusable(err)
		}
		for _, s := range statement.GetSubject() {
			for algorithm := range s.GetDigest() {
				named[algorithm] = true
			}
		}
	} else {
		// SHA2_256 here is sha256 in statements.
		named[strings.Replace(strings.ToLower(content.MessageSignatureContent().DigestAlgorithm()), "sha2_", "sha", 1)] = true
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if named[algorithm(h)] {
			return h, nil
		}
	}
	return 0, refuse(CheckSignature, nil, "it names the file by no hash that is known here (SHA-256, SHA-384 and SHA-512 are); nothing can be compared")
}

// algorithm is the name of a hash in statements, and before the colon of a digest.
func algorithm(h crypto.Hash) string {
	return strings.ToLower(strings.Replace(h.String(), "-", "", 1))
}

func parseSignature(sigstore []byte) (*sgbundle.Bundle, error) {
	sig := new(sgbundle.Bundle)
	if err := sig.UnmarshalJSON(sigstore); err != nil {
		return nil, unusable(err)
	}
	return sig, nil
}

func unusable(err error) error {
	return refuse(CheckSignature, err, "the signature is not a complete Sigstore bundle: it is damaged, was changed or never was one; get it again from who published it (%v)", err)
}

// signed is who made a signature, as it was proved.
type signed struct {
	signer      Signer
	certificate *certificate.Summary // nil when a key signed
}

func (v *Verifier) signature(hash crypto.Hash, sum []byte, sig *sgbundle.Bundle) (signed, error) {
	content, err := sig.VerificationContent()
	if err != nil {
		return signed{}, unusable(err)
	}
	artifact := sgverify.WithArtifactDigest(algorithm(hash), sum)
	if cert := content.Certificate(); cert != nil {
		return v.byIdentity(sig, cert, artifact)
	}
	if len(v.keys) == 0 {
		return signed{}, refuse(CheckSigner, nil, "it was signed with a key, and this policy trusts no key but %s; ask its maker who signs now", v.expected())
	}
	for _, k := range v.keys {
		if _, err = k.entity.Verify(sig, sgverify.NewPolicy(artifact, sgverify.WithKey())); err == nil {
			return signed{signer: k.signer}, nil
		}
	}
	return signed{}, refuse(CheckSignature, err, "it was not signed by %s, or it was changed after signing; get it again from its maker (%v)", v.expected(), err)
}

// byIdentity checks a signature with a certificate.
func (v *Verifier) byIdentity(sig *sgbundle.Bundle, cert *x509.Certificate, artifact sgverify.ArtifactPolicyOption) (signed, error) {
	claimed := claim(cert)
	if v.keyless == nil {
		return signed{}, refuse(CheckSigner, nil, "its certificate says that %s signed it, and this policy trusts %s only; ask its maker who signs now", claimed, v.expected())
	}
	result, err := v.keyless.Verify(sig, sgverify.NewPolicy(artifact, v.identities...))
	if err == nil {
		return signed{claimed, result.Signature.Certificate}, nil
	}
	if errors.As(err, new(*sgverify.ErrNoMatchingCertificateIdentity)) {
		return signed{}, refuse(CheckSigner, err, "it was signed by %s, and this policy trusts %s: it comes from another signer, or its maker changed signers; ask the maker", claimed, v.expected())
	}
	return signed{}, unproved(claimed, v.expected(), err)
}

// claim is who a certificate names, which proves nothing yet.
func claim(cert *x509.Certificate) Signer {
	if s, err := certificate.SummarizeCertificate(cert); err == nil {
		return Signer{Identity: s.SubjectAlternativeName, Issuer: s.Issuer}
	}
	return Signer{Identity: "a signer without a name", Issuer: "unknown"}
}

// unproved says what a failure of the Sigstore library means.
func unproved(claimed Signer, expected string, err error) error {
	check, means := CheckSignature, "the signature is of another file, or the file was changed after signing"
	for _, m := range []struct{ failed, check, means string }{
		{"log inclusion", CheckSignature, "no log that is trusted here vouches for this signature at a time when the certificate was valid"},
		{"timestamps", CheckTime, "nothing that is trusted here says when it was signed, and the certificate was valid for minutes only"},
		{"leaf certificate", CheckSignature, "no authority that is trusted here issued that certificate for the time of the signature"},
		{"signed certificate timestamp", CheckSignature, "no log that is trusted here has seen that certificate"},
	} {
		if strings.HasPrefix(err.Error(), "failed to verify "+m.failed) {
			check, means = m.check, m.means
		}
	}
	return refuse(check, err, "it names %s as its signer, and this policy trusts %s, but it proves nothing: %s; get it again from its maker (%v)", claimed, expected, means, err)
}

// Identify returns who signed a file of which sum is the SHA-256, any signer,
// as far as a certificate below the trusted root proves it. It is for asking
// an operator whether to trust them: it accepts nothing.
func Identify(sum [sha256.Size]byte, sigstore, trustedRoot []byte) (Signer, error) {
	sig, err := parseSignature(sigstore)
	if err != nil {
		return Signer{}, err
	}
	content, err := sig.VerificationContent()
	if err != nil {
		return Signer{}, unusable(err)
	}
	cert := content.Certificate()
	if cert == nil {
		return Signer{}, refuse(CheckSigner, nil, "it was signed with a key, and a signature does not show which: the public key must come from its maker")
	}
	keyless, err := keylessVerifier(trustedRoot)
	if err != nil {
		return Signer{}, refuse(CheckPolicy, err, "the trusted root cannot be used: %v", err)
	}
	if _, err := keyless.Verify(sig, sgverify.NewPolicy(sgverify.WithArtifactDigest("sha256", sum[:]), sgverify.WithoutIdentitiesUnsafe())); err != nil {
		return Signer{}, unproved(claim(cert), "no signer yet", err)
	}
	return claim(cert), nil
}

// Bare checks a signature without a Sigstore bundle around it, as cosign's .sig
// files hold it. Only a key can vouch for one: it proves no time and no identity.
func (v *Verifier) Bare(sum [sha256.Size]byte, sig []byte) (Signer, error) {
	for _, k := range v.keys {
		if key, err := k.signer.publicKey(); err == nil && ecdsa.VerifyASN1(key, sum[:], sig) {
			return k.signer, nil
		}
	}
	if len(v.keys) == 0 {
		return Signer{}, refuse(CheckTime, nil, "a bare signature proves neither who made it nor when, and this policy trusts %s: use the .sigstore.json or a public key", v.expected())
	}
	return Signer{}, refuse(CheckSignature, nil, "it was not signed by %s, or it was changed after signing; get it again from its maker", v.expected())
}

func (v *Verifier) expected() string {
	var names []string
	for _, s := range v.policy.Signers {
		names = append(names, s.String())
	}
	return strings.Join(names, " or ")
}
