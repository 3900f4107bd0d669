//go:build fault

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
)

// TestReplayTree is TestReplay for an app that is a file tree, whose states need no engine
// and are judged by files and records: there are 500 for each command (VALISE_STATES).
// systemctl is a double for which each unit with a file runs.
//
// VALISE_MUTANT=each takes away, one after the other, the syncs of each path, and prints
// which state finds it. Some are found by none, because ext4 keeps the order of names, and
// makes them durable with any other sync.
func TestReplayTree(t *testing.T) {
	seed, states := number(t, "VALISE_SEED", int(time.Now().Unix())), number(t, "VALISE_STATES", 500)
	t.Logf("VALISE_SEED=%d VALISE_STATES=%d", seed, states)
	l := newTreeLab(t, uint64(seed))
	for _, command := range []string{"update", "rollback"} {
		t.Run(command, func(t *testing.T) {
			l.TB = t
			if os.Getenv("VALISE_MUTANT") == "each" {
				l.mutants(command, seed, states)
				return
			}
			entries, first := l.record(command, "")
			writes, flushes := count(entries[first:])
			table, failed := l.replay(entries, first, states, false)
			r := &replay{campaign: campaign{TB: t}}
			r.tabulate(command+" of a file tree", seed, flushes, writes, table)
			if failed != "" {
				t.Error(failed)
			}
		})
	}
}

const treeApp = "orchard"

// treeLab has a device with a file tree on a disk, from which others are made.
type treeLab struct {
	testing.TB
	rng      *rand.Rand
	dir, mnt string
	loop, at string              // what is mounted, and where
	names    map[string][]string // hidden files that belong there, by base
}

func newTreeLab(t *testing.T, seed uint64) *treeLab {
	l := &treeLab{TB: t, rng: rand.New(rand.NewPCG(seed, 2)), dir: t.TempDir(), names: map[string][]string{}}
	l.mnt = filepath.Join(l.dir, "mnt")
	t.Cleanup(func() { l.TB = t; l.unmount() })
	l.check(os.Mkdir(l.mnt, 0o755))
	base := l.path("update.img")
	l.check(os.WriteFile(base, nil, 0o600))
	l.check(os.Truncate(base, diskSize))
	l.do("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", base)
	l.do("go", "build", "-tags", "grpcnotrace", "-trimpath", "-ldflags", "-s -w", "-o", l.path("valise-installer"), ".")
	l.do("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", l.path("systemctl"), "../../scripts/growth/systemctl")
	l.check(l.mount(base))
	for _, dir := range []string{"dev", "proc", "run", "srv", "tmp", "etc/systemd/system", "usr/bin", "usr/lib", "usr/lib64", "var/lib/" + treeApp} {
		l.check(os.MkdirAll(filepath.Join(l.mnt, dir), 0o755))
	}
	for _, dir := range []string{"bin", "lib", "lib64"} {
		l.check(os.Symlink("usr/"+dir, filepath.Join(l.mnt, dir)))
	}
	l.do("mknod", "-m", "666", filepath.Join(l.mnt, "dev/null"), "c", "1", "3")
	strace, err := exec.LookPath("strace")
	l.check(err)
	l.do("cp", l.path("valise-installer"), l.path("systemctl"), strace, filepath.Join(l.mnt, "usr/bin"))
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		l.check(os.WriteFile(filepath.Join(l.mnt, "srv", version+".tar.gz"), l.bundle(version), 0o644))
	}
	l.check(os.WriteFile(filepath.Join(l.mnt, "srv/maker.pub"), []byte(signer(t, "maker").PublicPEM()), 0o644))
	l.check(os.WriteFile(filepath.Join(l.mnt, "var/lib", treeApp, "apples"), []byte("many"), 0o644))
	l.unmount()
	l.copy(base, l.path("empty.img"))
	l.check(l.mount(base))
	l.good("install", "/srv/1.0.0.tar.gz", "--key", "/srv/maker.pub")
	l.names["update"] = l.hidden()
	l.unmount()
	l.copy(base, l.path("rollback.img"))
	l.check(l.mount(l.path("rollback.img")))
	l.good("update", "/srv/1.1.0.tar.gz")
	l.names["rollback"] = l.hidden()
	l.unmount()
	return l
}

