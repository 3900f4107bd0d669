package device

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/systemd"
	"github.com/valise-ota/valise/installer/tree"
	"github.com/valise-ota/valise/verify"
)

// lockedApp is one app on this machine, opened to be changed: it holds the app's
// lock until close.
type lockedApp struct {
	*installer.Installer
	data    keeper         // nil where the app keeps its data itself: a tree
	engine  *docker.Engine // nil where none is needed
	journal *record.Store
	store   *release.Store
	close   func()
}

// keeper is the runtime of an app whose data can be saved and brought back.
type keeper interface {
	Backups() ([]backup.Set, error)
	Save(ctx context.Context, from installer.Release, record string) (backup.Set, error)
	PruneBackups(current installer.Release) error
	RestoreData(ctx context.Context, r installer.Release, record string) error
	RestorePolicy(r installer.Release) (bundle.RestoreData, error)
}

// remover is the runtime of an app that can be uninstalled.
type remover interface {
	Remove(ctx context.Context, current *installer.Release, purge bool) error
	Removes(current *installer.Release, purge bool) ([]string, error)
}

func (m *Machine) stateDir(app string) string { return filepath.Join(m.Root, "var/lib/valise", app) }

func (m *Machine) journalPath(app string) string {
	return filepath.Join(m.stateDir(app), "state.db")
}

// AppDir is where the releases of an app are: /opt/APP.
func (m *Machine) AppDir(app string) string { return filepath.Join(m.Root, "opt", app) }

