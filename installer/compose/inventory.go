package compose

import (
	"context"
	"maps"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
)

// Inventory adds the layers that the engine has of kept releases to an inventory.
func (a *App) Inventory(ctx context.Context, kept []installer.Release, v *bundle.Inventory) error {
	images, err := a.known(kept, v.Platform)
	if err != nil {
		return err
	}
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return err
	}
	have, err := a.present(ctx, images, images)
	if err != nil {
		return err
	}
	v.Layers = slices.Sorted(maps.Keys(have))
	if info.Store == docker.GraphDriver {
		diffIDs := map[bundle.Digest]bool{}
		for _, img := range images {
			for _, l := range img.Image.Layers {
				if have[l.Digest] {
					diffIDs[l.DiffID] = true
				}
			}
		}
		v.DiffIDs = slices.Sorted(maps.Keys(diffIDs))
	}
	return nil
}
