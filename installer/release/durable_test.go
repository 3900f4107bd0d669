package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// childEnv makes the test binary a child process: "scenario ROOT", "lock FILE" or
// "program DIR".
const childEnv = "RELEASE_TEST_CHILD"

func TestMain(m *testing.M) {
	kind, arg, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		os.Exit(m.Run())
	}
	run := map[string]func(string) error{"scenario": scenario, "lock": holdLock, "program": newProgramIn}[kind]
	if err := run(arg); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestWriteFile(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	root := open(t, t.TempDir()).Root()
	check := func(err error, content string, mode fs.FileMode) fs.FileInfo {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		b, err := root.ReadFile(".env")
		if err != nil || string(b) != content {
			t.Fatalf("got %q, %v, want %q", b, err, content)
		}
		info, err := root.Stat(".env")
		if err != nil || info.Mode().Perm() != mode {
			t.Fatalf("got mode %v, %v, want %v", info.Mode(), err, mode)
		}
		if entries, _ := fs.ReadDir(root.FS(), "."); len(entries) != 1 {
			t.Fatalf("left %v", entries)
		}
		return info
	}
	check(ReplaceFile(root, ".env", []byte("a"), 0o644), "a", 0o644)
	check(WriteFile(root, ".env", []byte("b"), 0o600), "b", 0o600)
	if err := root.Chmod(".env", 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := root.Chown(".env", 1234, 4321); err != nil {
			t.Fatal(err)
		}
	}
	// A left-over of a power cut is replaced, whatever it holds.
	if err := root.WriteFile("..env.tmp", []byte("half a sec"), 0o400); err != nil {
		t.Fatal(err)
	}
	info := check(ReplaceFile(root, ".env", []byte("c"), 0o600), "c", 0o640)
	if st := info.Sys().(*syscall.Stat_t); os.Getuid() == 0 && (st.Uid != 1234 || st.Gid != 4321) {
		t.Fatalf("owner became %d:%d", st.Uid, st.Gid)
	}
	if err := root.Mkdir("d", 0o755); err != nil {
		t.Fatal(err)
	}
	wantErr(t, WriteFile(root, "d", nil, 0o600), "it is a directory")
	wantErr(t, Symlink(root, "x", ".env"), "regular file")
	wantErr(t, Mkdir(root, ".env", 0o755), "regular file")
	if err := RemoveAll(root, "no/such/parent"); err != nil {
		t.Fatal(err)
	}
}

