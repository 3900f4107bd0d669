//go:build e2e

package image

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"

	"github.com/valise-ota/valise/bundle"
)

// needBuildKit returns the address of the buildkitd that make e2e runs.
func needBuildKit(t *testing.T) string {
	t.Helper()
	host := os.Getenv("VALISE_TEST_BUILDKIT_HOST")
	if host == "" {
		t.Fatal("VALISE_TEST_BUILDKIT_HOST is not set: eval \"$(scripts/buildkit.sh up DIR)\"")
	}
	if _, err := exec.LookPath("buildctl"); err != nil {
		t.Fatal("buildctl is not in PATH: scripts/buildkit.sh up prints where it is")
	}
	return host
}

func TestDockerfile(t *testing.T) {
	host := needBuildKit(t)
	dir := newContext(t, dockerfile)
	var log strings.Builder
	o := Options{Platforms: both, Dir: dir, CacheDir: t.TempDir(), BuildKitHost: host, Progress: func(e Event) { fmt.Fprintln(&log, e) }, Images: []Spec{{Reference: "a:1",
		Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile", Target: "first", Args: map[string]string{"GREETING": "good morning"}, Labels: map[string]string{"k": "v=w"}}}}}
	c, err := Collect(t.Context(), o)
	must(t, err)
	checkBlobs(t, c)
	checkManifest(t, c)
	got := c.Components[0]
	if got.Index == nil || len(got.Images) != 2 || len(got.Images[1].Layers) != 2 {
		t.Fatalf("got %+v", got)
	}
	for i, want := range []string{"for amd64", "for arm64"} {
		if got := fileIn(t, c, got.Images[i].Layers[1].Digest, "etc/platform"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if config := string(readBlob(t, c, got.Images[0].Config.Digest)); !strings.Contains(config, "GREETING=good morning") || !strings.Contains(config, `"k":"v=w"`) {
		t.Errorf("config %s", config)
	}
	if !strings.Contains(log.String(), "COPY hello.txt") {
		t.Errorf("log %q", log.String())
	}
	if got.Images[0].Layers[0].Digest != got.Images[1].Layers[0].Digest {
		t.Error("equal files gave different layers")
	}

	// Each platform by itself gives the same images, and so the same index over them.
	var images []bundle.Image
	for _, platform := range both {
		o := o
		o.Platforms = []bundle.Platform{platform}
		one, err := Collect(t.Context(), o)
		must(t, err)
		must(t, one.Close())
		images = append(images, one.Components[0].Images...)
	}
	if d, _, err := IndexOver(images); err != nil || !reflect.DeepEqual(images, got.Images) || d.Digest.String() != string(got.Index.Digest) {
		t.Errorf("one by one %+v, together %+v", images, got.Images)
	}

	// The same files with other times, built again later, are the same image.
	if out, err := exec.Command("buildctl", "--addr", host, "prune", "--all").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	later := time.Now().Add(time.Hour)
	for _, f := range []string{"hello.txt", "linux-amd64", "linux-arm64", "Dockerfile"} {
		must(t, os.Chtimes(filepath.Join(dir, f), later, later))
	}
	o.CreatedAt = created
	again, err := Collect(t.Context(), o)
	must(t, err)
	if !reflect.DeepEqual(c.Components, again.Components) {
		t.Errorf("got  %+v\nthen %+v", c.Components, again.Components)
	}
	must(t, again.Close())
	must(t, c.Close())
	if left, _ := filepath.Glob(filepath.Join(o.CacheDir, ".build-*")); left != nil {
		t.Errorf("left %v", left)
	}
}

func TestDockerfileOnePlatform(t *testing.T) {
	host := needBuildKit(t)
	c, err := Collect(t.Context(), Options{Platforms: both[1:], Dir: newContext(t, dockerfile), CacheDir: t.TempDir(), BuildKitHost: host,
		Images: []Spec{{Reference: "a:1", Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile"}}}})
	must(t, err)
	defer c.Close()
	checkBlobs(t, c)
	if n := len(c.Components[0].Images[0].Layers); n != 3 {
		t.Errorf("%d layers, want 3", n)
	}
}

func TestDockerfileFails(t *testing.T) {
	host := needBuildKit(t)
	cache := t.TempDir()
	_, err := Collect(t.Context(), Options{Platforms: both, Dir: newContext(t, "FROM scratch\nCOPY nothing /\n"), CacheDir: cache, BuildKitHost: host,
		Images: []Spec{{Reference: "a:1", Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile"}}}})
	if err == nil || !strings.HasPrefix(err.Error(), "collect image a:1: build Dockerfile with buildctl: exit status 1\n") || !strings.Contains(err.Error(), "/nothing") {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, ".build-*")); left != nil {
		t.Errorf("left %v", left)
	}
}

// TestDockerfileBases: what FROM and COPY --from take is listed by digest.
func TestDockerfileBases(t *testing.T) {
	host, registry := needBuildKit(t), newRegistry(t)
	var want []Source
	for _, name := range []string{"one", "two"} {
		img, err := crane.Image(map[string][]byte{name: []byte(name)})
		must(t, err)
		reference := push(t, registry+"/"+name+":1", nil, img)
		digest, err := img.Digest()
		must(t, err)
		d := bundle.Digest(digest.String())
		want = append(want, Source{Name: registry + "/" + name + ":1", Digest: d, URI: packageURL(reference, d)})
	}
	c, err := Collect(t.Context(), Options{Platforms: both, CacheDir: t.TempDir(), BuildKitHost: host,
		Dir:    newContext(t, "FROM "+registry+"/one:1\nCOPY --from="+registry+"/two:1 /two /\nCOPY hello.txt /\n"),
		Images: []Spec{{Reference: "a:1", Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile"}}}})
	must(t, err)
	defer c.Close()
	if !reflect.DeepEqual(c.Sources, want) {
		t.Errorf("got  %+v\nwant %+v", c.Sources, want)
	}
}

// TestBuildKitSaid: arguments, secrets and caches reach BuildKit; a secret is in no
// layer and no history.
func TestBuildKitSaid(t *testing.T) {
	host := needBuildKit(t)
	const secret = "s3cr3t-of-the-build"
	prune := func() {
		if out, err := exec.Command("buildctl", "--addr", host, "prune", "--all").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	prune() // a secret is no part of what a step is known by
	dir := newContext(t, `FROM scratch
COPY busybox /bin/busybox
ARG FLAVOUR=red
COPY --from=shared text /text
RUN --mount=type=secret,id=npm ["/bin/busybox", "sh", "-c", "/bin/busybox sha256sum </run/secrets/npm >/sum && echo $FLAVOUR >/flavour"]
`)
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "busybox"), data, 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "more"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "more", "text"), []byte("from another context"), 0o644))
	t.Setenv("NPM_TOKEN", secret)
	cache := filepath.Join(t.TempDir(), "cache")
	var log strings.Builder
	o := Options{Platforms: []bundle.Platform{"linux/" + bundle.Platform(runtime.GOARCH)}, Dir: dir, CacheDir: t.TempDir(), BuildKitHost: host,
		Images: []Spec{{Reference: "a:1", Dockerfile: &Dockerfile{Context: ".", File: "Dockerfile", Args: map[string]string{"FLAVOUR": "green"}, Contexts: map[string]string{"shared": "more"},
			Secrets: []string{"id=npm,env=NPM_TOKEN"}}}},
		BuildKit: BuildKit{Args: map[string]string{"FLAVOUR": "blue"}, CacheTo: []string{"type=local,mode=max,dest=" + cache}},
		Progress: func(e Event) { fmt.Fprintln(&log, e) }}
	c, err := Collect(t.Context(), o)
	must(t, err)
	img := c.Components[0].Images[0]
	last := img.Layers[len(img.Layers)-1].Digest
	want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(secret)))
	if sum, flavour := fileIn(t, c, last, "sum"), fileIn(t, c, last, "flavour"); sum != want || flavour != "blue\n" {
		t.Errorf("sum %q, want %q; flavour %q", sum, want, flavour)
	}
	if got := fileIn(t, c, img.Layers[1].Digest, "text"); got != "from another context" {
		t.Errorf("text %q", got)
	}
	if config := string(readBlob(t, c, img.Config.Digest)); strings.Contains(config+log.String(), secret) {
		t.Errorf("the secret is in the image or the log")
	}
	must(t, c.Close())

	// A BuildKit that has forgotten everything takes the step from the cache.
	prune()
	log.Reset()
	o.BuildKit.CacheTo, o.BuildKit.CacheFrom = nil, []string{"type=local,src=" + cache}
	c, err = Collect(t.Context(), o)
	must(t, err)
	defer c.Close()
	if !strings.Contains(log.String(), "CACHED") || c.Components[0].Images[0].Layers[len(img.Layers)-1].Digest != last {
		t.Errorf("it was built again:\n%s", log.String())
	}
}
