//go:build long

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

// What the scripts expect of commands is expected of the daemon too: each command that
// changes the app, and that the API has a call for, goes over the socket of a daemon in
// valise.service, as it is shipped, on a machine with a real systemd.

func init() { programs["through"] = through }

// byHand are the scripts that do not run through the daemon once more, and why.
var byHand = map[string]string{
	"testdata/engine/drop.txtar":                ownDaemon,
	"testdata/engine/disk.txtar":                ownMount,
	"testdata/engine/doctor.txtar":              noDaemon,
	"testdata/engine/environment.txtar":         "values of the environment file are for the command only: docs/page.md",
	"testdata/engine/journal.txtar":             "it damages records that the daemon has open",
	"testdata/engine/kill.txtar":                kills,
	"testdata/engine/orphan.txtar":              kills,
	"testdata/engine/refused_new.txtar":         noCalls,
	"testdata/engine/torn.txtar":                kills,
	"testdata/engine/two.txtar":                 "the daemon waits for its turn, where a command is refused",
	"testdata/engine-long/disk_engine.txtar":    ownEngineHas,
	"testdata/engine-long/engine_dies.txtar":    ownEngineHas,
	"testdata/engine-long/kill.txtar":           kills,
	"testdata/engine-long/skip.txtar":           "the daemon looks for a way and says otherwise that there is none",
	"testdata/engine-long/stops.txtar":          ownDaemon,
	"testdata/engine-long/torn.txtar":           kills,
	"testdata/engine-long/usb.txtar":            ownDaemon,
	"testdata/systemd/doctor.txtar":             noDaemon,
	"testdata/systemd/environment.txtar":        "it asks a person at a terminal",
	"testdata/systemd/page.txtar":               ownDaemon,
	"testdata/systemd/readme.txtar":             noCalls,
	"testdata/systemd-long/adopt_cut.txtar":     cutsPower,
	"testdata/systemd-long/daemon.txtar":        ownDaemon,
	"testdata/systemd-long/engine.txtar":        noCalls,
	"testdata/systemd-long/fleet.txtar":         ownDaemon,
	"testdata/systemd-long/full.txtar":          cutsPower,
	"testdata/systemd-long/installsh.txtar":     noCalls,
	"testdata/systemd-long/operator.txtar":      ownDaemon,
	"testdata/systemd-long/self.txtar":          ownDaemon,
	"testdata/systemd-long/tutorials.txtar":     noCalls,
	"testdata/systemd-long/uninstall_cut.txtar": cutsPower,
	"testdata/systemd-long/updater.txtar":       noCalls,
}

const (
	ownMount     = "it mounts a small file system, which the machine does not see"
	ownDaemon    = "it starts a daemon itself"
	noCalls      = "it installs only, or types its commands in a shell"
	noDaemon     = "what doctor finds where no daemon serves"
	cutsPower    = "it traces a command, and cuts it off at each of its calls"
	kills        = "it kills the command in the middle"
	ownEngineHas = "it has an engine of its own, which the machine does not see"
)

// scripts are those of directories that run through the daemon. It logs why others do not.
func scripts(t *testing.T, dirs ...string) (files []string) {
	left := 0
	for _, dir := range dirs {
		all, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
		if err != nil || len(all) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, file := range all {
			if why := byHand[file]; why == "" {
				files = append(files, file)
			} else {
				t.Logf("%s runs by hand only: %s", file, why)
				left++
			}
		}
	}
	for file := range byHand {
		if slices.Contains(dirs, filepath.Dir(file)) {
			left--
		}
	}
	if left != 0 {
		t.Fatalf("byHand names a script that is not there: %v", byHand)
	}
	return files
}

