package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify"
)

// Stage writes the release directory and loads the layers the engine lacks. The
// directory gets its name last, when everything in it is durable and every image
// was found in the engine as the manifest says.
func (a *App) Stage(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	m := rel.Manifest()
	a.Releases.Remember(rel.Digest(), m)
	if err := a.Releases.Clean(); err != nil {
		return err
	}
	if slices.ContainsFunc(kept, func(k installer.Release) bool { return k.Dir == to.Dir }) {
		return a.stageKept(ctx, rel, to, kept)
	}
	// A directory nobody committed proves nothing about its content.
	if err := a.Releases.Remove(to.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := a.Releases.Stage(to.Dir)
	if err != nil {
		return err
	}
	defer dir.Abort()
	if err := writeFiles(dir.WriteFile, rel); err != nil {
		return err
	}
	if err := a.addMounts(m, dir.Path()); err != nil {
		return err
	}
	staged := filepath.Join(a.Dir, dir.Path())
	if err := a.pin(ctx, dir.WriteFile, rel, staged); err != nil {
		return err
	}
	if err := a.hookIn(ctx, m, to, staged, "pre-stage"); err != nil {
		return err
	}
	if err := a.load(ctx, rel, kept); err != nil {
		return err
	}
	if err := a.hookIn(ctx, m, to, staged, "post-stage"); err != nil {
		return err
	}
	return dir.Commit()
}

// stageKept makes sure that a release that is still on disk can run: what it
// lacks or what was changed comes from the bundle again.
func (a *App) stageKept(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	if err := a.keepEdits(to); err != nil {
		return err
	}
	write := func(name string, mode fs.FileMode, r io.Reader) error {
		return a.Releases.PutBack(to.Dir, name, mode, r)
	}
	if err := writeFiles(write, rel); err != nil {
		return err
	}
	m := rel.Manifest()
	if err := a.addMounts(m, path.Join("releases", to.Dir)); err != nil {
		return err
	}
	if err := a.pin(ctx, write, rel, a.releaseDir(to)); err != nil {
		return err
	}
	return a.load(ctx, rel, kept)
}

// pin writes the compose override that pins the images of a release, which may not be
// here yet, and lets docker compose read what the release runs from.
func (a *App) pin(ctx context.Context, write writer, rel *verify.Release, dir string) error {
	m := rel.Manifest()
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return err
	}
	images, err := a.images(m, info.Platform)
	if err != nil {
		return err
	}
	pins, err := pins(m, images, info.Store)
	if err != nil {
		return err
	}
	if err := write(pinsName, 0o644, bytes.NewReader(pins)); err != nil {
		return err
	}
	return a.checkCompose(ctx, m, append(a.files(m, dir), filepath.Join(dir, pinsName)), func(name string) (io.ReadCloser, error) { return Open(rel, name) })
}

// writer writes a file of a release.
type writer = func(name string, mode fs.FileMode, r io.Reader) error

