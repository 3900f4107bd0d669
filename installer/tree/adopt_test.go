package tree

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
)

// A bundle of ours that an older tool unpacked, whose files its installer filled in: it
// is adopted as it lies there, the way back to it works, and what differs can be said.
// So does what changes afterwards; a unit that changes then is another matter.
func TestAdoptChangedBundle(t *testing.T) {
	for _, changed := range []bool{false, true} {
		dir := t.TempDir()
		files := bundletest.TreeFiles("cloud", "1.1.0")
		files["web/config.json"] = `{"url": "http://localhost"}`
		m, _ := bundletest.Tree(t, bundletest.Spec{App: "cloud", Version: "1.1.0"}, files)
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		there := filepath.Join(dir, "releases", "v1.1.0")
		for name, text := range files {
			write(t, filepath.Join(there, name), text)
		}
		write(t, filepath.Join(there, bundle.ManifestName), string(raw))
		if changed {
			write(t, filepath.Join(there, "web/config.json"), `{"url": "https://cloud.example"}`)
		}
		store, err := release.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		a := &App{Name: "cloud", Dir: dir, Releases: store, Platform: m.Platforms[0]}
		adopt := func(known bool) installer.Release {
			t.Helper()
			digest, err := a.adoptRelease(&Adoption{App: "cloud", Current: "v1.1.0", Unit: "cloud.service"}, Found{Dir: "v1.1.0", Version: "1.1.0"}, nil, known)
			if err != nil {
				t.Fatal(err)
			}
			return installer.Release{Version: "1.1.0", Dir: "v1.1.0", Manifest: digest, Signer: installer.Adopted}
		}
		r := adopt(false)
		look := func(whole bool, want ...string) {
			t.Helper()
			paths, err := a.Changed(context.Background(), r)
			if err != nil || !slices.Equal(paths, want) {
				t.Errorf("changed %v: %q, %v, want %q", changed, paths, err, want)
			}
			if err := a.Verified(context.Background(), r); (err == nil) != whole {
				t.Errorf("changed %v: verified: %v", changed, err)
			}
		}
		if changed {
			look(true, "web/config.json")
		} else {
			look(true)
		}
		write(t, filepath.Join(there, "web/index.html"), "other")
		if again := adopt(true); again.Manifest != r.Manifest {
			t.Error("another manifest of a release that is known")
		}
		if changed {
			look(false, "web/config.json", "web/index.html")
		} else {
			look(false, "web/index.html")
		}
		write(t, filepath.Join(there, m.Device.Tree.Units[0]), "[Service]\nExecStart=/bin/sh -c evil\n")
		if _, err := a.Changed(context.Background(), r); err == nil || !strings.Contains(err.Error(), "is not what was verified") {
			t.Errorf("a unit that was changed afterwards: %v", err)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
