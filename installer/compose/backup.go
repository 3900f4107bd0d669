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
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/release"
)

// Backup saves the data of the release that runs.
func (a *App) Backup(ctx context.Context, from, to installer.Release, recordID string) error {
	_, err := a.save(ctx, from, to, recordID)
	return err
}

// Save is Backup by hand, and says what it made.
func (a *App) Save(ctx context.Context, from installer.Release, recordID string) (backup.Set, error) {
	return a.save(ctx, from, from, recordID)
}

// declared is what is saved of the release that runs, before to takes its place: what
// was adopted says nothing itself, so of it what to says, as far as it has the services.
func (a *App) declared(ctx context.Context, m *bundle.Manifest, from, to installer.Release) ([]bundle.Backup, error) {
	if from.Signer != installer.Adopted || to.Dir == from.Dir {
		return m.Device.Backup, nil
	}
	next, err := a.manifest(to)
	if err != nil {
		return nil, err
	}
	return a.ofServices(ctx, a.running(m, from), next.Device.Backup)
}

// ofServices are the backups of services that have a container.
func (a *App) ofServices(ctx context.Context, c *docker.Compose, all []bundle.Backup) (list []bundle.Backup, err error) {
	containers, err := c.Ps(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		_, service, _ := b.Subject()
		if slices.ContainsFunc(containers, func(x docker.Container) bool { return x.Service == service }) {
			list = append(list, b)
		} else {
			a.report(installer.Event{Step: "backup", Detail: fmt.Sprintf("not saved: %s: what was adopted has no such service", b)})
		}
	}
	return list, nil
}

func (a *App) save(ctx context.Context, from, to installer.Release, recordID string) (backup.Set, error) {
	m, err := a.manifest(from)
	if err != nil {
		return backup.Set{}, err
	}
	declared, err := a.declared(ctx, m, from, to)
	if err != nil {
		return backup.Set{}, err
	}
	if len(declared) == 0 {
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
	set, err := backup.Save(ctx, a.backupDeps(a.running(m, from)), dir, head, declared, func(done int64) { a.progress("backup")(done, 0) })
	// What was told to wait before is told to go on, whatever came of it.
	after, cancel := installer.Outlive(ctx, lingerTimeout, errLingered)
	defer cancel()
	if herr := a.hook(after, m, from, "post-backup"); err == nil {
		err = herr
	}
	return set, err
}

// lingerTimeout is how long a hook that lets services go on may take when this program
// is told to end: systemd kills what does not.
const lingerTimeout = time.Minute

var errLingered = errors.New("this program was stopped, and the hook took too long")

func (a *App) backupDeps(c *docker.Compose) backup.Deps {
	return backup.Deps{Execer: c, HostPath: c.HostPath, Pause: a.Engine.Pause}
}

// Resume unpauses what an interrupted Backup left paused.
func (a *App) Resume(ctx context.Context, from, to installer.Release) error {
	m, err := a.manifest(from)
	if err != nil {
		return err
	}
	declared, err := a.declared(ctx, m, from, to)
	if err != nil {
		return err
	}
	c := a.running(m, from)
	for _, b := range declared {
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

// RestoreData restores the data that were saved for a record, and runs
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
