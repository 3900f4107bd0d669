package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// What lies beside a program that is replaced.
const (
	newProgram = ".new" // not tried yet
	OldProgram = ".old" // the one before, for the way back
)

// ReplaceProgram puts a program in place of name, which people and services
// may start at any moment: name is always there and always complete. check runs
// the program at a path and says what is wrong with it: once before it gets its
// name, and once afterwards. When it is wrong then, the old program is restored.
// The old one stays beside it, with OldProgram behind its name. After a power cut
// it may be called again.
func ReplaceProgram(ctx context.Context, dir *os.Root, name string, r io.Reader, check func(ctx context.Context, path string) error) error {
	next, old := name+newProgram, name+OldProgram
	if err := CopyFile(dir, next, r, 0o755); err != nil {
		return err
	}
	if err := check(ctx, filepath.Join(dir.Name(), next)); err != nil {
		return errors.Join(err, RemoveAll(dir, next))
	}
	had, err := keepProgram(dir, name, old)
	if err != nil {
		return errors.Join(err, RemoveAll(dir, next))
	}
	if err := Rename(dir, next, name); err != nil {
		return errors.Join(err, RemoveAll(dir, next))
	}
	if err := check(ctx, filepath.Join(dir.Name(), name)); err != nil {
		if !had {
			return errors.Join(err, RemoveAll(dir, name))
		}
		return errors.Join(err, Rename(dir, old, name))
	}
	return nil
}

// keepProgram makes old a second name of the program name.
func keepProgram(dir *os.Root, name, old string) (had bool, err error) {
	info, err := lstatRegular(dir, name)
	if err != nil || info == nil {
		return false, err
	}
	tmp := tempName(old)
	if err := removeLeftover(dir, tmp); err != nil {
		return true, fmt.Errorf("keep %s: %w", name, err)
	}
	if err := dir.Link(name, tmp); err != nil {
		return true, fmt.Errorf("keep %s: %w", name, err)
	}
	// rename(2) of two names of one file does nothing and leaves both.
	if have, err := dir.Lstat(old); err == nil && os.SameFile(have, info) {
		return true, removeLeftover(dir, tmp)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, fmt.Errorf("keep %s: %w", name, err)
	}
	return true, Rename(dir, tmp, old)
}
