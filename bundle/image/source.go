package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
)

// source is a place that has images. Its bytes are not trusted: document and
// layer readers compare them with the digest they were asked for.
type source interface {
	// root returns the image index or image manifest that the source stands for.
	root(ctx context.Context) (v1.Descriptor, []byte, error)
	// document returns a small blob: an image manifest, index or config.
	document(ctx context.Context, d v1.Descriptor) ([]byte, error)
	// layer returns how to open a layer.
	layer(ctx context.Context, d v1.Descriptor) opener
}

// partial is a source that may lack images which its index lists: what an engine
// with several platforms saves.
type partial interface{ has(v1.Descriptor) bool }

func (c *collector) source(text string) (source, error) {
	if dir, ok := strings.CutPrefix(text, layoutPrefix); ok {
		return layoutSource(c.path(dir)), nil
	}
	return c.registry(text)
}

// path is the place of a path of Options.
func (c *collector) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Dir, p)
}

// layoutSource is the directory of an OCI image layout.
type layoutSource string

func (l layoutSource) root(ctx context.Context) (v1.Descriptor, []byte, error) {
	none := v1.Descriptor{}
	f, err := os.Open(filepath.Join(string(l), "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil, fmt.Errorf("%s is not an OCI image layout: no index.json", string(l))
	}
	if err != nil {
		return none, nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, bundle.MaxImageManifest+1))
	if err != nil {
		return none, nil, err
	}
	return layoutRoot(ctx, l, raw)
}

// layoutRoot returns what the index.json of a layout names; when it names several
// image manifests, it is the image index itself.
func layoutRoot(ctx context.Context, l source, raw []byte) (v1.Descriptor, []byte, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return v1.Descriptor{}, nil, fmt.Errorf("read index.json: %w", err)
	}
	if len(index.Manifests) == 1 {
		d := index.Manifests[0]
		raw, err := l.document(ctx, d)
		return d, raw, err
	}
	d := v1.Descriptor{MediaType: types.OCIImageIndex, Size: int64(len(raw)), Digest: hashOf(raw)}
	return d, raw, checkDocument(d, raw)
}

func (l layoutSource) document(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	return readDocument(d, l.layer(ctx, d))
}

func (l layoutSource) layer(_ context.Context, d v1.Descriptor) opener {
	return func() (io.ReadCloser, error) {
		if !bundle.Digest(d.Digest.String()).Valid() {
			return nil, fmt.Errorf("open blob: digest is %.80q", d.Digest)
		}
		return os.Open(filepath.Join(string(l), "blobs", "sha256", d.Digest.Hex))
	}
}

// readDocument reads a small blob whole.
func readDocument(d v1.Descriptor, open opener) ([]byte, error) {
	if d.Size > bundle.MaxImageManifest {
		return nil, fmt.Errorf("%s has %d bytes, limit %d", d.Digest, d.Size, bundle.MaxImageManifest)
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, d.Size+1))
	if err != nil {
		return nil, err
	}
	return raw, checkDocument(d, raw)
}

func checkDocument(d v1.Descriptor, raw []byte) error {
	if len(raw) > bundle.MaxImageManifest {
		return fmt.Errorf("%s has %d bytes, limit %d", d.Digest, len(raw), bundle.MaxImageManifest)
	}
	if got := hashOf(raw); got != d.Digest {
		return fmt.Errorf("blob has digest %s, want %s", got, d.Digest)
	}
	return nil
}

func hashOf(b []byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: bundle.DigestOf(b).Hex()}
}

func describe(d v1.Descriptor) bundle.Descriptor {
	return bundle.Descriptor{MediaType: string(d.MediaType), Digest: bundle.Digest(d.Digest.String()), Size: d.Size}
}

// keep takes a small blob into the collection.
func (c *collector) keep(d *v1.Descriptor, raw []byte) *bundle.Descriptor {
	out := describe(*d)
	out.Size = int64(len(raw)) // what was read and hashed; a descriptor may lie
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.blobs[out.Digest] = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
	return &out
}
