package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

func open(b []byte) (*bundle.Reader, error) {
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return r, r.Check(context.Background(), nil)
}

var compressions = []bundle.Compression{bundle.Gzip, bundle.Zstd, bundle.None}

// each runs a test for every compression.
func each(t *testing.T, test func(t *testing.T, c bundle.Compression)) {
	for _, c := range compressions {
		t.Run(string(c), func(t *testing.T) { test(t, c) })
	}
}

// step is how far apart the bytes are that tests change or cut at: all of gzip's.
func step(c bundle.Compression) int {
	n := 5 // no divisor of a block, and prime to the bits of a byte
	if c == bundle.Gzip {
		n = 1
	}
	if testing.Short() { // the race detector makes it slow, and has nothing to find here
		n *= 11
	}
	return n
}

// TestSourceHasMore: a source is read to its end, behind what the manifest lists too.
func TestSourceHasMore(t *testing.T) {
	m, c := bundletest.Release(t, bundletest.Spec{})
	layer := m.Components[0].Images[0].Layers[0].Digest
	c.Blobs[layer] = append(slices.Clone(c.Blobs[layer]), 'x')
	f, err := os.Create(filepath.Join(t.TempDir(), "bundle"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, omit := range []bool{false, true} {
		err := bundle.WriteThin(t.Context(), f, bundle.Gzip, m, c, func(bundle.Digest) bool { return omit }, nil)
		var format *bundle.FormatError
		if !errors.As(err, &format) || format.Rule != "digest" {
			t.Errorf("omit %v: got %v", omit, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		for _, layer := range []int{1, 511, 512, bundle.MemberSize - 1, bundle.MemberSize, 2*bundle.MemberSize + 5} {
			m, c := bundletest.Release(t, bundletest.Spec{Layer: layer, Installer: 2*bundle.MemberSize + 3})
			b := bundletest.WriteAs(t, compression, m, c)
			if again := bundletest.WriteAs(t, compression, m, c); !bytes.Equal(again, b) {
				t.Error("writing the same release twice gives different bytes")
			}
			for _, sealed := range []bool{false, true} {
				if sealed {
					r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
					if err != nil {
						t.Fatal(err)
					}
					var out bytes.Buffer
					if err := bundle.Seal(context.Background(), &out, r, []byte(`{"signature":1}`)); err != nil {
						t.Fatal(err)
					}
					b = out.Bytes()
				}
				r, err := open(b)
				if err != nil {
					t.Fatal(err)
				}
				if (r.Signature() != nil) != sealed || r.Compression() != compression {
					t.Errorf("signature is %q, compression %s", r.Signature(), r.Compression())
				}
				checkContent(t, r, c)
				checkTar(t, b, m, c)
			}
		}
	})
}

// checkContent compares everything a reader gives with the release.
func checkContent(t testing.TB, r *bundle.Reader, c *bundletest.Content) {
	t.Helper()
	for p, want := range c.Files {
		rc, err := r.OpenFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", p, len(got), err)
		}
	}
	for d, want := range c.Blobs {
		rc, err := r.OpenBlob(d)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", d, len(got), err)
		}
	}
}

// checkTar reads the bundle the way an updater that never heard of us does: with
// the standard library's gzip and tar, images_sha256 and docker's manifest.json.
func checkTar(t testing.TB, b []byte, m *bundle.Manifest, c *bundletest.Content) {
	t.Helper()
	var plain io.Reader = bytes.NewReader(b)
	var err error
	switch b[0] {
	case 0x1f:
		plain, err = gzip.NewReader(plain)
	case 0x28:
		plain, err = zstd.NewReader(plain)
	}
	if err != nil {
		t.Fatal(err)
	}
	outer := tar.NewReader(plain)
	var names []string
	for {
		h, err := outer.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		data, err := io.ReadAll(outer)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Name {
		case "images.tar":
			sum := sha256.Sum256(data)
			if hex.EncodeToString(sum[:]) != m.ImagesSHA256 {
				t.Error("images_sha256 is not the digest of images.tar")
			}
			checkImages(t, data, c)
		case "manifest.json", bundle.SignatureName, "toc.json":
		default:
			if !bytes.Equal(data, c.Files[h.Name]) {
				t.Errorf("%s differs", h.Name)
			}
		}
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		t.Fatal(err)
	}
	if names[0] != "manifest.json" || names[len(names)-2] != "images.tar" {
		t.Errorf("order is %q", names)
	}
}

func checkImages(t testing.TB, data []byte, c *bundletest.Content) {
	t.Helper()
	inner := tar.NewReader(bytes.NewReader(data))
	entries := map[string][]byte{}
	for {
		h, err := inner.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := entries[h.Name]; ok {
			t.Errorf("%s is there twice", h.Name)
		}
		entries[h.Name], _ = io.ReadAll(inner)
	}
	if len(entries) != len(c.Blobs)+3 {
		t.Errorf("%d entries for %d blobs", len(entries), len(c.Blobs))
	}
	var archive []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(entries["manifest.json"], &archive); err != nil || len(archive) != 4 {
		t.Fatalf("%v, %d images", err, len(archive))
	}
	if got := archive[1].RepoTags[0]; got != "shop/api:1.2.3-linux-arm64" {
		t.Errorf("second platform is called %s", got)
	}
	for _, img := range archive {
		for _, p := range append(img.Layers, img.Config) {
			if entries[p] == nil {
				t.Errorf("%s is missing", p)
			}
		}
	}
}

// TestTruncated: no prefix of a bundle is one.
func TestTruncated(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Layer: 3000, Services: []string{"web"}, Platforms: []bundle.Platform{"linux/amd64"}})
		b := bundletest.WriteAs(t, compression, m, c)
		for n := 0; n < len(b); n += step(compression) {
			var f *bundle.FormatError
			if _, err := open(b[:n]); !errors.As(err, &f) {
				t.Fatalf("first %d of %d bytes: %v", n, len(b), err)
			}
		}
	})
}

