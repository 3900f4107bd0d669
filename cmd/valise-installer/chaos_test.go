//go:build fault

package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestChaos plays operations on an app on a real engine, one after the other: what an
// operator, a stranger with docker, a maker of bad releases, a full disk, and a kill in
// the middle do. After each it looks whether the device is as a model says it must be.
// VALISE_SEED and VALISE_OPERATIONS choose them.
func TestChaos(t *testing.T) {
	p := params("testdata/chaos", realEngine(t))
	p.Cmds["chaos"] = runChaos
	testscript.Run(t, p)
}

// chaos is one run of TestChaos, and its model of the device.
type chaos struct {
	campaign
	signer  string // of the releases that the device trusts
	note    string // in the environment file
	stopped bool   // by hand
	pruned  int    // so many updates from now, images of releases that do not run may be gone
	sick    []string
}

// operation is what may happen, and how often of all.
type operation struct {
	name  string
	share int
	do    func(*chaos) error
}

// errSkipped is an operation that is not possible as things stand, and did nothing.
var errSkipped = errors.New("skipped")

var operations = []operation{
	{"update", 6, (*chaos).update},
	{"a release that gets not healthy", 3, (*chaos).unhealthy},
	{"a bundle of a stranger", 1, func(c *chaos) error { return c.refused("signature", c.next(), "by=stranger") }},
	{"a bundle below the floor", 2, func(c *chaos) error { return c.refused("downgrade", "0.9.0") }},
	{"a truncated bundle", 1, (*chaos).cutOff},
	{"a change of signers", 1, (*chaos).rotate},
	{"rollback", 4, (*chaos).rollback},
	{"apply", 4, (*chaos).apply},
	{"stop", 2, (*chaos).stop},
	{"start", 3, func(c *chaos) error { return c.up("start") }},
	{"restart", 1, func(c *chaos) error { return c.up("restart") }},
	{"items", 4, func(c *chaos) error { return c.addItems(1) }},
	{"backup and restore", 2, (*chaos).restore},
	{"drop folder", 3, (*chaos).drop},
	{"kill", 12, (*chaos).kill},
	{"prune", 2, (*chaos).prune},
	{"containers removed", 2, (*chaos).removed},
	{"engine hangs", 2, (*chaos).hang},
	{"disk full", 3, (*chaos).full},
	{"doctor", 3, (*chaos).doctor},
}

func runChaos(ts *testscript.TestScript, _ bool, _ []string) {
	seed, n := number(test(ts), "VALISE_SEED", int(time.Now().Unix())), number(test(ts), "VALISE_OPERATIONS", 60)
	c := &chaos{
		campaign: campaign{TestScript: ts, TB: test(ts), rng: rand.New(rand.NewPCG(uint64(seed), 2)), version: "1.0.0", items: 1},
		signer:   "maker", note: "0",
	}
	c.TB.Logf("VALISE_SEED=%d VALISE_OPERATIONS=%d", seed, n)
	c.names = c.hidden()
	shares, counts := 0, map[string]int{}
	for _, o := range operations {
		shares += o.share
	}
	for i := range n {
		at := c.rng.IntN(shares)
		o := operations[slices.IndexFunc(operations, func(o operation) bool {
			at -= o.share
			return at < 0
		})]
		began := time.Now()
		err := o.do(c)
		if err == errSkipped {
			c.TB.Logf("operation %d: %s: skipped", i+1, o.name)
			continue
		}
		if err == nil {
			err = c.holds()
		}
		c.TB.Logf("operation %d: %s: %s", i+1, o.name, time.Since(began).Round(time.Millisecond))
		if err != nil {
			ts.Fatalf("operation %d: %s: %v\nthe model: %s", i+1, o.name, err, c)
		}
		counts[o.name]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d operations with seed %d, commit %s:\n\n| operation | times |\n|---|---:|\n", n, seed, head(test(ts)))
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "| %s | %d |\n", name, counts[name])
	}
	c.TB.Log(b.String())
	document(test(ts), "chaos", b.String())
}

