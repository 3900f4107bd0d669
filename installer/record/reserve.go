package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/valise-ota/valise/installer"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// A full disk is a reason to go back, and the way back is written down here,
// too. So Begin puts room aside in a file, and the first change that fails for
// want of room removes the file and is tried again. 1 MiB holds the changes of
// several records (28 pages each, and the undo data).
const (
	reserveSuffix = ".reserve"
	reserveSize   = 1 << 20 // bytes
)

// reserve puts the room aside, where it is not there yet.
func (s *Store) reserve() error {
	name := s.path + reserveSuffix
	if info, err := os.Stat(name); err == nil && info.Size() == reserveSize {
		return nil
	}
	err := os.WriteFile(name, make([]byte, reserveSize), 0o600)
	if err == nil {
		err = syncFile(name)
	}
	if err == nil {
		return nil
	}
	os.Remove(name)
	if free, ferr := installer.FreeBytes(filepath.Dir(s.path)); ferr == nil && errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("not enough space for the records in %s: %d bytes free, %d needed; remove what is not needed there and try again", filepath.Dir(s.path), free, reserveSize)
	}
	return fmt.Errorf("put room aside: %w", err)
}

// gainRoom reports whether err may come from a full disk and there was a
// reserve, which is room now.
func gainRoom(path string, err error) bool {
	return noRoom(err) && os.Remove(path+reserveSuffix) == nil
}

// noRoom reports whether err may come from a full or read-only file system.
func noRoom(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
		return true
	}
	return false
}

// syncFile makes a file or directory durable, here so that its blocks are
// really taken.
func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