// TestFlipped: a changed byte is refused, or it is one of the few bits of gzip
// that carry nothing, and then the content is the same.
func TestFlipped(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Layer: 3000, Services: []string{"web"}, Platforms: []bundle.Platform{"linux/amd64"}})
		b := bundletest.WriteAs(t, compression, m, c)
		accepted := 0
		for i := 0; i < len(b); i += step(compression) {
			b[i] ^= 1 << (i % 8)
			if r, err := open(b); err == nil {
				accepted++
				checkContent(t, r, c)
			} else if f := (*bundle.FormatError)(nil); !errors.As(err, &f) {
				t.Errorf("byte %d: %v is not a *FormatError", i, err)
			}
			b[i] ^= 1 << (i % 8)
		}
		// What nothing but a reader that seeks looks at: the seek table of zstd, and
		// the table of contents of a plain tar, which has no checksum.
		hints := len(b)/100 + map[bundle.Compression]int{bundle.Zstd: 80, bundle.None: 220}[compression]
		if accepted > hints {
			t.Errorf("%d of %d changed bytes were not noticed", accepted, len(b))
		}
	})
}

func TestAppended(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Layer: 3000})
		b := bundletest.WriteAs(t, compression, m, c)
		for _, tail := range []string{"\x00", "x", string(b)} {
			if _, err := open(append(bytes.Clone(b), tail...)); err == nil {
				t.Errorf("%d bytes behind the end were accepted", len(tail))
			}
		}
	})
}

// TestChangedAfterCheck: storage that gives other bytes the second time is noticed.
func TestChangedAfterCheck(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Layer: 3000})
		b := bundletest.WriteAs(t, compression, m, c)
		r, err := open(b)
		if err != nil {
			t.Fatal(err)
		}
		layer := m.Components[0].Images[0].Layers[0]
		at := bytes.Index(b, c.Blobs[layer.Digest][:64])
		b[at] ^= 1
		rc, err := r.OpenBlob(layer.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(rc); err == nil {
			t.Error("changed content was read")
		}
	})
}

