package tree

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
)

// A file in the middle of a release that is made from its template: each release gets its
// own, anew when the environment changes; the release is still what was verified, and a
// change by hand is found, and kept.
func TestTemplateInRelease(t *testing.T) {
	dir := t.TempDir()
	env := filepath.Join(dir, "cloud.env")
	store, err := release.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := &App{Name: "cloud", Dir: dir, Releases: store, Platform: "linux/amd64"}
	stage := func(version string) (*bundle.Manifest, installer.Release) {
		files := bundletest.TreeFiles("cloud", version)
		files["web/config.json"] = `{"url": "@@URL@@", "cost": "${5}", "version": "@@VALISE_VERSION@@"}`
		m, _ := bundletest.Tree(t, bundletest.Spec{App: "cloud", Version: version}, files)
		m.Device.Tree.EnvFile = env
		m.Device.Tree.Templates = []bundle.Template{{From: "web/config.json", To: "/opt/cloud/current/web/config.json", Mode: 0o644}}
		for name, text := range files {
			write(t, filepath.Join(dir, "releases", "v"+version, m.StagedAs(name)), text)
		}
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "releases", "v"+version, bundle.ManifestName), string(raw))
		return m, installer.Release{Version: version, Dir: "v" + version, Manifest: bundle.DigestOf(raw)}
	}
	place := func(version string) string { return filepath.Join(dir, "releases", "v"+version, "web/config.json") }
	put := func(m *bundle.Manifest, r installer.Release, values string) {
		t.Helper()
		write(t, env, values)
		e, err := environ.Systemd.Parse([]byte(values))
		if err != nil {
			t.Fatal(err)
		}
		store.Remember(r.Manifest, m)
		files, err := a.files(m, r, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.put(files[:1]); err != nil { // not the unit: that is systemd's
			t.Fatal(err)
		}
		if err := a.Verified(t.Context(), r); err != nil {
			t.Errorf("%s is not what was verified: %v", r.Version, err)
		}
		if err := a.Configured(r); err != nil {
			t.Error(err)
		}
	}
	want := func(version, text string) {
		t.Helper()
		if b, err := os.ReadFile(place(version)); err != nil || string(b) != text {
			t.Errorf("%s: %q, %v, want %q", version, b, err, text)
		}
	}
	olds := func() int {
		found, _ := filepath.Glob(filepath.Join(dir, "releases", "*", "web", "*.valise-old-*"))
		return len(found)
	}
	one, first := stage("1.0.0")
	put(one, first, "URL=https://a.example\n")
	want("1.0.0", `{"url": "https://a.example", "cost": "${5}", "version": "1.0.0"}`)
	two, second := stage("2.0.0")
	put(two, second, "URL=https://a.example\n")
	want("2.0.0", `{"url": "https://a.example", "cost": "${5}", "version": "2.0.0"}`)
	put(two, second, "URL=https://b.example\n")
	want("2.0.0", `{"url": "https://b.example", "cost": "${5}", "version": "2.0.0"}`)
	want("1.0.0", `{"url": "https://a.example", "cost": "${5}", "version": "1.0.0"}`)
	if olds() != 0 {
		t.Error("what was made here was kept as if it were an edit")
	}
	write(t, place("2.0.0"), "by hand")
	if err := a.Configured(second); err == nil || !strings.Contains(err.Error(), "web/config.json is not what the release makes of the environment file") {
		t.Errorf("an edit: %v", err)
	}
	put(two, second, "URL=https://b.example\n")
	if olds() != 1 {
		t.Error("an edit was not kept")
	}
	// What a pruned release had is forgotten.
	if err := os.RemoveAll(filepath.Join(dir, "releases", "v1.0.0")); err != nil {
		t.Fatal(err)
	}
	put(two, second, "URL=https://c.example\n")
	if b, err := os.ReadFile(filepath.Join(dir, ownedName)); err != nil || bytes.Contains(b, []byte("v1.0.0")) {
		t.Errorf("%s, %v", b, err)
	}
	// A template whose value is missing is an error that names it.
	e, err := environ.Systemd.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.files(two, second, e); err == nil || !strings.Contains(err.Error(), "does not set URL") {
		t.Errorf("a key without a value: %v", err)
	}
}
