package daemon

import (
	"errors"
	"fmt"
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

// Who owns the directory above the drop folder can put a link in its place: nothing
// is moved or removed where that leads.
func TestDropLink(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("missing: root")
		}
		t.Skip("missing: root")
	}
	const stranger = 54321
	for what, where := range map[string]string{"folder": "", "above": "in"} {
		d := newShop(t, Apply)
		a := d.boot()
		above, elsewhere := t.TempDir(), t.TempDir()
		a.config.Drop = filepath.Join(above, "tech", where, "updates")
		if err := errors.Join(os.MkdirAll(filepath.Dir(a.config.Drop), 0o755), os.MkdirAll(filepath.Join(elsewhere, "updates", AppliedDir), 0o755)); err != nil {
			t.Fatal(err)
		}
		link, to := a.config.Drop, filepath.Join(elsewhere, "updates")
		if where != "" {
			link, to = filepath.Dir(link), elsewhere
			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.Symlink(to, link), os.Lchown(link, stranger, stranger), os.Chown(filepath.Dir(link), stranger, stranger)); err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range keepDropped + 2 {
			for _, dir := range []string{".", AppliedDir, failedDir} {
				name := filepath.Join(dir, fmt.Sprintf("db-%d.tar.gz", i))
				want = append(want, name)
				file := filepath.Join(elsewhere, "updates", name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("a backup"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		}
		stop := a.watchDrop(t.Context())
		for range 4 {
			a.lookAtDrop(t.Context())
		}
		_ = a.moveDropped("db-0.tar.gz", failedDir, "1.0.0", "no bundle")
		stop()
		for _, name := range want {
			if _, err := os.Lstat(filepath.Join(elsewhere, "updates", name)); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, n, err := a.records.Find(t.Context(), nil, 1, 0); err != nil || n != 1 { // the installation
			t.Errorf("%s: %d records, %v", what, n, err)
		}
		a.close()
	}
}
