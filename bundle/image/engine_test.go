package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/moby/client"
)

// needEngine returns the address of a real Docker engine. CI=true
// turns a skip into a failure.
func needEngine(t *testing.T) string {
	t.Helper()
	host := os.Getenv("VALISE_TEST_DOCKER_HOST")
	if host == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("an engine (VALISE_TEST_DOCKER_HOST) is missing")
		}
		t.Skip("an engine (VALISE_TEST_DOCKER_HOST) is missing")
	}
	return host
}

// loadImage puts an image into the engine until the test ends.
func loadImage(t *testing.T, host string, s saved) {
	t.Helper()
	engine, err := client.New(client.WithHost(host))
	must(t, err)
	t.Cleanup(func() { engine.Close() })
	result, err := engine.ImageLoad(t.Context(), bytes.NewReader(packTar(t, archiveOf(t, s)...)))
	must(t, err)
	defer result.Close()
	out, err := io.ReadAll(result)
	must(t, err)
	t.Cleanup(func() {
		for _, tag := range s.tags {
			engine.ImageRemove(t.Context(), tag, client.ImageRemoveOptions{})
		}
	})
	if !strings.Contains(string(out), "Loaded image") {
		t.Fatalf("load: %s", out)
	}
}

func TestRealEngine(t *testing.T) {
	host := needEngine(t)
	s := saved{platform: amd64, old: true, tags: []string{"valise-test/app:1"}, layers: [][]byte{content(t, "a"), content(t, "b"), content(t, "a")}}
	loadImage(t, host, s)
	cache := t.TempDir()
	var actions []Action
	o := Options{Platforms: both[:1], CacheDir: cache, DockerHost: host, Progress: func(e Event) { actions = append(actions, e.Action) },
		Images: []Spec{{Reference: "shop/app:1", From: "docker:valise-test/app:1"}}}
	c, err := Collect(t.Context(), o)
	must(t, err)
	checkBlobs(t, c)
	img := c.Components[0].Images[0]
	if string(img.Config.Digest) != hashOf(s.config(t)).String() || len(img.Layers) != 3 || listLayerNames(t, c, img.Layers[1]) != "etc/b" {
		t.Errorf("got %+v", img)
	}
	// The same image as from an archive: what counts is what is in it.
	path := writeArchive(t, false, archiveOf(t, s)...)
	other, err := Collect(t.Context(), Options{Platforms: both[:1], CacheDir: t.TempDir(), Images: []Spec{{Reference: "shop/app:1", From: "archive:" + path}}})
	must(t, err)
	if string(toJSON(t, other.Components)) != string(toJSON(t, c.Components)) {
		t.Errorf("got %s\nwant %s", toJSON(t, c.Components), toJSON(t, other.Components))
	}

	actions = nil
	again, err := Collect(t.Context(), o)
	must(t, err)
	checkBlobs(t, again)
	if slices.Contains(actions, Compress) || len(actions) != 4 {
		t.Errorf("second time: %v", actions)
	}
	// Without its config nothing is known beforehand, and without a layer it is made again.
	must(t, os.RemoveAll(filepath.Join(cache, "configs")))
	files, err := filepath.Glob(filepath.Join(cache, compressor, hashOf(s.layers[1]).Hex+"*"))
	must(t, err)
	must(t, os.Remove(files[0]))
	actions = nil
	again, err = Collect(t.Context(), o)
	must(t, err)
	checkBlobs(t, again)
	if n := len(slices.DeleteFunc(actions, func(a Action) bool { return a != Compress })); n != 1 {
		t.Errorf("compressed %d layers, want 1", n)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, ".raw-*")); left != nil {
		t.Errorf("left %v", left)
	}

	for _, c := range []struct{ from, want string }{
		{"docker:valise-test/app:1", "collect image a:1: docker:valise-test/app:1 has no image for linux/arm64 (it has: linux/amd64)"},
		{"docker:valise-test/none:1", "collect image a:1: read docker:valise-test/none:1: the engine at " + host + " has no image valise-test/none:1 (docker pull or docker build puts it there)"},
	} {
		_, err := Collect(t.Context(), Options{Platforms: both, CacheDir: cache, DockerHost: host, Images: []Spec{{Reference: "a:1", From: c.from}}})
		if err == nil || err.Error() != c.want {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func TestNoEngine(t *testing.T) {
	host := "unix://" + filepath.Join(t.TempDir(), "docker.sock")
	_, err := Collect(t.Context(), Options{Platforms: both, DockerHost: host, Images: []Spec{{Reference: "a:1", From: "docker:a:1"}}})
	if unreachable := new(UnreachableError); !errors.As(err, &unreachable) || unreachable.Host != host {
		t.Errorf("got %v", err)
	}
}

// fakeEngine speaks what an engine with several platforms speaks: the API of the
// containerd image store.
type fakeEngine struct {
	t     *testing.T
	api   string
	saved map[string]saved // by architecture
	saves int
	lie   bool // save another image than the one inspected
}

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", f.api)
	arch := "amd64"
	if p := r.URL.Query().Get("platform"); p != "" {
		var want v1.Platform
		if err := json.Unmarshal([]byte(p), &want); err != nil {
			f.t.Error(err)
		}
		arch = want.Architecture
	}
	s, ok := f.saved[arch]
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
	case !ok:
		http.Error(w, `{"message": "image was found but does not provide the specified platform"}`, http.StatusNotFound)
	case strings.HasSuffix(r.URL.Path, "/json"):
		var ids []string
		for _, l := range s.layers {
			ids = append(ids, hashOf(l).String())
		}
		json.NewEncoder(w).Encode(map[string]any{"Id": "sha256:" + strings.Repeat("1", 64), "Os": "linux", "Architecture": arch,
			"RootFS": map[string]any{"Type": "layers", "Layers": ids}})
	case strings.HasSuffix(r.URL.Path, "/images/get"):
		f.saves++
		if f.lie {
			s.layers = append(slices.Clone(s.layers), s.layers[0])
		}
		s.gzipped = true // as they are in its content store
		w.Write(packTar(f.t, archiveOf(f.t, s)...))
	default:
		f.t.Errorf("unexpected %s", r.URL)
	}
}

