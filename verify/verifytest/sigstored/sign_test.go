package main

import (
	"bytes"
	"cmp"
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
	"io"
	"net/http"
	"testing"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// digestContent is content of which only the SHA-256 is known.
type digestContent [sha256.Size]byte

func (c digestContent) PreAuthEncoding() []byte { return c[:] }

func (c digestContent) Bundle(b *bundlepb.Bundle, signature, digest []byte, algorithm commonpb.HashAlgorithm) {
	(&sign.PlainData{}).Bundle(b, signature, digest, algorithm)
}

// digestKeypair signs one digest as it is, and hashes everything else, such as
// the proof that Fulcio wants of possessing the key.
type digestKeypair struct {
	key    *ecdsa.PrivateKey
	digest [sha256.Size]byte
}

func newDigestKeypair(digest [sha256.Size]byte) (*digestKeypair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &digestKeypair{key, digest}, err
}

func (k *digestKeypair) GetHashAlgorithm() commonpb.HashAlgorithm {
	return commonpb.HashAlgorithm_SHA2_256
}
func (k *digestKeypair) GetSigningAlgorithm() commonpb.PublicKeyDetails {
	return commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
}
func (k *digestKeypair) GetHint() []byte                { return nil }
func (k *digestKeypair) GetKeyAlgorithm() string        { return "ECDSA" }
func (k *digestKeypair) GetPublicKey() crypto.PublicKey { return k.key.Public() }

func (k *digestKeypair) GetPublicKeyPem() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key.Public())
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), err
}

func (k *digestKeypair) SignData(_ context.Context, data []byte) ([]byte, []byte, error) {
	digest := k.digest
	if !bytes.Equal(data, digest[:]) {
		digest = sha256.Sum256(data)
	}
	signature, err := ecdsa.SignASN1(rand.Reader, k.key, digest[:])
	return signature, digest[:], err
}

// token asks for a job's token, with more parameters for the endpoint.
func (o *output) token(ctx context.Context, audience, parameters string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.OIDCRequestURL+"&audience="+audience+parameters, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "bearer "+o.OIDCRequestToken)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", response.Status, b)
	}
	var answer struct{ Value string }
	return answer.Value, json.Unmarshal(b, &answer)
}

// sign signs a digest with the services of a signing configuration, as a job
// that the parameters describe. A Fulcio other than that one can be named.
func (o *output) sign(t *testing.T, config, parameters, fulcioURL string, digest [sha256.Size]byte) *bundlepb.Bundle {
	t.Helper()
	ctx := t.Context()
	token, err := o.token(ctx, "sigstore", parameters)
	if err != nil {
		t.Fatal(err)
	}
	c, err := root.NewSigningConfigFromPath(config)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	fulcio, err := root.SelectService(c.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, now)
	if err != nil {
		t.Fatal(err)
	}
	if fulcioURL != "" {
		fulcio.URL = fulcioURL
	}
	options := sign.BundleOptions{
		Context:                    ctx,
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: fulcio.URL}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
	}
	stamps, err := root.SelectServices(c.TimestampAuthorityURLs(), c.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stamps {
		options.TimestampAuthorities = append(options.TimestampAuthorities,
			sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: s.URL}))
	}
	logs, err := root.SelectServices(c.RekorLogURLs(), c.RekorLogURLsConfig(), sign.RekorAPIVersions, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range logs {
		options.TransparencyLogs = append(options.TransparencyLogs,
			sign.NewRekor(&sign.RekorOptions{BaseURL: s.URL, Version: s.MajorAPIVersion}))
	}
	keypair, err := newDigestKeypair(digest)
	if err != nil {
		t.Fatal(err)
	}
	b, err := sign.Bundle(digestContent(digest), keypair, options)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// expectation is what a verifier asks for. The zero value fits what sign makes of
// the file "release" without further parameters.
type expectation struct {
	root, issuer, identity, file string
	noSCT                        bool // asks for no SCT
}

// verify asks none of the services, only the trusted root.
func (o *output) verify(b *bundlepb.Bundle, e expectation) (*verify.VerificationResult, error) {
	e.root = cmp.Or(e.root, o.TrustedRoot)
	e.issuer = cmp.Or(e.issuer, githubIssuer)
	e.identity = cmp.Or(e.identity, release)
	digest := sha256.Sum256([]byte(cmp.Or(e.file, "release")))

	trusted, err := root.NewTrustedRootFromPath(e.root)
	if err != nil {
		return nil, err
	}
	options := []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}
	if !e.noSCT {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(trusted, options...)
	if err != nil {
		return nil, err
	}
	signed, err := bundle.NewBundle(b)
	if err != nil {
		return nil, err
	}
	who, err := verify.NewShortCertificateIdentity(e.issuer, "", e.identity, "")
	if err != nil {
		return nil, err
	}
	return v.Verify(signed, verify.NewPolicy(
		verify.WithArtifactDigest("sha256", digest[:]), verify.WithCertificateIdentity(who)))
}
