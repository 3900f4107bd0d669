package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
)

// turns a skip into a failure.
func newContext(t *testing.T, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "hello.txt"), []byte("hello"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "linux-amd64"), []byte("for amd64"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "linux-arm64"), []byte("for arm64"), 0o644))
	return dir
}

const dockerfile = `FROM scratch AS first
ARG TARGETOS TARGETARCH GREETING
COPY hello.txt /etc/hello.txt
COPY ${TARGETOS}-${TARGETARCH} /etc/platform
ENV GREETING=$GREETING
FROM first AS second
COPY hello.txt /etc/second
`

// TestBuildCommand shows the command lines: nothing of a name can become an
// option or a second part of a list.
func TestBuildCommand(t *testing.T) {
	dir := newContext(t, dockerfile)
	bin := t.TempDir()
	for _, name := range []string{"docker", "buildctl"} {
		must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nexit 0\n"), 0o755))
	}
	t.Setenv("PATH", bin)
	d := &Dockerfile{Context: ".", File: "Dockerfile", Target: "first", Args: map[string]string{"B": "2", "A": "1 x"}, Labels: map[string]string{"l": "m"}}
	c := &collector{Options: Options{Dir: dir, Platforms: both, DockerHost: "unix:///d"}}
	cmd, err := c.buildCommand(t.Context(), d, "/out,a\"b")
	must(t, err)
	const output = `type=oci,tar=false,rewrite-timestamp=true,"dest=/out,a""b"`
	want := []string{bin + "/docker", "buildx", "build", "--progress", "plain", "--provenance=false", "--sbom=false", "--platform", "linux/amd64,linux/arm64",
		"--file", dir + "/Dockerfile", "--output", output, "--target", "first",
		"--build-arg", "A=1 x", "--build-arg", "B=2", "--build-arg", "SOURCE_DATE_EPOCH=315532800", "--label", "l=m", dir}
	if !slices.Equal(cmd.Args, want) || !slices.Contains(cmd.Env, "DOCKER_HOST=unix:///d") {
		t.Errorf("got  %q\nwant %q", cmd.Args, want)
	}
	c.BuildKit = BuildKit{Args: map[string]string{"B": "3", "C": "4"}, Secrets: []string{"id=npm,env=NPM_TOKEN"}, CacheFrom: []string{"type=gha"}, CacheTo: []string{"type=gha,mode=max"}, Builder: "ci"}
	cmd, err = c.buildCommand(t.Context(), d, "/out")
	must(t, err)
	if got := strings.Join(cmd.Args, " "); !strings.Contains(got, " --builder ci --secret id=npm,env=NPM_TOKEN --cache-from type=gha --cache-to type=gha,mode=max --target ") ||
		!strings.Contains(got, " --build-arg B=3 --build-arg C=4 ") {
		t.Errorf("got %s", got)
	}
	c.BuildKitHost = "tcp://b:1"
	cmd, err = c.buildCommand(t.Context(), d, "/out")
	must(t, err)
	if got := strings.Join(cmd.Args, " "); !strings.Contains(got, " --secret id=npm,env=NPM_TOKEN --import-cache type=gha --export-cache type=gha,mode=max ") ||
		!strings.Contains(got, " --opt build-arg:B=3 --opt build-arg:C=4 ") {
		t.Errorf("got %s", got)
	}
	more := *d
	more.Contexts = map[string]string{"here": ".", "alpine": "docker-image://alpine:3"}
	more.Secrets, more.CacheFrom, more.Pull, more.NoCache = []string{"id=npm,env=OTHER", "id=pip,src=/pip.conf"}, []string{"type=local,src=c"}, true, true
	cmd, err = c.buildCommand(t.Context(), &more, "/out")
	must(t, err)
	if got := strings.Join(cmd.Args, " "); !strings.Contains(got, " --secret id=npm,env=NPM_TOKEN --secret id=pip,src=/pip.conf --import-cache type=gha --import-cache type=local,src=c --export-cache type=gha,mode=max"+
		" --opt context:alpine=docker-image://alpine:3 --local more-here="+dir+" --opt context:here=local:more-here --opt image-resolve-mode=pull --no-cache ") {
		t.Errorf("got %s", got)
	}
	c.BuildKitHost = ""
	cmd, err = c.buildCommand(t.Context(), &more, "/out")
	must(t, err)
	if got := strings.Join(cmd.Args, " "); !strings.Contains(got, " --secret id=pip,src=/pip.conf --cache-from type=gha --cache-from type=local,src=c --cache-to type=gha,mode=max"+
		" --build-context alpine=docker-image://alpine:3 --build-context here="+dir+" --pull --no-cache ") {
		t.Errorf("got %s", got)
	}
	more.Contexts["here"] = "hello.txt"
	if _, err := c.buildCommand(t.Context(), &more, "/out"); err == nil || !strings.Contains(err.Error(), "hello.txt is not a directory") {
		t.Errorf("got %v", err)
	}
	c.BuildKitHost, c.BuildKit = "tcp://b:1", BuildKit{}
	cmd, err = c.buildCommand(t.Context(), d, "/out,a\"b")
	must(t, err)
	want = []string{bin + "/buildctl", "--addr", "tcp://b:1", "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir, "--local", "dockerfile=" + dir, "--opt", "filename=Dockerfile", "--opt", "platform=linux/amd64,linux/arm64", "--output", output,
		"--opt", "target=first", "--opt", "build-arg:A=1 x", "--opt", "build-arg:B=2", "--opt", "build-arg:SOURCE_DATE_EPOCH=315532800", "--opt", "label:l=m"}
	if !slices.Equal(cmd.Args, want) {
		t.Errorf("got  %q\nwant %q", cmd.Args, want)
	}
}

