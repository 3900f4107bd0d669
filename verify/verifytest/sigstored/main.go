// Command sigstored is a private Sigstore for tests: the real servers of Fulcio,
// Rekor v2 and the timestamp authority, a certificate transparency log that only
// signs, and an OIDC issuer that behaves as that of GitHub Actions, all in one
// process, on loopback addresses, with keys made at the start.
//
//	sigstored -dir DIR [-rekor1 URL]
//
// When everything answers it prints one line of JSON (see output) to standard
// output. It ends when standard input is closed, or on SIGTERM. Logs go to
// standard error. Whatever it signed stays verifiable with trusted_root.json.
//
// It is a module of its own so that the servers stay out of the product's
// dependencies. It runs on Linux.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	fulciolog "github.com/sigstore/fulcio/pkg/log"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	tsalog "github.com/sigstore/timestamp-authority/v2/pkg/log"
)

// output is the line that sigstored prints.
type output struct {
	// Issuer is what certificates name as the issuer.
	Issuer string `json:"issuer"`
	// OIDCRequestURL and OIDCRequestToken are a job's ACTIONS_ID_TOKEN_REQUEST_URL
	// and _TOKEN. More parameters after the URL describe the job: see claims.
	OIDCRequestURL   string `json:"oidc_request_url"`
	OIDCRequestToken string `json:"oidc_request_token"`

	FulcioURL      string `json:"fulcio_url"`
	FulcioNoSCTURL string `json:"fulcio_no_sct_url"` // the same CA, without the log
	CTURL          string `json:"ct_url"`
	RekorURL       string `json:"rekor_url"` // v2
	TSAURL         string `json:"tsa_url"`   // with its path
	Rekor1URL      string `json:"rekor1_url,omitempty"`

	// Files, as absolute paths. The trusted root knows both logs, each signing
	// configuration has one.
	TrustedRoot         string `json:"trusted_root"`
	SigningConfig       string `json:"signing_config"`
	SigningConfigRekor1 string `json:"signing_config_rekor1,omitempty"`
	// The same in PEM, for the legacy formats of cosign: SIGSTORE_ROOT_FILE and
	// SIGSTORE_CT_LOG_PUBLIC_KEY_FILE. SIGSTORE_REKOR_PUBLIC_KEY is in rekor1's line.
	FulcioCertificates string `json:"fulcio_certificates"`
	CTPublicKey        string `json:"ct_public_key"`

	PID int `json:"pid"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sigstored:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("sigstored", flag.ExitOnError)
	dir := flags.String("dir", "", "directory for its files")
	rekor1 := flags.String("rekor1", "", "`URL` of a Rekor v1 to trust as well")
	flags.Parse(args) // exits
	if *dir == "" || flags.NArg() > 0 {
		return errors.New("usage: sigstored -dir DIR [-rekor1 URL]")
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		io.Copy(io.Discard, stdin) // however it ends, nobody holds us any more
		cancel()
	}()

	fulciolog.ConfigureLogger("prod") // the other kind writes to standard output
	tsalog.ConfigureLogger("prod")    // and this one in colour
	o, err := start(ctx, *dir, *rekor1)
	if err != nil {
		return err
	}
	if err := encode(stdout, o); err != nil {
		return err
	}
	<-ctx.Done() // everything here is made to be thrown away: no orderly shutdown
	return nil
}

// start brings everything up in dir.
func start(ctx context.Context, dir, rekor1 string) (*output, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	now := time.Now()
	o := &output{Issuer: githubIssuer, Rekor1URL: rekor1, PID: os.Getpid()}
	t := &trust{since: now.Add(-time.Hour)}

	issuer, err := newIssuer()
	if err != nil {
		return nil, err
	}
	if err := impersonateGitHub(issuer.discovery(), now); err != nil {
		return nil, err
	}
	if o.OIDCRequestURL, err = serve("token", issuer.tokens()); err != nil {
		return nil, err
	}
	o.OIDCRequestURL += "/token?api-version=2.0"
	o.OIDCRequestToken = issuer.bearer

	if t.ct, err = newCTLog(); err != nil {
		return nil, err
	}
	if o.CTURL, err = serve("ct", t.ct); err != nil {
		return nil, err
	}

	fulcio, err := newFulcio(now)
	if err != nil {
		return nil, err
	}
	t.ca = fulcio.chain
	if o.FulcioURL, err = fulcio.serve(ctx, o.CTURL, t.ct); err != nil {
		return nil, err
	}
	if o.FulcioNoSCTURL, err = fulcio.serve(ctx, "", nil); err != nil {
		return nil, err
	}

	tsa, chain, err := newTSA()
	if err != nil {
		return nil, err
	}
	t.tsa = chain
	if o.TSAURL, err = serve("tsa", tsa); err != nil {
		return nil, err
	}
	o.TSAURL += "/api/v1/timestamp"

	if o.RekorURL, t.rekor2, err = startRekor(ctx, dir); err != nil {
		return nil, err
	}
	if rekor1 != "" {
		if t.rekor1, err = rekor1Key(ctx, rekor1); err != nil {
			return nil, fmt.Errorf("get the key of Rekor v1: %w", err)
		}
	}
	return o, o.write(dir, t)
}

// write makes the files of o.
func (o *output) write(dir string, t *trust) error {
	trusted, err := t.trustedRoot()
	if err != nil {
		return err
	}
	config, err := signingConfig(t.since, o, o.RekorURL, 2)
	if err != nil {
		return err
	}
	chain, err := cryptoutils.MarshalCertificatesToPEM(t.ca)
	if err != nil {
		return err
	}
	o.TrustedRoot = filepath.Join(dir, "trusted_root.json")
	o.SigningConfig = filepath.Join(dir, "signing_config.json")
	o.FulcioCertificates = filepath.Join(dir, "fulcio.pem")
	o.CTPublicKey = filepath.Join(dir, "ct.pub")
	err = errors.Join(
		writeJSONFile(o.TrustedRoot, trusted),
		writeJSONFile(o.SigningConfig, config),
		os.WriteFile(o.FulcioCertificates, chain, 0o644),
		os.WriteFile(o.CTPublicKey, cryptoutils.PEMEncode(cryptoutils.PublicKeyPEMType, t.ct.der), 0o644))
	if err != nil || o.Rekor1URL == "" {
		return err
	}
	if config, err = signingConfig(t.since, o, o.Rekor1URL, 1); err != nil {
		return err
	}
	o.SigningConfigRekor1 = filepath.Join(dir, "signing_config_rekor1.json")
	return writeJSONFile(o.SigningConfigRekor1, config)
}

func writeJSONFile(path string, v any) error {
	var b bytes.Buffer
	if err := encode(&b, v); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// encode writes one line. An & in a URL stays one.
func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// serve answers on a port of its own and returns the URL.
func serve(name string, h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go serveOn(l, name, h)
	return "http://" + l.Addr().String(), nil
}

func serveOn(l net.Listener, name string, h http.Handler) {
	s := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			log.Println(name, r.Method, r.URL.Path)
			h.ServeHTTP(w, r)
		}),
	}
	log.Fatalln(name, s.Serve(l)) // the listener is never closed
}

// impersonateGitHub makes this process, and no other, find h at the issuer's real
// name. Every other connection that it opens is refused unless it is to a
// loopback address.
func impersonateGitHub(h http.Handler, now time.Time) error {
	host := strings.TrimPrefix(githubIssuer, "https://")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{host},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
		// It is its own root.
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, err := issue(template, template, key, key)
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
	})
	if err != nil {
		return err
	}
	go serveOn(l, "issuer", h)

	roots := x509.NewCertPool()
	roots.AddCert(cert)
	http.DefaultTransport = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			name, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			if name == host {
				address = l.Addr().String()
			} else if ip := net.ParseIP(name); ip == nil || !ip.IsLoopback() {
				return nil, fmt.Errorf("%s is not a loopback address", address)
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	return nil
}
