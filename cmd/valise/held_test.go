package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestHeld: what bundles beside the new one have is not asked of a registry again, except
// when they are damaged; the new bundle is the same, byte for byte.
func TestHeld(t *testing.T) {
	g := newGuardedRegistry(t)
	var mu sync.Mutex
	asked := 0
	inner := g.inner
	g.inner = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") || strings.Contains(r.URL.Path, "/manifests/sha256:") {
			mu.Lock()
			asked++
			mu.Unlock()
		}
		inner.ServeHTTP(w, r)
	})
	dir := t.TempDir()
	for name, text := range map[string]string{
		"compose.yaml": "services: {web: {image: HOST/a:1, restart: always}}\n",
		"valise.yaml":  "app: shop\ninstaller: none\ncompose: compose.yaml\nplatforms: [linux/amd64, linux/arm64]\nhealth: {compose: [web]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "HOST", g.host)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := func(args ...string) (questions int) {
		t.Helper()
		mu.Lock()
		asked = 0
		mu.Unlock()
		if code, out := runIn(t, dir, append([]string{"build"}, args...)...); code != 0 {
			t.Fatalf("%v: code %d\n%s", args, code, out)
		}
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
	path := func(elements ...string) string { return filepath.Join(append([]string{dir}, elements...)...) }
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const all = 8 // an image manifest, a config and two layers for each platform
	if n := build("1.1.0", "-o", path("alone.tar.gz")); n != all {
		t.Fatalf("%d questions, want %d", n, all)
	}
	want := read(path("alone.tar.gz"))
	for name, tc := range map[string]struct {
		before []string // another bundle
		damage bool
		args   []string
		asked  int
	}{
		"before":            {before: []string{"1.0.0"}},
		"again":             {before: []string{"1.1.0"}},
		"plain":             {before: []string{"1.0.0", "--compression", "none"}},
		"platform":          {before: []string{"1.0.0", "--platform", "linux/arm64"}, asked: all / 2},
		"damaged":           {before: []string{"1.0.0"}, damage: true, asked: 1},
		"plain and damaged": {before: []string{"1.0.0", "--compression", "none"}, damage: true, asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			dist := t.TempDir()
			build(append(tc.before, "-o", dist)...)
			entries, err := os.ReadDir(dist)
			if err != nil || len(entries) != 1 {
				t.Fatal(entries, err)
			}
			old := filepath.Join(dist, entries[0].Name())
			if tc.damage {
				b := read(old)
				at := bytes.LastIndex(b, []byte("common linux/arm64\ncommon linux/arm64\n"))
				if at < 0 {
					t.Fatal("the bundle has no such layer")
				}
				b[at]++
				if err := os.WriteFile(old, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if n := build("1.1.0", "-o", dist); n != tc.asked {
				t.Errorf("%d questions, want %d", n, tc.asked)
			}
			if !bytes.Equal(read(filepath.Join(dist, "shop-1.1.0.tar.gz")), want) {
				t.Error("it is another bundle than one that is built alone")
			}
		})
	}
	t.Run("from", func(t *testing.T) {
		old := t.TempDir()
		build("1.0.0", "-o", old)
		if n := build("1.1.0", "-o", t.TempDir(), "--from", filepath.Join(old, "shop-1.0.0.tar.gz")); n != 0 {
			t.Errorf("%d questions, want none", n)
		}
	})
}
