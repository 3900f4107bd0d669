package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

const size = 3*chunkSize + 12345

// readRange reads as a bundle's reader does: in order, in pieces.
func readRange(f *File, r bundle.Range) ([]byte, error) {
	return io.ReadAll(struct{ io.Reader }{io.NewSectionReader(f, r.From, r.To-r.From)})
}

func TestFile(t *testing.T) {
	srv := newServer(t, randomBytes(size))
	f := testSource(t, Options{}).open(t, srv.URL)
	if f.Size() != size {
		t.Fatalf("size is %d, want %d", f.Size(), size)
	}
	// Head and tail cost one request each.
	head, tail := make([]byte, 20<<10), make([]byte, 37)
	for _, p := range []struct {
		b   []byte
		off int64
	}{{head[:2], 0}, {head, 0}, {tail, size - 37}, {tail[:10], size - 4000}} {
		if _, err := f.ReadAt(p.b, p.off); err != nil || !bytes.Equal(p.b, srv.content[p.off:p.off+int64(len(p.b))]) {
			t.Fatalf("at %d: %v", p.off, err)
		}
	}
	if got := srv.requests(); got != 2 {
		t.Errorf("%d requests for head and tail, want 2: %v", got, srv.asked)
	}
	// What was announced is fetched once, near ranges together.
	want := []bundle.Range{{From: 100_000, To: 200_000}, {From: 201_000, To: 300_000}, {From: 5_000_000, To: 9_500_000}}
	f.Expect(want)
	before := f.Traffic()
	for _, r := range want {
		if b, err := readRange(f, r); err != nil || !bytes.Equal(b, srv.content[r.From:r.To]) {
			t.Fatalf("range %v: %v", r, err)
		}
	}
	cost := f.Traffic()
	if got := cost.Bytes - before.Bytes; got != 200_000+4_500_000 {
		t.Errorf("%d bytes, want those of the ranges and the gap of 1000", got)
	}
	if got := cost.Requests - before.Requests; got != 3 {
		t.Errorf("%d requests, want 3: %v", got, srv.asked)
	}
	for _, asked := range srv.asked[1:] {
		if !strings.HasSuffix(asked, ` "one"`) {
			t.Errorf("%s: without If-Range the answer may be of another file", asked)
		}
	}
	if n, err := f.ReadAt(make([]byte, 10), size-4); n != 4 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// TestFileSequential: a reader that goes on where nothing was announced does not
// ask for every piece.
func TestFileSequential(t *testing.T) {
	srv := newServer(t, randomBytes(size))
	f := testSource(t, Options{}).open(t, srv.URL)
	if b, err := readRange(f, bundle.Range{From: 0, To: 4 << 20}); err != nil || !bytes.Equal(b, srv.content[:4<<20]) {
		t.Fatal(err)
	}
	if got := srv.requests(); got > 12 {
		t.Errorf("%d requests for 4 MiB", got)
	}
}

// TestFileThin: whoever copies a bundle from a server fetches nothing twice,
// however its layers lie on the borders of chunks.
func TestFileThin(t *testing.T) {
	m, c := bundletest.Release(t, bundletest.Spec{Layer: 3 << 20, Own: 3 << 20})
	srv := newServer(t, bundletest.Write(t, m, c))
	f := testSource(t, Options{}).open(t, srv.URL)
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Locate(); err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, file := range m.Files {
		files = append(files, file.Path)
	}
	f.Expect(r.Ranges(files, slices.Collect(maps.Keys(c.Blobs))))
	dst, err := os.Create(filepath.Join(t.TempDir(), "thin"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := bundle.Thin(t.Context(), dst, r, func(bundle.Digest) bool { return false }, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, srv.content) {
		t.Errorf("the copy is another file (%v)", err)
	}
	if cost := f.Traffic(); cost.Bytes > f.Size()+headWindow+tailWindow {
		t.Errorf("%d bytes in %d requests, the file has %d", cost.Bytes, cost.Requests, f.Size())
	}
}

// TestFileReaders: several who read what was announced at different places get in
// each other's way, but all get there.
func TestFileReaders(t *testing.T) {
	srv := newServer(t, randomBytes(2*size))
	f := testSource(t, Options{}).open(t, srv.URL)
	f.Expect([]bundle.Range{{From: 0, To: 2 * size}})
	var all sync.WaitGroup
	for i := range int64(3) {
		all.Go(func() {
			r := bundle.Range{From: i * chunkSize * 2, To: i*chunkSize*2 + chunkSize}
			if b, err := readRange(f, r); err != nil || !bytes.Equal(b, srv.content[r.From:r.To]) {
				t.Errorf("%v: got %d bytes, %v", r, len(b), err)
			}
		})
	}
	all.Wait()
}

func TestFileSmall(t *testing.T) {
	for _, n := range []int{1, 100, tailWindow, headWindow, headWindow + 1} {
		srv := newServer(t, randomBytes(n))
		f := testSource(t, Options{}).open(t, srv.URL)
		if b, err := readRange(f, bundle.Range{From: 0, To: f.Size()}); err != nil || !bytes.Equal(b, srv.content) {
			t.Errorf("%d bytes: got %d, %v", n, len(b), err)
		}
		if got := srv.requests(); n <= headWindow && got != 1 {
			t.Errorf("%d bytes: %d requests", n, got)
		}
	}
}

// TestFileFaults: what goes wrong on the way is tried again where it ended, and
// nothing comes out twice or in the wrong place.
func TestFileFaults(t *testing.T) {
	all := bundle.Range{From: 40_000, To: size - 20_000}
	for name, fault := range map[string]func(s *server) func(int, http.ResponseWriter, *http.Request) bool{
		"every second request fails": func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n%2 == 0 {
					w.Header().Set("Retry-After", "0")
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				return n%2 == 0
			}
		},
		"every second answer is cut off": func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n%2 == 0 {
					s.cut(w, r, 300_000)
				}
				return false
			}
		},
		"every answer is cut off": func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n > 1 {
					s.cut(w, r, 300_000)
				}
				return false
			}
		},
		"answers stall": func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n%3 != 0 {
					return false
				}
				w.Header().Set("ETag", s.etag)
				http.ServeContent(&cutting{w, 100_000}, r, "", time.Unix(1700000000, 0), bytes.NewReader(s.content))
				<-r.Context().Done()
				return true
			}
		},
		"connections end before the answer": func(s *server) func(int, http.ResponseWriter, *http.Request) bool {
			return func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n%2 == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Connection", "close") // on one that is used again, net/http repeats a request by itself
				return false
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t, randomBytes(size))
			srv.fault = fault(srv)
			var told atomic.Int64
			f := testSource(t, Options{Retry: func(error) { told.Add(1) }}).open(t, srv.URL)
			f.Expect([]bundle.Range{all})
			b, err := readRange(f, all)
			if err != nil || !bytes.Equal(b, srv.content[all.From:all.To]) {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			if told.Load() == 0 {
				t.Error("nobody was told that anything failed")
			}
			if got := f.Traffic().Bytes; got != int64(len(b))+headWindow {
				t.Errorf("%d bytes were fetched for %d: an attempt did not go on where the last one ended", got, len(b))
			}
		})
	}
}

