package device

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/tree"
	"github.com/valise-ota/valise/verify"
)

// device is one app on this machine, opened to be changed: it holds the app's
// lock until close.
type device struct {
	*installer.Installer
	app     *compose.App // nil when the app is a tree
	tree    *tree.App    // nil when it is not
	engine  *docker.Engine
	journal *record.Store
	store   *release.Store
	close   func()
}

func (p *Machine) stateDir(app string) string { return filepath.Join(p.Root, "var/lib/valise", app) }

func (p *Machine) journalPath(app string) string {
	return filepath.Join(p.stateDir(app), "state.db")
}

func (p *Machine) AppDir(app string) string { return filepath.Join(p.Root, "opt", app) }

// Installed lists the apps that have records here.
func (p *Machine) Installed() ([]string, error) {
	found, err := filepath.Glob(p.journalPath("*"))
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		found[i] = filepath.Base(filepath.Dir(f))
	}
	return found, nil
}

// hasRecords reports whether somebody installed, or tried to install, an app.
func (p *Machine) hasRecords(app string) bool {
	_, err := os.Lstat(p.journalPath(app))
	return !errors.Is(err, fs.ErrNotExist)
}

// TheApp is the app that a command without a bundle is about.
func (p *Machine) TheApp() (string, error) {
	apps, err := p.Installed()
	if err != nil {
		return "", err
	}
	switch {
	case p.App != "":
		if !bundle.ValidApp(p.App) {
			return "", usagef("%q is not the name of an app", p.App)
		}
		for _, a := range apps {
			if a == p.App {
				return a, nil
			}
		}
		return "", fmt.Errorf("app %s is not installed here", p.App)
	case len(apps) == 0:
		return "", advise(errors.New("no app is installed here"), InstallAny)
	case len(apps) > 1:
		return "", advise(usagef("several apps are installed (%s)", strings.Join(apps, ", ")), NameApp)
	}
	return apps[0], nil
}

// openDevice locks an app of a kind for what, opens its journal and connects the
// engine. It changes nothing that runs: see recoverFirst.
func (p *Machine) openDevice(ctx context.Context, app, kind, what string) (_ *device, err error) {
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
	d := &device{close: closeAll}
	var command []string
	if kind == bundle.KindCompose {
		if d.engine, err = p.connect(ctx); err != nil {
			return nil, err
		}
		closers = append(closers, func() { d.engine.Close() })
		if command, _, err = docker.FindCompose(ctx, p.dockerEnv()); err != nil {
			return nil, err
		}
	}
	state, err := release.OpenDir(p.stateDir(app), 0o700)
	if err != nil {
		return nil, err
	}
	state.Close()
	unlock, err := release.Lock(filepath.Join(p.stateDir(app), "lock"), "valise-installer "+what, p.Now())
	if locked := new(release.LockedError); errors.As(err, &locked) {
		return nil, advise(err, Wait)
	}
	if err != nil {
		return nil, err
	}
	closers = append(closers, func() { unlock() })
	if d.journal, err = p.openRecords(ctx, app); err != nil {
		return nil, err
	}
	closers = append(closers, func() { d.journal.Close() })
	if err := os.MkdirAll(filepath.Join(p.Root, "opt"), 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	store, err := release.Create(p.AppDir(app))
	if err != nil {
		return nil, err
	}
	closers = append(closers, func() { store.Close() })
	d.store = store
	var runtime installer.Runtime
	report := p.Report
	if kind == bundle.KindTree {
		d.tree = p.treeApp(app, store, report)
		runtime = d.tree
	} else {
		d.app = p.runtime(app, store, d.engine, command)
		d.app.Report = report
		runtime = d.app
	}
	d.Installer = &installer.Installer{Journal: d.journal, Runtime: runtime, Now: p.Now, NewID: p.NewID, Report: report, Rotate: p.rotate(app)}
	return d, nil
}

// NewID is the ID of the next record.
func (p *Machine) NewID() string {
	if p.Record != "" {
		return p.Record
	}
	return rand.Text()
}

// rotate returns what brings a committed rotation into the trust policy of an app.
func (p *Machine) rotate(app string) func(context.Context, *verify.Rotation) error {
	return func(_ context.Context, r *verify.Rotation) error {
		policy, err := p.policyFile(app)
		if err != nil {
			return err
		}
		policy = policy.After(r)
		for _, s := range policy.Signers {
			p.Note("from now on releases of %s are accepted from %s", app, s)
		}
		return p.writePolicy(app, policy, source.Config{})
	}
}

// runtime is the app's runtime. store may be nil where nothing is installed, and
// command where nothing is run.
func (p *Machine) runtime(app string, store *release.Store, engine *docker.Engine, command []string) *compose.App {
	return &compose.App{
		Name: app, Dir: p.AppDir(app), Releases: store, Engine: engine, Command: command, Env: p.dockerEnv(), Rand: rand.Reader, Given: p.Given, Now: p.Now,
		Report: p.Report, Retained: p.retained(app),
		Show: func(key, value string) { p.Secret(key, value, filepath.Join(p.AppDir(app), ".env")) },
	}
}

func (p *Machine) connect(ctx context.Context) (*docker.Engine, error) {
	return docker.Connect(ctx, p.Getenv("DOCKER_HOST"))
}

func (p *Machine) dockerEnv() docker.Env {
	return docker.Env{Path: p.Getenv("PATH"), Home: p.Getenv("HOME"), Host: p.Getenv("DOCKER_HOST"), DockerConfig: p.Getenv("DOCKER_CONFIG")}
}

// recoverFirst undoes what an earlier call left unfinished and says so.
func (p *Machine) recoverFirst(ctx context.Context, d *device) error {
	res, err := d.Recover(ctx)
	if err != nil {
		return err
	}
	switch res.Outcome {
	case installer.NothingToDo:
		return d.resume(ctx)
	case installer.NeedsAttention:
		return &AttentionError{res.Err}
	}
	p.Note("an earlier %s to %s did not finish and was undone", res.Record.Action, res.Record.To.Version)
	return nil
}

// resume lets go on what a backup by hand stopped: no record says that it was cut
// off.
func (d *device) resume(ctx context.Context) error {
	st, err := d.journal.Load(ctx)
	if err != nil || st.Current == nil {
		return err
	}
	return d.Runtime.Resume(ctx, *st.Current)
}

// errNoData is what a tree has to say about backups.
var errNoData = errors.New("an app that is a file tree keeps its data where its units say, and nothing here saves them: save them as you do for other services")

// ReadState reads the records of an app without locking it.
func (p *Machine) ReadState(ctx context.Context, app string) (*record.Store, installer.State, error) {
	j, err := record.OpenReadOnly(ctx, p.journalPath(app), app)
	if errors.Is(err, record.ErrOlder) {
		var migrated *record.Store
		if migrated, err = record.Open(ctx, p.journalPath(app), app); err == nil {
			migrated.Close()
			j, err = record.OpenReadOnly(ctx, p.journalPath(app), app)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, installer.State{}, fmt.Errorf("app %s is not installed here", app)
	}
	if err != nil {
		return nil, installer.State{}, err
	}
	st, err := j.Load(ctx)
	if err != nil {
		j.Close()
		return nil, st, err
	}
	return j, st, nil
}

// SocketGroup may ask the daemon for things: the page's process is in it.
const SocketGroup = "valise"

func (p *Machine) RunDir() string { return filepath.Join(p.Root, "run/valise") }

func (p *Machine) SocketPath() string { return filepath.Join(p.RunDir(), "engine.sock") }
