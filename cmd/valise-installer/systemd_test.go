package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestSystemd runs the sample app that is a file tree on machines of their own,
// whose first process is systemd: see scripts/systemd.sh.
func TestSystemd(t *testing.T) {
	t.Parallel()
	if os.Getenv("VALISE_TEST_SYSTEMD") == "" {
		need(t, "permission to boot containers with systemd (VALISE_TEST_SYSTEMD=1, as root)")
	}
	releases := t.TempDir()
	buildCloud(t, releases, runtime.GOARCH, "1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0", "2.0.0", "2.1.0", "2.9.0", "2.10.0", "3.0.0-rc.1")
	onMachines(t, "testdata/systemd", releases)
}

// onMachines runs the scripts of dir, each on a machine of its own.
func onMachines(t *testing.T, dir, releases string) {
	p := machines(t, releases)
	p.Dir = dir
	testscript.Run(t, p)
}

// machines are what scripts have in common that run each on a machine of its own, which
// has releases in /srv.
func machines(t *testing.T, releases string) testscript.Params {
	script, err := filepath.Abs("../../scripts/systemd.sh")
	if err != nil {
		t.Fatal(err)
	}
	return testscript.Params{
		Setup: func(e *testscript.Env) error {
			machine, err := os.MkdirTemp("", "valise-machine-")
			if err != nil {
				return err
			}
			e.Values[testKey{}] = &state{TB: e.T().(testing.TB)}
			e.Defer(func() {
				if out, err := exec.Command(script, "down", machine).CombinedOutput(); err != nil {
					t.Errorf("down: %v\n%s", err, out)
				}
			})
			if out, err := exec.Command(script, "up", machine).CombinedOutput(); err != nil {
				return fmt.Errorf("boot: %w\n%s", err, out)
			}
			bin := filepath.Join(e.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			in := fmt.Sprintf("#!/bin/sh\nexec %s run %s \"$@\"\n", script, machine)
			if err := os.WriteFile(filepath.Join(bin, "in"), []byte(in), 0o755); err != nil {
				return err
			}
			e.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			e.Setenv("SYSTEMD", script)
			e.Setenv("MACHINE", machine)
			e.Setenv("ROOT", filepath.Join(machine, "root"))
			e.Setenv("DEVICE", filepath.Join(machine, "root"))
			e.Setenv("APP", "cloud")
			e.Setenv("README", filepath.Join(filepath.Dir(script), "../README.md"))
			e.Setenv("TUTORIALS", filepath.Join(filepath.Dir(script), "../docs/tutorials"))
			for _, key := range []string{"VALISE_COMPOSE", "VALISE_TEST_SLOW"} {
				e.Setenv(key, os.Getenv(key))
			}
			stick := filepath.Join(machine, "root/srv")
			if err := os.CopyFS(stick, os.DirFS(releases)); err != nil {
				return err
			}
			return os.Rename(filepath.Join(stick, "valise-installer"), filepath.Join(machine, "root/usr/local/bin/valise-installer"))
		},
		Cmds:      onMachine,
		Condition: byHandIs(true),
	}
}

// onMachine are the commands of these scripts.
var onMachine = map[string]func(*testscript.TestScript, bool, []string){
	"code": code, "health": checkHealth, "cutat": powerCut, "boot": boot, "watch": watch, "downtime": downtime, "becomes": becomes, "mkbundle": makeBundle, "picture": picture, "envfiles": envFiles, "rollout": makeRollout,
}

// buildCloud packs and signs releases of examples/cloud for Linux on arch below
// dir, VERSION.tar.gz each, and the installer:
//
//	1.0.0, 1.1.0, 2.0.0, 2.10.0, 2.9.0
//	2.1.0       with a template in the release, web/config.json; 2.1.1 does not start either
//	1.2.0       never gets healthy
//	1.3.0       does not start
//	1.4.0       with another unit
//	1.5.0       needs one more key, has secrets and defaults that are new, and lacks GREETING
//	1.6.0       with a configuration file that its own check refuses
//	3.0.0-rc.1  a pre-release
//	4.0.0       with an installer that does not start; 4.1.0 with one of another machine
//	4.2.0       with installer 0.2.0, and so 4.4.0; that of the machines is 0.1.0
//	4.3.0       with installer 0.0.9
func buildCloud(t *testing.T, dir, arch string, versions ...string) {
	t.Helper()
	const cloud = "../../examples/cloud"
	tools := t.TempDir()
	command := func(in string, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "HOME="+tools, "COSIGN_PASSWORD=test",
			"GOCACHE="+goEnv(t, "GOCACHE"), "GOPATH="+goEnv(t, "GOPATH"), "SOURCE_DATE_EPOCH=1700000000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	platform, name := "linux/"+arch, map[string]string{"amd64": "x86_64-linux", "arm64": "aarch64-linux", "arm": "armv7-linux"}[arch]
	if arch == "arm" {
		platform += "/v7"
	}
	valise := valiseProgram(t)
	device := func(in string, args ...string) {
		command(in, "env", append([]string{"GOARM=7", "GOARCH=" + arch}, args...)...)
	}
	installer := func(version, file string) {
		device(".", "go", "build", "-buildvcs=false", "-ldflags", "-s -w -X github.com/valise-ota/valise/cmd/internal/cli.version="+version, "-o", file, ".")
	}
	installer("0.1.0", filepath.Join(dir, "valise-installer"))
	command(dir, valise, "keygen")
	program := filepath.Join(tools, "cloud")
	device(cloud, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", program, "./cmd")
	few := fmt.Sprintf("retries: %d", bundletest.Slower(8)) // of what is to fail, but not before it answers
	for _, version := range versions {
		work := filepath.Join(t.TempDir(), "cloud")
		if err := os.CopyFS(work, os.DirFS(cloud)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(work, "build")); err != nil {
			t.Fatal(err)
		}
		carried := filepath.Join(work, "build/installer", strings.ReplaceAll(platform, "/", "-"), "valise-installer")
		if err := os.MkdirAll(filepath.Dir(carried), 0o755); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(version, "4.") {
			edit(t, filepath.Join(work, "valise.yaml"), `installer: .*\n`, "")
		}
		edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+, interval: 1s`, "retries: 1000, interval: 250ms")
		bin := filepath.Join(work, "build", name, "cloud")
		if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(program, bin); err != nil {
			t.Fatal(err)
		}
		if arch != runtime.GOARCH {
			emulate(t, work, bin, arch)
		}
		switch version {
		case "1.2.0":
			edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+`, few)
			edit(t, filepath.Join(work, "packaging/cloud.service"), `RestartSec=1s`, "RestartSec=2s")
			edit(t, filepath.Join(work, "packaging/cloud.conf.tmpl"), `greeting =`, "maintenance = yes\ngreeting =")
			edit(t, filepath.Join(work, "valise.yaml"), `PORT: {default: 8080}`, "PORT: {default: 8080}\n  LEVEL: {default: debug}")
		case "1.3.0":
			if err := errors.Join(os.Remove(bin), os.WriteFile(bin, []byte("#!/bin/sh\ncase $1 in check) ;; *) echo this release does not start; exit 1 ;; esac\n"), 0o755)); err != nil {
				t.Fatal(err)
			}
			edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+`, few)
		case "1.4.0":
			edit(t, filepath.Join(work, "packaging/cloud.service"), `RestartSec=1s`, "RestartSec=3s")
		case "1.5.0":
			edit(t, filepath.Join(work, ".env.example"), `\n# What /health.*\nGREETING=\n`, "\n# Account for mails, from your provider.\nSMTP_USER=\n\n# At once.\nWORKERS=4\n")
			edit(t, filepath.Join(work, "valise.yaml"), `GREETING: {required: false}`, "SMTP_USER: {required: true}")
			edit(t, filepath.Join(work, "valise.yaml"), `PORT: {default: 8080}`, "PORT: {default: 8080}\n  LEVEL: {default: info}\n  THEME: {initial: dark}")
			edit(t, filepath.Join(work, "valise.yaml"), `secrets: {`, "secrets: {API_TOKEN: {base64: 32}, ADMIN_PASSWORD: {password: 14, prefix: Cloud-, show: once}, ")
		case "1.6.0":
			edit(t, filepath.Join(work, "packaging/cloud.conf.tmpl"), `greeting =`, "greeting")
		case "2.1.0", "2.1.1":
			if version == "2.1.1" {
				if err := errors.Join(os.Remove(bin), os.WriteFile(bin, []byte("#!/bin/sh\ncase $1 in check) ;; *) exit 1 ;; esac\n"), 0o755)); err != nil {
					t.Fatal(err)
				}
				edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+`, few)
			}
			if err := os.WriteFile(filepath.Join(work, "web/config.json"), []byte(`{"url": "@@PUBLIC_URL@@", "version": "@@VALISE_VERSION@@", "price": "${5}"}`+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			edit(t, filepath.Join(work, "valise.yaml"), `templates: \[`, "templates: [{from: web/config.json, to: /opt/cloud/current/web/config.json}, ")
		case "4.2.0", "4.4.0":
			installer("0.2.0", carried)
		case "4.3.0":
			installer("0.0.9", carried)
		case "4.0.0":
			if err := os.WriteFile(carried, []byte("#!/bin/sh\necho no such library; exit 127\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		case "4.1.0":
			other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[arch]
			command(cloud, "env", "GOARCH="+other, "go", "build", "-buildvcs=false", "-o", carried, "./cmd")
		}
		file := filepath.Join(dir, version+".tar.gz")
		command(work, valise, "build", version, "--platform", platform, "-o", file)
		command(dir, valise, "sign", file, "--key", "cosign.key")
	}
	release := func(args ...string) { command(dir, valise, args...) }
	buildHello(t, dir, release)
	buildKinds(t, dir, release)
}

// buildKinds packs and signs releases of testdata/kinds, which has units of every kind,
// below dir, as kinds-VERSION.tar.gz:
//
//	1.0.0, 1.1.0
//	1.2.0  listens elsewhere, with another mount and instance, without the drop-in and the timer
//	1.3.0  listens elsewhere, and what does so does not start
func buildKinds(t *testing.T, dir string, valise func(args ...string)) {
	t.Helper()
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0"} {
		work := t.TempDir()
		if err := os.CopyFS(work, os.DirFS("testdata/kinds")); err != nil {
			t.Fatal(err)
		}
		unit := func(name string) string { return filepath.Join(work, "packaging", name) }
		project := filepath.Join(work, "valise.yaml")
		if version == "1.2.0" || version == "1.3.0" {
			edit(t, unit("kinds-front.socket"), "8087", "8088")
			edit(t, unit("srv-kinds-data.mount"), "Type=tmpfs", "Type=tmpfs\nOptions=size=1m")
			edit(t, project, "8087", "8088")
			edit(t, project, "  - .*(level.conf|kinds-job.*)\n", "")
			edit(t, project, "work@b", "work@c")
		}
		if version == "1.3.0" {
			edit(t, unit("kinds-front.socket"), "8088", "8089")
			edit(t, unit("kinds-front.service"), "ExecStartPre=.*", "ExecStartPre=/bin/false")
		}
		file := filepath.Join(dir, "kinds-"+version+".tar.gz")
		valise("build", version, "--project", project, "--platform", "linux/"+runtime.GOARCH, "-o", file)
		valise("sign", file, "--key", "cosign.key")
	}
}

// buildHello packs and signs releases of examples/hello below dir, as
// hello-VERSION.tar.gz; 1.2.0 does not stay.
func buildHello(t *testing.T, dir string, valise func(args ...string)) {
	t.Helper()
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		work := t.TempDir()
		if err := os.CopyFS(work, os.DirFS("../../examples/hello")); err != nil {
			t.Fatal(err)
		}
		if version == "1.2.0" {
			edit(t, filepath.Join(work, "hello"), `exec sleep infinity`, "exit 1")
		}
		file := filepath.Join(dir, "hello-"+version+".tar.gz")
		valise("build", version, "--project", filepath.Join(work, "valise.yaml"), "-o", file)
		valise("sign", file, "--key", "cosign.key")
	}
}

// emulate has the program of a release run under QEMU's user mode (TestARM),
// which needs memory that is written and executed.
func emulate(t *testing.T, work, bin, arch string) {
	t.Helper()
	if err := os.Rename(bin, bin+"-"+arch); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, []byte("#!/bin/sh\nexec /srv/qemu \"$0-"+arch+"\" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(work, "packaging/cloud.service"), `MemoryDenyWriteExecute=yes\n`, "")
	edit(t, filepath.Join(work, "valise.yaml"), `platforms: .*`, "platforms: [linux/arm64, linux/arm/v7]")
	edit(t, filepath.Join(work, "valise.yaml"), `arch: .*`, "arch: {linux/arm64: aarch64-linux, linux/arm/v7: armv7-linux}")
}

// code is code N COMMAND...: a command in the machine ends with exit code N.
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("in", args[1:]...)
	got := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// becomes is becomes TEXT COMMAND...: what a command in the machine prints has TEXT
// in it before long.
func becomes(ts *testscript.TestScript, _ bool, args []string) {
	var out []byte
	for deadline := time.Now().Add(bundletest.Patience()); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		out, _ = exec.Command(filepath.Join(ts.Getenv("WORK"), ".bin/in"), args[1:]...).CombinedOutput()
		if strings.Contains(string(out), args[0]) {
			return
		}
	}
	log, _ := exec.Command(filepath.Join(ts.Getenv("WORK"), ".bin/in"), "journalctl", "-u", "valise", "--no-pager", "-n", "30").CombinedOutput()
	ts.Fatalf("it never says %q, but: %s\n%s", args[0], out, log)
}

const request = `exec 3<>/dev/tcp/127.0.0.1/8080 && printf "GET /health HTTP/1.0\r\n\r\n" >&3 && cat <&3`

// checkHealth is health TEXT...: the service answers, with each text.
func checkHealth(ts *testscript.TestScript, neg bool, args []string) {
	var out []byte
	var err error
	for deadline := time.Now().Add(bundletest.Patience()); time.Now().Before(deadline); { // a unit is active before it listens
		if out, err = exec.Command(filepath.Join(ts.Getenv("WORK"), ".bin/in"), "bash", "-c", request).CombinedOutput(); neg || err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if neg {
		if err == nil {
			ts.Fatalf("it answers:\n%s", out)
		}
		return
	}
	for _, text := range args {
		if err != nil || !strings.Contains(string(out), text) {
			ts.Fatalf("%v, want %s:\n%s", err, text, out)
		}
	}
}

// powerCut is cutat STEP DELAY ARG...: runs valise-installer, and the power goes
// DELAY after STEP began.
func powerCut(ts *testscript.TestScript, _ bool, args []string) {
	delay, err := time.ParseDuration(args[1])
	ts.Check(err)
	cmd := exec.Command(filepath.Join(ts.Getenv("WORK"), ".bin/in"), append([]string{"valise-installer"}, args[2:]...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for !stepBegun(ts, args[0]) {
		select {
		case err := <-ended:
			ts.Fatalf("it ended before %s: %v\n%s", args[0], err, out.String())
		case <-time.After(time.Millisecond):
		}
	}
	time.Sleep(delay)
	ts.Check(ts.Exec("sh", "-c", "exec $SYSTEMD cut $MACHINE"))
	<-ended
	if strings.Contains(out.String(), "runs and is healthy") {
		ts.Fatalf("it was through before the cut:\n%s", out.String())
	}
}

// boot starts the machine after a cut.
func boot(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(ts.Exec("sh", "-c", "exec $SYSTEMD up $MACHINE"))
}

// watch asks the service all the time until downtime does.
func watch(ts *testscript.TestScript, _ bool, _ []string) {
	loop := `while :; do (` + request + `) 2>/dev/null | grep -q '"status":"ok"' && date +%s%3N; sleep 0.01; done`
	cmd := exec.Command(filepath.Join(ts.Getenv("WORK"), ".bin/in"), "bash", "-c", loop)
	out := new(bytes.Buffer)
	cmd.Stdout = out
	ts.Check(cmd.Start())
	s := ts.Value(testKey{}).(*state)
	s.watched = func() []string {
		_ = cmd.Process.Kill()
		_ = ts.Exec("in", "pkill", "-f", "tcp/127.0.0.1/8080")
		_ = cmd.Wait()
		return strings.Fields(out.String())
	}
}

// downtime is downtime MAX: the service was never without an answer for longer, on a
// quiet machine.
func downtime(ts *testscript.TestScript, _ bool, args []string) {
	most, err := time.ParseDuration(args[0])
	ts.Check(err)
	most = bundletest.Slower(most)
	var gap, last int64
	times := ts.Value(testKey{}).(*state).watched()
	for _, text := range times {
		at, err := strconv.ParseInt(text, 10, 64)
		ts.Check(err)
		if last != 0 {
			gap = max(gap, at-last)
		}
		last = at
	}
	ts.Logf("no answer for %d ms, in %d answers", gap, len(times))
	if len(times) < 10 || time.Duration(gap)*time.Millisecond > most {
		ts.Fatalf("no answer for %d ms in %d answers, want at most %s", gap, len(times), most)
	}
}
