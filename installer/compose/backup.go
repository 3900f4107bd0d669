package compose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/release"
)

// Backup saves the data of the release that runs.
func (a *App) Backup(ctx context.Context, from installer.Release, recordID string) error {
	_, err := a.Save(ctx, from, recordID)
	return err
}

// Save is Backup that says what it made.
func (a *App) Save(ctx context.Context, from installer.Release, recordID string) (backup.Set, error) {
	m, err := a.manifest(from)
	if err != nil {
		return backup.Set{}, err
	}
	if len(m.Device.Backup) == 0 {
		return backup.Set{}, nil
	}
	dir, err := a.openBackups()
	if err != nil {
		return backup.Set{}, err
	}
	defer dir.Close()
	if err := a.hook(ctx, m, from, "pre-backup"); err != nil {
		return backup.Set{}, err
	}
	head := backup.Set{Record: recordID, Version: from.Version, Created: a.Now().UTC()}
	set, err := backup.Save(ctx, a.backupDeps(a.running(m, from)), dir, head, m.Device.Backup, func(done int64) { a.progress("backup")(done, 0) })
	// What was told to wait before is told to go on, whatever came of it.
	if herr := a.hook(context.WithoutCancel(ctx), m, from, "post-backup"); err == nil {
		err = herr
	}
	return set, err
}

func (a *App) backupDeps(c *docker.Compose) backup.Deps {
	return backup.Deps{Execer: c, HostPath: c.HostPath, Pause: a.Engine.Pause}
}

// Resume lets go on what a Backup that was cut off has paused.
func (a *App) Resume(ctx context.Context, from installer.Release) error {
	m, err := a.manifest(from)
	if err != nil {
		return err
	}
	c := a.running(m, from)
	for _, b := range m.Device.Backup {
		var service, file string
		switch {
		case b.Volume != nil:
			service, file = b.Volume.Service, b.Volume.Path
		case b.SQLite != nil:
			service, file = b.SQLite.Service, b.SQLite.Path
		default:
			continue
		}
		source, below, err := c.HostPath(ctx, service, file)
		if errors.Is(err, docker.ErrNoContainer) {
			continue // nothing is stopped then
		}
		if err == nil {
			err = a.Engine.Resume(ctx, filepath.Join(source, below))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Backups lists what was saved, oldest first.
func (a *App) Backups() ([]backup.Set, error) {
	dir, err := foreign.OpenOwn(a.Releases.Root(), BackupsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return backup.List(dir)
}

// RestoreData brings back the data that were saved for a record, and runs
// release r with them. Until it has ended well the app is stopped; it may be
// repeated.
func (a *App) RestoreData(ctx context.Context, r installer.Release, recordID string) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	if err := a.restoreData(ctx, m, r, recordID); err != nil {
		return err
	}
	return a.up(ctx, m, r)
}

// restoreData stops all services of the app and brings back what was saved for a
// record: first files, which nobody may have open, then what its service takes
// in itself, which is started for that.
func (a *App) restoreData(ctx context.Context, m *bundle.Manifest, r installer.Release, recordID string) error {
	dir, err := a.openBackups()
	if err != nil {
		return err
	}
	defer dir.Close()
	set, ok, err := backup.Find(dir, recordID)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("restore data: nothing was saved for record %s, or it was removed since", recordID)
	}
	c := a.running(m, r)
	if err := c.Stop(ctx); err != nil {
		return err
	}
	if err := c.Create(ctx); err != nil {
		return err
	}
	files, services := set, set
	files.Items, services.Items = nil, nil
	var start []string
	for _, i := range set.Items {
		if _, service, _ := i.Backup.Subject(); i.Backup.SQLite != nil || i.Backup.Volume != nil {
			files.Items = append(files.Items, i)
		} else {
			services.Items = append(services.Items, i)
			start = append(start, service)
		}
	}
	d := a.backupDeps(c)
	a.report(installer.Event{Step: "restore", Detail: fmt.Sprintf("the data of %s, saved %s", set.Version, set.Created.Format("2006-01-02 15:04:05Z"))})
	if err := backup.Restore(ctx, d, dir, files); err != nil {
		return err
	}
	if len(start) == 0 {
		return nil
	}
	slices.Sort(start)
	if err := c.Up(ctx, slices.Compact(start)...); err != nil {
		return err
	}
	return backup.Restore(ctx, d, dir, services)
}

func (a *App) openBackups() (*os.Root, error) {
	root := a.Releases.Root()
	for _, dir := range []string{path.Dir(BackupsDir), BackupsDir} {
		if err := release.Mkdir(root, dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return foreign.OpenOwn(root, BackupsDir) // it lies in the drop folder
}
