//go:build fault

package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
)

// TestReplay updates an app, and rolls it back, on a disk that writes down each write and
// each flush, and then goes on from states that a power cut can leave: all that was
// written up to a flush, and any of what was written after it, of one write perhaps a part.
// The disk has the engine's images and containers too. In each state the device has to
// recover, and to be updated. VALISE_SEED and VALISE_STATES choose the states.
//
// VALISE_MUTANT leaves system calls of the installer out: "fsync:3" the third of a thread,
// "fsync,fdatasync,syncfs" all. The test has to fail then.
func TestReplay(t *testing.T) {
	before := httpClient.Transport
	httpClient.Transport = &http.Transport{DisableKeepAlives: true, DialContext: dialMachine}
	t.Cleanup(func() { httpClient.Transport = before })
	p := params("testdata/replay", realEngine(t))
	p.Cmds["replay"] = runReplay
	testscript.Run(t, p)
}

const (
	diskSize = 1 << 30
	padding  = 300000 // bytes of a file in each release
)

// replay is one run of TestReplay.
type replay struct {
	campaign
	dir     string // of all files of it
	mnt     string // where the device's disk is
	loop    string // its loop device
	machine *exec.Cmd
	pid     string // of the first process of the machine
}

func runReplay(ts *testscript.TestScript, _ bool, args []string) {
	seed, states := number(test(ts), "VALISE_SEED", int(time.Now().Unix())), number(test(ts), "VALISE_STATES", 40)
	r := &replay{campaign: campaign{TestScript: ts, TB: test(ts), rng: rand.New(rand.NewPCG(uint64(seed), 1)), version: "1.0.0", items: 1}, dir: ts.MkAbs("lab")}
	r.mnt = filepath.Join(r.dir, "mnt")
	r.TB.Logf("VALISE_SEED=%d VALISE_STATES=%d", seed, states)
	ts.Check(os.MkdirAll(filepath.Join(r.dir, "mnt"), 0o755))
	ts.Check(os.MkdirAll(filepath.Join(r.dir, "exec"), 0o755))
	ts.Setenv("DEVICE", filepath.Join(r.mnt, "device"))
	ts.Setenv("DOCKER_HOST", "unix://"+filepath.Join(r.dir, "docker.sock"))
	defer func() { r.cut() }()
	replays.Store(ts.Getenv("PORT"), r)
	defer replays.Delete(ts.Getenv("PORT"))

	base, work := filepath.Join(r.dir, "base.img"), filepath.Join(r.dir, "state.img")
	ts.Check(os.WriteFile(base, nil, 0o600))
	ts.Check(os.Truncate(base, diskSize))
	r.do("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", base)
	ts.Check(r.boot(base))
	ts.Check(os.MkdirAll(ts.Getenv("DEVICE"), 0o755))
	dotenv(ts, false, nil)
	for i, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
		makeBundle(ts, false, []string{version + ".tar.gz", version, "backup=tiny", "retries=1000", "pad=" + strconv.Itoa(padding)})
		if version == "1.2.0" {
			break
		}
		command := []string{"update", ts.MkAbs(version + ".tar.gz")}
		if i == 0 {
			command = []string{"install", ts.MkAbs("1.0.0.tar.gz"), "--key", ts.MkAbs("maker.pub")}
		} else if args[0] == "update" {
			continue // that is what is looked at
		}
		if e := r.run(nil, command...); e.code != 0 {
			ts.Fatalf("%s", e)
		}
		if i == 0 {
			addItem(ts, false, []string{"tea"})
		}
	}
	r.names = r.hidden()
	r.cut()

	log, from := r.record(base, args[0])
	entries, first, err := readLog(log, from)
	ts.Check(err)
	var flushes, writes int
	for _, e := range entries[first:] {
		if e.flush() {
			flushes++
		} else {
			writes++
		}
	}
	r.TB.Logf("%s: %d writes, %d flushes", args[0], writes, flushes)
	if flushes < 10 {
		ts.Fatalf("%d flushes: that is no recording", flushes)
	}

	table := map[string]map[string]int{}
	played, at := filepath.Join(r.dir, "played.img"), 0
	r.do("cp", "--sparse=always", base, played)
	for i, s := range r.choose(entries, first, states) {
		ts.Check(play(played, entries[at:s.flush], nil))
		at = s.flush
		r.do("cp", "--sparse=always", played, work)
		ts.Check(play(work, s.more(entries), r.torn(s, entries)))
		outcome, err := r.judge(work)
		r.TB.Logf("state %d: %s: %s", i+1, s, cmp.Or(outcome, "FAILED"))
		if err != nil {
			outcome = "FAILED"
			r.TB.Errorf("state %d: %s: %v\n%s", i+1, s, err, r.picture())
		}
		r.cut()
		if table[s.kind] == nil {
			table[s.kind] = map[string]int{}
		}
		table[s.kind][outcome]++
	}
	r.tabulate(args[0], seed, flushes, writes, table)
}

// do runs a command of the host.
func (r *replay) do(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		r.TestScript.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// boot starts a machine whose disk is a file: an engine, as the first process of
// namespaces of its own. It fails when the engine does not start.
func (r *replay) boot(disk string) error {
	r.loop = r.do("losetup", "--find", "--show", disk)
	if out, err := exec.Command("mount", "-t", "ext4", r.loop, r.mnt).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	ready := filepath.Join(r.dir, "pid")
	_ = os.Remove(ready)
	settings := `{"default-address-pools": [{"base": "10.213.0.0/16", "size": 24}]`
	if store := os.Getenv("VALISE_ENGINE_STORE"); store != "" {
		settings += fmt.Sprintf(`, "features": {"containerd-snapshotter": %t}`, store == "containerd")
	}
	r.Check(os.WriteFile(filepath.Join(r.dir, "daemon.json"), []byte(settings+"}\n"), 0o600))
	// What dies with the power is in memory: /run, and with it what the engine knows of processes.
	script := `mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs exec && ip link set lo up && echo >pid && exec "$0" --config-file "$PWD/daemon.json" --data-root "$PWD/mnt/docker" --exec-root "$PWD/exec" -p "$PWD/exec/pid" -H "unix://$PWD/docker.sock"`
	engine := cmp.Or(os.Getenv("VALISE_DOCKERD"), "dockerd")
	r.machine = exec.Command("unshare", "--pid", "--net", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, engine)
	r.machine.Dir = r.dir
	log, err := os.Create(filepath.Join(r.dir, "dockerd.log"))
	r.Check(err)
	defer log.Close()
	r.machine.Stdout, r.machine.Stderr = log, log
	r.Check(r.machine.Start())
	ended := make(chan struct{})
	go func() { _ = r.machine.Wait(); close(ended) }()
	for deadline := time.Now().Add(bundletest.Patience()); ; time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			r.machine = nil
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%w: %s", errNoEngine, text[max(0, len(text)-2000):])
		default:
		}
		if _, err := os.Stat(ready); err == nil && r.pid == "" {
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", r.machine.Process.Pid, r.machine.Process.Pid))
			r.pid = strings.TrimSpace(string(children))
			r.within = []string{"nsenter", "--target", r.pid, "--pid", "--net", "--mount"}
		}
		if r.pid != "" && exec.Command("curl", "-fs", "--max-time", "20", "--unix-socket", filepath.Join(r.dir, "docker.sock"), "http://docker/_ping").Run() == nil {
			return nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%w in time: %s", errNoEngine, text[max(0, len(text)-2000):])
		}
	}
}

var errNoEngine = errors.New("the engine did not start")

// cut takes the power away.
func (r *replay) cut() {
	if r.machine != nil {
		_ = r.machine.Process.Kill() // --kill-child ends the rest
		for deadline := time.Now().Add(bundletest.Patience()); r.pid != "" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if syscall.Kill(atoi(r.pid), 0) != nil {
				break
			}
		}
	}
	r.machine, r.pid, r.within = nil, "", nil
	_ = os.Remove(filepath.Join(r.dir, "docker.sock"))
	if err := detach(r.loop, r.mnt); err != nil {
		r.TB.Error(err)
	}
	r.loop = ""
}

// detach unmounts a disk, and waits until nothing is written to it any more: name spaces
// with a mount of it end later than their processes.
func detach(loop, mnt string) error {
	if loop == "" {
		return nil
	}
	backing := filepath.Join("/sys/block", filepath.Base(loop), "loop/backing_file")
	its, _ := os.ReadFile(backing)
	for deadline := time.Now().Add(bundletest.Patience()); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_ = exec.Command("umount", mnt).Run()
		if exec.Command("mountpoint", "-q", mnt).Run() == nil {
			continue
		}
		_ = exec.Command("losetup", "--detach", loop).Run()
		if now, err := os.ReadFile(backing); err != nil || !bytes.Equal(now, its) {
			return nil
		}
	}
	return fmt.Errorf("%s does not end", loop)
}

func atoi(s string) int { n, _ := strconv.Atoi(s); return n }

// replays are the scripts that run, by the port of their app.
var replays sync.Map

// dialMachine reaches a port in the network of its machine.
func dialMachine(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	r, ok := replays.Load(port)
	if !ok {
		return nil, fmt.Errorf("no machine has port %s", port)
	}
	return r.(*replay).dial(ctx, network, address)
}

// dial reaches what the machine listens on, in its network.
func (r *replay) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if r.pid == "" {
		return nil, errNoEngine
	}
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	its, err := os.Open("/proc/" + r.pid + "/ns/net")
	if err != nil {
		return nil, err
	}
	defer its.Close()
	if err := unix.Setns(int(its.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, derr := (&net.Dialer{}).DialContext(ctx, network, address)
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err // and the thread ends
	}
	runtime.UnlockOSThread()
	return conn, derr
}

// record carries the command out on a copy of a disk, and returns the log of that disk and
// how much of it was there when the command began.
func (r *replay) record(base, command string) (log string, from int64) {
	work := filepath.Join(r.dir, "recorded.img")
	log = filepath.Join(r.dir, "log")
	r.do("cp", "--sparse=always", base, work)
	disk, stop := logWrites(r.TB, r.dir, work, log)
	defer stop()
	r.Check(r.boot(disk))
	defer r.cut()
	r.Check(r.healthy())
	r.do("sync", "--file-system", r.mnt)
	info, err := os.Stat(log)
	r.Check(err)
	args := []string{"rollback"}
	if command == "update" {
		args = []string{"update", r.MkAbs("1.1.0.tar.gz")}
	}
	var under []string
	if mutant := os.Getenv("VALISE_MUTANT"); mutant != "" {
		calls, n, one := strings.Cut(mutant, ":")
		inject := "inject=" + calls + ":retval=0"
		if one {
			inject += ":when=" + n
		}
		under = []string{"strace", "-f", "-b", "execve", "-qq", "-o", r.MkAbs("mutant.log"), "-e", "trace=" + calls, "-e", inject}
	}
	if e := r.run(under, args...); e.code != 0 {
		r.TestScript.Fatalf("%s", e)
	}
	return log, info.Size()
}

// logWrites makes the file disk in dir, which has what work has, writes it there, and
// writes down what it is told.
func logWrites(t testing.TB, dir, work, log string) (disk string, stop func()) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	disk = filepath.Join(dir, "disk")
	check(os.WriteFile(disk, nil, 0o600))
	check(os.WriteFile(log, nil, 0o600))
	storage := exec.Command("qemu-storage-daemon", "--blockdev", "driver=file,node-name=disk,filename="+work, "--blockdev", "driver=file,node-name=log,filename="+log,
		"--blockdev", "driver=blklogwrites,node-name=both,file=disk,log=log,log-sector-size=512",
		"--export", "type=fuse,id=export,node-name=both,mountpoint="+disk+",writable=on")
	storage.Stderr = os.Stderr
	check(storage.Start())
	stop = sync.OnceFunc(func() {
		check(storage.Process.Signal(syscall.SIGTERM)) // it writes the last of the log
		check(storage.Wait())
	})
	for deadline := time.Now().Add(bundletest.Patience()); ; time.Sleep(20 * time.Millisecond) {
		if info, err := os.Stat(disk); err == nil && info.Size() == diskSize {
			return disk, stop
		}
		if time.Now().After(deadline) {
			stop()
			t.Fatal("the recording disk did not come")
		}
	}
}

// healthy waits until the app answers: the engine starts it with itself.
func (r *replay) healthy() (err error) {
	for deadline := time.Now().Add(bundletest.Patience()); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, _, err = askHealth(r.TestScript); err == nil {
			return nil
		}
	}
	return err
}

// written is an entry of the log: a write, or a flush.
type written struct {
	at    int64  // in the disk
	data  []byte // none for a flush
	flags uint64
}

// Flags of the log, as those of the kernel's dm-log-writes.
const (
	logFlush = 1 << iota
	logFUA   // kept when it is done
	logDiscard
)

func (w written) flush() bool { return w.flags&logFlush != 0 }

