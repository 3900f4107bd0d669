//go:build long

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func init() {
	onMachine["cuteach"], onMachine["fulleach"], onMachine["hawkbit"] = cutEach, fullEach, hawkbit
}

// TestSystemdLong is what takes minutes, such as killing a command at its renames,
// links and removals, one after the other, when the power goes with it.
func TestSystemdLong(t *testing.T) {
	t.Parallel()
	releases := t.TempDir()
	buildCloud(t, releases, runtime.GOARCH, "1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "2.0.0", "2.1.0", "2.1.1", "2.10.0", "3.0.0-rc.1", "4.0.0", "4.1.0", "4.2.0", "4.3.0", "4.4.0")
	onMachines(t, "testdata/systemd-long", releases)
}

// cutEach is cuteach CHECK COMMAND...: for each rename, link and removal of COMMAND
// the machine begins as it is now, COMMAND is killed there, the power goes, and
// CHECK, a script, must succeed on the machine that comes up then.
func cutEach(ts *testscript.TestScript, _ bool, args []string) {
	each(ts, "renameat,renameat2,linkat,symlinkat,unlinkat", "signal=SIGKILL", "killed by SIGKILL", args, func(int, string) {
		for _, what := range []string{"cut", "up"} {
			ts.Check(ts.Exec(ts.Getenv("SYSTEMD"), what, ts.Getenv("MACHINE")))
		}
	})
}

// fullEach is fulleach CHECK COMMAND...: for each call of COMMAND that needs room on
// a disk the machine begins as it is now, and the disk is full for that call. It
// ends with 0, 1 or 3, and CHECK must succeed. strace counts the calls of each
// thread for itself: when the way back met a full disk too, 5 is right.
func fullEach(ts *testscript.TestScript, _ bool, args []string) {
	each(ts, "renameat,renameat2,linkat,symlinkat,mkdirat,fsync", "error=ENOSPC", "(INJECTED)", args, func(code int, trace string) {
		if code != 0 && code != 1 && code != 3 && (code != 5 || strings.Count(trace, "(INJECTED)") < 2) {
			ts.Fatalf("exit code %d\n%s", code, trace)
		}
	})
}

// each has COMMAND meet a fault at each of its calls, on machines that begin as
// this one is. Of many calls it takes fewer and fewer.
func each(ts *testscript.TestScript, calls, fault, met string, args []string, then func(code int, trace string)) {
	machine := ts.Getenv("MACHINE")
	systemd := func(args ...string) { ts.Check(ts.Exec(ts.Getenv("SYSTEMD"), args...)) }
	upper, saved := filepath.Join(machine, "upper"), filepath.Join(machine, "saved")
	systemd("cut", machine)
	ts.Check(os.RemoveAll(saved))
	ts.Check(ts.Exec("cp", "-a", upper, saved))
	log := ts.MkAbs("strace.log")
	in := filepath.Join(ts.Getenv("WORK"), ".bin/in")
	points := 0
	for n := 1; ; n += 1 + n/6 {
		systemd("cut", machine)
		ts.Check(ts.Exec("rm", "-rf", upper))
		ts.Check(ts.Exec("cp", "-a", saved, upper))
		systemd("up", machine)
		cmd := exec.Command("strace", append([]string{"-f", "-y", "-qq", "-o", log, "-e", "trace=" + calls, "-e",
			fmt.Sprintf("inject=%s:%s:when=%d", calls, fault, n), in}, args[1:]...)...)
		said, err := cmd.CombinedOutput()
		trace, readErr := os.ReadFile(log)
		ts.Check(readErr)
		if !strings.Contains(string(trace), met) {
			if err != nil {
				ts.Fatalf("it met nothing, and failed: %v\n%s", err, said)
			}
			break
		}
		points++
		then(cmd.ProcessState.ExitCode(), string(trace))
		if out, err := exec.Command(in, "bash", "-c", ts.ReadFile(args[0])).CombinedOutput(); err != nil {
			ts.Fatalf("call %d: %v\n%s\nit said:\n%s\ncalls:\n%s", n, err, out, said, trace)
		}
	}
	ts.Logf("%d points", points)
	if points < 4 {
		ts.Fatalf("only %d points", points)
	}
}
