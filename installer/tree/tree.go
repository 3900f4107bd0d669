// Package tree is the installer.Runtime of apps that are a file tree which
// systemd units run.
//
// On disk, with APP in /opt/APP:
//
//	current                link to releases/<name>
//	releases/<name>/       manifest.json, its signature, and the tree
//	failed/<name>/         releases that did not get healthy, for those who want to know why
//	.valise-files.json     digests of the units and configuration files that are ours
//
// and, where the release says so, the environment file, configuration files made
// from templates, and units in /etc/systemd/system. Units name /opt/APP/current.
package tree

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/health"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
	"github.com/valise-ota/valise/verify"
)

// App is one installed app. Its methods are called by one process at a time,
// which holds the app's lock.
type App struct {
	Name     string
	Dir      string         // absolute path of Releases
	Releases *release.Store // the app's directory; nil where nothing is installed
	Platform bundle.Platform
	Rand     io.Reader
	Given    map[string]string // values for the environment file, from the operator
	// Boot is set while the machine starts: units that do not run yet are left
	// to systemd, which waits for us, and nothing can be probed.
	Boot   bool
	Report func(installer.Event)   // may be nil
	Show   func(key, value string) // told of a generated secret that is shown once; may be nil

	staged string // directory that Stage made in this process
}

// fileOverhead is what a file takes beyond its bytes, on average: half a block
// and its inode.
const fileOverhead = 4 << 10

var _ installer.Runtime = (*App)(nil)

// Inspect asks the environment file and the disk what planning needs.
func (a *App) Inspect(ctx context.Context, rel *verify.Release, st installer.State) (installer.Facts, error) {
	if err := systemd.Available(ctx); err != nil {
		return installer.Facts{}, err
	}
	m := rel.Manifest()
	f := installer.Facts{Platform: a.Platform}
	a.Releases.Remember(rel.Digest(), m)
	for _, name := range m.Device.Tree.UnitNames() {
		f.Services = append(f.Services, installer.ServiceChange{Service: name, Change: installer.Recreated})
	}
	var err error
	if f.FilesFree, err = installer.FreeBytesFor(a.Dir); err != nil {
		return f, err
	}
	for _, t := range m.TreeFiles(a.Platform) {
		f.Files += t.Size + fileOverhead
	}
	if st.Current != nil {
		old, err := a.manifest(*st.Current)
		if err != nil {
			return f, err
		}
		if old.Device.Tree == nil || old.Device.Tree.EnvFile != m.Device.Tree.EnvFile {
			return f, fmt.Errorf("inspect: the release reads its environment from %s, the one that runs from another file: move that file first", m.Device.Tree.EnvFile)
		}
		if st.Current.Manifest == rel.Digest() {
			f.Damage = a.Intact(ctx, *st.Current)
		}
		if err := a.lostSecrets(old, m); err != nil {
			return f, err
		}
	}
	example, err := environ.ReadExample(func(p string) (io.ReadCloser, error) { return Open(rel, a.Platform, p) })
	if err != nil {
		return f, err
	}
	env, generated, err := a.nextEnv(m, example, st.Current == nil)
	if err != nil {
		return f, err
	}
	f.EnvMissing, f.EnvNew = env.Missing(m.Device.RequiredEnv), generated
	if release.Exists(m.Device.Tree.EnvFile) {
		before, err := loadEnv(m.Device.Tree.EnvFile)
		if err != nil {
			return f, err
		}
		f.EnvChanged = env.Changed(before, generated)
	}
	return f, nil
}

// lostSecrets refuses to make a value anew that data depends on.
func (a *App) lostSecrets(old, next *bundle.Manifest) error {
	env, err := loadEnv(next.Device.Tree.EnvFile)
	if err != nil {
		return err
	}
	for key, secret := range next.Device.Secrets {
		if _, known := old.Device.Secrets[key]; known && secret.Immutable && a.Given[key] == "" && len(env.Missing([]string{key})) > 0 {
			return fmt.Errorf("inspect: %s lost %s, which existing data depends on: restore the old value (with a new one, the data cannot be read)", next.Device.Tree.EnvFile, key)
		}
	}
	return nil
}

// Open opens a file of the tree of a release that is not on disk yet.
func Open(rel *verify.Release, p bundle.Platform, name string) (io.ReadCloser, error) {
	for _, f := range rel.Manifest().TreeFiles(p) {
		if f.TreePath == name {
			return rel.OpenFile(f.Path)
		}
	}
	return nil, fs.ErrNotExist
}

