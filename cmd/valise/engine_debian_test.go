package main

import (
	"bytes"
	"crypto"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// debianMirror has a release of Debian as its mirrors have one: signed indexes, packages.
type debianMirror struct {
	key     *openpgp.Entity
	until   time.Time // the Release is valid
	debs    map[string]string
	files   map[string]string // by path, over what the above gives; "" is none
	endless string            // a path that never ends
}

// debianPackages are the packages of the mirror: required ones, which fetch leaves out,
// those of an engine, and one that nothing needs.
var debianPackages = []struct{ name, fields string }{
	{"libc6", "Priority: optional\n"},
	{"dash", "Essential: yes\nPriority: required\nDepends: libc6\n"},
	{"apparmor", "Priority: optional\nDepends: libc6\n"},
	{"containerd", "Priority: optional\nDepends: libc6\n"},
	{"docker.io", "Priority: optional\nDepends: containerd, libc6\nRecommends: vim\n"},
	{"vim", "Priority: optional\n"},
}

func (m *debianMirror) start(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == m.endless {
			for piece := bytes.Repeat([]byte("x"), 64<<10); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}
		text, ok := m.file(t, r.URL.Path)
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func (m *debianMirror) file(t *testing.T, path string) (string, bool) {
	if text, ok := m.files[path]; ok {
		return text, text != ""
	}
	if deb, ok := m.debs[strings.TrimPrefix(path, "/debian/pool/")]; ok {
		return deb, true
	}
	dist, file, _ := strings.Cut(strings.TrimPrefix(path, "/debian/dists/"), "/")
	switch file {
	case "InRelease":
		return m.sign(t, m.release(dist)), true
	case "main/binary-amd64/Packages":
		return m.index(dist), true
	}
	return "", false
}

// index lists the packages; the suites of updates have none.
func (m *debianMirror) index(dist string) string {
	var b strings.Builder
	for _, p := range debianPackages {
		name := p.name + "_1.0+deb_amd64.deb"
		deb := m.debs[name]
		if deb == "" || strings.Contains(dist, "-") {
			continue
		}
		fmt.Fprintf(&b, "Package: %s\nVersion: 1.0+deb\nArchitecture: amd64\nMaintainer: A <a@example.org>\n%sFilename: pool/%s\nSize: %d\nSHA256: %s\nDescription: a test\n\n",
			p.name, p.fields, name, len(deb), sumOf(deb))
	}
	return b.String()
}

func (m *debianMirror) release(dist string) string {
	index := m.index(dist)
	until := ""
	if !m.until.IsZero() {
		until = "Valid-Until: " + m.until.UTC().Format(time.RFC1123) + "\n"
	}
	return fmt.Sprintf("Origin: Debian\nSuite: stable\nCodename: %s\nDate: %s\n%sArchitectures: amd64\nComponents: main\nSHA256:\n %s %d main/binary-amd64/Packages\n",
		dist, time.Now().Add(-time.Hour).UTC().Format(time.RFC1123), until, sumOf(index), len(index))
}

func (m *debianMirror) sign(t *testing.T, text string) string {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, m.key.PrivateKey, &packet.Config{DefaultHash: crypto.SHA256})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Error(err)
	}
	return b.String()
}

