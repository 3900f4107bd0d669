package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ggname "github.com/google/go-containerregistry/pkg/name"
	honestly "github.com/google/go-containerregistry/pkg/registry"
	ggremote "github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/push"
)

// aRegistry is a registry with faults.
type aRegistry struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // "PATH range"
	sent  int
	// fault may answer in place of the registry.
	fault func(w http.ResponseWriter, r *http.Request) (done bool)
}

func newRegistryServer(t *testing.T, start func(http.Handler) *httptest.Server) *aRegistry {
	s := &aRegistry{}
	honest := honestly.New(honestly.Logger(log.New(io.Discard, "", 0)))
	s.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			s.mu.Lock()
			s.asked = append(s.asked, r.URL.RequestURI()+" "+r.Header.Get("Range"))
			s.mu.Unlock()
			w = &counter{w, s}
		}
		if s.fault == nil || !s.fault(w, r) {
			honest.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

type counter struct {
	http.ResponseWriter
	s *aRegistry
}

func (c *counter) Write(p []byte) (int, error) {
	c.s.mu.Lock()
	c.s.sent += len(p)
	c.s.mu.Unlock()
	return c.ResponseWriter.Write(p)
}

func (c *counter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

func (s *aRegistry) took() (requests, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests, bytes = len(s.asked), s.sent
	s.asked, s.sent = nil, 0
	return requests, bytes
}

func (s *aRegistry) host() string { return s.URL[strings.Index(s.URL, "//")+2:] }

// pushTo pushes a bundle and returns what the complete one looks like without compression.
func (s *aRegistry) pushTo(t *testing.T, m *bundle.Manifest, c bundle.Content) []byte {
	t.Helper()
	b := bundletest.WriteAs(t, bundle.None, m, c)
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	if err := bundle.Seal(context.Background(), &sealed, r, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if r, err = bundle.Open(bytes.NewReader(sealed.Bytes()), int64(sealed.Len())); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	to, err := ggname.NewRepository(s.host()+"/acme/shop", ggname.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	fault := s.fault
	s.fault = nil
	defer func() { s.fault = fault }()
	if _, err := push.Push(context.Background(), push.Request{Bundle: r, Repository: to, Options: []ggremote.Option{ggremote.WithTransport(s.Client().Transport)}}); err != nil {
		t.Fatal(err)
	}
	s.took()
	return sealed.Bytes()
}

// ociSource is a source that asks these registries, the first one for its word.
func ociSource(t *testing.T, c Config, o Options, places ...*aRegistry) *Source {
	t.Helper()
	for i, p := range places {
		address := p.host() + "/acme/shop"
		if strings.HasPrefix(p.URL, "http:") {
			address = "http://" + address
		}
		if i == 0 {
			c.OCI = cmp.Or(c.OCI, address)
		} else {
			c.Mirrors = append(c.Mirrors, address)
		}
	}
	s, err := New("shop", c, o)
	if err != nil {
		t.Fatal(err)
	}
	trusting(s, places[0].Server)
	for _, at := range s.lister.(*registry).byDigest() {
		attempts := at.client.attempts
		at.client.limits = quick
		at.client.attempts = min(attempts, quick.attempts)
	}
	return s
}

// readAll fetches the release of a version, complete.
func readAll(t *testing.T, s *Source, version string, hold bool) ([]byte, error) {
	t.Helper()
	rel, err := s.Exactly(context.Background(), version, Query{Platform: "linux/amd64"})
	if err != nil {
		return nil, err
	}
	f, err := s.Open(context.Background(), rel.For("linux/amd64")[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if hold {
		f.Hold(func(int64) (*os.File, error) { return os.Create(filepath.Join(t.TempDir(), "held")) })
	}
	f.Expect([]bundle.Range{{From: 0, To: f.Size()}})
	b := make([]byte, f.Size())
	_, err = f.ReadAt(b, 0)
	return b, err
}

func serveHTTP(h http.Handler) *httptest.Server  { return httptest.NewServer(h) }
func serveHTTPS(h http.Handler) *httptest.Server { return httptest.NewTLSServer(h) }

// large has one layer that is fetched in several requests.
func large(t *testing.T, version string) (*bundle.Manifest, *bundletest.Content) {
	return bundletest.Release(t, bundletest.Spec{Version: version, Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"}, Layer: 5 << 20})
}

func TestRegistry(t *testing.T) {
	reg := newRegistryServer(t, serveHTTP)
	want := map[string][]byte{}
	m, c := large(t, "1.0.0")
	want["1.0.0"] = reg.pushTo(t, m, c)
	for _, version := range []string{"1.1.0-beta.1+build.5", "1.2.0"} {
		m, c := bundletest.Tree(t, bundletest.Spec{App: "shop", Version: version}, bundletest.TreeFiles("shop", version))
		want[version] = reg.pushTo(t, m, c)
	}

	s := ociSource(t, Config{Channel: "beta"}, Options{}, reg)
	all, err := s.Releases(context.Background(), Query{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, r := range all {
		versions = append(versions, r.Version)
		if b := r.Bundles[0]; b.URL() != "" || !b.Remote() {
			t.Errorf("%s is at %q, remote %v", b.Name, b.URL(), b.Remote())
		}
	}
	if got := strings.Join(versions, " "); got != "1.2.0 1.1.0-beta.1+build.5 1.0.0" {
		t.Errorf("got %s", got)
	}
	for version, want := range want {
		got, err := readAll(t, s, version, false)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", version, len(got), len(want), err)
		}
		rel, _ := s.Exactly(context.Background(), version, Query{Platform: "linux/amd64"})
		dst, err := os.Create(filepath.Join(t.TempDir(), "whole"))
		if err != nil {
			t.Fatal(err)
		}
		defer dst.Close()
		if err := s.Download(context.Background(), rel.Bundles[0], dst, room, nil); err != nil {
			t.Error(err)
		}
		if got, _ := os.ReadFile(dst.Name()); !bytes.Equal(got, want) {
			t.Errorf("%s: downloaded %d bytes of %d", version, len(got), len(want))
		}
		if m, err := s.Head(context.Background(), rel.Bundles[0]); err != nil || m.Version != version {
			t.Errorf("head of %s: %v", version, err)
		}
	}
}

// TestRegistryMissing: what is not asked for is not fetched.
func TestRegistryMissing(t *testing.T) {
	reg := newRegistryServer(t, serveHTTP)
	m, c := large(t, "1.0.0")
	reg.pushTo(t, m, c)
	s := ociSource(t, Config{}, Options{}, reg)
	rel, err := s.Exactly(context.Background(), "1.0.0", Query{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Open(context.Background(), rel.Bundles[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Locate(); err != nil {
		t.Fatal(err)
	}
	img := m.Components[0].Images[0]
	own := img.Layers[1].Digest
	f.Expect(r.Ranges([]string{"compose.yaml"}, []bundle.Digest{own, img.Manifest.Digest, img.Config.Digest}))
	for _, d := range []bundle.Digest{img.Manifest.Digest, img.Config.Digest, own} {
		rc, err := r.OpenBlob(d)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(rc); err != nil || !bytes.Equal(b, c.Blobs[d]) {
			t.Errorf("%s: %v", d, err)
		}
	}
	if asked := strings.Join(reg.asked, "\n"); strings.Contains(asked, string(img.Layers[0].Digest)) {
		t.Errorf("asked for\n%s", asked)
	}
	if _, sent := reg.took(); sent > 16<<10 {
		t.Errorf("%d bytes were sent for a layer of %d", sent, img.Layers[1].Size)
	}
}

// faults of a registry after which all is well.
func TestRegistryFaults(t *testing.T) {
	m, c := large(t, "1.0.0")
	cut := func(every int) func(http.ResponseWriter, *http.Request, *aRegistry, []byte) {
		return func(w http.ResponseWriter, r *http.Request, _ *aRegistry, b []byte) {
			c := &cutting{w, every}
			if http.ServeContent(c, r, "", m.CreatedAt, bytes.NewReader(b)); c.left == 0 {
				panic(http.ErrAbortHandler)
			}
		}
	}
	for name, f := range map[string]struct {
		serve func(w http.ResponseWriter, r *http.Request, s *aRegistry, b []byte)
		hold  bool
	}{
		"cut at every MiB": {cut(1 << 20), false},
		"no ranges": {func(w http.ResponseWriter, r *http.Request, _ *aRegistry, b []byte) {
			_, _ = w.Write(b)
		}, true},
		"no ranges, no length": {func(w http.ResponseWriter, r *http.Request, _ *aRegistry, b []byte) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(b)
		}, true},
		"no ranges, cut at every MiB": {func(w http.ResponseWriter, r *http.Request, s *aRegistry, b []byte) {
			s.mu.Lock()
			n := 0
			for _, a := range s.asked {
				if strings.HasPrefix(a, r.URL.Path+" ") {
					n++
				}
			}
			s.mu.Unlock()
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			if _, _ = w.Write(b[:min(len(b), n<<20)]); n<<20 < len(b) {
				panic(http.ErrAbortHandler)
			}
		}, true},
		"redirects elsewhere": {func(w http.ResponseWriter, r *http.Request, s *aRegistry, b []byte) {
			if r.URL.RawQuery == "" {
				http.Redirect(w, r, r.URL.Path+"?signed", http.StatusTemporaryRedirect)
				return
			}
			http.ServeContent(w, r, "", m.CreatedAt, bytes.NewReader(b))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistryServer(t, serveHTTP)
			want := reg.pushTo(t, m, c)
			reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
				b, ok := c.Blobs[bundle.Digest(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])]
				if !ok || !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				f.serve(w, r, reg, b)
				return true
			}
			got, err := readAll(t, ociSource(t, Config{}, Options{}, reg), "1.0.0", f.hold)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
			}
		})
	}
}

// TestMirrors: a mirror is asked first for content, and whatever it does, the release
// comes from whoever has it.
func TestMirrors(t *testing.T) {
	m, c := large(t, "1.0.0")
	layer := m.Components[0].Images[0].Layers[0].Digest
	for name, f := range map[string]struct {
		fault  func(w http.ResponseWriter, r *http.Request) bool
		passed string // what is said of the mirror
		asked  bool   // the large layer came from it
	}{
		"good": {asked: true},
		"lies in a large layer": {fault: func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, string(layer)) {
				return false
			}
			b := bytes.Clone(c.Blobs[layer])
			b[len(b)-1] ^= 1
			http.ServeContent(w, r, "", m.CreatedAt, bytes.NewReader(b))
			return true
		}, passed: "sends other bytes", asked: true},
		"lies about all": {fault: func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte(`{"tags":["9.0.0"]}`))
			return true
		}},
		"sends too much": {fault: func(w http.ResponseWriter, r *http.Request) bool {
			for range 10 << 20 / 1024 {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					break
				}
			}
			return true
		}},
		"is broken": {fault: func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}},
		"has nothing": {fault: func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusNotFound)
			return true
		}, asked: true},
		"wants a password": {fault: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") != "" {
				t.Error("a mirror got a secret")
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			main, mirror := newRegistryServer(t, serveHTTPS), newRegistryServer(t, serveHTTPS)
			want := main.pushTo(t, m, c)
			mirror.pushTo(t, m, c)
			mirror.fault = f.fault
			var mu sync.Mutex
			var passed []string
			s := ociSource(t, Config{}, Options{Token: "robot:secret", PassedOver: func(err error) {
				mu.Lock()
				defer mu.Unlock()
				passed = append(passed, err.Error())
			}}, main, mirror)
			got, err := readAll(t, s, "1.0.0", true)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes of %d: %v", len(got), len(want), err)
			}
			if !strings.Contains(strings.Join(passed, "\n"), f.passed) {
				t.Errorf("got %q, want %q", passed, f.passed)
			}
			mirror.mu.Lock()
			defer mirror.mu.Unlock()
			if asked := strings.Contains(strings.Join(mirror.asked, "\n"), string(layer)); asked != f.asked {
				t.Errorf("the mirror was asked for the layer: %v", asked)
			}
		})
	}
	t.Run("instead of a broken registry", func(t *testing.T) {
		main, mirror := newRegistryServer(t, serveHTTP), newRegistryServer(t, serveHTTP)
		want := mirror.pushTo(t, m, c)
		main.fault = func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		got, err := readAll(t, ociSource(t, Config{}, Options{}, main, mirror), "1.0.0", true)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
		}
		if n, _ := main.took(); n != 1 {
			t.Errorf("it was asked %d times, and each may take long", n)
		}
	})
	t.Run("all there is", func(t *testing.T) {
		main, mirror := newRegistryServer(t, serveHTTP), newRegistryServer(t, serveHTTP)
		want := mirror.pushTo(t, m, c)
		for _, hold := range []bool{true, false} {
			s := ociSource(t, Config{}, Options{}, main, mirror)
			main.Close()
			if got, err := readAll(t, s, "1.0.0", hold); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
			}
		}
	})
}

