package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/environ"
	"github.com/valise-ota/valise/installer/release"
)

// snapshot is what Restore goes back to.
type snapshot struct {
	Env     []byte `json:"env"`     // the environment file, nil when there was none
	Current string `json:"current"` // name of the release, empty when there was none
	Project string `json:"project"`
	Compose string `json:"compose"` // name of the compose file that Activate links
}

// Snapshot reads the environment file and the current link. It fails when docker
// compose could not run the release: then there is nothing to undo.
func (a *App) Snapshot(ctx context.Context, to installer.Release) (json.RawMessage, error) {
	m, err := a.manifest(to)
	if err != nil {
		return nil, err
	}
	if err := a.checkCompose(ctx, m, a.running(m, to).Files); err != nil {
		return nil, err
	}
	s := snapshot{Project: m.Device.Project, Compose: m.Device.Compose}
	if s.Env, err = os.ReadFile(a.envPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read environment file: %w", err)
	}
	if s.Current, _, err = a.Releases.Current(); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Activate writes the environment file, switches current and starts the
// services.
func (a *App) Activate(ctx context.Context, to installer.Release) error {
	m, err := a.manifest(to)
	if err != nil {
		return err
	}
	env, generated, err := a.nextEnv(m)
	if err != nil {
		return err
	}
	if err := release.ReplaceFile(a.Releases.Root(), envName, env.Bytes(), 0o600); err != nil {
		return err
	}
	for _, key := range generated {
		if value, _ := env.Lookup(key); m.Device.Secrets[key].Show != "" && a.Show != nil {
			a.Show(key, value)
		}
	}
	if err := a.Releases.SetCurrent(to.Dir); err != nil {
		return err
	}
	if err := a.linkCompose(m); err != nil {
		return err
	}
	return a.running(m, to).Up(ctx)
}

// linkCompose leads the compose file's usual place to the current release. A
// file somebody put there stays.
func (a *App) linkCompose(m *bundle.Manifest) error {
	root, target := a.Releases.Root(), path.Join("current", m.Device.Compose)
	if fi, err := root.Lstat(m.Device.Compose); err == nil && fi.Mode().Type() != fs.ModeSymlink {
		return nil
	}
	if to, err := root.Readlink(m.Device.Compose); err == nil && to == target {
		return nil
	}
	return release.Symlink(root, target, m.Device.Compose)
}

// unlinkCompose removes the link that linkCompose made.
func (a *App) unlinkCompose(name string) error {
	root := a.Releases.Root()
	if to, err := root.Readlink(name); err != nil || to != path.Join("current", name) {
		return nil
	}
	return release.RemoveAll(root, name)
}

// Restore brings back the environment file, the current link and what ran. Keys
// that Activate generated stay in the file: a volume may hold data that needs
// them. What is as it was is not written again, so that a full disk, which may
// be why Activate failed, does not stop the way back.
func (a *App) Restore(ctx context.Context, raw json.RawMessage, from *installer.Release) error {
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil || s.Project == "" {
		return fmt.Errorf("restore: damaged snapshot: %v", err)
	}
	if s.Env != nil {
		if err := a.restoreEnv(s.Env); err != nil {
			return err
		}
	}
	switch current, ok, err := a.Releases.Current(); {
	case err != nil:
		return err
	case ok && s.Current == "":
		if err := a.Releases.ClearCurrent(); err != nil {
			return err
		}
	case s.Current != "" && current != s.Current:
		if err := a.Releases.SetCurrent(s.Current); err != nil {
			return err
		}
	}
	if from == nil {
		if s.Compose != "" {
			if err := a.unlinkCompose(s.Compose); err != nil {
				return err
			}
		}
		return (&docker.Compose{Command: a.Command, Env: a.Env, Engine: a.Engine, Project: s.Project, Dir: a.Dir}).Down(ctx)
	}
	m, err := a.manifest(*from)
	if err != nil {
		return err
	}
	if s.Compose != "" && s.Compose != m.Device.Compose {
		if err := a.unlinkCompose(s.Compose); err != nil {
			return err
		}
	}
	if err := a.linkCompose(m); err != nil {
		return err
	}
	return a.running(m, *from).Up(ctx)
}

func (a *App) restoreEnv(old []byte) error {
	now, err := environ.Load(a.envPath())
	if err != nil {
		return err
	}
	env, err := environ.Parse(old)
	if err != nil {
		return err
	}
	for _, key := range now.Keys() {
		if _, ok := env.Lookup(key); ok {
			continue
		}
		value, _ := now.Lookup(key)
		if err := env.Set(key, value); err != nil {
			return err
		}
	}
	if bytes.Equal(env.Bytes(), now.Bytes()) {
		return nil
	}
	return release.ReplaceFile(a.Releases.Root(), envName, env.Bytes(), 0o600)
}

// nextEnv is the environment file as the release needs it, and the keys of
// secrets that were generated for it.
func (a *App) nextEnv(m *bundle.Manifest) (*environ.File, []string, error) {
	env, err := environ.Load(a.envPath())
	if err != nil {
		return nil, nil, err
	}
	var generated []string
	for key, secret := range m.Device.Secrets {
		if len(env.Missing([]string{key})) == 0 {
			continue
		}
		value, err := environ.Generate(secret, a.Rand)
		if err != nil {
			return nil, nil, err
		}
		if err := env.Set(key, value); err != nil {
			return nil, nil, err
		}
		generated = append(generated, key)
	}
	slices.Sort(generated)
	return env, generated, env.Set(m.Device.VersionEnv, m.Version)
}
