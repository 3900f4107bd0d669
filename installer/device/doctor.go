package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/fleet"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/tree"
	"github.com/valise-ota/valise/verify"
)

// lowSpace is how little free space is worth a warning, in bytes.
const lowSpace = 512 << 20

// oldestEngine is the oldest engine that is tested.
var oldestEngine = semver.MustParse("20.10.0")

// Finding is the result of one check.
type Finding struct {
	App    string // empty: it is about the machine
	Check  string
	Status string // ok, warning, failed
	// Format is what was found, and Args what stands in it. Front ends in another
	// language know it by Format.
	Format string
	Args   []any
	Remedy Remedy
}

// Detail is what was found, in one line of English.
func (f Finding) Detail() string { return oneLine(fmt.Sprintf(f.Format, f.Args...)) }

// Remedy is what can be done, as with an Error; the zero value is nothing.
type Remedy struct {
	Advice Advice
	Args   []any
}

func do(a Advice, args ...any) Remedy { return Remedy{a, args} }

// findings are collected by examine; each check adds one or more.
type findings []Finding

func (f *findings) add(app, check, status string, remedy Remedy, format string, args ...any) {
	if status == FindingOK {
		remedy = Remedy{}
	}
	*f = append(*f, Finding{app, check, status, format, args, remedy})
}

// addNote is add of a sentence that has its args already, as texts.
func (f *findings) addNote(app, check, status string, remedy Remedy, n installer.Note) {
	args := make([]any, len(n.Args))
	for i, a := range n.Args {
		args[i] = a
	}
	f.add(app, check, status, remedy, n.Format, args...)
}

// How a check ended.
const (
	FindingOK      = "ok"
	FindingWarning = "warning"
	FindingFailed  = "failed"
)

// Examine checks this machine and apps; the page shows the same. The engine
// matters where an app needs it, or where there is none yet.
func (m *Machine) Examine(ctx context.Context, apps []string) findings {
	var f findings
	trees := map[string]bool{}
	for _, app := range apps {
		kind, err := m.kindOf(ctx, app) // examineApp tells what is wrong with records
		trees[app] = err == nil && kind == bundle.KindTree
	}
	var engine *docker.Engine
	var program docker.Program
	if len(apps) == 0 || slices.ContainsFunc(apps, func(app string) bool { return !trees[app] }) {
		m.examineBoot(ctx, &f)
		if engine, program = m.examineEngine(ctx, &f); engine != nil {
			defer engine.Close()
		}
	}
	m.examineSpace(&f, "state", filepath.Join(m.Root, "var/lib"))
	m.examineServices(ctx, &f, apps)
	if lost, err := m.broken(ctx); err == nil {
		for _, app := range lost {
			if !slices.Contains(apps, app) {
				f.add(app, "records", FindingFailed, do(RepairIt), "there are none, although a release is installed")
			}
		}
	}
	for _, app := range apps {
		st, store := m.examineApp(ctx, &f, app)
		if store == nil {
			continue
		}
		if trees[app] {
			m.examineTree(ctx, &f, m.treeApp(app, store, nil), st)
		} else {
			m.examineEnvironment(&f, app, filepath.Join(m.AppDir(app), ".env"), environ.Compose)
			if m.live() {
				m.examineRecovery(ctx, &f, app, []string{"docker.service"})
			}
			if engine != nil {
				a := m.runtime(app, store, engine, program)
				m.examineReleases(ctx, &f, app, a.Verified, nil, "files and images", st)
				if program.Command != nil && st.Current != nil { // else it is said already
					m.examineRunning(ctx, &f, app, a, st)
					m.examineNeeds(ctx, &f, app, a, st)
				}
			}
		}
		store.Close()
		m.examineDrop(&f, app)
		m.examineSource(ctx, &f, app)
		m.examineFleet(ctx, &f, app, st)
	}
	return f
}

func (m *Machine) examineEngine(ctx context.Context, f *findings) (*docker.Engine, docker.Program) {
	engine, err := m.connect(ctx)
	if err != nil {
		f.add("", "engine", FindingFailed, do(StartEngine), "%v", err)
		return nil, docker.Program{}
	}
	info, err := engine.Info(ctx)
	if err != nil {
		engine.Close()
		f.add("", "engine", FindingFailed, do(StartEngine), "%v", err)
		return nil, docker.Program{}
	}
	status := FindingOK
	if v, err := semver.NewVersion(engineVersion(info.Version)); err != nil || v.LessThan(oldestEngine) {
		status = FindingWarning
	}
	f.add("", "engine", status, do(RaiseEngine), "Docker %s, %s, %s, images below %s", info.Version, info.Platform, info.Driver, info.Root)
	m.examineSpace(f, "images", info.Root)
	program, err := docker.FindCompose(ctx, m.dockerEnv())
	if err != nil {
		f.add("", "compose", FindingFailed, do(BringCompose), "%v", err)
	} else {
		f.add("", "compose", FindingOK, do(""), "Docker Compose %s", program.Version)
	}
	return engine, program
}

