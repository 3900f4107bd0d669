package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
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
	backoff, stall := blobBackoff, blobStall
	blobBackoff, blobStall = time.Millisecond, bundletest.Slower(time.Second)
	t.Cleanup(func() { blobBackoff, blobStall = backoff, stall })
}

// pack collects HOST/a:1 and writes a bundle of it.
func pack(ctx context.Context, t *testing.T, reference string, mirrors map[string][]string) ([]byte, error) {
	t.Helper()
	c, err := Collect(ctx, Options{Platforms: both[:1], CreatedAt: created, CacheDir: t.TempDir(), Mirrors: mirrors,
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
