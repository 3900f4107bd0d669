package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
	"github.com/valise-ota/valise/verify"
)

// programName is this program in binDir.
const programName = bundle.InstallerName

// pageUnit is the service of the page.
const pageUnit = "valise-page.service"

// selfCheckTimeout is for a slow device that reads a program for the first time.
const selfCheckTimeout = time.Minute

// triedPrograms is how many carried installers are remembered as looked at.
const triedPrograms = 16

// SelfUpdated is what came of a self-update.
type SelfUpdated struct {
	Carried  string `json:"carried"` // version of the installer in the release
	Before   string `json:"before"`
	Replaced bool   `json:"replaced"`
	Stays    string `json:"-"` // why the one that is here stays
}

// Identity is what an installer says of itself.
type Identity struct {
	Version  string          `json:"version"`
	Platform bundle.Platform `json:"platform"`
}

// SelfCheck reads what an update of any app would begin with.
func (m *Machine) SelfCheck(ctx context.Context) error {
	apps, err := m.Installed()
	if err != nil {
		return err
	}
	for _, app := range apps {
		j, err := record.OpenReadOnly(ctx, m.journalPath(app), app)
		switch {
		case errors.Is(err, record.ErrOlder): // it is migrated by the next change
		case err != nil:
			return err
		default:
			_, err = j.Load(ctx)
			if err = errors.Join(err, j.Close()); err != nil {
				return err
			}
		}
		policy, err := m.policyFile(app)
		if errors.Is(err, fs.ErrNotExist) { // an installation that was refused
			continue
		}
		if err == nil {
			_, err = verify.New(policy)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m.ConfigPath(app), err)
		}
	}
	return nil
}

// notNewerError says that an installer is no newer than the one that is here.
type notNewerError struct{ version, have string }

func (e *notNewerError) Error() string {
	return fmt.Sprintf("it carries valise-installer %s, and %s is here", e.version, e.have)
}

// unfitError says that an installer does not work on this device.
type unfitError struct{ err error }

func (e *unfitError) Error() string {
	return "the valise-installer it carries does not work here: " + e.err.Error()
}

func (e *unfitError) Unwrap() error { return e.err }

// SelfUpdate puts the installer that a release carries in place of this one,
// if it is newer, or with force.
func (m *Machine) SelfUpdate(ctx context.Context, what string, force bool) (SelfUpdated, error) {
	c, err := m.Verify(ctx, what, Options{Forced: force})
	if err != nil {
		return SelfUpdated{}, err
	}
	defer c.Close()
	f, ok := carriedInstaller(c.rel.Manifest())
	if !ok || !c.from.HasFile(f.Path) {
		return SelfUpdated{}, fmt.Errorf("self-update: %s %s has no valise-installer for %s; nothing was changed", c.App, c.rel.Manifest().Version, host.Platform())
	}
	result, err := m.takeInstaller(ctx, c.rel, f, force)
	if older := new(notNewerError); errors.As(err, &older) {
		result.Stays = older.Error()
		return result, nil
	}
	if err != nil {
		err = fmt.Errorf("self-update: %w; nothing was changed", err)
	}
	return result, err
}

// FollowRelease takes the installer of a release that was just committed, if it
// is newer. What goes wrong is said, and changes no result: the app is updated.
func (m *Machine) FollowRelease(ctx context.Context, c *Candidate) {
	f, ok := carriedInstaller(c.rel.Manifest())
	if !ok || !c.from.HasFile(f.Path) || !m.wantsInstaller(f.Digest) {
		return
	}
	got, err := m.takeInstaller(ctx, c.rel, f, false)
	unfit := errors.As(err, new(*unfitError))
	if err == nil || unfit || errors.As(err, new(*notNewerError)) {
		m.noteTried(f.Digest)
	}
	switch {
	case err == nil:
		m.Note("valise-installer is %s from now on (before: %s)", got.Carried, got.Before)
	case unfit:
		m.Note("%v; %s stays", err, m.Version)
	case !errors.As(err, new(*notNewerError)):
		m.Note("valise-installer stays %s: %v; repeat it with %q", m.Version, err, "valise-installer self-update "+c.Path)
	}
}

