package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/fsnotify/fsnotify"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
)

// The drop folder: a bundle that somebody copies there is applied and ends in
// applied/ or, with the reason beside it, in failed/. It is tried once, and once
// more when the daemon was interrupted: never again and again.

const (
	AppliedDir   = "applied" // below the drop folder
	failedDir    = "failed"
	reasonSuffix = ".reason.txt"
	keepDropped  = 3 // bundles in each of the two, and those of the releases to go back to
	maxTries     = 2
)

// bundleOf is the name of the bundle that a file is, or is a part of; empty for
// any other file.
func bundleOf(file string) string {
	name, _ := parts.Split(file)
	if strings.HasPrefix(name, ".") || !parts.NamesBundle(name) {
		return ""
	}
	return name
}

// bundlesIn are the files of a directory by the bundles that they are.
func bundlesIn(dir fs.FS) (map[string][]fs.FileInfo, error) {
	entries, err := fs.ReadDir(dir, ".")
	found := map[string][]fs.FileInfo{}
	for _, e := range entries {
		name := bundleOf(e.Name())
		if info, err := e.Info(); err == nil && name != "" && info.Mode().IsRegular() {
			found[name] = append(found[name], info)
		}
	}
	return found, err
}

// look is how a bundle in the drop folder was when it was last looked at.
type look struct {
	files int
	size  int64
	mod   time.Time
	since time.Time // it has not changed since
}

func (l look) same(m look) bool {
	return l.files == m.files && l.size == m.size && l.mod.Equal(m.mod)
}

func (a *app) dropDir() string { return a.config.Drop }

// watchDrop has the folder looked at when something happens in it. Not every
// file system tells, so run looks from time to time as well.
func (a *app) watchDrop(ctx context.Context) (stop func()) {
	if a.config.DropMode == Off {
		return func() {}
	}
	if err := os.MkdirAll(a.dropDir(), 0o755); err != nil {
		a.log().Error("make drop folder", "err", err)
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(a.dropDir())
	}
	if err != nil {
		a.log().Warn("cannot watch the drop folder: it is looked at from time to time", "err", err)
		return func() {}
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.Errors:
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if bundleOf(filepath.Base(e.Name)) != "" {
					a.poke()
				}
			}
		}
	}()
	return func() { w.Close() }
}

// dropped is a complete bundle in the drop folder.
type dropped struct {
	name    string
	size    int64
	version *semver.Version
}

// lookAtDrop takes the lowest version that is complete and has it applied. The
// queue looks again afterwards.
func (a *app) lookAtDrop(ctx context.Context) {
	if a.config.DropMode == Off {
		return
	}
	ready, again := a.complete(ctx)
	if again > 0 {
		time.AfterFunc(again, a.poke)
	}
	for _, f := range ready {
		id, err := a.takeDropped(ctx, f)
		if err != nil {
			a.log().Error("drop folder", "file", f.name, "err", err)
			continue
		}
		if id != "" {
			a.do(ctx, job{record: id})
			a.poke()
			return
		}
	}
}

// complete lists the bundles that can be read, by version, and says when to look
// again. One that nobody writes to any more and that still cannot be read ends in
// failed/.
func (a *app) complete(ctx context.Context) (ready []dropped, again time.Duration) {
	found, err := bundlesIn(os.DirFS(a.dropDir()))
	if err != nil {
		a.log().Warn("read drop folder", "err", err)
		return nil, 0
	}
	now, seen, moving := a.Now(), map[string]look{}, false
	for name, files := range found {
		is := look{files: len(files), since: now}
		for _, f := range files {
			is.size += f.Size()
			if f.ModTime().After(is.mod) {
				is.mod = f.ModTime()
			}
		}
		l, ok := a.seen[name]
		if !ok || !l.same(is) {
			l = is
		}
		seen[name] = l
		rest := now.Sub(l.since)
		if rest < a.Timing.Stable {
			again, moving = a.Timing.Stable, true
			continue
		}
		version, size, err := peek(filepath.Join(a.dropDir(), files[0].Name()))
		if err == nil {
			ready = append(ready, dropped{name, size, version})
			continue
		}
		if rest < a.Timing.Settle {
			again = cmp.Or(again, min(a.Timing.Settle-rest, a.Timing.Scan))
			continue
		}
		cause := a.explain(err)
		r := installer.Record{
			ID: a.NewID(), Status: installer.Failed, Created: now, By: "drop folder",
			Error: fmt.Sprintf("%s, and nobody wrote to it for %s: it was not copied completely, or it is no bundle", cause, rest.Round(time.Second)),
		}
		if err := a.records.Add(ctx, r); err != nil {
			a.log().Error("write record", "err", err)
		}
		a.moveDropped(name, failedDir, "", r.Error)
		a.changed(r.ID, installer.Failed)
	}
	a.seen = seen
	if moving {
		return nil, again // it may be the one that has to come first
	}
	slices.SortFunc(ready, func(x, y dropped) int {
		return cmp.Or(x.version.Compare(y.version), strings.Compare(x.name, y.name))
	})
	return ready, again
}

// peek reads the version that a file claims, and so whether its table of
// contents, which stands at its end, is there.
func peek(path string) (version *semver.Version, size int64, err error) {
	r, f, err := open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	if err := r.Locate(); err != nil {
		return nil, 0, err
	}
	version, err = bundle.ParseVersion(r.Manifest().Version)
	return version, f.Size(), err
}

