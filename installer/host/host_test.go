package host

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// machine has commands that log how they were called. What a command prints and
// how it ends is said by its script.
func machine(t *testing.T, commands map[string]string) (m *Machine, log func() string) {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	for name, script := range commands {
		text := "#!/bin/sh\necho \"" + name + " $*\" >>" + calls + "\n" + script + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Machine{Root: filepath.Join(dir, "root"), Path: dir, Spool: filepath.Join(dir, "spool")}, func() string {
		b, _ := os.ReadFile(calls)
		return strings.ReplaceAll(string(b), dir, "DIR")
	}
}

const amd64 = "[ \"$1\" != --print-architecture ] || echo amd64"

func dockerArchive(t *testing.T, names ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: 3}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "ELF")
	}
	w.Close()
	z.Close()
	return b.String()
}

func TestPackages(t *testing.T) {
	rel := verifytest.NewSigner(t).Release(t, bundletest.Spec{Files: map[string]string{
		"engine/linux-amd64/containerd.deb": "c", "engine/linux-amd64/docker.io.deb": "d", "engine/linux-arm64/other.deb": "o",
	}})
	m, log := machine(t, map[string]string{"dpkg": amd64 + "\ncase $1 in --refuse-downgrade) shift 3; /bin/cat \"$@\" >\"${0%/*}\"/got;; esac"})
	if err := m.InstallEngine(t.Context(), rel); err != nil {
		t.Fatal(err)
	}
	want := "dpkg --print-architecture\ndpkg --audit\ndpkg --refuse-downgrade --skip-same-version --install DIR/spool/engine/containerd.deb DIR/spool/engine/docker.io.deb\n"
	if got := log(); got != want {
		t.Errorf("called\n%s\nwant\n%s", got, want)
	}
	if got, _ := os.ReadFile(filepath.Join(m.Path, "got")); string(got) != "cd" {
		t.Errorf("dpkg read %q, want cd", got)
	}
	if _, err := os.Lstat(filepath.Join(m.Spool, "engine")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the spool is still there: %v", err)
	}
}

func TestArchive(t *testing.T) {
	files := map[string]string{
		"engine/linux-amd64/docker-29.tgz":  dockerArchive(t, "docker/dockerd", "docker/docker", "docker/../../evil", "/etc/passwd", "docker/other"),
		"engine/linux-amd64/docker-compose": "compose",
	}
	m, _ := machine(t, map[string]string{"dpkg": amd64})
	rel := verifytest.NewSigner(t).Release(t, bundletest.Spec{Files: files})
	if err := errors.Join(m.InstallEngine(t.Context(), rel), m.InstallCompose(t.Context(), rel)); err != nil {
		t.Fatal(err)
	}
	var got []string
	filepath.WalkDir(m.Root, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, strings.TrimPrefix(p, m.Root))
		}
		return err
	})
	const want = "/etc/systemd/system/docker.service /usr/local/bin/docker /usr/local/bin/dockerd /usr/local/lib/docker/cli-plugins/docker-compose"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("wrote %s\nwant  %s", s, want)
	}
}

// TestChangedStick gives other bytes once the release is verified: nothing of
// them may be installed.
func TestChangedStick(t *testing.T) {
	for name, file := range map[string]struct{ path, text string }{
		"archive":  {"engine/linux-amd64/docker-29.tgz", dockerArchive(t, "docker/dockerd")},
		"packages": {"engine/linux-amd64/docker.deb", "package"},
		"compose":  {"engine/linux-amd64/docker-compose", "compose"},
	} {
		t.Run(name, func(t *testing.T) {
			signer := verifytest.NewSigner(t)
			man, content := bundletest.Release(t, bundletest.Spec{Files: map[string]string{file.path: file.text}})
			stick := &stick{b: signer.Bundle(t, man, content)}
			r, err := bundle.Open(stick, int64(len(stick.b)))
			if err != nil {
				t.Fatal(err)
			}
			v, err := verify.New(signer.Policy())
			if err != nil {
				t.Fatal(err)
			}
			rel, err := v.Release(context.Background(), r, verify.Want{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			stick.lie = true
			m, log := machine(t, map[string]string{"dpkg": amd64})
			install := m.InstallEngine
			if name == "compose" {
				install = m.InstallCompose
			}
			if err := install(t.Context(), rel); err == nil {
				t.Error("it was installed")
			}
			if strings.Contains(log(), "--install") {
				t.Errorf("dpkg was called: %s", log())
			}
			filepath.WalkDir(m.Root, func(p string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					t.Errorf("wrote %s", p)
				}
				return nil
			})
		})
	}
}

// stick is a bundle file that flips a bit of every byte it is read again.
type stick struct {
	b   []byte
	lie bool
}

func (s *stick) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(s.b).ReadAt(p, off)
	for i := range p[:n] {
		if s.lie {
			p[i] ^= 1
		}
	}
	return n, err
}