// TestFileSlow: a link may be slow as long as something comes.
func TestFileSlow(t *testing.T) {
	srv := newServer(t, randomBytes(size))
	srv.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n > 1 {
			w.Header().Set("ETag", srv.etag)
			http.ServeContent(&dripping{w}, r, "", time.Unix(1700000000, 0), bytes.NewReader(srv.content))
		}
		return n > 1
	}
	var told atomic.Int64
	f := testSource(t, Options{Retry: func(error) { told.Add(1) }}).open(t, srv.URL)
	slow := bundle.Range{From: 40_000, To: 500_000}
	f.Expect([]bundle.Range{slow})
	start := time.Now()
	if b, err := readRange(f, slow); err != nil || !bytes.Equal(b, srv.content[slow.From:slow.To]) {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 2*quick.stall {
		t.Fatalf("it took %s: not slow enough to prove anything", took)
	}
	if told.Load() != 0 || srv.requests() != 2 {
		t.Errorf("%d attempts failed, %d requests", told.Load(), srv.requests())
	}
}

// dripping sends 16 KiB at a time, with pauses far below the limit for a silence.
type dripping struct{ http.ResponseWriter }

func (d *dripping) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := d.ResponseWriter.Write(p[done:min(done+16<<10, len(p))])
		if done += n; err != nil {
			return done, err
		}
		d.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(quick.stall / 12)
	}
	return done, nil
}

