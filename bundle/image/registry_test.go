package image

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// faults is a registry behind a line that does what it is told to requests for
// the large blob.
type faults struct {
	host   string
	inner  http.Handler
	blob   string
	mu     sync.Mutex
	broken func(n int, w http.ResponseWriter, r *http.Request) bool // n-th request; true: it is answered
	asked  int
	ranges []string
	others atomic.Int64
}

const faultyLayer = 3<<20 + 17

// newFaults returns a registry with one image, HOST/a:1.
func newFaults(t *testing.T) (*faults, v1.Image) {
	t.Helper()
	seed := [32]byte{1}
	large := make([]byte, faultyLayer)
	rand.NewChaCha8(seed).Read(large)
	img := newImage(t, amd64, "faults")
	layer := static.NewLayer(large, types.OCIUncompressedLayer)
	img, err := mutate.AppendLayers(img, layer)
	must(t, err)
	digest, err := layer.Digest()
	must(t, err)
	f := &faults{blob: "/blobs/" + digest.String(), inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.host = strings.TrimPrefix(server.URL, "http://")
	push(t, f.host+"/a:1", nil, img)
	f.asked, f.ranges = 0, nil
	f.others.Store(0)
	return f, img
}

func (f *faults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, f.blob) {
		f.others.Add(1)
		f.inner.ServeHTTP(w, r)
		return
	}
	f.mu.Lock()
	f.asked++
	n, broken := f.asked, f.broken
	f.ranges = append(f.ranges, r.Header.Get("Range"))
	f.mu.Unlock()
	if broken == nil || !broken(n, w, r) {
		f.inner.ServeHTTP(w, r)
	}
}

// cut passes on n bytes of the answer and breaks the connection.
func (f *faults) cut(n int64, w http.ResponseWriter, r *http.Request) {
	f.inner.ServeHTTP(&cutWriter{w, n}, r)
}

type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= int64(len(p))
	return c.ResponseWriter.Write(p)
}

// impatient makes waiting short.
func impatient(t *testing.T) {
	ask, backoff, stall := askBackoff, blobBackoff, blobStall
	askBackoff, blobBackoff, blobStall = time.Millisecond, time.Millisecond, bundletest.Slower(time.Second)
	t.Cleanup(func() { askBackoff, blobBackoff, blobStall = ask, backoff, stall })
}

// pack collects HOST/a:1 and writes a bundle of it.
func pack(ctx context.Context, t *testing.T, reference string, mirrors map[string][]string) ([]byte, error) {
	t.Helper()
	return packInto(ctx, t, t.TempDir(), reference, mirrors)
}

