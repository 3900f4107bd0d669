package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// Remove stops the app and removes its units, the configuration files that are
// as it wrote them, and all releases. The environment file stays, unless purge
// says that it goes too. current is nil when nothing was ever committed.
func (a *App) Remove(ctx context.Context, current *installer.Release, purge bool) error {
	m, err := a.ofCurrent(current)
	if err != nil {
		return err
	}
	if m != nil {
		names, err := units(ctx, m)
		if err != nil {
			return err
		}
		if err := dropUnits(ctx, names, unitFiles(m)); err != nil {
			return err
		}
		if purge {
			if err := removeFile(m.Device.Tree.EnvFile); err != nil {
				return err
			}
			_ = os.Remove(filepath.Dir(m.Device.Tree.EnvFile)) // if it is empty
		}
	}
	owned, err := a.owned()
	if err != nil {
		return err
	}
	for name, digest := range owned {
		b, err := readFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		if bundle.DigestOf(b) != digest && !purge {
			a.note("uninstall", "%s was changed here and stays", name)
			continue
		}
		if err := removeFile(name); err != nil {
			return err
		}
	}
	if err := systemd.DaemonReload(ctx); err != nil {
		return err
	}
	if err := a.Releases.ClearCurrent(); err != nil {
		return err
	}
	for _, name := range []string{"releases", "failed", ownedName} {
		if err := release.RemoveAll(a.Releases.Root(), name); err != nil {
			return err
		}
	}
	return nil
}

// ofCurrent is the manifest of the current release, nil when it is gone: an
// earlier Remove was cut off.
func (a *App) ofCurrent(current *installer.Release) (*bundle.Manifest, error) {
	if current == nil {
		return nil, nil
	}
	m, err := a.manifest(*current)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return m, err
}

// Removes lists what Remove would remove, for people.
func (a *App) Removes(current *installer.Release, purge bool) ([]string, error) {
	list := []string{filepath.Join(a.Dir, "releases")}
	if failed := filepath.Join(a.Dir, "failed"); release.Exists(failed) {
		list = append(list, failed)
	}
	owned, err := a.owned()
	if err != nil {
		return nil, err
	}
	for name := range owned {
		list = append(list, name)
	}
	m, err := a.ofCurrent(current)
	if err != nil {
		return nil, err
	}
	if m != nil {
		for _, name := range unitFiles(m) {
			list = append(list, unitPath(name))
		}
		if purge {
			list = append(list, m.Device.Tree.EnvFile)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}