// engineVersion is the version without what distributions add: 20.10.24+dfsg1.
func engineVersion(s string) string {
	s, _, _ = strings.Cut(s, "+")
	return s
}

func (m *Machine) examineSpace(f *findings, check, path string) {
	free, err := installer.FreeBytes(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		f.add("", "space for "+check, FindingFailed, do(SeeDisk), "%v", err)
	case free < lowSpace:
		f.add("", "space for "+check, FindingWarning, do(MakeRoom), "%s free below %s", gibibytes(free), path)
	default:
		f.add("", "space for "+check, FindingOK, do(""), "%s free below %s", gibibytes(free), path)
	}
}

// examineClock warns about a clock that is certainly wrong. Nothing depends on
// it: signatures carry their own time.
func (m *Machine) examineClock(f *findings, app string, st installer.State) {
	now := m.Now()
	if c := st.Current; c != nil && now.Before(c.CommittedAt) {
		f.add(app, "clock", FindingWarning, do(SetClock),
			"it says %s, and %s was committed later, at %s", Stamp(now), c.Version, Stamp(c.CommittedAt))
	}
}

// examineApp checks what apps of every kind have. The store, which the caller
// closes, is nil when there is nothing more to look at.
func (m *Machine) examineApp(ctx context.Context, f *findings, app string) (installer.State, *release.Store) {
	if policy, err := m.Policy(ctx, app); err != nil {
		f.add(app, "trust", FindingFailed, do(RestoreTrust, m.ConfigPath(app)), "%v", err)
	} else if _, err := verify.New(policy); err != nil {
		f.add(app, "trust", FindingFailed, do(MendFile, m.ConfigPath(app)), "%v", err)
	} else {
		var signers []string
		for _, s := range policy.Signers {
			signers = append(signers, s.String())
		}
		f.add(app, "trust", FindingOK, do(""), "releases signed by %s", strings.Join(signers, ", or "))
	}
	j, st, err := m.ReadState(ctx, app)
	if err != nil {
		f.add(app, "records", FindingFailed, do(RepairIt), "%v", err)
		return st, nil
	}
	j.Close()
	switch u := st.Unfinished; {
	case u != nil && u.Attention != "":
		f.add(app, "records", FindingFailed, do(MendCause), "%s to %s could not be undone: %s", u.Action, u.To.Version, u.Attention)
	case u != nil:
		f.add(app, "records", FindingWarning, do(RecoverIt), "%s to %s is unfinished since %s", u.Action, u.To.Version, Stamp(u.Created))
	default:
		f.add(app, "records", FindingOK, do(""), "nothing is unfinished")
	}
	m.examineClock(f, app, st)
	store, err := release.Open(m.AppDir(app))
	if err != nil {
		f.add(app, "releases", FindingFailed, do(InstallAgain), "%v", err)
		return st, nil
	}
	return st, store
}

// examineTree checks what only a file tree has.
func (m *Machine) examineTree(ctx context.Context, f *findings, a *tree.App, st installer.State) {
	m.examineReleases(ctx, f, a.Name, a.Verified, a.Changed, "files", st)
	if st.Current == nil {
		return
	}
	if path, err := a.EnvFile(*st.Current); err == nil { // else the release is not whole, which stands there
		m.examineEnvironment(f, a.Name, path, environ.Systemd)
	}
	const link = "current link"
	switch name, _, err := a.Releases.Current(); {
	case err != nil:
		f.add(a.Name, link, FindingFailed, do(MendLink, st.Current.Dir, filepath.Join(a.Dir, "current")), "%v", err)
	case name != st.Current.Dir:
		f.add(a.Name, link, FindingFailed, do(MendLink, st.Current.Dir, filepath.Join(a.Dir, "current")), "current leads to %q, and %s was committed", name, st.Current.Dir)
	default:
		f.add(a.Name, link, FindingOK, do(""), "current leads to %s", name)
	}
	if err := a.UnitsRun(ctx, *st.Current); err != nil {
		f.add(a.Name, "units", FindingFailed, do(PutUnitsBack, st.Current.Version), "%v", err)
	} else if again, err := a.Restless(ctx, *st.Current, m.Now()); err != nil || len(again) > 0 {
		for _, u := range again {
			f.add(a.Name, "units", FindingFailed, do(SeeLogs), "service %s keeps failing: it was restarted %d times, last at %s", u.Name, u.Restarts, Stamp(u.Since))
		}
	} else {
		f.add(a.Name, "units", FindingOK, do(""), "they run, start at boot and are those of the release")
	}
	if err := a.Configured(*st.Current); err != nil {
		f.add(a.Name, "configuration", FindingWarning, do(WriteAnew, st.Current.Version), "%v", err)
	}
	m.examineRecovery(ctx, f, a.Name, nil)
}

