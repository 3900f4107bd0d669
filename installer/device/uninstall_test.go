package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
)

// removable is a double that can be uninstalled, and leaves nothing of its own.
type removable struct {
	*double
	dir string
}

func (removable) Removes(*installer.Release, bool) ([]string, error) { return nil, nil }
func (r removable) Remove(context.Context, *installer.Release, bool) error {
	all, err := filepath.Glob(filepath.Join(r.dir, "*"))
	for _, path := range all {
		if filepath.Base(path) != "updates" {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}

// TestUninstallFolder: the daemon's folders go with the app, and nothing that lies in them.
func TestUninstallFolder(t *testing.T) {
	for name, there := range map[string]bool{"": false, "shop-2.0.0.tar.gz": true, "applied/shop-1.0.0.tar.gz": true} {
		s := installed(t)
		dir := s.AppDir("shop")
		s.Machine.Runtime = func(string) installer.Runtime { return removable{s.double, dir} }
		err := errors.Join(os.MkdirAll(filepath.Join(dir, "updates/applied"), 0o755), os.MkdirAll(filepath.Join(dir, "updates/failed"), 0o755))
		if name != "" {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, "updates", name), []byte("x"), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Uninstall(t.Context(), false, func([]string) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if release.Exists(dir) != there || there && !release.Exists(filepath.Join(dir, "updates", name)) {
			t.Errorf("with %q: %v", name, release.Exists(dir))
		}
	}
}
