//go:build fault

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
)

// TestFault runs updates and rollbacks on a real engine while a system call fails,
// everything is killed, or something is used up, and looks each time whether the
// device is as its journal says. VALISE_SEED and VALISE_FAULTS choose the cases.
func TestFault(t *testing.T) {
	p := params("testdata/fault", realEngine(t))
	p.Cmds["campaign"] = runCampaign
	testscript.Run(t, p)
}

// injected are system calls of the installer and how they can fail. Those that
// Go's own scheduler depends on end the process: that counts as killed.
var injected = map[string][]string{
	"openat": {"EIO", "ENOSPC", "EMFILE"}, "read": {"EIO"}, "pread64": {"EIO"}, "write": {"EIO", "ENOSPC"}, "pwrite64": {"EIO", "ENOSPC"},
	"fsync": {"EIO"}, "fdatasync": {"EIO", "ENOSPC"}, "syncfs": {"EIO"}, "ftruncate": {"EIO", "ENOSPC"}, "flock": {"EIO"},
	"renameat": {"EIO", "ENOSPC"}, "renameat2": {"EIO"}, "linkat": {"EIO", "ENOSPC"}, "symlinkat": {"EIO", "ENOSPC"}, "mkdirat": {"EIO", "ENOSPC"},
	"unlinkat": {"EIO", "EROFS"}, "fchmodat": {"EIO"}, "fchmod": {"EIO"}, "newfstatat": {"EIO"}, "getdents64": {"EIO"},
	"socket": {"EMFILE"}, "connect": {"ECONNREFUSED", "EMFILE"}, "pipe2": {"EMFILE"},
}

// exhaustions are what is used up: of a file system of the device but for ROOM, or of
// the limits of the process.
var exhaustions = []struct {
	what, mount, options string
	room                 int // ROOM is below it
}{
	{"full disk of the records", "var/lib/valise", "size=ROOMk", 600},
	{"full disk of the releases", "opt", "size=ROOMk", 600},
	{"little room for backups", "opt", "size=ROOMk", 68 << 10}, // of which 64 MiB stay free
	{"no inodes for the records", "var/lib/valise", "nr_inodes=ROOM", 6},
	{"no inodes for the releases", "opt", "nr_inodes=ROOM", 12},
	{"records read-only", "var/lib/valise", "ro", 1},
	{"releases read-only", "opt", "ro", 1},
	{"open files", "", "", 40},
}

const kindCall, kindKill, kindUsed = "system call fails", "killed", "used up"

// campaign is one run of TestFault.
type campaign struct {
	*testscript.TestScript
	testing.TB
	rng     *rand.Rand
	calls   map[string]map[string]int // by command: how often one thread makes a call
	took    map[string]time.Duration  // by command
	names   []string                  // hidden files that belong there
	made    int                       // versions so far
	items   int                       // that the app keeps
	table   map[[3]string]map[string]int
	version string   // what the journal says runs
	within  []string // a command that runs others where the device is
}

// number is that in a variable of the environment.
func number(t testing.TB, key string, other int) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv(key), strconv.Itoa(other)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// tally is how many cases there were, and what became of them.
func tally(outcomes map[string]int) (n int, text string) {
	var words []string
	for _, outcome := range slices.Sorted(maps.Keys(outcomes)) {
		n += outcomes[outcome]
		words = append(words, fmt.Sprintf("%d %s", outcomes[outcome], outcome))
	}
	return n, strings.Join(words, "; ")
}

