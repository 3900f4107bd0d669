package source

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"

	"github.com/valise-ota/valise/bundle/trace"
)

// Limits of one request. Times bound a silence, not a transfer: a slow link is no
// fault.
const (
	dialTimeout   = 15 * time.Second
	headerTimeout = 30 * time.Second
	maxRedirects  = 5
	maxListing    = 8 << 20  // bytes of one answer that is not a bundle
	maxHeader     = 64 << 10 // bytes of the header of one
)

// client is what all requests of a source go through.
type client struct {
	http  *http.Client
	agent string
	host  string       // of a registry
	bad   *atomic.Bool // which failed: it is asked last
	retry func(error)
	over  func(error) // of Options.PassedOver
	limits
}

// limits of transfers. Tests have shorter ones.
type limits struct {
	stall    time.Duration // an attempt ends when so long not even minProgress bytes came
	attempts int           // that bring nothing before a transfer fails
	first    time.Duration // wait after the first of them; it grows to maxWait
	maxWait  time.Duration
}

func newClient(o Options) *client {
	c := &client{agent: o.Agent, retry: o.Retry, over: o.PassedOver, limits: limits{stall: 60 * time.Second, attempts: 10, first: 500 * time.Millisecond, maxWait: 30 * time.Second}}
	c.http = &http.Client{
		Transport: trace.Transport{Next: &http.Transport{
			Proxy:                  o.Proxy,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  headerTimeout,
			MaxResponseHeaderBytes: maxHeader,
			IdleConnTimeout:        headerTimeout,
			MaxIdleConnsPerHost:    parallel + 1,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // offsets are those of the file
		}},
		CheckRedirect: checkRedirect,
	}
	return c
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("the redirect to %s is not encrypted", req.URL.Host)
	}
	return nil
}

// withToken is c with a secret that only the host of base gets to see, whatever
// redirects a request follows, and never in the open: other programs of a device may
// listen on its loopback too.
func (c *client) withToken(base *url.URL, token string) (*client, error) {
	if token == "" {
		return c, nil
	}
	if base.Scheme != "https" {
		return nil, fmt.Errorf("source: a token would go to %s unencrypted: use https, or ask without a token", base.Host)
	}
	own, h := *c, *c.http
	h.Transport = &authorized{c.http.Transport, base, token}
	own.http = &h
	return &own, nil
}

type authorized struct {
	next  http.RoundTripper
	base  *url.URL
	token string
}

func (a *authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == a.base.Scheme && req.URL.Host == a.base.Host {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	return a.next.RoundTrip(req)
}

// cached keeps answers that have an ETag in a directory. Asking again costs a
// request, but with GitHub it does not count.
type cached struct {
	next http.RoundTripper
	dir  string
}

func (c *cached) RoundTrip(req *http.Request) (*http.Response, error) {
	sum := sha256.Sum256([]byte(req.URL.String()))
	file := filepath.Join(c.dir, hex.EncodeToString(sum[:16]))
	old := c.read(file, req)
	if old != nil {
		req = req.Clone(req.Context())
		req.Header.Set("If-None-Match", old.Header.Get("ETag"))
	}
	res, err := c.next.RoundTrip(req)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode == http.StatusNotModified && old != nil:
		res.Body.Close()
		return old, nil
	case res.StatusCode != http.StatusOK || res.Header.Get("ETag") == "":
		return res, nil
	}
	body, err := io.ReadAll(res.Body) // a Guard limits it
	res.Body.Close()
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	res.ContentLength, res.TransferEncoding = int64(len(body)), nil
	if dump, err := httputil.DumpResponse(res, true); err == nil && os.MkdirAll(c.dir, 0o700) == nil {
		_ = renameio.WriteFile(file, dump, 0o600) // a cache may fail
	}
	return res, nil
}

// read returns an answer that was kept, or nil.
func (c *cached) read(file string, req *http.Request) *http.Response {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), req)
	if err != nil || res.StatusCode != http.StatusOK {
		return nil
	}
	return res
}

// StatusError is an answer that is not a success.
type StatusError struct {
	Code int
	Host string
}

// Kind names these errors for front ends.
func (e *StatusError) Kind() string { return "source" }

func (e *StatusError) Error() string {
	text := http.StatusText(e.Code)
	if text == "" {
		text = "unknown status"
	}
	return fmt.Sprintf("%s answered %d (%s)", e.Host, e.Code, text)
}

// plain removes from an error of net/http what a person does not need: the
// address, which may be long and hold a signature.
func plain(err error) error {
	if u := new(url.Error); errors.As(err, &u) {
		return u.Err
	}
	return err
}
