//go:build fault

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFaultTree is TestFault for an app that is a file tree, with each command that changes
// one: each system call of it fails, or the program is killed there, once and from then on.
// There are thousands of cases: ten times VALISE_FAULTS of them are taken, or all with "all".
func TestFaultTree(t *testing.T) {
	seed := number(t, "VALISE_SEED", int(time.Now().Unix()))
	t.Logf("VALISE_SEED=%d", seed)
	l := newTreeLab(t, uint64(seed))
	lower := l.path("lower")
	l.check(os.Mkdir(lower, 0o755))
	table, total := map[[2]string]map[string]int{}, 0
	for _, name := range slices.Sorted(maps.Keys(treeCommands)) {
		c := treeCommands[name]
		l.mnt = lower
		l.check(l.mount(l.path(c.disk + ".img")))
		l.mnt = l.path("mnt")
		cases := l.faults(c)
		all := len(cases)
		if limit := os.Getenv("VALISE_FAULTS"); limit != "all" {
			l.rng.Shuffle(all, func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
			cases = cases[:min(all, 10*number(t, "VALISE_FAULTS", 40)/len(treeCommands))]
		}
		t.Logf("%s: %d of %d cases", name, len(cases), all)
		total += len(cases)
		for _, f := range cases {
			outcome, err := l.fault(c, f)
			if errors.Is(err, errStrace) { // on a busy machine it loses threads
				outcome, err = l.fault(c, f)
			}
			if errors.Is(err, errStrace) {
				outcome, err = "strace failed", nil
			}
			if err != nil {
				outcome = "FAILED"
				t.Errorf("%s: %s: %v", name, f, err)
			}
			key := [2]string{name, f.with}
			if table[key] == nil {
				table[key] = map[string]int{}
			}
			table[key][outcome]++
		}
		l.unmount()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d cases with seed %d on %s, commit %s:\n\n| command | with | cases | how it ended |\n|---|---|---:|---|\n", total, seed, time.Now().UTC().Format(time.DateOnly), head(t))
	for _, key := range slices.SortedFunc(maps.Keys(table), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		n, outcomes := tally(table[key])
		fmt.Fprintf(&b, "| %s | %s | %d | %s |\n", key[0], key[1], n, outcomes)
	}
	t.Log(b.String())
	document(t, "faults of file trees", b.String())
}

// treeCommand is a command, and the device that it is carried out on.
type treeCommand struct {
	disk     string
	args     []string
	from, to string // what runs before, and after it
}

var treeCommands = map[string]treeCommand{
	"install":   {"empty", []string{"install", "/srv/1.0.0.tar.gz", "--key", "/srv/maker.pub"}, "", "1.0.0"},
	"update":    {"update", []string{"update", "/srv/1.1.0.tar.gz"}, "1.0.0", "1.1.0"},
	"apply":     {"update", []string{"apply"}, "1.0.0", "1.0.0"},
	"rollback":  {"rollback", []string{"rollback"}, "1.1.0", "1.0.0"},
	"uninstall": {"update", []string{"uninstall", "--yes"}, "1.0.0", ""},
}

// treeFault is one case: the n-th such call of a thread fails, or each from there on.
type treeFault struct {
	call, how, with string
	n               int
	on              bool
}

func (f treeFault) String() string {
	return fmt.Sprintf("%s %d: %s, from then on: %t", f.call, f.n, f.with, f.on)
}

// overlay lets a case write onto the disk as if it were its own.
func (l *treeLab) overlay() func() {
	l.do("mount", "-t", "tmpfs", "tmpfs", l.path("over"))
	l.check(os.Mkdir(l.path("over/upper"), 0o755))
	l.check(os.Mkdir(l.path("over/work"), 0o755))
	l.do("mount", "-t", "overlay", "overlay", "-o", "lowerdir="+l.path("lower")+",upperdir="+l.path("over/upper")+",workdir="+l.path("over/work"), l.mnt)
	return func() {
		_ = exec.Command("umount", "--lazy", l.mnt).Run()
		_ = exec.Command("umount", "--lazy", l.path("over")).Run()
	}
}

// faults counts the calls of the command, and lists what can become of each.
func (l *treeLab) faults(c treeCommand) (list []treeFault) {
	l.check(os.MkdirAll(l.path("over"), 0o755))
	defer l.overlay()()
	calls := slices.Sorted(maps.Keys(injected))
	e, traced := l.runUnder([]string{"-b", "execve", "-e", "trace=" + strings.Join(calls, ",")}, c.args...)
	if e.code != 0 {
		l.Fatal(e)
	}
	each, most := map[string]int{}, map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(\d+) +(\w+)\(`).FindAllStringSubmatch(traced, -1) {
		each[m[1]+" "+m[2]]++
		most[m[2]] = max(most[m[2]], each[m[1]+" "+m[2]])
	}
	for _, call := range calls {
		for n := 1; n <= most[call]; n++ {
			for _, with := range injected[call] {
				list = append(list, treeFault{call, "error=" + with, with, n, false}, treeFault{call, "error=" + with, with, n, true})
			}
			list = append(list, treeFault{call, "signal=SIGKILL", "SIGKILL", n, false})
		}
	}
	if len(list) < 100 {
		l.Fatalf("%d faults: %s", len(list), e)
	}
	return list
}

// fault is one case: the command with its fault, then recover, then what must be so, then
// the next update.
func (l *treeLab) fault(c treeCommand, f treeFault) (outcome string, err error) {
	defer l.overlay()()
	when := strconv.Itoa(f.n)
	if f.on {
		when += "+"
	}
	e, traced := l.runUnder([]string{"-b", "execve", "-e", "trace=" + f.call, "-e", "inject=" + f.call + ":" + f.how + ":when=" + when}, c.args...)
	if strings.Contains(e.stderr, "strace: ") {
		return "", fmt.Errorf("%w: %s", errStrace, e)
	}
	died := strings.Contains(traced, "killed by SIGKILL")
	met := died || strings.Contains(traced, "(INJECTED)")
	if strings.Contains(e.stderr, "panic: ") {
		return "", errors.New(e.String())
	}
	none := func(r ended) bool {
		return (c.from == "" || c.to == "") && strings.Contains(r.stderr, "installed here")
	}
	if r := l.run("recover"); r.code != 0 && !none(r) {
		return "", fmt.Errorf("%s; then %s", e, r)
	}
	runs := ""
	switch st, err := l.whole(c.disk); {
	case err == nil:
		runs = st.Current.Version
	case c.to == "": // it removes what is left when it is said again
		if r := l.run(c.args...); r.code != 0 && !none(r) {
			return "", fmt.Errorf("%s; then %s", e, r)
		}
	case c.from != "":
		return "", fmt.Errorf("%s; then %w", e, err)
	}
	killed := died || e.code < 0 || e.code > 64 || strings.Contains(e.stderr, "fatal error: ")
	allowed := []string{c.from} // after a failure
	if c.to == "" {
		allowed = []string{c.from, c.to}
	}
	switch {
	case killed, e.code == 5:
		outcome, allowed = "killed", []string{c.from, c.to}
		if !killed {
			outcome = "needed `recover`"
		}
	case e.code == 0:
		outcome, allowed = "done", []string{c.to}
	case e.code == 3:
		outcome = "went back"
	default:
		outcome = "unchanged"
	}
	if !slices.Contains(allowed, runs) {
		return "", fmt.Errorf("%s; now %q runs, want one of %q", e, runs, allowed)
	}
	if !met {
		outcome = "not met"
	}
	if outcome == "unchanged" && !strings.Contains(e.stderr, "valise-installer: ") && f.call != "write" {
		return "", fmt.Errorf("%s: it does not say why", e)
	}
	next := []string{"update", "/srv/1.2.0.tar.gz"}
	if runs == "" {
		next = []string{"install", "/srv/1.2.0.tar.gz", "--key", "/srv/maker.pub"}
	}
	if r := l.run(next...); r.code != 0 {
		return "", fmt.Errorf("%s; then %s", e, r)
	}
	st, err := l.whole("empty")
	if err == nil && st.Current.Version != "1.2.0" {
		err = fmt.Errorf("%s runs", st.Current.Version)
	}
	if err != nil {
		return "", fmt.Errorf("%s; after the next update: %w", e, err)
	}
	return outcome, nil
}