// tokens is a registry that wants a token, as those out there do.
type tokens struct {
	challenge string // %s is where tokens are
	answer    string // %s is the token
	good      string // what Authorization is at the token server; empty: none is wanted
	expires   bool   // a token is good until something new is asked for
	refused   bool   // no token is good
}

func TestRegistryLogin(t *testing.T) {
	m, c := bundletest.Release(t, bundletest.Spec{Version: "1.0.0"})
	for name, f := range map[string]struct {
		tokens
		secret string
		err    string
	}{
		"ghcr, public":             {tokens{`Bearer realm="%s/token",service="ghcr.io",scope="repository:acme/shop:pull"`, `{"token":"%s"}`, "", false, false}, "", ""},
		"ghcr, private":            {tokens{`Bearer realm="%s/token",service="ghcr.io",scope="repository:acme/shop:pull"`, `{"token":"%s"}`, "token:ghp_1", false, false}, "ghp_1", ""},
		"Docker Hub":               {tokens{`Bearer realm="%s/token",service="registry.docker.io",scope="repository:acme/shop:pull,push"`, `{"token":"%s","access_token":"%[1]s","expires_in":300,"issued_at":"2026-11-30T00:00:00Z"}`, "", false, false}, "", ""},
		"Harbor robot":             {tokens{`Bearer realm="%s/service/token",service="harbor-registry",scope="repository:acme/shop:pull"`, `{"token":"%s","access_token":"","expires_in":1800}`, "robot$shop:s3:cr:et", false, false}, "robot$shop:s3:cr:et", ""},
		"GitLab":                   {tokens{`Bearer realm="%s/jwt/auth",service="container_registry",scope="repository:acme/shop:pull",error="invalid_token"`, `{"token":"%s"}`, "gitlab+deploy-token-1:x", false, false}, "gitlab+deploy-token-1:x", ""},
		"Azure":                    {tokens{`Bearer realm="%s/oauth2/token",service="acme.azurecr.io",scope="repository:acme/shop:pull"`, `{"access_token":"%s"}`, "shop:x", false, false}, "shop:x", ""},
		"two headers, Artifactory": {tokens{"Basic realm=\"Artifactory\"\nBearer realm=\"%s/artifactory/api/docker/shop/v2/token\",service=\"artifactory\"", `{"token":"%s","expires_in":3600}`, "u:p", false, false}, "u:p", ""},
		"ECR":                      {tokens{challenge: `Basic realm="https://1234.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"`, good: "AWS:x"}, "AWS:x", ""},
		"docker login":             {tokens{challenge: `Basic realm="registry"`, good: "u:p"}, `{"auths":{"HOST":{"auth":"dTpw"}}}`, ""},
		"token for one request":    {tokens{`Bearer realm="%s/token",service="s"`, `{"token":"%s"}`, "", true, false}, "", ""},
		"wrong password":           {tokens{`Bearer realm="%s/token",service="s"`, `{"token":"%s"}`, "u:p", false, false}, "u:q", "does not accept the user and password"},
		"no password":              {tokens{`Bearer realm="%s/token",service="s"`, `{"token":"%s"}`, "u:p", false, false}, "", "wants a user and password"},
		"realm in the open":        {tokens{`Bearer realm="http://127.0.0.1:1/token",service="s"`, `{"token":"%s"}`, "", false, false}, "u:p", "want an address that begins with https://"},
		"realm is a file":          {tokens{`Bearer realm="file:///etc/passwd",service="s"`, `{"token":"%s"}`, "", false, false}, "u:p", "want an address that begins with https://"},
		"realm with a user":        {tokens{`Bearer realm="https://u:p@127.0.0.1:1/token",service="s"`, `{"token":"%s"}`, "", false, false}, "", "want an address that begins with https://"},
		"token with a line":        {tokens{`Bearer realm="%s/token",service="s"`, `{"token":"%s\r\nX: y"}`, "", false, false}, "", "something else than a token"},
		"endless token":            {tokens{`Bearer realm="%s/token",service="s"`, `{"token":"%s` + strings.Repeat("x", maxToken) + `"}`, "", false, false}, "", "something else than a token"},
		"no token":                 {tokens{`Bearer realm="%s/token",service="s"`, `<html>%s`, "", false, false}, "", "something else than a token"},
		"tokens it refuses":        {tokens{`Bearer realm="%s/token",service="s"`, `{"token":"%s"}`, "", false, true}, "", "wants a user and password"},
		"no challenge":             {tokens{challenge: "Negotiate"}, "u:p", "something else than a token"},
	} {
		t.Run(name, func(t *testing.T) {
			reg, auth := newRegistryServer(t, serveHTTPS), (*httptest.Server)(nil)
			want := reg.pushTo(t, m, c)
			var mu sync.Mutex
			issued, need := 0, map[string]int{}
			auth = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				user, password, ok := r.BasicAuth()
				if got := r.URL.Query().Get("scope"); got != "repository:acme/shop:pull" {
					t.Errorf("asked for %q", got)
				}
				if f.good != "" && (!ok || user+":"+password != f.good) {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				issued++
				fmt.Fprintf(w, f.answer, fmt.Sprintf("t%d", issued))
			}))
			t.Cleanup(auth.Close)
			reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				user, password, basic := r.BasicAuth()
				number := 0 // of the token
				_, _ = fmt.Sscanf(r.Header.Get("Authorization"), "Bearer t%d", &number)
				what := r.URL.Path + r.Header.Get("Range")
				switch {
				case f.expires && need[what] == 0:
					need[what] = number + 1
				case !f.refused && number > 0 && number >= need[what]:
					return false
				case f.answer == "" && f.good != "" && basic && user+":"+password == f.good:
					return false
				}
				for line := range strings.Lines(f.challenge) {
					w.Header().Add("WWW-Authenticate", strings.TrimSpace(strings.ReplaceAll(line, "%s", auth.URL)))
				}
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			s := ociSource(t, Config{}, Options{Token: strings.ReplaceAll(f.secret, "HOST", reg.host())}, reg)
			got, err := readAll(t, s, "1.0.0", false)
			if f.err != "" {
				if no := new(loginError); !errors.As(err, &no) || !strings.Contains(err.Error(), f.err) {
					t.Errorf("got %v, want %s", err, f.err)
				}
				return
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
			}
		})
	}
}