// TestEngineDaemon runs the scripts of TestEngine and TestEngineLong through daemons. The
// machine has the network of the engine, and the devices of the scripts.
func TestEngineDaemon(t *testing.T) {
	t.Parallel()
	if os.Getenv("VALISE_TEST_SYSTEMD") == "" {
		need(t, "permission to boot containers with systemd (VALISE_TEST_SYSTEMD=1, as root)")
	}
	host := realEngine(t)
	files := scripts(t, "testdata/engine", "testdata/engine-long")
	systemd, err := filepath.Abs("../../scripts/systemd.sh")
	if err != nil {
		t.Fatal(err)
	}
	temp := func(pattern string) string { // short: names of sockets lie below it
		dir, err := os.MkdirTemp("", pattern)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	machine, devices := temp("valise-machine-"), temp("d")
	t.Cleanup(func() {
		if out, err := exec.Command(systemd, "down", machine).CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		if err := os.RemoveAll(devices); err != nil {
			t.Error(err)
		}
	})
	engine, err := url.Parse(host)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(systemd, "up", machine)
	command.Env = append(os.Environ(), "VALISE_MACHINE_SEES="+strings.Join([]string{devices, filepath.Dir(engine.Path), filepath.Dir(os.Getenv("VALISE_COMPOSE"))}, " "))
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("boot: %v\n%s", err, out)
	}
	program := filepath.Join(devices, "valise-installer")
	installer := copyProgram(t, "valise-installer", program)
	copyProgram(t, "docker", filepath.Join(machine, "root/usr/local/bin/docker"))
	unit, err := os.ReadFile("../../installer/device/units/valise.service")
	if err != nil {
		t.Fatal(err)
	}

	p := params("", host)
	p.Files, p.WorkdirRoot, p.Condition = files, devices, byHandIs(false)
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		e.Values[testKey{}].(*state).daemon = true
		e.Setenv("MARIADB", os.Getenv("VALISE_TEST_MARIADB")+","+filepath.Join(os.Getenv("VALISE_TEST_IMAGES"), "base"))
		name := "valise-" + e.Getenv("APP") + ".service"
		etc := filepath.Join(machine, "root/etc/systemd/system")
		serve := fmt.Sprintf("ExecStart=%s --root %s serve --scan %s", program, e.Getenv("DEVICE"), e.Getenv("SCAN"))
		text := strings.Replace(string(unit), "ExecStart=@PROGRAM@ serve", serve+"\nEnvironment=DOCKER_HOST="+host+" DOCKER_CONFIG="+e.Getenv("DOCKER_CONFIG"), 1)
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return err
		}
		in := func(args ...string) error {
			out, err := exec.Command(systemd, append([]string{"run", machine}, args...)...).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%v: %w\n%s", args, err, out)
			}
			return err
		}
		e.Defer(func() {
			if err := in("systemctl", "stop", name); err != nil {
				t.Error(err)
			}
		})
		return throughDaemon(e, "valise-installer", filepath.Join(e.Getenv("DEVICE"), "run/valise/daemon.sock"), "", systemd+" run "+machine, name, "systemctl daemon-reload && systemctl start "+name, installer)
	}
	testscript.Run(t, p)
}

// copyProgram copies a program, and returns where it is.
func copyProgram(t *testing.T, name, to string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-L", path, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// TestSystemdDaemon runs the scripts of TestSystemd and TestSystemdLong through the daemon
// of their machine, from its first installation on.
func TestSystemdDaemon(t *testing.T) {
	t.Parallel()
	if os.Getenv("VALISE_TEST_SYSTEMD") == "" {
		need(t, "permission to boot containers with systemd (VALISE_TEST_SYSTEMD=1, as root)")
	}
	releases := t.TempDir()
	buildCloud(t, releases, runtime.GOARCH, "1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0", "2.0.0", "2.1.0", "2.1.1", "2.9.0", "2.10.0", "3.0.0-rc.1", "4.0.0", "4.1.0", "4.2.0", "4.3.0", "4.4.0")
	p := machines(t, releases)
	p.Files, p.Condition = scripts(t, "testdata/systemd", "testdata/systemd-long"), byHandIs(false)
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		in := e.Getenv("SYSTEMD") + " run " + e.Getenv("MACHINE")
		return throughDaemon(e, "in", "/run/valise/daemon.sock", e.Getenv("ROOT"), in, "valise", "valise-installer page setup && systemctl enable --now valise", strings.Fields(in)...)
	}
	testscript.Run(t, p)
}

// throughDaemon puts a program before the one called name in the PATH of a script: it has
// the daemon do what it can, and otherwise calls fallback. root is the machine's, seen from
// here, where that is another one; in runs a command there. start is what starts the daemon,
// when an app is there.
func throughDaemon(e *testscript.Env, name, socket, root, in, unit, start string, fallback ...string) error {
	bin := filepath.Join(e.WorkDir, ".bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	e.Defer(func() {
		if _, err := os.Stat(filepath.Join(bin, calls)); err != nil {
			e.T().(testing.TB).Errorf("nothing of it went through the daemon: give a reason in byHand")
		}
	})
	program, err := exec.LookPath("through")
	if err != nil {
		return err
	}
	text := fmt.Sprintf("#!/bin/sh\nTHROUGH_SOCKET='%s' THROUGH_ROOT='%s' THROUGH_IN='%s' THROUGH_UNIT='%s' THROUGH_START='%s' THROUGH_BIN='%s' THROUGH_HOST='%s' exec %s %s -- \"$@\"\n", socket, root, in, unit, start, bin, e.Getenv("DOCKER_HOST"), program, strings.Join(fallback, " "))
	file := filepath.Join(bin, name)
	_ = os.Remove(file)
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		return err
	}
	if !strings.HasPrefix(e.Getenv("PATH"), bin+":") {
		e.Setenv("PATH", bin+":"+e.Getenv("PATH"))
	}
	return nil
}

