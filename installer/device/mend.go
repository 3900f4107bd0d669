package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/installer/release"
)

// LostRecords is the signer of a release whose record was lost: it was verified when
// it came, and nothing says any more against whom.
const LostRecords = "unknown: the records were lost"

// Mended says what became of damaged records.
type Mended struct {
	App      string   `json:"app"`
	Aside    string   `json:"set_aside,omitempty"` // the damaged file
	Copy     bool     `json:"from_copy,omitempty"` // they are those of the last commit
	Current  string   `json:"current"`
	Releases []string `json:"releases"`
}

// leftover is the release that current leads to, of an app whose records may be gone.
func (m *Machine) leftover(app string) (string, bool) {
	store, err := release.Open(m.AppDir(app))
	if err != nil {
		return "", false
	}
	defer store.Close()
	name, ok, err := store.Current()
	return name, ok && err == nil
}

func goneRecords(app, current string) error {
	return advise(fmt.Errorf("release %s of %s is installed, but its records are missing", current, app), RepairRecords)
}

// broken are the apps that have a release here, and no records that can be read.
func (m *Machine) broken(ctx context.Context) (list []string, err error) {
	found, err := filepath.Glob(m.ConfigPath("*"))
	if err != nil {
		return nil, err
	}
	for _, file := range found {
		app := filepath.Base(file[:len(file)-len(".yaml")])
		if _, ok := m.leftover(app); !ok || !bundle.ValidApp(app) || m.App != "" && m.App != app {
			continue
		}
		if !m.hasRecords(app) {
			list = append(list, app)
			continue
		}
		j, _, err := m.ReadState(ctx, app)
		if err == nil {
			j.Close()
		} else if errors.Is(err, record.ErrDamaged) {
			list = append(list, app)
		}
	}
	return list, nil
}

// MendRecords gives apps whose records are damaged or gone records again: those of the
// last commit, of which there is a copy, when that release is here still, else what the
// directories of the releases say. What was damaged is set aside.
func (m *Machine) MendRecords(ctx context.Context) (all []Mended, err error) {
	apps, err := m.broken(ctx)
	if err != nil {
		return nil, err
	}
	for _, app := range apps {
		one, err := m.mend(ctx, app)
		if err != nil {
			return all, fmt.Errorf("repair the records of %s: %w", app, err)
		}
		all = append(all, one)
	}
	return all, nil
}

func (m *Machine) mend(ctx context.Context, app string) (done Mended, err error) {
	done.App = app
	dir, err := release.OpenDir(m.stateDir(app), 0o700)
	if err != nil {
		return done, err
	}
	dir.Close()
	unlock, err := m.lock(ctx, app, "doctor --repair")
	if err != nil {
		return done, err
	}
	defer unlock()
	store, err := release.Open(m.AppDir(app))
	if err != nil {
		return done, err
	}
	defer store.Close()
	current, _, err := store.Current()
	if err != nil {
		return done, err
	}
	label := m.Now().UTC().Format("20060102T150405Z")
	if done.Aside, err = record.SetAside(m.journalPath(app), label); err != nil {
		return done, err
	}
	if done.Copy, err = record.FromCopy(m.journalPath(app)); err != nil {
		return done, err
	}
	if done.Copy {
		j, st, err := m.ReadState(ctx, app)
		if err == nil {
			j.Close()
		}
		if err == nil && st.Current != nil {
			_, err = store.Manifest(st.Current.Dir, st.Current.Manifest)
		}
		if done.Copy = err == nil && st.Current != nil; !done.Copy {
			if _, err := record.SetAside(m.journalPath(app), "copy-"+label); err != nil {
				return done, err
			}
		}
	}
	if !done.Copy {
		if err := m.enterReleases(ctx, app, store, current); err != nil {
			return done, err
		}
	}
	j, st, err := m.ReadState(ctx, app)
	if err != nil {
		return done, err
	}
	if done.Current = st.Current.Version; st.Current.Dir != current {
		m.Note("current leads to %s, which was never committed: valise-installer apply brings %s back", current, done.Current)
	}
	for _, k := range st.Kept {
		done.Releases = append(done.Releases, k.Version)
	}
	return done, j.Close()
}

// enterReleases enters the releases on disk into new records, the current one last.
func (m *Machine) enterReleases(ctx context.Context, app string, store *release.Store, current string) error {
	names, err := store.List()
	if err != nil {
		return err
	}
	var found []installer.Release
	for _, name := range names {
		b, err := store.ReadFile(name, bundle.ManifestName, bundle.MaxManifestSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		manifest, err := bundle.ParseManifest(b)
		if err != nil || manifest.App != app {
			m.Note("%s is left out: %v", filepath.Join(m.AppDir(app), "releases", name), errors.Join(err, fmt.Errorf("it is not a release of %s that can be read", app)))
			continue
		}
		since := time.Time{}
		if info, err := os.Stat(filepath.Join(m.AppDir(app), "releases", name)); err == nil {
			since = info.ModTime()
		}
		r := installer.Release{Version: manifest.Version, Dir: name, Manifest: bundle.DigestOf(b), Signer: LostRecords, CommittedAt: since}
		if manifest.Kind != bundle.KindCompose {
			r.Kind = manifest.Kind
		}
		if _, err := store.ReadFile(name, bundle.SignatureName, bundle.MaxManifestSize); errors.Is(err, fs.ErrNotExist) {
			r.Signer = installer.Adopted // nothing that a bundle brought is without one
		}
		found = append(found, r)
	}
	if !slices.ContainsFunc(found, func(r installer.Release) bool { return r.Dir == current }) {
		return fmt.Errorf("current leads to %s, which has no manifest that can be read: install the release again", current)
	}
	order.By(found, func(x, y installer.Release) int {
		if last := func(r installer.Release) bool { return r.Dir == current }; last(x) != last(y) {
			if last(x) {
				return 1
			}
			return -1
		}
		return x.CommittedAt.Compare(y.CommittedAt)
	})
	j, err := m.openRecords(ctx, app)
	if err != nil {
		return err
	}
	defer j.Close()
	var from *installer.Release
	for _, r := range found {
		rec := installer.Record{ID: m.NewID(), Action: installer.ActionInstall, From: from, To: r, Status: installer.Applying, Created: r.CommittedAt}
		if from != nil {
			rec.Action = installer.ActionUpdate
		}
		if err := j.Begin(ctx, rec); err != nil {
			return err
		}
		if err := j.Commit(ctx, rec.ID, r.CommittedAt); err != nil {
			return err
		}
		st, err := j.Load(ctx)
		if err != nil {
			return err
		}
		from = st.Current
	}
	return nil
}