// TestFileRefused: what cannot be right ends with one sentence.
func TestFileRefused(t *testing.T) {
	late := func(n int) bool { return n > 2 }
	for name, tc := range map[string]struct {
		fault func(s *server, n int, w http.ResponseWriter, r *http.Request) bool
		want  error
		text  string
	}{
		"the file is exchanged": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if late(n) {
				w.Header().Set("ETag", `"two"`)
				http.ServeContent(w, r, "", time.Unix(1700000000, 0), bytes.NewReader(append([]byte{1}, s.content[1:]...)))
			}
			return late(n)
		}, ErrChanged, "exchanged"},
		"the file is exchanged behind a weak ETag": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("ETag", map[bool]string{true: `W/"two"`, false: `W/"one"`}[late(n)])
			http.ServeContent(w, r, "", time.Unix(1700000000, 0), bytes.NewReader(s.content))
			return true
		}, ErrChanged, "exchanged"},
		"the file is exchanged, and nothing but its date and length says so": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			at := time.Unix(1700000000, 0)
			if late(n) {
				at = at.Add(time.Hour)
			}
			http.ServeContent(w, r, "", at, bytes.NewReader(s.content))
			return true
		}, ErrChanged, "exchanged"},
		"the file gets longer": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if late(n) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(append(s.content, 1)))
			}
			return late(n)
		}, ErrChanged, "exchanged"},
		"the file is exchanged, and only its length says so": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			content := s.content
			if late(n) {
				content = append(content, 1)
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			return true
		}, ErrChanged, "not 12595257"},
		"ranges are no longer given": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if late(n) {
				w.Header().Set("ETag", s.etag)
				w.Header().Set("Content-Length", "12595257")
				_, _ = w.Write(s.content)
			}
			return late(n)
		}, ErrNoRanges, "parts of files"},
		"another range": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if late(n) {
				w.Header().Set("Content-Range", "bytes 0-99/12595257")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(s.content[:100])
			}
			return late(n)
		}, nil, "another range"},
		"compressed on the way": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if late(n) {
				w.Header().Set("Content-Encoding", "gzip")
			}
			return false
		}, nil, "another range"},
		"it is gone": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if late(n) {
				http.NotFound(w, r)
			}
			return late(n)
		}, nil, "404 (Not Found)"},
		"it never works again": {func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
			if late(n) {
				w.WriteHeader(http.StatusBadGateway)
			}
			return late(n)
		}, nil, "502 (Bad Gateway) (given up after 4 attempts)"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t, randomBytes(size))
			srv.fault = func(n int, w http.ResponseWriter, r *http.Request) bool { return tc.fault(srv, n, w, r) }
			f := testSource(t, Options{}).open(t, srv.URL)
			all := bundle.Range{From: 40_000, To: size - 20_000}
			f.Expect([]bundle.Range{all})
			b, err := readRange(f, all)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %q", err, tc.text)
			}
			if !bytes.Equal(b, srv.content[all.From:all.From+int64(len(b))]) {
				t.Error("what came before is something else")
			}
		})
	}
}