// carriedInstaller is the installer for this machine among the files of a
// release.
func carriedInstaller(m *bundle.Manifest) (bundle.File, bool) {
	i := slices.IndexFunc(m.Files, func(f bundle.File) bool {
		return f.Path == bundle.InstallerPath(host.Platform())
	})
	if i < 0 {
		return bundle.File{}, false
	}
	return m.Files[i], true
}

// wantsInstaller reports whether a carried installer is worth looking at: a
// build without a version cannot tell what is newer, and each is tried once.
func (m *Machine) wantsInstaller(d bundle.Digest) bool {
	return parseVersion(m.Version) != nil && !slices.Contains(m.tried(), string(d))
}

func (m *Machine) triedPath() string { return filepath.Join(m.Root, "var/lib/valise/installers") }

func (m *Machine) tried() []string {
	b, _ := os.ReadFile(m.triedPath()) // a list to save work
	return strings.Fields(string(b))
}

func (m *Machine) noteTried(d bundle.Digest) {
	list := append(m.tried(), string(d))
	list = list[max(0, len(list)-triedPrograms):]
	_ = os.WriteFile(m.triedPath(), []byte(strings.Join(list, "\n")+"\n"), 0o644)
}

// takeInstaller puts the installer f of rel in the place of the one in binDir.
func (m *Machine) takeInstaller(ctx context.Context, rel *verify.Release, f bundle.File, force bool) (res SelfUpdated, err error) {
	unlock, err := m.lockAll(ctx, "")
	if err != nil {
		return res, err
	}
	defer unlock()
	r, err := rel.OpenFile(f.Path)
	if err != nil {
		return res, err
	}
	defer r.Close()
	m.Step("self-update", "try the valise-installer of "+rel.Manifest().App+" "+rel.Manifest().Version)
	dir, err := release.OpenDir(m.binDir(), 0o755)
	if err != nil {
		return res, err
	}
	defer dir.Close()
	if have, err := m.tryProgram(ctx, filepath.Join(m.binDir(), programName)); err == nil {
		res.Before = have.Version
	} else {
		force = true // none, or one that does not work: any is better
	}
	err = release.ReplaceProgram(ctx, dir, programName, r, func(ctx context.Context, path string) error {
		got, err := m.tryProgram(ctx, path)
		if err != nil {
			return &unfitError{err}
		}
		if res.Carried = got.Version; !force && !newerProgram(got.Version, res.Before) {
			return &notNewerError{got.Version, res.Before}
		}
		return nil
	})
	if res.Replaced = err == nil; res.Replaced {
		m.restartPage(ctx)
	}
	return res, err
}

// restartPage lets the page go on with the program that is there now. The daemon
// starts itself anew, when it has time.
func (m *Machine) restartPage(ctx context.Context) {
	if m.Root != "/" || !release.Exists(filepath.Join(systemd.UnitDir, pageUnit)) {
		return
	}
	if err := systemd.TryRestart(ctx, pageUnit); err != nil {
		m.Note("the page still runs as before: %v", err)
	}
}

// isSelf reports whether the file is the running program.
func (m *Machine) isSelf(path string) bool {
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	file, err := os.Stat(path)
	return err == nil && os.SameFile(running, file)
}

