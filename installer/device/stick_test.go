package device

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestHostileStick: what lies on a stick where a file is to be written neither
// keeps the writer waiting nor gets written to.
func TestHostileStick(t *testing.T) {
	for name, put := range map[string]func(path, victim string) error{
		"pipe":           func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
		"link":           func(path, victim string) error { return os.Symlink(victim, path) },
		"link inside":    func(path, _ string) error { return os.Symlink("precious", path) },
		"hard link":      func(path, victim string) error { return os.Link(victim, path) },
		"left over file": func(path, _ string) error { return os.WriteFile(path, []byte("half of an older one"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			stick, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer stick.Close()
			outside := filepath.Join(t.TempDir(), "outside")
			inside := filepath.Join(dir, "precious")
			for _, f := range []string{outside, inside} {
				if err := os.WriteFile(f, []byte("precious"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			tmp := filepath.Join(dir, "inventory.json.tmp")
			if err := put(tmp, outside); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- writeStick(stick, "inventory.json", []byte("{}")) }()
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(bundletest.Patience()):
				t.Fatal("it waits for a reader of the pipe")
			}
			for path, want := range map[string]string{filepath.Join(dir, "inventory.json"): "{}", outside: "precious", inside: "precious"} {
				if b, err := os.ReadFile(path); err != nil || string(b) != want {
					t.Errorf("%s holds %q, error %v, want %q", path, b, err, want)
				}
			}
			if info, err := os.Lstat(filepath.Join(dir, "inventory.json")); err != nil || !info.Mode().IsRegular() {
				t.Errorf("it is %v, error %v", info.Mode(), err)
			}
			if _, err := os.Lstat(tmp); err == nil {
				t.Error("the temporary file is still there")
			}
		})
	}
}
