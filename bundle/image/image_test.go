package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
)

var (
	both    = []bundle.Platform{"linux/amd64", "linux/arm64"}
	created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// newImage returns an image with two layers.
func newImage(t *testing.T, p v1.Platform, seed string) v1.Image {
	t.Helper()
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		Config: v1.Config{Env: []string{"PATH=/bin", "A=1"}, Cmd: []string{"sh"}}, RootFS: v1.RootFS{Type: "layers"}})
	must(t, err)
	for i := range 2 {
		l := static.NewLayer(fmt.Appendf(nil, "layer %d of %s for %s", i, seed, p.Architecture), types.OCIUncompressedLayer)
		img, err = mutate.AppendLayers(img, l)
		must(t, err)
	}
	return img
}

func newIndex(t *testing.T, seed string, platforms ...v1.Platform) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, p := range platforms {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: newImage(t, p, seed), Descriptor: v1.Descriptor{Platform: &p}})
	}
	// As BuildKit adds it: an attestation that is no image of any platform.
	return mutate.AppendManifests(index, mutate.IndexAddendum{Add: newImage(t, v1.Platform{}, seed),
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
}

var (
	amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
)

// newLayout writes a layout whose index.json names index, and returns its directory.
func newLayout(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, path.AppendIndex(index))
	return dir
}

// newRegistry returns the host of a registry in memory.
func newRegistry(t *testing.T) string {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func push(t *testing.T, text string, index v1.ImageIndex, img v1.Image) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(text)
	must(t, err)
	if index != nil {
		must(t, remote.WriteIndex(ref, index))
	} else {
		must(t, remote.Write(ref, img))
	}
	return ref
}

// checkBlobs reads every blob and compares it with its descriptor.
func checkBlobs(t *testing.T, c *Collection) {
	t.Helper()
	check := func(d bundle.Descriptor) {
		f, err := c.OpenBlob(d.Digest)
		must(t, err)
		defer f.Close()
		b, err := io.ReadAll(f)
		must(t, err)
		if bundle.DigestOf(b) != d.Digest || int64(len(b)) != d.Size {
			t.Errorf("blob %s has digest %s and %d bytes, want %d", d.Digest, bundle.DigestOf(b), len(b), d.Size)
		}
	}
	for _, component := range c.Components {
		if component.Index != nil {
			check(*component.Index)
		}
		for _, img := range component.Images {
			check(img.Manifest)
			check(img.Config)
			for _, l := range img.Layers {
				check(l.Descriptor)
			}
		}
	}
}

// checkManifest lets package bundle judge the components.
func checkManifest(t *testing.T, c *Collection) {
	t.Helper()
	components := slices.Clone(c.Components)
	for i := range components {
		if len(components[i].Services) == 0 { // of no interest to most tests
			components[i].Services = []string{fmt.Sprint("service", i)}
		}
	}
	m := &bundle.Manifest{App: "a", Kind: bundle.KindCompose, Version: "1.0.0", CreatedAt: created, Platforms: both, Components: components,
		Files: []bundle.File{{Path: "compose.yaml", Mode: 0o644, Digest: bundle.DigestOf(nil)}},
		Device: bundle.Device{Compose: "compose.yaml", Project: "a", VersionEnv: "A", Keep: bundle.Keep{Releases: 2, Backups: 1},
			Health: bundle.Health{HTTP: "http://a", Retries: 1, Interval: 1}}}
	must(t, m.Finish())
}

func TestTakeVerbatim(t *testing.T) {
	index := newIndex(t, "a", amd64, arm64)
	digest, err := index.Digest()
	must(t, err)
	host := newRegistry(t)
	push(t, host+"/a:1", index, nil)
	for name, from := range map[string]string{
		"layout":   "oci:" + newLayout(t, index),
		"registry": host + "/a:1",
		"digest":   host + "/a@" + digest.String(),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{
				{Reference: "z/a:1", Services: []string{"y", "x"}, From: from},
				{Reference: "a:1@" + digest.String(), From: from},
			}})
			must(t, err)
			checkBlobs(t, c)
			checkManifest(t, c)
			got := c.Components[1]
			if c.Components[0].Reference != "a:1@"+digest.String() || got.Reference != "z/a:1" || !reflect.DeepEqual(got.Services, []string{"x", "y"}) {
				t.Errorf("got %+v", c.Components)
			}
			if got.Index == nil || string(got.Index.Digest) != digest.String() {
				t.Errorf("index %+v, want %s", got.Index, digest)
			}
			if len(got.Images) != 2 || got.Images[1].Platform != "linux/arm64" || len(got.Images[1].Layers) != 2 {
				t.Errorf("got %+v", got.Images)
			}
		})
	}
}

