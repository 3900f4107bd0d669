package docker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
)

// appLabel marks our keeper containers; its value is the app.
const appLabel = "dev.valise.app"

const keeperPrefix = "valise-keep-"

// Tag is the name of an image of app on the device. It is made of the digest of
// the image manifest, so it never moves to another image, and two releases with
// the same image share it.
func Tag(app string, img bundle.Image) string {
	return repository(app) + img.Manifest.Digest.Hex()
}

func repository(app string) string { return "valise/" + app + ":" }

// IsGone reports whether err is what the engine says of an image or a container that it
// does not have.
func IsGone(err error) bool { return errdefs.IsNotFound(err) }

// keeperName is the name of the keeper container of a tag of app.
func keeperName(app, tag string) string {
	return keeperPrefix + app + "-" + strings.TrimPrefix(tag, repository(app))[:12]
}

// checkTag refuses every tag that Tag would not make: nothing else is ours.
func checkTag(app, tag string) error {
	if hex, ok := strings.CutPrefix(tag, repository(app)); !ok || !bundle.ValidApp(app) || !bundle.Digest("sha256:"+hex).Valid() {
		return fmt.Errorf("image tag %.200q is not one of app %.80q", tag, app)
	}
	return nil
}

// Check compares the images the engine has under their tags with what the
// signed manifest says of them. It returns their image IDs by tag, which is
// what the compose override pins: a tag can be moved, an ID cannot. A tag that
// was removed is set again: a prune removes tags of images with several names,
// used or not.
func (e *Engine) Check(ctx context.Context, images []TaggedImage) (map[string]string, error) {
	info, err := e.Info(ctx)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for _, img := range images {
		if ids[img.Tag], err = e.check(ctx, info.Store, img); err != nil {
			return nil, fmt.Errorf("check image %s: %w", img.Tag, err)
		}
	}
	return ids, nil
}

func (e *Engine) check(ctx context.Context, store Store, img TaggedImage) (id string, err error) {
	want := store.ID(img.Image)
	got, err := e.client.ImageInspect(ctx, img.Tag)
	if errdefs.IsNotFound(err) {
		if _, terr := e.client.ImageTag(ctx, client.ImageTagOptions{Source: want, Target: img.Tag}); terr == nil {
			got, err = e.client.ImageInspect(ctx, img.Tag)
		}
	}
	if err != nil {
		return "", err
	}
	if got.ID != want {
		return "", fmt.Errorf("image ID is %s, want %s", got.ID, want)
	}
	if len(got.RootFS.Layers) != len(img.Image.Layers) {
		return "", fmt.Errorf("has %d layers, want %d", len(got.RootFS.Layers), len(img.Image.Layers))
	}
	for i, l := range img.Image.Layers {
		if got.RootFS.Layers[i] != string(l.DiffID) {
			return "", fmt.Errorf("layer %d has diffID %s, want %s", i, got.RootFS.Layers[i], l.DiffID)
		}
	}
	p := img.Image.Platform
	if !described(img.Image) && (got.Os != p.OS() || got.Architecture != p.Arch() || (got.Variant != "" && p.Variant() != "" && got.Variant != p.Variant())) {
		return "", fmt.Errorf("is built for %s/%s %s, want %s", got.Os, got.Architecture, got.Variant, p)
	}
	return got.ID, nil
}

// Keep protects the image tag of app from `docker image prune -a`: an image of
// the previous release has no container of its own. It creates a container that
// is never started, if there is none yet; creating it also proves that a
// containerd store has unpacked the image.
func (e *Engine) Keep(ctx context.Context, app, tag string) error {
	if err := checkTag(app, tag); err != nil {
		return fmt.Errorf("keep image: %w", err)
	}
	img, err := e.client.ImageInspect(ctx, tag)
	if err != nil {
		return fmt.Errorf("keep image: %w", err)
	}
	name := keeperName(app, tag)
	old, err := e.client.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("keep image %s: %w", tag, err)
	case old.Container.Image == img.ID && old.Container.Config != nil && old.Container.Config.Labels[appLabel] == app:
		return nil
	default: // it keeps what the tag named before the image was loaded again
		if err := e.removeKeeper(ctx, app, tag); err != nil {
			return fmt.Errorf("keep image %s: %w", tag, err)
		}
	}
	// An anonymous volume per VOLUME of the image would be created and filled.
	var mounts []mount.Mount
	if img.Config != nil {
		for target := range img.Config.Volumes {
			mounts = append(mounts, mount.Mount{Type: mount.TypeTmpfs, Target: target})
		}
	}
	_, err = e.client.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: name,
		Config: &container.Config{
			Image:  tag,
			Cmd:    []string{"valise-keep"}, // never runs; an image may have no command of its own
			Labels: map[string]string{appLabel: app},
		},
		HostConfig: &container.HostConfig{NetworkMode: "none", Mounts: mounts},
	})
	if err != nil {
		return fmt.Errorf("keep image %s: %w", tag, err)
	}
	return nil
}

