package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/fsnotify/fsnotify"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/foreign"
)

// The drop folder: a bundle that somebody copies there is applied and ends in
// applied/ or, with the reason beside it, in failed/. It is tried once, and once
// more when the daemon was interrupted: never again and again. One that cannot be
// moved out of the folder (read-only, another owner) had its try all the same: its
// record keeps the name, and bundle.Tried says so over a restart.

const (
	AppliedDir   = "applied" // below the drop folder
	failedDir    = "failed"
	reasonSuffix = ".reason.txt"
	keepDropped  = 3 // bundles in each of the two, and those of the releases to go back to
	maxTries     = 2
	keptBack     = time.Hour // until one that something stood in the way of is tried again
	maxDropped   = 1000      // bundles in the folder; with more of them none is taken
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
	inode uint64    // the sum of those of its files
	since time.Time // it has not changed since
	done  bool      // nothing is to be done with it, unless it changes
	waits waiting   // for something else, when done
	read  *dropped  // what it is, once it could be read
}

// waiting is since when a bundle is kept from its turn, and what ran then.
type waiting struct {
	since   time.Time
	version string
}

func (l look) same(m look) bool {
	return l.files == m.files && l.size == m.size && l.mod.Equal(m.mod) && l.inode == m.inode
}

func (a *app) dropDir() string { return a.config.Drop }

// openDrop opens the folder. Who owns a directory on the way there has nothing moved
// or removed elsewhere.
func (a *app) openDrop() (*os.Root, error) { return foreign.OpenDir(a.dropDir(), 0) }