// through is a program: through FALLBACK... -- ARG...: what a script calls in place of
// valise-installer, or of what runs a command in its machine.
func through() {
	i := slices.Index(os.Args, "--")
	fallback, args := os.Args[1:i], os.Args[i+1:]
	t := &throughCall{socket: os.Getenv("THROUGH_SOCKET"), root: os.Getenv("THROUGH_ROOT"), in: strings.Fields(os.Getenv("THROUGH_IN")), unit: os.Getenv("THROUGH_UNIT"), fallback: fallback,
		ours: strings.HasPrefix(os.Getenv("PATH"), os.Getenv("THROUGH_BIN")+":") && os.Getenv("DOCKER_HOST") == os.Getenv("THROUGH_HOST")}
	if t.root != "" && (len(args) == 0 || args[0] != "valise-installer") {
		t.byHand(args)
	}
	call := args
	if t.root != "" {
		call = args[1:]
	}
	do := t.parse(call)
	if do == nil || !t.ours || !t.ready() {
		t.byHand(args)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("THROUGH_BIN"), calls), nil, 0o644); err != nil {
		fatal(err)
	}
	os.Exit(do())
}

// calls is the name of a file that is there when a command of a script went through the
// daemon.
const calls = "calls"

// throughCall is one command of a script.
type throughCall struct {
	socket, root, unit string
	in, fallback       []string
	global             []string // --root, --app
	app                string   // --app
	ours               bool     // the script has the PATH and the engine of the daemon
	served             string   // the app that the daemon does it to
	client             *daemon.Client
	began              time.Time
}

// byHand runs the command as the script says.
func (t *throughCall) byHand(args []string) {
	fatal(syscall.Exec(t.fallback[0], append(slices.Clone(t.fallback), args...), os.Environ()))
}

func (t *throughCall) run(args ...string) string {
	out, err := exec.Command(t.in[0], append(t.in[1:], args...)...).CombinedOutput()
	if err != nil {
		fatal(fmt.Errorf("%v: %w\n%s", args, err, out))
	}
	return string(out)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "through:", err)
	os.Exit(99)
}

// parse is what has the daemon do a command, nil where it has no call for that.
func (t *throughCall) parse(args []string) func() int {
	var words []string
	for i := 0; i < len(args); i++ {
		switch {
		case (args[i] == "--root" || args[i] == "--app") && i+1 < len(args):
			t.global = append(t.global, args[i:i+2]...)
			if args[i] == "--app" {
				t.app = args[i+1]
			}
			i++
		case args[i] == "--progress" && i+1 < len(args):
			i++
		default:
			words = append(words, args[i])
		}
	}
	if len(words) == 0 {
		return nil
	}
	name, rest := words[0], words[1:]
	flag := func(f string) bool {
		i := slices.Index(rest, f)
		if i >= 0 {
			rest = slices.Delete(slices.Clone(rest), i, i+1)
		}
		return i >= 0
	}
	switch name {
	case "update":
		force := flag("--force")
		if len(rest) != 1 || strings.HasPrefix(rest[0], "-") {
			return nil
		}
		file := t.root + rest[0]
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || info.Size() == 0 || filepath.Ext(file) == ".001" {
			return nil
		}
		return func() int { return t.update(file, force) }
	case "rollback":
		data := daemon.Data{}
		if flag("--restore-data") {
			data.Data = daemon.RestoreData
		} else if flag("--keep-data") {
			data.Data = daemon.KeepData
		}
		if len(rest) == 0 {
			return func() int { return t.rollback(data) }
		}
	case "apply", "start", "stop", "restart", "backup":
		if len(rest) == 0 {
			return func() int { return t.operate(name) }
		}
	case "restore":
		discard := flag("--discard")
		if len(rest) == 0 || len(rest) == 1 && !strings.HasPrefix(rest[0], "-") {
			return func() int { return t.restore(first(rest), discard) }
		}
	}
	return nil
}

