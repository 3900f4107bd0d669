package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
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

func (p *program) stateDir(app string) string { return filepath.Join(p.root, "var/lib/valise", app) }
func (p *program) journalPath(app string) string {
	return filepath.Join(p.stateDir(app), "state.db")
}
func (p *program) appDir(app string) string { return filepath.Join(p.root, "opt", app) }

// installed lists the apps that have records here.
func (p *program) installed() ([]string, error) {
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
func (p *program) hasRecords(app string) bool {
	_, err := os.Lstat(p.journalPath(app))
	return !errors.Is(err, fs.ErrNotExist)
}

// theApp is the app that a command without a bundle is about.
func (p *program) theApp() (string, error) {
	apps, err := p.installed()
	if err != nil {
		return "", err
	}
	switch {
	case p.name != "":
		if !bundle.ValidApp(p.name) {
			return "", cli.Usagef("--app %q is not the name of an app", p.name)
		}
		for _, a := range apps {
			if a == p.name {
				return a, nil
			}
		}
		return "", fmt.Errorf("app %s is not installed here", p.name)
	case len(apps) == 0:
		return "", cli.WithHint(errors.New("no app is installed here"), "start with %q", "valise-installer install BUNDLE --key FILE")
	case len(apps) > 1:
		return "", cli.Usagef("several apps are installed (%s): name one with --app", strings.Join(apps, ", "))
	}
	return apps[0], nil
}

// openDevice locks an app of a kind for what, opens its journal and connects the
// engine. It changes nothing that runs: see recoverFirst.
func (p *program) openDevice(ctx context.Context, app, kind, what string) (_ *device, err error) {
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
	state, err := openDir(p.stateDir(app), 0o700)
	if err != nil {
		return nil, err
	}
	state.Close()
	unlock, err := release.Lock(filepath.Join(p.stateDir(app), "lock"), "valise-installer "+what, p.Now())
	if locked := new(release.LockedError); errors.As(err, &locked) {
		return nil, cli.WithHint(err, "wait until it has ended; see %q", "valise-installer status")
	}
	if err != nil {
		return nil, err
	}
	closers = append(closers, func() { unlock() })
	if d.journal, err = p.openRecords(ctx, app); err != nil {
		return nil, err
	}
	closers = append(closers, func() { d.journal.Close() })
	if err := os.MkdirAll(filepath.Join(p.root, "opt"), 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	store, err := release.Create(p.appDir(app))
	if err != nil {
		return nil, err
	}
	closers = append(closers, func() { store.Close() })
	d.store = store
	var runtime installer.Runtime
	report := p.reporter()
	if kind == bundle.KindTree {
		d.tree = p.treeApp(app, store, report)
		runtime = d.tree
	} else {
		d.app = p.runtime(app, store, d.engine, command)
		d.app.Report = report
		runtime = d.app
	}
	d.Installer = &installer.Installer{Journal: d.journal, Runtime: runtime, Now: p.Now, NewID: p.newID, Report: report, Rotate: p.rotate(app)}
	return d, nil
}

// newID is the ID of the next record.
func (p *program) newID() string {
	if p.record != "" {
		return p.record
	}
	return rand.Text()
}

// rotate returns what brings a committed rotation into the trust policy of an app.
func (p *program) rotate(app string) func(context.Context, *verify.Rotation) error {
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
func (p *program) runtime(app string, store *release.Store, engine *docker.Engine, command []string) *compose.App {
	return &compose.App{
		Name: app, Dir: p.appDir(app), Releases: store, Engine: engine, Command: command, Env: p.dockerEnv(), Rand: rand.Reader, Given: p.given, Now: p.Now,
		Report: p.reporter(), Retained: p.retained(app),
		Show: func(key, value string) {
			if p.observe != nil { // stderr is a log then
				p.Note("%s was generated; it is kept in %s", key, filepath.Join(p.appDir(app), ".env"))
				return
			}
			p.Note("%s is %s (shown once; it is kept in %s)", key, value, filepath.Join(p.appDir(app), ".env"))
		},
	}
}

func (p *program) connect(ctx context.Context) (*docker.Engine, error) {
	return docker.Connect(ctx, p.Getenv("DOCKER_HOST"))
}

func (p *program) dockerEnv() docker.Env {
	return docker.Env{Path: p.Getenv("PATH"), Home: p.Getenv("HOME"), Host: p.Getenv("DOCKER_HOST"), DockerConfig: p.Getenv("DOCKER_CONFIG")}
}

// recoverFirst undoes what an earlier call left unfinished and says so.
func (p *program) recoverFirst(ctx context.Context, d *device) error {
	res, err := d.Recover(ctx)
	if err != nil {
		return err
	}
	switch res.Outcome {
	case installer.NothingToDo:
		return d.resume(ctx)
	case installer.NeedsAttention:
		return attentionError(res)
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

// savedSets lists what was saved of an app, without locking it.
func (p *program) savedSets(app string) ([]backup.Set, error) {
	store, err := release.Open(p.appDir(app))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return p.runtime(app, store, nil, nil).Backups()
}

// readState reads the records of an app without locking it.
func (p *program) readState(ctx context.Context, app string) (*record.Store, installer.State, error) {
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

// track shows the progress of one step that the transaction does not report.
func (p *program) track(step, label string) (update func(done, total int64), finish func(error)) {
	if p.observe == nil {
		return p.UI.Track(label)
	}
	p.observe(installer.Event{Step: step})
	return func(done, total int64) { p.observe(installer.Event{Step: step, Done: done, Total: total}) },
		func(err error) { p.observe(installer.Event{Step: step, Ended: true, Err: err}) }
}

// reporter turns events into progress lines and bars.
func (p *program) reporter() func(installer.Event) {
	if p.observe != nil {
		return p.observe
	}
	var update func(done, total int64)
	var finish func(error)
	end := func(err error) {
		if finish != nil {
			finish(err)
			update, finish = nil, nil
		}
	}
	return func(e installer.Event) {
		switch {
		case e.Ended:
			end(e.Err)
			switch {
			case e.Err != nil && e.Step == "prune":
				p.Note("cleaning up: %v", e.Err)
			case e.Err != nil && e.Step == "hook":
				p.Note("%v", e.Err)
			}
		case e.Detail != "" && (e.Step == "edited" || e.Step == "repair" || e.Step == "prune"):
			end(nil)
			p.Note("%s", cli.OneLine(e.Detail))
		case e.Done > 0:
			if update == nil {
				update, finish = p.UI.Track(cmp.Or(e.Detail, stepLabel[e.Step]))
			}
			update(e.Done, e.Total)
		default:
			end(nil)
			p.UI.Step(e.Step, e.Detail)
		}
	}
}

var stepLabel = map[string]string{"stage": "load layers", "backup": "save data"}