func (c *chaos) String() string {
	return fmt.Sprintf("%s of %s runs (stopped: %v), NOTE %s, %d items, pruned: %d, %q failed", c.version, c.signer, c.stopped, c.note, c.items, c.pruned, c.sick)
}

// holds compares the device with the model.
func (c *chaos) holds() error {
	st, err := c.state()
	switch {
	case err != nil:
		return err
	case st.Current.Version != c.version:
		return fmt.Errorf("the journal says %s, want %s", st.Current.Version, c.version)
	case slices.ContainsFunc(st.Bad, func(v string) bool { return !slices.Contains(c.sick, v) }):
		return fmt.Errorf("%q are marked as failing, and only %q were made so", st.Bad, c.sick)
	}
	if c.stopped {
		if _, body, err := askHealth(c.TestScript); err == nil {
			return fmt.Errorf("it was stopped, and answers %s", body)
		}
		return nil
	}
	if c.pruned > 0 {
		st.Kept = nil
	}
	_, body, _ := askHealth(c.TestScript)
	if !strings.Contains(body, `"note":"`+c.note+`"`) {
		return fmt.Errorf("it answers %q, want note %s", body, c.note)
	}
	return c.check(st)
}

// next is a version that was not there before.
func (c *chaos) next() string {
	c.made++
	return fmt.Sprintf("1.%d.0", c.made)
}

// bundle makes one and returns its path.
func (c *chaos) bundle(version string, options ...string) string {
	makeBundle(c.TestScript, false, slices.Concat([]string{version + ".tar.gz", version, "save=command", "by=" + c.signer}, options))
	return c.MkAbs(version + ".tar.gz")
}

// must runs a command that has to end with code.
func (c *chaos) must(code int, args ...string) error {
	if r := c.run(nil, args...); r.code != code {
		return fmt.Errorf("%s, want %d", r, code)
	}
	return nil
}

func (c *chaos) ran(version string) {
	if version == fmt.Sprintf("1.%d.0", c.made) { // and not one from before
		c.pruned = max(0, c.pruned-1)
	}
	c.version, c.stopped = version, false
}

func (c *chaos) update() error {
	if c.stopped { // its data cannot be saved
		if r := c.run(nil, "update", c.bundle(c.next())); r.code != 1 || !strings.Contains(r.stderr, `"valise-installer start"`) {
			return fmt.Errorf("%s, want a hint to start the app", r)
		}
		return nil
	}
	version := c.next()
	if err := c.must(0, "update", c.bundle(version)); err != nil {
		return err
	}
	c.ran(version)
	st, err := c.state()
	if err != nil || c.pruned > 0 {
		return err
	}
	return c.checkLitter(st)
}

func (c *chaos) unhealthy() error {
	if c.stopped {
		return errSkipped
	}
	version := c.next()
	c.sick = append(c.sick, version)
	if err := c.must(3, "update", c.bundle(version, "sick=yes")); err != nil {
		return err
	}
	if st, err := c.state(); err != nil || !slices.Contains(st.Bad, version) {
		return fmt.Errorf("%s is not marked as failing: %q, %w", version, st.Bad, err)
	}
	return nil
}

func (c *chaos) refused(check, version string, options ...string) error {
	r := c.run(nil, "update", c.bundle(version, options...))
	if r.code != 4 || !strings.Contains(r.stderr, check) {
		return fmt.Errorf("%s, want a refusal by check %s", r, check)
	}
	return nil
}

func (c *chaos) cutOff() error {
	path := c.bundle(c.next())
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := os.Truncate(path, 1+c.rng.Int64N(info.Size()-1)); err != nil {
		return err
	}
	return c.must(4, "update", path)
}

