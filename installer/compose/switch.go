package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify"
)

// snapshot is what Revert goes back to.
type snapshot struct {
	Env     []byte            `json:"env"`     // the environment file, nil when there was none
	Secrets []string          `json:"secrets"` // keys that the release generates
	Current string            `json:"current"` // name of the release, empty when there was none
	Project string            `json:"project"`
	Compose string            `json:"compose"`         // name of the compose file that Activate links
	Data    string            `json:"data,omitempty"`  // record whose backup is restored; empty leaves the data as they are
	Moved   []string          `json:"moved,omitempty"` // volumes that Activate copies data to
	To      installer.Release `json:"to"`              // what is undone
}

// Snapshot reads the environment file and the current link. It fails when docker
// compose could not run the release: then there is nothing to undo.
func (a *App) Snapshot(ctx context.Context, sw installer.Switch) (json.RawMessage, error) {
	m, err := a.manifest(sw.To)
	if err != nil {
		return nil, err
	}
	if err := a.addMounts(m, path.Join("releases", sw.To.Dir)); err != nil {
		return nil, err
	}
	if err := a.checkCompose(ctx, m, a.running(m, sw.To).Files, a.inRelease(sw.To.Dir)); err != nil {
		return nil, err
	}
	if sw.Action == installer.ActionRollback {
		if err := a.bringImages(ctx, m, sw.To); err != nil {
			return nil, err
		}
	}
	s := snapshot{Project: m.Device.Project, Compose: m.Device.Compose, To: sw.To, Secrets: slices.AppendSeq([]string{}, maps.Keys(m.Device.Secrets))}
	if s.Env, err = os.ReadFile(a.envPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read environment file: %w", err)
	}
	if s.Current, _, err = a.Releases.Current(); err != nil {
		return nil, err
	}
	if s.Data, err = a.dataOnUndo(m, sw); err != nil {
		return nil, err
	}
	moves, err := a.switchedVolumes(ctx, sw)
	if err != nil {
		return nil, err
	}
	s.Moved = moves.targets()
	return json.Marshal(s)
}

// dataOnUndo is the record whose backup comes back when the switch is undone: the
// one just made, when an update says that its data are of no use to the release
// before, or when the switch itself brings back other data.
func (a *App) dataOnUndo(m *bundle.Manifest, sw installer.Switch) (string, error) {
	if sw.From == nil || sw.Data == "" && (sw.Action == installer.ActionRollback || m.Device.RestoreData() != bundle.RestoreAlways) {
		return "", nil
	}
	sets, err := a.Backups()
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(sets, func(s backup.Set) bool { return s.Record == strings.ReplaceAll(sw.Record, "-", "") }) {
		return sw.Data, nil // the release before names nothing to save; or nobody wanted it saved
	}
	return sw.Record, nil
}

// Activate writes the environment file, switches current and starts the
// services, with the release's hooks around it; on a rollback with those of the
// release that is left.
func (a *App) Activate(ctx context.Context, sw installer.Switch) error {
	return a.classify(ctx, a.activate(ctx, sw))
}

// classify says whose fault err is: without an engine nothing runs.
func (a *App) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	// When the time for what failed is over, the engine is asked all the same.
	if _, down := a.Engine.Ask(context.WithoutCancel(ctx)); down != nil {
		return &installer.DeviceError{Err: err}
	}
	return err
}

func (a *App) activate(ctx context.Context, sw installer.Switch) error {
	to := sw.To
	m, err := a.manifest(to)
	if err != nil {
		return err
	}
	back := sw.Action == installer.ActionRollback
	if sw.From != nil && sw.From.Dir != to.Dir {
		if err := a.keepEdits(*sw.From); err != nil {
			return err
		}
		from, err := a.manifest(*sw.From)
		if err != nil {
			return err
		}
		a.noteEdits(from, m)
	}
	stale, err := a.freshMounts(ctx, m, to)
	if err != nil {
		return err
	}
	moved, err := a.switchedVolumes(ctx, sw)
	if err != nil {
		return err
	}
	if back {
		a.rollbackHook(ctx, *sw.From, "pre-rollback")
	} else if err := a.hook(ctx, m, to, "pre-activate"); err != nil {
		return err
	}
	if err := a.link(m, to); err != nil {
		return err
	}
	if err := a.makeNeeded(ctx, m, a.running(m, to)); err != nil { // a hook may start services
		return err
	}
	if err := a.moveData(ctx, m, sw, moved.moves); err != nil {
		return err
	}
	if sw.Data != "" {
		if err := a.restoreData(ctx, m, to, sw.Data); err != nil {
			return err
		}
	}
	if !back {
		if err := a.hook(ctx, m, to, "migrate"); err != nil {
			return err
		}
	}
	if err := a.up(ctx, m, to, stale...); err != nil {
		return err
	}
	if back {
		a.rollbackHook(ctx, *sw.From, "post-rollback")
		return nil
	}
	return a.hook(ctx, m, to, "post-activate")
}

