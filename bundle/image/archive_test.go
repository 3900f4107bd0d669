package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/valise-ota/valise/bundle"
)

// tarFile is an entry of an archive in a test; link makes it a symbolic link.
type tarFile struct {
	name, link string
	data       []byte
}

func writeArchive(t *testing.T, compressed bool, files ...tarFile) string {
	t.Helper()
	b := packTar(t, files...)
	if compressed {
		b = zip(t, b)
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	must(t, os.WriteFile(path, b, 0o644))
	return path
}

func packTar(t *testing.T, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		must(t, w.WriteHeader(h))
		_, err := w.Write(f.data)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func zip(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	must(t, err)
	must(t, z.Close())
	return out.Bytes()
}

// content is a layer.
func content(t *testing.T, seed string) []byte {
	return packTar(t, tarFile{name: "etc/" + seed, data: bytes.Repeat([]byte(seed+"\n"), 5000)})
}

func toJSON(t *testing.T, v any) []byte {
	b, err := json.Marshal(v)
	must(t, err)
	return b
}

// saved is docker save of one image: what must be in the archive, in the form of
// an old engine (20.10) or of a newer one (25).
type saved struct {
	platform v1.Platform
	tags     []string
	layers   [][]byte
	old      bool
	gzipped  bool // layers, as other programs write them
}

func (s saved) config(t *testing.T) []byte {
	c := &v1.ConfigFile{OS: s.platform.OS, Architecture: s.platform.Architecture, Variant: s.platform.Variant,
		RootFS: v1.RootFS{Type: "layers"}, Config: v1.Config{Cmd: []string{"sh"}}}
	for _, l := range s.layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, hashOf(l))
	}
	return toJSON(t, c)
}

// files returns the entries without manifest.json, and the line of it.
func (s saved) files(t *testing.T) ([]tarFile, savedImage) {
	t.Helper()
	raw := s.config(t)
	img := savedImage{Config: hashOf(raw).Hex + ".json", RepoTags: s.tags}
	var files []tarFile
	first := map[string]string{}
	for i, l := range s.layers {
		f := tarFile{name: fmt.Sprintf("%064x/layer.tar", i), data: l}
		if !s.old {
			f.name = "blobs/sha256/" + hashOf(l).Hex
		}
		if s.gzipped {
			f.data = zip(t, l)
		}
		img.Layers = append(img.Layers, f.name)
		if to, ok := first[hashOf(l).Hex]; ok {
			if !s.old {
				continue
			}
			f = tarFile{name: f.name, link: "../" + to}
		} else {
			first[hashOf(l).Hex] = f.name
		}
		files = append(files, f)
	}
	if !s.old {
		img.Config = "blobs/sha256/" + hashOf(raw).Hex
	}
	return append(files, tarFile{name: img.Config, data: raw}), img
}

func archiveOf(t *testing.T, images ...saved) []tarFile {
	t.Helper()
	var files []tarFile
	var manifest []savedImage
	for _, s := range images {
		more, img := s.files(t)
		files, manifest = append(files, more...), append(manifest, img)
	}
	return append(files, tarFile{name: "manifest.json", data: toJSON(t, manifest)})
}

func TestArchive(t *testing.T) {
	one := saved{platform: amd64, tags: []string{"shop/app:1"}, layers: [][]byte{content(t, "a"), content(t, "b"), content(t, "a")}}
	old, packed := one, one
	old.old, packed.gzipped = true, true
	var want []bundle.Component
	for name, c := range map[string]struct {
		saved
		compressed bool
	}{"new": {one, false}, "new in gzip": {one, true}, "old": {old, false}, "old in gzip": {old, true}, "compressed layers": {packed, false}, "both": {packed, true}} {
		t.Run(name, func(t *testing.T) {
			path := writeArchive(t, c.compressed, archiveOf(t, c.saved)...)
			cache := t.TempDir()
			collect := func() (*Collection, []Action) {
				var actions []Action
				got, err := Collect(t.Context(), Options{Platforms: both[:1], CacheDir: cache, Dir: filepath.Dir(path),
					Images:   []Spec{{Reference: "docker.io/shop/app:1", From: "archive:a.tar"}},
					Progress: func(e Event) { actions = append(actions, e.Action) }})
				must(t, err)
				return got, actions
			}
			got, actions := collect()
			checkBlobs(t, got)
			if n := len(slices.DeleteFunc(actions, func(a Action) bool { return a != Compress })); n != 2 {
				t.Errorf("compressed %d layers, want 2", n)
			}
			img := got.Components[0].Images[0]
			if string(img.Config.Digest) != "sha256:"+hashOf(one.config(t)).Hex {
				t.Error("the config is another one")
			}
			if listLayerNames(t, got, img.Layers[1]) != "etc/b" {
				t.Error("the layers are mixed up")
			}
			// However it is written, it is the same image.
			if want == nil {
				want = got.Components
			}
			if string(toJSON(t, got.Components)) != string(toJSON(t, want)) {
				t.Errorf("got %s\nwant %s", toJSON(t, got.Components), toJSON(t, want))
			}
			if _, actions := collect(); slices.Contains(actions, Compress) {
				t.Error("compressed again")
			}
		})
	}
}

