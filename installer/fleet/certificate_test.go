package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/bundle/web"
	"github.com/valise-ota/valise/installer/fleet/fleettest"
)

// authority certifies devices.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.key, a.cert = a.sign("authority", time.Now().Add(time.Hour))
	return a
}

func (a *authority) sign(name string, until time.Time) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, by := a.cert, a.key
	if parent == nil {
		c.IsCA, c.KeyUsage, parent, by = true, x509.KeyUsageCertSign, c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err == nil {
		c, err = x509.ParseCertificate(der)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return key, c
}

// issue writes a certificate and its key.
func (a *authority) issue(cert, key string, until time.Time) {
	a.t.Helper()
	k, c := a.sign("d1", until)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.Raw}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// TestClientCertificate: a server that wants a certificate gets it, and each that it does not
// take ends in one sentence which names it. One that is renewed counts at the next handshake.
func TestClientCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "device.crt"), filepath.Join(dir, "device.key")
	ours, theirs := newAuthority(t), newAuthority(t)
	later := time.Now().Add(time.Hour)
	for name, tc := range map[string]struct {
		put  func()
		with bool
		want string // of the error; empty: it is let in
	}{
		"good":                 {func() { ours.issue(cert, key, later) }, true, ""},
		"none":                 {func() {}, false, ": it refuses a device without client_certificate: remote error: tls: "},
		"of another authority": {func() { theirs.issue(cert, key, later) }, true, ": it refuses " + cert + ": remote error: tls: unknown certificate authority"},
		"expired":              {func() { ours.issue(cert, key, time.Now().Add(-time.Minute)) }, true, ": it refuses " + cert + ": remote error: tls: expired certificate"},
		"not there":            {func() { os.Remove(cert) }, true, ": read client_certificate: open " + cert},
		"with the key of another": {func() {
			ours.issue(cert, key, later)
			ours.issue(filepath.Join(dir, "other.crt"), key, later)
		}, true, ": read client_certificate: tls: private key does not match public key"},
		"no certificate": {func() {
			ours.issue(cert, key, later)
			os.WriteFile(cert, []byte("-----BEGIN\n"), 0o600)
		}, true, ": read client_certificate: tls: failed to find any PEM data"},
	} {
		for version, number := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
			t.Run(name+" "+version, func(t *testing.T) {
				s := httptest.NewUnstartedServer(new(fleettest.Server))
				pool := x509.NewCertPool()
				pool.AddCert(ours.cert)
				s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: number}
				s.Config.ErrorLog = log.New(io.Discard, "", 0)
				s.StartTLS()
				defer s.Close()
				tc.put()
				c := Config{HawkBit: s.URL, ID: "d1"}
				if tc.with {
					c.ClientCertificate, c.ClientKey = cert, key
				}
				client := knowing(t, c, s)
				poll := func() error { _, err := client.poll(t.Context()); return err }
				err := poll()
				for ; err != nil && strings.Contains(tc.want, "remote error") && !strings.Contains(err.Error(), "remote error"); err = poll() {
					t.Log(err) // TLS 1.3 sends the request before it hears of it, and may hear of that only
				}
				if (err != nil) != (tc.want != "") || err != nil && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "ask 127.0.0.1:")) {
					t.Errorf("%v, want %q", err, tc.want)
				}
				ours.issue(cert, key, later)
				if err := poll(); tc.with && err != nil {
					t.Errorf("renewed: %v", err)
				}
			})
		}
	}
}

// knowing is a client that knows the certificate of a server.
func knowing(t *testing.T, c Config, s *httptest.Server) *Client {
	t.Helper()
	client, err := NewClient(c, c.ID, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	web := client.http.Transport.(*named).next.(*web.Guard).Next.(*http.Transport)
	if web.TLSClientConfig == nil {
		web.TLSClientConfig = new(tls.Config)
	}
	web.TLSClientConfig.RootCAs = x509.NewCertPool()
	web.TLSClientConfig.RootCAs.AddCert(s.Certificate())
	return client
}

// TestProxyAnswers: what a proxy says in place of a server, of a certificate that expired, of
// one that is down, or to be nice, ends no action: the server hears the end when it is there again.
func TestProxyAnswers(t *testing.T) {
	for name, code := range map[string]int{"certificate": http.StatusBadRequest, "no route": http.StatusNotFound, "gone": http.StatusGone, "maintenance": http.StatusOK} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := new(fleettest.Server), newDevice(t, "1.0.0")
				down := false
				g := d.boot(roundTripper(func(r *http.Request) (*http.Response, error) {
					if !down {
						return direct{s}.RoundTrip(r)
					}
					return direct{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("Content-Type", "text/html")
						w.WriteHeader(code)
						_, _ = io.WriteString(w, "<html>No required SSL certificate was sent</html>")
					})}.RoundTrip(r)
				}), Config{ID: "d1"})
				id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
				rounds(t, g, 1)
				down = true
				var err error
				for range 10 {
					err = g.Round(t.Context(), true)
					time.Sleep(5 * time.Minute)
					synctest.Wait()
				}
				if err == nil || !strings.Contains(err.Error(), "with a page: that is a proxy, not hawkBit") || d.current != "1.1.0" {
					t.Errorf("%v, %s runs", err, d.current)
				}
				if over(&StatusError{Code: code, Page: true}) {
					t.Error("that is over")
				}
				down = false
				rounds(t, g, 2)
				has(t, s.Action(id), "finished", "closed/success")
				understood(t, s)
			})
		})
	}
}
