//go:build unix

package main

import (
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// newFile begins a file that replaces path in one step, when it is whole.
func newFile(path string) (*renameio.PendingFile, error) {
	if err := mayReplace(path); err != nil {
		return nil, err
	}
	return renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644))
}

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