// Installed lists the apps that have records here.
func (m *Machine) Installed() ([]string, error) {
	found, err := filepath.Glob(m.journalPath("*"))
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		found[i] = filepath.Base(filepath.Dir(f))
	}
	// Only root may look into the directory of an app, and a pattern passes over it.
	dirs, err := os.ReadDir(m.stateDir(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range dirs {
		if _, err := os.Lstat(m.journalPath(d.Name())); errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
	}
	return found, nil
}

// hasRecords reports whether somebody installed, or tried to install, an app.
func (m *Machine) hasRecords(app string) bool {
	_, err := os.Lstat(m.journalPath(app))
	return !errors.Is(err, fs.ErrNotExist)
}

// TheApp is the app that a command without a bundle is about.
func (m *Machine) TheApp() (string, error) {
	apps, err := m.Installed()
	if err != nil {
		return "", err
	}
	switch {
	case m.App != "":
		if !bundle.ValidApp(m.App) {
			return "", usagef("%q is not the name of an app", m.App)
		}
		for _, a := range apps {
			if a == m.App {
				return a, nil
			}
		}
		if current, ok := m.leftover(m.App); ok {
			return "", goneRecords(m.App, current)
		}
		return "", fmt.Errorf("app %s is not installed here", m.App)
	case len(apps) == 0:
		if lost, err := m.broken(context.Background()); err == nil && len(lost) > 0 {
			current, _ := m.leftover(lost[0])
			return "", goneRecords(lost[0], current)
		}
		return "", advise(errors.New("no app is installed here"), InstallAny)
	case len(apps) > 1:
		return "", advise(usagef("several apps are installed (%s)", strings.Join(apps, ", ")), NameApp)
	}
	return apps[0], nil
}

// lockApp locks an app of a kind for what, opens its journal and connects the
// engine. It changes nothing that runs: see recoverFirst.
func (m *Machine) lockApp(ctx context.Context, app, kind, what string) (_ *lockedApp, err error) {
	var closers []func()
	closeAll := func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	a := &lockedApp{close: closeAll}
	var program docker.Program
	if m.dockers(kind) {
		if a.engine, err = m.connect(ctx); err != nil {
			return nil, err
		}
		closers = append(closers, func() { a.engine.Close() })
		if program, err = docker.FindCompose(ctx, m.dockerEnv()); err != nil {
			return nil, err
		}
	}
	state, err := release.OpenDir(m.stateDir(app), 0o700)
	if err != nil {
		return nil, err
	}
	state.Close()
	unlock, err := m.lock(ctx, app, what)
	if err != nil {
		return nil, err
	}
	closers = append(closers, func() { unlock() })
	if a.journal, err = m.openRecords(ctx, app); err != nil {
		return nil, err
	}
	closers = append(closers, func() { a.journal.Close() })
	if err := os.MkdirAll(filepath.Join(m.Root, "opt"), 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	store, err := release.Create(m.AppDir(app))
	if err != nil {
		return nil, err
	}
	closers = append(closers, func() { store.Close() })
	a.store = store
	var runtime installer.Runtime
	switch {
	case m.Runtime != nil:
		runtime = m.Runtime(app)
	case kind == bundle.KindTree:
		runtime = m.treeApp(app, store, m.Report)
	default:
		runtime = m.runtime(app, store, a.engine, program)
	}
	a.data, _ = runtime.(keeper)
	a.Installer = &installer.Installer{Journal: a.journal, Runtime: runtime, Now: m.Now, NewID: m.NewID, Report: m.Report, Rotate: m.rotate(app), StopWithin: m.StopWithin}
	return a, a.limit(ctx, m)
}

// limit gives the app the limits of the release that runs.
func (a *lockedApp) limit(ctx context.Context, m *Machine) error {
	st, err := a.journal.Load(ctx)
	if err != nil {
		return err
	}
	manifest := new(bundle.Manifest)
	if st.Current != nil {
		if read, err := a.store.Manifest(st.Current.Dir, st.Current.Manifest); err == nil {
			manifest = read
		}
	}
	if a.Limits, err = m.limits(st.App, manifest); err != nil {
		m.Note("%v; the limits of the release apply", err) // nothing stands in the way back
	}
	return nil
}

// NewID is the ID of the next record.
func (m *Machine) NewID() string {
	if m.Record != "" {
		return m.Record
	}
	return rand.Text()
}

// rotate returns what brings a committed rotation into the trust policy of an app.
func (m *Machine) rotate(app string) func(context.Context, *verify.Rotation) error {
	return func(_ context.Context, r *verify.Rotation) error {
		policy, err := m.policyFile(app)
		if err != nil {
			return err
		}
		policy = policy.After(r)
		for _, s := range policy.Signers {
			m.Note("from now on releases of %s are accepted from %s", app, s)
		}
		return m.writePolicy(app, policy, source.Config{})
	}
}

// runtime is the app's runtime. store may be nil where nothing is installed, and
// program where nothing is run.
func (m *Machine) runtime(app string, store *release.Store, engine *docker.Engine, program docker.Program) *compose.App {
	a := &compose.App{
		Name: app, Dir: m.AppDir(app), Releases: store, Engine: engine, Program: program, Env: m.dockerEnv(), Rand: rand.Reader, Given: m.Given, Now: m.Now,
		Report: m.Report, Retained: m.retained(app),
		Show: func(key, value string) { m.Secret(key, value, filepath.Join(m.AppDir(app), ".env")) },
	}
	if m.live() && m.Getenv("DOCKER_HOST") == "" {
		a.RestartEngine = func(ctx context.Context) error { return systemd.Restart(ctx, "docker.service") }
	}
	return a
}

func (m *Machine) connect(ctx context.Context) (*docker.Engine, error) {
	host, err := m.engineHost()
	if err != nil {
		return nil, err
	}
	return docker.Connect(ctx, host, m.EngineAnswer)
}

// engineHost is the engine that is meant, for us and for docker compose: the one of
// DOCKER_HOST, else the machine's own. One that docker's configuration names is
// refused: docker compose would take it, or not, depending on who calls.
func (m *Machine) engineHost() (string, error) {
	if host := m.Getenv("DOCKER_HOST"); host != "" {
		return host, nil
	}
	name, from := m.Getenv("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
	if dir := cmp.Or(m.Getenv("DOCKER_CONFIG"), filepath.Join(m.Getenv("HOME"), ".docker")); name == "" && filepath.IsAbs(dir) {
		var config struct{ CurrentContext string }
		from = filepath.Join(dir, "config.json")
		if b, err := os.ReadFile(from); err == nil && json.Unmarshal(b, &config) == nil {
			name = config.CurrentContext
		}
	}
	if name != "" && name != "default" {
		return "", fmt.Errorf("docker context %q is selected by %s, and contexts are not supported: name the engine's socket with DOCKER_HOST=unix:///..., or run \"docker context use default\"", name, from)
	}
	return docker.DefaultHost, nil
}

func (m *Machine) dockerEnv() docker.Env {
	// Without a host docker compose would follow a context to another engine.
	return docker.Env{Path: m.Getenv("PATH"), Home: m.Getenv("HOME"), Host: cmp.Or(m.Getenv("DOCKER_HOST"), docker.DefaultHost), DockerConfig: m.Getenv("DOCKER_CONFIG"), Answer: m.EngineAnswer}
}

// recoverFirst undoes what an earlier call left unfinished and says so.
func (m *Machine) recoverFirst(ctx context.Context, a *lockedApp) error {
	res, err := a.Recover(ctx)
	if err != nil {
		return err
	}
	switch res.Outcome {
	case installer.NothingToDo:
		return a.resume(ctx)
	case installer.NeedsAttention:
		return &AttentionError{res.Err}
	}
	m.Note("an earlier %s to %s did not finish and was undone", res.Record.Action, res.Record.To.Version)
	return nil
}

// resume lets go on what a backup by hand stopped: no record says that it was cut
// off.
func (a *lockedApp) resume(ctx context.Context) error {
	st, err := a.journal.Load(ctx)
	if err != nil || st.Current == nil {
		return err
	}
	return installer.Within(ctx, "undo", a.Limits.Undo, func(ctx context.Context) error { return a.Runtime.Resume(ctx, *st.Current, *st.Current) })
}

// errNoData is what a tree has to say about backups.
var errNoData = errors.New("a file tree keeps its data where its units say, and this program does not back it up: do that as for other services")

// ReadState reads the records of an app without locking it.
func (m *Machine) ReadState(ctx context.Context, app string) (*record.Store, installer.State, error) {
	j, err := record.OpenReadOnly(ctx, m.journalPath(app), app)
	if errors.Is(err, record.ErrOlder) {
		var migrated *record.Store
		if migrated, err = record.Open(ctx, m.journalPath(app), app); err == nil {
			migrated.Close()
			j, err = record.OpenReadOnly(ctx, m.journalPath(app), app)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, installer.State{}, fmt.Errorf("app %s is not installed here", app)
	}
	if err != nil {
		return nil, installer.State{}, damagedRecords(err)
	}
	st, err := j.Load(ctx)
	if err != nil {
		j.Close()
		return nil, st, damagedRecords(err)
	}
	return j, st, nil
}

func damagedRecords(err error) error {
	if errors.Is(err, record.ErrDamaged) {
		return advise(err, RepairRecords)
	}
	return err
}

// SocketGroup may ask the daemon for things: the page's process is in it.
const SocketGroup = "valise"

// RunDir is the directory of what lasts until the machine goes down.
func (m *Machine) RunDir() string { return filepath.Join(m.Root, "run/valise") }

// SocketPath is the daemon's socket.
func (m *Machine) SocketPath() string { return filepath.Join(m.RunDir(), "daemon.sock") }

// treeApp is the runtime of an app that is a file tree. store may be nil where
// nothing is installed.
func (m *Machine) treeApp(app string, store *release.Store, report func(installer.Event)) *tree.App {
	return &tree.App{
		Name: app, Dir: m.AppDir(app), Releases: store, Platform: host.Platform(), Rand: rand.Reader, Given: m.Given, Boot: m.Boot, Report: report,
		Show: func(key, value string) { m.Secret(key, value, "the environment file") },
	}
}

// dockers reports whether an app of a kind needs a container engine.
func (m *Machine) dockers(kind string) bool { return kind == bundle.KindCompose && m.Runtime == nil }

// platform is what images or trees must be for. engine is nil for a tree.
func (m *Machine) platform(ctx context.Context, engine *docker.Engine) (bundle.Platform, error) {
	if engine == nil {
		return host.Platform(), nil
	}
	info, err := engine.Info(ctx)
	return info.Platform, err
}

// kindIn is the kind of the app that records are about, empty when they say
// nothing yet.
func kindIn(st installer.State) string {
	for _, r := range []*installer.Release{st.Current, st.Previous} {
		if r != nil && r.Kind == "" {
			return bundle.KindCompose
		}
		if r != nil {
			return r.Kind
		}
	}
	if u := st.Unfinished; u != nil && u.To.Kind != "" {
		return u.To.Kind
	}
	return ""
}

// kindOf is the kind of an installed app. What was cut off before its first operation was
// written down has nothing in a container engine, and counts as a tree, which needs none.
func (m *Machine) kindOf(ctx context.Context, app string) (string, error) {
	kind, tried, err := m.recordedKind(ctx, app)
	if err != nil || kind != "" {
		return kind, err
	}
	if _, here := m.leftover(app); here || tried {
		return bundle.KindCompose, nil
	}
	return bundle.KindTree, nil
}

// recordedKind is the kind of app that its records name; empty when they do not. tried says
// that they name an installation that failed, and nothing else.
func (m *Machine) recordedKind(ctx context.Context, app string) (kind string, tried bool, err error) {
	j, st, err := m.ReadState(ctx, app)
	if err != nil {
		return "", false, err
	}
	defer j.Close()
	if kind := kindIn(st); kind != "" {
		return kind, false, nil
	}
	last, err := j.History(ctx, 1, 0)
	if err != nil || len(last) == 0 {
		return "", false, err
	}
	return last[0].To.Kind, true, nil
}

// prepareTree puts in place what belongs to a tree on this machine, the unit
// that undoes at boot what a power cut left unfinished, and returns how many
// releases stay.
func (m *Machine) prepareTree(ctx context.Context, manifest *bundle.Manifest) (keep int, err error) {
	keep, err = tree.Keep(manifest)
	if err != nil {
		m.Note("%v", err)
	}
	return keep, m.installRecovery(ctx, manifest.App, servicesOf(manifest.Device.Tree.UnitNames()), nil)
}

// servicesOf are the units that wait for recovery: sockets and mounts are there before
// any service can be, and what one starts is a service.
func servicesOf(units []string) []string {
	return slices.DeleteFunc(slices.Clone(units), func(name string) bool { return !strings.HasSuffix(name, ".service") || strings.Contains(name, "@.") })
}