func TestDistribution(t *testing.T) {
	rel := verifytest.NewSigner(t).Release(t, bundletest.Spec{})
	t.Run("network", func(t *testing.T) {
		m, log := machine(t, map[string]string{"dpkg": amd64, "apt-get": "[ \"$4\" != docker-compose-v2 ]"})
		if err := m.InstallCompose(t.Context(), rel); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(log(), "install -qq --no-install-recommends docker-compose-plugin\n") {
			t.Errorf("called\n%s", log())
		}
	})
	t.Run("no network", func(t *testing.T) {
		m, _ := machine(t, map[string]string{"dpkg": amd64, "apt-get": "echo E: Unable to locate package; exit 100"})
		err := m.InstallEngine(t.Context(), rel)
		if none := new(NoEngineError); !errors.As(err, &none) || !strings.Contains(err.Error(), "engine/linux-amd64") || !strings.Contains(err.Error(), "Unable to locate") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no apt-get", func(t *testing.T) {
		m, _ := machine(t, nil)
		if err := m.InstallEngine(t.Context(), rel); !errors.As(err, new(*NoEngineError)) {
			t.Errorf("got %v", err)
		}
	})
}

// TestCutOff is a dpkg that lost power: what it left is ended by the next call,
// with real packages of which one depends on the other.
func TestCutOff(t *testing.T) {
	for _, tool := range []string{"dpkg", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err) // another distribution
		}
	}
	dir := t.TempDir()
	files := map[string]string{}
	for name, depends := range map[string]string{"docker.io": "Depends: containerd\n", "containerd": ""} {
		control := "Package: " + name + "\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: a test\n" + depends
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, name, "DEBIAN"), 0o755), os.WriteFile(filepath.Join(dir, name, "DEBIAN/control"), []byte(control), 0o644)); err != nil {
			t.Fatal(err)
		}
		deb := filepath.Join(dir, name+".deb")
		if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", filepath.Join(dir, name), deb).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		files["engine/linux-amd64/"+name+".deb"] = string(b)
	}
	rel := verifytest.NewSigner(t).Release(t, bundletest.Spec{Files: files})
	for name, left := range map[string][]string{
		"nothing": nil, "the one that depends": {"docker.io"}, "the other": {"containerd"}, "both": {"docker.io", "containerd"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := errors.Join(os.MkdirAll(filepath.Join(root, "var/lib/dpkg/info"), 0o755), os.MkdirAll(filepath.Join(root, "var/lib/dpkg/updates"), 0o755), os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			const rootless = "--force-not-root --force-script-chrootless --force-bad-path"
			m, _ := machine(t, map[string]string{"dpkg": amd64 + "\ncase $1 in --print-architecture) ;; *) PATH=/usr/sbin:/usr/bin:/sbin:/bin exec dpkg --root=" + root + " " + rootless + " \"$@\" ;; esac"})
			for _, l := range left {
				if _, err := m.output(t.Context(), "dpkg", "--unpack", filepath.Join(dir, l+".deb")); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // and once more, where all is there
				if err := m.InstallEngine(t.Context(), rel); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.Command("dpkg-query", "--admindir="+filepath.Join(root, "var/lib/dpkg"), "-W", "-f", "${Package} ${Status}\n").Output()
			if want := "containerd install ok installed\ndocker.io install ok installed\n"; err != nil || string(out) != want {
				t.Errorf("dpkg has (%v)\n%swant\n%s", err, out, want)
			}
		})
	}
}
