package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// zeros is a .tar.gz with one file of n times 64 MiB, which is quick to make and slow
// to unpack: gzip takes one stream after the other for one.
func zeros(t *testing.T, n int) []byte {
	t.Helper()
	pack := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	const part = 64 << 20
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: int64(n) * part}); err != nil {
		t.Fatal(err)
	}
	content := pack(make([]byte, part))
	return bytes.Join([][]byte{pack(head.Bytes()), bytes.Repeat(content, n), pack(make([]byte, 1024))}, nil)
}

// A build that is told to end while an archive is unpacked ends soon, says so by its
// exit code, and leaves nothing behind.
func TestTerminated(t *testing.T) {
	dir, temp := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "valise") // TestMain goes by the name
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"valise.yaml": []byte("app: cloud\ninstaller: none\nplatforms: [linux/amd64]\ntree:\n  files:\n  - {unpack: a.tar.gz, to: .}\n  units: [x.service]\nhealth: {http: \"http://127.0.0.1:8080/health\", version: version}\n"),
		"a.tar.gz":    zeros(t, 128),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	c := exec.Command(program, "build", "1.0.0", "--progress", "none")
	c.Dir, c.Env, c.Stdout, c.Stderr = dir, append(os.Environ(), "TMPDIR="+temp), &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	written := func() (n int64) {
		_ = filepath.WalkDir(temp, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				if info, err := d.Info(); err == nil {
					n += info.Size()
				}
			}
			return nil
		})
		return n
	}
	for end := time.Now().Add(bundletest.Patience()); written() == 0; time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("%v: %s", err, &out)
		default:
		}
		if time.Now().After(end) {
			_ = c.Process.Kill()
			t.Fatalf("nothing is unpacked: %s", &out)
		}
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(bundletest.Patience()):
		_ = c.Process.Kill()
		t.Fatal("it goes on")
	}
	if code := c.ProcessState.ExitCode(); code != 1 || !bytes.Contains(out.Bytes(), []byte("context canceled")) {
		t.Errorf("exit code %d: %s", code, &out)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