func (c *chaos) rotate() error {
	if c.stopped {
		return errSkipped
	}
	old, next := c.signer, fmt.Sprintf("signer%d", c.made)
	version := c.next()
	if err := c.must(0, "update", c.bundle(version, "next="+next)); err != nil {
		return err
	}
	c.ran(version)
	c.signer = old
	err := c.refused("signature", c.next()) // the old one is no signer any more
	c.signer = next
	return err
}

func (c *chaos) rollback() error {
	st, err := c.state()
	if err != nil {
		return err
	}
	r := c.run(nil, "rollback")
	switch {
	case st.Previous == nil && r.code == 1, r.code == 1 && c.pruned > 0 && strings.Contains(r.stderr, "image"):
		return nil
	case st.Previous == nil || r.code != 0:
		return errors.New(r.String())
	}
	c.ran(st.Previous.Version)
	return nil
}

// setNote edits the environment file.
func (c *chaos) setNote() error {
	path := filepath.Join(c.home(), ".env")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c.note = strconv.Itoa(c.rng.IntN(1000))
	return os.WriteFile(path, regexp.MustCompile(`(?m)^NOTE=.*$`).ReplaceAll(b, []byte("NOTE="+c.note)), 0o600)
}

func (c *chaos) apply() error {
	if err := c.setNote(); err != nil {
		return err
	}
	c.stopped = false
	return c.must(0, "apply")
}

func (c *chaos) stop() error {
	c.stopped = true
	return c.must(0, "stop")
}

func (c *chaos) up(command string) error {
	c.stopped = false
	return c.must(0, command)
}

func (c *chaos) addItems(n int) error {
	if c.stopped {
		return errSkipped
	}
	for range n {
		addItem(c.TestScript, false, []string{"more"})
		c.items++
	}
	return nil
}

func (c *chaos) restore() error {
	if c.stopped {
		return errSkipped
	}
	before := c.items
	if err := cmp.Or(c.must(0, "backup"), c.addItems(2), c.must(0, "restore")); err != nil {
		return err
	}
	c.items = before
	return nil
}

