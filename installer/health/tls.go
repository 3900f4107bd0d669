package health

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/valise-ota/valise/installer/foreign"
)

// maxCA is more than a file of certificates that sign others has, in bytes.
const maxCA = 1 << 20

// tlsConfig says which certificate the answer may have. The name in it counts only
// for another host: on loopback there is no other server to be taken for, and a
// certificate for the device's own name is asked for by an address.
func (p *prober) tlsConfig() (*tls.Config, error) {
	var roots *x509.CertPool // nil: those of the machine
	if p.CA != "" {
		text, err := foreign.ReadFile(p.CA, maxCA)
		if err != nil {
			return nil, fmt.Errorf("read ca: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read ca: %s holds no certificate in PEM", p.CA)
		}
	}
	return &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		sum := sha256.Sum256(leaf.Raw)
		got := hex.EncodeToString(sum[:])
		if p.Fingerprint != "" {
			if want := strings.ToLower(strings.ReplaceAll(p.Fingerprint, ":", "")); got != want {
				return fmt.Errorf("the certificate has fingerprint %s, want %s", got, want)
			}
			return nil
		}
		o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		if ip := net.ParseIP(s.ServerName); s.ServerName != "" && s.ServerName != "localhost" && (ip == nil || !ip.IsLoopback()) {
			o.DNSName = s.ServerName
		}
		_, err := leaf.Verify(o)
		if errors.As(err, new(x509.UnknownAuthorityError)) {
			return fmt.Errorf("%w; it has fingerprint %s: let health name that, or ca, the file with who signs it", err, got)
		}
		return err
	}}, nil
}