// TestWriteChecksContent: nothing that a source gives goes into a bundle, or into the
// digest of images.tar, unless it is what the manifest says.
func TestWriteChecksContent(t *testing.T) {
	m, c := bundletest.Release(t, bundletest.Spec{Layer: bundle.MemberSize + 3000})
	for _, thin := range []bool{false, true} {
		for d, good := range c.Blobs {
			for what, b := range map[string][]byte{
				"first byte": append([]byte{good[0] ^ 1}, good[1:]...),
				"last byte":  append(slices.Clone(good[:len(good)-1]), good[len(good)-1]^1),
				"cut off":    good[:len(good)-1],
				"empty":      {},
			} {
				c.Blobs[d] = b
				f, err := os.Create(filepath.Join(t.TempDir(), "b"))
				if err != nil {
					t.Fatal(err)
				}
				err = bundle.WriteThin(t.Context(), f, bundle.Gzip, clone(t, m), c, func(bundle.Digest) bool { return thin }, nil)
				f.Close()
				if err == nil || !strings.Contains(err.Error(), d.Hex()) {
					t.Errorf("%s of %s, left out %v: %v", what, d, thin, err)
				}
			}
			c.Blobs[d] = good
		}
	}
}

func TestManifestRefused(t *testing.T) {
	m, _ := bundletest.Release(t, bundletest.Spec{Layer: 10})
	good, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.ParseManifest(good); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, old, new, rule string }{
		{"unknown key", `"format": "valise/1",`, `"format": "valise/1", "more": 1,`, "manifest-json"},
		{"duplicate key", `"app": "shop",`, `"app": "shop", "app": "other",`, "manifest-canonical"},
		{"key in other case", `"app": "shop",`, `"App": "shop",`, "manifest-canonical"},
		{"white space", `"app": "shop",`, `"app":  "shop",`, "manifest-canonical"},
		{"second object", "\n}\n", "\n}\n{}", "manifest-json"},
		{"another format", `"valise/1"`, `"valise/2"`, "format"},
		{"app is a path", `"app": "shop"`, `"app": "../shop"`, "app"},
		{"kind", `"kind": "compose"`, `"kind": "tree"`, "kind"},
		{"version is a path", `"version": "1.2.3"`, `"version": "../1.2.3"`, "version"},
		{"version with leading zero", `"version": "1.2.3"`, `"version": "1.02.3"`, "version"},
		{"calendar version", `"version": "1.2.3"`, `"version": "2024.11.05"`, "version"},
		{"escape code in changelog", `"first\n"`, `"first\u001b[2J\n"`, "changelog"},
		{"absolute path", `"path": ".env.example"`, `"path": "/env.example"`, "path"},
		{"path leaves", `"path": ".env.example"`, `"path": "../env.example"`, "path"},
		{"path twice", `"path": ".env.example"`, `"path": "compose.yaml"`, "file-order"},
		{"case collision", `"path": ".env.example"`, `"path": "Compose.yaml"`, "path-collision"},
		{"reserved name", `"path": ".env.example"`, `"path": "Images.tar"`, "path-collision"},
		{"file used as directory", `"path": ".env.example"`, `"path": "compose.yaml/x"`, "file-order"},
		{"setuid", `"mode": 420`, `"mode": 2541`, "file-mode"},
		{"missing platform", `"linux/amd64",
    "linux/arm64"`, `"linux/amd64"`, "component-platforms"},
		{"digest is a path", `"diffID": "sha256:`, `"diffID": "../../`, "digest"},
		{"no health check", `
      "compose": [
        "api"
      ],`, ``, "device"},
		{"keep count", `"releases": 3`, `"releases": 1`, "device"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := bytes.Replace(good, []byte(tc.old), []byte(tc.new), 1)
			if bytes.Equal(b, good) {
				t.Fatalf("the manifest does not contain %q:\n%s", tc.old, good)
			}
			_, err := bundle.ParseManifest(b)
			var f *bundle.FormatError
			if !errors.As(err, &f) || f.Rule != tc.rule {
				t.Errorf("got %v, want rule %s", err, tc.rule)
			}
		})
	}
}

