package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

func TestParseName(t *testing.T) {
	for file, want := range map[string]string{
		"shop-1.2.3.tar.gz":                             "1.2.3   0",
		"shop-v1.2.3.tar.gz":                            "1.2.3   0",
		"shop-update-1.2.3.tar.gz":                      "1.2.3   0",
		"shop-1.2.3-rc.1.tar.zst":                       "1.2.3-rc.1   0",
		"shop-v1.2.3-x86_64-linux.tar.gz":               "1.2.3  linux/amd64 0",
		"shop-1.2.3-rc.1-linux-arm-v7.tar.gz":           "1.2.3-rc.1  linux/arm/v7 0",
		"shop-1.2.3-from-1.2.2.tar.gz":                  "1.2.3 1.2.2  0",
		"shop-1.2.3-linux-arm64-from-1.2.2-rc.1.tar.gz": "1.2.3 1.2.2-rc.1 linux/arm64 0",
		"shop-1.2.3.tar.gz.002":                         "1.2.3   2",
		"shop-1.2.3.tar.gz.000":                         "",
		"shop-1.2.tar.gz":                               "",
		"shop-01.2.3.tar.gz":                            "",
		"shop-1.2.3-from-1.2.tar.gz":                    "",
		"shop-1.2.3.tar.gz.sig":                         "",
		"shop-1.2.3.tar.gz.sha256":                      "",
		"shopping-1.2.3.tar.gz":                         "",
		"shop-admin-1.2.3.tar.gz":                       "",
		"till-1.2.3.tar.gz":                             "",
		"shop-.tar.gz":                                  "",
		"":                                              "",
	} {
		n, part, ok := parseName("shop", file)
		got := ""
		if ok {
			got = fmt.Sprintf("%s %s %s %d", n.Version, n.From, n.Platform, part)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, good := range []string{"github:acme/shop", "https://example.com/releases/", "http://192.168.1.5/shop", "/media/usb"} {
		if _, err := Parse(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "acme/shop", "github:acme", "github:acme/shop/releases", "github:../shop", "github:acme/sh op", "https://", "ftp://example.com/", "https://user:password@example.com/", "media/usb"} {
		if c, err := Parse(bad); err == nil {
			t.Errorf("%q was accepted: %+v", bad, c)
		}
	}
	for _, bad := range []Config{{}, {GitHub: "a/b", Path: "/x"}, {Path: "/x", API: "https://ghe/api/v3"}, {URL: "http://host/", TokenFile: "/token"}, {URL: "https://host/", Tags: "v*"}, {GitHub: "a/b", Tags: "shop-[v"}} {
		if _, err := New("shop", bad, Options{}); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if c := FromRepository("https://github.com/acme/shop.git"); c.GitHub != "acme/shop" {
		t.Errorf("got %+v", c)
	}
	for _, other := range []string{"", "https://gitlab.com/acme/shop", "https://github.com/acme", "https://github.com.evil.org/acme/shop"} {
		if c := FromRepository(other); !c.IsZero() {
			t.Errorf("%s: got %+v", other, c)
		}
	}
}

// fakeGitHub answers as the API does.
type fakeGitHub struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string
	counts int // answers that count against the limit
	limit  int
}

func newFakeGitHub(t *testing.T) *fakeGitHub {
	raw, err := os.ReadFile("testdata/releases.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	g := &fakeGitHub{limit: 60}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v3/repos/acme/shop/releases", func(w http.ResponseWriter, r *http.Request) {
		// Two pages, whatever size is asked for.
		half := len(all) / 2
		page := all[:half]
		if r.URL.Query().Get("page") == "2" {
			page = all[half:]
		} else {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=2>; rel="next", <%s%s?page=2>; rel="last"`, g.URL, r.URL.Path, g.URL, r.URL.Path))
		}
		g.answer(w, r, page)
	})
	mux.HandleFunc("GET /api/v3/repos/acme/shop/releases/tags/{tag}", func(w http.ResponseWriter, r *http.Request) {
		for _, one := range all {
			var rel struct {
				Tag   string `json:"tag_name"`
				Draft bool
			}
			if err := json.Unmarshal(one, &rel); err != nil {
				t.Error(err)
			}
			if rel.Tag == r.PathValue("tag") && !rel.Draft {
				g.answer(w, r, one)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"Not Found","documentation_url":"https://docs.github.com/rest/releases/releases#get-a-release-by-tag-name","status":"404"}`)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"Not Found","status":"404"}`)
	})
	g.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.asked = append(g.asked, r.URL.RequestURI()+" "+r.Header.Get("Authorization"))
		g.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

// answer sends v with an ETag, or 304, which does not count, or that the limit is
// used up.
func (g *fakeGitHub) answer(w http.ResponseWriter, r *http.Request, v any) {
	b, _ := json.Marshal(v)
	etag := `W/"` + bundle.DigestOf(b).Hex() + `"`
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-RateLimit-Limit", fmt.Sprint(g.limit))
	h.Set("X-RateLimit-Reset", "1795341600")
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if g.counts++; g.counts > g.limit {
		h.Del("ETag")
		h.Set("X-RateLimit-Remaining", "0")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"message":"API rate limit exceeded for 192.0.2.1. (But here's the good news: Authenticated requests get a higher rate limit. Check out the documentation for more details.)","documentation_url":"https://docs.github.com/rest/overview/resources-in-the-rest-api#rate-limiting"}`)
		return
	}
	h.Set("X-RateLimit-Remaining", fmt.Sprint(g.limit-g.counts))
	_, _ = w.Write(b)
}

func (g *fakeGitHub) source(t *testing.T, channel string, o Options) *Source {
	t.Helper()
	s, err := New("shop", Config{GitHub: "acme/shop", API: g.URL + "/api/v3", Channel: channel}, o)
	if err != nil {
		t.Fatal(err)
	}
	return trusting(s, g.Server)
}

func TestGitHubLatest(t *testing.T) {
	g := newFakeGitHub(t)
	for _, tc := range []struct {
		channel  string
		platform bundle.Platform
		bad      []string
		want     string
	}{
		{"", "linux/amd64", nil, "2.10.0"}, // not 2.9.0, which was published later, nor what is a draft, yanked, half uploaded or a pre-release
		{"beta", "linux/amd64", nil, "2.11.0-beta.2"},
		{"rc", "linux/amd64", nil, "2.10.0"},
		{"", "linux/arm64", nil, "2.16.0"},
		{"", "linux/amd64", []string{"2.10.0"}, "2.9.0"},
		{"", "linux/amd64", []string{"2.10.0", "2.9.0"}, ""},
	} {
		r, err := g.source(t, tc.channel, Options{}).Latest(context.Background(), Query{tc.platform, tc.bad})
		if r.Version != tc.want || (err == nil) == (tc.want == "") || err != nil && !errors.Is(err, ErrNoRelease) {
			t.Errorf("%+v: got %s, %v", tc, r.Version, err)
		}
	}
	r, err := g.source(t, "", Options{}).Latest(context.Background(), Query{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	full, thin := r.For("linux/amd64"), r.Thin("linux/amd64", "2.9.0")
	if len(full) != 1 || full[0].Size != 2500 || len(full[0].parts) != 2 || !strings.HasSuffix(full[0].parts[0].url, ".001") || !full[0].Remote() {
		t.Errorf("full: %+v", full)
	}
	if len(thin) != 1 || thin[0].Size != 300 || len(r.Thin("linux/amd64", "2.8.0")) != 0 || len(r.Thin("linux/amd64", "")) != 0 {
		t.Errorf("thin: %+v", thin)
	}
	if r.Tag != "v2.10.0" || r.Page != "https://github.com/acme/shop/releases/tag/v2.10.0" || r.Notes != "the newest" || r.Date.IsZero() {
		t.Errorf("release: %+v", r)
	}
}

func TestWebPage(t *testing.T) {
	const good = "https://github.com/acme/shop/releases/tag/v1.0.0"
	if got := webPage(good); got != good {
		t.Errorf("%s became %q", good, got)
	}
	for _, bad := range []string{"", "http://github.com/acme", "javascript:alert(1)", "data:text/html,x", "//evil.example/", "/login", "https:github.com", "https://github.com@evil.example/", "https://github.com/%zz", "https://github.com/" + strings.Repeat("a", 3000)} {
		if got := webPage(bad); got != "" {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestGitHubExactly(t *testing.T) {
	g := newFakeGitHub(t)
	s := g.source(t, "", Options{})
	for version, found := range map[string]bool{"2.9.0": true, "2.11.0-beta.2": true, "2.12.0": true, "2.14.0": true, "2.13.0": false, "1.0.0": false, "2.16.0": false} {
		r, err := s.Exactly(context.Background(), version, Query{Platform: "linux/amd64"})
		if found && (err != nil || r.Version != version) || !found && !errors.Is(err, ErrNoRelease) {
			t.Errorf("%s: got %s, %v", version, r.Version, err)
		}
		if got := g.asked[len(g.asked)-1]; found && strings.Contains(got, "releases?") {
			t.Errorf("%s: a tag is asked for by name", got)
		}
	}
}

// TestGitHubTags: tags as people write them, of two apps in one repository.
func TestGitHubTags(t *testing.T) {
	var releases []map[string]any
	for tag, app := range map[string]string{
		"1.0.0": "shop", "shop-v1.1.0": "shop", "shop@1.2.0": "shop", "apps/shop/v1.3.0": "shop", "edge-v1.4.0": "shop",
		"till-v9.0.0": "till", "till@9.1.0": "till", "shop-v1.9": "shop", "latest": "shop",
	} {
		_, version, _ := bundle.SplitTag(tag)
		releases = append(releases, map[string]any{"tag_name": tag, "name": tag, "assets": []map[string]any{
			{"name": app + "-" + version + ".tar.gz", "state": "uploaded", "size": 10, "browser_download_url": "https://host.example/" + version}}})
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tag, ok := strings.CutPrefix(r.URL.Path, "/repos/acme/mono/releases/tags/"); ok {
			i := slices.IndexFunc(releases, func(r map[string]any) bool { return r["tag_name"] == tag })
			if i < 0 {
				w.WriteHeader(http.StatusNotFound)
				fmt.Fprint(w, `{"message":"Not Found"}`)
				return
			}
			_ = json.NewEncoder(w).Encode(releases[i])
			return
		}
		_ = json.NewEncoder(w).Encode(releases)
	}))
	defer server.Close()
	for pattern, want := range map[string]string{"": "1.4.0", "shop-v*": "1.1.0", "shop@*": "1.2.0", "apps/shop/v*": "1.3.0", "[0-9]*": "1.0.0", "till-*": "", "v*": ""} {
		s, err := New("shop", Config{GitHub: "acme/mono", API: server.URL, Tags: pattern}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s = trusting(s, server)
		r, err := s.Latest(t.Context(), Query{Platform: "linux/amd64"})
		if r.Version != want || (err == nil) == (want == "") {
			t.Errorf("%q: got %s, %v", pattern, r.Version, err)
		}
		for _, version := range []string{"1.0.0", "1.1.0", "1.2.0", "9.0.0"} {
			r, err := s.Exactly(t.Context(), version, Query{Platform: "linux/amd64"})
			if found := version != "9.0.0" && (pattern == "" || version == want); found != (err == nil) || found && r.Version != version {
				t.Errorf("%q, %s: got %s, %v", pattern, version, r.Version, err)
			}
		}
	}
}

// TestGitHubCache: asking again when nothing is new does not count against the
// limit.
func TestGitHubCache(t *testing.T) {
	g := newFakeGitHub(t)
	dir := filepath.Join(t.TempDir(), "cache")
	for range 3 {
		r, err := g.source(t, "", Options{Cache: dir}).Latest(context.Background(), Query{Platform: "linux/amd64"})
		if err != nil || r.Version != "2.10.0" {
			t.Fatalf("got %s, %v", r.Version, err)
		}
	}
	if g.counts != 2 || len(g.asked) != 6 {
		t.Errorf("%d of %d requests count, want 2 of 6", g.counts, len(g.asked))
	}
	// A cache that is damaged is one that is not there.
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("cache: %v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("HTTP/1.1 200 OK\r\n\r\n["), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := g.source(t, "", Options{Cache: dir}).Latest(context.Background(), Query{Platform: "linux/amd64"}); err != nil || r.Version != "2.10.0" {
		t.Errorf("got %s, %v", r.Version, err)
	}
}

func TestGitHubErrors(t *testing.T) {
	g := newFakeGitHub(t)
	g.limit = 0
	ask := func(c Config, token string) error {
		t.Helper()
		s, err := New("shop", c, Options{Token: token})
		if err != nil {
			t.Fatal(err)
		}
		_, err = trusting(s, g.Server).Latest(context.Background(), Query{Platform: "linux/amd64"})
		return err
	}
	api := g.URL + "/api/v3"
	denied := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"message":"Bad credentials","status":"401"}`)
	}))
	t.Cleanup(denied.Close)
	slow := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "90")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"message":"You have exceeded a secondary rate limit.","documentation_url":"https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`)
	}))
	t.Cleanup(slow.Close)
	for _, tc := range []struct {
		err  error
		want []string
	}{
		{ask(Config{GitHub: "acme/shop", API: api}, ""), []string{"limit of 0 requests", "until 10:00 UTC", "token_file"}},
		{ask(Config{GitHub: "acme/shop", API: api}, "x"), []string{"until 10:00 UTC"}},
		{ask(Config{GitHub: "acme/none", API: api}, ""), []string{"no such repository, or it is private"}},
		{ask(Config{GitHub: "acme/none", API: api}, "x"), []string{"the token may not read it"}},
		{ask(Config{GitHub: "acme/shop", API: denied.URL}, "x"), []string{"does not accept the token"}},
		{ask(Config{GitHub: "acme/shop", API: slow.URL}, ""), []string{"wait 1m30s"}},
		{ask(Config{GitHub: "acme/shop", API: "http://127.0.0.1:1"}, ""), []string{"connection refused"}},
	} {
		for _, want := range tc.want {
			if tc.err == nil || !strings.Contains(tc.err.Error(), want) || strings.Contains(tc.err.Error(), "\n") {
				t.Errorf("got %v, want %q", tc.err, want)
			}
		}
	}
}

// TestGitHubToken: with a token assets come through the API, which sends on to
// another host; only the API sees the token.
func TestGitHubToken(t *testing.T) {
	g := newFakeGitHub(t)
	s := g.source(t, "", Options{Token: "secret"})
	r, err := s.Exactly(context.Background(), "2.9.0", Query{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	p := r.Bundles[0].parts[0]
	if p.url != "https://api.github.com/repos/acme/shop/releases/assets/9001" || p.accept != "application/octet-stream" {
		t.Errorf("asset is fetched from %s as %q", p.url, p.accept)
	}
	if !slices.Contains(g.asked, "/api/v3/repos/acme/shop/releases/tags/v2.9.0 Bearer secret") {
		t.Errorf("asked: %v", g.asked)
	}
	var seen []string
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = append(seen, r.Header.Get("Authorization")) }))
	t.Cleanup(other.Close)
	p.url = other.URL
	if res, err := p.get(context.Background(), p.url, http.Header{}); err != nil {
		t.Error(err)
	} else {
		res.Body.Close()
	}
	if !slices.Equal(seen, []string{""}) {
		t.Errorf("another host saw %q", seen)
	}
}

func TestWeb(t *testing.T) {
	pages := map[string]string{
		"nginx": `<html><head><title>Index of /r/</title></head><body><h1>Index of /r/</h1><hr><pre><a href="../">../</a>
<a href="shop-2.9.0.tar.gz">shop-2.9.0.tar.gz</a>      22-Nov-2026 10:00    1000
<a href="shop-2.10.0.tar.gz">shop-2.10.0.tar.gz</a>    22-Nov-2026 10:00    1000
<a href="shop-2.10.0.tar.gz.sig">shop-2.10.0.tar.gz.sig</a>   22-Nov-2026 10:00   96
<a href="http://evil.example/nginx/shop-9.0.0.tar.gz">x</a><a href="/other/shop-9.0.0.tar.gz">x</a><a href="../shop-9.0.0.tar.gz">x</a></pre></body></html>`,
		"apache": `<table><tr><td><a href="?C=N;O=D">Name</a></td></tr><tr><td><A class=x HREF='./shop-2.10.0.tar.gz?x=1#y'>shop</A></td></tr></table>`,
		"json":   `[{"name":"shop-2.9.0.tar.gz","type":"file","size":1000},{"name":"shop-2.10.0.tar.gz","type":"file","mtime":"Sun, 22 Nov 2026 10:00:00 GMT","size":1000},{"name":"../shop-9.0.0.tar.gz","size":1},{"name":"http://evil.example/shop-9.0.0.tar.gz"}]`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := pages[strings.Split(r.URL.Path, "/")[1]]
		if !ok {
			http.Error(w, "no listing", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(srv.Close)
	for name := range pages {
		s, err := New("shop", Config{URL: srv.URL + "/" + name}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Latest(context.Background(), Query{Platform: "linux/amd64"})
		if err != nil || r.Version != "2.10.0" || r.Bundles[0].parts[0].url != srv.URL+"/"+name+"/shop-2.10.0.tar.gz" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if want := map[string]int64{"json": 1000}[name]; want != 0 && r.Bundles[0].Size != want {
			t.Errorf("%s: size is %d", name, r.Bundles[0].Size)
		}
	}
	s, err := New("shop", Config{URL: srv.URL + "/none/"}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Latest(context.Background(), Query{}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("no listing: %v", err)
	}
}

func TestLocal(t *testing.T) {
	dir := t.TempDir()
	content := randomBytes(1000)
	for name, b := range map[string][]byte{
		"shop-2.9.0.tar.gz": content, "shop-2.10.0.tar.gz.001": content[:600], "shop-2.10.0.tar.gz.002": content[600:], "shop-2.11.0.tar.gz.002": content, "readme.txt": nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := New("shop", Config{Path: dir}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Latest(context.Background(), Query{Platform: "linux/amd64"})
	if err != nil || r.Version != "2.10.0" || r.Bundles[0].Remote() {
		t.Fatalf("%+v, %v", r, err)
	}
	f, err := r.Bundles[0].OpenLocal()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 700)
	if n, err := f.ReadAt(got, 100); n != 700 || err != nil || string(got) != string(content[100:800]) || f.Size() != 1000 {
		t.Errorf("%d bytes of %d, %v", n, f.Size(), err)
	}
	if n, err := f.ReadAt(got, 900); n != 100 || err == nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := s.Exactly(context.Background(), "2.11.0", Query{}); !errors.Is(err, ErrNoRelease) {
		t.Errorf("a bundle without its first part: %v", err)
	}
}

// TestTokenInTheOpen: wherever a token comes from, it goes nowhere without TLS, not even
// to this device.
func TestTokenInTheOpen(t *testing.T) {
	var seen []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = append(seen, r.Header.Get("Authorization")) }))
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Config{{URL: srv.URL}, {GitHub: "acme/shop", API: srv.URL}, {URL: srv.URL, TokenFile: file}, {GitHub: "acme/shop", API: srv.URL, TokenFile: file}} {
		s, err := New("shop", c, Options{Token: "secret"})
		if err == nil {
			_, _ = s.Latest(context.Background(), Query{})
		}
		if err == nil || !strings.Contains(err.Error(), "a token would go to 127.0.0.1") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if len(seen) > 0 {
		t.Errorf("the server saw %q", seen)
	}
}

// TestGitHubEndless: an answer that does not end is given up, with and without ETag,
// cache and success.
func TestGitHubEndless(t *testing.T) {
	var sent, requests atomic.Int64
	for name, header := range map[string]func(http.ResponseWriter){
		"no ETag":   func(w http.ResponseWriter) {},
		"ETag":      func(w http.ResponseWriter) { w.Header().Set("ETag", `"x"`) },
		"an error":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"not found": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
	} {
		for _, cache := range []string{"", t.TempDir()} {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				header(w)
				_, _ = w.Write([]byte("["))
				blank := bytes.Repeat([]byte(" "), 64<<10)
				for range 64 << 20 / len(blank) { // it would be more
					n, err := w.Write(blank)
					if sent.Add(int64(n)); err != nil {
						return
					}
				}
			}))
			s, err := New("shop", Config{GitHub: "acme/shop", API: srv.URL}, Options{Cache: cache})
			if err != nil {
				t.Fatal(err)
			}
			sent.Store(0)
			requests.Store(0)
			for _, ask := range []func() error{
				func() error { _, err := s.Latest(context.Background(), Query{}); return err },
				func() error { _, err := s.Exactly(context.Background(), "1.0.0", Query{}); return err },
			} {
				if err := ask(); err == nil {
					t.Errorf("%s: no error", name)
				}
			}
			srv.Close()                                                             // waits for the handlers
			if got, n := sent.Load(), requests.Load(); got > n*(maxListing+8<<20) { // with what sockets hold
				t.Errorf("%s, cache %q: %d bytes were sent in %d answers", name, cache, got, n)
			}
		}
	}
}

// TestDownloadRoom: whoever says that a bundle is larger than what is free gets no byte
// written.
func TestDownloadRoom(t *testing.T) {
	srv := newServer(t, nil)
	srv.fault = func(n int, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(int64(900<<30)))
		_, _ = w.Write(make([]byte, 1<<20))
		return true
	}
	dst, err := os.Create(filepath.Join(t.TempDir(), "bundle"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	s := testSource(t, Options{})
	full := errors.New("no room")
	var asked []int64
	err = s.Download(context.Background(), s.at(-1, srv.URL), dst, func(n int64) error { asked = append(asked, n); return full }, nil)
	if !errors.Is(err, full) || !slices.Equal(asked, []int64{900 << 30}) {
		t.Errorf("%v, asked for %d", err, asked)
	}
	if info, err := dst.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes were written, %v", info.Size(), err)
	}
}
