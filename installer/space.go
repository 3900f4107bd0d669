package installer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// Spare is how many bytes stay free when something is written that is not verified.
const Spare = 64 << 20

// Room returns an error unless size more bytes fit beside f, and Spare stays free.
func Room(f *os.File, size int64) error {
	dir := filepath.Dir(f.Name())
	free, err := FreeBytes(dir)
	if err == nil && (size > free || free-size < Spare) {
		err = &SpaceError{"in " + dir, free, size + Spare}
	}
	return err
}
