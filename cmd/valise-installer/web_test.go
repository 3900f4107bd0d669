package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle"
)

// webServer shows a directory to devices: as files, with a list, and as GitHub
// shows releases.
type webServer struct {
	*httptest.Server
	dir string

	mu       sync.Mutex
	fault    string
	after    int // requests of bundles that the fault spares
	requests int // of bundles
	bytes    int
}

// web is web DIR: serves it at $WEB, and at $WEB/api/v3 as the releases of
// acme/tiny, until the script ends.
func web(ts *testscript.TestScript, neg bool, args []string) {
	s := &webServer{dir: ts.MkAbs(args[0])}
	ts.Check(os.MkdirAll(s.dir, 0o755))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /files/{name}", s.file)
	mux.HandleFunc("GET /files/{$}", func(w http.ResponseWriter, r *http.Request) {
		for _, name := range s.names() {
			fmt.Fprintf(w, "<a href=%q>%s</a>\n", name, name)
		}
	})
	mux.HandleFunc("GET /api/v3/repos/acme/tiny/releases", func(w http.ResponseWriter, r *http.Request) {
		list := []any{}
		for _, name := range s.names() {
			if v := versionOf(name); v != "" && !strings.Contains(name, "-from-") {
				list = append(list, s.release(v))
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("GET /api/v3/repos/acme/tiny/releases/tags/{tag}", func(w http.ResponseWriter, r *http.Request) {
		if rel := s.release(strings.TrimPrefix(r.PathValue("tag"), "v")); rel != nil {
			_ = json.NewEncoder(w).Encode(rel)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"Not Found"}`)
	})
	s.Server = httptest.NewServer(mux)
	st := ts.Value(testKey{}).(*state)
	st.web = s
	st.Cleanup(s.Close)
	ts.Setenv("WEB", s.URL)
}

func (s *webServer) names() (names []string) {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func versionOf(name string) string {
	v, ok := strings.CutPrefix(name, "tiny-")
	v, _, _ = strings.Cut(strings.TrimSuffix(v, ".tar.gz"), "-from-")
	if _, err := bundle.ParseVersion(v); !ok || err != nil {
		return ""
	}
	return v
}

// release is what GitHub says of a release, nil when there is none.
func (s *webServer) release(version string) any {
	assets := []any{}
	for _, name := range s.names() {
		if versionOf(name) == version {
			info, err := os.Stat(filepath.Join(s.dir, name))
			if err == nil {
				assets = append(assets, map[string]any{"name": name, "state": "uploaded", "size": info.Size(), "browser_download_url": s.URL + "/files/" + name})
			}
		}
	}
	if len(assets) == 0 {
		return nil
	}
	_, pre, _ := strings.Cut(version, "-")
	return map[string]any{"tag_name": "v" + version, "name": version, "prerelease": pre != "", "html_url": "https://github.com/acme/tiny/releases/tag/v" + version, "assets": assets}
}

func (s *webServer) file(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests++
	fault := s.fault
	if s.requests <= s.after {
		fault = ""
	}
	n := s.requests
	s.mu.Unlock()
	f, err := os.ReadFile(filepath.Join(s.dir, filepath.Base(r.PathValue("name"))))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	info, _ := os.Stat(filepath.Join(s.dir, filepath.Base(r.PathValue("name"))))
	etag := `"` + bundle.DigestOf(f).Hex()[:16] + `"`
	out := &countedResponse{ResponseWriter: w, s: s, left: math.MaxInt}
	switch fault {
	case "norange":
		r.Header.Del("Range")
	case "second":
		if n%2 == 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
	case "cut":
		out.left = 700_000
	case "swap":
		etag = `"another"`
	case "gone":
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("ETag", etag)
	http.ServeContent(out, r, "", info.ModTime(), bytes.NewReader(f))
	if out.left <= 0 {
		panic(http.ErrAbortHandler)
	}
}

type countedResponse struct {
	http.ResponseWriter
	s    *webServer
	left int
}

func (c *countedResponse) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.s.mu.Lock()
	c.s.bytes += n
	c.s.mu.Unlock()
	if c.left -= n; n < len(p) {
		c.ResponseWriter.(http.Flusher).Flush()
		err = cmp.Or(err, http.ErrAbortHandler)
	}
	return n, err
}

// fault is fault NAME [N]: from the next bundle request but N on the server
//
//	norange   gives whole files only
//	second    fails every second request
//	cut       ends every answer after 700 kB
//	swap      has another file under the name
//	gone      is gone
//	none      is well again
func fault(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(testKey{}).(*state).web
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.after = args[0], 0
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		s.after = s.requests + n
	}
}

// traffic is traffic MIN MAX REQUESTS: since it was asked last, at least MIN and at
// most MAX bytes of bundles were sent, in at most so many requests. MIN and MAX
// may be the name of a bundle, which stands for its size.
func traffic(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(testKey{}).(*state).web
	s.mu.Lock()
	defer s.mu.Unlock()
	number := func(arg string) int {
		if info, err := os.Stat(filepath.Join(s.dir, arg)); err == nil {
			return int(info.Size())
		}
		n, err := strconv.Atoi(arg)
		ts.Check(err)
		return n
	}
	if s.bytes < number(args[0]) || s.bytes > number(args[1]) || s.requests > number(args[2]) {
		ts.Fatalf("%d bytes in %d requests, want %s to %s in at most %s", s.bytes, s.requests, args[0], args[1], args[2])
	}
	ts.Logf("%d bytes in %d requests", s.bytes, s.requests)
	s.bytes, s.requests = 0, 0
}