func TestEngineWithPlatforms(t *testing.T) {
	f := &fakeEngine{t: t, api: "1.52", saved: map[string]saved{}}
	for _, arch := range []string{"amd64", "arm64"} {
		f.saved[arch] = saved{platform: v1.Platform{OS: "linux", Architecture: arch}, layers: [][]byte{content(t, arch), content(t, "common")}}
	}
	server := httptest.NewServer(f)
	defer server.Close()
	o := Options{Platforms: both, CacheDir: t.TempDir(), DockerHost: "tcp://" + server.Listener.Addr().String(), Images: []Spec{{Reference: "a:1", From: "docker:a:1"}}}
	c, err := Collect(t.Context(), o)
	must(t, err)
	checkBlobs(t, c)
	checkManifest(t, c)
	if c.Components[0].Index == nil || f.saves != 2 {
		t.Errorf("index %v after %d saves", c.Components[0].Index, f.saves)
	}
	again, err := Collect(t.Context(), o)
	must(t, err)
	if f.saves != 2 || fmt.Sprint(again.Components[0].Images) != fmt.Sprint(c.Components[0].Images) {
		t.Errorf("%d saves, got %+v", f.saves, again.Components)
	}

	const missing = "collect image a:1: docker:a:1 has no image for linux/arm64 (it has: linux/amd64)"
	delete(f.saved, "arm64")
	if _, err := Collect(t.Context(), o); err == nil || err.Error() != missing {
		t.Errorf("got %v", err)
	}
	f.api = "1.41" // never asked for a platform
	if _, err := Collect(t.Context(), o); err == nil || err.Error() != missing {
		t.Errorf("got %v", err)
	}
	f.lie = true
	o.CacheDir, o.Platforms = t.TempDir(), both[:1]
	if _, err := Collect(t.Context(), o); err == nil || !strings.HasSuffix(err.Error(), "save it: its layers are not those that the engine named") {
		t.Errorf("got %v", err)
	}
}