// examineReleases checks whether the current and the previous release are whole:
// what is what they consist of. changed are files of an adopted one that are not those it
// was made with, where going back to it works all the same.
func (m *Machine) examineReleases(ctx context.Context, f *findings, app string, intact func(context.Context, installer.Release) error, changed func(context.Context, installer.Release) ([]string, error), what string, st installer.State) {
	if st.Current == nil {
		f.add(app, "current", FindingFailed, do(InstallIt), "no release is installed")
	}
	for i, r := range []*installer.Release{st.Current, st.Previous} {
		if r == nil {
			continue
		}
		which := []string{"current", "previous"}[i]
		if r.Signer == installer.Adopted && changed != nil {
			if paths, err := changed(ctx, *r); err == nil && len(paths) > 0 {
				f.add(app, which, FindingWarning, do(VerifiedNext), "%s was adopted, never verified, and another program changed %s: rolling back to it works, and keeps the change", r.Version, some(paths))
				continue
			}
		}
		if err := intact(ctx, *r); err != nil {
			status, remedy := FindingFailed, do(PutBack, r.Version)
			if which == "previous" {
				status, remedy = FindingWarning, do(NoWayBack)
			}
			if errors.As(err, new(*compose.EditedError)) {
				status, remedy = FindingWarning, do(SwitchMends)
			}
			f.add(app, which, status, remedy, "%s is damaged: %v", r.Version, err)
			continue
		}
		if r.Signer == installer.Adopted {
			f.add(app, which, FindingWarning, do(VerifiedNext), "%s was adopted: its files were never verified", r.Version)
			continue
		}
		f.add(app, which, FindingOK, do(""), "%s, %s are what was verified", r.Version, what)
	}
}

// fewNames is how many files a finding names.
const fewNames = 5

