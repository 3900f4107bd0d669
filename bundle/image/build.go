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

// build makes an image for every platform, and an image index over several.
func (c *collector) build(ctx context.Context, s Spec, out *bundle.Component) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, p := range c.Platforms {
		img, err := c.buildFor(ctx, s, p)
		if err != nil {
			return fmt.Errorf("make it for %s: %w", p, err)
		}
		out.Images = append(out.Images, c.record(p, img))
		d := img.descriptor
		d.Platform = &v1.Platform{OS: p.OS(), Architecture: p.Arch(), Variant: p.Variant()}
		index.Manifests = append(index.Manifests, d)
	}
	if len(c.Platforms) == 1 {
		return nil
	}
	d, raw, err := encode(types.OCIImageIndex, index)
	if err != nil {
		return err
	}
	out.Index = c.keep(&d, raw)
	return nil
}

func (c *collector) buildFor(ctx context.Context, s Spec, p bundle.Platform) (*found, error) {
	img, err := c.base(ctx, s, p)
	if err != nil {
		return nil, err
	}
	for _, f := range s.Files[p] {
		l, err := c.makeLayer(ctx, s, p, f)
		if err != nil {
			return nil, fmt.Errorf("files %s: %w", f.From, err)
		}
		img.manifest.Layers = append(img.manifest.Layers, l.descriptor)
		img.layers = append(img.layers, l.open)
		img.config.RootFS.DiffIDs = append(img.config.RootFS.DiffIDs, l.diffID)
		img.config.History = append(img.config.History, v1.History{
			Created: v1.Time{Time: c.CreatedAt}, CreatedBy: "valise: files " + f.To,
		})
	}
	if len(img.layers) == 0 {
		return nil, fmt.Errorf("no layers: the base is empty and there are no files")
	}
	img.config.Created = v1.Time{Time: c.CreatedAt}
	s.Config.apply(&img.config.Config)
	if img.manifest.Config, img.rawConfig, err = encode(types.OCIConfigJSON, img.config); err != nil {
		return nil, err
	}
	img.descriptor, img.raw, err = encode(types.OCIManifestSchema1, img.manifest)
	return img, err
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
