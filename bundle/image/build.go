package image

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
)

// ociTypes are the OCI names of the layer types of Docker: an image made here has
// an OCI manifest, whatever its base has.
var ociTypes = map[types.MediaType]types.MediaType{
	types.DockerLayer:             types.OCILayer,
	types.DockerUncompressedLayer: types.OCIUncompressedLayer,
}

// IndexOver returns an image index over one image for each platform, as Collect makes
// it for images that come with none.
func IndexOver(images []bundle.Image) (v1.Descriptor, []byte, error) {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, img := range images {
		digest, err := v1.NewHash(string(img.Manifest.Digest))
		if err != nil {
			return v1.Descriptor{}, nil, err
		}
		p := img.Platform
		index.Manifests = append(index.Manifests, v1.Descriptor{MediaType: types.MediaType(img.Manifest.MediaType), Digest: digest, Size: img.Manifest.Size,
			Platform: &v1.Platform{OS: p.OS(), Architecture: p.Arch(), Variant: p.Variant()}})
	}
	return encode(types.OCIImageIndex, index)
}

// makeFor makes the image of s for one platform.
func (c *collector) makeFor(ctx context.Context, s Spec, p bundle.Platform) (*found, error) {
	img, err := c.makeOn(ctx, s, p)
	if err != nil {
		return nil, fmt.Errorf("make it for %s: %w", p, err)
	}
	return img, nil
}

func (c *collector) makeOn(ctx context.Context, s Spec, p bundle.Platform) (*found, error) {
	img, err := c.base(ctx, s, p)
	if err != nil {
		return nil, err
	}
	if s.Go != nil {
		if err := c.addGo(ctx, s, p, img); err != nil {
			return nil, fmt.Errorf("go %s: %w", s.Go.Package, err)
		}
	}
	layers := make([]*layer, len(s.Files[p]))
	err = each(ctx, len(layers), max(1, len(layers)), func(ctx context.Context, i int) (err error) {
		f := s.Files[p][i]
		if layers[i], err = c.makeLayer(ctx, s, p, f); err != nil {
			return fmt.Errorf("files %s: %w", f.From, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, l := range layers {
		c.append(img, l, "valise: files "+s.Files[p][i].To)
	}
	if len(img.layers) == 0 {
		return nil, fmt.Errorf("no layers: the base is empty and there are no files")
	}
	img.config.Created = v1.Time{Time: c.CreatedAt}
	s.Config.apply(&img.config.Config)
	return img, img.seal()
}

// append puts a layer on img.
func (c *collector) append(img *found, l *layer, createdBy string) {
	img.manifest.Layers = append(img.manifest.Layers, l.descriptor)
	img.layers = append(img.layers, l.open)
	img.config.RootFS.DiffIDs = append(img.config.RootFS.DiffIDs, l.diffID)
	img.config.History = append(img.config.History, v1.History{Created: v1.Time{Time: c.CreatedAt}, CreatedBy: createdBy})
}

// seal encodes the config and the image manifest of an image made here.
func (img *found) seal() (err error) {
	if img.manifest.Config, img.rawConfig, err = encode(types.OCIConfigJSON, img.config); err != nil {
		return err
	}
	img.descriptor, img.raw, err = encode(types.OCIManifestSchema1, img.manifest)
	return err
}

// base returns a copy of the base that can be changed.
func (c *collector) base(ctx context.Context, s Spec, p bundle.Platform) (*found, error) {
	img := &found{manifest: &v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}}
	if s.Base == Scratch {
		img.config = &v1.ConfigFile{OS: p.OS(), Architecture: p.Arch(), Variant: p.Variant(), RootFS: v1.RootFS{Type: "layers"}}
		return img, nil
	}
	r, err := c.resolve(ctx, s, s.Base)
	if err != nil {
		return nil, err
	}
	base, err := r.find(p)
	if err != nil {
		return nil, err
	}
	img.config = base.config.DeepCopy()
	for _, l := range base.manifest.Layers {
		if t, ok := ociTypes[l.MediaType]; ok {
			l.MediaType = t
		}
		img.manifest.Layers = append(img.manifest.Layers, v1.Descriptor{MediaType: l.MediaType, Size: l.Size, Digest: l.Digest})
	}
	img.layers = slices.Clone(base.layers)
	return img, nil
}

// apply changes the config of the base.
func (c Config) apply(to *v1.Config) {
	if c.Entrypoint != nil {
		to.Entrypoint, to.Cmd = c.Entrypoint, nil
	}
	if c.Cmd != nil {
		to.Cmd = c.Cmd
	}
	for _, key := range slices.Sorted(maps.Keys(c.Env)) {
		to.Env = slices.DeleteFunc(to.Env, func(s string) bool { return strings.HasPrefix(s, key+"=") })
		to.Env = append(to.Env, key+"="+c.Env[key])
	}
	if c.User != "" {
		to.User = c.User
	}
	if c.Workdir != "" {
		to.WorkingDir = c.Workdir
	}
	if c.StopSignal != "" {
		to.StopSignal = c.StopSignal
	}
	if to.Labels == nil && len(c.Labels) > 0 {
		to.Labels = map[string]string{}
	}
	maps.Copy(to.Labels, c.Labels)
	if to.ExposedPorts == nil && len(c.Expose) > 0 {
		to.ExposedPorts = map[string]struct{}{}
	}
	for _, port := range c.Expose {
		if !strings.Contains(port, "/") {
			port += "/tcp"
		}
		to.ExposedPorts[port] = struct{}{}
	}
}

// encode returns v as a blob. The order of keys is that of the types, and of maps
// sorted, so equal values give equal bytes.
func encode(t types.MediaType, v any) (v1.Descriptor, []byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, nil, err
	}
	return v1.Descriptor{MediaType: t, Size: int64(len(raw)), Digest: hashOf(raw)}, raw, nil
}