// some are the first of a list, for people.
func some(names []string) string {
	text := strings.Join(names[:min(len(names), fewNames)], ", ")
	if more := len(names) - fewNames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// examineRunning says whether the services of an app run, as they are configured.
func (m *Machine) examineRunning(ctx context.Context, f *findings, app string, a *compose.App, st installer.State) {
	if st.Unfinished != nil {
		return // it is said elsewhere
	}
	if err := a.AsConfigured(ctx, *st.Current); err != nil {
		f.add(app, "services", FindingFailed, do(ApplyIt), "%v", err)
		return
	}
	again, err := a.Restless(ctx, *st.Current, m.Now())
	if err != nil {
		f.add(app, "services", FindingFailed, do(StartEngine), "%v", err)
		return
	}
	for _, c := range again {
		f.add(app, "services", FindingFailed, do(SeeLogs), "service %s keeps failing: it was restarted %d times, last at %s", c.Service, c.RestartCount, Stamp(c.StartedAt))
	}
	if len(again) > 0 {
		return
	}
	f.add(app, "services", FindingOK, do(""), "they run as they are configured")
}

// examineNeeds looks for what the release that runs needs of this device: without
// it, a service that is made anew or started again does not come up.
func (m *Machine) examineNeeds(ctx context.Context, f *findings, app string, a *compose.App, st installer.State) {
	lacking, err := a.Lacks(ctx, *st.Current)
	if err != nil {
		lacking = []installer.Note{installer.Notef("%v", err)}
	}
	for _, what := range lacking {
		f.addNote(app, "needs", FindingFailed, do(MakeMissing), what)
	}
	if len(lacking) == 0 {
		f.add(app, "needs", FindingOK, Remedy{}, "this device has what %s needs", st.Current.Version)
	}
}

func (m *Machine) examineEnvironment(f *findings, app, path string, grammar *environ.Grammar) {
	info, err := os.Stat(path)
	var env *environ.File
	if err == nil {
		var b []byte
		b, err = foreign.ReadFile(path, bundle.MaxConfigFile)
		env, err = grammar.Loaded(path, b, err)
	}
	switch {
	case err != nil:
		f.add(app, "environment", FindingFailed, do(RestoreEnv, path), "%v", err)
	case info.Mode().Perm()&0o077 != 0:
		f.add(app, "environment", FindingWarning, do(HideFile, path), "%s has mode %04o: others can read its passwords", path, info.Mode().Perm())
	case len(env.Remarks()) > 0:
		f.add(app, "environment", FindingWarning, do(WriteKeys), "%s has lines that systemd reads differently than they look: %s", path, strings.Join(env.Remarks(), "; "))
	default:
		f.add(app, "environment", FindingOK, do(""), "%s", path)
	}
}

// examineDrop looks at who can do what in the folder that bundles are put into.
// What is put there is verified; who may write there may also take away what lies
// Exists: bundles to go back to and, in the usual folder, what was saved.
func (m *Machine) examineDrop(f *findings, app string) {
	const check = "drop folder"
	c, err := (&Device{Machine: m}).Config(app)
	if err != nil || c.DropMode == daemon.Off {
		return // the configuration is examined as trust
	}
	info, err := os.Lstat(c.Drop)
	link := err == nil && info.Mode().Type() == fs.ModeSymlink
	switch {
	case errors.Is(err, fs.ErrNotExist):
		status, format := FindingOK, "%s is created when valise-installer serve starts"
		if release.Exists(m.unitPath("valise.service")) {
			status, format = FindingWarning, "%s is missing: no bundle can be dropped there"
		}
		f.add(app, check, status, do(RestartDaemon), format, c.Drop)
		return
	case err != nil:
		f.add(app, check, FindingFailed, do(SeeDisk), "%v", err)
		return
	case link:
		to, _ := filepath.EvalSymlinks(c.Drop)
		f.add(app, check, FindingWarning, do(NameDrop, cmp.Or(to, "DIRECTORY"), m.ConfigPath(app), c.Drop), "%s is a link to %s", c.Drop, cmp.Or(to, "nothing that is there"))
		if info, err = os.Stat(c.Drop); err != nil {
			return
		}
	}
	root, err := foreign.OpenDir(c.Drop, 0)
	if linked := new(foreign.LinkError); errors.As(err, &linked) {
		f.add(app, check, FindingFailed, do(OwnAbove), "nothing is taken from %s: %v", c.Drop, err)
		return
	} else if err == nil {
		root.Close()
	}
	stat, _ := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode(); {
	case !mode.IsDir():
		f.add(app, check, FindingFailed, do(MoveAway), "%s is not a directory", c.Drop)
	case mode.Perm()&0o002 != 0:
		f.add(app, check, FindingFailed, do(ShutFolder, c.Drop), "%s has mode %04o: every user can remove files there", c.Drop, mode.Perm())
	case stat != nil && stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		f.add(app, check, FindingWarning, do(OwnFolder, c.Drop), "%s belongs to user %d, who can remove files there", c.Drop, stat.Uid)
	case mode.Perm()&0o020 != 0 && mode&fs.ModeSticky == 0:
		f.add(app, check, FindingWarning, do(StickFolder, c.Drop), "%s has mode %04o: its group can remove files of others, and backups", c.Drop, mode.Perm())
	case !link:
		f.add(app, check, FindingOK, do(""), "%s has mode %04o", c.Drop, mode.Perm())
	}
}

// sourceWait is how long a source may take to answer.
const sourceWait = 5 * time.Second

// examineSource asks where releases come from whether it can be reached. A device
// that never asks by itself may well be without a network.
func (m *Machine) examineSource(ctx context.Context, f *findings, app string) {
	c, err := m.ReadConfig(app)
	if err != nil || c.Source.IsZero() {
		m.examineRollout(ctx, f, app, nil)
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sourceWait, fmt.Errorf("no answer within %s", sourceWait))
	defer cancel()
	src, err := source.New(app, c.Source, m.sourceOptions(""))
	if err == nil {
		_, err = src.Latest(ctx, source.Query{Platform: host.Platform()})
	}
	if err != nil {
		src = nil
	}
	m.examineRollout(ctx, f, app, src)
	switch {
	case err == nil || errors.Is(err, source.ErrNoRelease):
		f.add(app, "source", FindingOK, do(""), "%s answers", c.Source)
	case c.Updates.Check == 0:
		f.add(app, "source", FindingOK, do(""), "%s does not answer; it is not checked automatically (updates.check is 0): %v", c.Source, err)
	default:
		f.add(app, "source", FindingWarning, do(SeeNetwork, m.ConfigPath(app)), "%s does not answer: %v", c.Source, err)
	}
}

// sayFleet says what the server wants that steers an app.
func sayFleet(f *findings, app, config string, s fleet.Seen, withheld bool) {
	switch {
	case s.Trouble != "":
		f.add(app, "fleet", FindingWarning, do(SeeNetwork, config), "%s cannot be asked: %s", s.Server, s.Trouble)
	case withheld:
		f.add(app, "fleet", FindingWarning, do(AskFleet), "%s leaves %s alone, which the source has since %s", s.Server, s.Newest, s.Since)
	case s.Wants != "":
		f.add(app, "fleet", FindingOK, do(""), "%s wants %s (action %s)", s.Server, s.Wants, s.Action)
	default:
		f.add(app, "fleet", FindingOK, do(""), "%s wants nothing of %s", s.Server, s.ID)
	}
}

// lostWait is how long the status waits for an engine, which it needs for nothing
// else.
const lostWait = 5 * time.Second

// Lost says what the current and the previous release lack, as far as it can be known
// now: their images may have been pruned, or what runs was stopped.
func (m *Machine) Lost(ctx context.Context, st installer.State) (lost []string) {
	if st.Unfinished != nil {
		return nil
	}
	all := ctx
	ctx, cancel := context.WithTimeout(all, lostWait)
	defer cancel()
	switch kindIn(st) {
	case bundle.KindCompose:
	case bundle.KindTree:
		return m.lostUnits(ctx, st)
	default:
		return nil
	}
	engine, err := m.connect(ctx)
	if err != nil {
		return nil
	}
	defer engine.Close()
	store, err := release.Open(m.AppDir(st.App))
	if err != nil {
		return nil
	}
	defer store.Close()
	a := m.runtime(st.App, store, engine, docker.Program{})
	for _, r := range []*installer.Release{st.Current, st.Previous} {
		if r == nil {
			continue
		}
		err := a.Verified(ctx, *r)
		if err == nil || ctx.Err() != nil {
			continue
		}
		remedy := "an update with the bundle of " + r.Version + " brings it back"
		if r == st.Previous {
			remedy = "its bundle is missing: a rollback to it is not possible"
			if b, err := a.Retained(*r); err == nil && b != nil {
				remedy = "a rollback loads its images from " + b.Name
				b.Close()
			}
		}
		lost = append(lost, fmt.Sprintf("%s: %s; %s", r.Version, oneLine(err.Error()), remedy))
	}
	if st.Current == nil {
		return lost
	}
	again, err := a.Restless(ctx, *st.Current, m.Now())
	for _, c := range again {
		lost = append(lost, fmt.Sprintf(endsAgain, st.Current.Version, c.Service, c.RestartCount))
	}
	if err != nil {
		return lost
	}
	// The engine answers, so docker compose may take its time.
	if program, err := docker.FindCompose(all, m.dockerEnv()); err == nil {
		ctx, cancel := context.WithTimeout(all, cmp.Or(m.EngineAnswer, docker.AnswerTimeout))
		defer cancel()
		err := m.runtime(st.App, store, engine, program).AsConfigured(ctx, *st.Current)
		if errors.As(err, new(*installer.ConfigError)) {
			lost = append(lost, fmt.Sprintf("%s: %v; valise-installer apply", st.Current.Version, err))
		}
	}
	return lost
}

// lostUnits is Lost of a file tree: units that do not run, or not for long.
func (m *Machine) lostUnits(ctx context.Context, st installer.State) (lost []string) {
	if st.Current == nil || !release.Exists("/run/systemd/system") {
		return nil
	}
	store, err := release.Open(m.AppDir(st.App))
	if err != nil {
		return nil
	}
	defer store.Close()
	a := m.treeApp(st.App, store, nil)
	if err := a.UnitsRun(ctx, *st.Current); err != nil && ctx.Err() == nil {
		return []string{fmt.Sprintf("%s: %s; valise-installer doctor", st.Current.Version, oneLine(err.Error()))}
	}
	again, _ := a.Restless(ctx, *st.Current, m.Now())
	for _, u := range again {
		lost = append(lost, fmt.Sprintf(endsAgain, st.Current.Version, u.Name, u.Restarts))
	}
	return lost
}

// endsAgain is for a version, a service, and how often it was started again.
const endsAgain = "%s: service %s keeps failing (restarted %d times); valise-installer logs"

// Stamp writes a time for people.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// oneLine joins the lines of a text: engines and docker compose explain themselves
// in several.
func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }

func gibibytes(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }
