package release

import (
	"fmt"
	"io/fs"
	"os"
)

// OpenDir opens a directory, making it and its parents first.
func OpenDir(path string, mode fs.FileMode) (*os.Root, error) {
	if err := os.MkdirAll(path, mode); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	return dir, nil
}

// Exists reports whether there is something at path, following links.
func Exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// IsFile reports whether there is a regular file at path, and no link.
func IsFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// IsDir reports whether there is a directory at path, following links.
func IsDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