// TestRegistrySecret: a secret goes to the registry and nowhere else.
func TestRegistrySecret(t *testing.T) {
	m, c := large(t, "1.0.0")
	reg := newRegistryServer(t, serveHTTPS)
	reg.pushTo(t, m, c)
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s got a secret", r.URL)
		}
		b := c.Blobs[bundle.Digest(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])]
		http.ServeContent(w, r, "", m.CreatedAt, bytes.NewReader(b))
	}))
	defer elsewhere.Close()
	reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if _, ours := c.Blobs[bundle.Digest(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])]; ours && strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	if _, err := readAll(t, ociSource(t, Config{}, Options{Token: "u:p"}, reg), "1.0.0", false); err != nil {
		t.Error(err)
	}
	if _, err := New("shop", Config{OCI: "http://" + reg.host() + "/acme/shop"}, Options{Token: "u:p"}); err == nil {
		t.Error("a secret would go out in the open")
	}
}

// TestRegistryTags: lists of tags as registries give them.
func TestRegistryTags(t *testing.T) {
	pages := map[string]struct{ link, body string }{}
	reg := newRegistryServer(t, serveHTTP)
	reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
		p, ok := pages[r.URL.RawQuery]
		if !ok || !strings.HasSuffix(r.URL.Path, "/tags/list") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		if p.link != "" {
			w.Header().Set("Link", p.link)
		}
		_, _ = w.Write([]byte(p.body))
		return true
	}
	s := ociSource(t, Config{}, Options{}, reg)
	tags := func() (string, error) {
		all, err := s.Releases(context.Background(), Query{Platform: "linux/amd64"})
		var list []string
		for _, r := range all {
			list = append(list, r.Version)
		}
		return strings.Join(list, " "), err
	}
	for name, c := range map[string]struct {
		first, next struct{ link, body string }
		query       string
		want, err   string
	}{
		"ECR":           {first: struct{ link, body string }{`<https://1234.dkr.ecr.eu-west-1.amazonaws.com/v2/acme/shop/tags/list?last=abc%3D%3D&n=100>; rel="next"`, `{"name":"acme/shop","tags":["1.0.0"]}`}, query: "last=abc%3D%3D&n=100", next: struct{ link, body string }{"", `{"tags":["1.1.0"]}`}, want: "1.1.0 1.0.0"},
		"quay":          {first: struct{ link, body string }{`</v2/acme/shop/tags/list?next_page=gAAA-_%3D&n=50>; rel="next"`, `{"tags":["1.0.0"]}`}, query: "next_page=gAAA-_%3D&n=50", next: struct{ link, body string }{"", `{"tags":["v1.1.0"]}`}, want: "1.1.0 1.0.0"},
		"unquoted":      {first: struct{ link, body string }{`</v2/acme/shop/tags/list?last=1.0.0>;rel=next`, `{"tags":["1.0.0"]}`}, query: "last=1.0.0", next: struct{ link, body string }{"", `{"tags":null}`}, want: "1.0.0"},
		"not versions":  {first: struct{ link, body string }{"", `{"tags":["latest","1.0","main","sha-1a2b3c4","sha256-0123.sig","1.0.0","1.0.0-linux-arm64","1.1.0-from-1.0.0","01.0.0","-","` + strings.Repeat("9", 200) + `",""]}`}, want: "1.0.0"},
		"of a platform": {first: struct{ link, body string }{"", `{"tags":["1.0.0-linux-amd64","1.1.0-linux-arm64"]}`}, want: "1.0.0"},
		"a circle":      {first: struct{ link, body string }{`<?n=1000>; rel="next"`, `{"tags":["1.0.0"]}`}, err: "more than 100 pages"},
		"too many":      {first: struct{ link, body string }{"", `{"tags":["` + strings.Repeat("a", maxListing) + `"]}`}, err: "more than"},
		"no list":       {first: struct{ link, body string }{"", `<html>`}, err: "something else than a list of tags"},
		"empty":         {first: struct{ link, body string }{"", `{}`}, err: "no release"},
	} {
		t.Run(name, func(t *testing.T) {
			clear(pages)
			pages["n=1000"] = c.first
			if c.query != "" {
				pages[c.query] = c.next
			}
			got, err := tags()
			if got != c.want || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %q, %v; want %q, %q", got, err, c.want, c.err)
			}
		})
	}
}

