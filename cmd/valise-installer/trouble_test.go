package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/installer/release"
)

// The commands of the scripts that make trouble: killed installers, held locks,
// full disks.

// holdLock is holdlock OWNER AGE, and ! holdlock: this process holds the app's
// lock, or no longer.
func holdLock(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(testKey{}).(*state)
	if neg {
		ts.Check(s.unlock())
		return
	}
	age, err := time.ParseDuration(args[1])
	ts.Check(err)
	s.unlock, err = release.Lock(filepath.Join(ts.Getenv("DEVICE"), "var/lib/valise", ts.Getenv("APP"), "lock"), args[0], time.Now().Add(-age))
	ts.Check(err)
}

// stopped is a valise-installer in the middle of its work.
type stopped struct {
	cmd     *exec.Cmd
	ended   chan error
	out     bytes.Buffer
	wrapper string // directory of a docker that stopped, if that is why
}

// runUntil runs valise-installer until it has come to a place:
//
//	step:NAME      the journal says that the step has begun
//	file:PATH      the file is there
//	before:WORD    docker compose is called with that word, and does nothing yet
//	after:WORD     the same, but docker compose has ended its work
func runUntil(ts *testscript.TestScript, place string, args []string) *stopped {
	kind, what, _ := strings.Cut(place, ":")
	r := &stopped{ended: make(chan error, 1)}
	path := ts.Getenv("PATH")
	var reached func() bool
	switch kind {
	case "step":
		reached = func() bool { return stepBegun(ts, what) }
	case "file":
		reached = func() bool { return exists(filepath.Join(ts.Getenv("DEVICE"), what)) }
	case "before", "after":
		r.wrapper = wrapDocker(ts, kind, what)
		path = r.wrapper + string(filepath.ListSeparator) + path
		reached = func() bool { return exists(filepath.Join(r.wrapper, "blocked")) }
	default:
		ts.Fatalf("unknown place %q", place)
	}
	r.cmd = exec.Command("valise-installer", append([]string{"--root", ts.Getenv("DEVICE"), "--progress", "none"}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr, r.cmd.Dir = &r.out, &r.out, ts.MkAbs(".")
	r.cmd.Env = []string{"PATH=" + path, "HOME=" + ts.Getenv("HOME"), "DOCKER_HOST=" + ts.Getenv("DOCKER_HOST"), "DOCKER_CONFIG=" + ts.Getenv("DOCKER_CONFIG")}
	ts.Check(r.cmd.Start())
	go func() { r.ended <- r.cmd.Wait() }()
	deadline := time.Now().Add(bundletest.Patience())
	for !reached() {
		select {
		case err := <-r.ended:
			ts.Fatalf("it ended before %s: %v\n%s", place, err, r.out.String())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = r.cmd.Process.Kill()
			ts.Fatalf("it never came to %s:\n%s", place, r.out.String())
		}
	}
	return r
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// signalDocker ends the docker that stopped, with everything it called; or lets
// it go on.
func (r *stopped) signalDocker(ts *testscript.TestScript, sig syscall.Signal) {
	if r.wrapper == "" {
		return
	}
	b, err := os.ReadFile(filepath.Join(r.wrapper, "blocked"))
	ts.Check(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	ts.Check(err)
	_ = syscall.Kill(-pid, sig) // each docker has a process group of its own
}

// killAt is killat PLACE [ARG...]: runs valise-installer and kills it there, as
// the kernel does when memory is short. At a step or a file docker compose runs
// on, else it dies with it.
func killAt(ts *testscript.TestScript, neg bool, args []string) {
	r := runUntil(ts, args[0], args[1:])
	ts.Check(r.cmd.Process.Kill())
	<-r.ended
	r.signalDocker(ts, syscall.SIGKILL)
	if r.cmd.ProcessState.Exited() {
		ts.Fatalf("it ended by itself at %s:\n%s", args[0], r.out.String())
	}
}

// terminate is terminate CODE PLACE [ARG...]: asks valise-installer to end there,
// which it does in good order and with CODE.
func terminate(ts *testscript.TestScript, neg bool, args []string) {
	r := runUntil(ts, args[1], args[2:])
	ts.Check(r.cmd.Process.Signal(syscall.SIGTERM))
	<-r.ended
	if got := strconv.Itoa(r.cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit code %s, want %s:\n%s", got, args[0], r.out.String())
	}
}

// during is during PLACE ARG...: runs valise-installer in the background, which
// waits in a call of docker until ! during lets it go on; it must end well.
func during(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(testKey{}).(*state)
	if !neg {
		s.running = runUntil(ts, args[0], args[1:])
		ts.Defer(func() { _ = s.running.cmd.Process.Kill() })
		return
	}
	s.running.signalDocker(ts, syscall.SIGUSR1)
	if err := <-s.running.ended; err != nil {
		ts.Fatalf("%v:\n%s", err, s.running.out.String())
	}
}

// stepBegun reports whether a step of the unfinished record has begun.
func stepBegun(ts *testscript.TestScript, step string) bool {
	app := ts.Getenv("APP")
	j, err := record.OpenReadOnly(context.Background(), filepath.Join(ts.Getenv("DEVICE"), "var/lib/valise", app, "state.db"), app)
	if err != nil {
		return false
	}
	defer j.Close()
	st, err := j.Load(context.Background())
	return err == nil && st.Unfinished != nil && slices.ContainsFunc(st.Unfinished.Steps, func(s installer.Step) bool {
		return s.Name == step && s.State == installer.StepBegun
	})
}

// wrapDocker makes a docker that stops before or after the first compose call with
// the argument word, and says so in the file "blocked".
func wrapDocker(ts *testscript.TestScript, when, word string) string {
	dir, err := os.MkdirTemp(ts.MkAbs("."), "wrap")
	ts.Check(err)
	docker, err := exec.LookPath("docker")
	ts.Check(err)
	text := fmt.Sprintf(`#!/bin/sh
stop() {
	trap go=yes USR1
	echo $$ >%[1]s/pid && mv %[1]s/pid %[1]s/blocked
	while [ -z "$go" ]; do sleep 0.05; done
}
go=
hit=
for a in "$@"; do [ "$a" != %[3]q ] || hit=yes; done
[ ! -e %[1]s/blocked ] || hit= # once
[ "${hit}%[2]s" != yesbefore ] || stop
%[4]s "$@"
code=$?
[ "${hit}%[2]s" != yesafter ] || stop
exit $code
`, dir, when, word, docker)
	ts.Check(os.WriteFile(filepath.Join(dir, "docker"), []byte(text), 0o755))
	return dir
}

// mount is mount TYPE SIZE DIR: a small file system for DIR, of type tmpfs, or
// ext4 in a loop device, in MiB.
func mount(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: mount TYPE SIZE DIR")
	}
	mountAt(ts, args[0], args[1], ts.MkAbs(args[2]))
}

func mountAt(ts *testscript.TestScript, kind, size, dir string) {
	if os.Getuid() != 0 {
		need(test(ts), "root, to mount a file system")
	}
	ts.Check(os.MkdirAll(dir, 0o755))
	command := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			ts.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	if kind == "tmpfs" {
		command("mount", "-t", "tmpfs", "-o", "mode=755,size="+size+"m", "tmpfs", dir)
	} else {
		image, err := os.CreateTemp(ts.MkAbs("."), "disk")
		ts.Check(err)
		image.Close()
		command("truncate", "-s", size+"M", image.Name())
		command("mkfs."+kind, "-q", image.Name())
		command("mount", "-o", "loop", image.Name(), dir)
	}
	ts.Defer(func() { _ = exec.Command("umount", "-l", dir).Run() })
}

// ownEngine is ownengine SIZE: from here on the script uses an engine of its own,
// whose data are on a file system of SIZE MiB. What it publishes cannot be
// reached.
func ownEngine(ts *testscript.TestScript, neg bool, args []string) {
	dir, err := os.MkdirTemp("", "vi") // its sockets want a short name
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	mountAt(ts, "ext4", args[0], dir+"/e")
	engine := func(command string) (string, error) {
		cmd := exec.Command("../../scripts/engine.sh", command, dir+"/e")
		cmd.Env = append(os.Environ(), "VALISE_ENGINE_NET=private")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		return string(out), err
	}
	out, err := engine("up")
	ts.Check(err)
	ts.Defer(func() {
		if _, err := engine("down"); err != nil {
			test(ts).Errorf("engine down: %v", err)
		}
	})
	ts.Value(testKey{}).(*state).engine = func(command string) {
		switch command {
		case "kill":
			ts.Check(killEngine(dir + "/e"))
			return
		case "hang", "go on":
			pid, err := enginePid(dir + "/e")
			ts.Check(err)
			ts.Check(syscall.Kill(pid, map[string]syscall.Signal{"hang": syscall.SIGSTOP, "go on": syscall.SIGCONT}[command]))
			return
		}
		_, err := engine(command)
		ts.Check(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		if !ok {
			ts.Fatalf("engine.sh printed %q", out)
		}
		ts.Setenv(key, value)
	}
}

// engineHangs is enginehangs, and ! enginehangs: the script's own engine takes
// connections and answers nothing, or goes on.
func engineHangs(ts *testscript.TestScript, neg bool, _ []string) {
	s := ts.Value(testKey{}).(*state)
	if neg {
		s.engine("go on")
		return
	}
	s.engine("hang")
	ts.Defer(func() { s.engine("go on") })
}

func enginePid(dir string) (int, error) {
	b, err := os.ReadFile(dir + "/docker.pid")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// killEngine ends the engine below dir and its containerd, as a power cut does.
// Containers go when it starts again.
func killEngine(dir string) error {
	pid, err := enginePid(dir)
	if err != nil {
		return err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
	return nil
}

// engineDies is enginedies [-restart] CODE PLACE [ARG...]: runs valise-installer
// and kills the script's own engine when it has come to a place; it ends with
// CODE. Then, or with -restart at once, the engine is started again.
func engineDies(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(testKey{}).(*state)
	restart := args[0] == "-restart"
	if restart {
		args = args[1:]
	}
	r := runUntil(ts, args[1], args[2:])
	s.engine("kill")
	if restart {
		s.engine("up")
	}
	r.signalDocker(ts, syscall.SIGUSR1)
	<-r.ended
	if got := strconv.Itoa(r.cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit code %s, want %s:\n%s", got, args[0], r.out.String())
	}
	if !restart {
		s.engine("up")
	}
}
