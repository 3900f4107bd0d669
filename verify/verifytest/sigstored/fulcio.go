package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"time"

	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/sigstore/fulcio/pkg/ca"
	"github.com/sigstore/fulcio/pkg/ca/baseca"
	"github.com/sigstore/fulcio/pkg/config"
	fulciopb "github.com/sigstore/fulcio/pkg/generated/protobuf"
	legacypb "github.com/sigstore/fulcio/pkg/generated/protobuf/legacy"
	"github.com/sigstore/fulcio/pkg/identity"
	"github.com/sigstore/fulcio/pkg/server"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

//go:embed fulcio.yaml
var fulcioConfig []byte

// fulcio is one certificate authority with any number of front ends.
type fulcio struct {
	config  *config.FulcioConfig
	issuers identity.IssuerPool
	ca      *baseca.BaseCA
	chain   []*x509.Certificate // intermediate, root
}

// newFulcio needs the issuer to answer: Fulcio reads its keys at the start.
func newFulcio(now time.Time) (*fulcio, error) {
	c, err := config.Read(fulcioConfig)
	if err != nil {
		return nil, fmt.Errorf("read fulcio.yaml: %w", err)
	}
	chain, key, err := newChain(now)
	if err != nil {
		return nil, err
	}
	return &fulcio{
		config:  c,
		issuers: server.NewIssuerPool(c),
		ca:      &baseca.BaseCA{SignerWithChain: &ca.SignerCerts{Signer: key, Certs: chain}},
		chain:   chain,
	}, nil
}

// newChain makes a root and the intermediate that signs, whose key it returns.
// They are valid before now, for clocks that are a little slow.
func newChain(now time.Time) ([]*x509.Certificate, *ecdsa.PrivateKey, error) {
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber:          big.NewInt(serial),
			Subject:               pkix.Name{Organization: []string{"sigstored.test"}, CommonName: name},
			NotBefore:             now.Add(-time.Hour),
			NotAfter:              now.AddDate(10, 0, 0),
			IsCA:                  true,
			BasicConstraintsValid: true,
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	root := template(1, "sigstored")
	root.MaxPathLen = 1
	intermediate := template(2, "sigstored-intermediate")
	intermediate.MaxPathLenZero = true
	intermediate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}

	if root, err = issue(root, root, rootKey, rootKey); err != nil {
		return nil, nil, err
	}
	if intermediate, err = issue(intermediate, root, key, rootKey); err != nil {
		return nil, nil, err
	}
	return []*x509.Certificate{intermediate, root}, key, nil
}

func issue(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// serve starts a front end with both HTTP interfaces of Fulcio, v2 and the legacy
// one of older cosigns, and returns its URL. With a nil log its certificates carry
// no SCT.
//
// Fulcio's own command puts a gRPC server between the gateway and the service.
// Here they are joined directly, which saves two sockets, one of them with a name
// that is unique on a machine.
func (f *fulcio) serve(ctx context.Context, ctURL string, log *ctLog) (string, error) {
	algorithms, err := signature.NewAlgorithmRegistryConfig([]commonpb.PublicKeyDetails{
		commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		commonpb.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		commonpb.PublicKeyDetails_PKIX_ED25519,
		commonpb.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
	})
	if err != nil {
		return "", err
	}
	var client *ctclient.LogClient
	if log != nil {
		key := cryptoutils.PEMEncode(cryptoutils.PublicKeyPEMType, log.der)
		client, err = ctclient.New(ctURL, http.DefaultClient, jsonclient.Options{PublicKey: string(key)})
		if err != nil {
			return "", err
		}
	}
	service := server.NewGRPCCAServer(client, f.ca, algorithms, f.issuers)
	mux := runtime.NewServeMux(
		runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
			return metadata.Pairs(server.MetadataOIDCTokenKey, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		}),
		runtime.WithForwardResponseOption(legacyStatus),
	)
	if err := fulciopb.RegisterCAHandlerServer(ctx, mux, service); err != nil {
		return "", err
	}
	if err := legacypb.RegisterCAHandlerServer(ctx, mux, server.NewLegacyGRPCCAServer(service)); err != nil {
		return "", err
	}
	return serve("fulcio", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(config.With(r.Context(), f.config)))
	}))
}

// legacyStatus passes on what the legacy service wants in the HTTP response: its
// clients insist on 201.
func legacyStatus(ctx context.Context, w http.ResponseWriter, _ proto.Message) error {
	md, ok := runtime.ServerMetadataFromContext(ctx)
	if !ok {
		return nil
	}
	if sct := md.HeaderMD.Get(server.SCTMetadataKey); len(sct) > 0 {
		w.Header().Set("SCT", sct[0])
	}
	if code := md.HeaderMD.Get(server.HTTPResponseCodeMetadataKey); len(code) > 0 {
		status, err := strconv.Atoi(code[0])
		if err != nil {
			return err
		}
		w.WriteHeader(status)
	}
	return nil
}
