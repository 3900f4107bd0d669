package main

import (
	"errors"
	"os"
	"path/filepath"
)

// pendingFile is what renameio, which knows Unix only, calls so.
type pendingFile struct {
	*os.File
	path string
}

// newFile begins a file that replaces path in one step, when it is whole.
func newFile(path string) (*pendingFile, error) {
	if err := mayReplace(path); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"*")
	if err != nil {
		return nil, err
	}
	return &pendingFile{f, path}, nil
}

// CloseAtomicallyReplace puts the file in its place.
func (p *pendingFile) CloseAtomicallyReplace() error {
	if err := errors.Join(p.Sync(), p.Close()); err != nil {
		return err
	}
	return os.Rename(p.Name(), p.path)
}

// Cleanup removes what did not become a file. After CloseAtomicallyReplace there
// is nothing to remove.
func (p *pendingFile) Cleanup() error {
	p.Close()
	return os.Remove(p.Name())
}

// syncDir does nothing: a directory cannot be synced here.
func syncDir(string) error { return nil }
