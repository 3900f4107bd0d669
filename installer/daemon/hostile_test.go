package daemon

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/installer/record"
)

// Whoever may write to a drop folder may put anything there: nothing outside is
// read or written, and nothing keeps the daemon waiting.
func TestHostileDrop(t *testing.T) {
	const name = "shop.tar.gz"
	reason := filepath.Join(failedDir, name+reasonSuffix)
	for what, plant := range map[string]func(drop, outside string) error{
		"pipe for the reason": func(drop, _ string) error { return unix.Mkfifo(filepath.Join(drop, reason), 0o666) },
		"link for the reason": func(drop, outside string) error { return os.Symlink(outside, filepath.Join(drop, reason)) },
		"link inside":         func(drop, _ string) error { return os.Symlink("../precious", filepath.Join(drop, reason)) },
		"hard link":           func(drop, outside string) error { return os.Link(outside, filepath.Join(drop, reason)) },
		"link for failed": func(drop, outside string) error {
			return errors.Join(os.Remove(filepath.Join(drop, failedDir)), os.Symlink(filepath.Dir(outside), filepath.Join(drop, failedDir)))
		},
		"pipe for the bundle": func(drop, _ string) error {
			return errors.Join(os.Remove(filepath.Join(drop, name)), unix.Mkfifo(filepath.Join(drop, name), 0o666))
		},
		"link for the bundle": func(drop, outside string) error {
			return errors.Join(os.Remove(filepath.Join(drop, name)), os.Symlink(outside, filepath.Join(drop, name)))
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir, drop := t.TempDir(), t.TempDir()
			outside := filepath.Join(dir, "outside")
			for file, text := range map[string]string{outside: "precious", filepath.Join(drop, "precious"): "precious", filepath.Join(drop, name): "bundle"} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.Mkdir(filepath.Join(drop, failedDir), 0o755), plant(drop, outside)); err != nil {
				t.Fatal(err)
			}
			records, err := record.Open(t.Context(), filepath.Join(dir, "state.db"), "shop")
			if err != nil {
				t.Fatal(err)
			}
			d := &Daemon{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now}
			a := &app{Daemon: d, name: "shop", config: Config{Drop: drop}, records: records}
			done := make(chan struct{})
			go func() { defer close(done); _ = a.moveDropped(name, failedDir, "1.0.0", "no bundle") }()
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatal("it waits for a reader of the pipe")
			}
			if err := records.Close(); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{outside, filepath.Join(drop, "precious")} {
				if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
					t.Errorf("%s holds %q, %v", file, b, err)
				}
			}
			if entries, err := os.ReadDir(dir); err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name }) {
				t.Errorf("outside: %v, %v", entries, err)
			}
			found, err := bundlesIn(os.DirFS(drop))
			if err != nil || what == "link for the bundle" && found[name] != nil || what == "pipe for the bundle" && found[name] != nil {
				t.Errorf("in the folder: %v, %v", found, err)
			}
		})
	}
}