func TestNoRanges(t *testing.T) {
	srv := newServer(t, randomBytes(size))
	srv.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 2 { // the first attempt to get all of it
			w.Header().Set("Content-Length", "12595257")
			_, _ = w.Write(srv.content[:1_000_000])
			return true
		}
		r.Header.Del("Range")
		return false
	}
	s := testSource(t, Options{})
	b := s.at(-1, srv.URL)
	if _, err := s.Open(context.Background(), b); !errors.Is(err, ErrNoRanges) {
		t.Fatalf("got %v, want ErrNoRanges", err)
	}
	dst, err := os.Create(filepath.Join(t.TempDir(), "whole"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	var last int64
	if err := s.Download(context.Background(), b, dst, room, func(done, total int64) {
		if last = done; total != size {
			t.Errorf("total is %d", total)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, srv.content) || last != size {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for name, fault := range map[string]http.HandlerFunc{
		"another length": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 10)) },
		"no length": func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(make([]byte, 10))
		},
		"not found": http.NotFound,
	} {
		srv.fault = func(n int, w http.ResponseWriter, r *http.Request) bool { fault(w, r); return true }
		b.parts[0].size = size
		if err := s.Download(context.Background(), b, dst, room, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestFileParts: a bundle in parts reads as one.
func TestFileParts(t *testing.T) {
	content := randomBytes(size)
	var urls []string
	for _, r := range [][2]int{{0, 5_000_000}, {5_000_000, 5_000_001}, {5_000_001, size}} {
		urls = append(urls, newServer(t, content[r[0]:r[1]]).URL)
	}
	f := testSource(t, Options{}).open(t, urls...)
	all := bundle.Range{From: 0, To: size}
	if f.Size() != size {
		t.Fatalf("size is %d", f.Size())
	}
	f.Expect([]bundle.Range{all})
	if b, err := readRange(f, all); err != nil || !bytes.Equal(b, content) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestRedirect: the address that a redirect leads to is used as long as it is
// good, and does not get to see the token.
func TestRedirect(t *testing.T) {
	var leaked []string
	store := newTLSServer(t, randomBytes(size))
	good := 3
	store.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if a := r.Header.Get("Authorization"); a != "" {
			leaked = append(leaked, a)
		}
		if n > good && r.URL.Query().Get("signature") == "first" {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	}
	var fronted int
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fronted++
		signature := "first"
		if fronted > 1 {
			signature = "second"
		}
		// Another host, as far as a client can tell: it has another port.
		http.Redirect(w, r, store.URL+"/?signature="+signature, http.StatusFound)
	}))
	t.Cleanup(front.Close)
	s := trusting(testSource(t, Options{}), front)
	base, err := url.Parse(front.URL)
	if err == nil {
		s.client, err = s.client.withToken(base, "secret")
	}
	if err != nil {
		t.Fatal(err)
	}
	f := s.open(t, front.URL)
	all := bundle.Range{From: 40_000, To: size - 20_000}
	f.Expect([]bundle.Range{all})
	if b, err := readRange(f, all); err != nil || !bytes.Equal(b, store.content[all.From:all.To]) {
		t.Fatal(err)
	}
	if len(leaked) > 0 {
		t.Errorf("the other host saw %q", leaked)
	}
	if fronted < 2 || fronted > 4 {
		t.Errorf("the first address was asked %d times, want once and again when the other one had expired", fronted)
	}
}

func TestRedirectRefused(t *testing.T) {
	plain := newServer(t, randomBytes(10))
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	t.Cleanup(secure.Close)
	s := testSource(t, Options{})
	s.client.http.Transport = secure.Client().Transport
	if _, err := s.Open(context.Background(), s.at(-1, secure.URL)); err == nil || !strings.Contains(err.Error(), "not encrypted") {
		t.Errorf("to http: %v", err)
	}
	var loop *httptest.Server
	loop = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, loop.URL, http.StatusFound) }))
	t.Cleanup(loop.Close)
	if _, err := s.Open(context.Background(), s.at(-1, loop.URL)); err == nil || !strings.Contains(err.Error(), "5 redirects") {
		t.Errorf("in a circle: %v", err)
	}
}