func TestNoBuildKit(t *testing.T) {
	dir := newContext(t, dockerfile)
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	build := func(host string) error {
		_, err := Collect(t.Context(), Options{Platforms: both, Dir: dir, CacheDir: t.TempDir(), BuildKitHost: host,
			Images: []Spec{{Reference: "a:1", Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile"}}}})
		return err
	}
	expect := func(err error, want string) {
		t.Helper()
		if !errors.As(err, new(*BuildKitError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	expect(build(""), `find BuildKit: exec: "docker": executable file not found`)
	expect(build("unix:///b"), `find BuildKit: exec: "buildctl": executable file not found`)
	must(t, os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\necho \"docker: 'buildx' is not a docker command.\" >&2\nexit 1\n"), 0o755))
	expect(build(""), "find BuildKit: docker buildx: exit status 1: docker: 'buildx' is not a docker command.")
}

// TestNoBuildKitTwice has buildx fail for one image while it is asked for another one,
// which is the first of both.
func TestNoBuildKitTwice(t *testing.T) {
	dir := newContext(t, dockerfile)
	bin := t.TempDir()
	fifo := filepath.Join(t.TempDir(), "first")
	must(t, syscall.Mkfifo(fifo, 0o600))
	// The one that comes first waits until it is killed, the other one fails then.
	must(t, os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\n[ \"$2\" = version ] || exit 1\nif /bin/mkdir "+fifo+".d 2>/dev/null; then echo >"+fifo+"; exec /bin/sleep 600; fi\nread x <"+fifo+"\necho no buildx\nexit 1\n"), 0o755))
	t.Setenv("PATH", bin)
	var images []Spec
	for _, name := range []string{"a:1", "b:1"} {
		images = append(images, Spec{Reference: name, Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile"}})
	}
	_, err := Collect(t.Context(), Options{Platforms: both, Dir: dir, CacheDir: t.TempDir(), Images: images})
	if err == nil || !strings.HasSuffix(err.Error(), "find BuildKit: docker buildx: exit status 1: no buildx") {
		t.Errorf("got %v", err)
	}
}

// TestDockerfileCanceled ends a build that hangs.
func TestDockerfileCanceled(t *testing.T) {
	dir := newContext(t, dockerfile)
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "buildctl"), []byte("#!/bin/sh\nexec /bin/sleep 60\n"), 0o755))
	t.Setenv("PATH", bin)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Collect(ctx, Options{Platforms: both, Dir: dir, CacheDir: t.TempDir(), BuildKitHost: "unix:///b",
		Images: []Spec{{Reference: "a:1", Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile"}}}})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

// fileIn returns the content of a file of a layer.
func fileIn(t *testing.T, c *Collection, digest bundle.Digest, name string) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(readBlob(t, c, digest)))
	must(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		must(t, err)
		if h.Name == name {
			b, err := io.ReadAll(r)
			must(t, err)
			return string(b)
		}
	}
}

// TestBaseOf: the images of a Dockerfile are read from what BuildKit says, and nothing
// that a command of the Dockerfile prints can look like one.
func TestBaseOf(t *testing.T) {
	const digest = "sha256:dd54b9d68af11000715f420367c36b4552576361317509bf6c5771c7628c27a8"
	for line, want := range map[string]string{
		"#9 [linux/arm64 stage-1 1/3] FROM docker.io/library/debian:12@" + digest: "docker.io/library/debian:12",
		"#10 FROM 127.0.0.1:5000/front:1.0.0@" + digest:                           "127.0.0.1:5000/front:1.0.0",
		"#3 docker-image://docker.io/docker/dockerfile:1@" + digest:               "docker.io/docker/dockerfile:1",
		"#9 resolve docker.io/library/debian:12@" + digest:                        "",
		"#9 [stage-1 1/3] FROM docker.io/library/debian:12":                       "",
		"#9 0.123 FROM docker.io/library/evil:1@" + digest:                        "",
		"#9 0.123 #9 FROM docker.io/library/evil:1@" + digest:                     "",
		"FROM docker.io/library/evil:1@" + digest:                                 "",
		"#9 [2/2] RUN echo FROM evil@" + digest:                                   "",
	} {
		got, ok := baseOf(line)
		if got.Name != want || ok != (want != "") || ok && (string(got.Digest) != digest || !strings.HasPrefix(got.URI, "pkg:oci/")) {
			t.Errorf("%s: got %+v", line, got)
		}
	}
}

// TestCheckBuilder: before anything is loaded, the builder is one that can build what
// is asked for. What docker buildx inspect prints is that of buildx 0.29.
func TestCheckBuilder(t *testing.T) {
	const docker = `Name:   default
Driver: docker

Nodes:
Name:             default
Endpoint:         default
Status:           running
Buildkit version: v0.26.2
Platforms:        linux/amd64, linux/amd64/v2, linux/amd64/v3, linux/386
`
	const container = `Name:          builder-1
Driver:        docker-container
Last Activity: 2026-11-29 10:00:00 +0000 UTC

Nodes:
Name:      builder-10
Endpoint:  unix:///var/run/docker.sock
Platforms: linux/amd64*, linux/arm64, linux/arm/v7
`
	const overlay, containerd = `[["Backing Filesystem","extfs"]]`, `[["driver-type","io.containerd.snapshotter.v1"]]`
	for name, tc := range map[string]struct {
		inspect, status string
		platforms       []bundle.Platform
		fails, says     string
	}{
		"docker driver":             {docker, overlay, both, "builder default: the docker driver cannot build linux/amd64 and linux/arm64 together", ""},
		"docker driver, one":        {docker, overlay, both[:1], "builder default: the docker driver cannot write an image for a bundle", ""},
		"containerd, no QEMU":       {docker, containerd, both, "", "builder default does not run programs of linux/arm64: a RUN for it needs emulation (QEMU)"},
		"container, QEMU":           {container, overlay, both, "", ""},
		"container that is not up":  {strings.Split(container, "Platforms")[0], overlay, both, "", ""},
		"something new, or nothing": {"", "", both, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			must(t, os.WriteFile(filepath.Join(bin, "inspect"), []byte(tc.inspect), 0o644))
			must(t, os.WriteFile(filepath.Join(bin, "status"), []byte(tc.status), 0o644))
			script := "#!/bin/sh\ncase $* in\n'buildx inspect') while IFS= read -r l; do echo \"$l\"; done <" + bin + "/inspect ;;\ninfo*) read -r l <" + bin + "/status; echo \"$l\" ;;\n*) exit 1 ;;\nesac\n"
			must(t, os.WriteFile(filepath.Join(bin, "docker"), []byte(script), 0o755))
			t.Setenv("PATH", bin)
			said := ""
			_, err := Collect(t.Context(), Options{Dir: t.TempDir(), Platforms: tc.platforms, Progress: func(e Event) { said += e.Detail },
				Images: []Spec{{Reference: "a", From: "oci:nowhere"}, {Reference: "b", Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile"}}}})
			switch builder := new(BuilderError); {
			case tc.fails != "":
				if !errors.As(err, &builder) || builder.Error() != tc.fails || said != "" {
					t.Errorf("got %v after %q, want %s", err, said, tc.fails)
				}
			case err == nil || errors.As(err, &builder):
				t.Errorf("got %v, want that of an image or Dockerfile", err)
			case !strings.HasPrefix(said, tc.says) || strings.Contains(said, "emulation") != (tc.says != ""):
				t.Errorf("it says %q, want %q", said, tc.says)
			}
		})
	}
}
