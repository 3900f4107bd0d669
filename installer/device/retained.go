package device

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/daemon"
)

// retained returns what finds the bundle of a release of app that the daemon
// still has: applied from the drop folder, or waiting. Its name proves nothing,
// its manifest is that of the release.
func (m *Machine) retained(app string) func(installer.Release) (*compose.Retained, error) {
	return func(r installer.Release) (*compose.Retained, error) {
		c, err := (&Device{Machine: m}).Config(app)
		if err != nil {
			return nil, err
		}
		for _, pattern := range []string{filepath.Join(c.Drop, daemon.AppliedDir, "*"), filepath.Join(c.Drop, "*"), filepath.Join(c.Inbox, "*")} {
			files, err := filepath.Glob(pattern)
			if err != nil {
				return nil, err
			}
			for _, file := range slices.Backward(files) {
				if b := openRetained(file, r); b != nil {
					return b, nil
				}
			}
		}
		return nil, nil
	}
}

// openRetained opens a file if it is the bundle of r.
func openRetained(file string, r installer.Release) *compose.Retained {
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	b, f, err := parts.OpenBundle(file)
	if err != nil {
		return nil
	}
	if bundle.DigestOf(b.ManifestBytes()) != r.Manifest || b.Locate() != nil {
		f.Close()
		return nil
	}
	return &compose.Retained{Reader: b, Closer: f, Name: file}
}
