package compose

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/release"
)

// Backup saves the data of the release that runs.
func (a *App) Backup(ctx context.Context, from installer.Release, recordID string) error {
	m, err := a.manifest(from)
	if err != nil {
		return err
	}
	if len(m.Device.Backup) == 0 {
		return nil
	}
	dir, err := a.openBackups()
	if err != nil {
		return err
	}
	defer dir.Close()
	c := a.running(m, from)
	for _, b := range m.Device.Backup {
		name, err := backup.Name(dir, recordID, from.Version, b.Postgres.Service)
		if err != nil {
			return err
		}
		if _, err := backup.Dump(ctx, c, *b.Postgres, dir, name, func(done int64) { a.progress("backup")(done, 0) }); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) openBackups() (*os.Root, error) {
	root := a.Releases.Root()
	for _, dir := range []string{path.Dir(backupsDir), backupsDir} {
		if err := release.Mkdir(root, dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return root.OpenRoot(backupsDir)
}
