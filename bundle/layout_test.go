package bundle_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestLayout: a bundle that is put together from its contents is, byte for byte, the one
// that was written.
func TestLayout(t *testing.T) {
	images, imagesContent := bundletest.Release(t, bundletest.Spec{Own: bundle.MemberSize + 1000, Files: map[string]string{"empty": ""}})
	tree, treeContent := bundletest.Tree(t, bundletest.Spec{}, bundletest.TreeFiles("cloud", "1.2.3"))
	for name, c := range map[string]struct {
		m       *bundle.Manifest
		content *bundletest.Content
	}{"images": {images, imagesContent}, "tree": {tree, treeContent}} {
		t.Run(name, func(t *testing.T) {
			written := bundletest.WriteAs(t, bundle.None, c.m, c.content)
			r, err := bundle.Open(bytes.NewReader(written), int64(len(written)))
			if err != nil {
				t.Fatal(err)
			}
			var sealed bytes.Buffer
			if err := bundle.Seal(context.Background(), &sealed, r, []byte("signature")); err != nil {
				t.Fatal(err)
			}
			_, segments, err := bundle.Layout(r.ManifestBytes(), []byte("signature"))
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, s := range segments {
				b := s.Data
				if b == nil {
					b = contentOf(t, c.m, c.content, s.Digest)
				}
				if int64(len(b)) != s.Size {
					t.Fatalf("a segment of %d bytes says %d", len(b), s.Size)
				}
				got.Write(b)
			}
			if !bytes.Equal(got.Bytes(), sealed.Bytes()) {
				t.Errorf("%d bytes, and %d were written", got.Len(), sealed.Len())
			}
		})
	}
	if _, _, err := bundle.Layout([]byte("{}"), nil); err == nil {
		t.Error("an impossible manifest was laid out")
	}
	if _, _, err := bundle.Layout(nil, make([]byte, bundle.MaxSignatureSize+1)); err == nil {
		t.Error("an impossible signature was laid out")
	}
}

func contentOf(t *testing.T, m *bundle.Manifest, c *bundletest.Content, d bundle.Digest) []byte {
	for _, f := range m.Files {
		if f.Digest == d {
			rc, err := c.OpenFile(f.Path)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(rc)
			return b
		}
	}
	return c.Blobs[d]
}