// ready waits until the daemon has the app, when there is one whose records can be read. It
// starts the daemon first.
func (t *throughCall) ready() bool {
	socket, program := t.socket, []string(nil)
	if t.root != "" {
		program = []string{"valise-installer"}
		pid, err := exec.Command(t.in[0], "pid", t.in[2]).Output()
		if err != nil {
			return false
		}
		socket = "/proc/" + strings.TrimSpace(string(pid)) + "/root" + socket
	}
	if exec.Command(t.fallback[0], slices.Concat(t.fallback[1:], program, t.global, []string{"history", "--limit", "1"})...).Run() != nil {
		return false
	}
	if _, err := os.Stat(socket); err != nil {
		t.run("sh", "-c", os.Getenv("THROUGH_START"))
	}
	t.client = daemon.NewClient(socket, func(context.Context) string { return "script" })
	until := time.Now().Add(bundletest.Patience())
	for {
		var state daemon.State
		err := t.client.Get(context.Background(), "/state", t.app, nil, &state)
		if err == nil {
			t.served, t.began = state.App, time.Now()
			return true
		}
		if time.Now().After(until) {
			fatal(fmt.Errorf("the daemon does not serve the app: %w", err))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// end prints what the daemon said as the command would, and returns its exit code. Notes
// of the daemon are in its journal.
func (t *throughCall) end(result func(p *program) error) int {
	journal := t.run("sh", "-c", fmt.Sprintf("journalctl --sync; journalctl -q -u %s -o cat --since @%d.%06d", t.unit, t.began.Unix(), t.began.Nanosecond()/1000))
	for line := range strings.Lines(journal) {
		if strings.HasPrefix(line, "note: ") {
			fmt.Fprint(os.Stderr, strings.Replace(line, "note: "+t.served+": ", "note: ", 1))
		}
	}
	p := &program{App: cli.App{Env: cli.Env{Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now}}}
	p.Args = []string{}
	root := &cobra.Command{Use: "valise-installer", RunE: func(*cobra.Command, []string) error { return result(p) }}
	return p.Run(context.Background(), root)
}

// refused is the end of a call that was not taken.
func (t *throughCall) refused(err error) int {
	return t.end(func(*program) error {
		if problem := new(daemon.Problem); errors.As(err, &problem) && problem.Check != "" {
			return cli.WithCode(err, cli.ExitRefused)
		}
		return err
	})
}

func (t *throughCall) update(file string, force bool) int {
	ctx := context.Background()
	f, err := os.Open(file)
	if err != nil {
		fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		fatal(err)
	}
	up, err := t.client.Begin(ctx, t.app, daemon.NewUpload{Size: info.Size(), Name: filepath.Base(file), Waits: true})
	if err != nil {
		return t.refused(err)
	}
	if _, err := t.client.Write(ctx, t.app, up.ID, 0, f); err != nil {
		fatal(err)
	}
	rec, err := t.client.Finish(ctx, t.app, up.ID, info.Size())
	if problem := new(daemon.Problem); errors.As(err, &problem) && problem.Status == http.StatusConflict && strings.HasSuffix(problem.Detail, " runs already") {
		return t.end(func(p *program) error {
			_, err := fmt.Fprintln(p.Stdout, problem.Detail+", nothing to do")
			return err
		})
	}
	if err != nil {
		return t.refused(err)
	}
	q, check := url.Values{}, ""
	if force {
		q.Set("force", "true")
	}
	if problem := new(daemon.Problem); errors.As(t.client.Get(ctx, "/"+rec.PublicID+"/plan", t.app, q, nil), &problem) {
		check = problem.Check
	}
	if err := t.client.Post(ctx, "/"+rec.PublicID+"/apply", t.app, daemon.Application{Force: force}, nil); err != nil {
		return t.refused(err)
	}
	return t.watch(rec.PublicID, check)
}

func (t *throughCall) rollback(data daemon.Data) int {
	ctx := context.Background()
	var state daemon.State
	var page daemon.Page
	if err := errors.Join(t.client.Get(ctx, "/state", t.app, nil, &state), t.client.Get(ctx, "", t.app, url.Values{"status": {"completed"}, "page_size": {"100"}}, &page)); err != nil {
		fatal(err)
	}
	for _, u := range page.Data {
		if state.Current == nil || u.Version != state.Current.Version {
			continue
		}
		var done daemon.Done
		if err := t.client.Post(ctx, "/"+u.PublicID+"/rollback", t.app, data, &done); err != nil {
			return t.refused(err)
		}
		return t.watch(done.PublicID, "")
	}
	return t.refused(fmt.Errorf("%w, and no record of %v", installer.ErrNoPrevious, state.Current))
}

func (t *throughCall) operate(name string) int {
	if name == "backup" {
		name = "backups"
	}
	var done daemon.Done
	var out any = &done
	if name == "backups" {
		out = nil
	}
	if err := t.client.Post(context.Background(), "/"+name, t.app, nil, out); err != nil {
		return t.refused(err)
	}
	return t.end(func(p *program) error {
		if (name == "apply" || name == "start") && done.PublicID == "" {
			fmt.Fprintln(p.Stdout, "it runs already, nothing to do")
		}
		return nil
	})
}

func (t *throughCall) restore(id string, discard bool) int {
	ctx := context.Background()
	if id == "" {
		var all []daemon.Backup
		if err := t.client.Get(ctx, "/backups", t.app, nil, &all); err != nil {
			return t.refused(err)
		}
		if len(all) == 0 {
			return t.refused(errors.New("no data were saved here"))
		}
		id = all[0].ID
	}
	var done daemon.Done
	if err := t.client.Post(ctx, "/backups/"+id+"/restore", t.app, daemon.Restoration{Discard: discard}, &done); err != nil {
		return t.refused(err)
	}
	return t.watch(done.PublicID, "")
}

// watch waits for the end of a record, and prints it as the command would.
func (t *throughCall) watch(id, check string) int {
	ctx := context.Background()
	var u daemon.Update
	for {
		err := t.client.Get(ctx, "/"+id, t.app, nil, &u)
		if problem := new(daemon.Problem); errors.As(err, &problem) && problem.Status == http.StatusNotFound {
			err = nil // a rollback has a record when it begins
		}
		if err != nil {
			fatal(err)
		}
		ended := u.Status == installer.Completed || u.Status == installer.Failed || u.Status == installer.RolledBack
		if u.PublicID != "" && !u.Queued && (ended || u.Status == installer.Pending && u.ErrorMessage != nil) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.unlocked()
	res := installer.Result{Record: installer.Record{ID: u.PublicID, To: installer.Release{Version: u.Version, Dir: u.Version}, Action: u.Action, Status: u.Status}}
	if u.FromVersion != nil {
		res.Record.From = &installer.Release{Version: *u.FromVersion, Dir: *u.FromVersion}
	}
	if u.ErrorMessage != nil {
		res.Err = errors.New(*u.ErrorMessage)
	}
	switch {
	case u.Attention != nil:
		res.Outcome = installer.NeedsAttention
	case u.Status == installer.Completed:
		res.Outcome, res.Err = installer.Done, nil
	case u.Status == installer.RolledBack:
		res.Outcome = installer.Reverted
	default:
		res.Outcome = installer.Unchanged
	}
	return t.end(func(p *program) error {
		switch {
		case check != "":
			return cli.WithCode(res.Err, cli.ExitRefused)
		case u.Status == installer.Failed && u.Attention == nil && u.FromVersion == nil: // before anything began
			return coded(res.Err)
		case u.Status == installer.Pending: // it waits; a person who gave the bundle to a command would be told and done
			t.forget(u.PublicID)
			return coded(res.Err)
		}
		return p.end(res, nil)
	})
}

// coded gives an error the exit code that the command has for it: the daemon has none.
func coded(err error) error {
	const choice = "say --restore-data or --keep-data"
	text := err.Error()
	switch before, isChoice := strings.CutSuffix(text, "; "+choice); {
	case isChoice: // a command line that is mended
		return cli.WithHint(cli.Usagef("%s", before), choice)
	case strings.Contains(text, "required environment keys have no value"):
		what, hint, _ := strings.Cut(text, "; ")
		return cli.WithCode(cli.WithHint(errors.New(what), "%s", hint), cli.ExitEnv)
	case strings.Contains(text, " starts from "), strings.Contains(text, " needs container engine "):
		return cli.WithCode(err, cli.ExitRefused)
	}
	return err
}

// unlocked waits until the daemon has cleaned up, too: a command does so before it ends.
func (t *throughCall) unlocked() {
	device := t.root
	if i := slices.Index(t.global, "--root"); i >= 0 {
		device = t.global[i+1]
	}
	f, err := os.OpenFile(filepath.Join(device, "var/lib/valise", t.served, "lock"), os.O_RDWR, 0)
	if err != nil {
		fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		fatal(err)
	}
	f.Close()
}

// forget deletes a record that waits.
func (t *throughCall) forget(id string) {
	req, err := http.NewRequest(http.MethodDelete, "http://valise"+daemon.Prefix+"/"+id+"?app="+t.app, nil)
	if err != nil {
		fatal(err)
	}
	res, err := t.client.Transport().RoundTrip(req)
	if err != nil || res.StatusCode >= 300 {
		fatal(fmt.Errorf("delete %s: %v %v", id, res, err))
	}
	res.Body.Close()
}
