package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/valise-ota/valise/bundle/parts"
)

// local is a directory on this device: a disk, a stick, a network share.
type local struct{ app, dir string }

func (l local) list(context.Context) (*listing, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	var files []found
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			files = append(files, found{e.Name(), info.Size(), part{path: filepath.Join(l.dir, e.Name())}})
		}
	}
	return newListing(l.app, files), nil
}

// URL is where a browser gets the bundle; empty for one that is on this device, in a
// registry or in several files.
func (b Bundle) URL() string {
	if len(b.parts) != 1 || b.parts[0].tag != nil {
		return ""
	}
	return b.parts[0].url
}

// OpenLocal opens a bundle that is not Remote. The caller closes it.
func (b Bundle) OpenLocal() (*parts.File, error) {
	var paths []string
	for _, p := range b.parts {
		paths = append(paths, p.path)
	}
	f, err := parts.OpenAll(b.Name, paths)
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	return f, nil
}