// TestLayoutOfImages is a layout as several tools write it: the image manifests
// stand in index.json itself, some without a platform.
func TestLayoutOfImages(t *testing.T) {
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, path.AppendImage(newImage(t, amd64, "a")))
	must(t, path.AppendImage(newImage(t, arm64, "a"), layout.WithPlatform(arm64)))
	c, err := Collect(t.Context(), Options{Platforms: both, Dir: filepath.Dir(dir), Images: []Spec{{Reference: "a:1", From: "oci:" + filepath.Base(dir)}}})
	must(t, err)
	checkBlobs(t, c)
	checkManifest(t, c)
}

func TestSingleImage(t *testing.T) {
	host := newRegistry(t)
	push(t, host+"/a:1", nil, newImage(t, amd64, "a"))
	c, err := Collect(t.Context(), Options{Platforms: both[:1], Images: []Spec{{Reference: "a:1", From: host + "/a:1"}}})
	must(t, err)
	checkBlobs(t, c)
	if c.Components[0].Index != nil {
		t.Errorf("index %+v of a single image", c.Components[0].Index)
	}
}

// TestTagIsReadOnce moves the tag between two platforms: both must come from the
// index that the first look found.
func TestTagIsReadOnce(t *testing.T) {
	host := newRegistry(t)
	push(t, host+"/a:1", newIndex(t, "old", amd64, arm64), nil)
	moved := false
	c, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "a:1", From: host + "/a:1"}, {Reference: "b:1", From: host + "/a:1"}},
		Progress: func(e Event) {
			if moved {
				t.Error("asked twice")
			}
			moved = true
		}})
	must(t, err)
	push(t, host+"/a:1", newIndex(t, "new", amd64, arm64), nil)
	checkBlobs(t, c)
}

func TestRefused(t *testing.T) {
	host := newRegistry(t)
	index := newIndex(t, "a", amd64, arm64)
	push(t, host+"/both:1", index, nil)
	push(t, host+"/one:1", nil, newImage(t, amd64, "a"))
	push(t, host+"/amd64:1", newIndex(t, "a", amd64), nil)
	push(t, host+"/lying:1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: newImage(t, amd64, "a"), Descriptor: v1.Descriptor{Platform: &arm64}}), nil)
	push(t, host+"/two:1", mutate.AppendManifests(newIndex(t, "a", amd64, arm64), mutate.IndexAddendum{Add: newImage(t, arm64, "b"), Descriptor: v1.Descriptor{Platform: &arm64}}), nil)
	foreign, err := mutate.AppendLayers(newImage(t, arm64, "a"), static.NewLayer([]byte("f"), types.DockerForeignLayer))
	must(t, err)
	foreignDir := newLayout(t, mutate.AppendManifests(newIndex(t, "a", amd64), mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &arm64}}))
	pin := strings.Repeat("0", 64)
	bare, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{Cmd: []string{"sh"}}, RootFS: v1.RootFS{Type: "layers"}})
	must(t, err)
	push(t, host+"/bare:1", mutate.AppendManifests(newIndex(t, "a", arm64), mutate.IndexAddendum{Add: bare, Descriptor: v1.Descriptor{Platform: &amd64}}), nil)

	broken := newLayout(t, index)
	child, err := index.IndexManifest()
	must(t, err)
	blob := filepath.Join(broken, "blobs/sha256", child.Manifests[1].Digest.Hex)
	b, err := os.ReadFile(blob)
	must(t, err)
	must(t, os.WriteFile(blob, append([]byte(" "), b[:len(b)-1]...), 0o644))

	for _, c := range []struct{ name, reference, from, want string }{
		{"single image", "one:1", host + "/one:1", "collect image one:1: HOST/one:1 has no image for linux/arm64 (it has: linux/amd64)"},
		{"index", "amd64:1", host + "/amd64:1", "collect image amd64:1: HOST/amd64:1 has no image for linux/arm64 (it has: linux/amd64)"},
		{"index that lies", "a:1", host + "/lying:1", "collect image a:1: HOST/lying:1 has no image for linux/amd64 (it has: linux/arm64)"},
		{"two of a kind", "a:1", host + "/two:1", "collect image a:1: HOST/two:1 has several images for linux/arm64: name one by digest"},
		{"pin", "a@sha256:" + pin, host + "/both:1", "collect image a@sha256:" + pin + ": reference names sha256:" + pin},
		{"not a layout", "a:1", "oci:nowhere", "collect image a:1: read oci:nowhere: nowhere is not an OCI image layout: no index.json"},
		{"foreign layer", "a:1", "oci:" + foreignDir, "which must not be distributed or is unknown"},
		{"changed blob", "a:1", "oci:" + broken, "image manifest: blob has digest sha256:"},
		{"upper case", "a:1", host + "/Both:1", "could not parse reference: HOST/Both:1: the name of an image is in lower case"},
		{"no layers", "a:1", host + "/bare:1", "collect image a:1: the image for linux/amd64 has no layers, and so no program: COPY one into it, or leave its service out"},
		{"no such image", "a:1", host + "/none:1", "NAME_UNKNOWN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: c.reference, From: c.from}}})
			if want := strings.ReplaceAll(c.want, "HOST", host); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
	_, err = Collect(t.Context(), Options{Platforms: both[1:], Images: []Spec{{Reference: "a:1", From: host + "/lying:1"}}})
	if err == nil || !strings.Contains(err.Error(), "the image for linux/arm64 is for linux/amd64 according to its config") {
		t.Errorf("got %v", err)
	}
}

// newTree writes the files of an image into a new directory.
func newTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range both {
		must(t, os.MkdirAll(filepath.Join(dir, p.Dashed(), "site", "css"), 0o777))
		must(t, os.WriteFile(filepath.Join(dir, p.Dashed(), "app"), []byte("program for "+p), 0o777))
		must(t, os.WriteFile(filepath.Join(dir, p.Dashed(), "site", "index.html"), []byte("<p>hello"), 0o666))
		must(t, os.WriteFile(filepath.Join(dir, p.Dashed(), "site", "css", "a.css"), []byte("p{}"), 0o666))
		must(t, os.Symlink("css/a.css", filepath.Join(dir, p.Dashed(), "site", "main.css")))
	}
	return dir
}