func listLayerNames(t *testing.T, c *Collection, l bundle.Layer) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(readBlob(t, c, l.Digest)))
	must(t, err)
	h, err := tar.NewReader(z).Next()
	must(t, err)
	return h.Name
}

func TestArchiveOfSeveral(t *testing.T) {
	a := saved{platform: amd64, tags: []string{"postgres:17"}, layers: [][]byte{content(t, "a")}}
	b := saved{platform: amd64, tags: []string{"shop/app:0", "shop/app:1"}, layers: [][]byte{content(t, "a"), content(t, "b")}}
	path := writeArchive(t, false, archiveOf(t, a, b)...)
	collect := func(reference ...string) (*Collection, error) {
		o := Options{Platforms: both[:1], CacheDir: t.TempDir()}
		for _, r := range reference {
			o.Images = append(o.Images, Spec{Reference: r, From: "archive:" + path})
		}
		return Collect(t.Context(), o)
	}
	got, err := collect("shop/app:1", "postgres:17")
	must(t, err)
	checkBlobs(t, got)
	if len(got.Components[0].Images[0].Layers) != 1 || len(got.Components[1].Images[0].Layers) != 2 {
		t.Errorf("got %s", toJSON(t, got.Components))
	}
	_, err = collect("shop/app:2")
	if want := "the archive has 2 images and none is called shop/app:2 (it has: postgres:17 shop/app:0 shop/app:1)"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestArchiveForEachPlatform(t *testing.T) {
	path := map[string]string{}
	for _, p := range []v1.Platform{amd64, arm64} {
		path[p.Architecture] = "archive:" + writeArchive(t, false, archiveOf(t, saved{platform: p, layers: [][]byte{content(t, p.Architecture), content(t, "common")}})...)
	}
	spec := func(amd, arm string) Spec {
		return Spec{Reference: "a:1", FromEach: map[bundle.Platform]string{"linux/amd64": path[amd], "linux/arm64": path[arm]}}
	}
	c, err := Collect(t.Context(), Options{Platforms: both, CacheDir: t.TempDir(), Images: []Spec{spec("amd64", "arm64")}})
	must(t, err)
	checkBlobs(t, c)
	checkManifest(t, c)
	var index v1.IndexManifest
	must(t, json.Unmarshal(readBlob(t, c, c.Components[0].Index.Digest), &index))
	if len(index.Manifests) != 2 || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("index %+v", index)
	}
	_, err = Collect(t.Context(), Options{Platforms: both, CacheDir: t.TempDir(), Images: []Spec{spec("amd64", "amd64")}})
	if want := "collect image a:1: " + path["amd64"] + " has no image for linux/arm64 (it has: linux/amd64)"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = Collect(t.Context(), Options{Platforms: both, CacheDir: t.TempDir(), Images: []Spec{{Reference: "a:1", FromEach: map[bundle.Platform]string{"linux/amd64": path["amd64"]}}}})
	if err == nil || err.Error() != "collect image a:1: no source for linux/arm64" {
		t.Errorf("got %v", err)
	}
}