// The old file survives a full disk, and a release that did not fit leaves
// nothing.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := open(t, dir)
	stage(t, s, "1.0.0")
	if err := WriteFile(s.root, ".env", []byte("A=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := s.Stage("2.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.WriteFile("big", 0o644, io.LimitReader(zeros{}, 1<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want ENOSPC", err)
	}
	if err := WriteFile(s.root, ".env", bytes.Repeat([]byte("B=2\n"), 10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want ENOSPC", err)
	}
	if b, err := s.root.ReadFile(".env"); string(b) != "A=1\n" {
		t.Fatalf("old file is %q, %v", b, err)
	}
	if _, err := s.root.Lstat("..env.tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("temporary file stayed: %v", err)
	}
	if err := st.Commit(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("commit: got %v", err)
	}
	// Room comes back, then the same name works.
	if err := st.Abort(); err != nil {
		t.Fatal(err)
	}
	stage(t, s, "2.0.0")
	if err := s.SetCurrent("2.0.0"); err != nil {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// scenario is one update: what a device does to its disk, from whatever an
// earlier scenario that was cut left there.
func scenario(dir string) error {
	runtime.LockOSThread() // strace counts calls per thread
	s, err := Create(filepath.Join(dir, "shop"))
	if err != nil {
		return err
	}
	if err := s.Clean(); err != nil {
		return err
	}
	if err := s.Remove("2.0.0"); err != nil && !strings.Contains(err.Error(), "it is current") {
		return err
	}
	st, err := s.Stage("2.0.0")
	if err != nil {
		return err
	}
	defer st.Abort()
	for _, f := range []string{"a/b/one", "two"} {
		if err := st.WriteFile(f, 0o644, strings.NewReader("2.0.0")); err != nil {
			return err
		}
	}
	if err := st.Commit(); err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	if err := ReplaceFile(s.root, ".env", []byte("VERSION=2.0.0\n"), 0o600); err != nil {
		return err
	}
	if err := s.SetCurrent("2.0.0"); err != nil {
		return err
	}
	return s.Remove("1.0.0")
}

// before makes the state a scenario starts from: release 1.0.0 is current.
func before(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, err := Create(filepath.Join(dir, "shop"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Stage("1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	write(t, st, "a/b/one", "1.0.0")
	write(t, st, "two", "1.0.0")
	if err := st.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := s.SetCurrent("1.0.0"); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(s.root, ".env", []byte("VERSION=1.0.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkWhole is the oracle: whatever happened, every listed release is whole,
// current leads to one of them, and .env is one of the two.
func checkWhole(t *testing.T, dir string) {
	t.Helper()
	s := open(t, filepath.Join(dir, "shop"))
	names := list(t, s)
	current, ok, err := s.Current()
	if err != nil || !ok {
		t.Fatalf("current: %v, %v", ok, err)
	}
	found := false
	for _, name := range names {
		found = found || name == current
		for _, f := range []string{"a/b/one", "two"} {
			if got := read(t, s, name, f); got != name {
				t.Fatalf("%s of %s is %q", f, name, got)
			}
		}
	}
	if !found {
		t.Fatalf("current is %s, releases are %v", current, names)
	}
	b, err := s.root.ReadFile(".env")
	if v := strings.TrimPrefix(strings.TrimSpace(string(b)), "VERSION="); v != "1.0.0" && v != "2.0.0" {
		t.Fatalf(".env is %q, %v", b, err)
	}
}

// errStrace is a failure of strace, not of what it watched: on a busy machine it
// loses threads. The same try again is in order, once.
var errStrace = errors.New("strace failed")

func strace(t *testing.T, dir, child string, args ...string) (log string, err error) {
	t.Helper()
	bin, lookErr := exec.LookPath("strace")
	if lookErr != nil {
		t.Skip("no strace")
	}
	file := filepath.Join(dir, "strace.log")
	if !strings.Contains(strings.Join(args, " "), "signal=") { // which strace would not send
		args = append(args, "--seccomp-bpf") // nothing stops but these calls
	}
	cmd := exec.Command(bin, append(append([]string{"-f", "-y", "-qq", "-o", file}, args...), os.Args[0])...)
	cmd.Env = append(os.Environ(), childEnv+"="+child)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
		if bytes.Contains(out, []byte("strace: ")) {
			err = fmt.Errorf("%w: %w", errStrace, err)
		}
	}
	b, readErr := os.ReadFile(file)
	if readErr != nil {
		t.Skipf("strace does not work here: %v, %v", err, readErr)
	}
	return string(b), err
}

var (
	syncCall   = regexp.MustCompile(`(fsync|fdatasync|syncfs)\(\d+<([^>]*)>`)
	renameCall = regexp.MustCompile(`renameat2?\(\d+<([^>]*)>, "([^"]*)", \d+<([^>]*)>, "([^"]*)"`)
)

// A missing fsync shows in no test that only kills, so the order of fsync and
// rename is pinned here call by call.
func TestSyncOrder(t *testing.T) {
	dir := before(t)
	log, err := strace(t, dir, "scenario "+dir, "-e", "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2")
	if err != nil {
		t.Fatal(err)
	}
	rel := func(p string) string {
		p, err := filepath.Rel(filepath.Join(dir, "shop"), p)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var got []string
	for line := range strings.Lines(log) {
		if m := syncCall.FindStringSubmatch(line); m != nil {
			got = append(got, "sync "+rel(m[2]))
		} else if m := renameCall.FindStringSubmatch(line); m != nil {
			got = append(got, "rename "+rel(m[1]+"/"+m[2])+" "+rel(m[3]+"/"+m[4]))
		}
	}
	want := strings.Split(strings.TrimSpace(`
sync ..
sync releases
sync .
sync releases
sync releases
sync releases/.staging-2.0.0
rename releases/.staging-2.0.0 releases/2.0.0
sync releases
sync ..env.tmp
rename ..env.tmp .env
sync .
rename .current.tmp current
sync .
sync releases
rename releases/1.0.0 releases/.trash-1.0.0
sync releases
sync releases`), "\n")
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every call that changes the disk fails once, and once the process is killed
// there. The releases must be whole each time, an error must be reported, and
// the same update must then succeed.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("runs about 100 processes")
	}
	for _, fault := range []string{"signal=SIGKILL", "error=EIO"} {
		runs := 0
		for _, call := range []string{"fsync", "syncfs", "renameat", "mkdirat", "symlinkat", "unlinkat", "fchmod"} {
			again := false
			for n := 1; ; n++ {
				dir := before(t)
				log, err := strace(t, dir, "scenario "+dir,
					"-e", "trace="+call, "-e", "inject="+call+":"+fault+":when="+strconv.Itoa(n))
				if errors.Is(err, errStrace) && !again {
					t.Log(err)
					again = true
					n--
					continue
				}
				again = false
				hit := strings.Contains(log, "INJECTED") || strings.Contains(log, "killed by SIGKILL")
				if !hit {
					if err != nil {
						t.Fatalf("no fault at %s %d, yet: %v", call, n, err)
					}
					if n == 1 {
						t.Errorf("the scenario never calls %s", call)
					}
					break
				}
				runs++
				// An unlink that failed is tried again as rmdir, and a left-over
				// may turn out to be gone: only the other calls must be heard of.
				if err == nil && call != "unlinkat" {
					t.Errorf("%s at %s %d was not reported:\n%s", fault, call, n, log)
				}
				checkWhole(t, dir)
				if err := scenario(dir); err != nil {
					t.Fatalf("after %s at %s %d: %v", fault, call, n, err)
				}
				checkWhole(t, dir)
				s := open(t, filepath.Join(dir, "shop"))
				if got := strings.Join(list(t, s), " "); got != "2.0.0" {
					t.Fatalf("after %s at %s %d: releases %s", fault, call, n, got)
				}
			}
		}
		t.Logf("%s: %d points", fault, runs)
	}
}