func runCampaign(ts *testscript.TestScript, _ bool, _ []string) {
	seed, cases := number(test(ts), "VALISE_SEED", int(time.Now().Unix())), number(test(ts), "VALISE_FAULTS", 40)
	c := &campaign{
		TestScript: ts, TB: test(ts), rng: rand.New(rand.NewPCG(uint64(seed), 0)), version: "1.0.0", items: 1,
		calls: map[string]map[string]int{}, took: map[string]time.Duration{}, table: map[[3]string]map[string]int{},
	}
	c.TB.Logf("VALISE_SEED=%d VALISE_FAULTS=%d", seed, cases)
	ts.Check(c.measure())
	c.names = c.hidden()
	for i := range cases {
		f := c.choose(i)
		outcome, err := c.try(f)
		if errors.Is(err, errStrace) { // on a busy machine it loses threads
			c.TB.Logf("case %d: %v: once more", i+1, err)
			outcome, err = c.try(f)
		}
		if errors.Is(err, errStrace) {
			outcome, err = "strace failed", nil
		}
		c.TB.Logf("case %d: %s: %s", i+1, f, cmp.Or(outcome, "FAILED"))
		if err != nil {
			outcome = "FAILED"
			c.TB.Errorf("case %d: %s: %v", i+1, f, err)
		}
		key := [3]string{f.kind, f.what, f.with}
		if c.table[key] == nil {
			c.table[key] = map[string]int{}
		}
		c.table[key][outcome]++
		if err := c.mend(); err != nil {
			c.TB.Fatalf("case %d: the device cannot be used any more: %v", i+1, err)
		}
	}
	c.write(seed, cases)
}

