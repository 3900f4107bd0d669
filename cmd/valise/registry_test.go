package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// guardedRegistry is a registry in front of which a login stands: tokens as GHCR and
// Docker Hub have them, or the password itself as ECR does. It has HOST/a:1.
type guardedRegistry struct {
	host  string
	inner http.Handler
	guard string // "", "token", "basic" or "busy"
}

const registryUser, registryPassword = "robot", "pass:word"

func newGuardedRegistry(t *testing.T) *guardedRegistry {
	t.Helper()
	g := &guardedRegistry{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	g.host = strings.TrimPrefix(server.URL, "http://")
	dir := t.TempDir()
	if err := writeLayout(dir, "a", []string{"linux/amd64", "linux/arm64"}); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if index, err = index.ImageIndex(manifest.Manifests[0].Digest); err != nil {
		t.Fatal(err)
	}
	reference, err := name.ParseReference(g.host + "/a:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(reference, index); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *guardedRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	good := user == registryUser && password == registryPassword
	switch {
	case g.guard == "busy" && strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
	case r.URL.Path == "/token":
		refresh := r.Method == http.MethodPost && r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") == "refresh"
		if !good && !refresh {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token": "T", "access_token": "T"}`)
	case g.guard == "token" && r.Header.Get("Authorization") != "Bearer T":
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry",scope="repository:a:pull"`, g.host))
		w.WriteHeader(http.StatusUnauthorized)
	case g.guard == "basic" && !good:
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		g.inner.ServeHTTP(w, r)
	}
}

// TestRegistryLogin: what docker login left is used, in each form that it has, and
// without it build says what to do.
func TestRegistryLogin(t *testing.T) {
	helper := func(user, secret string) string {
		return "#!/bin/sh\nread -r host\n[ \"$1\" = get ] && printf '{\"ServerURL\":\"%s\",\"Username\":\"" + user + "\",\"Secret\":\"" + secret + "\"}' \"$host\"\n"
	}
	auth := func(password string) string {
		return `{"auths": {"HOST": {"auth": "` + base64.StdEncoding.EncodeToString([]byte(registryUser+":"+password)) + `"}}}`
	}
	const byHelper, byStore = `{"credHelpers": {"HOST": "fake"}}`, `{"auths": {"HOST": {}}, "credsStore": "fake"}`
	const logIn = "hint: log in: docker login HOST (its credential helpers count); a registry says the same of an image that is not there"
	for title, tc := range map[string]struct {
		guard, config, helper string
		want                  string // of the failure; "" where the bundle is built
		note                  string
	}{
		"auths, token":               {"token", auth(registryPassword), "", "", ""},
		"auths, basic":               {"basic", auth(registryPassword), "", "", ""},
		"helper, token":              {"token", byHelper, helper(registryUser, registryPassword), "", ""},
		"helper, basic, as ECR":      {"basic", byHelper, helper(registryUser, registryPassword), "", ""},
		"store":                      {"token", byStore, helper(registryUser, registryPassword), "", ""},
		"identity token":             {"token", byHelper, helper("<token>", "refresh"), "", ""},
		"none":                       {"token", "", "", logIn, ""},
		"none, basic":                {"basic", "", "", logIn, ""},
		"wrong password":             {"token", auth("other"), "", logIn, ""},
		"helper that is not there":   {"token", byHelper, "", logIn, "note: no login for HOST: "},
		"the same, for all":          {"", byHelper, "", "", "note: no login for HOST: "},
		"helper that fails, for all": {"", byStore, "#!/bin/sh\necho broken; exit 1\n", "", "note: no login for HOST: "},
		"busy":                       {"busy", "", "", "docker login gives most registries higher limits, and a mirror has none", ""},
	} {
		t.Run(title, func(t *testing.T) {
			g := newGuardedRegistry(t)
			g.guard = tc.guard
			dir := t.TempDir()
			put := func(path, text string, mode os.FileMode) {
				t.Helper()
				path = filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "HOST", g.host)), mode); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("HOME", dir)
			t.Setenv("DOCKER_CONFIG", filepath.Join(dir, ".docker"))
			t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
			if tc.config != "" {
				put(".docker/config.json", tc.config, 0o600)
			}
			if tc.helper != "" {
				put("bin/docker-credential-fake", tc.helper, 0o755)
			}
			put("compose.yaml", "services: {web: {image: HOST/a:1, restart: always}}\n", 0o644)
			put("valise.yaml", "app: shop\ninstaller: none\ncompose: compose.yaml\nplatforms: [linux/amd64, linux/arm64]\nhealth: {compose: [web]}\n", 0o644)
			code, out := runIn(t, dir, "build", "1.0.0", "-o", filepath.Join(dir, "x.tar.gz"))
			if (code == 0) != (tc.want == "") || !strings.Contains(out, strings.ReplaceAll(tc.want, "HOST", g.host)) || !strings.Contains(out, strings.ReplaceAll(tc.note, "HOST", g.host)) {
				t.Errorf("code %d, want %q and %q:\n%s", code, tc.want, tc.note, out)
			}
			if strings.Contains(out, registryPassword) {
				t.Errorf("the password is shown:\n%s", out)
			}
		})
	}
}