// TestSpool: what was fetched before a power cut is not fetched again, and only
// if it is still what it was.
func TestSpool(t *testing.T) {
	srv := newServer(t, randomBytes(size))
	dir := t.TempDir()
	all := bundle.Range{From: 40_000, To: size - 20_000}
	id := bundle.DigestOf([]byte("release"))
	read := func(id bundle.Digest, upTo int64) Traffic {
		t.Helper()
		f := testSource(t, Options{}).open(t, srv.URL)
		f.Expect([]bundle.Range{all})
		if err := f.Spool(dir, id); err != nil {
			t.Fatal(err)
		}
		b, err := readRange(f, bundle.Range{From: all.From, To: upTo})
		if err != nil || !bytes.Equal(b, srv.content[all.From:upTo]) {
			t.Fatal(err)
		}
		f.Close()
		return f.Traffic()
	}
	read(id, all.From+2*chunkSize+1) // and no further: the power goes
	spooled := func() []string {
		kept, err := filepath.Glob(filepath.Join(dir, "*", "[0-9]*"))
		if err != nil {
			t.Fatal(err)
		}
		return kept
	}
	if kept := spooled(); len(kept) < 2 {
		t.Fatalf("kept: %v", kept)
	}
	if got := read(id, all.To); got.Spooled < 2*chunkSize-40_000 || got.Bytes+got.Spooled != all.To-all.From+headWindow {
		t.Errorf("after the cut: %+v", got)
	}
	// One chunk rots, one is cut off, one was being written.
	kept := spooled()
	if len(kept) != 3 {
		t.Fatalf("kept: %v", kept)
	}
	b, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	for name, data := range map[string][]byte{kept[0]: b, kept[1]: b[:100], filepath.Join(filepath.Dir(kept[0]), ".tmp123"): b} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(id, all.To); got.Spooled == 0 || got.Bytes < chunkSize {
		t.Errorf("with a rotten chunk: %+v", got)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(kept[0]), ".tmp123")); err == nil {
		t.Error("a left-over is still there")
	}
	// Another release, or another file, starts afresh.
	if got := read(bundle.DigestOf(nil), all.To); got.Spooled != 0 {
		t.Errorf("another release: %+v", got)
	}
	srv.etag = `"other"`
	if got := read(bundle.DigestOf(nil), all.To); got.Spooled != 0 {
		t.Errorf("another file: %+v", got)
	}
	if dirs, err := os.ReadDir(dir); err != nil || len(dirs) != 1 {
		t.Errorf("old spools are still there: %v", dirs)
	}
}

// TestHead: what a bundle says of itself is read without waiting for more of it, from
// a server that gives parts of files and from one that gives only whole ones, which
// stops when it has sent the beginning.
func TestHead(t *testing.T) {
	m, c := bundletest.Release(t, bundletest.Spec{Layer: 3 << 20})
	content := bundletest.Write(t, m, c)
	for name, serve := range map[string]http.HandlerFunc{
		"parts": func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "shop.tar.gz", time.Time{}, bytes.NewReader(content))
		},
		"whole": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = w.Write(content[:headWindow])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for zeros := make([]byte, 1<<20); ; {
				if _, err := w.Write(zeros); err != nil {
					return
				}
			}
		},
		"no bundle": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = w.Write(bytes.Repeat([]byte("x"), len(content)))
		},
		"gone": http.NotFound,
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(serve)
			t.Cleanup(srv.Close)
			s, b, err := Direct(srv.URL+"/shop.tar.gz", Options{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Head(t.Context(), b)
			want := map[string]string{"endless": "says that the file has -1 bytes", "no bundle": "neither gzip nor zstd nor tar", "gone": "404"}[name]
			if want == "" && (err != nil || got.Version != m.Version) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v, %v, want %q", got, err, want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "shop-1.2.3.tar.gz")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New("shop", Config{Path: filepath.Dir(file)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Releases(t.Context(), Query{Platform: "linux/amd64"})
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if got, err := s.Head(t.Context(), all[0].Bundles[0]); err != nil || got.Version != m.Version {
		t.Errorf("%v, %v", got, err)
	}
}
