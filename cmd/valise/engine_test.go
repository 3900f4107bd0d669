package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

// engineServer has what Docker's servers have, in their layout.
type engineServer struct {
	*httptest.Server
	files map[string]string // by path
	asked []string
}

func newEngineServer(t *testing.T) *engineServer {
	s := &engineServer{files: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked = append(s.asked, r.URL.Path)
		if r.URL.Path == "/compose/releases/latest" {
			http.Redirect(w, r, "/compose/releases/tag/v2.40.3", http.StatusFound)
			return
		}
		text, ok := s.files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	for _, arch := range []string{"x86_64", "aarch64"} {
		s.files["/docker/"+arch+"/"] = `<a href="docker-9.9.9.tgz">docker-9.9.9.tgz</a> <a href="docker-29.1.3.tgz">x</a> <a href="docker-28.5.2.tgz">x</a> <a href="docker-rootless-extras-30.0.0.tgz">x</a>`
		for _, version := range []string{"28.5.2", "29.1.3"} {
			s.files["/docker/"+arch+"/docker-"+version+".tgz"] = dockerArchive(t, "docker/dockerd", version+arch)
		}
		program := "\x7fELF compose for " + arch
		s.files["/compose/releases/download/v2.40.3/docker-compose-linux-"+arch] = program
		s.files["/compose/releases/download/v2.40.3/docker-compose-linux-"+arch+".sha256"] = sumOf(program) + " *docker-compose-linux-" + arch + "\n"
	}
	return s
}

func sumOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func dockerArchive(t *testing.T, name, content string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, n := range []string{"docker/docker", name} {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	w.Close()
	z.Close()
	return b.String()
}

// engineProject is an app whose engine comes from srv; more are lines of its engine.
func engineProject(t *testing.T, srv *engineServer, more string) string {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"compose.yaml": "services: {web: {image: a, restart: always}}\n",
		"valise.yaml": "# my app\napp: shop\ninstaller: none\ncompose: compose.yaml\nplatforms: [linux/amd64, linux/arm64]\nimages: {a: {from: \"oci:image\"}}\nhealth: {compose: [web]}\n" +
			"engine:\n  mirrors: {docker: " + srv.URL + "/docker/, compose: " + srv.URL + "/compose/releases/download}\n" + more,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeLayout(filepath.Join(dir, "image"), "a", []string{"linux/amd64", "linux/arm64"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func runIn(t *testing.T, dir string, args ...string) (code int, out string) {
	t.Helper()
	var b bytes.Buffer
	args = append(args, "--project", filepath.Join(dir, "valise.yaml"), "--progress", "none")
	code = run(t.Context(), cli.Env{Args: args, Stdin: strings.NewReader(""), Stdout: &b, Stderr: &b, Now: time.Now,
		Getenv: func(name string) string { return map[string]string{"HOME": dir, "SOURCE_DATE_EPOCH": "1"}[name] }})
	return code, b.String()
}

// TestEngineFetch: the first time versions and digests are written down, then nothing else
// is taken, by fetch and by build, which downloads what is missing.
func TestEngineFetch(t *testing.T) {
	srv := newEngineServer(t)
	dir := engineProject(t, srv, "")
	good := func(want string, args ...string) string {
		t.Helper()
		code, out := runIn(t, dir, args...)
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("%v: code %d, want %q:\n%s", args, code, want, out)
		}
		return out
	}
	bad := func(want string, args ...string) {
		t.Helper()
		if code, out := runIn(t, dir, args...); code != 1 || !strings.Contains(out, want) {
			t.Fatalf("%v: code %d, want %q:\n%s", args, code, want, out)
		}
	}
	engine := filepath.Join(dir, "dist/engine")
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	bad("valise engine fetch downloads it", "build", "1.0.0", "-o", filepath.Join(dir, "x.tar.gz"))
	good("valise.yaml has their versions and digests: commit it", "engine", "fetch")
	yaml := read("valise.yaml")
	for _, want := range []string{"# my app\n", "  docker: 29.1.3\n", "  compose: 2.40.3\n", "linux-arm64/docker-29.1.3.tgz: \"" + sumOf(srv.files["/docker/aarch64/docker-29.1.3.tgz"]) + "\"\n"} {
		if !strings.Contains(yaml, want) {
			t.Errorf("valise.yaml lacks %q:\n%s", want, yaml)
		}
	}
	if read("dist/engine/linux-arm64/docker-compose") != srv.files["/compose/releases/download/v2.40.3/docker-compose-linux-aarch64"] {
		t.Error("docker-compose is another one")
	}

	// It is there: nobody is asked.
	srv.asked = nil
	good("Docker of 29.1.3 and docker compose 2.40.3", "engine", "fetch")
	if out := good("engine", "build", "1.0.0", "-o", filepath.Join(dir, "x.tar.gz")); !strings.Contains(out, "for linux/amd64, ") || len(srv.asked) > 0 {
		t.Errorf("asked %v:\n%s", srv.asked, out)
	}
	// A machine that has none of it, such as a runner, gets the same.
	if err := os.RemoveAll(engine); err != nil {
		t.Fatal(err)
	}
	good("engine", "build", "1.0.0", "-o", filepath.Join(dir, "y.tar.gz"))
	if read("x.tar.gz") != read("y.tar.gz") || read("valise.yaml") != yaml {
		t.Error("another bundle or valise.yaml")
	}

	// A server, or somebody on the machine, that has other bytes.
	path := "/docker/aarch64/docker-29.1.3.tgz"
	was := srv.files[path]
	srv.files[path] = dockerArchive(t, "docker/dockerd", "evil")
	if err := os.RemoveAll(engine); err != nil {
		t.Fatal(err)
	}
	bad("it has sha256:"+sumOf(srv.files[path])+", want sha256:"+sumOf(was), "build", "1.0.0", "-o", filepath.Join(dir, "z.tar.gz"))
	bad("want sha256:"+sumOf(was), "engine", "fetch")
	if _, err := os.Stat(filepath.Join(engine, "linux-arm64/docker-29.1.3.tgz")); err == nil {
		t.Error("what has another digest is there under its name")
	}
	srv.files[path] = was
	good("", "engine", "fetch")
	if err := os.WriteFile(filepath.Join(engine, "linux-arm64/docker-compose"), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	bad("has SHA-256 "+sumOf("evil"), "build", "1.0.0", "-o", filepath.Join(dir, "z.tar.gz"))
	good("", "engine", "fetch") // brings the right one back

	// Another version, and the newest.
	good("Docker of 28.5.2", "engine", "fetch", "--docker", "v28.5.2")
	good("engine", "build", "1.0.0", "-o", filepath.Join(dir, "z.tar.gz")) // the archive before is there, and left out
	if _, out := runIn(t, dir, "build", "1.0.0", "-o", filepath.Join(dir, "z.tar.gz"), "--output", "json"); strings.Contains(out, "29.1.3") || !strings.Contains(out, "engine/linux-arm64/docker-28.5.2.tgz") {
		t.Errorf("got %s", out)
	}
	good("Docker of 29.1.3", "engine", "fetch", "--update")

	// A platform that is new.
	text := strings.Replace(read("valise.yaml"), "[linux/amd64, linux/arm64]", "[linux/amd64, linux/arm64, linux/arm/v7]", 1)
	if err := os.WriteFile(filepath.Join(dir, "valise.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	bad("armhf/docker-29.1.3.tgz: the server answers 404 Not Found", "engine", "fetch")
}

// TestEngineFetchCompose: docker compose alone, for devices whose engine lacks it.
func TestEngineFetchCompose(t *testing.T) {
	srv := newEngineServer(t)
	dir := engineProject(t, srv, "  compose: true\n")
	if code, out := runIn(t, dir, "engine", "fetch"); code != 0 || !strings.HasPrefix(out, "docker compose 2.40.3 in dist/engine\n") {
		t.Fatalf("code %d: %s", code, out)
	}
	for _, asked := range srv.asked {
		if strings.HasPrefix(asked, "/docker/") {
			t.Errorf("asked for %s", asked)
		}
	}
	if code, out := runIn(t, dir, "build", "1.0.0", "-o", filepath.Join(dir, "x.tar.gz")); code != 0 || !strings.Contains(out, "engine/linux-amd64/docker-compose") && !strings.Contains(out, "engine ") {
		t.Fatalf("code %d: %s", code, out)
	}
}

// TestEngineFetchRefused: what a server, a proxy or a person gets wrong.
func TestEngineFetchRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(s *engineServer)
		args   []string
		want   string
	}{
		"a page":          {func(s *engineServer) { s.files["/docker/x86_64/docker-29.1.3.tgz"] = "<html>log in" }, nil, "it is not an archive"},
		"another archive": {func(s *engineServer) { s.files["/docker/x86_64/docker-29.1.3.tgz"] = dockerArchive(nil, "x", "x") }, nil, "it is not an archive of Docker, with docker/dockerd"},
		"no list":         {func(s *engineServer) { s.files["/docker/x86_64/"] = "hello" }, nil, "it lists no docker-VERSION.tgz\nhint: name a version: --docker 29.1.3"},
		"no such version": {nil, []string{"--docker", "27.0.0"}, "docker-27.0.0.tgz: the server answers 404 Not Found"},
		"a wrong sum": {func(s *engineServer) {
			s.files["/compose/releases/download/v2.40.3/docker-compose-linux-x86_64"] = "\x7fELF evil"
		}, nil, "want sha256:"},
		"no sum": {func(s *engineServer) {
			s.files["/compose/releases/download/v2.40.3/docker-compose-linux-x86_64.sha256"] = "<html>"
		}, nil, "it does not begin with a SHA-256"},
		"a version of sorts": {nil, []string{"--docker", "../29"}, "want a version such as 29.1.3"},
		"both":               {nil, []string{"--docker", "29.1.3", "--debian", "bookworm"}, "want --docker or --debian"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newEngineServer(t)
			if tc.change != nil {
				tc.change(srv)
			}
			dir := engineProject(t, srv, "")
			before, _ := os.ReadFile(filepath.Join(dir, "valise.yaml"))
			code, out := runIn(t, dir, append([]string{"engine", "fetch"}, tc.args...)...)
			if code == 0 || !strings.Contains(out, tc.want) {
				t.Errorf("code %d, want %q: %s", code, tc.want, out)
			}
			if after, _ := os.ReadFile(filepath.Join(dir, "valise.yaml")); !bytes.Equal(before, after) {
				t.Errorf("valise.yaml was changed:\n%s", after)
			}
		})
	}
}
