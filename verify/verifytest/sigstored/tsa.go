package main

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/timestamp-authority/v2/pkg/server"
	"github.com/spf13/viper"
)

// newTSA returns Sigstore's timestamp authority and the chain of its certificate,
// leaf first. There can be one in a process: its settings are global.
func newTSA() (http.Handler, []*x509.Certificate, error) {
	const policy = "1.3.6.1.4.1.57264.2" // that of the public one
	for name, value := range map[string]any{
		"timestamp-signer":      "memory",
		"timestamp-signer-hash": "sha256",
		"default-policy-oid":    policy,
		"accepted-policy-oids":  []string{policy},
	} {
		viper.Set(name, value)
	}
	handler := server.NewRestAPIServer("", 0, nil, false, time.Minute, time.Minute).GetHandler()

	// It made its certificates itself, and gives them out like this only.
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/timestamp/certchain", nil))
	chain, err := cryptoutils.UnmarshalCertificatesFromPEM(w.Body.Bytes())
	return handler, chain, err
}
