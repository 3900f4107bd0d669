package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
)

// What a compose file mounts of its release lies beside the releases, in places
// that change with their content (bundle.MountName): the container of a service
// is replaced when a file that it sees changed, and only then. A service may write
// to a mount as far as the compose file lets it. When another release, or the same
// one, is switched to, its mounts are what was verified again, and what a service
// made of them is kept.

// mount is one of bundle.Device.Mounts.
type mount struct {
	path  string // in the bundle
	name  string // in bundle.MountDir
	files []bundle.File
}

func mounts(m *bundle.Manifest) []mount {
	var list []mount
	for _, at := range m.Device.Mounts {
		list = append(list, mount{at, bundle.MountName(m.Files, at), bundle.MountFiles(m.Files, at)})
	}
	return list
}

// EditedError says which files, mounted into services, are not what was verified.
type EditedError struct{ Changes []error }

func (e *EditedError) Error() string { return errors.Join(e.Changes...).Error() }

// edited says what became of the mounts of a release; missing ones too.
func (a *App) edited(m *bundle.Manifest) (changes []error) {
	for _, x := range mounts(m) {
		if err := a.Releases.CheckMount(x.name, x.files); err != nil {
			changes = append(changes, fmt.Errorf("%s: %w", x.path, err))
		}
	}
	return changes
}

// addMount makes a mount of the files of a release, which are in dir below the root.
func (a *App) addMount(x mount, dir string) error {
	return a.Releases.AddMount(x.name, x.files, func(f bundle.File) (io.ReadCloser, error) {
		return a.Releases.Root().Open(path.Join(dir, x.path, f.Path))
	})
}

// addMounts makes the mounts of a release that are not there.
func (a *App) addMounts(m *bundle.Manifest, dir string) error {
	have, err := a.Releases.Mounts()
	if err != nil {
		return err
	}
	for _, x := range mounts(m) {
		if slices.Contains(have, x.name) {
			continue
		}
		if err := a.addMount(x, dir); err != nil {
			return err
		}
	}
	return nil
}

// freshMounts makes every mount of release r what was verified, keeps what a
// service made of it, and returns the containers that see the old one.
func (a *App) freshMounts(ctx context.Context, m *bundle.Manifest, r installer.Release) (stale []string, err error) {
	dir := path.Join("releases", r.Dir)
	if err := a.addMounts(m, dir); err != nil {
		return nil, err
	}
	var replaced []string
	for _, x := range mounts(m) {
		changed := a.Releases.CheckMount(x.name, x.files)
		if changed == nil {
			continue
		}
		to, err := a.Releases.SetMountAside(x.name)
		if err != nil {
			return nil, err
		}
		if err := a.addMount(x, dir); err != nil {
			return nil, err
		}
		a.reportAside(x.path, to, changed)
		replaced = append(replaced, a.mountPath(x.name))
	}
	if len(replaced) == 0 {
		return nil, nil
	}
	return a.compose(m).Mounting(ctx, replaced)
}

func (a *App) mountPath(name string) string {
	return filepath.Join(a.Dir, filepath.FromSlash(bundle.MountDir), name)
}

func (a *App) reportAside(file, to string, changed error) {
	a.report(installer.Event{Step: "edited", Detail: fmt.Sprintf("%s was changed on this device (%v); that is kept as %s, and what the release has is back", file, changed, filepath.Join(a.Dir, to))})
}

// up starts release r with what was verified. stale are containers that see
// mounts that were replaced since: they are made anew.
func (a *App) up(ctx context.Context, m *bundle.Manifest, r installer.Release, stale ...string) error {
	more, err := a.freshMounts(ctx, m, r)
	if err != nil {
		return err
	}
	stale = append(stale, more...)
	c := a.running(m, r)
	if err := a.makeNeeded(ctx, m, c); err != nil {
		return err
	}
	now, err := inlinedNow(ctx, c)
	if err != nil {
		return err
	}
	if err := c.RemoveTwins(ctx); err != nil {
		return err
	}
	if err := faultOf(c.Up(ctx)); err != nil || len(stale)+len(now) == 0 {
		return err
	}
	running, err := c.Ps(ctx)
	if err != nil {
		return err
	}
	services, err := a.outdated(now, running)
	if err != nil {
		return err
	}
	for _, ctr := range running {
		if slices.Contains(stale, ctr.ID) && !slices.Contains(services, ctr.Service) {
			services = append(services, ctr.Service)
		}
	}
	if len(services) > 0 {
		if err := faultOf(c.Recreate(ctx, services...)); err != nil {
			return err
		}
		if running, err = c.Ps(ctx); err != nil {
			return err
		}
	}
	return a.keepInlined(now, running)
}

// noteEdits says what services made of mounts of release r that the next one does
// not have.
func (a *App) noteEdits(m, next *bundle.Manifest) {
	for _, x := range mounts(m) {
		if slices.ContainsFunc(mounts(next), func(n mount) bool { return n.name == x.name }) {
			continue
		}
		if err := a.Releases.CheckMount(x.name, x.files); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.report(installer.Event{Step: "edited", Detail: fmt.Sprintf("%s of %s was changed on this device (%v); %s has its own, and the changed one stays at %s",
				x.path, m.Version, err, next.Version, a.mountPath(x.name))})
		}
	}
}

// pruneMounts removes the mounts that no kept release has. What a service changed
// is set aside. It runs before releases are removed: their manifests say what was
// changed.
func (a *App) pruneMounts(kept []installer.Release) error {
	have, err := a.Releases.Mounts()
	if err != nil || len(have) == 0 {
		return err
	}
	needed := map[string]bool{}
	for _, k := range kept {
		m, err := a.manifest(k)
		if err != nil {
			return err
		}
		for _, x := range mounts(m) {
			needed[x.name] = true
		}
	}
	known := map[string]mount{}
	names, err := a.Releases.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := a.Releases.ReadFile(name, bundle.ManifestName, bundle.MaxManifestSize)
		if err != nil {
			continue // what it had is not known any more
		}
		if m, err := bundle.ParseManifest(b); err == nil {
			for _, x := range mounts(m) {
				known[x.name] = x
			}
		}
	}
	for _, name := range have {
		if needed[name] {
			continue
		}
		if x, ok := known[name]; ok {
			if changed := a.Releases.CheckMount(name, x.files); changed != nil {
				to, err := a.Releases.SetMountAside(name)
				if err != nil {
					return err
				}
				a.report(installer.Event{Step: "edited", Detail: fmt.Sprintf("%s was changed on this device (%v) and belongs to no release that is kept: it is kept as %s", x.path, changed, filepath.Join(a.Dir, to))})
				continue
			}
		}
		if err := a.Releases.RemoveMount(name); err != nil {
			return err
		}
	}
	return nil
}

// planned is a compose file for docker compose to read while the release is not
// here yet: its environment files are where content puts them.
func planned(text []byte, m *bundle.Manifest, content func(name string) (string, error)) ([]byte, error) {
	s := string(text)
	for _, x := range mounts(m) {
		place := "./" + bundle.MountDir + "/./" + x.name
		if x.files[0].Path != "" || !strings.Contains(s, place) {
			continue
		}
		file, err := content(x.path)
		if err != nil {
			return nil, err
		}
		s = strings.ReplaceAll(s, place, file)
	}
	return []byte(s), nil
}
