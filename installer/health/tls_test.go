package health

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
)

// selfSigned is a certificate as appliances make for themselves: for a name, and no
// address.
func selfSigned(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestOwnCertificate(t *testing.T) {
	cert, text := selfSigned(t, "device.example")
	_, other := selfSigned(t, "device.example")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	for name, b := range map[string][]byte{"ca.pem": text, "other.pem": other, "none.pem": []byte("x")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hex := fmt.Sprintf("%X", sha256.Sum256(cert.Certificate[0]))
	colons := strings.TrimSuffix(strings.Join(strings.SplitAfter(fmt.Sprintf("% X", sha256.Sum256(cert.Certificate[0])), " "), ""), " ")
	for _, tc := range []struct{ ca, fingerprint, want string }{
		{want: "unknown authority; it has fingerprint " + strings.ToLower(hex)},
		{ca: "ca.pem"},
		{ca: filepath.Join(dir, "ca.pem")},
		{ca: "${DIR}/ca.pem"},
		{ca: "other.pem", want: "unknown authority"},
		{ca: "none.pem", want: "no certificate in PEM"},
		{ca: "nowhere.pem", want: "no such file"},
		{fingerprint: strings.ReplaceAll(colons, " ", ":")},
		{fingerprint: strings.ToLower(hex)},
		{fingerprint: strings.Repeat("00", 32), want: "want 0000"},
	} {
		h := bundle.Health{HTTP: s.URL, CA: tc.ca, Fingerprint: tc.fingerprint, Retries: 1, Interval: bundle.Duration(time.Millisecond)}
		if err := h.Check(bundle.KindCompose); err != nil {
			t.Error(err)
		}
		c, err := ChecksOf(h, "1.0.0", dir, func(s string) (string, error) { return strings.ReplaceAll(s, "${DIR}", dir), nil })
		if err != nil {
			t.Fatal(err)
		}
		err = Probe(t.Context(), c, Deps{})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	// Of another host the name counts.
	p := &prober{Checks: Checks{CA: filepath.Join(dir, "ca.pem")}}
	config, err := p.tlsConfig()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{"device.example": true, "other.example": false, "192.0.2.1": false, "localhost": true, "::1": true} {
		if err := config.VerifyConnection(tls.ConnectionState{ServerName: name, PeerCertificates: []*x509.Certificate{leaf}}); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, h := range []bundle.Health{{HTTP: "http://x", CA: "a"}, {HTTP: "https://x", CA: "a", Fingerprint: hex}, {HTTP: "https://x", CA: "../a"}, {HTTP: "https://x", Fingerprint: "abc"}} {
		h.Retries, h.Interval = 1, 1
		if h.Check(bundle.KindCompose) == nil {
			t.Errorf("%+v is accepted", h)
		}
	}
}