// TestArchiveOfLayout is an OCI image layout in a tar, as skopeo and BuildKit
// write it: it is taken verbatim.
func TestArchiveOfLayout(t *testing.T) {
	index := newIndex(t, "a", amd64, arm64)
	dir := newLayout(t, index)
	var files []tarFile
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files = append(files, tarFile{name: "./" + rel, data: b})
		return err
	}))
	digest, err := index.Digest()
	must(t, err)
	c, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "a@" + digest.String(), From: "archive:" + writeArchive(t, false, files...)}}})
	must(t, err)
	checkBlobs(t, c)
	checkManifest(t, c)
	_, err = Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "a:1", From: "archive:" + writeArchive(t, true, files...)}}})
	if err == nil || !strings.HasSuffix(err.Error(), "an OCI image layout in a compressed tar: unpack it with gunzip first") {
		t.Errorf("got %v", err)
	}

	// An engine that was asked for one platform saves the index of all.
	child, err := index.IndexManifest()
	must(t, err)
	files = slices.DeleteFunc(files, func(f tarFile) bool { return strings.HasSuffix(f.name, child.Manifests[1].Digest.Hex) })
	_, err = Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "a:1", From: "archive:" + writeArchive(t, false, files...)}}})
	if err == nil || !strings.HasSuffix(err.Error(), " has no image for linux/arm64 (it has: linux/amd64)") {
		t.Errorf("got %v", err)
	}
}

func TestArchiveRefused(t *testing.T) {
	good := archiveOf(t, saved{platform: amd64, layers: [][]byte{content(t, "a"), content(t, "b")}})
	img := func(s savedImage) []tarFile {
		return []tarFile{good[0], good[1], good[2], {name: "manifest.json", data: toJSON(t, []savedImage{s})}}
	}
	config, layers := good[2].name, []string{good[0].name, good[1].name}
	otherConfig := bytes.Replace(good[2].data, []byte(`"sh"`), []byte(`"rm"`), 1)
	sparse := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "a.tar")
		f, err := os.Create(path)
		must(t, err)
		w := tar.NewWriter(f)
		// The format that GNU tar 1.0 writes; Go refuses to write it, so the record is patched in.
		must(t, w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"VND.sparse.size": "9"}}))
		must(t, w.Close())
		must(t, f.Close())
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, bytes.Replace(b, []byte("VND.sparse"), []byte("GNU.sparse"), 1), 0o644))
		return path
	}
	cut := func(compressed bool, keep func(size int) int) func(*testing.T) string {
		return func(t *testing.T) string {
			path := writeArchive(t, compressed, good...)
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.Truncate(path, int64(keep(int(info.Size())))))
			return path
		}
	}
	files := func(compressed bool, files ...tarFile) func(*testing.T) string {
		return func(t *testing.T) string { return writeArchive(t, compressed, files...) }
	}
	for _, c := range []struct {
		name string
		path func(*testing.T) string
		want string
	}{
		{"missing", func(*testing.T) string { return "nothing.tar" }, "no such file"},
		{"directory", func(t *testing.T) string { return t.TempDir() }, "is not a file"},
		{"no tar", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "x")
			must(t, os.WriteFile(path, bytes.Repeat([]byte("hello"), 1000), 0o644))
			return path
		}, "invalid tar header"},
		{"empty", files(false), "neither an archive of docker save nor an OCI image layout"},
		{"cut in a layer", cut(false, func(int) int { return 20000 }), "the archive is truncated"},
		{"cut before the end", cut(false, func(n int) int { return n - 1024 - 512 - (len(good[3].data)+511)/512*512 }), "neither an archive of docker save"},
		{"cut in gzip", cut(true, func(n int) int { return n / 2 }), "the archive is truncated"},
		{"last byte of gzip", cut(true, func(n int) int { return n - 1 }), "the archive is truncated"},
		{"no layer", files(false, good[1:]...), "is missing in the archive"},
		{"no config", files(false, good[0], good[1], good[3]), "is missing in the archive"},
		{"no images", files(false, tarFile{name: "manifest.json", data: []byte("[]")}), "manifest.json lists 0 images"},
		{"no list", files(false, tarFile{name: "manifest.json", data: []byte("{}")}), "read manifest.json: "},
		{"changed config", files(false, good[0], good[1], tarFile{name: config, data: otherConfig}, good[3]), "has digest sha256:" + hashOf(otherConfig).Hex},
		{"layers exchanged", files(false, img(savedImage{Config: config, Layers: []string{layers[1], layers[0]}})...), "layer has diffID sha256:"},
		{"layers exchanged in gzip", files(true, img(savedImage{Config: config, Layers: []string{layers[1], layers[0]}})...), "layer has diffID sha256:"},
		{"layer too few", files(false, img(savedImage{Config: config, Layers: layers[:1]})...), "image has 1 layers and 2 diffIDs"},
		{"link in a circle", files(false, append([]tarFile{{name: "a", link: "b"}, {name: "b", link: "a"}}, img(savedImage{Config: config, Layers: []string{"a", "b"}})...)...), "more than 8 links"},
		{"link out", files(false, append([]tarFile{{name: "a", link: "../../etc/shadow"}}, img(savedImage{Config: config, Layers: []string{"a", layers[1]}})...)...), `"../../etc/shadow" is missing in the archive`},
		{"sparse file", sparse, "is a sparse file"},
		{"zstd", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "x")
			must(t, os.WriteFile(path, append(slices.Clone(zstdMagic), 1, 2, 3), 0o644))
			return path
		}, "compressed with zstd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := t.TempDir()
			_, err := Collect(t.Context(), Options{Platforms: both[:1], CacheDir: cache, Images: []Spec{{Reference: "a:1", From: "archive:" + c.path(t)}}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "collect image a:1: read archive:") {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(cache, "*", ".layer-*")); left != nil {
				t.Errorf("left %v", left)
			}
		})
	}
}

