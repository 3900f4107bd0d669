package tree

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// snapshot is what Revert goes back to.
type snapshot struct {
	Current string   `json:"current"` // name of the release, empty when there was none
	To      string   `json:"to"`      // name of the one that is activated
	New     bool     `json:"new"`     // To was staged for this: it goes aside when it fails
	Units   []unit   `json:"units"`   // of To
	Secrets []string `json:"secrets"` // keys that To generates
	EnvFile string   `json:"env_file"`
	Files   []saved  `json:"files"` // the environment file, units, configuration, and which of them are ours
}

// unit is a unit as it was.
type unit struct {
	Name    string `json:"name"`
	Active  bool   `json:"active"`
	Enabled bool   `json:"enabled"`
}

// saved is a file as it was; one that did not exist has no content.
type saved struct {
	Path    string `json:"path"`
	Exists  bool   `json:"exists"`
	Content []byte `json:"content,omitempty"`
}

// Snapshot reads everything that Activate may change. It fails when the release
// cannot be activated here: then there is nothing to undo.
func (a *App) Snapshot(ctx context.Context, change installer.Switch) (json.RawMessage, error) {
	to := change.To
	m, env, _, err := a.next(to)
	if err != nil {
		return nil, err
	}
	if missing := env.Missing(m.Device.RequiredEnv); len(missing) > 0 {
		return nil, &installer.MissingEnvError{Keys: missing}
	}
	files, err := a.files(m, to, env)
	if err != nil {
		return nil, err
	}
	if err := a.validate(ctx, m, to, files); err != nil {
		return nil, err
	}
	s := snapshot{To: to.Dir, New: a.staged == to.Dir, EnvFile: m.Device.Tree.EnvFile, Secrets: slices.Sorted(maps.Keys(m.Device.Secrets))}
	list, _, err := ask(ctx, m)
	if err != nil {
		return nil, err
	}
	for _, u := range list {
		s.Units = append(s.Units, unit{u.Name, u.Running(), u.Enabled})
	}
	if s.Current, _, err = a.Releases.Current(); err != nil {
		return nil, err
	}
	paths := []string{m.Device.Tree.EnvFile, filepath.Join(a.Dir, ownedName)}
	for _, f := range files {
		paths = append(paths, f.path)
	}
	// Units of the release that runs may go.
	if s.Current != "" {
		old, err := a.manifestIn(s.Current)
		if err != nil {
			return nil, err
		}
		for _, name := range unitFiles(old) {
			paths = append(paths, unitPath(name))
		}
	}
	for i, p := range paths {
		if slices.Contains(paths[:i], p) {
			continue
		}
		f := saved{Path: p}
		f.Content, err = readFile(p)
		if f.Exists = err == nil; err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read %s: %w", p, err)
		}
		s.Files = append(s.Files, f)
	}
	return json.Marshal(s)
}

// next is the manifest of a release on disk and the environment file it needs.
func (a *App) next(to installer.Release) (*bundle.Manifest, *environ.File, []string, error) {
	m, err := a.manifest(to)
	if err != nil {
		return nil, nil, nil, err
	}
	example, err := environ.ReadExample(func(name string) (io.ReadCloser, error) { return a.Releases.OpenFile(to.Dir, name) })
	if err != nil {
		return nil, nil, nil, err
	}
	_, running, err := a.Releases.Current()
	if err != nil {
		return nil, nil, nil, err
	}
	env, generated, err := a.nextEnv(m, example, !running)
	return m, env, generated, err
}

// manifestIn is that of the release in a directory. It only names what is to be
// saved or stopped, so it is not compared with anything.
func (a *App) manifestIn(dir string) (*bundle.Manifest, error) {
	b, err := a.Releases.ReadFile(dir, bundle.ManifestName, bundle.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	m, err := bundle.ParseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", dir, err)
	}
	return m, nil
}

// Activate writes environment file, configuration and units, switches current
// and restarts the units.
func (a *App) Activate(ctx context.Context, change installer.Switch) error {
	to := change.To
	m, env, generated, err := a.next(to)
	if err != nil {
		return err
	}
	files, err := a.files(m, to, env)
	if err != nil {
		return err
	}
	if err := a.keepConfigs(change.From, files); err != nil {
		return err
	}
	envChanged, err := a.writeEnv(m, env, generated)
	if err != nil {
		return err
	}
	changed, err := a.put(files)
	if err != nil {
		return err
	}
	old, running, err := a.Releases.Current()
	if err != nil {
		return err
	}
	if running {
		gone, err := a.dropOld(ctx, old, m)
		if err != nil {
			return err
		}
		changed = append(changed, gone...)
	}
	if err := a.Releases.SetCurrent(to.Dir); err != nil {
		return err
	}
	unread, err := changedUnits(ctx, m)
	if err != nil {
		return err
	}
	if changed = append(changed, unread...); len(changed) > 0 {
		if err := systemd.DaemonReload(ctx); err != nil {
			return err
		}
	}
	// Who starts the same release again wants processes that read their files anew.
	again := change.From != nil && change.From.Dir == to.Dir
	return a.start(ctx, m, files, append([]string{}, changed...), len(changed) == 0 && !envChanged && !again)
}