// readLog reads a log of QEMU's driver blklogwrites. first is the first entry that begins
// at from or after it.
func readLog(name string, from int64) (entries []written, first int, err error) {
	const sector = 512
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, 0, err
	}
	if len(b) < sector || binary.LittleEndian.Uint64(b) != 0x6a736677736872 {
		return nil, 0, fmt.Errorf("%s is no log of writes", name)
	}
	first = -1
	for at := int64(sector); at+sector <= int64(len(b)); {
		head := b[at : at+32]
		number := func(i int) uint64 { return binary.LittleEndian.Uint64(head[8*i:]) }
		w := written{at: int64(number(0)) * sector, flags: number(2)}
		size := int64(number(1)) * sector
		if first < 0 && at >= from {
			first = len(entries)
		}
		at += sector
		if w.flags&logDiscard != 0 || w.flush() && size == 0 {
			size = 0
		} else if size == 0 { // behind the last one
			break
		}
		if at+size > int64(len(b)) {
			break
		}
		w.data = b[at : at+size]
		at += size
		if w.flags&logDiscard == 0 {
			entries = append(entries, w)
		}
	}
	if first < 0 {
		return nil, 0, fmt.Errorf("%s ends before %d", name, from)
	}
	return entries, first, nil
}

// play carries writes out on a disk, but for those of them that partly tells to do in part.
func play(disk string, list []written, partly map[int]func(*os.File, written) error) error {
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for i, w := range list {
		if part := partly[i]; part != nil {
			err = part(f, w)
		} else if len(w.data) > 0 {
			_, err = f.WriteAt(w.data, w.at)
		}
		if err != nil {
			return err
		}
	}
	return f.Close()
}

// lost is a state of a disk: all entries before flush are on it, and those after it
// whose numbers are in also.
type lost struct {
	kind  string
	flush int
	also  []int
	tear  bool // the last of also is there in part
}

func (s lost) String() string {
	text := fmt.Sprintf("%s: entry %d", s.kind, s.flush)
	if len(s.also) > 0 {
		text += fmt.Sprintf(" and %d more up to %d", len(s.also), s.also[len(s.also)-1])
	}
	return text
}

func (s lost) more(entries []written) (list []written) {
	for _, i := range s.also {
		list = append(list, entries[i])
	}
	return list
}

// torn writes any sectors of the last write, except of ext4's first superblock, without which
// nothing is mounted: that is for fsck and not for the installer.
func (r *replay) torn(s lost, entries []written) map[int]func(*os.File, written) error {
	if !s.tear {
		return nil
	}
	return map[int]func(*os.File, written) error{len(s.also) - 1: func(f *os.File, w written) error {
		const sector = 512
		for at := 0; at < len(w.data); at += sector {
			if r.rng.IntN(2) == 0 && w.at >= 4096 {
				continue
			}
			if _, err := f.WriteAt(w.data[at:at+sector], w.at+int64(at)); err != nil {
				return err
			}
		}
		return nil
	}}
}

// choose takes a third of the states at flushes, a third between them, and a third
// between them with a torn write, spread over the log.
func (r *replay) choose(entries []written, first, states int) (list []lost) {
	var flushes []int
	for i, e := range entries[first:] {
		if e.flush() {
			flushes = append(flushes, first+i)
		}
	}
	for i := range states {
		// Each comes from a part of the log of its own.
		n := len(flushes) * i / states
		n += r.rng.IntN(max(1, len(flushes)*(i+1)/states-n))
		s := lost{kind: "at a flush", flush: flushes[n]}
		end := len(entries)
		if n+1 < len(flushes) {
			end = flushes[n+1]
		}
		if i%3 > 0 && end > s.flush+1 {
			s.kind = "between flushes"
			end = s.flush + 2 + r.rng.IntN(end-s.flush-1)
			chance := r.rng.Float64()
			for j := s.flush + 1; j < min(end, len(entries)); j++ {
				if !entries[j].flush() && (entries[j].flags&logFUA != 0 || r.rng.Float64() < chance) {
					s.also = append(s.also, j)
				}
			}
			if len(s.also) == 0 {
				s.kind = "at a flush"
			} else if last := entries[s.also[len(s.also)-1]]; i%3 == 2 && last.flags&logFUA == 0 {
				s.kind, s.tear = "with a torn write", true
			}
		}
		list = append(list, s)
	}
	slices.SortStableFunc(list, func(a, b lost) int { return cmp.Compare(a.flush, b.flush) })
	return list
}