// tryProgram has an installer look at this device.
func (m *Machine) tryProgram(ctx context.Context, path string) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, selfCheckTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	var err error
	for range 20 {
		c := exec.CommandContext(ctx, path, "--root", m.Root, "--output", "json", "self-check")
		c.Env = []string{"PATH=" + m.Getenv("PATH")}
		c.Stdout, c.Stderr, c.WaitDelay = &out, &errs, time.Second
		// A child that another goroutine starts has our open file for a moment.
		if err = trace.Run(ctx, "self-check of another installer", c); !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	var got Identity
	switch {
	case ctx.Err() != nil:
		return got, fmt.Errorf("start it: %w", ctx.Err())
	case err != nil:
		return got, fmt.Errorf("start it: %w: %.300s", err, strings.TrimSpace(errs.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return got, fmt.Errorf("start it: it does not say what it is: %w", err)
	}
	if got.Platform != host.Platform() {
		return got, fmt.Errorf("it is for %s, this machine is %s", got.Platform, host.Platform())
	}
	return got, nil
}

// lockAll takes the locks of all apps but one, whose lock the caller has, and
// fails while a transaction of one is unfinished: the program that began it is
// the one to end it.
func (m *Machine) lockAll(ctx context.Context, but string) (unlock func(), err error) {
	apps, err := m.Installed()
	if err != nil {
		return nil, err
	}
	var unlocks []func() error
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	for _, app := range apps {
		if app == but {
			continue
		}
		u, err := m.lock(ctx, app, "self-update")
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, u)
		st, err := m.State(ctx, app)
		if err == nil && st.Unfinished != nil {
			err = fmt.Errorf("an earlier %s of %s to %s did not finish: %q ends it", st.Unfinished.Action, app, st.Unfinished.To.Version, "valise-installer --app "+app+" recover")
		}
		if err != nil {
			unlock()
			return nil, err
		}
	}
	return unlock, nil
}

// installSelf puts the running program into binDir where there is none, or an
// older one: that could not read the records this one is about to write.
func (m *Machine) installSelf(ctx context.Context, app string) error {
	file := filepath.Join(m.binDir(), programName)
	if release.Exists(file) {
		// Started from there: what is there now was put in our place.
		if started, err := os.Executable(); m.isSelf(file) || err == nil && started == file {
			return nil
		}
		have, err := m.tryProgram(ctx, file)
		if err == nil && !newerProgram(m.Version, have.Version) {
			return nil
		}
	}
	unlock, err := m.lockAll(ctx, app)
	if err != nil {
		return fmt.Errorf("install %s: %w", file, err)
	}
	defer unlock()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	dir, err := release.OpenDir(m.binDir(), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	// It runs, so it need not be tried.
	return release.ReplaceProgram(ctx, dir, programName, self, func(context.Context, string) error { return nil })
}

// newerProgram compares versions of builds. One without a version is not newer
// than any, and none is newer than it.
func newerProgram(a, b string) bool {
	x, y := parseVersion(a), parseVersion(b)
	return x != nil && y != nil && x.GreaterThan(y)
}

// parseVersion is nil for a build that has none.
func parseVersion(s string) *semver.Version {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(s, "v"))
	if err != nil {
		return nil
	}
	return v
}

// UpdateSuffix ends the name by which this program is the updater of one app.
const UpdateSuffix = "-update"

// binDir is where commands that people call are.
func (m *Machine) binDir() string { return filepath.Join(m.Root, "usr/local/bin") }

// installCommands puts this program where it can be called, also by the name
// APP-update.
func (m *Machine) installCommands(ctx context.Context, app string) error {
	dir, err := release.OpenDir(m.binDir(), 0o755)
	if err != nil {
		return fmt.Errorf("install %s%s: %w", app, UpdateSuffix, err)
	}
	defer dir.Close()
	if err := m.installSelf(ctx, app); err != nil {
		return err
	}
	name := app + UpdateSuffix
	if fi, err := dir.Lstat(name); err == nil && fi.Mode().Type() != fs.ModeSymlink {
		return fmt.Errorf("install %s: a file is there already", filepath.Join(m.binDir(), name))
	}
	if to, err := dir.Readlink(name); err == nil && to == programName {
		return nil
	}
	return release.Symlink(dir, programName, name)
}

// AppOf is the app whose updater a program called name is.
func AppOf(name string) (string, bool) {
	return strings.CutSuffix(filepath.Base(name), UpdateSuffix)
}
