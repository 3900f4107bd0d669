package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/image"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// overlayLayers is how many layers of an image the overlay2 driver of engines takes.
const overlayLayers = 125

// prepare makes the manifest of the release that the bundle called name holds,
// complete but for the digest of images.tar, and says where its content is.
func (a *app) prepare(ctx context.Context, p *project.Project, version string, platforms []bundle.Platform, name string, f buildFlags, first bool) (*bundle.Manifest, *content, error) {
	r, err := p.Release(ctx, version, platforms)
	if err != nil {
		return nil, nil, err
	}
	c := &content{Collection: new(image.Collection), release: r, held: held{dir: f.directory(), from: f.from}, files: map[string]string{}, made: map[string][]byte{}}
	m, err := a.manifest(ctx, p, r, c, platforms, name, f, first)
	if err != nil {
		return nil, nil, errors.Join(notRefused(err), c.Close())
	}
	return m, c, nil
}

func (a *app) manifest(ctx context.Context, p *project.Project, r *project.Release, c *content, platforms []bundle.Platform, name string, f buildFlags, first bool) (*bundle.Manifest, error) {
	note := func(format string, args ...any) {
		if first {
			a.Note(format, args...)
		}
	}
	for _, n := range r.Notes {
		note("%s", n)
	}
	git, err := readGit(ctx, p.Dir, r.Version, f.tag)
	if git == nil && err == nil && a.Getenv("GITHUB_ACTIONS") != "" {
		err = errNoCheckout
	}
	if err != nil {
		note("git does not say what this is built from, so the bundle names no commit, and has no changelog of commits: %v", err)
	}
	created, err := a.createdAt(git)
	if err != nil {
		return nil, err
	}
	changelog, err := a.changelog(ctx, p.Dir, r.Version, f.tag)
	if err != nil {
		return nil, err
	}
	m := &bundle.Manifest{
		App: p.App, Kind: bundle.KindCompose, Version: r.Version, CreatedAt: created, Changelog: changelog, Platforms: platforms, Requires: p.Requires,
		Device: bundle.Device{VersionEnv: p.VersionEnv, RequiredEnv: r.RequiredEnv, Env: r.Env,
			Health: p.Health, Hooks: p.Hooks, Backup: p.Backup, Migration: p.Migration, Rollback: p.Rollback, Secrets: p.Secrets, Limits: p.Limits, Keep: p.Keep},
		Trust: r.Trust,
	}
	if git != nil && git.dirty {
		note("files differ from commit %.12s: the bundle does not name a commit", git.source.Commit)
	} else if git != nil {
		m.Source = &git.source
	}
	for _, source := range r.Files {
		file, err := hashFile(ctx, source)
		if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, file)
		c.files[source.Path] = source.Source
	}
	if p.Tree != nil {
		m.Kind, m.Prefix, m.Device.Tree = bundle.KindTree, project.Prefix(name), p.Tree.Bundle()
		err = c.addTree(ctx, m, r)
	} else {
		m.Device.Compose, m.Device.Project, m.Device.Local, m.Device.Create, m.Device.Volumes = r.Compose, p.Project, r.Local, r.Create, r.Origins
		if err := c.resolve(m, r); err != nil {
			return nil, err
		}
		collected, err := a.collect(ctx, p, r, platforms, created, f.buildkit, &c.held)
		if err != nil {
			return nil, err
		}
		c.Collection, m.Components = collected, collected.Components
		for _, component := range m.Components {
			for _, img := range component.Images {
				if len(img.Layers) > overlayLayers {
					note("image %s has %d layers for %s: engines that use overlay2 take %d", component.Reference, len(img.Layers), img.Platform, overlayLayers)
				}
			}
		}
	}
	if err == nil && f.sbom {
		err = a.addSBOMs(ctx, m, c)
	}
	if err == nil {
		err = addInstallScript(m, c, name)
	}
	if err == nil {
		err = a.addProvenance(m, c, p, git)
	}
	if err == nil {
		err = m.Finish()
	}
	return m, err
}

// notRefused keeps a mistake in what we pack from looking like a bundle that
// somebody gave us: exit code 4 is for those.
func notRefused(err error) error {
	var format *bundle.FormatError
	if !errors.As(err, &format) {
		return err
	}
	return fmt.Errorf("pack %s: %s (rule %s of the bundle format)", format.Path, format.Detail, format.Rule)
}

func (a *app) createdAt(git *gitInfo) (time.Time, error) {
	if s := a.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return time.Time{}, cli.Usagef("SOURCE_DATE_EPOCH is %q, want seconds since 1970", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	if git != nil {
		return git.time, nil
	}
	return a.Now().UTC().Truncate(time.Second), nil
}

// content is where bundle.Write finds what the manifest lists.
type content struct {
	*image.Collection
	held    held
	release *project.Release
	files   map[string]string // path in the bundle -> path here
	made    map[string][]byte // path in the bundle -> what this program wrote
}

func (c *content) Close() error {
	c.held.Close()
	return errors.Join(c.Collection.Close(), c.release.Close())
}

func (c *content) OpenFile(path string) (io.ReadCloser, error) {
	if b, ok := c.made[path]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return os.Open(c.files[path])
}

// changed is a file that is not any more what the manifest says of it, or "".
func (c *content) changed(ctx context.Context, m *bundle.Manifest) string {
	for _, f := range m.Files {
		source, ok := c.files[f.Path]
		if _, made := c.made[f.Path]; !ok || made {
			continue
		}
		now, err := hashFile(ctx, project.ReleaseFile{Source: source})
		if ctx.Err() == nil && (err != nil || now.Digest != f.Digest) {
			return source
		}
	}
	return ""
}

// resolve puts the compose file of a device in the place of the one that is here,
// where they differ.
func (c *content) resolve(m *bundle.Manifest, r *project.Release) error {
	resolved, err := r.Resolve(m.Files)
	if err != nil || resolved == nil {
		return err
	}
	m.Files = slices.DeleteFunc(m.Files, func(f bundle.File) bool { return f.Path == r.Compose })
	m.Device.Mounts = resolved.Mounts
	return c.add(m, r.Compose, resolved.Text)
}

// add puts a file that this program wrote into the release.
func (c *content) add(m *bundle.Manifest, path string, b []byte) error {
	at, found := slices.BinarySearchFunc(m.Files, path, func(f bundle.File, p string) int { return strings.Compare(f.Path, p) })
	if found {
		return fmt.Errorf("%s is written by valise: leave it out of files", path)
	}
	m.Files = slices.Insert(m.Files, at, bundle.File{Path: path, Size: int64(len(b)), Mode: 0o644, Digest: bundle.DigestOf(b)})
	c.made[path] = b
	return nil
}

func hashFile(ctx context.Context, f project.ReleaseFile) (bundle.File, error) {
	if err := ctx.Err(); err != nil {
		return bundle.File{}, err
	}
	file, err := os.Open(f.Source)
	if err != nil {
		return bundle.File{}, err
	}
	defer file.Close()
	digest, n, err := bundle.ReadDigest(file)
	if err != nil {
		return bundle.File{}, err
	}
	out := bundle.File{Path: f.Path, Size: n, Mode: 0o644, Digest: digest}
	if f.Executable {
		out.Mode = 0o755
	}
	return out, nil
}
