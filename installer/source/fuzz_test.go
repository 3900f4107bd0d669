package source

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// answers is a server that says one thing, to whoever asks.
type answers string

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(strings.NewReader(string(a))), Request: r}, nil
}

// Whatever a server lists, releases have a version, whole bundles and pages for a
// browser; a directory leads nowhere but into itself, and only GitHub's API names
// other hosts.
func FuzzList(f *testing.F) {
	github, err := os.ReadFile("testdata/releases.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, list := range []string{
		string(github[:min(len(github), 20000)]),
		`[{"tag_name":"v1.0.0","html_url":"javascript:alert(1)","assets":[{"name":"shop-1.0.0.tar.gz","state":"uploaded","size":-5,"browser_download_url":"file:///etc/passwd"}]},null]`,
		`[{"name":"shop-1.0.0.tar.gz","size":9223372036854775807},{"name":"../shop-1.1.0.tar.gz"},{"name":"shop-1.2.0.tar.gz.001","size":9223372036854775807},{"name":"shop-1.2.0.tar.gz.002","size":9223372036854775807}]`,
		`<a href="shop-1.0.0.tar.gz">x</a><a href='//evil.example/releases/shop-2.0.0.tar.gz'><a href=http://host.example/releases/shop-5.0.0.tar.gz><a href=https://user@host.example/releases/shop-v3.0.0-linux-arm64-from-1.0.0.tar.zst?x#y>`,
		`<a href="%2e%2e/shop-1.0.0.tar.gz"><a href="..&#47;shop-1.0.0.tar.gz"><a href="shop-1.0.0.tar.gz.999"><a href="shop-1.0.0.tar.gz">`, "[]", "null", "[{}]", "",
	} {
		f.Add(list)
	}
	f.Fuzz(func(t *testing.T, list string) {
		for _, config := range []Config{{URL: "https://host.example/releases/"}, {GitHub: "acme/shop"}} {
			s, err := New("shop", config, Options{})
			if err != nil {
				t.Fatal(err)
			}
			s.client.http.Transport = answers(list)
			if config.GitHub != "" {
				if s.lister, err = newGitHub("shop", config, "", Options{}, s.client); err != nil {
					t.Fatal(err)
				}
			} else if s.lister, err = newWeb("shop", config.URL, "", s.client); err != nil {
				t.Fatal(err)
			}
			all, err := s.list(t.Context())
			if err != nil {
				continue
			}
			for _, r := range all.releases {
				if _, err := bundle.ParseVersion(r.Version); err != nil {
					t.Fatalf("version %q: %v", r.Version, err)
				}
				if u, err := url.Parse(r.Page); err != nil || r.Page != "" && u.Scheme != "https" {
					t.Fatalf("page %q", r.Page)
				}
				for _, b := range r.Bundles {
					if b.Size < -1 || b.Version != r.Version || len(b.parts) == 0 || !strings.HasPrefix(b.Name, "shop-") || strings.ContainsAny(b.Name, "/\x00") {
						t.Fatalf("bundle %+v of %s", b, r.Version)
					}
					for _, p := range b.parts {
						u, err := url.Parse(p.url)
						if config.URL != "" && (err != nil || u.Scheme != "https" || u.Host != "host.example" || u.User != nil || path.Dir(u.Path) != "/releases" || strings.Contains(u.Path, "..")) {
							t.Fatalf("%q leads elsewhere", p.url)
						}
					}
				}
			}
		}
	})
}