// dropOld stops and removes the units that the release in a directory has and m
// has not, and returns which unit files those were.
func (a *App) dropOld(ctx context.Context, dir string, m *bundle.Manifest) ([]string, error) {
	old, err := a.manifestIn(dir)
	if err != nil {
		return nil, err
	}
	had, err := units(ctx, old)
	if err != nil {
		return nil, err
	}
	has, err := units(ctx, m)
	if err != nil {
		return nil, err
	}
	// An instance that the old release named goes, one that a person started does not.
	has = without(has, without(old.Device.Tree.Instances, m.Device.Tree.Instances))
	gone := without(unitFiles(old), unitFiles(m))
	return gone, dropUnits(ctx, without(had, has), gone)
}

// changedUnits are the units whose files systemd has not read yet.
func changedUnits(ctx context.Context, m *bundle.Manifest) (names []string, err error) {
	list, _, err := ask(ctx, m)
	for _, u := range list {
		if u.Changed {
			names = append(names, u.Name)
		}
	}
	return names, err
}

// writeEnv writes the environment file, if it changed, and shows secrets.
func (a *App) writeEnv(m *bundle.Manifest, env *environ.File, generated []string) (changed bool, err error) {
	name := m.Device.Tree.EnvFile
	have, err := readFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read environment file: %w", err)
	}
	if err == nil && bytes.Equal(have, env.Bytes()) {
		return false, nil
	}
	if err := writeFile(name, env.Bytes(), 0o600); err != nil {
		return false, err
	}
	for _, key := range generated {
		if value, _ := env.Lookup(key); m.Device.Secrets[key].Show != "" && a.Show != nil {
			a.Show(key, value)
		}
	}
	return true, nil
}

// Revert restores environment file, configuration, units and current
// together, and what ran. Keys that Activate generated stay in the environment
// file: data may need them. What is as it was is not written again, so that a
// full disk, which may be why Activate failed, does not stop the way back.
func (a *App) Revert(ctx context.Context, raw json.RawMessage, from *installer.Release) error {
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil || s.To == "" {
		return fmt.Errorf("restore: damaged snapshot: %v", err)
	}
	var m *bundle.Manifest
	var names []string
	var err error
	if from != nil {
		if m, err = a.manifest(*from); err != nil {
			return err
		}
		names = m.Device.Tree.UnitNames()
	}
	var gone, files []string
	for _, u := range s.Units {
		// An instance that a person started is not for us to stop.
		if !slices.Contains(names, u.Name) && (m == nil || !u.Active || !slices.Contains(unitFiles(m), bundle.TemplateOf(u.Name))) {
			gone = append(gone, u.Name)
		}
	}
	for _, f := range s.Files {
		if name, ok := strings.CutPrefix(f.Path, systemd.UnitDir+"/"); ok && !f.Exists {
			files = append(files, name)
		}
	}
	if err := dropUnits(ctx, gone, files); err != nil {
		return err
	}
	for _, f := range s.Files {
		if err := a.restoreFile(f, s); err != nil {
			return err
		}
	}
	if err := a.restoreCurrent(s.Current); err != nil {
		return err
	}
	if err := systemd.DaemonReload(ctx); err != nil {
		return err
	}
	if m != nil {
		if err := a.start(ctx, m, nil, nil, false); err != nil {
			return err
		}
	}
	for _, u := range s.Units {
		if err := restoreUnit(ctx, u, names); err != nil {
			return err
		}
	}
	if s.New {
		return a.Releases.MoveAside(s.To, keepFailed)
	}
	return nil
}

// restoreUnit brings back a unit that was there before the app came.
func restoreUnit(ctx context.Context, u unit, ours []string) error {
	if slices.Contains(ours, u.Name) {
		return nil
	}
	if u.Enabled {
		if err := systemd.Enable(ctx, u.Name); err != nil {
			return err
		}
	}
	if u.Active {
		return systemd.Start(ctx, u.Name)
	}
	return nil
}

func (a *App) restoreCurrent(name string) error {
	current, ok, err := a.Releases.Current()
	switch {
	case err != nil:
		return err
	case ok && name == "":
		return a.Releases.ClearCurrent()
	case name != "" && current != name:
		return a.Releases.SetCurrent(name)
	}
	return nil
}

func (a *App) restoreFile(f saved, s snapshot) error {
	have, err := readFile(f.Path)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", f.Path, err)
	}
	want := f.Content
	switch {
	case f.Path == s.EnvFile && !f.Exists:
		return nil // a first installation: what it generated stays
	case f.Path == s.EnvFile:
		env, err := environ.Systemd.Parse(have)
		if err != nil {
			return err
		}
		if err := env.PutBack(f.Content, s.Secrets); err != nil {
			return err
		}
		want = env.Bytes()
	case !f.Exists && exists:
		return removeFile(f.Path)
	}
	if f.Exists == exists && bytes.Equal(have, want) {
		return nil
	}
	if filepath.Base(f.Path) == ownedName {
		return release.WriteFile(a.Releases.Root(), ownedName, want, 0o600)
	}
	return writeFile(f.Path, want, 0o644)
}