func packInto(ctx context.Context, t *testing.T, cache, reference string, mirrors map[string][]string) ([]byte, error) {
	t.Helper()
	c, err := Collect(ctx, Options{Platforms: both[:1], CreatedAt: created, CacheDir: cache, Mirrors: mirrors,
		Images: []Spec{{Reference: "a:1", Services: []string{"a"}, From: reference}}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m := &bundle.Manifest{App: "a", Kind: bundle.KindCompose, Version: "1.0.0", CreatedAt: created, Platforms: both[:1], Components: c.Components,
		Files: []bundle.File{{Path: "compose.yaml", Mode: 0o644, Digest: bundle.DigestOf(nil)}},
		Device: bundle.Device{Compose: "compose.yaml", Project: "a", VersionEnv: "A", Keep: bundle.Keep{Releases: 2, Backups: 1},
			Health: bundle.Health{HTTP: "http://a", Retries: 1, Interval: 1}}}
	must(t, m.Finish())
	f, err := os.Create(filepath.Join(t.TempDir(), "bundle"))
	must(t, err)
	defer f.Close()
	var last int64
	err = bundle.Write(ctx, f, bundle.Gzip, m, withEmpty{c}, func(done, total int64) {
		if done < last || done > total {
			t.Errorf("progress goes from %d to %d of %d", last, done, total)
		}
		last = done
	})
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(f.Name())
	must(t, err)
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	must(t, err)
	must(t, r.Check(t.Context(), nil))
	return b, nil
}

type withEmpty struct{ *Collection }

func (withEmpty) OpenFile(string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(nil)), nil
}

// TestBrokenDownload: a blob whose connection breaks is the same blob in the end,
// and what was there is not asked for again where the registry can do that.
func TestBrokenDownload(t *testing.T) {
	impatient(t)
	f, _ := newFaults(t)
	good, err := pack(t.Context(), t, f.host+"/a:1", nil)
	must(t, err)
	for name, tc := range map[string]struct {
		broken func(n int, w http.ResponseWriter, r *http.Request) bool
		asked  int
		resume bool
	}{
		"cut": {func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n < 4 {
				f.cut(1<<20, w, r)
			}
			return false
		}, 4, true},
		"cut, and the registry knows no ranges": {func(n int, w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Range")
			if n < 4 {
				f.cut(int64(n)*700_000, w, r)
			}
			return false
		}, 4, true},
		"cut, and ranges are refused": {func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				f.cut(1<<20, w, r)
			}
			if r.Header.Get("Range") == "" {
				return false
			}
			http.Error(w, "", http.StatusRequestedRangeNotSatisfiable)
			return true
		}, 3, false},
		"ends without an error": {func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 {
				return false
			}
			w.Write([]byte("short"))
			return true
		}, 2, false},
		"stalls": {func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n > 1 {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(faultyLayer))
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(bundletest.Patience()):
			}
			return true
		}, 2, false},
		"another range than the one asked for": {func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				f.cut(1<<20, w, r)
			}
			if n == 2 {
				w.Header().Set("Content-Range", "bytes 0-9/10")
				w.WriteHeader(http.StatusPartialContent)
				return true
			}
			return false
		}, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			f.broken, f.asked, f.ranges = tc.broken, 0, nil
			b, err := pack(t.Context(), t, f.host+"/a:1", nil)
			if name == "ends without an error" { // five bytes of something else: nobody can know before the digest
				if err == nil || !strings.Contains(err.Error(), "(rule digest)") {
					t.Errorf("got %v", err)
				}
				return
			}
			must(t, err)
			if !bytes.Equal(b, good) {
				t.Error("the bundle is another one")
			}
			if f.asked != tc.asked {
				t.Errorf("asked %d times: %q", f.asked, f.ranges)
			}
			if tc.resume && !strings.HasPrefix(f.ranges[f.asked-1], "bytes=") {
				t.Errorf("did not go on where it was: %q", f.ranges)
			}
		})
	}
}

