package source

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggname "github.com/google/go-containerregistry/pkg/name"
	ggremote "github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/push"
	"github.com/valise-ota/valise/bundle/rollout"
)

// newest is what a source gives that has one above known.
func newest(t *testing.T, s *Source, known int64) string {
	t.Helper()
	r, err := s.Rollout(t.Context(), known)
	switch {
	case err != nil:
		return err.Error()
	case r == nil:
		return "none"
	}
	return fmt.Sprintf("%d %s %s", r.Sequence, r.Text, r.Signature)
}

// TestRollout: each kind of source has rollout files, the highest sequence counts, and
// none is fetched that is known.
func TestRollout(t *testing.T) {
	files := map[string]string{}
	for _, n := range []int64{9, 10, 8} {
		files[rollout.FileName("shop", n)] = fmt.Sprint("text", n)
		files[rollout.FileName("shop", n)+rollout.SignatureSuffix] = fmt.Sprint("sig", n)
	}
	files[rollout.FileName("pump", 99)], files["shop-1.0.0.tar.gz"] = "of another app", "x"
	var fetched []string
	serve := func(w http.ResponseWriter, r *http.Request) bool {
		text, ok := files[filepath.Base(r.URL.Path)]
		if ok {
			fetched = append(fetched, filepath.Base(r.URL.Path))
			io.WriteString(w, text)
		}
		return ok
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !serve(w, r) {
			for name := range files {
				fmt.Fprintf(w, "<a href=%q>%[1]s</a>\n", name)
			}
		}
	}))
	defer web.Close()
	var gitHub *httptest.Server
	gitHub = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if serve(w, r) {
			return
		}
		var all []string
		for name := range files {
			all = append(all, fmt.Sprintf(`{"tag_name":"rollout-%s","draft":%v,"assets":[{"name":%[1]q,"state":"uploaded","browser_download_url":"%[3]s/dl/%[1]s"}]}`, name, false, gitHub.URL))
		}
		all = append(all, `{"tag_name":"rollout-shop-11","draft":true,"assets":[{"name":"shop-rollout-11.json","state":"uploaded"}]}`)
		fmt.Fprintf(w, "[%s]", strings.Join(all, ","))
	}))
	defer gitHub.Close()
	dir := t.TempDir()
	for _, c := range []Config{{URL: web.URL}, {GitHub: "acme/shop", API: gitHub.URL, Tags: "shop-v*"}, {Path: dir}} {
		t.Run(c.String(), func(t *testing.T) {
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s, err := New("shop", c, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := newest(t, s, 9); got != "10 text10 sig10" {
				t.Error(got)
			}
			fetched = nil
			if got := newest(t, s, 10); got != "10  " || len(fetched) > 0 {
				t.Errorf("%s, fetched %v", got, fetched)
			}
			if got := newest(t, s, 12); got != "10  " {
				t.Error(got)
			}
			other, err := New("till", c, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := newest(t, other, 0); got != "none" {
				t.Error(got)
			}
			files["shop-rollout-10.json"] = strings.Repeat("x", rollout.MaxSize+1)
			defer func() { files["shop-rollout-10.json"] = "text10" }()
			os.WriteFile(filepath.Join(dir, "shop-rollout-10.json"), []byte(files["shop-rollout-10.json"]), 0o600)
			if got := newest(t, s, 0); !strings.Contains(got, "more than 65536 bytes") {
				t.Errorf("%.200s", got)
			}
		})
	}
}

// TestRolloutRegistry: a rollout file beside releases in a registry, as valise rollout
// puts it there, from a mirror too; and what is none.
func TestRolloutRegistry(t *testing.T) {
	reg, mirror := newRegistryServer(t, serveHTTP), newRegistryServer(t, serveHTTP)
	m, c := bundletest.Release(t, bundletest.Spec{Version: "1.2.3"})
	put := func(at *aRegistry, n int64, text string) {
		t.Helper()
		to, err := ggname.NewRepository(at.host()+"/acme/shop", ggname.Insecure)
		if err == nil {
			_, err = push.Rollout(t.Context(), to, n, []byte(text), []byte("sig"), ggremote.WithTransport(at.Client().Transport))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []*aRegistry{reg, mirror} {
		at.pushTo(t, m, c)
		put(at, 9, "text9")
		put(at, 10, "text10")
	}
	s := ociSource(t, Config{}, Options{}, reg, mirror)
	list, err := s.Releases(t.Context(), Query{Platform: "linux/amd64"})
	if err != nil || len(list) != 1 || list[0].Version != "1.2.3" {
		t.Errorf("%+v, %v", list, err)
	}
	reg.took()
	if got := newest(t, s, 9); got != "10 text10 sig" {
		t.Error(got)
	}
	if n, _ := reg.took(); n > 1 {
		t.Errorf("%d requests to the main repository, want that of the tag", n)
	}
	reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if got := newest(t, ociSource(t, Config{}, Options{}, reg, mirror), 9); got != "10 text10 sig" {
		t.Errorf("without the main repository: %s", got)
	}
	reg.fault = nil
	mirror.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		io.WriteString(w, "lies!!")
		return true
	}
	if got := newest(t, ociSource(t, Config{}, Options{}, reg, mirror), 9); got != "10 text10 sig" {
		t.Errorf("a mirror that lies: %s", got)
	}
	mirror.fault = nil
	put(reg, 11, strings.Repeat("x", rollout.MaxSize+1))
	if got := newest(t, ociSource(t, Config{}, Options{}, reg), 9); !strings.Contains(got, "limit 65536") {
		t.Error(got)
	}
	// A release under such a tag is none.
	reg.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/manifests/rollout-11") {
			return false
		}
		io.Copy(w, bytes.NewReader([]byte(`{"manifests":[]}`)))
		return true
	}
	if got := newest(t, ociSource(t, Config{}, Options{}, reg), 9); !strings.Contains(got, "something else than a rollout file") {
		t.Error(got)
	}
}
