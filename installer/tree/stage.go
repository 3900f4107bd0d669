package tree

import (
	"bytes"
	"context"
	"io/fs"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/verify"
)

// keepFailed is how many failed releases stay for those who want to know why.
const keepFailed = 2

// Stage writes the tree into a directory that gets its name last, when
// everything in it is durable.
func (a *App) Stage(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	if err := a.Releases.Clean(); err != nil {
		return err
	}
	if slices.ContainsFunc(kept, func(k installer.Release) bool { return k.Dir == to.Dir }) {
		return a.putBack(ctx, rel, to)
	}
	// A directory nobody committed proves nothing about its content. It may be
	// somebody's work, so it is not removed.
	if err := a.Releases.MoveAside(to.Dir, keepFailed); err != nil {
		return err
	}
	dir, err := a.Releases.Stage(to.Dir)
	if err != nil {
		return err
	}
	defer dir.Abort()
	if err := dir.WriteFile(bundle.ManifestName, 0o644, bytes.NewReader(rel.ManifestBytes())); err != nil {
		return err
	}
	if err := dir.WriteFile(bundle.SignatureName, 0o644, bytes.NewReader(rel.Signature())); err != nil {
		return err
	}
	files := rel.Manifest().TreeFiles(a.Platform)
	var done, total int64
	for _, f := range files {
		total += f.Size
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		rc, err := rel.OpenFile(f.Path)
		if err != nil {
			return err
		}
		err = dir.WriteFile(rel.Manifest().StagedAs(f.TreePath), fs.FileMode(f.Mode), rc)
		rc.Close()
		if err != nil {
			return err
		}
		if done += f.Size; a.Report != nil {
			a.Report(installer.Event{Step: "stage", Detail: "unpack files", Done: done, Total: total})
		}
	}
	if err := dir.Commit(); err != nil {
		return err
	}
	a.staged = to.Dir
	return nil
}

// putBack makes a release that is still here whole again, from its bundle.
func (a *App) putBack(ctx context.Context, rel *verify.Release, r installer.Release) error {
	a.Releases.Remember(rel.Digest(), rel.Manifest())
	if a.Verified(ctx, r) == nil {
		return nil
	}
	if err := a.Releases.PutBack(r.Dir, bundle.ManifestName, 0o644, bytes.NewReader(rel.ManifestBytes())); err != nil {
		return err
	}
	if err := a.Releases.PutBack(r.Dir, bundle.SignatureName, 0o644, bytes.NewReader(rel.Signature())); err != nil {
		return err
	}
	for _, f := range rel.Manifest().TreeFiles(a.Platform) {
		name := rel.Manifest().StagedAs(f.TreePath)
		if a.Releases.Check(r.Dir, name, f.Size, f.Digest) == nil {
			continue
		}
		rc, err := rel.OpenFile(f.Path)
		if err != nil {
			return err
		}
		err = a.Releases.PutBack(r.Dir, name, fs.FileMode(f.Mode), rc)
		rc.Close()
		if err != nil {
			return err
		}
	}
	return a.Verified(ctx, r)
}

// Repair puts back files of release r, which is current, and starts it.
func (a *App) Repair(ctx context.Context, rel *verify.Release, r installer.Release, _ []installer.Release, fresh bool) error {
	if fresh {
		return nil // every file was compared already
	}
	if rel != nil {
		if err := a.putBack(ctx, rel, r); err != nil {
			return err
		}
	}
	return a.Activate(ctx, installer.Switch{Action: installer.ActionUpdate, From: &r, To: r})
}

// Prune removes the directories of releases that are not kept. Failed ones were
// moved aside before.
func (a *App) Prune(ctx context.Context, kept []installer.Release) error {
	if err := a.Releases.Clean(); err != nil {
		return err
	}
	names, err := a.Releases.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.ContainsFunc(kept, func(k installer.Release) bool { return k.Dir == name }) {
			if err := a.Releases.Remove(name); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