// TestArchiveAsBase puts files on an image that docker save wrote.
func TestArchiveAsBase(t *testing.T) {
	path := writeArchive(t, false, archiveOf(t, saved{platform: amd64, layers: [][]byte{content(t, "a")}})...)
	c, err := Collect(t.Context(), Options{Platforms: both[:1], CacheDir: t.TempDir(), Dir: newTree(t), Images: []Spec{made("archive:" + path)}})
	must(t, err)
	checkBlobs(t, c)
	if n := len(c.Components[0].Images[0].Layers); n != 3 {
		t.Errorf("%d layers, want 3", n)
	}
}

// TestSideBySide collects many images that share layers and one that fails: the
// order of the result and the error do not depend on who is first.
func TestSideBySide(t *testing.T) {
	var images []saved
	o := Options{Platforms: both[:1], CacheDir: t.TempDir(), Parallel: 3}
	for i := range 20 {
		images = append(images, saved{platform: amd64, tags: []string{fmt.Sprintf("a%02d:1", i)}, layers: [][]byte{content(t, "common"), content(t, fmt.Sprint(i))}})
	}
	path := writeArchive(t, false, archiveOf(t, images...)...)
	for i := range images {
		o.Images = append(o.Images, Spec{Reference: fmt.Sprintf("a%02d:1", len(images)-1-i), From: "archive:" + path})
	}
	compressed := 0
	o.Progress = func(e Event) {
		if e.Action == Compress {
			compressed++
		}
	}
	c, err := Collect(t.Context(), o)
	must(t, err)
	checkBlobs(t, c)
	if compressed != len(images)+1 || c.Components[7].Reference != "a07:1" {
		t.Errorf("compressed %d layers, component 7 is %s", compressed, c.Components[7].Reference)
	}
	o.Images[3].From, o.Images[9].From = "oci:nothing", "oci:nowhere"
	for range 20 {
		if _, err := Collect(t.Context(), o); err == nil || !strings.Contains(err.Error(), "oci:nothing") && !strings.Contains(err.Error(), "oci:nowhere") {
			t.Fatalf("got %v", err)
		}
	}
}

func FuzzArchive(f *testing.F) {
	good := archiveOf(&testing.T{}, saved{platform: amd64, layers: [][]byte{[]byte("layer")}, tags: []string{"a:1"}})
	f.Add(packTar(&testing.T{}, good...))
	f.Add(zip(&testing.T{}, packTar(&testing.T{}, good...)))
	f.Add(packTar(&testing.T{}, tarFile{name: "index.json", data: []byte(`{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:00"}]}`)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "a.tar")
		must(t, os.WriteFile(path, data, 0o644))
		c, err := Collect(t.Context(), Options{Platforms: both[:1], CacheDir: t.TempDir(), Images: []Spec{{Reference: "a:1", From: "archive:" + path}}})
		if err == nil {
			checkBlobs(t, c)
		}
	})
}