func (l *treeLab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *treeLab) check(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *treeLab) do(name string, args ...string) string {
	l.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// files are those of a release; each has another content in each.
func (l *treeLab) files(version string) map[string]string {
	files := bundletest.TreeFiles(treeApp, version)
	files["packaging/"+treeApp+".service"] = "[Unit]\nDescription=" + version + "\n\n[Service]\nExecStart=/opt/" + treeApp + "/current/bin/" + treeApp + "\n"
	content := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", version))))
	for i, size := range []int{1, 100, 5000, 70000, padding} {
		b := make([]byte, size)
		_, _ = content.Read(b)
		files[fmt.Sprintf("fruit/%d/pad", i)] = string(b)
	}
	return files
}

func (l *treeLab) bundle(version string) []byte {
	m, c := bundletest.Tree(l.TB, bundletest.Spec{App: treeApp, Version: version}, l.files(version))
	m.Device.Health = bundle.Health{Retries: 3, Interval: bundle.Duration(10 * time.Millisecond)}
	l.check(m.Finish())
	return signer(l.TB, "maker").Bundle(l.TB, m, c)
}

func (l *treeLab) copy(from, to string) { l.Helper(); l.do("cp", "--sparse=always", from, to) }

// mount attaches a disk.
func (l *treeLab) mount(disk string) error {
	l.loop, l.at = l.do("losetup", "--find", "--show", disk), l.mnt
	if out, err := exec.Command("mount", "-t", "ext4", l.loop, l.mnt).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

func (l *treeLab) unmount() {
	if err := detach(l.loop, l.at); err != nil {
		l.Error(err)
	}
	l.loop = ""
}

// run runs valise-installer on the device. What is in memory there ends with it.
func (l *treeLab) run(args ...string) ended {
	e, _ := l.runUnder(nil, args...)
	return e
}

// runUnder runs it under strace with these options, and returns what that writes, too.
func (l *treeLab) runUnder(options []string, args ...string) (e ended, traced string) {
	const script = `mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/run" && for d in usr/lib usr/lib64; do [ ! -d "/$d" ] || mount --bind -o ro "/$d" "$0/$d" || exit 99; done; exec chroot "$0" "$@"`
	all := []string{"--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, l.mnt}
	log, err := os.Create(l.path("strace.log"))
	l.check(err)
	defer log.Close()
	if options != nil {
		all = slices.Concat(all, []string{"strace", "-f", "-qq", "-o", "/proc/self/fd/3"}, options)
	}
	cmd := exec.Command("unshare", slices.Concat(all, []string{"valise-installer", "--progress", "none"}, args)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.ExtraFiles = []*os.File{log}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	text, err := os.ReadFile(log.Name())
	l.check(err)
	return ended{args, cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}, string(text)
}

func (l *treeLab) good(args ...string) {
	l.Helper()
	if e := l.run(args...); e.code != 0 {
		l.Fatal(e)
	}
}

// record carries the command out on a disk that writes down what it is told, and returns
// that and where the command began. Syncs of the path mutant do nothing.
func (l *treeLab) record(command, mutant string) (entries []written, first int) {
	l.Helper()
	work, log := l.path("recorded.img"), l.path("log")
	l.copy(l.path(command+".img"), work)
	disk, stop := logWrites(l.TB, l.dir, work, log)
	defer stop()
	l.check(l.mount(disk))
	defer l.unmount()
	l.do("sync", "--file-system", l.mnt)
	info, err := os.Stat(log)
	l.check(err)
	var options []string
	if mutant != "" {
		options = []string{"-P", mutant, "-e", "trace=" + syncs, "-e", "inject=" + syncs + ":retval=0"}
	}
	e, traced := l.runUnder(options, treeCommands[command].args...)
	if e.code != 0 || mutant != "" && !strings.Contains(traced, "(INJECTED)") {
		l.Fatalf("syncs of %q are left out: %s", mutant, e)
	}
	l.unmount()
	stop()
	entries, first, err = readLog(log, info.Size())
	l.check(err)
	return entries, first
}

const syncs = "fsync,fdatasync,syncfs"

// synced are the paths that the command syncs, in their order.
func (l *treeLab) synced(command string) (paths []string) {
	l.copy(l.path(command+".img"), l.path("state.img"))
	l.check(l.mount(l.path("state.img")))
	defer l.unmount()
	e, traced := l.runUnder([]string{"-y", "-e", "trace=" + syncs}, treeCommands[command].args...)
	for _, m := range regexp.MustCompile(`(?:fsync|fdatasync|syncfs)\(\d+<([^>]+)>`).FindAllStringSubmatch(traced, -1) {
		if !slices.Contains(paths, m[1]) && !strings.HasPrefix(m[1], "/run/") {
			paths = append(paths, m[1])
		}
	}
	if e.code != 0 || len(paths) == 0 {
		l.Fatal(e)
	}
	return paths
}

func count(entries []written) (writes, flushes int) {
	for _, e := range entries {
		if e.flush() {
			flushes++
		} else {
			writes++
		}
	}
	return writes, flushes
}

// replay judges states, until one fails when that is enough. It returns the last failure.
func (l *treeLab) replay(entries []written, first, states int, enough bool) (table map[string]map[string]int, failed string) {
	l.Helper()
	r := &replay{campaign: campaign{rng: l.rng}}
	table = map[string]map[string]int{}
	command := l.Name()[strings.LastIndex(l.Name(), "/")+1:]
	played, work, at := l.path("played.img"), l.path("state.img"), 0
	l.copy(l.path(command+".img"), played)
	for i, s := range r.choose(entries, first, states) {
		l.check(play(played, entries[at:s.flush], nil))
		at = s.flush
		l.copy(played, work)
		l.check(play(work, s.more(entries), r.torn(s, entries)))
		outcome, err := l.judge(work, command)
		l.unmount()
		if err != nil {
			outcome, failed = "FAILED", fmt.Sprintf("state %d: %s: %v", i+1, s, err)
			l.Log(failed)
		}
		if table[s.kind] == nil {
			table[s.kind] = map[string]int{}
		}
		table[s.kind][outcome]++
		if err != nil && enough {
			break
		}
	}
	return table, failed
}

// judge mounts a disk, recovers, and looks whether the device is as its records say, and
// whether it can be updated.
func (l *treeLab) judge(disk, command string) (outcome string, err error) {
	if err := l.mount(disk); err != nil {
		return "", err
	}
	if e := l.run("recover"); e.code != 0 {
		return "", errors.New(e.String())
	}
	st, err := l.whole(command)
	if err != nil {
		return "", err
	}
	if e := l.run("doctor"); e.code != 0 {
		return "", fmt.Errorf("%s%s", e, e.stdout)
	}
	if e := l.run("update", "/srv/1.2.0.tar.gz"); e.code != 0 {
		return "", fmt.Errorf("the next update: %s", e)
	}
	after, err := l.whole(command)
	if err != nil {
		return "", fmt.Errorf("after the next update: %w", err)
	}
	if after.Current.Version != "1.2.0" {
		return "", fmt.Errorf("after the next update: %s", after.Current.Version)
	}
	entries, err := os.ReadDir(filepath.Join(l.mnt, "opt", treeApp, "releases"))
	if err != nil || len(entries) != len(after.Kept) {
		return "", fmt.Errorf("%d releases are there (%w), %d are kept", len(entries), err, len(after.Kept))
	}
	for _, name := range l.hidden() {
		if !slices.Contains(l.names[command], name) {
			return "", fmt.Errorf("left behind: %s", name)
		}
	}
	return st.Current.Version + " runs", nil
}

// whole compares the device with its records, and each file of each release with what was
// in its bundle.
func (l *treeLab) whole(command string) (st installer.State, err error) {
	e := l.run("status", "--output", "json")
	if e.code != 0 {
		return st, errors.New(e.String())
	}
	if err := json.Unmarshal([]byte(e.stdout), &st); err != nil {
		return st, err
	}
	if st.Unfinished != nil || st.Current == nil || len(st.Bad) > 0 {
		return st, fmt.Errorf("status: %s", e.stdout)
	}
	if command == "rollback" && len(st.Kept) < 2 {
		return st, fmt.Errorf("%d releases are kept", len(st.Kept))
	}
	current, err := os.Readlink(filepath.Join(l.mnt, "opt", treeApp, "current"))
	if err != nil || filepath.Base(current) != st.Current.Dir {
		return st, fmt.Errorf("current is %q (%w), the records say %s", current, err, st.Current.Dir)
	}
	for _, rel := range st.Kept {
		for name, want := range l.files(rel.Version) {
			got, err := os.ReadFile(filepath.Join(l.mnt, "opt", treeApp, "releases", rel.Dir, name))
			if err != nil || string(got) != want {
				return st, fmt.Errorf("%s of %s has %d bytes that are not those of its bundle: %w", name, rel.Version, len(got), err)
			}
		}
	}
	unit, err := os.ReadFile(filepath.Join(l.mnt, "etc/systemd/system", treeApp+".service"))
	if err != nil || !strings.Contains(string(unit), "Description="+st.Current.Version+"\n") {
		return st, fmt.Errorf("the unit of %s is %q: %w", st.Current.Version, unit, err)
	}
	if data, err := os.ReadFile(filepath.Join(l.mnt, "var/lib", treeApp, "apples")); err != nil || string(data) != "many" {
		return st, fmt.Errorf("the data are %q: %w", data, err)
	}
	return st, nil
}

// hidden are the files whose names begin with a point: what is on its way is called so.
func (l *treeLab) hidden() (names []string) {
	for _, dir := range []string{"opt", "var/lib/valise", "etc"} {
		l.check(filepath.WalkDir(filepath.Join(l.mnt, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasPrefix(d.Name(), ".") && d.Name() != ".env.example" {
				names = append(names, path)
			}
			return err
		}))
	}
	return names
}

// mutants takes away the syncs of one path after the other.
func (l *treeLab) mutants(command string, seed, states int) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of a file tree, %d states each, seed %d on %s, commit %s:\n\n| no sync of | found by |\n|---|---|\n", strings.ToUpper(command[:1])+command[1:], states, seed, time.Now().UTC().Format(time.DateOnly), head(l.TB))
	for _, path := range l.synced(command) {
		entries, first := l.record(command, path)
		table, failed := l.replay(entries, first, states, true)
		n := 0
		for _, outcomes := range table {
			some, _ := tally(outcomes)
			n += some
		}
		found := "none"
		if failed != "" {
			found = fmt.Sprintf("state %d of %d", n, states)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", path, found)
		l.Logf("%s: %s: %s", path, found, failed)
	}
	l.Log(b.String())
}
