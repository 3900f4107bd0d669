package installer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// FreeBytes is how many bytes this process may still write on the file system
// of path.
func FreeBytes(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("measure free space of %s: %w", path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil // Bsize is an int32 on 32-bit ARM
}

// FreeBytesFor is FreeBytes of a directory that is still to be made: of the
// nearest one above it that exists.
func FreeBytesFor(dir string) (int64, error) {
	for {
		n, err := FreeBytes(dir)
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return n, err
		}
		dir = filepath.Dir(dir)
	}
}
