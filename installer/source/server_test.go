package source

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/trace"
)

// server is a web server with one file, and with faults.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	content []byte
	etag    string
	asked   []string // "METHOD path range if-range"
	sent    int      // bytes of content
	// fault may answer in place of the server; n counts requests from 1.
	fault func(n int, w http.ResponseWriter, r *http.Request) (done bool)
}

func newServer(t *testing.T, content []byte) *server {
	s := &server{content: content, etag: `"one"`}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func newTLSServer(t *testing.T, content []byte) *server {
	s := &server{content: content, etag: `"one"`}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// trusting is s, which trusts srv and all others of httptest: they have one
// certificate.
func trusting(s *Source, srv *httptest.Server) *Source {
	s.client.http.Transport.(trace.Transport).Next.(*http.Transport).TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	return s
}

// room is for everything.
func room(int64) error { return nil }

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
	n, content, etag := len(s.asked), s.content, s.etag
	s.mu.Unlock()
	if s.fault != nil && s.fault(n, w, r) {
		return
	}
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	http.ServeContent(&counting{w, s}, r, "", time.Unix(1700000000, 0), bytes.NewReader(content))
}

type counting struct {
	http.ResponseWriter
	s *server
}

func (c *counting) Write(p []byte) (int, error) {
	c.s.mu.Lock()
	c.s.sent += len(p)
	c.s.mu.Unlock()
	return c.ResponseWriter.Write(p)
}

func (s *server) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// cut answers a request, but with so many bytes of the body only.
func (s *server) cut(w http.ResponseWriter, r *http.Request, bytes int) {
	w.Header().Set("ETag", s.etag)
	http.ServeContent(&cutting{w, bytes}, r, "", time.Unix(1700000000, 0), strings.NewReader(string(s.content)))
	panic(http.ErrAbortHandler)
}

type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if _, err := c.ResponseWriter.Write(p[:n]); err != nil || n < len(p) {
		c.ResponseWriter.(http.Flusher).Flush()
		return n, fmt.Errorf("cut")
	}
	return n, nil
}

// randomBytes are the same ones every time.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// quick are limits for tests.
var quick = limits{stall: bundletest.Slower(500 * time.Millisecond), attempts: 4, first: time.Millisecond, maxWait: 5 * time.Millisecond}

// testSource is a source whose bundles are at url.
func testSource(t *testing.T, o Options) *Source {
	t.Helper()
	s, err := New("shop", Config{URL: "http://unused.invalid/"}, o)
	if err != nil {
		t.Fatal(err)
	}
	s.client.limits = quick
	return s
}

// at is a bundle whose parts are at these addresses.
func (s *Source) at(size int64, urls ...string) Bundle {
	b := Bundle{name: name{Name: "shop-1.0.0.tar.gz"}, Size: size}
	for _, u := range urls {
		b.parts = append(b.parts, part{url: u, size: -1, client: s.client})
	}
	return b
}

func (s *Source) open(t *testing.T, urls ...string) *File {
	t.Helper()
	f, err := s.Open(context.Background(), s.at(-1, urls...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