// removeKeeper removes the keeper of tag, if there is one. It is never forced:
// whoever started the container uses it.
func (e *Engine) removeKeeper(ctx context.Context, app, tag string) error {
	name := keeperName(app, tag)
	c, err := e.client.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.Container.Config == nil || c.Container.Config.Labels[appLabel] != app {
		return fmt.Errorf("container %s has not our label %s=%s: it is not ours", name, appLabel, app)
	}
	_, err = e.client.ContainerRemove(ctx, c.Container.ID, client.ContainerRemoveOptions{RemoveVolumes: true})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// InUse is an image that Remove left because others use it.
type InUse struct {
	Tag   string
	Users []string // names of containers
}

// Remove removes tags of app and their keepers. What is not there is fine. An
// image that another container uses is left with its tag and reported, so that a
// later Remove finishes the job; nothing is ever forced. An image that
// has another tag too, as when two apps share it, only loses ours.
func (e *Engine) Remove(ctx context.Context, app string, tags []string) ([]InUse, error) {
	for _, tag := range tags {
		if err := checkTag(app, tag); err != nil {
			return nil, fmt.Errorf("remove image: %w", err)
		}
	}
	list, err := e.client.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var left []InUse
	for _, tag := range tags {
		users, err := e.remove(ctx, app, tag, list.Items)
		if err != nil {
			return left, fmt.Errorf("remove image %s: %w", tag, err)
		}
		if users != nil {
			left = append(left, InUse{tag, users})
		}
	}
	return left, nil
}

func (e *Engine) remove(ctx context.Context, app, tag string, containers []container.Summary) (users []string, err error) {
	img, err := e.client.ImageInspect(ctx, tag)
	if errdefs.IsNotFound(err) {
		return nil, e.removeKeeper(ctx, app, tag)
	}
	torn := unreadable(ctx, err)
	if err != nil && !torn {
		return nil, err
	}
	for _, c := range containers {
		// Another keeper holds the image by a tag of its own, which stays; and
		// with another tag the image stays for whoever uses it.
		if (c.Image == tag || c.ImageID == img.ID && len(img.RepoTags) == 1) && !isKeeper(c) {
			users = append(users, containerName(c))
		}
	}
	if err := e.removeKeeper(ctx, app, tag); err != nil || users != nil {
		return users, err
	}
	_, err = e.client.ImageRemove(ctx, tag, client.ImageRemoveOptions{})
	switch {
	case errdefs.IsNotFound(err):
		return nil, nil
	case errdefs.IsConflict(err), torn && unreadable(ctx, err): // a container that was created just now; what the engine cannot remove either
		return []string{err.Error()}, nil
	}
	return nil, err
}

func isKeeper(c container.Summary) bool {
	return c.Labels[appLabel] != "" && strings.HasPrefix(containerName(c), keeperPrefix)
}

func containerName(c container.Summary) string {
	if len(c.Names) == 0 {
		return c.ID
	}
	return strings.TrimPrefix(c.Names[0], "/")
}

// List returns the tags of app, sorted: of its images, and of keepers whose
// image lost its tag, so that Remove of a listed tag leaves nothing behind.
func (e *Engine) List(ctx context.Context, app string) ([]string, error) {
	images, err := e.client.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list images of container engine: %w", err)
	}
	keepers, err := e.client.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", appLabel+"="+app)})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var tags []string
	for _, img := range images.Items {
		tags = append(tags, img.RepoTags...)
	}
	for _, c := range keepers.Items {
		tags = append(tags, c.Image)
	}
	tags = slices.DeleteFunc(tags, func(t string) bool { return checkTag(app, t) != nil })
	slices.Sort(tags)
	return slices.Compact(tags), nil
}
