// Package bundletest makes small bundles for tests, the same ones every time.
package bundletest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
)

// Content is a release in memory.
type Content struct {
	Files map[string][]byte
	Blobs map[bundle.Digest][]byte
}

func (c *Content) OpenFile(p string) (io.ReadCloser, error) {
	b, ok := c.Files[p]
	if !ok {
		return nil, os.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (c *Content) OpenBlob(d bundle.Digest) (io.ReadCloser, error) {
	b, ok := c.Blobs[d]
	if !ok {
		return nil, os.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (c *Content) add(mediaType string, b []byte) bundle.Descriptor {
	d := bundle.DigestOf(b)
	c.Blobs[d] = b
	return bundle.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// Spec says what Release makes. An empty field has the default its comment names.
type Spec struct {
	App       string            // shop
	Version   string            // 1.2.3
	Services  []string          // api and web, an image each
	Platforms []bundle.Platform // linux/amd64 and linux/arm64
	Layer     int               // bytes of the base layer all images share: 100
	Own       int               // bytes of the layer that each image has for itself: 700
	Compose   string            // compose file
	Installer int               // bytes of a file that deflates well: 900
	Files     map[string]string // more files
	Trust     *bundle.Trust     // who signs after it: nothing
}

// Release makes a release whose layers are random bytes: no engine takes them.
// The base layer is the same in every version, the others are not.
func Release(t testing.TB, s Spec) (*bundle.Manifest, *Content) {
	t.Helper()
	def(&s.App, "shop")
	def(&s.Version, "1.2.3")
	def(&s.Layer, 100)
	def(&s.Own, 700)
	def(&s.Compose, "services: {}\n")
	def(&s.Installer, 900)
	if s.Services == nil {
		s.Services = []string{"api", "web"}
	}
	if s.Platforms == nil {
		s.Platforms = []bundle.Platform{"linux/amd64", "linux/arm64"}
	}
	const layerType = "application/vnd.oci.image.layer.v1.tar+gzip"
	c := &Content{map[string][]byte{}, map[bundle.Digest][]byte{}}
	base := c.add(layerType, random("base", s.Layer))
	m := &bundle.Manifest{
		App: s.App, Kind: bundle.KindCompose, Version: s.Version, CreatedAt: time.Unix(1700000000, 0).UTC(),
		Changelog: "first\n", Platforms: s.Platforms, Trust: s.Trust,
		Device: bundle.Device{
			Compose: "compose.yaml", Project: s.App, VersionEnv: "APP_VERSION", Keep: bundle.Keep{Releases: 3, Backups: 5},
			Health: bundle.Health{Compose: s.Services[:1], Retries: 3, Interval: bundle.Duration(time.Second)},
		},
	}
	for _, name := range s.Services {
		comp := bundle.Component{Reference: s.App + "/" + name + ":" + s.Version, Services: []string{name}}
		for _, p := range s.Platforms {
			own := c.add(layerType, random(fmt.Sprint(s.App, s.Version, name, p), s.Own))
			img := bundle.Image{Platform: p, Layers: []bundle.Layer{{Descriptor: base, DiffID: base.Digest}, {Descriptor: own, DiffID: own.Digest}}}
			img.Config = c.add("application/vnd.oci.image.config.v1+json", marshal(t, map[string]any{
				"os": p.OS(), "architecture": p.Arch(), "rootfs": map[string]any{"type": "layers", "diff_ids": []bundle.Digest{base.Digest, own.Digest}},
			}))
			img.Manifest = c.add("application/vnd.oci.image.manifest.v1+json", marshal(t, map[string]any{
				"schemaVersion": 2, "config": img.Config, "layers": []bundle.Descriptor{base, own},
			}))
			comp.Images = append(comp.Images, img)
		}
		m.Components = append(m.Components, comp)
	}
	sort.Slice(m.Components, func(i, j int) bool { return m.Components[i].Reference < m.Components[j].Reference })
	files := map[string]string{
		".env.example": "", "compose.yaml": s.Compose,
		"installer/linux-amd64/valise-installer": strings.Repeat("ELF", s.Installer/3),
	}
	maps.Copy(files, s.Files)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		b := []byte(files[path])
		c.Files[path] = b
		m.Files = append(m.Files, bundle.File{Path: path, Size: int64(len(b)), Mode: 0o644, Digest: bundle.DigestOf(b)})
	}
	if err := m.Finish(); err != nil {
		t.Fatal(err)
	}
	return m, c
}

// Tree makes a release that is a file tree: what its files are, by path in the
// bundle, is up to the caller. An empty field of s has the default of Release.
func Tree(t testing.TB, s Spec, files map[string]string) (*bundle.Manifest, *Content) {
	t.Helper()
	def(&s.App, "cloud")
	def(&s.Version, "1.2.3")
	if s.Platforms == nil {
		s.Platforms = []bundle.Platform{"linux/amd64"}
	}
	c := &Content{map[string][]byte{}, map[bundle.Digest][]byte{}}
	m := &bundle.Manifest{
		App: s.App, Kind: bundle.KindTree, Version: s.Version, CreatedAt: time.Unix(1700000000, 0).UTC(), Changelog: "first\n", Platforms: s.Platforms,
		Prefix: s.App + "-v" + s.Version,
		Device: bundle.Device{
			Tree: &bundle.Tree{Units: []string{"packaging/" + s.App + ".service"}, EnvFile: "/etc/" + s.App + "/" + s.App + ".env"},
			Keep: bundle.Keep{Releases: 3, Backups: 5}, Health: bundle.Health{HTTP: "http://127.0.0.1:8080/health", Retries: 3, Interval: bundle.Duration(time.Second)},
		},
	}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		c.Files[p] = []byte(files[p])
		f := bundle.File{Path: p, Size: int64(len(files[p])), Mode: 0o644, Digest: bundle.DigestOf(c.Files[p])}
		if strings.HasPrefix(files[p], "#!") || strings.HasPrefix(files[p], "\x7fELF") {
			f.Mode = 0o755
		}
		m.Files = append(m.Files, f)
	}
	if err := m.Finish(); err != nil {
		t.Fatal(err)
	}
	return m, c
}

// TreeFiles are the files of a small release, for Tree.
func TreeFiles(app, version string) map[string]string {
	return map[string]string{
		".env.example": "# Where it listens\nPORT=8080\n", "VERSION": "v" + version + "\n", "bin/" + app: "#!/bin/sh\necho " + version + "\n",
		"packaging/" + app + ".service": "[Service]\nExecStart=/opt/" + app + "/current/bin/" + app + "\n", "web/index.html": "<h1>" + app + "</h1>\n",
	}
}

// Write returns the unsigned bundle of a release.
func Write(t testing.TB, m *bundle.Manifest, c bundle.Content) []byte {
	t.Helper()
	return WriteAs(t, bundle.Gzip, m, c)
}

// WriteAs is Write with a compression.
func WriteAs(t testing.TB, compression bundle.Compression, m *bundle.Manifest, c bundle.Content) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "bundle"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := bundle.Write(context.Background(), f, compression, m, c, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func random(seed string, n int) []byte {
	var s [32]byte
	copy(s[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

func marshal(t testing.TB, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func def[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}