func writeFiles(write writer, rel *verify.Release) error {
	if err := write(bundle.ManifestName, 0o644, bytes.NewReader(rel.ManifestBytes())); err != nil {
		return err
	}
	if err := write(bundle.SignatureName, 0o644, bytes.NewReader(rel.Signature())); err != nil {
		return err
	}
	for _, f := range rel.Manifest().Files {
		if !Staged(f.Path) {
			continue
		}
		rc, err := rel.OpenFile(f.Path)
		if err != nil {
			return err
		}
		err = write(f.Path, fs.FileMode(f.Mode), rc)
		rc.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkCompose lets docker compose read files with the environment that the
// release would get: what it cannot read is found before anything is touched.
func (a *App) checkCompose(ctx context.Context, m *bundle.Manifest, files []string, open opener) error {
	env, _, err := a.nextEnv(m, open)
	if err != nil {
		return err
	}
	if operator := a.operatorFiles(m); len(operator) > 1 {
		a.report(installer.Event{Step: "override", Detail: fmt.Sprintf("%s counts; docker compose does not look at %s beside it", operator[0], strings.Join(operator[1:], ", "))})
	}
	root := a.Releases.Root()
	if err := release.WriteFile(root, nextEnvName, env.Bytes(), 0o600); err != nil {
		return err
	}
	c := a.compose(m, files...)
	c.EnvFile = filepath.Join(a.Dir, nextEnvName)
	err = c.Config(ctx)
	if rerr := release.RemoveAll(root, nextEnvName); err == nil {
		err = rerr
	}
	return err
}

// load brings every image of the release into the engine, checks and keeps it.
func (a *App) load(ctx context.Context, rel *verify.Release, kept []installer.Release) error {
	m := rel.Manifest()
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return err
	}
	images, err := a.images(m, info.Platform)
	if err != nil {
		return err
	}
	known, err := a.known(kept, info.Platform)
	if err != nil {
		return err
	}
	torn, err := a.torn()
	if err != nil {
		return err
	}
	known = slices.DeleteFunc(known, func(k docker.TaggedImage) bool { return slices.Contains(torn, k.Tag) })
	// An image of ours that no committed release needs may be torn; the engine
	// would say it is there.
	if _, err := a.removeImages(ctx, known); err != nil {
		return err
	}
	// What runs needs no keeper yet, and may have lost it to a docker system prune.
	for _, k := range kept {
		if m, err := a.manifest(k); err == nil {
			_ = a.checkImages(ctx, m) // what is lost is said by status, and stops no update
		}
	}
	return a.ensure(ctx, images, known, rel.OpenBlob)
}

// ensure loads what the engine lacks of images, keeps them and makes them durable.
// Images in known are whole and stay.
func (a *App) ensure(ctx context.Context, images, known []docker.TaggedImage, open openBlob) error {
	err := a.check(ctx, images)
	lacks := err != nil
	if !lacks {
		err = a.keep(ctx, images)
		lacks = docker.IsGone(err)
	}
	if lacks {
		err = a.loadMissing(ctx, images, known, open)
	}
	if err != nil {
		return err
	}
	if err := a.Engine.Sync(ctx); err != nil {
		return err
	}
	return release.RemoveAll(a.Releases.Root(), loadMarker)
}

// keep protects images from a prune.
func (a *App) keep(ctx context.Context, images []docker.TaggedImage) error {
	for _, img := range images {
		if err := a.Engine.Keep(ctx, a.Name, img.Tag); err != nil {
			return err
		}
	}
	return nil
}

// openBlob is bundle.Reader.OpenBlob.
type openBlob = func(bundle.Digest) (io.ReadCloser, error)

func (a *App) loadMissing(ctx context.Context, images, known []docker.TaggedImage, openBlob openBlob) error {
	torn, err := a.torn()
	if err != nil {
		return err
	}
	marked := torn
	for _, img := range images {
		if _, err := a.Engine.Check(ctx, []docker.TaggedImage{img}); err != nil && !slices.Contains(marked, img.Tag) {
			marked = append(marked, img.Tag)
		}
	}
	if err := release.WriteFile(a.Releases.Root(), loadMarker, []byte(strings.Join(marked, "\n")), 0o600); err != nil {
		return err
	}
	open := func(d bundle.Descriptor) (io.ReadCloser, error) { return openBlob(d.Digest) }
	load := func() error {
		skip, err := a.present(ctx, images, known)
		if err != nil {
			return err
		}
		err = a.Engine.Load(ctx, images, skip, open, a.progress("stage"))
		if err != nil && ctx.Err() == nil {
			// Somebody may have removed the image that a skipped layer was in.
			if now, perr := a.present(ctx, images, known); perr == nil && !maps.Equal(now, skip) {
				err = a.Engine.Load(ctx, images, now, open, a.progress("stage"))
			}
		}
		if err != nil {
			return err
		}
		if _, err := a.Engine.Check(ctx, images); err != nil {
			return err
		}
		return a.keep(ctx, images)
	}
	if torn != nil {
		// A crash in an earlier load may have left layers without content,
		// which the engine keeps using: it drops them with their images.
		if err := load(); err != nil {
			return err
		}
		left, err := a.drop(ctx, slices.DeleteFunc(slices.Clone(images), func(img docker.TaggedImage) bool { return slices.Contains(tagsOf(known), img.Tag) }))
		if err != nil {
			return err
		}
		more, err := a.Engine.Remove(ctx, a.Name, torn) // of other releases, which may share the layers
		if err != nil {
			return err
		}
		for _, l := range append(left, more...) {
			if slices.Contains(torn, l.Tag) {
				return fmt.Errorf("image %s may be damaged by an interrupted load, and cannot be loaded again while others use it (%s): remove those first", l.Tag, strings.Join(l.Users, ", "))
			}
		}
	}
	err = load()
	if docker.IsGone(err) { // a prune takes what no container keeps yet
		err = load()
	}
	if docker.IsGone(err) {
		err = &installer.DeviceError{Err: fmt.Errorf("images vanish while they are loaded, is something pruning them? %w", err)}
	}
	return err
}

// drop removes images and returns those that are still there because of others.
func (a *App) drop(ctx context.Context, images []docker.TaggedImage) ([]docker.InUse, error) {
	left, err := a.Engine.Remove(ctx, a.Name, tagsOf(images))
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if slices.ContainsFunc(left, func(l docker.InUse) bool { return l.Tag == img.Tag }) {
			continue
		}
		if _, err := a.Engine.Check(ctx, []docker.TaggedImage{img}); err == nil {
			left = append(left, docker.InUse{Tag: img.Tag, Users: []string{"it has other names"}})
		}
	}
	return left, nil
}

// check compares images with what the engine has. One whose load was cut off is not
// whole, whatever the engine says of it.
func (a *App) check(ctx context.Context, images []docker.TaggedImage) error {
	torn, err := a.torn()
	if err != nil {
		return err
	}
	for _, img := range images {
		if slices.Contains(torn, img.Tag) {
			return fmt.Errorf("check image %s: a load of it was interrupted", img.Tag)
		}
	}
	_, err = a.Engine.Check(ctx, images)
	return err
}

// torn returns the tags whose load was cut off, nil when none was: the engine may
// call such an image whole. A disk that did not keep what it was told to leaves no tags.
func (a *App) torn() ([]string, error) {
	b, err := a.Releases.Root().ReadFile(loadMarker)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return slices.DeleteFunc(strings.Fields(string(b)), func(tag string) bool { return !strings.HasPrefix(tag, "valise/"+a.Name+":") }), err
}

// present returns the layers of images that the engine has.
func (a *App) present(ctx context.Context, images, known []docker.TaggedImage) (map[bundle.Digest]bool, error) {
	missing, err := a.Engine.Missing(ctx, plain(images), plain(known))
	if err != nil {
		return nil, err
	}
	have := map[bundle.Digest]bool{}
	for _, img := range images {
		for _, l := range img.Image.Layers {
			if !missing[l.Digest] {
				have[l.Digest] = true
			}
		}
	}
	return have, nil
}