// measure runs both commands undisturbed.
func (c *campaign) measure() error {
	for _, command := range []string{"update", "rollback"} {
		args, _, err := c.command(command)
		if err != nil {
			return err
		}
		log := c.MkAbs("measure.log")
		began := time.Now()
		if r := c.run(nil, args...); r.code != 0 {
			return fmt.Errorf("undisturbed: %s", r)
		}
		c.took[command] = time.Since(began)
		if args, _, err = c.command(command); err != nil {
			return err
		}
		if r := c.run([]string{"strace", "-f", "-b", "execve", "-qq", "-o", log, "-e", "trace=" + strings.Join(slices.Sorted(maps.Keys(injected)), ",")}, args...); r.code != 0 {
			return fmt.Errorf("undisturbed, with strace: %s", r)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		each, most := map[string]int{}, map[string]int{}
		for _, m := range regexp.MustCompile(`(?m)^(\d+) +(\w+)\(`).FindAllSubmatch(text, -1) {
			each[string(m[0])]++
			most[string(m[2])] = max(most[string(m[2])], each[string(m[0])])
		}
		c.calls[command] = most
	}
	st, err := c.state()
	if err == nil {
		c.version = st.Current.Version
	}
	return err
}

// disturbance is one case.
type disturbance struct {
	command          string // update or rollback
	kind, what, with string // in the table
	n                int    // which call, how much room
	after            time.Duration
	mount, options   string
}

func (f disturbance) String() string {
	return fmt.Sprintf("%s: %s: %s %s, %d, %s", f.command, f.kind, f.what, f.with, f.n, f.after)
}

// choose takes three calls, a kill and something that is used up in turn.
func (c *campaign) choose(i int) disturbance {
	f := disturbance{command: "update"}
	if c.rng.IntN(4) == 0 {
		f.command = "rollback"
	}
	calls := slices.Sorted(maps.Keys(injected))
	calls = slices.DeleteFunc(calls, func(s string) bool { return c.calls[f.command][s] == 0 })
	call := calls[c.rng.IntN(len(calls))]
	// A thread may make fewer of them next time.
	nth := 1 + int(float64(c.calls[f.command][call])*0.7*c.rng.Float64())
	switch {
	case i%5 < 3:
		f.kind, f.what, f.n = kindCall, call, nth
		f.with = injected[call][c.rng.IntN(len(injected[call]))]
	case i%5 == 3 && c.rng.IntN(2) == 0:
		f.kind, f.what, f.with, f.n = kindKill, "the installer, then its children", "at a call", nth
		f.options = call
	case i%5 == 3:
		f.kind, f.what, f.with = kindKill, "all at once", "at any moment"
		f.after = time.Duration(c.rng.Float64() * 0.8 * float64(c.took[f.command]))
	default:
		e := exhaustions[i/5%len(exhaustions)]
		f.kind, f.what, f.mount, f.options, f.n = kindUsed, e.what, e.mount, e.options, c.rng.IntN(e.room)
	}
	return f
}

// command returns the arguments of one, and the version that it leads to.
func (c *campaign) command(name string) (args []string, version string, err error) {
	if name == "rollback" {
		st, err := c.state()
		if err != nil {
			return nil, "", err
		}
		return []string{"rollback"}, st.Previous.Version, nil
	}
	c.made++
	version = fmt.Sprintf("1.%d.0", c.made)
	makeBundle(c.TestScript, false, []string{"update.tar.gz", version, "backup=tiny", "retries=300"})
	return []string{"update", c.MkAbs("update.tar.gz")}, version, nil
}

// ended is how a command ended.
type ended struct {
	args   []string
	code   int // -1: killed
	stdout string
	stderr string
}

func (e ended) String() string { return fmt.Sprintf("%s ends with %d: %s", e.args, e.code, e.stderr) }

// start starts valise-installer, perhaps under another program, as the first
// process of a session.
func (c *campaign) start(under, args []string) (*exec.Cmd, func() ended) {
	under = slices.Concat(c.within, under)
	args = slices.Concat(under, []string{"valise-installer", "--root", c.Getenv("DEVICE"), "--progress", "none"}, args)
	cmd := exec.Command(args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &stdout, &stderr, c.MkAbs(".")
	cmd.Env = []string{"PATH=" + c.Getenv("PATH"), "HOME=" + c.Getenv("HOME"), "DOCKER_HOST=" + c.Getenv("DOCKER_HOST"), "DOCKER_CONFIG=" + c.Getenv("DOCKER_CONFIG")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = bundletest.Patience() // children of one that was killed have its output
	c.Check(cmd.Start())
	return cmd, func() ended {
		// Far more than any limit of the installer: what takes so long hangs.
		late := time.AfterFunc(10*bundletest.Patience(), func() { killSession(cmd.Process.Pid) })
		_ = cmd.Wait()
		late.Stop()
		return ended{args[len(under)+4:], cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	}
}

func (c *campaign) run(under []string, args ...string) ended {
	_, wait := c.start(under, args)
	return wait()
}

// killSession kills all processes of a session, until there are none.
func killSession(id int) {
	for found := true; found; {
		found = false
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			b, _ := os.ReadFile(path)
			pid, rest, _ := strings.Cut(string(b), " (")
			fields := strings.Fields(rest[strings.LastIndex(rest, ")")+1:])
			if len(fields) > 3 && fields[3] == strconv.Itoa(id) && fields[0] != "Z" && fields[0] != "X" {
				n, _ := strconv.Atoi(pid)
				_ = syscall.Kill(n, syscall.SIGKILL)
				found = true
			}
		}
	}
}

var errStrace = errors.New("strace failed")

// disturb runs a command with the fault, and reports whether it met it.
func (c *campaign) disturb(f disturbance, args []string) (r ended, met bool, err error) {
	log := c.MkAbs("fault.log")
	// -b: what docker compose calls is none of the installer's.
	inject := func(call, how string) (ended, bool, error) {
		cmd, wait := c.start([]string{"strace", "-f", "-b", "execve", "-qq", "-o", log, "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, how, f.n)}, args)
		r := wait()
		killSession(cmd.Process.Pid)
		if strings.Contains(r.stderr, "strace: ") {
			return r, false, fmt.Errorf("%w: %s", errStrace, r)
		}
		text, err := os.ReadFile(log)
		return r, bytes.Contains(text, []byte("(INJECTED)")) || bytes.Contains(text, []byte("killed by SIGKILL")), err
	}
	switch {
	case f.kind == kindCall:
		return inject(f.what, "error="+f.with)
	case f.kind == kindKill && f.options != "":
		return inject(f.options, "signal=SIGKILL")
	case f.kind == kindKill:
		cmd, wait := c.start(nil, args)
		timer := time.AfterFunc(f.after, func() { killSession(cmd.Process.Pid) })
		defer timer.Stop()
		r = wait()
		return r, r.code < 0, nil
	case f.mount == "":
		limit := strconv.Itoa(f.n + 4)
		return c.run([]string{"prlimit", "--nofile=" + limit + ":" + limit}, args...), true, nil
	}
	dir := filepath.Join(c.Getenv("DEVICE"), f.mount)
	var used syscall.Statfs_t
	if err := syscall.Statfs(dir, &used); err != nil {
		return r, false, err
	}
	room := f.n
	if strings.HasPrefix(f.options, "size") {
		room += int(used.Blocks-used.Bfree) * int(used.Bsize) >> 10
	} else {
		room += int(used.Files - used.Ffree)
	}
	if err := remount(dir, strings.Replace(f.options, "ROOM", strconv.Itoa(room), 1)); err != nil {
		return r, false, err
	}
	return c.run(nil, args...), true, remount(dir, "rw,size=256m,nr_inodes=10000")
}

func remount(dir, options string) error {
	if out, err := exec.Command("mount", "-o", "remount,"+options, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("remount %s with %s: %w: %s", dir, options, err, out)
	}
	return nil
}

// try is one case: the command with its fault, then recover, then what must be so,
// then the next update. It returns how the command ended.
func (c *campaign) try(f disturbance) (outcome string, err error) {
	args, to, err := c.command(f.command)
	if err != nil {
		return "", err
	}
	from, target := c.version, to
	r, met, err := c.disturb(f, args)
	crashed := strings.Contains(r.stderr, "fatal error: ")
	if r2 := c.run(nil, "recover"); r2.code != 0 {
		return "", fmt.Errorf("%s; then %s", r, r2)
	}
	if err != nil { // strace's own: nothing is known of the command
		return "", errors.Join(err, c.mend())
	}
	st, err := c.state()
	if err != nil {
		return "", fmt.Errorf("%s; then %w", r, err)
	}
	c.version = st.Current.Version
	switch {
	case strings.Contains(r.stderr, "panic: "):
		return "", errors.New(r.String())
	case r.code < 0 || crashed:
		outcome = "killed"
	case r.code == 0:
		outcome, from = "done", to
	case r.code == 5:
		outcome = "needed `recover`"
	case r.code == 3:
		outcome, to = "went back", from
	default:
		outcome, to = "unchanged", from
	}
	switch {
	case c.version != from && c.version != to:
		return "", fmt.Errorf("%s; the journal says %s", r, c.version)
	case slices.Contains(st.Bad, target): // of all that is done here, nothing is its fault
		return "", fmt.Errorf("%s; %s is marked as failing", r, target)
	case !met:
		outcome = "not met"
	case from != to:
		outcome += map[bool]string{true: ", new release", false: ", old release"}[c.version == to]
	}
	if err := c.check(st); err != nil {
		return "", fmt.Errorf("%s; then %w", r, err)
	}
	// The next update works, and takes away what was left.
	args, next, err := c.command("update")
	if err != nil {
		return "", err
	}
	if r2 := c.run(nil, args...); r2.code != 0 {
		return "", fmt.Errorf("%s; then the next update: %s", r, r2)
	}
	if st, err = c.state(); err != nil {
		return "", err
	}
	if c.version = st.Current.Version; c.version != next {
		return "", fmt.Errorf("the next update is done, and the journal says %s, want %s", c.version, next)
	}
	if err := errors.Join(c.check(st), c.checkLitter(st)); err != nil {
		return "", fmt.Errorf("%s; after the next update: %w", r, err)
	}
	return outcome, nil
}

// mend brings the device back into use after a case that failed.
func (c *campaign) mend() error {
	for _, dir := range []string{"opt", "var/lib/valise"} {
		if err := remount(filepath.Join(c.Getenv("DEVICE"), dir), "rw,size=256m,nr_inodes=10000"); err != nil {
			return err
		}
	}
	c.run(nil, "recover")
	st, err := c.state()
	if err == nil {
		c.version = st.Current.Version
	}
	return err
}

// state is what the journal says; nothing in it is unfinished.
func (c *campaign) state() (st installer.State, err error) {
	r := c.run(nil, "status", "--output", "json")
	if r.code != 0 {
		return st, errors.New(r.String())
	}
	if err := json.Unmarshal([]byte(r.stdout), &st); err != nil {
		return st, fmt.Errorf("status: %w", err)
	}
	if st.Unfinished != nil || st.Current == nil {
		return st, fmt.Errorf("status: %s", r.stdout)
	}
	return st, nil
}

// check compares the device with the journal.
func (c *campaign) check(st installer.State) error {
	var history []installer.Record
	if r := c.run(nil, "history", "--output", "json"); r.code != 0 {
		return errors.New(r.String())
	} else if err := json.Unmarshal([]byte(r.stdout), &history); err != nil || len(history) == 0 {
		return fmt.Errorf("history: %d records, %w", len(history), err)
	}
	version, body, err := askHealth(c.TestScript)
	if err != nil || version != st.Current.Version {
		return fmt.Errorf("%s answers (%s, %w), the journal says %s", version, body, err, st.Current.Version)
	}
	if current, err := os.Readlink(filepath.Join(c.home(), "current")); err != nil || filepath.Base(current) != st.Current.Dir {
		return fmt.Errorf("current is %q (%w), the journal says %s", current, err, st.Current.Dir)
	}
	res, err := httpClient.Get("http://127.0.0.1:" + c.Getenv("PORT") + "/api/items")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var items struct{ Count int }
	if err := json.NewDecoder(res.Body).Decode(&items); err != nil || items.Count != c.items {
		return fmt.Errorf("%d items (%w), want %d", items.Count, err, c.items)
	}
	_, err = c.images(st)
	return err
}

func (c *campaign) home() string { return filepath.Join(c.Getenv("DEVICE"), "opt", c.Getenv("APP")) }

// tag is the name of the image of a release.
func (c *campaign) tag(r installer.Release) (string, error) {
	b, err := os.ReadFile(filepath.Join(c.home(), "releases", r.Dir, bundle.ManifestName))
	if err != nil {
		return "", err
	}
	m, err := bundle.ParseManifest(b)
	if err != nil {
		return "", err
	}
	return "valise/" + c.Getenv("APP") + ":" + m.Components[0].Images[0].Manifest.Digest.Hex(), nil
}

// images are those of the app that no kept release names; one that is named and
// is not there is an error.
func (c *campaign) images(st installer.State) (others []string, err error) {
	for _, line := range lookAtEngine(c.TestScript) {
		if tag, ok := strings.CutPrefix(line, "image "); ok {
			others = append(others, strings.Fields(tag)[0])
		}
	}
	for _, r := range st.Kept {
		tag, err := c.tag(r)
		if err != nil {
			return nil, err
		}
		i := slices.Index(others, tag)
		if i < 0 {
			return nil, fmt.Errorf("the image of %s is gone", r.Version)
		}
		others = slices.Delete(others, i, i+1)
	}
	return others, nil
}

// checkLitter looks for what nothing needs any more.
func (c *campaign) checkLitter(st installer.State) error {
	others, err := c.images(st)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(c.home(), "releases"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.ContainsFunc(st.Kept, func(r installer.Release) bool { return r.Dir == e.Name() }) {
			others = append(others, "releases/"+e.Name())
		}
	}
	for _, name := range c.hidden() {
		if !slices.Contains(c.names, name) {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		return fmt.Errorf("left behind: %q", others)
	}
	return nil
}

// hidden are the files whose names begin with a point: what is on its way is
// called so.
func (c *campaign) hidden() (names []string) {
	for _, dir := range []string{"opt", "var/lib/valise"} {
		dir = filepath.Join(c.Getenv("DEVICE"), dir)
		c.Check(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasPrefix(d.Name(), ".") {
				names = append(names, path)
			}
			return err
		}))
	}
	return names
}

// write prints the table, and puts it where VALISE_FAULT_DOC says.
func (c *campaign) write(seed, cases int) {
	var b strings.Builder
	fmt.Fprintf(&b, "%d cases with seed %d on %s, commit %s:\n\n| fault | of | with | cases | how the command ended |\n|---|---|---|---:|---|\n", cases, seed, time.Now().UTC().Format(time.DateOnly), head(c.TB))
	for _, key := range slices.SortedFunc(maps.Keys(c.table), func(a, b [3]string) int { return slices.Compare(a[:], b[:]) }) {
		n, outcomes := tally(c.table[key])
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %s |\n", key[0], key[1], key[2], n, outcomes)
	}
	c.TB.Log(b.String())
	document(c.TB, "faults", b.String())
}

// document puts a table between its marks in VALISE_FAULT_DOC.
func document(t testing.TB, what, table string) {
	t.Helper()
	doc := os.Getenv("VALISE_FAULT_DOC")
	if doc == "" {
		return
	}
	begin, end := "<!-- "+what+": made by the test -->\n", "<!-- end -->"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table: %s", doc, what)
	}
	if err := os.WriteFile(doc, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
