package image

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// givenLayer is a layer whose diffID is what somebody says.
type givenLayer struct {
	blob   []byte
	diffID v1.Hash
}

func (l givenLayer) Digest() (v1.Hash, error) { return hashOf(l.blob), nil }
func (l givenLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }
func (l givenLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.blob)), nil
}
func (l givenLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }
func (l givenLayer) Size() (int64, error)                 { return int64(len(l.blob)), nil }
func (l givenLayer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }

func given(blob []byte, diffID v1.Hash) v1.Layer { return givenLayer{blob, diffID} }

// TestLayers gives layers that are not what the config of their image says: each has
// the right digest, and only an engine would have found out.
func TestLayers(t *testing.T) {
	plain := make([]byte, 1<<20)
	for i := range plain {
		plain[i] = sha256.Sum256(fmt.Append(nil, i/32))[i%32]
	}
	pack := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}
	good := pack(plain)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		layer v1.Layer
		want  string
	}{
		"good":           {given(good, hashOf(plain)), ""},
		"not compressed": {given(plain, hashOf(plain)), ""},
		"other diffID":   {given(good, hashOf([]byte("other"))), "layer has diffID " + hashOf(plain).String() + ", want "},
		"cut":            {given(good[:len(good)-100], hashOf(plain)), "unexpected EOF"},
		"without end":    {given(good[:len(good)-8], hashOf(plain)), "unexpected EOF"},
		"damaged":        {given(flipped, hashOf(plain)), "is not the one of its image"},
		"no gzip":        {given([]byte("hello"), hashOf(plain)), "layer has diffID"},
		"something else": {given(append(bytes.Clone(good), "hello"...), hashOf(plain)), "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			config := &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}
			img, err := mutate.ConfigFile(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), config)
			must(t, err)
			img, err = mutate.AppendLayers(img, c.layer)
			must(t, err)
			dir, cache := t.TempDir(), t.TempDir()
			path, err := layout.Write(dir, empty.Index)
			must(t, err)
			must(t, path.AppendImage(img))
			collection, err := Collect(t.Context(), Options{Platforms: both[:1], CacheDir: cache, Images: []Spec{{Reference: "a:1", From: "oci:" + dir}}})
			must(t, err)
			defer collection.Close()
			digest := collection.Components[0].Images[0].Layers[0].Digest
			read := func() (b []byte, err error) {
				f, err := collection.OpenBlob(digest)
				must(t, err)
				defer f.Close()
				b, err = io.ReadAll(f)
				if again, err2 := io.ReadAll(f); len(again) > 0 || err != nil && err2 != err {
					t.Errorf("read again: %d bytes, %v", len(again), err2)
				}
				return b, err
			}
			for range 2 { // a failure is not kept either
				b, err := read()
				if c.want == "" && (err != nil || hashOf(b).String() != string(digest)) {
					t.Fatalf("got %d bytes, %v", len(b), err)
				}
				if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), string(digest))) {
					t.Fatalf("got %v, want %q", err, c.want)
				}
			}
			marks, err := filepath.Glob(filepath.Join(cache, "checked", "*"))
			if err != nil || (len(marks) == 1) != (c.want == "") {
				t.Errorf("marks %v, %v", marks, err)
			}
			if c.want != "" {
				return
			}
			// Known layers are read as they are; what is read instead of them is not known.
			must(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", digest.Hex()), []byte("changed"), 0o644))
			if b, err := read(); err != nil || string(b) != "changed" {
				t.Errorf("got %q, %v: inflated again", b, err)
			}
		})
	}
}

// TestLayersInBundle: a bundle is refused for a layer that is not the one of its image,
// and one with good layers leaves marks, so that the next release inflates none.
func TestLayersInBundle(t *testing.T) {
	var layer bytes.Buffer
	w := gzip.NewWriter(&layer)
	w.Write([]byte("hello"))
	must(t, w.Close())
	host, cache := newRegistry(t), t.TempDir()
	for content, want := range map[string]string{"hello": "", "other": "is not the one of its image"} {
		img, err := mutate.AppendLayers(newImage(t, amd64, "a"), given(layer.Bytes(), hashOf([]byte(content))))
		must(t, err)
		push(t, host+"/"+content+":1", nil, img)
		_, err = packInto(t.Context(), t, cache, host+"/"+content+":1", nil)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", content, err, want)
		}
	}
	if marks, err := filepath.Glob(filepath.Join(cache, "checked", "*")); err != nil || len(marks) != 3 {
		t.Errorf("marks %v, %v", marks, err)
	}
	none := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(none, nil, 0o644))
	if _, err := packInto(t.Context(), t, none, host+"/hello:1", nil); err != nil {
		t.Errorf("without a cache: %v", err)
	}
}
