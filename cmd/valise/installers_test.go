package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFindInstaller: beside the program, else downloaded once; never another one than
// the program was built with.
func TestFindInstaller(t *testing.T) {
	const platform = "linux-arm64"
	good, evil := []byte("\x7fELF the installer"), []byte("\x7fELF another one")
	sum := sha256.Sum256(good)
	named := "linux-amd64=" + strings.Repeat("0", 64) + "," + platform + "=" + hex.EncodeToString(sum[:])
	answers := map[string][]byte{"/good/valise-installer-" + platform: good, "/evil/valise-installer-" + platform: evil, "/half/valise-installer-" + platform: good[:9]}
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if b, ok := answers[r.URL.Path]; ok {
			w.Write(b)
			return
		}
		http.NotFound(w, r)
	}))
	defer srv.Close()
	beside := func(b []byte) string {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, platform), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, platform, "valise-installer"), b, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, tc := range map[string]struct {
		named, beside, release string
		asks                   int
		fails                  string // "" for the good one
	}{
		"beside":                       {named, beside(good), "/good/", 0, ""},
		"beside, build without digest": {"", beside(good), "", 0, ""},
		"downloaded":                   {named, "", "/good/", 1, ""},
		"stale one beside":             {named, beside(evil), "/good/", 1, ""},
		"stale one beside, no release": {named, beside(evil), "", 0, "valise-installer is of another build of valise"},
		"nothing, no release":          {named, "", "", 0, "no valise-installer for linux-arm64 beside this program"},
		"nothing, no digest":           {"", "", "/good/", 0, "no valise-installer for linux-arm64 beside this program"},
		"a mirror that lies":           {named, "", "/evil/", 1, "want sha256:"},
		"a mirror that breaks off":     {named, "", "/half/", 1, "want sha256:"},
		"a mirror that has it not":     {named, "", "/none/", 1, "the server answers 404 Not Found"},
	} {
		t.Run(name, func(t *testing.T) {
			p := installerPlaces{named: tc.named, cache: filepath.Join(t.TempDir(), "installers")}
			if tc.beside != "" {
				p.beside = []string{t.TempDir(), tc.beside}
			}
			if tc.release != "" {
				p.url = srv.URL + tc.release
			}
			for try := range 2 { // what was downloaded is there the second time
				asked = 0
				path, err := p.find(t.Context(), platform, func(string, string) {})
				if tc.fails != "" {
					if err == nil || !strings.Contains(err.Error(), tc.fails) || asked != tc.asks {
						t.Errorf("got %q, %v after %d requests, want %d and %s", path, err, asked, tc.asks, tc.fails)
					}
					continue
				}
				b, _ := os.ReadFile(path)
				if err != nil || string(b) != string(good) || asked != tc.asks*(1-try) {
					t.Errorf("got %q, %v after %d requests, want %d", b, err, asked, tc.asks*(1-try))
				}
			}
			if left, _ := filepath.Glob(filepath.Join(p.cache, "*", "*")); tc.fails != "" && len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestInstallerVersion(t *testing.T) {
	note := func(id string) string {
		return "\x7fELF\x04\x00\x00\x00" + string(rune(len(id))) + "\x00\x00\x00\x04\x00\x00\x00Go\x00\x00" + id + "rest"
	}
	for head, want := range map[string]string{
		note("1.2.3"):                     "1.2.3",
		note("1.2.3-rc.1"):                "1.2.3-rc.1",
		note("a/b/c/d"):                   "",
		note(""):                          "",
		note("1.2.3")[:22]:                "",
		"":                                "",
		"\x04\x00\x00\x00Go":              "",
		"\x04\x00\x00\x00Go\x00\x001.2.3": "",
		"\xff\xff\xff\xff\x04\x00\x00\x00Go\x00\x00" + "1.2.3":    "",
		"\x00\x00\x00\x80\x04\x00\x00\x00Go\x00\x00" + "1.2.3...": "",
		"#!/bin/sh\necho\n": "",
	} {
		if got := installerVersion([]byte(head)); got != want {
			t.Errorf("%q: got %q, want %q", head, got, want)
		}
	}
}
