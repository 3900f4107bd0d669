package compose

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
)

// Remove stops the app and removes its containers, networks and images and all
// releases. Volumes and what was saved of them stay, and so does the environment
// file, which they may need, unless purge says that it goes. current is nil when
// nothing was ever committed. After an interruption it may be repeated.
func (a *App) Remove(ctx context.Context, current *installer.Release, purge bool) error {
	m, err := a.ofCurrent(current)
	if err != nil {
		return err
	}
	if m != nil {
		down := docker.Compose{Program: a.Program, Env: a.Env, Engine: a.Engine, Project: m.Device.Project, Dir: a.Dir}
		if err := down.Down(ctx); err != nil {
			return err
		}
		if err := a.unlinkCompose(m.Device.Compose); err != nil {
			return err
		}
	}
	if err := a.Releases.ClearCurrent(); err != nil {
		return err
	}
	if err := a.Prune(ctx, nil); err != nil {
		return err
	}
	gone := []string{"releases", loadMarker, inlinedName, hookLogsDir}
	if purge {
		gone = append(gone, envName)
	}
	for _, name := range gone {
		if err := release.RemoveAll(a.Releases.Root(), name); err != nil {
			return err
		}
	}
	return nil
}

// ofCurrent is the manifest of the current release, nil when it is gone: an
// earlier Remove was cut off, and had stopped the app before.
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
	m, err := a.ofCurrent(current)
	if err != nil {
		return nil, err
	}
	list := []string{filepath.Join(a.Dir, "releases")}
	if m != nil {
		list = append(list, "containers and networks of the compose project "+m.Device.Project+", not its volumes", "images "+path.Join("valise", a.Name)+":*")
	}
	if purge {
		list = append(list, a.envPath())
	}
	return list, nil
}