// TestThin: any subset of the layers and installers is a bundle with the same
// manifest and signature, whether it is made from a bundle or at once.
func TestThin(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{})
		b := bundletest.WriteAs(t, compression, m, c)
		r, err := open(b)
		if err != nil {
			t.Fatal(err)
		}
		layers := map[bundle.Digest]bool{}
		for _, c := range m.Components {
			for _, img := range c.Images {
				for _, l := range img.Layers {
					layers[l.Digest] = true
				}
			}
		}
		base := m.Components[0].Images[0].Layers[0].Digest
		i := slices.IndexFunc(m.Files, func(f bundle.File) bool { return strings.HasPrefix(f.Path, bundle.InstallerDir) })
		installer := m.Files[i]
		// write returns what a function writes into a file.
		write := func(f func(*os.File) error) []byte {
			out, err := os.Create(filepath.Join(t.TempDir(), "thin"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if err := f(out); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(out.Name())
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		for name, omit := range map[string]func(bundle.Digest) bool{
			"nothing":     func(bundle.Digest) bool { return false },
			"one layer":   func(d bundle.Digest) bool { return d == base },
			"every layer": func(d bundle.Digest) bool { return layers[d] },
			"installer":   func(d bundle.Digest) bool { return d == installer.Digest },
			"all it may":  func(bundle.Digest) bool { return true },
		} {
			t.Run(name, func(t *testing.T) {
				got := write(func(f *os.File) error { return bundle.Thin(t.Context(), f, r, omit, nil) })
				thin, err := open(got)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(thin.ManifestBytes(), r.ManifestBytes()) {
					t.Error("the manifest changed")
				}
				for d := range c.Blobs {
					if thin.HasBlob(d) == (layers[d] && omit(d)) {
						t.Errorf("%s: has %v", d, thin.HasBlob(d))
					}
				}
				for _, f := range m.Files {
					if thin.HasFile(f.Path) == (f == installer && omit(f.Digest)) {
						t.Errorf("%s: has %v", f.Path, thin.HasFile(f.Path))
					}
				}
				again := write(func(f *os.File) error {
					return bundle.WriteThin(t.Context(), f, compression, clone(t, m), c, omit, nil)
				})
				if !bytes.Equal(again, got) {
					t.Error("made at once it is another file")
				}
				if name == "nothing" && !bytes.Equal(got, b) {
					t.Error("leaving nothing out gives another file")
				}
			})
		}
	})
}

// TestCheckInParts: a bundle large enough to be checked in parts is judged as
// one that is not.
func TestCheckInParts(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		if runtime.GOMAXPROCS(0) < 2 {
			t.Skip("one processor: nothing is checked in parts")
		}
		m, c := bundletest.Release(t, bundletest.Spec{Layer: 20 << 20, Installer: 9 << 20})
		b := bundletest.WriteAs(t, compression, m, c)
		var last int64
		r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check(t.Context(), func(done, total int64) {
			if done < last || done > total {
				t.Errorf("progress goes from %d to %d of %d", last, done, total)
			}
			last = done
		}); err != nil {
			t.Fatal(err)
		}
		checkContent(t, r, c)
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 40 {
			i := rnd.IntN(len(b))
			b[i] ^= 0x10
			if r, err := open(b); err == nil {
				checkContent(t, r, c)
			} else if f := (*bundle.FormatError)(nil); !errors.As(err, &f) {
				t.Errorf("byte %d: %v is not a *FormatError", i, err)
			}
			b[i] ^= 0x10
		}
		if _, err := open(b[:len(b)-1]); err == nil {
			t.Error("a missing last byte was not noticed")
		}
	})
}
