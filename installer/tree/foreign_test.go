package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/release"
)

// A service that was taken over owns the directory of its configuration. What it
// puts there has root read and write nowhere else, and keeps no update waiting.
func TestForeignConfig(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("missing: root")
		}
		t.Skip("missing: root")
	}
	const service = 54321
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for name, plant := range map[string]func(conf, host string) error{
		"directory": func(conf, host string) error {
			return errors.Join(os.RemoveAll(filepath.Join(conf, "conf.d")), os.Symlink(host, filepath.Join(conf, "conf.d")))
		},
		"file": func(conf, host string) error {
			config := filepath.Join(conf, "conf.d/app.conf")
			return errors.Join(os.Remove(config), os.Symlink(filepath.Join(host, "app.conf"), config))
		},
		"pipe": func(conf, _ string) error {
			config := filepath.Join(conf, "conf.d/app.conf")
			return errors.Join(os.Remove(config), syscall.Mkfifo(config, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, conf, host := t.TempDir(), t.TempDir(), t.TempDir()
			config := filepath.Join(conf, "conf.d/app.conf")
			must(os.Mkdir(filepath.Dir(config), 0o755), os.WriteFile(config, []byte("ours"), 0o644), os.WriteFile(filepath.Join(host, "app.conf"), []byte("the host's"), 0o600),
				os.Chown(conf, service, service), os.Chown(filepath.Dir(config), service, service))
			must(plant(conf, host))
			store, err := release.Open(dir)
			must(err)
			defer store.Close()
			a := &App{Dir: dir, Releases: store}
			if _, err := a.put([]file{{path: config, data: []byte("new"), mode: 0o644}}); err == nil {
				t.Error("put: nil error")
			}
			link := new(foreign.LinkError)
			for what, f := range map[string]func() error{
				"way back": func() error {
					return a.restoreFile(saved{Path: config, Exists: true, Content: []byte("the service's")}, snapshot{})
				},
				"way back to none": func() error { return a.restoreFile(saved{Path: config}, snapshot{}) },
				"write":            func() error { return writeFile(config, []byte("the service's"), 0o644) },
				"environment":      func() error { _, err := loadEnv(config); return err },
			} {
				if err := f(); err == nil || name == "directory" && !errors.As(err, &link) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if b, err := os.ReadFile(filepath.Join(host, "app.conf")); err != nil || string(b) != "the host's" {
				t.Errorf("the host has %q, %v", b, err)
			}
			if left, err := fs.Glob(os.DirFS(host), "*"); err != nil || len(left) != 1 {
				t.Errorf("the host has %q, %v", left, err)
			}
		})
	}
}