// made is an image of two layers on base.
func made(base string) Spec {
	s := Spec{Reference: "shop/app:1", Services: []string{"app"}, Base: base, Files: map[bundle.Platform][]Copy{},
		Config: Config{Entrypoint: []string{"/usr/bin/app"}, Env: map[string]string{"A": "2", "B": "3"}, User: "1000", Workdir: "/srv",
			Labels: map[string]string{"l": "m"}, Expose: []string{"80", "53/udp"}, StopSignal: "SIGINT"}}
	for _, p := range both {
		s.Files[p] = []Copy{{From: p.Dashed() + "/app", To: "/usr/bin/app"}, {From: p.Dashed() + "/site", To: "/srv/www"}}
	}
	return s
}

func TestBuild(t *testing.T) {
	base := "oci:" + newLayout(t, newIndex(t, "base", amd64, arm64))
	c, err := Collect(t.Context(), Options{Platforms: both, CreatedAt: created, Dir: newTree(t), CacheDir: t.TempDir(), Images: []Spec{made(base)}})
	must(t, err)
	checkBlobs(t, c)
	checkManifest(t, c)
	got := c.Components[0]
	if got.Index == nil || len(got.Images) != 2 || len(got.Images[0].Layers) != 4 {
		t.Fatalf("got %+v", got)
	}

	var index v1.IndexManifest
	must(t, json.Unmarshal(readBlob(t, c, got.Index.Digest), &index))
	if len(index.Manifests) != 2 || index.Manifests[1].Platform.Architecture != "arm64" || index.Manifests[1].Digest.String() != string(got.Images[1].Manifest.Digest) {
		t.Errorf("index %+v", index)
	}
	var config v1.ConfigFile
	must(t, json.Unmarshal(readBlob(t, c, got.Images[1].Config.Digest), &config))
	want := v1.Config{Entrypoint: []string{"/usr/bin/app"}, Env: []string{"PATH=/bin", "A=2", "B=3"}, User: "1000", WorkingDir: "/srv",
		Labels: map[string]string{"l": "m"}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}, StopSignal: "SIGINT"}
	if !reflect.DeepEqual(config.Config, want) || !config.Created.Equal(created) || config.Architecture != "arm64" {
		t.Errorf("config %+v", config)
	}

	if got, want := listLayer(t, c, got.Images[1].Layers[2]), "drwxr-xr-x usr/ \ndrwxr-xr-x usr/bin/ \n-rwxr-xr-x usr/bin/app \n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got, want := listLayer(t, c, got.Images[1].Layers[3]), `drwxr-xr-x srv/ 