// open reads the manifest of a bundle. The caller closes it.
func open(path string) (*bundle.Reader, *parts.File, error) {
	f, err := parts.Open(path)
	if err != nil {
		return nil, nil, err
	}
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return r, f, nil
}

// takeDropped makes a record for a file, or finds what became of the one it has.
// It returns the record to apply, or "" when there is nothing to do with the file
// now.
func (a *app) takeDropped(ctx context.Context, f dropped) (id string, err error) {
	file := dropPrefix + f.name
	earlier, err := a.records.OfFile(ctx, file)
	if err != nil {
		return "", err
	}
	sum, err := digestFile(ctx, filepath.Join(a.dropDir(), f.name))
	if err != nil {
		return "", err
	}
	tries := 0
	for _, r := range earlier {
		if r.Bundle.Digest != sum { // another file of the same name
			if err := a.records.SetBundle(ctx, r.ID, nil, ""); err != nil {
				return "", err
			}
			continue
		}
		switch r.Status {
		case installer.Pending: // in stage mode it waits for somebody
			if a.config.DropMode == Stage {
				return "", nil
			}
			return r.ID, nil
		case installer.Completed:
			a.finishDrop(ctx, f.name, r.ID, true)
			return "", nil
		}
		tries++
	}
	if tries >= maxTries {
		a.finishDrop(ctx, f.name, earlier[0].ID, false)
		return "", nil
	}
	r := installer.Record{
		ID: a.NewID(), To: installer.Release{Version: f.version.Original()}, Status: installer.Pending, By: "drop folder", Created: a.Now(),
		Bundle: &installer.Bundle{File: file, Size: f.size, Digest: sum},
	}
	if err := a.records.Add(ctx, r); err != nil {
		return "", err
	}
	a.changed(r.ID, installer.Pending)
	if a.config.DropMode == Stage {
		return "", nil
	}
	return r.ID, nil
}

// finishDrop moves a file out of the drop folder and lets its record know.
func (a *app) finishDrop(ctx context.Context, name, id string, good bool) {
	r, err := a.records.Get(ctx, id)
	if err != nil {
		a.log().Error("read record", "err", err)
	}
	if good {
		a.moveDropped(name, AppliedDir, "", "")
	} else {
		a.moveDropped(name, failedDir, r.To.Version, cmp.Or(r.Attention, r.Error, "unknown"))
	}
	if r.Bundle != nil {
		b := *r.Bundle
		b.File = ""
		if err := a.records.SetBundle(ctx, id, &b, ""); err != nil {
			a.log().Error("write record", "err", err)
		}
	}
}

// moveDropped moves a bundle into applied/ or failed/, where the reason lies beside
// it and stands in the log too. One that cannot be moved is taken out of the
// folder's sight by its records: it has had its tries.
func (a *app) moveDropped(name, dir, version, reason string) {
	root, err := os.OpenRoot(a.dropDir())
	if err != nil {
		a.log().Error("open drop folder", "err", err)
		return
	}
	defer root.Close()
	err = root.Mkdir(dir, 0o755)
	if err == nil || errors.Is(err, fs.ErrExist) {
		to := filepath.Join(dir, name)
		if reason != "" {
			a.log().Error("bundle failed", "version", version, "file", name, "err", reason, "reason", filepath.Join(a.dropDir(), to+reasonSuffix))
			text := fmt.Sprintf("%s\n%s\n", a.Now().UTC().Format(time.RFC3339), plain.Text(reason))
			if err := root.WriteFile(to+reasonSuffix, []byte(text), 0o644); err != nil {
				a.log().Error("write reason", "err", err)
			}
		}
		var found map[string][]fs.FileInfo
		found, err = bundlesIn(root.FS())
		for _, f := range found[name] {
			err = errors.Join(err, root.Rename(f.Name(), filepath.Join(dir, f.Name())))
		}
		if err == nil {
			err = a.pruneDropped(root, dir)
		}
	}
	if err != nil {
		a.log().Error("move bundle", "file", name, "err", err)
	}
}

// pruneDropped keeps the newest few: bundles are large and the disk is small. Those
// that brought the current and the previous release stay, however old: when the
// engine loses images, they bring them back.
func (a *app) pruneDropped(root *os.Root, dir string) error {
	st, err := a.records.Load(context.Background())
	if err != nil {
		return err
	}
	sub, err := fs.Sub(root.FS(), dir)
	if err != nil {
		return err
	}
	found, err := bundlesIn(sub)
	if err != nil {
		return err
	}
	names := slices.SortedFunc(maps.Keys(found), func(x, y string) int {
		return found[y][0].ModTime().Compare(found[x][0].ModTime())
	})
	for _, name := range names[min(len(names), keepDropped):] {
		if dir == AppliedDir && holds(filepath.Join(a.dropDir(), dir, found[name][0].Name()), st.Current, st.Previous) {
			continue
		}
		for _, f := range found[name] {
			if err := root.Remove(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
		if err := root.Remove(filepath.Join(dir, name+reasonSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// holds reports whether a file is the bundle of one of releases.
func holds(path string, releases ...*installer.Release) bool {
	r, f, err := open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	digest := bundle.DigestOf(r.ManifestBytes())
	return slices.ContainsFunc(releases, func(r *installer.Release) bool { return r != nil && r.Manifest == digest })
}