// watchDrop has the folder looked at when something happens in it. Not every
// file system tells, so run looks from time to time as well.
func (a *app) watchDrop(ctx context.Context) (stop func()) {
	if a.config.DropMode == Off {
		return func() {}
	}
	if root, err := foreign.OpenDir(a.dropDir(), 0o755); err != nil {
		a.log().Error("make drop folder", "err", err)
	} else {
		root.Close()
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

// dropped is a bundle in the drop folder: a complete one, or one that is not and
// why.
type dropped struct {
	name    string
	size    int64
	version *semver.Version
	failure string
	reason  string // its kind
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
		var id string
		var err error
		// A change need not show in its times, so what is taken is read once more.
		if f.version, f.size, err = peek(filepath.Join(a.dropDir(), f.name)); err != nil {
			l := a.seen[f.name]
			l.read = nil
			a.seen[f.name] = l
		} else {
			id, err = a.takeDropped(ctx, f)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.log().Error("drop folder", "file", f.name, "err", err)
			continue
		}
		if id == "" {
			l := a.seen[f.name]
			l.done = true
			a.seen[f.name] = l
		}
		if id != "" {
			a.do(ctx, job{record: id})
			a.keptBack(ctx, f.name, id)
			a.poke()
			return
		}
	}
}

// keptBack leaves a file alone that something stands in the way of, until another
// release runs, or for a while.
func (a *app) keptBack(ctx context.Context, name, id string) {
	r, err := a.records.Get(ctx, id)
	if err != nil || r.Status != installer.Pending || r.Error == "" {
		return
	}
	l := a.seen[name]
	l.done, l.waits = true, waiting{a.Now(), a.runs(ctx)}
	a.seen[name] = l
}

// runs is the version that runs.
func (a *app) runs(ctx context.Context) string {
	if st, err := a.records.Load(ctx); err == nil && st.Current != nil {
		return st.Current.Version
	}
	return ""
}

// complete lists the bundles that can be read, by version, and says when to look
// again. One that nobody writes to any more and that still cannot be read ends in
// failed/.
func (a *app) complete(ctx context.Context) (ready []dropped, again time.Duration) {
	var found map[string][]fs.FileInfo
	root, err := a.openDrop()
	if err == nil {
		found, err = bundlesIn(root.FS())
		root.Close()
	}
	if err != nil {
		a.log().Warn("read drop folder", "err", err)
		found = nil
	}
	if len(found) > maxDropped {
		a.log().Error("too many bundles in the drop folder: none is taken", "bundles", len(found), "most", maxDropped)
		return nil, 0
	}
	a.dropGone(ctx, found)
	now, seen, moving := a.Now(), map[string]look{}, false
	for name, files := range found {
		is := look{files: len(files), since: now}
		for _, f := range files {
			is.size += f.Size()
			if st, ok := f.Sys().(*syscall.Stat_t); ok {
				is.inode += st.Ino
			}
			if f.ModTime().After(is.mod) {
				is.mod = f.ModTime()
			}
		}
		l, ok := a.seen[name]
		if !ok || !l.same(is) {
			l = is
		}
		if w := l.waits; !w.since.IsZero() && (now.Sub(w.since) >= keptBack || now.Before(w.since) || a.runs(ctx) != w.version) {
			l.done, l.waits = false, waiting{}
		}
		seen[name] = l
		if l.done {
			continue
		}
		rest := now.Sub(l.since)
		if rest < a.Timing.Stable {
			again, moving = a.Timing.Stable, true
			continue
		}
		if l.read != nil {
			ready = append(ready, *l.read)
			continue
		}
		version, size, err := peek(filepath.Join(a.dropDir(), files[0].Name()))
		if err == nil {
			l.read = &dropped{name: name, size: size, version: version}
			seen[name] = l
			ready = append(ready, *l.read)
			continue
		}
		if rest < a.Timing.Settle {
			again = cmp.Or(again, min(a.Timing.Settle-rest, a.Timing.Scan))
			continue
		}
		failure := fmt.Sprintf("%s, and it has not changed for %s: the copy is incomplete, or it is not a bundle", a.explain(err), rest.Round(time.Second))
		_, err = a.takeDropped(ctx, dropped{name: name, size: is.size, failure: failure, reason: cmp.Or(installer.ReasonOf(err), "format")})
		if err != nil {
			a.log().Error("drop folder", "file", name, "err", err)
		}
		l.done = err == nil
		seen[name] = l
	}
	a.seen = seen
	if moving {
		return nil, again // it may be the one that has to come first
	}
	order.By(ready, func(x, y dropped) int {
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
// until it changes.
func (a *app) takeDropped(ctx context.Context, f dropped) (id string, err error) {
	file := dropPrefix + f.name
	earlier, err := a.records.OfFile(ctx, file)
	if err != nil {
		return "", err
	}
	sum, err := a.digestDropped(ctx, f.name)
	if ctx.Err() != nil {
		return "", err
	}
	if err != nil { // it cannot be read: known by its size
		sum, f.failure, f.reason = "", cmp.Or(f.failure, a.explain(err)), cmp.Or(f.reason, installer.ReasonOf(err))
	}
	waits := a.config.DropMode == Stage
	if f.failure == "" && !waits {
		st, err := a.records.Load(ctx)
		if err != nil {
			return "", err
		}
		waits = wentBack(st, f.version.Original())
	}
	var r *installer.Record
	tries := 0
	for _, e := range earlier {
		switch {
		case e.Bundle.Digest != sum || e.Bundle.Size != f.size: // another file of the same name
			err := a.records.SetBundle(ctx, e.ID, nil, "")
			if err == nil && e.Status == installer.Pending {
				err = a.records.Become(ctx, e.ID, installer.Failed, &installer.Failure{Reason: "exchanged", Err: errors.New(f.name + " in the drop folder is another file now")}, a.Now())
			}
			if err != nil {
				return "", err
			}
			continue
		case e.Status == installer.Pending && !waits:
			return e.ID, nil
		case e.Status == installer.Pending && e.Bundle.Verified:
			return "", nil
		case e.Status == installer.Pending:
			r = &e
			continue
		case e.Status == installer.Completed:
			a.finishDrop(ctx, f.name, e.ID, true)
			return "", nil
		}
		if tries++; e.Bundle.Tried || tries >= maxTries {
			a.finishDrop(ctx, f.name, e.ID, false)
			return "", nil
		}
	}
	if r == nil {
		r = &installer.Record{
			ID: a.NewID(), Status: installer.Pending, By: "drop folder", Created: a.Now(),
			Bundle: &installer.Bundle{File: file, Size: f.size, Digest: sum, Name: f.name},
		}
		if f.version != nil {
			r.To.Version = f.version.Original()
		}
	}
	if waits && f.failure == "" { // what waits is shown as verified
		if a.config.DropMode != Stage {
			a.log().Warn("this version was rolled back by hand: it waits for a person to apply it", "file", f.name, "version", r.To.Version)
		}
		a.await(ctx, func() error { return a.Device.Ready(ctx, a.name) })
		offer, err := a.plan(ctx, filepath.Join(a.dropDir(), f.name), true)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		text, check := "", ""
		if err != nil {
			text, check = a.Device.Explain(err)
		}
		if check != "" || offer.Version == "" {
			f.failure, f.reason = cmp.Or(text, "it cannot be read"), installer.ReasonOf(err)
		} else {
			r.To.Version, r.Changelog, r.Bundle.Verified = offer.Version, offer.Changelog, true
		}
	}
	if f.failure != "" {
		r.Status, r.Error, r.Reason = installer.Failed, f.failure, f.reason
	}
	if err := a.keep(ctx, *r); err != nil {
		return "", err
	}
	switch {
	case f.failure != "":
		a.finishDrop(ctx, f.name, r.ID, false)
		return "", nil
	case waits:
		return "", nil
	}
	return r.ID, nil
}

// keep adds a record, or writes down what became of one that is there.
func (a *app) keep(ctx context.Context, r installer.Record) error {
	_, err := a.records.Get(ctx, r.ID)
	switch {
	case errors.Is(err, installer.ErrNoRecord):
		err = a.records.Add(ctx, r)
	case err == nil && r.Status == installer.Failed:
		err = a.records.Become(ctx, r.ID, installer.Failed, &installer.Failure{Reason: r.Reason, Err: errors.New(r.Error)}, a.Now())
	case err == nil:
		err = a.records.SetBundle(ctx, r.ID, r.Bundle, r.Changelog)
	}
	if err == nil {
		a.changed(r.ID, r.Status)
	}
	return err
}

// wentBack reports whether somebody went back from version, the highest that ever
// ran here: only a person, or a newer release, leads away from what runs now.
func wentBack(st installer.State, version string) bool {
	return st.Current != nil && bundle.Newer(st.Floor, st.Current.Version) && !bundle.Newer(version, st.Floor) && !bundle.Newer(st.Floor, version)
}

// digestDropped is the digest of a bundle in the drop folder, complete or not.
func (a *app) digestDropped(ctx context.Context, name string) (string, error) {
	root, err := a.openDrop()
	if err != nil {
		return "", err
	}
	defer root.Close()
	found, err := bundlesIn(root.FS())
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, info := range found[name] { // by name: the parts in their order
		f, err := root.OpenFile(info.Name(), os.O_RDONLY|noFollow, 0)
		if err == nil {
			err = copyTo(ctx, h, f)
			f.Close()
		}
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// dropGone ends records that wait for somebody and whose file was taken away.
func (a *app) dropGone(ctx context.Context, found map[string][]fs.FileInfo) {
	waiting, _, err := a.records.Find(ctx, []installer.Status{installer.Pending}, -1, 0)
	if err != nil {
		a.log().Error("read records", "err", err)
	}
	for _, r := range waiting {
		if name := dropName(r); name != "" && found[name] == nil {
			b := *r.Bundle
			b.File = ""
			if err := a.records.SetBundle(ctx, r.ID, &b, ""); err != nil {
				a.log().Error("write record", "err", err)
			}
			a.fail(ctx, r.ID, &installer.Failure{Reason: "not-kept", Err: errors.New(name + " is not in the drop folder any more: copy it there again")})
		}
	}
}

// finishDrop moves a file out of the drop folder and lets its record know.
func (a *app) finishDrop(ctx context.Context, name, id string, good bool) {
	r, err := a.records.Get(ctx, id)
	if err != nil {
		a.log().Error("read record", "err", err)
	}
	if good {
		err = a.moveDropped(name, AppliedDir, "", "")
	} else {
		err = a.moveDropped(name, failedDir, r.To.Version, cmp.Or(r.Attention, r.Error, "unknown"))
	}
	if err != nil {
		a.log().Error("move bundle: it stays in the drop folder, and is not tried again", "file", name, "err", err)
	}
	if r.Bundle != nil {
		b := *r.Bundle
		if b.Tried = err != nil; !b.Tried {
			b.File = ""
		}
		if err := a.records.SetBundle(ctx, id, &b, ""); err != nil {
			a.log().Error("write record", "err", err)
		}
	}
}

// moveDropped moves a bundle into applied/ or failed/, where the reason lies beside
// it and stands in the log too.
func (a *app) moveDropped(name, dir, version, reason string) error {
	if reason != "" {
		a.log().Error("bundle failed", "version", version, "file", name, "err", reason, "reason", filepath.Join(a.dropDir(), dir, name+reasonSuffix))
	}
	root, err := a.openDrop()
	if err != nil {
		return fmt.Errorf("open drop folder: %w", err)
	}
	defer root.Close()
	if err := root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if reason != "" {
		text := fmt.Sprintf("%s\n%s\n", a.Now().UTC().Format(time.RFC3339), plain.Text(reason))
		if err := writeNew(root, filepath.Join(dir, name+reasonSuffix), text); err != nil {
			a.log().Error("write reason", "err", err)
		}
	}
	found, err := bundlesIn(root.FS())
	if err != nil {
		return err
	}
	for _, f := range found[name] {
		if err := root.Rename(f.Name(), filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	if err := a.pruneDropped(root, dir); err != nil {
		a.log().Error("remove old bundles", "err", err)
	}
	return nil
}

// writeNew writes a file. What lies there, perhaps a pipe that nobody reads, is
// not opened but removed.
func writeNew(root *os.Root, name, text string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
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
