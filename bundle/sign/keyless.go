package sign

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/sigstore/cosign/v2/pkg/providers"
	_ "github.com/sigstore/cosign/v2/pkg/providers/github" // the ambient token of a GitHub Actions job
	"github.com/sigstore/sigstore-go/pkg/root"
	sgsign "github.com/sigstore/sigstore-go/pkg/sign"
)

// PublicGood is the signing configuration of the public Sigstore instance.
//
//go:embed public-good.json
var PublicGood []byte

// ErrNoToken means that no identity is at hand.
var ErrNoToken = errors.New("no OIDC token: this is not a GitHub Actions job with the permission id-token: write")

// AmbientToken returns an OIDC token for Sigstore of the place this runs in.
// cosign's providers read the environment for it.
func AmbientToken(ctx context.Context) (string, error) {
	if !providers.Enabled(ctx) {
		return "", ErrNoToken
	}
	token, err := providers.Provide(ctx, "sigstore")
	if err != nil {
		return "", fmt.Errorf("get OIDC token: %w", err)
	}
	return token, nil
}

// requestRetries is how often a Sigstore service that fails is asked again.
const requestRetries = 3

// Keyless returns a signer for the identity of an OIDC token, with the services
// of a Sigstore signing_config.json that are valid at now. Every signature has a
// key of its own that is forgotten, a certificate, a log entry, and a timestamp
// where the configuration names an authority.
func Keyless(config []byte, token string, now time.Time) (Signer, error) {
	c, err := root.NewSigningConfigFromJSON(config)
	if err != nil {
		return nil, fmt.Errorf("read signing configuration: %w", err)
	}
	fulcio, err := root.SelectService(c.FulcioCertificateAuthorityURLs(), sgsign.FulcioAPIVersions, now)
	if err != nil {
		return nil, fmt.Errorf("signing configuration: certificate authority: %w", err)
	}
	s := &keylessSigner{token: token, fulcio: fulcio.URL}
	logs, err := root.SelectServices(c.RekorLogURLs(), c.RekorLogURLsConfig(), sgsign.RekorAPIVersions, now)
	if err != nil {
		return nil, fmt.Errorf("signing configuration: transparency log: %w", err)
	}
	s.logs = logs
	if len(c.TimestampAuthorityURLs()) > 0 {
		if s.stamps, err = root.SelectServices(c.TimestampAuthorityURLs(), c.TimestampAuthorityURLsConfig(), sgsign.TimestampAuthorityAPIVersions, now); err != nil {
			return nil, fmt.Errorf("signing configuration: timestamp authority: %w", err)
		}
	}
	return s, nil
}

type keylessSigner struct {
	token  string
	fulcio string
	logs   []root.Service
	stamps []root.Service
}

func (s *keylessSigner) Sign(ctx context.Context, sum [sha256.Size]byte) (*Signature, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	options := sgsign.BundleOptions{
		Context:                    ctx,
		CertificateProvider:        sgsign.NewFulcio(&sgsign.FulcioOptions{BaseURL: s.fulcio, Retries: requestRetries}),
		CertificateProviderOptions: &sgsign.CertificateProviderOptions{IDToken: s.token},
	}
	for _, t := range s.stamps {
		options.TimestampAuthorities = append(options.TimestampAuthorities, sgsign.NewTimestampAuthority(&sgsign.TimestampAuthorityOptions{URL: t.URL, Retries: requestRetries}))
	}
	for _, l := range s.logs {
		options.TransparencyLogs = append(options.TransparencyLogs, sgsign.NewRekor(&sgsign.RekorOptions{BaseURL: l.URL, Version: l.MajorAPIVersion, Retries: requestRetries}))
	}
	return makeSignature(sum, key, options)
}