// TestBrokenForGood: what never gets better ends with an error, soon when asking
// again is no use, and at once when nobody waits any more.
func TestBrokenForGood(t *testing.T) {
	impatient(t)
	f, _ := newFaults(t)
	t.Run("cut each time", func(t *testing.T) {
		f.asked, f.broken = 0, func(n int, w http.ResponseWriter, r *http.Request) bool { f.cut(10, w, r); return false }
		_, err := pack(t.Context(), t, f.host+"/a:1", nil)
		if err == nil || !strings.Contains(err.Error(), "given up after 5 attempts") || f.asked != 5 {
			t.Errorf("asked %d times: %v", f.asked, err)
		}
	})
	t.Run("gone", func(t *testing.T) {
		f.asked, f.broken = 0, func(n int, w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }
		if _, err := pack(t.Context(), t, f.host+"/a:1", nil); err == nil || !strings.Contains(err.Error(), "404") || f.asked != 1 {
			t.Errorf("asked %d times: %v", f.asked, err)
		}
	})
	t.Run("other bytes", func(t *testing.T) {
		f.asked, f.broken = 0, func(n int, w http.ResponseWriter, r *http.Request) bool {
			w.Write(make([]byte, faultyLayer))
			return true
		}
		if _, err := pack(t.Context(), t, f.host+"/a:1", nil); err == nil || !strings.Contains(err.Error(), "(rule digest)") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		blobStall = bundletest.Patience()
		ctx, cancel := context.WithCancel(t.Context())
		f.asked, f.broken = 0, func(n int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", fmt.Sprint(faultyLayer))
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			cancel()
			select {
			case <-r.Context().Done():
			case <-time.After(bundletest.Patience()):
			}
			return true
		}
		begin := time.Now()
		if _, err := pack(ctx, t, f.host+"/a:1", nil); !errors.Is(err, context.Canceled) || time.Since(begin) > bundletest.Patience()/2 {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

// TestSilentDocument: a registry that says no more in the middle of a document, or of a
// failure, holds up no build.
func TestSilentDocument(t *testing.T) {
	impatient(t)
	for _, status := range []int{http.StatusOK, http.StatusServiceUnavailable, http.StatusNotFound} {
		ended := make(chan struct{})
		f, _ := newFaults(t)
		inner := f.inner
		f.inner = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				inner.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(status)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done(): // who asked has gone
			case <-ended:
			}
		})
		if _, err := pack(t.Context(), t, f.host+"/a:1", nil); err == nil {
			t.Errorf("%d: it was packed", status)
		}
		close(ended)
	}
}

// TestMirrors: mirrors are asked first; one that does not have it, is not there, or
// lies about an image manifest is passed over.
func TestMirrors(t *testing.T) {
	impatient(t)
	origin, _ := newFaults(t)
	mirror, _ := newFaults(t)
	empty, _ := newFaults(t)
	empty.inner = http.NotFoundHandler()
	good, err := pack(t.Context(), t, origin.host+"/a:1", nil)
	must(t, err)
	for name, tc := range map[string]struct {
		mirrors []string
		broken  func(n int, w http.ResponseWriter, r *http.Request) bool
		origin  bool // is asked for the blob
	}{
		"has it":       {[]string{mirror.host}, nil, false},
		"has it not":   {[]string{empty.host}, nil, true},
		"second of it": {[]string{empty.host, mirror.host}, nil, false},
		"is not there": {[]string{"127.0.0.1:1"}, nil, true},
		"breaks off": {[]string{mirror.host}, func(n int, w http.ResponseWriter, r *http.Request) bool {
			mirror.cut(1<<20, w, r)
			return false
		}, true},
		"lost the blob": {[]string{mirror.host}, func(n int, w http.ResponseWriter, r *http.Request) bool {
			http.NotFound(w, r)
			return true
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			mirror.broken, origin.asked = tc.broken, 0
			origin.others.Store(0)
			b, err := pack(t.Context(), t, origin.host+"/a:1", map[string][]string{origin.host: tc.mirrors})
			must(t, err)
			if !bytes.Equal(b, good) {
				t.Error("the bundle is another one")
			}
			if (origin.asked > 0) != tc.origin {
				t.Errorf("the registry was asked %d times for the blob", origin.asked)
			}
			if name == "has it" && origin.others.Load() > 0 {
				t.Errorf("the registry was asked %d times", origin.others.Load())
			}
		})
	}
}

// TestBusy has a registry that has had too many requests: what it says of waiting is
// done, when it is not too long.
func TestBusy(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var after atomic.Value
	var asked atomic.Int64
	after.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if header := after.Load().(string); header != "" && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			if asked.Add(1) == 1 || header == "3600" {
				w.Header().Set("Retry-After", header)
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	push(t, host+"/a:1", newIndex(t, "a", amd64, arm64), nil)
	after.Store("0")
	_, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "a:1", From: host + "/a:1"}}})
	if err != nil || asked.Load() < 2 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
	asked.Store(0)
	after.Store("3600")
	_, err = Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "b:1", From: host + "/a:1"}}})
	var busy *BusyError
	if !errors.As(err, &busy) || busy.Host != host || busy.After != time.Hour || asked.Load() != 1 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
	for text, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:03:05 GMT": 0} {
		if got := retryAfter(http.Header{"Retry-After": {text}, "Date": {"Fri, 02 Jan 2026 03:04:05 GMT"}}); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// TestHosts trusts an authority for the host that it is named for, and no other.
