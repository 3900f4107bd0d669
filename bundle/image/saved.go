package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// savedImage is an image in the manifest.json of docker save.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func parseSaved(raw []byte) ([]savedImage, error) {
	var images []savedImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w", err)
	}
	if len(images) == 0 || len(images) > bundle.MaxComponents*bundle.MaxPlatforms {
		return nil, fmt.Errorf("manifest.json lists %d images", len(images))
	}
	return images, nil
}

// pick returns the image that has the name of the release's image, or else the
// only one.
func pick(images []savedImage, reference string) (savedImage, error) {
	var have []string
	for _, img := range images {
		for _, tag := range img.RepoTags {
			if sameName(tag, reference) {
				return img, nil
			}
			have = append(have, tag)
		}
	}
	if len(images) == 1 {
		return images[0], nil
	}
	return savedImage{}, fmt.Errorf("the archive has %d images and none is called %s (it has: %s)", len(images), reference, strings.Join(have, " "))
}

// sameName compares two names, one of which may be written in full.
func sameName(a, b string) bool {
	full := func(s string) string {
		s, _, _ = strings.Cut(s, "@")
		r, err := name.ParseReference(s)
		if err != nil {
			return s
		}
		return r.Name()
	}
	return full(a) == full(b)
}

// archiveImages makes an image of what docker save wrote.
func (c *collector) archiveImages(ctx context.Context, s Spec, a *archive) ([]candidate, error) {
	images, err := parseSaved(a.documents["manifest.json"])
	if err != nil {
		return nil, err
	}
	saved, err := pick(images, s.Reference)
	if err != nil {
		return nil, err
	}
	configName, err := a.follow(saved.Config)
	if err != nil {
		return nil, err
	}
	img, err := newSaved(saved, a.documents[configName])
	if err != nil {
		return nil, err
	}
	names := make([]string, len(saved.Layers))
	for i, l := range saved.Layers {
		if names[i], err = a.follow(l); err != nil {
			return nil, err
		}
	}
	p := platformOf(img.config.Platform())
	if !slices.ContainsFunc(c.Platforms, func(want bundle.Platform) bool { return normal(want) == normal(p) }) {
		return []candidate{{platform: p}}, nil // its layers are not worth the work
	}
	layers := make([]*layer, len(names))
	if a.gzip {
		layers, err = c.gunzipLayers(ctx, s, p, a, img, names)
	} else {
		err = each(ctx, len(names), max(1, len(names)), func(ctx context.Context, i int) (err error) {
			layers[i], err = c.layer(ctx, s, p, names[i], img.config.RootFS.DiffIDs[i], func(w io.Writer) error {
				f, err := a.openEntry(names[i])
				if err != nil {
					return err
				}
				defer f.Close()
				return inflate(ctx, w, f)
			})
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	if err := img.useLayers(layers); err != nil {
		return nil, err
	}
	return []candidate{{img.descriptor, p, img}}, nil
}

// gunzipLayers makes the layers of a compressed archive in one pass.
func (c *collector) gunzipLayers(ctx context.Context, s Spec, p bundle.Platform, a *archive, img *found, names []string) ([]*layer, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := a.reader(ctx, f)
	if err != nil {
		return nil, err
	}
	layers := make([]*layer, len(names))
	err = walkTar(r, func(name string, h *tar.Header, content io.Reader) error {
		for i := range names {
			if names[i] != name {
				continue
			}
			if layers[i], err = c.layer(ctx, s, p, name, img.config.RootFS.DiffIDs[i], func(w io.Writer) error { return inflate(ctx, w, content) }); err != nil {
				return err
			}
		}
		return nil
	})
	if i := slices.Index(layers, nil); err == nil && i >= 0 {
		err = fmt.Errorf("%s changed while it was read: no %q", a.path, names[i])
	}
	return layers, err
}

// hexName finds the digest in the name of a file of docker save.
var hexName = lazyregexp.New(`(?:^|[/:])([0-9a-f]{64})(?:\.json)?$`)

// newSaved reads the config of a saved image. Where its name is a digest, as
// every engine writes it, it must have that digest: the name is what tags and
// image IDs mean.
func newSaved(saved savedImage, raw []byte) (*found, error) {
	if raw == nil {
		return nil, fmt.Errorf("config %.80q is missing in the archive", saved.Config)
	}
	digest := hashOf(raw)
	if m := hexName.FindStringSubmatch(saved.Config); m != nil && m[1] != digest.Hex {
		return nil, fmt.Errorf("config %.80q has digest %s", saved.Config, digest)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if layers, ids := len(saved.Layers), len(config.RootFS.DiffIDs); layers != ids {
		return nil, fmt.Errorf("image has %d layers and %d diffIDs", layers, ids)
	}
	if len(saved.Layers) == 0 {
		return nil, errors.New("image has no layers")
	}
	return &found{rawConfig: raw, config: config}, nil
}

// useLayers gives img an image manifest with these layers. The config stays as it
// is, byte for byte.
func (img *found) useLayers(layers []*layer) (err error) {
	img.manifest = &v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(img.rawConfig)), Digest: hashOf(img.rawConfig)}}
	for _, l := range layers {
		img.manifest.Layers = append(img.manifest.Layers, l.descriptor)
		img.layers = append(img.layers, l.open)
	}
	img.descriptor, img.raw, err = encode(types.OCIManifestSchema1, img.manifest)
	return err
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// inflate copies a layer to w, uncompressed: some programs put compressed layers
// into their archives.
func inflate(ctx context.Context, w io.Writer, r io.Reader) error {
	b := bufio.NewReader(contextReader{ctx, r})
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	var plain io.Reader = b
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		z, err := gzip.NewReader(b)
		if err != nil {
			return err
		}
		plain = z
	case bytes.HasPrefix(magic, zstdMagic):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	}
	_, err = io.Copy(w, plain)
	return err
}
