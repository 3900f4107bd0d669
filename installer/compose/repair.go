package compose

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/verify"
)

// Retained is a bundle on this device. Every blob it yields is compared with the
// manifest that was verified when its release came.
type Retained struct {
	*bundle.Reader
	io.Closer
	Name string
}

// Repair puts back files and images of release r, which is current, and starts
// it. fresh takes its containers and images away first: an image may look whole
// and not be, as after a load that was interrupted.
func (a *App) Repair(ctx context.Context, rel *verify.Release, r installer.Release, kept []installer.Release, fresh bool) error {
	if rel != nil {
		a.Releases.Remember(rel.Digest(), rel.Manifest())
	}
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	if rel != nil && !fresh {
		// Containers would hold an image whose load was cut off.
		if fresh, err = a.tornOf(ctx, m); err != nil {
			return err
		}
	}
	if fresh {
		if err := a.dropImages(ctx, rel, m); err != nil {
			return err
		}
	}
	if rel != nil {
		err = a.stageKept(ctx, rel, r, kept)
	} else {
		err = a.bringImages(ctx, m, r)
	}
	if err != nil {
		return err
	}
	if err := a.link(m, r); err != nil {
		return err
	}
	return a.classify(ctx, a.up(ctx, m, r))
}

// dropImages removes the app's containers and the images of its release, unless
// the bundle could not bring them back.
func (a *App) dropImages(ctx context.Context, rel *verify.Release, m *bundle.Manifest) error {
	images, err := a.imagesHere(ctx, m)
	if err != nil {
		return err
	}
	for _, img := range images {
		for _, l := range img.Image.Layers {
			if !rel.HasBlob(l.Digest) {
				return fmt.Errorf("load images again: %w", &installer.LackingError{Layer: l.Digest, Image: img.Tag, Version: m.Version})
			}
		}
	}
	if err := a.compose(m).Down(ctx); err != nil {
		return err
	}
	left, err := a.drop(ctx, images)
	for _, l := range left {
		a.report(installer.Event{Step: "repair", Detail: fmt.Sprintf("image %s is not loaded again: others than %s use it (%s)", l.Tag, a.Name, strings.Join(l.Users, ", "))})
	}
	return err
}

// tornOf reports whether the load of an image of a release was cut off.
func (a *App) tornOf(ctx context.Context, m *bundle.Manifest) (bool, error) {
	torn, err := a.torn()
	if err != nil || torn == nil {
		return false, err
	}
	images, err := a.imagesHere(ctx, m)
	return slices.ContainsFunc(tagsOf(images), func(tag string) bool { return slices.Contains(torn, tag) }), err
}

// imagesHere are the images of a manifest for the engine's platform.
func (a *App) imagesHere(ctx context.Context, m *bundle.Manifest) ([]docker.TaggedImage, error) {
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return nil, err
	}
	return a.images(m, info.Platform)
}

// checkImages returns nil when the engine has every image of a release. It makes
// their keepers that somebody removed, as docker system prune does.
func (a *App) checkImages(ctx context.Context, m *bundle.Manifest) error {
	images, err := a.imagesHere(ctx, m)
	if err != nil {
		return err
	}
	if err := a.check(ctx, images); err != nil {
		return err
	}
	return a.keep(ctx, images)
}

// bringImages loads images of release r that are gone from a bundle that is still
// on this device.
func (a *App) bringImages(ctx context.Context, m *bundle.Manifest, r installer.Release) error {
	gone := a.checkImages(ctx, m)
	if gone == nil {
		return nil
	}
	if _, err := a.Engine.Info(ctx); err != nil {
		return err
	}
	var b *Retained
	if a.Retained != nil {
		var err error
		if b, err = a.Retained(r); err != nil {
			return err
		}
	}
	if b == nil && r.Signer == installer.Adopted {
		return fmt.Errorf("the images of what was adopted are gone (%w), and no bundle has them: docker pull or docker load those with these IDs", gone)
	}
	if b == nil {
		return fmt.Errorf("the images of %s are missing (%w), and so is its bundle: load them with it, by update --force", r.Version, gone)
	}
	defer b.Close()
	a.report(installer.Event{Step: "repair", Detail: fmt.Sprintf("images of %s are gone: loaded again from %s", r.Version, b.Name)})
	images, err := a.imagesHere(ctx, m)
	if err != nil {
		return err
	}
	return a.ensure(ctx, images, nil, b.OpenBlob)
}