// TestRegistryImages: images of the app have its versions as tags.
func TestRegistryImages(t *testing.T) {
	reg := newRegistryServer(t, serveHTTP)
	m, c := bundletest.Tree(t, bundletest.Spec{App: "shop", Version: "1.0.0"}, bundletest.TreeFiles("shop", "1.0.0"))
	reg.pushTo(t, m, c)
	put := func(version string) {
		req, err := http.NewRequest(http.MethodPut, reg.URL+"/v2/acme/shop/manifests/"+version, strings.NewReader(`{"schemaVersion":2,"config":{},"layers":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != http.StatusCreated {
			t.Fatal(res, err)
		}
		res.Body.Close()
	}
	latest := func() (string, error) {
		rel, err := ociSource(t, Config{}, Options{}, reg).Latest(t.Context(), Query{Platform: "linux/amd64"})
		return rel.Version, err
	}
	for i := range maxImages - 1 {
		put(fmt.Sprintf("9.%d.0", i))
	}
	if got, err := latest(); got != "1.0.0" || err != nil {
		t.Errorf("the newest release is %q, %v", got, err)
	}
	put("9.99.0")
	if got, err := latest(); err == nil || !strings.Contains(err.Error(), "repository of their own") {
		t.Errorf("too many images: %q, %v", got, err)
	}
}

// TestRegistryHostile: documents that no valise push made.
func TestRegistryHostile(t *testing.T) {
	const plainImage = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`
	artifact := func(layers string) string { return `{"schemaVersion":2,"layers":[` + layers + `]}` }
	layer := func(b string, size int64) string {
		return fmt.Sprintf(`{"digest":%q,"size":%d}`, bundle.DigestOf([]byte(b)), size)
	}
	for name, f := range map[string]struct {
		index, manifest, err string
	}{
		"an image":                  {plainImage, "", "something else than a release"},
		"nothing":                   {"{}", "", "something else than a release"},
		"no JSON":                   {"<html>", "", "invalid character"},
		"endless":                   {strings.Repeat(" ", maxImageManifest+1), "", "more than"},
		"a path for a digest":       {`{"manifests":[{"artifactType":"` + bundle.MediaType + `","digest":"sha256:../../../etc","size":1}]}`, "", "with digest"},
		"no layers":                 {"", artifact(""), "lists no release"},
		"an impossible layer":       {"", artifact(layer("x", 1<<40) + "," + layer("y", 1)), "limit"},
		"a negative layer":          {"", artifact(layer("x", -1) + "," + layer("y", 1)), "limit"},
		"a layer that is not there": {"", artifact(layer("x", 1) + "," + layer("y", 1)), "404"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistryServer(t, serveHTTP)
			reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
				switch digest := string(bundle.DigestOf([]byte(f.manifest))); {
				case strings.HasSuffix(r.URL.Path, "/tags/list"):
					_, _ = w.Write([]byte(`{"tags":["1.0.0"]}`))
				case strings.HasSuffix(r.URL.Path, "/manifests/1.0.0"):
					fmt.Fprint(w, cmp.Or(f.index, fmt.Sprintf(`{"manifests":[{"artifactType":"%s","digest":"%s","size":%d}]}`, bundle.MediaType, digest, len(f.manifest))))
				case strings.HasSuffix(r.URL.Path, "/manifests/"+digest):
					fmt.Fprint(w, f.manifest)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
				return true
			}
			if _, err := readAll(t, ociSource(t, Config{}, Options{}, reg), "1.0.0", false); err == nil || !strings.Contains(err.Error(), f.err) {
				t.Errorf("got %v, want %s", err, f.err)
			}
		})
	}
	t.Run("no ranges and no room", func(t *testing.T) {
		m, c := large(t, "1.0.0")
		reg := newRegistryServer(t, serveHTTP)
		reg.pushTo(t, m, c)
		reg.fault = func(w http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false }
		if _, err := readAll(t, ociSource(t, Config{}, Options{}, reg), "1.0.0", false); err == nil || !strings.Contains(err.Error(), "gives no parts of content") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no ranges, and a little more each time", func(t *testing.T) {
		m, c := large(t, "1.0.0")
		layer := m.Components[0].Images[0].Layers[0].Digest
		reg := newRegistryServer(t, serveHTTP)
		reg.pushTo(t, m, c)
		var asked atomic.Int64
		reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, string(layer)) {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(c.Blobs[layer])))
			_, _ = w.Write(c.Blobs[layer][:min(int(asked.Add(1))<<13, len(c.Blobs[layer]))])
			panic(http.ErrAbortHandler)
		}
		if _, err := readAll(t, ociSource(t, Config{}, Options{}, reg), "1.0.0", true); err == nil || !strings.Contains(err.Error(), "broke off 64 times") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("other bytes", func(t *testing.T) {
		m, c := large(t, "1.0.0")
		reg := newRegistryServer(t, serveHTTP)
		reg.pushTo(t, m, c)
		reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
			return true
		}
		if _, err := readAll(t, ociSource(t, Config{}, Options{}, reg), "1.0.0", true); err == nil || !strings.Contains(err.Error(), "sends") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRepository(t *testing.T) {
	for given, want := range map[string]string{
		"ghcr.io/acme/shop":                     "https://ghcr.io/v2/acme/shop/",
		"https://ghcr.io/acme/shop":             "https://ghcr.io/v2/acme/shop/",
		"http://registry.site:5000/shop":        "http://registry.site:5000/v2/shop/",
		"docker.io/acme/shop":                   "https://registry-1.docker.io/v2/acme/shop/",
		"docker.io/shop":                        "https://registry-1.docker.io/v2/library/shop/",
		"[::1]:5000/shop":                       "https://[::1]:5000/v2/shop/",
		"localhost/shop":                        "https://localhost/v2/shop/",
		"gitlab.acme.example:5050/g/s/p/shop_x": "https://gitlab.acme.example:5050/v2/g/s/p/shop_x/",
		"acme/shop":                             "",
		"ghcr.io":                               "",
		"ghcr.io/acme/shop:1.0.0":               "",
		"ghcr.io/acme/shop@sha256:00":           "",
		"ghcr.io/Acme/shop":                     "",
		"ghcr.io/../shop":                       "",
		"u:p@ghcr.io/shop":                      "",
		"ftp://ghcr.io/shop":                    "",
		"ghcr.io?x/shop":                        "",
		"":                                      "",
	} {
		u, err := repositoryURL(given)
		got := ""
		if err == nil {
			got = u.String()
		}
		if got != want {
			t.Errorf("%q: got %q, %v, want %q", given, got, err, want)
		}
	}
	for _, bad := range []Config{{OCI: "ghcr.io/acme/shop", URL: "https://x/"}, {Mirrors: []string{"ghcr.io/acme/shop"}, URL: "https://x/"}, {OCI: "ghcr.io/acme/shop", Mirrors: []string{"shop"}}, {OCI: "http://ghcr.io/acme/shop", TokenFile: "/token"}} {
		if bad.check() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}