// Backup has nothing to save: a tree has no data of its own.
func (a *App) Backup(context.Context, installer.Release, installer.Release, string) error { return nil }

// Resume has nothing to unpause.
func (a *App) Resume(context.Context, installer.Release, installer.Release) error { return nil }

// Probe asks the units and the release's own health check.
func (a *App) Probe(ctx context.Context, r installer.Release) error {
	if a.Boot {
		return nil // nothing that waits for us runs yet
	}
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	env, err := loadEnv(m.Device.Tree.EnvFile)
	if err != nil {
		return err
	}
	checks, err := health.ChecksOf(m.Device.Health, m.Version, a.releaseDir(r), env.Expand)
	if err != nil {
		return err
	}
	checks.Services = m.Device.Tree.UnitNames()
	err = health.Probe(ctx, checks, health.Deps{Ps: func(ctx context.Context) ([]health.Container, error) { return states(ctx, m) }})
	if err != nil {
		return a.withLog(ctx, err, m)
	}
	return nil
}

// states shows units as the health check sees things that run.
func states(ctx context.Context, m *bundle.Manifest) ([]health.Container, error) {
	units, want, err := ask(ctx, m)
	var list []health.Container
	for _, u := range units {
		c := health.Container{ID: u.Name, Service: u.Name, State: ill(u, want[u.Name]), RestartCount: u.Restarts}
		if c.State == "" {
			c.State = "running"
		}
		if want[u.Name] { // another run of what is started when it is asked for proves nothing
			c.ID += " " + u.Started
		}
		list = append(list, c)
	}
	return list, err
}

// logLines is how much of a unit's log says why it failed: what the manager says
// of one start and one end, and the unit's own last words before it.
const logLines = 8

// withLog adds to err what the services wrote last: those that do not run, or all
// when every one does.
func (a *App) withLog(ctx context.Context, err error, m *bundle.Manifest) error {
	list, want, askErr := ask(ctx, m)
	if askErr != nil {
		return err
	}
	sick := func(u systemd.Unit) bool { return ill(u, want[u.Name]) != "" }
	if slices.ContainsFunc(list, sick) {
		list = slices.DeleteFunc(list, func(u systemd.Unit) bool { return !sick(u) })
	}
	for _, u := range list {
		if text := systemd.Log(ctx, u.Name, logLines); text != "" {
			err = fmt.Errorf("%w; last words of %s: %.900s", err, u.Name, text)
		}
	}
	return err
}

// Keep is how many releases stay: what the environment file says, where the
// release lets it, else what the release says.
func Keep(m *bundle.Manifest) (int, error) {
	keep := m.Device.Keep.Releases
	key := m.Device.Tree.KeepEnv
	if key == "" {
		return keep, nil
	}
	env, err := loadEnv(m.Device.Tree.EnvFile)
	if err != nil {
		return keep, err
	}
	value, _ := env.Lookup(key)
	if value == "" {
		return keep, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > 1000 {
		return keep, fmt.Errorf("%s in %s is %.40q, want a number from 1 to 1000; %d releases are kept", key, m.Device.Tree.EnvFile, value, keep)
	}
	return n, nil
}

// manifest is that of release r, as it was verified when it came.
func (a *App) manifest(r installer.Release) (*bundle.Manifest, error) {
	return a.Releases.Manifest(r.Dir, r.Manifest)
}

// readTree reads a small file of the tree of a release on disk and compares it
// with the manifest: what root is about to write or to run is what was signed.
func (a *App) readTree(m *bundle.Manifest, r installer.Release, name string) ([]byte, error) {
	b, err := a.Releases.ReadFile(r.Dir, m.StagedAs(name), bundle.MaxConfigFile)
	if err != nil {
		return nil, err
	}
	files := m.TreeFiles(a.Platform)
	i := slices.IndexFunc(files, func(f bundle.TreeFile) bool { return f.TreePath == name })
	if i < 0 || bundle.DigestOf(b) != files[i].Digest {
		return nil, fmt.Errorf("read release %s: %s is not what was verified: the directory was changed", r.Version, name)
	}
	return b, nil
}

func (a *App) releaseDir(r installer.Release) string { return filepath.Join(a.Dir, "releases", r.Dir) }

func (a *App) note(step, format string, args ...any) {
	if a.Report != nil {
		a.Report(installer.Event{Step: step, Detail: fmt.Sprintf(format, args...)})
	}
}