func newSigner(t *testing.T) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("Archive", "", "archive@example.org", &packet.Config{DefaultHash: crypto.SHA256, RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// needApt skips where there is no apt: on another distribution.
func needApt(t *testing.T) {
	t.Helper()
	verifier := "gpgv"
	if _, err := exec.LookPath("sqv"); err == nil { // since Debian 13
		verifier = "sqv"
	}
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", verifier} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

func newDebianMirror(key *openpgp.Entity) *debianMirror {
	m := &debianMirror{key: key, debs: map[string]string{}, files: map[string]string{}}
	for _, p := range debianPackages {
		m.debs[p.name+"_1.0+deb_amd64.deb"] = "!<arch>\n" + p.name
	}
	return m
}

// debianProject is an app for amd64 whose engine comes from a mirror that key signs.
func debianProject(t *testing.T, url string, key *openpgp.Entity) string {
	t.Helper()
	srv := newEngineServer(t)
	dir := engineProject(t, srv, "")
	file := filepath.Join(dir, "valise.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mirrors := "mirrors: {debian: " + url + "/debian, security: " + url + "/debian, keyring: my keys/archive.gpg, docker:"
	yaml := strings.NewReplacer("mirrors: {docker:", mirrors, "[linux/amd64, linux/arm64]", "[linux/amd64]").Replace(string(text))
	var keyring bytes.Buffer
	if err := key.Serialize(&keyring); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "my keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{file: yaml, filepath.Join(dir, "my keys/archive.gpg"): keyring.String()} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestEngineFetchDebian: apt finds what an engine needs beside the required packages; what
// it found is written down, and nothing else is taken from then on.
func TestEngineFetchDebian(t *testing.T) {
	needApt(t)
	key := newSigner(t)
	m := newDebianMirror(key)
	dir := debianProject(t, m.start(t), key)
	fetch := func(code int, want string, args ...string) {
		t.Helper()
		if got, out := runIn(t, dir, args...); got != code || !strings.Contains(out, want) {
			t.Fatalf("%v: code %d, want %d and %q:\n%s", args, got, code, want, out)
		}
	}
	fetch(0, "Docker of bookworm and docker compose 2.40.3 in dist/engine", "engine", "fetch", "--debian", "bookworm")
	engine := filepath.Join(dir, "dist/engine/linux-amd64")
	check := func(docker string) {
		t.Helper()
		found, err := os.ReadDir(engine)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range found {
			names = append(names, f.Name())
		}
		if got, want := strings.Join(names, " "), "apparmor_1.0+deb_amd64.deb containerd_1.0+deb_amd64.deb docker-compose docker.io_1.0+deb_amd64.deb"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		yaml, err := os.ReadFile(filepath.Join(dir, "valise.yaml"))
		if err != nil || !strings.Contains(string(yaml), "linux-amd64/docker.io_1.0+deb_amd64.deb: \""+sumOf(docker)+"\"\n") || !strings.Contains(string(yaml), "debian: bookworm\n") {
			t.Errorf("%v: valise.yaml has other digests:\n%s", err, yaml)
		}
	}
	check("!<arch>\ndocker.io")
	build := []string{"build", "1.0.0", "-o", filepath.Join(dir, "x.tar.gz")}
	fetch(0, "engine", build...)

	// A machine that has none of it gets the same; newer packages are named, not taken.
	if err := os.RemoveAll(engine); err != nil {
		t.Fatal(err)
	}
	fetch(0, "engine", build...)
	check("!<arch>\ndocker.io")
	m.debs["docker.io_1.0+deb_amd64.deb"] = "!<arch>\nanother"
	fetch(0, "", "engine", "fetch") // all is there
	if err := os.Remove(filepath.Join(engine, "containerd_1.0+deb_amd64.deb")); err != nil {
		t.Fatal(err)
	}
	fetch(1, "packages of Debian bookworm for amd64 are not those that "+filepath.Join(dir, "valise.yaml")+" has digests of: docker.io_1.0+deb_amd64.deb\nhint: valise engine fetch --update takes them", "engine", "fetch")
	fetch(1, "are not those that", build...)
	fetch(0, "commit it", "engine", "fetch", "--update")
	check("!<arch>\nanother")
}

// TestEngineFetchDebianRefused: what a mirror, or who is between, can do.
func TestEngineFetchDebianRefused(t *testing.T) {
	needApt(t)
	key, other := newSigner(t), newSigner(t)
	const index, deb = "/debian/dists/bookworm/main/binary-amd64/Packages", "/debian/pool/docker.io_1.0+deb_amd64.deb"
	for name, tc := range map[string]struct {
		change func(m *debianMirror)
		want   string
	}{
		"another key": {func(m *debianMirror) { m.key = other }, "is not signed"},
		"not signed":  {func(m *debianMirror) { m.files["/debian/dists/bookworm/InRelease"] = m.release("bookworm") }, "Clearsigned file isn't valid"},
		"nothing signed at all": {func(m *debianMirror) {
			m.files["/debian/dists/bookworm/InRelease"] = ""
			m.files["/debian/dists/bookworm/Release"] = m.release("bookworm")
		}, "is not signed"},
		"changed after it was signed": {func(m *debianMirror) {
			m.files["/debian/dists/bookworm/InRelease"] = strings.Replace(m.sign(t, m.release("bookworm")), "Origin: Debian", "Origin: Xebian", 1)
		}, "is not signed"},
		"expired":             {func(m *debianMirror) { m.until = time.Now().Add(-time.Minute) }, "is expired"},
		"an index of another": {func(m *debianMirror) { m.files[index] = strings.Replace(m.index("bookworm"), "vim", "wim", 1) }, "Hash Sum mismatch"},
		"a longer index":      {func(m *debianMirror) { m.files[index] = m.index("bookworm") + "\n" }, "unexpected size"},
		"another package":     {func(m *debianMirror) { m.files[deb] = "!<arch>\nevil 9 io" }, "Hash Sum mismatch"},
		"an endless Release":  {func(m *debianMirror) { m.endless = "/debian/dists/bookworm/InRelease" }, "find the packages of Debian bookworm for amd64: apt-get update"},
		"an endless index":    {func(m *debianMirror) { m.endless = index }, "File has unexpected size"},
		"an endless package":  {func(m *debianMirror) { m.endless = deb }, "File has unexpected size"},
		"no engine":           {func(m *debianMirror) { delete(m.debs, "docker.io_1.0+deb_amd64.deb") }, "Unable to locate package docker.io"},
		"no such release":     {func(m *debianMirror) { m.files["/debian/dists/bookworm/InRelease"] = "" }, "find the packages of Debian bookworm for amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newDebianMirror(key)
			tc.change(m)
			dir := debianProject(t, m.start(t), key)
			before, _ := os.ReadFile(filepath.Join(dir, "valise.yaml"))
			code, out := runIn(t, dir, "engine", "fetch", "--debian", "bookworm")
			if code != 1 || !strings.Contains(out, tc.want) || len(out) > 2000 {
				t.Errorf("code %d, %d bytes, want %q: %.3000s", code, len(out), tc.want, out)
			}
			if after, _ := os.ReadFile(filepath.Join(dir, "valise.yaml")); !bytes.Equal(before, after) {
				t.Errorf("valise.yaml was changed:\n%s", after)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "dist/engine/*/*.deb")); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}