drwxr-xr-x srv/www/ 
drwxr-xr-x srv/www/css/ 
-rw-r--r-- srv/www/css/a.css 
-rw-r--r-- srv/www/index.html 
Lrwxrwxrwx srv/www/main.css css/a.css
`; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// The site is the same on both platforms, so it is one blob.
	if got.Images[0].Layers[3].Digest != got.Images[1].Layers[3].Digest {
		t.Error("equal files gave different layers")
	}
}

func TestBuildOnScratch(t *testing.T) {
	s := made(Scratch)
	c, err := Collect(t.Context(), Options{Platforms: both, CreatedAt: created, Dir: newTree(t), CacheDir: t.TempDir(), Images: []Spec{s}})
	must(t, err)
	checkBlobs(t, c)
	checkManifest(t, c)
}

// TestBuildIsDeterministic builds in other directories, with another umask, other
// file times and an empty cache.
func TestBuildIsDeterministic(t *testing.T) {
	base := "oci:" + newLayout(t, newIndex(t, "base", amd64, arm64))
	collect := func(at time.Time) *Collection {
		c, err := Collect(t.Context(), Options{Platforms: both, CreatedAt: at, Dir: newTree(t), CacheDir: t.TempDir(), Images: []Spec{made(base)}})
		must(t, err)
		return c
	}
	first := collect(created)
	defer syscall.Umask(syscall.Umask(0o077))
	second := collect(created)
	if !reflect.DeepEqual(first.Components, second.Components) {
		t.Errorf("got %+v\nthen %+v", first.Components, second.Components)
	}
	// A later release with the same files has the same layers.
	later := collect(created.Add(time.Hour))
	for i, img := range later.Components[0].Images {
		if !reflect.DeepEqual(img.Layers, first.Components[0].Images[i].Layers) {
			t.Error("layers depend on the time of the release")
		}
		if img.Config.Digest == first.Components[0].Images[i].Config.Digest {
			t.Error("the image does not tell its time")
		}
	}
}

func TestLayerCache(t *testing.T) {
	cache, dir := t.TempDir(), newTree(t)
	build := func() (actions []Action, c *Collection) {
		c, err := Collect(t.Context(), Options{Platforms: both[:1], CreatedAt: created, Dir: dir, CacheDir: cache, Images: []Spec{made(Scratch)},
			Progress: func(e Event) { actions = append(actions, e.Action) }})
		must(t, err)
		slices.Sort(actions) // layers are made side by side
		return actions, c
	}
	expect := func(want ...Action) *Collection {
		t.Helper()
		got, c := build()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		return c
	}
	expect(Compress, Compress)
	expect(Reuse, Reuse)
	must(t, os.WriteFile(filepath.Join(dir, "linux-amd64", "app"), []byte("program 2"), 0o755))
	expect(Compress, Reuse)

	// A damaged file is noticed and made again.
	files, err := filepath.Glob(filepath.Join(cache, "*", "*.tar.gz"))
	must(t, err)
	for _, f := range files {
		must(t, os.Truncate(f, 20))
	}
	checkBlobs(t, expect(Compress, Compress))
	if left, _ := filepath.Glob(filepath.Join(cache, "*", ".layer-*")); left != nil {
		t.Errorf("left %v", left)
	}
}

func TestBuildRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(dir string) error
		want string
	}{
		{"missing", func(d string) error { return os.RemoveAll(filepath.Join(d, "site")) }, "no such file"},
		{"link out", func(d string) error { return os.Symlink("../../secret", filepath.Join(d, "site/css/x")) }, "symbolic link css/x leads out of the directory, to ../../secret"},
		{"absolute link", func(d string) error { return os.Symlink("/etc/shadow", filepath.Join(d, "site/x")) }, "symbolic link x leads out of the directory, to /etc/shadow"},
		{"pipe", func(d string) error { return syscall.Mkfifo(filepath.Join(d, "site/x"), 0o644) }, "is neither a file, a directory nor a symbolic link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newTree(t)
			must(t, c.do(filepath.Join(dir, "linux-amd64")))
			_, err := Collect(t.Context(), Options{Platforms: both, Dir: dir, CacheDir: t.TempDir(), Images: []Spec{made(Scratch)}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "collect image shop/app:1: make it for linux/amd64: files linux-amd64/site: ") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cache := t.TempDir()
	_, err := Collect(ctx, Options{Platforms: both, Dir: newTree(t), CacheDir: cache, Images: []Spec{made(Scratch)}})
	if err == nil {
		t.Error("no error")
	}
}

// TestCompressorVersion fails when the library is updated: layers may then get
// other bytes, and the name of the compressor must say so.
func TestCompressorVersion(t *testing.T) {
	b, err := os.ReadFile("../../go.mod")
	must(t, err)
	m := regexp.MustCompile(`github.com/klauspost/compress (v\S+)`).FindSubmatch(b)
	if m == nil || !strings.Contains(compressor, string(m[1])+"-") {
		t.Errorf("compressor is %s, go.mod has %s", compressor, m)
	}
}

func readBlob(t *testing.T, c *Collection, d bundle.Digest) []byte {
	t.Helper()
	f, err := c.OpenBlob(d)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return b
}

// listLayer lists the entries of a layer and checks its diffID.
func listLayer(t *testing.T, c *Collection, l bundle.Layer) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(readBlob(t, c, l.Digest)))
	must(t, err)
	b, err := io.ReadAll(z)
	must(t, err)
	if bundle.DigestOf(b) != l.DiffID {
		t.Errorf("diffID %s, want %s", bundle.DigestOf(b), l.DiffID)
	}
	var out strings.Builder
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out.String()
		}
		must(t, err)
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(fileTime) {
			t.Errorf("%s has owner %d:%d and time %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		fmt.Fprintf(&out, "%s %s %s\n", h.FileInfo().Mode(), h.Name, h.Linkname)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestIndexesInTheWild has indexes in an index, and artifacts beside images.
func TestIndexesInTheWild(t *testing.T) {
	host := newRegistry(t)
	artifact := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json")
	plain := mutate.AppendManifests(newIndex(t, "a", amd64, arm64), mutate.IndexAddendum{Add: artifact},
		mutate.IndexAddendum{Add: artifact, Descriptor: v1.Descriptor{ArtifactType: "application/x", Platform: &amd64}})
	push(t, host+"/plain:1", plain, nil)
	nested := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: newIndex(t, "a", amd64)}, mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: newIndex(t, "b", arm64)})})
	push(t, host+"/nested:1", nested, nil)
	deep := v1.ImageIndex(newIndex(t, "a", amd64, arm64))
	for range maxIndexDepth + 1 {
		deep = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: deep})
	}
	push(t, host+"/deep:1", deep, nil)
	for _, name := range []string{"plain:1", "nested:1"} {
		c, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: name, From: host + "/" + name}}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkBlobs(t, c)
		checkManifest(t, c)
		if got := c.Components[0]; len(got.Images) != 2 {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	_, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "deep:1", From: host + "/deep:1"}}})
	if err == nil || !strings.Contains(err.Error(), "indexes lie in indexes more than 3 deep") {
		t.Errorf("got %v", err)
	}
}

// TestCompatible takes images for older processors where there is none for this one.
func TestCompatible(t *testing.T) {
	host := newRegistry(t)
	arm := func(v string) v1.Platform { return v1.Platform{OS: "linux", Architecture: "arm", Variant: v} }
	push(t, host+"/a:1", newIndex(t, "a", arm("v5"), arm("v6"), amd64, v1.Platform{OS: "linux", Architecture: "arm64"}), nil)
	push(t, host+"/b:1", newIndex(t, "b", arm("v6"), arm("v7")), nil)
	for _, c := range []struct {
		name, want string
		platform   bundle.Platform
	}{
		{"a:1", "arm v6", "linux/arm/v7"}, {"a:1", "arm v6", "linux/arm"}, {"a:1", "arm v5", "linux/arm/v5"}, {"a:1", "amd64 ", "linux/amd64/v3"}, {"a:1", "arm64 ", "linux/arm64/v9"},
		{"b:1", "arm v7", "linux/arm/v7"}, {"b:1", "arm v6", "linux/arm/v6"}, {"b:1", "", "linux/arm/v5"}, {"b:1", "", "linux/amd64"},
	} {
		got, err := Collect(t.Context(), Options{Platforms: []bundle.Platform{c.platform}, Images: []Spec{{Reference: "a:1", From: host + "/" + c.name}}})
		if c.want == "" {
			if !errors.As(err, new(*PlatformError)) {
				t.Errorf("%s for %s: %v", c.name, c.platform, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s for %s: %v", c.name, c.platform, err)
			continue
		}
		img := got.Components[0].Images[0]
		f, err := got.OpenBlob(img.Config.Digest)
		must(t, err)
		config, err := v1.ParseConfigFile(f)
		must(t, err)
		if is := config.Architecture + " " + config.Variant; is != c.want || img.Platform != c.platform {
			t.Errorf("%s for %s: got %s, want %s", c.name, c.platform, is, c.want)
		}
	}
}