// drop has the daemon apply what comes into the drop folder.
func (c *chaos) drop() error {
	if c.stopped {
		return errSkipped
	}
	version := c.next()
	path := c.bundle(version)
	cmd, wait := c.start(nil, []string{"serve", "--scan", "200ms"})
	defer wait()
	defer func() { _ = cmd.Process.Signal(syscall.SIGTERM) }()
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.home(), "updates", filepath.Base(path)), b, 0o600); err != nil {
		return err
	}
	until := time.Now().Add(bundletest.Patience())
	for time.Now().Before(until) {
		if _, err := os.Stat(filepath.Join(c.home(), "updates", "applied", filepath.Base(path))); err == nil {
			c.ran(version)
			return nil
		}
		if b, err := os.ReadFile(filepath.Join(c.home(), "updates", "failed", filepath.Base(path)+".reason.txt")); err == nil {
			return fmt.Errorf("the daemon says %s", b)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s lies in the drop folder", version)
}

// kill kills a command, with all that it started, at any moment of it.
func (c *chaos) kill() error {
	st, err := c.state()
	if err != nil {
		return err
	}
	args, to := []string{"update"}, c.next()
	switch c.rng.IntN(8) {
	case 0:
		args = []string{"rollback"}
		if st.Previous == nil || c.pruned > 0 {
			return errSkipped
		}
		to = st.Previous.Version
	case 1:
		args, to = []string{"apply"}, c.version
		if err := c.setNote(); err != nil {
			return err
		}
	case 2:
		args, to = []string{[]string{"start", "stop", "restart", "backup"}[c.rng.IntN(4)]}, c.version
		if args[0] == "backup" && c.stopped {
			return errSkipped
		}
	case 3:
		c.sick = append(c.sick, to)
		args = append(args, c.bundle(to, "sick=yes"))
	default:
		args = append(args, c.bundle(to))
	}
	cmd, wait := c.start(nil, args)
	timer := time.AfterFunc(time.Duration(c.rng.Float64()*float64(bundletest.Slower(4*time.Second))), func() { killSession(cmd.Process.Pid) })
	r := wait()
	timer.Stop()
	if r.code > 0 && r.code != 3 && !(c.stopped && strings.Contains(r.stderr, "is not running")) {
		return errors.New(r.String())
	}
	if err := c.must(0, "recover"); err != nil {
		return fmt.Errorf("%s; then %w", r, err)
	}
	if st, err = c.state(); err != nil {
		return err
	}
	switch now := st.Current.Version; {
	case now != c.version && now != to, now == to && slices.Contains(c.sick, to):
		return fmt.Errorf("%s; now %s runs, want %s or %s", r, now, c.version, to)
	case r.code == 0 && now != to:
		return fmt.Errorf("%s; now %s runs", r, now)
	case now == to && to != c.version:
		c.ran(to)
	}
	// What a person does who does not know how far it came.
	c.stopped = false
	return c.must(0, "apply")
}

// docker does by hand what may be done by hand.
func (c *chaos) docker(args ...string) error {
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+c.Getenv("DOCKER_HOST"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker %s: %w: %s", args, err, out)
	}
	return nil
}

// prune takes what docker takes for unused. Of an app that is stopped that would be all.
func (c *chaos) prune() error {
	if c.stopped {
		return errSkipped
	}
	c.pruned = 3 // as many releases are kept
	return cmp.Or(c.docker("container", "prune", "-f"), c.docker("network", "prune", "-f"), c.docker("image", "prune", "-af"))
}

func (c *chaos) removed() error {
	if c.stopped {
		return errSkipped
	}
	for _, line := range lookAtEngine(c.TestScript) {
		if f := strings.Fields(line); f[0] == "container" && f[len(f)-1] == "running" {
			if err := c.docker([]string{"kill", "stop", "rm"}[c.rng.IntN(3)], f[1]); err != nil && !strings.Contains(err.Error(), "running container") {
				return err
			}
		}
	}
	return c.must(0, "start")
}

// hang stops the engine from answering in the middle of an update, for a while.
func (c *chaos) hang() error {
	if c.stopped {
		return errSkipped
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(strings.TrimPrefix(c.Getenv("DOCKER_HOST"), "unix://")), "docker.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	version := c.next()
	path := c.bundle(version)
	_, wait := c.start(nil, []string{"update", path})
	time.Sleep(time.Duration(c.rng.Float64() * float64(3*time.Second)))
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(time.Duration(1+c.rng.IntN(4)) * time.Second)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		return err
	}
	if r := wait(); r.code != 0 {
		return errors.New(r.String())
	}
	c.ran(version)
	return nil
}

// full is an update while a disk has little room, or none.
func (c *chaos) full() error {
	if c.stopped {
		return errSkipped
	}
	e := exhaustions[c.rng.IntN(5)]
	f := disturbance{command: "update", kind: kindUsed, mount: e.mount, options: e.options, n: c.rng.IntN(e.room)}
	version := c.next()
	r, _, err := c.disturb(f, []string{"update", c.bundle(version)})
	if err := errors.Join(err, c.mend()); err != nil {
		return fmt.Errorf("%s: %s; then %w", e.what, r, err)
	}
	switch {
	case c.version == version && r.code == 0: // mend read the journal
		c.ran(version)
	case c.version == version || r.code <= 0:
		return fmt.Errorf("%s: %s; now %s runs", e.what, r, c.version)
	}
	return nil
}

// doctor has nothing to say of a device that is well.
func (c *chaos) doctor() error {
	if c.stopped || c.pruned > 0 {
		return errSkipped
	}
	return c.must(0, "doctor")
}

func head(t testing.TB) string {
	t.Helper()
	commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(commit))
}