// judge boots from a disk, recovers, and looks whether the device is as its records say,
// and whether it can be updated.
func (r *replay) judge(disk string) (outcome string, err error) {
	if err := r.boot(disk); err != nil {
		return "", err
	}
	before := r.containers()
	e, engine := r.run(nil, "recover"), ""
	if e.code == 5 && strings.Contains(e.stderr, "port is already allocated") {
		// Where the engine is a unit, recovery restarts it. Here that takes another boot.
		engine = ", with the engine restarted"
		r.cut()
		if err := r.boot(disk); err != nil {
			return "", err
		}
		e = r.run(nil, "recover")
	}
	if e.code != 0 {
		return "", fmt.Errorf("%s\nbefore it: %s", e, before)
	}
	st, err := r.state()
	if err != nil {
		return "", err
	}
	if len(st.Bad) > 0 {
		return "", fmt.Errorf("marked as failing: %q", st.Bad)
	}
	if err := r.healthy(); err != nil {
		return "", err
	}
	if err := r.check(st); err != nil {
		return "", err
	}
	if e := r.run(nil, "doctor"); e.code != 0 {
		return "", fmt.Errorf("%s%s", e, e.stdout)
	}
	if err := r.whole(st); err != nil {
		return "", err
	}
	if e := r.run(nil, "update", r.MkAbs("1.2.0.tar.gz")); e.code != 0 {
		return "", fmt.Errorf("the next update: %s", e)
	}
	after, err := r.state()
	if err != nil {
		return "", err
	}
	if after.Current.Version != "1.2.0" {
		return "", fmt.Errorf("after the next update: %s", after.Current.Version)
	}
	return st.Current.Version + " runs" + engine, errors.Join(r.check(after), r.whole(after), r.checkLitter(after))
}

// picture is what a device looks like that failed.
func (r *replay) picture() string {
	text := fmt.Sprintf("%s%s\n%s", r.containers(), r.run(nil, "history").stdout, r.run(nil, "recover"))
	log, _ := os.ReadFile(filepath.Join(r.dir, "dockerd.log"))
	r.cut()
	if err := r.boot(filepath.Join(r.dir, "state.img")); err != nil {
		return text + err.Error()
	}
	return fmt.Sprintf("%s\nafter another boot: %s%s%s\n%s", text, r.containers(), r.run(nil, "recover"), r.run(nil, "doctor").stdout, log)
}

// containers are what docker ps says.
func (r *replay) containers() string {
	cmd := exec.Command("docker", "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.Status}} {{.Ports}}")
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+r.Getenv("DOCKER_HOST"))
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// whole reads what no health check does: a file of the last layer of each kept release.
func (r *replay) whole(st installer.State) error {
	for _, rel := range st.Kept {
		tag, err := r.tag(rel)
		if err != nil {
			return err
		}
		name := "look" + rel.Dir
		docker := func(args ...string) []byte {
			cmd := exec.Command("docker", args...)
			cmd.Env = append(os.Environ(), "DOCKER_HOST="+r.Getenv("DOCKER_HOST"))
			out, rerr := cmd.Output()
			err = cmp.Or(err, rerr)
			return out
		}
		docker("create", "--name", name, tag)
		archive := tar.NewReader(bytes.NewReader(docker("cp", name+":/pad", "-")))
		docker("rm", name)
		if err != nil {
			return fmt.Errorf("look into %s: %w", tag, err)
		}
		want := make([]byte, padding)
		_, _ = seeded(r.TestScript, rel.Version).Read(want)
		got := make([]byte, padding)
		if _, err := archive.Next(); err != nil {
			return fmt.Errorf("look into %s: %w", tag, err)
		}
		if _, err := io.ReadFull(archive, got); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("the image of %s is torn: %w", rel.Version, err)
		}
	}
	return nil
}

func (r *replay) tabulate(command string, seed, flushes, writes int, table map[string]map[string]int) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d writes and %d flushes, seed %d on %s, commit %s:\n\n| power cut | states | outcome |\n|---|---:|---|\n", strings.ToUpper(command[:1])+command[1:], writes, flushes, seed, time.Now().UTC().Format(time.DateOnly), head(r.TB))
	for _, kind := range slices.Sorted(maps.Keys(table)) {
		n, outcomes := tally(table[kind])
		fmt.Fprintf(&b, "| %s | %d | %s |\n", kind, n, outcomes)
	}
	r.TB.Log(b.String())
	document(r.TB, "replay of "+command, b.String())
}