func TestHosts(t *testing.T) {
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	named, other := httptest.NewTLSServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(named.Close)
	t.Cleanup(other.Close)
	pool := x509.NewCertPool()
	pool.AddCert(named.Certificate())
	h := &hosts{next: map[string]http.RoundTripper{}, roots: func(host string) (*x509.CertPool, error) {
		switch host {
		case strings.TrimPrefix(named.URL, "https://"):
			return pool, nil
		case "bad.example":
			return nil, errors.New("no certificate")
		}
		return nil, nil
	}}
	for url, want := range map[string]string{named.URL: "", other.URL: "certificate signed by unknown authority", "https://bad.example": "certificates for bad.example: no certificate"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		must(t, err)
		res, err := h.RoundTrip(req)
		if err == nil {
			res.Body.Close()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
}

// TestPlain speaks HTTP with the registries that are named for it, mirrors too.
func TestPlain(t *testing.T) {
	c := &collector{Options: Options{Plain: []string{"plain.example:5000"}, Mirrors: map[string][]string{"index.docker.io": {"plain.example:5000/hub", "other.example"}}}}
	for text, want := range map[string]string{"plain.example:5000/a:1": "http", "plain.example/a:1": "https", "a:1": "http https https"} {
		r, err := c.registry(text)
		must(t, err)
		var schemes []string
		for _, p := range r.places {
			schemes = append(schemes, p.repository.Scheme())
		}
		if got := strings.Join(schemes, " "); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestPrivateStorage lets only a registry of the own network redirect into it.
func TestPrivateStorage(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"10.0.0.1", "10.0.0.2", true}, {"10.0.0.1", "192.168.1.1", true}, {"10.0.0.1", "8.8.8.8", true}, {"8.8.8.8", "10.0.0.2", false},
		{"10.0.0.1", "127.0.0.1", false}, {"10.0.0.1", "169.254.169.254", false}, {"10.0.0.1", "0.0.0.0", false}, {"127.0.0.1", "10.0.0.1", false}, {"127.0.0.1", "127.0.0.1", true},
	} {
		request := func(host string) *http.Request {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/", nil)
			must(t, err)
			return req
		}
		if err := checkRedirect(request(c.to), []*http.Request{request(c.from)}); (err == nil) != c.ok {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
}

// TestTenImages takes ten images, each in a repository of its own and with a common
// base, from a registry that has too many requests, fails and breaks connections: no
// blob is loaded twice, and connections are used again.
func TestTenImages(t *testing.T) {
	impatient(t)
	shared := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{2}).Read(shared)
	base := static.NewLayer(shared, types.OCIUncompressedLayer)
	baseDigest, err := base.Digest()
	must(t, err)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var (
		mu     sync.Mutex
		faulty bool
		sent   = map[string]int64{} // bytes of blobs
		asked  = map[string]int{}
		cut    atomic.Bool
		served = map[string]map[string]bool{} // repositories, by connection
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !faulty {
			inner.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		if served[r.RemoteAddr] == nil {
			served[r.RemoteAddr] = map[string]bool{}
		}
		if repository := strings.Split(r.URL.Path, "/")[2]; repository != "" {
			served[r.RemoteAddr][repository] = true
		}
		asked[r.URL.Path]++
		first := asked[r.URL.Path] == 1
		failure := len(asked) % 4
		mu.Unlock()
		_, digest, blob := strings.Cut(r.URL.Path, "/blobs/")
		switch {
		case first && failure == 0:
			w.Header().Set("Retry-After", "0")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		case first && failure == 1 && blob:
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		if blob {
			w = &countWriter{w, func(n int) {
				mu.Lock()
				defer mu.Unlock()
				sent[digest] += int64(n)
			}}
			if digest == baseDigest.String() && !cut.Swap(true) {
				w = &cutWriter{w, 1 << 20}
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	o := Options{Platforms: both, CreatedAt: created, CacheDir: t.TempDir()}
	for i := range 10 {
		index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
		for _, p := range []v1.Platform{amd64, arm64} {
			img, err := mutate.AppendLayers(newImage(t, p, fmt.Sprint("image ", i)), base)
			must(t, err)
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		}
		name := fmt.Sprintf("a%d:1", i)
		push(t, host+"/"+name, index, nil)
		o.Images = append(o.Images, Spec{Reference: name, Services: []string{name[:2]}, From: host + "/" + name})
	}
	faulty = true
	c, err := Collect(t.Context(), o)
	must(t, err)
	layers := map[bundle.Digest]int64{}
	for _, component := range c.Components {
		for _, img := range component.Images {
			for _, l := range img.Layers {
				layers[l.Digest] = l.Size
			}
		}
	}
	if len(layers) != 1+10*2*2 {
		t.Errorf("%d layers", len(layers))
	}
	for d, size := range layers {
		readBlob(t, c, d)
		mu.Lock()
		if sent[string(d)] != size {
			t.Errorf("of layer %s, which has %d bytes, %d were sent", d, size, sent[string(d)])
		}
		mu.Unlock()
	}
	mu.Lock()
	defer mu.Unlock()
	// How many there are is a matter of timing: Go may open one and then use another.
	several := func(repositories map[string]bool) bool { return len(repositories) > 1 }
	if !slices.ContainsFunc(slices.Collect(maps.Values(served)), several) {
		t.Errorf("of %d connections, none served several images", len(served))
	}
}

// countWriter tells how much is sent, before it is: the other end may be done first.
type countWriter struct {
	http.ResponseWriter
	tell func(n int)
}

func (c *countWriter) Write(p []byte) (int, error) {
	c.tell(len(p))
	return c.ResponseWriter.Write(p)
}

func (c *countWriter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }
