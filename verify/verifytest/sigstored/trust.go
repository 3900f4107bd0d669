package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"

	trustpb "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// trust is what a verifier has to know of the services.
type trust struct {
	since  time.Time
	ca     []*x509.Certificate // intermediate, root
	tsa    []*x509.Certificate // leaf, intermediate, root
	ct     *ctLog
	rekor2 ed25519.PublicKey
	rekor1 crypto.PublicKey // nil without one
}

// trustedRoot names the services by URLs of their own: a verifier asks none of
// them, and Rekor v2 signs its host name.
func (t *trust) trustedRoot() (*root.TrustedRoot, error) {
	logs := make(map[string]*root.TransparencyLog)
	add := func(url string, key crypto.PublicKey, id []byte) {
		logs[hex.EncodeToString(id)] = t.log(url, key, id)
	}
	_, id, err := note.KeyHash(rekorHost, t.rekor2)
	if err != nil {
		return nil, err
	}
	add("https://"+rekorHost, t.rekor2, id)
	if t.rekor1 != nil {
		der, err := x509.MarshalPKIXPublicKey(t.rekor1)
		if err != nil {
			return nil, err
		}
		id := sha256.Sum256(der)
		add("https://rekor1.sigstored.test", t.rekor1, id[:])
	}
	return root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			URI: "https://fulcio.sigstored.test", ValidityPeriodStart: t.since,
			Intermediates: t.ca[:1], Root: t.ca[1],
		}},
		map[string]*root.TransparencyLog{
			hex.EncodeToString(t.ct.id[:]): t.log("https://ct.sigstored.test", t.ct.key.Public(), t.ct.id[:]),
		},
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			URI: "https://timestamp.sigstored.test", ValidityPeriodStart: t.since,
			Leaf: t.tsa[0], Intermediates: t.tsa[1 : len(t.tsa)-1], Root: t.tsa[len(t.tsa)-1],
		}},
		logs)
}

func (t *trust) log(url string, key crypto.PublicKey, id []byte) *root.TransparencyLog {
	return &root.TransparencyLog{
		BaseURL: url, ID: id, ValidityPeriodStart: t.since,
		HashFunc: crypto.SHA256, PublicKey: key, SignatureHashFunc: crypto.SHA256,
	}
}

// signingConfig tells signers where the services are. They use one log.
func signingConfig(since time.Time, o *output, logURL string, logVersion uint32) (*root.SigningConfig, error) {
	at := func(url string, version uint32) []root.Service {
		return []root.Service{{URL: url, MajorAPIVersion: version, ValidityPeriodStart: since, Operator: "sigstored.test"}}
	}
	one := root.ServiceConfiguration{Selector: trustpb.ServiceSelector_ANY}
	return root.NewSigningConfig(root.SigningConfigMediaType02,
		at(o.FulcioURL, 1), at(o.Issuer, 1), at(logURL, logVersion), one, at(o.TSAURL, 1), one)
}

// rekor1Key asks a Rekor v1 for its key.
func rekor1Key(ctx context.Context, url string) (crypto.PublicKey, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/v1/log/publicKey", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return cryptoutils.UnmarshalPEMToPublicKey(b)
}
