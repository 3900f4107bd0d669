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

// TestSystemdLong is what takes minutes, such as killing a command at its renames,
// links and removals, one after the other, when the power goes with it.
func TestSystemdLong(t *testing.T) {
	if os.Getenv("VALISE_TEST_SYSTEMD") != "all" {
		t.Skip("make e2e-systemd runs it")
	}
	releases := t.TempDir()
	buildCloud(t, releases, runtime.GOARCH, "1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "2.0.0", "2.1.0", "2.10.0", "3.0.0-rc.1", "4.0.0", "4.1.0", "4.2.0", "4.3.0", "4.4.0")
	onMachines(t, "testdata/systemd-long", releases)
}

// cutEach is cuteach CHECK COMMAND...: for each such call of COMMAND the machine
// begins as it is now, COMMAND is killed there, the power goes, and CHECK, a
// script, must succeed on the machine that comes up then. Of many calls it takes
// fewer and fewer.
func cutEach(ts *testscript.TestScript, _ bool, args []string) {
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
		strace := []string{"-f", "-y", "-qq", "-o", log, "-e", "trace=renameat,renameat2,linkat,symlinkat,unlinkat", "-e",
			fmt.Sprintf("inject=renameat,renameat2,linkat,symlinkat,unlinkat:signal=SIGKILL:when=%d", n), in}
		out, err := exec.Command("strace", append(strace, args[1:]...)...).CombinedOutput()
		calls, readErr := os.ReadFile(log)
		ts.Check(readErr)
		if !strings.Contains(string(calls), "killed by SIGKILL") {
			if err != nil {
				ts.Fatalf("it was not killed, and failed: %v\n%s", err, out)
			}
			break
		}
		points++
		systemd("cut", machine)
		systemd("up", machine)
		if out, err := exec.Command(in, "bash", "-c", ts.ReadFile(args[0])).CombinedOutput(); err != nil {
			ts.Fatalf("killed at call %d: %v\n%s\ncalls:\n%s", n, err, out, calls)
		}
	}
	ts.Logf("%d points", points)
	if points < 4 {
		ts.Fatalf("only %d points", points)
	}
}