// link writes the environment file for release r and leads the links to it.
func (a *App) link(m *bundle.Manifest, r installer.Release) error {
	env, generated, err := a.nextEnv(m, a.inRelease(r.Dir))
	if err != nil {
		return err
	}
	if r.Signer == installer.Adopted { // its file has no variables, and what it had is not ours to know
		if env, err = environ.Compose.Load(a.envPath()); err != nil {
			return err
		}
	}
	if err := release.ReplaceFile(a.Releases.Root(), envName, env.Bytes(), 0o600); err != nil {
		return err
	}
	files, err := a.writeSecretFiles(m)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(files)) {
		if m.Device.Secrets[key].Show != "" && a.Show != nil {
			a.Show(key, files[key])
		}
	}
	for _, key := range generated {
		if value, _ := env.Lookup(key); m.Device.Secrets[key].Show != "" && a.Show != nil {
			a.Show(key, value)
		}
	}
	if err := a.Releases.SetCurrent(r.Dir); err != nil {
		return err
	}
	return a.linkCompose(m, r)
}

// keepEdits copies the files of release r that somebody changed beside the app,
// before another release takes their place, and says so: where an edit lasts is
// compose.override.yaml.
func (a *App) keepEdits(r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	root := a.Releases.Root()
	if fi, err := root.Lstat(m.Device.Compose); err == nil && fi.Mode().IsRegular() {
		// Editors and sed -i put a file of their own in the place of the link.
		name := m.Device.Compose + ".edited-" + r.Version
		if r.Signer == installer.Adopted {
			name = m.Device.Compose + ".adopted"
		}
		if err := release.Rename(root, m.Device.Compose, name); err != nil {
			return err
		}
		if r.Signer == installer.Adopted {
			a.report(installer.Event{Step: "edited", Detail: fmt.Sprintf("%s of before is kept as %s", m.Device.Compose, filepath.Join(a.Dir, name))})
		} else {
			a.reportEdit(m.Device.Compose, r, name, "was never in effect")
		}
	} else if err := a.keepLinked(m, r); err != nil {
		return err
	}
	for _, f := range m.Files {
		if !Staged(f.Path) || a.Releases.Check(r.Dir, f.Path, f.Size, f.Digest) == nil {
			continue
		}
		file, err := a.Releases.OpenFile(r.Dir, f.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed: nothing to keep
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(io.LimitReader(file, maxEdited))
		file.Close()
		if err != nil {
			return err
		}
		name := strings.ReplaceAll(f.Path, "/", "-") + ".edited-" + r.Version
		if err := release.WriteFile(root, name, b, 0o600); err != nil {
			return err
		}
		a.reportEdit(f.Path, r, name, "is not in the new release")
	}
	return nil
}

func (a *App) reportEdit(file string, r installer.Release, name, why string) {
	a.report(installer.Event{Step: "edited", Detail: fmt.Sprintf("%s of %s was edited here; the edit is kept as %s and %s: what must last belongs in %s",
		file, r.Version, filepath.Join(a.Dir, name), why, overrideName)})
}

// maxEdited is how much of an edited file is kept, in bytes: they are written by
// hand.
const maxEdited = 16 << 20

// rollbackHook runs a hook of a release that is left. Nothing may stand in the
// way back, so its failure is only reported.
func (a *App) rollbackHook(ctx context.Context, left installer.Release, name string) {
	m, err := a.manifest(left)
	if err == nil {
		err = a.hook(ctx, m, left, name)
	}
	if err != nil {
		a.report(installer.Event{Step: "hook", Ended: true, Err: err})
	}
}

// Revert restores the environment file, the current link and what ran. Keys
// that Activate generated stay in the file: a volume may hold data that needs
// them. What is as it was is not written again, so that a full disk, which may
// be why Activate failed, does not stop the way back.
func (a *App) Revert(ctx context.Context, raw json.RawMessage, from *installer.Release) error {
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil || s.Project == "" {
		return fmt.Errorf("restore: damaged snapshot: %v", err)
	}
	if s.To.Dir != "" {
		a.rollbackHook(ctx, s.To, "pre-rollback")
		defer a.rollbackHook(ctx, s.To, "post-rollback")
	}
	if s.Env != nil {
		if err := a.restoreEnv(s); err != nil {
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
		return (&docker.Compose{Program: a.Program, Env: a.Env, Engine: a.Engine, Project: s.Project, Dir: a.Dir}).Down(ctx)
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
	if err := a.linkCompose(m, *from); err != nil { // it is for people: nothing runs from it
		a.report(installer.Event{Step: "undo", Detail: err.Error()})
	}
	if err := a.bringImages(ctx, m, *from); err != nil {
		return err
	}
	if s.Data != "" {
		if err := a.restoreData(ctx, m, *from, s.Data); err != nil {
			return err
		}
	}
	err = a.up(ctx, m, *from)
	if err != nil && ctx.Err() == nil && a.remedy(ctx, a.running(m, *from), err) {
		err = a.up(ctx, m, *from)
	}
	if err != nil {
		return err
	}
	a.unmoveData(ctx, s.Moved)
	return nil
}

// remedy does away with what a power cut can leave in an engine so that nothing starts, and
// reports whether there was any: a port of a container that is gone, or containers of
// which files are gone.
func (a *App) remedy(ctx context.Context, c *docker.Compose, cause error) bool {
	if a.Engine.HoldsPort(ctx, cause) {
		if a.RestartEngine == nil {
			return false
		}
		a.report(installer.Event{Step: "undo", Detail: "the engine holds a port of a container that is gone: it is restarted"})
		return a.RestartEngine(ctx) == nil
	}
	list, err := c.Ps(ctx)
	var services []string
	for _, x := range list {
		if x.State != "running" && !x.Ended && !slices.Contains(services, x.Service) {
			services = append(services, x.Service)
		}
	}
	if err != nil || len(services) == 0 {
		return false
	}
	a.report(installer.Event{Step: "undo", Detail: "recreate " + strings.Join(services, ", ") + ", as docker compose could not start everything: " + cause.Error()})
	return c.Recreate(ctx, services...) == nil
}

// restoreEnv puts the environment file back. A snapshot of an older program does
// not say which keys were generated: then all that came since stay.
func (a *App) restoreEnv(s snapshot) error {
	env, err := environ.Compose.Load(a.envPath())
	if err != nil {
		return err
	}
	have, secrets := env.Bytes(), s.Secrets
	if secrets == nil {
		secrets = env.Keys()
	}
	if err := env.PutBack(s.Env, secrets); err != nil || bytes.Equal(env.Bytes(), have) {
		return err
	}
	return release.ReplaceFile(a.Releases.Root(), envName, env.Bytes(), 0o600)
}

// nextEnv is the environment file as the release needs it, and the keys of
// secrets that were generated for it. A new one begins as the example, which open
// opens.
func (a *App) nextEnv(m *bundle.Manifest, open opener) (*environ.File, []string, error) {
	env, err := environ.Compose.Load(a.envPath())
	if err != nil {
		return nil, nil, err
	}
	first := a.Releases == nil
	if !first {
		_, running, err := a.Releases.Current()
		first = err == nil && !running
	}
	if first && !release.Exists(a.envPath()) {
		example, err := environ.ReadExample(open)
		if err != nil {
			return nil, nil, err
		}
		if env, err = environ.Compose.Begin(example, m); err != nil {
			return nil, nil, err
		}
	}
	generated, err := env.Next(m, a.Given, first, a.generate)
	return env, generated, err
}

// generate makes the value of a secret, the same one whenever it is asked: what docker
// compose has read is then what it runs.
func (a *App) generate(key string, s bundle.Secret) (value string, err error) {
	if a.generated[key] != "" {
		return a.generated[key], nil
	}
	if value, err = environ.Generate(s, a.Rand); err == nil {
		if a.generated == nil {
			a.generated = map[string]string{}
		}
		a.generated[key] = value
	}
	return value, err
}

// opener opens a file of a release.
type opener func(name string) (io.ReadCloser, error)

// Open opens a file of a release that is not on disk yet.
func Open(rel *verify.Release, name string) (io.ReadCloser, error) {
	if !slices.ContainsFunc(rel.Manifest().Files, func(f bundle.File) bool { return f.Path == name }) {
		return nil, fs.ErrNotExist
	}
	return rel.OpenFile(name)
}

// inRelease opens those of a release on disk.
func (a *App) inRelease(dir string) opener {
	return func(name string) (io.ReadCloser, error) { return a.Releases.OpenFile(dir, name) }
}
