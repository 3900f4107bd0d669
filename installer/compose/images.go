package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
)

// removeImages removes the images of this app that are not in known. One that a
// container still uses stays, is returned, and goes with a later prune.
func (a *App) removeImages(ctx context.Context, known []docker.TaggedImage) ([]docker.InUse, error) {
	tags, err := a.Engine.List(ctx, a.Name)
	if err != nil {
		return nil, err
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool {
		return slices.ContainsFunc(known, func(k docker.TaggedImage) bool { return k.Tag == tag })
	})
	return a.Engine.Remove(ctx, a.Name, tags)
}

// images returns the images of a manifest for one platform, with our tags.
func (a *App) images(m *bundle.Manifest, p bundle.Platform) ([]docker.TaggedImage, error) {
	i := slices.Index(m.Platforms, p)
	if i < 0 {
		return nil, fmt.Errorf("release %s has no images for %s", m.Version, p)
	}
	var list []docker.TaggedImage
	for _, c := range m.Components {
		img := docker.TaggedImage{Tag: docker.Tag(a.Name, c.Images[i]), Image: c.Images[i]}
		if !slices.ContainsFunc(list, func(t docker.TaggedImage) bool { return t.Tag == img.Tag }) {
			list = append(list, img)
		}
	}
	return list, nil
}

// known returns the images of committed releases.
func (a *App) known(kept []installer.Release, p bundle.Platform) ([]docker.TaggedImage, error) {
	var list []docker.TaggedImage
	for _, k := range kept {
		m, err := a.manifest(k)
		if err != nil {
			return nil, err
		}
		images, err := a.images(m, p)
		if err != nil {
			return nil, err
		}
		list = append(list, images...)
	}
	return list, nil
}

func tagsOf(list []docker.TaggedImage) (tags []string) {
	for _, t := range list {
		tags = append(tags, t.Tag)
	}
	return tags
}

func plain(list []docker.TaggedImage) []bundle.Image {
	var out []bundle.Image
	for _, t := range list {
		out = append(out, t.Image)
	}
	return out
}

// pins is the compose override that pins every service to the ID of its image:
// whatever becomes of tags, what runs is what was verified. YAML holds JSON.
func pins(m *bundle.Manifest, images []docker.TaggedImage, store docker.Store) ([]byte, error) {
	services := map[string]pin{}
	for _, c := range m.Components {
		for _, img := range images {
			if slices.ContainsFunc(c.Images, func(i bundle.Image) bool { return i.Manifest.Digest == img.Image.Manifest.Digest }) {
				for _, name := range c.Services {
					services[name] = pin{store.ID(img.Image), "never"}
				}
			}
		}
	}
	return json.MarshalIndent(map[string]any{"services": services}, "", "  ")
}
