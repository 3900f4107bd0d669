package docker

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
)

// Missing returns the digests of the layer blobs of images that must be sent to
// the engine; the others may be skipped by Load. known are images of releases
// that are kept, as their manifests list them.
//
// A graph driver has a layer when one of its images, of any app, begins
// with the same diffIDs up to that layer: it identifies a layer by all that lies
// below it. A containerd store needs the very blob, and the API does not list
// blobs, so a blob counts as there only when a complete image that we know
// contains it.
func (e *Engine) Missing(ctx context.Context, images, known []bundle.Image) (map[bundle.Digest]bool, error) {
	info, err := e.Info(ctx)
	if err != nil {
		return nil, err
	}
	missing := map[bundle.Digest]bool{}
	if info.Store == Containerd {
		complete, err := e.completeImages(ctx)
		if err != nil {
			return nil, err
		}
		present := map[bundle.Digest]bool{}
		for _, set := range [][]bundle.Image{images, known} {
			for _, img := range set {
				if complete[img.Manifest.Digest] {
					for _, l := range img.Layers {
						present[l.Digest] = true
					}
				}
			}
		}
		for _, img := range images {
			for _, l := range img.Layers {
				if !present[l.Digest] {
					missing[l.Digest] = true
				}
			}
		}
		return missing, nil
	}
	chains, err := e.chains(ctx)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		var chain bundle.Digest
		for _, l := range img.Layers {
			if chain = chainID(chain, l.DiffID); !chains[chain] {
				// A blob may be missing in one image and present in another:
				// on another base it is another layer.
				missing[l.Digest] = true
			}
		}
	}
	return missing, nil
}

// completeImages returns the digests of the image manifests that a containerd
// store has with all their blobs.
func (e *Engine) completeImages(ctx context.Context) (map[bundle.Digest]bool, error) {
	list, err := e.client.ImageList(ctx, client.ImageListOptions{All: true, Manifests: true})
	if err != nil {
		return nil, fmt.Errorf("list images of container engine: %w", err)
	}
	complete := map[bundle.Digest]bool{}
	for _, img := range list.Items {
		// Engines before API 1.47 do not tell; they list complete images only.
		if len(img.Manifests) == 0 {
			complete[bundle.Digest(img.ID)] = true
		}
		for _, m := range img.Manifests {
			if m.Available {
				complete[bundle.Digest(m.ID)] = true
			}
		}
	}
	return complete, nil
}

// chains returns the chain IDs of all layers of all local images, those
// without a name too.
func (e *Engine) chains(ctx context.Context) (map[bundle.Digest]bool, error) {
	list, err := e.client.ImageList(ctx, client.ImageListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list images of container engine: %w", err)
	}
	chains := map[bundle.Digest]bool{}
	for _, s := range list.Items {
		img, err := e.client.ImageInspect(ctx, s.ID)
		if errdefs.IsNotFound(err) || unreadable(ctx, err) {
			continue // removed since the list was made, or torn: its layers do not count
		}
		if err != nil {
			return nil, fmt.Errorf("inspect image %s: %w", s.ID, err)
		}
		var chain bundle.Digest
		for _, diffID := range img.RootFS.Layers {
			chain = chainID(chain, bundle.Digest(diffID))
			chains[chain] = true
		}
	}
	return chains, nil
}

// unreadable reports whether err is what the engine says of an image whose files a power
// cut has torn: it lists the image, and cannot read it.
func unreadable(ctx context.Context, err error) bool {
	return errdefs.IsInternal(err) && ctx.Err() == nil && !client.IsErrConnectionFailed(err)
}

// chainID identifies a layer together with all that lies below it, as the OCI
// image spec defines it.
func chainID(parent, diffID bundle.Digest) bundle.Digest {
	if parent == "" {
		return diffID
	}
	return bundle.DigestOf([]byte(string(parent) + " " + string(diffID)))
}
