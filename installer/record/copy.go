package record

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// copySuffix is that of the copy beside the file.
const copySuffix = ".copy"

// Copy writes a copy of the records beside them: what is left when the file is torn.
// The old one stays until the new one is durable.
func (s *Store) Copy(ctx context.Context) error {
	next := s.path + copySuffix + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy record: %w", err)
	}
	_, err := s.db.ExecContext(ctx, "VACUUM INTO ?", next)
	if err == nil {
		err = os.Chmod(next, 0o600)
	}
	if err == nil {
		err = replace(next, s.path+copySuffix)
	}
	if err != nil {
		os.Remove(next)
		return fmt.Errorf("copy record: %w", err)
	}
	return nil
}

// replace gives the file next the name path, durably: whatever is lost, path is the
// old file or the whole new one.
func replace(next, path string) error {
	if err := syncFile(next); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(path))
}

// SetAside gives the file at path and its log another name, which ends with label,
// and returns the new one; empty when there is no file.
func SetAside(path, label string) (string, error) {
	aside := path + ".damaged-" + label
	for _, suffix := range []string{"-wal", "-shm", ""} {
		err := os.Rename(path+suffix, aside+suffix)
		if errors.Is(err, fs.ErrNotExist) {
			if suffix == "" {
				aside = ""
			}
			continue
		}
		if err != nil {
			return "", fmt.Errorf("set record aside: %w", err)
		}
	}
	return aside, syncFile(filepath.Dir(path))
}

// FromCopy makes the file at path, which is not there, from its copy, and reports
// whether there was one.
func FromCopy(path string) (bool, error) {
	b, err := os.ReadFile(path + copySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	next := path + copySuffix + ".new"
	if err == nil {
		err = os.WriteFile(next, b, 0o600)
	}
	if err == nil {
		err = replace(next, path)
	}
	if err != nil {
		return false, fmt.Errorf("bring record back from its copy: %w", err)
	}
	return true, nil
}
