package release

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

var lockedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// holdLock is the child of TestLockProcesses. It holds the lock until it is
// killed.
func holdLock(path string) error {
	unlock, err := Lock(path, "update to 2.1.0", lockedAt)
	if err != nil {
		return err
	}
	defer unlock() // what is not reachable would be collected, and with it the lock
	runtime.GC()
	fmt.Println("locked")
	time.Sleep(time.Hour) // with nothing to wait for, the runtime would end the process
	return nil
}

func TestLockProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.lock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=lock "+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	_, err = Lock(path, "rollback", lockedAt.Add(3*time.Minute+20*time.Second))
	var locked *LockedError
	if !errors.As(err, &locked) {
		t.Fatalf("got %v, want a LockedError", err)
	}
	want := LockedError{Path: path, Owner: "update to 2.1.0", PID: cmd.Process.Pid, Started: lockedAt, Age: 200 * time.Second}
	if *locked != want {
		t.Fatalf("got %+v, want %+v", *locked, want)
	}
	wantErr(t, err, fmt.Sprintf("held by update to 2.1.0 (process %d) for 3m20s", cmd.Process.Pid))

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	unlock, err := Lock(path, "rollback", lockedAt)
	if err != nil {
		t.Fatalf("after kill -9: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "l")
	// What an earlier, longer owner left does not show through.
	if err := os.WriteFile(path, []byte(`{"owner":"`+string(make([]byte, 3000))), 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(path, "first", lockedAt)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path, "second", lockedAt.Add(-time.Hour)) // the clock went backward
	if want := fmt.Sprintf("lock %s: held by first (process %d)", path, os.Getpid()); err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path, "second", lockedAt)
	wantErr(t, err, "another process holds it")
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = Lock(path, "third", lockedAt)
	if err != nil {
		t.Fatal(err)
	}
	unlock()

	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	_, err = Lock(filepath.Join(dir, "link"), "x", lockedAt)
	wantErr(t, err, "symbolic links")
	_, err = Lock(filepath.Join(dir, "none/l"), "x", lockedAt)
	wantErr(t, err, "no such file")
}
