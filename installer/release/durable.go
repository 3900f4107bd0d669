package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

// Every durable file operation of the installer is in this file. A name that
// changed is durable when its directory is fsynced, not when the file is:
// each function here returns after both.
//
// They work below an os.Root, so that no name and no planted symbolic link
// leads out of it. That is also why google/renameio is not used: it takes
// paths, and it leaves the directory to the caller.
//
// Temporary names are fixed (.NAME.tmp) and replaced when a power cut left one
// behind: litter cannot pile up. Two writers of one name must therefore hold
// the same Lock.

// WriteFile makes name hold data with exactly the mode perm, whatever the
// umask. After a power cut name has the old content or the new one, complete.
// An existing name that is not a regular file is refused.
func WriteFile(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	if _, err := lstatRegular(root, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return writeFile(root, name, bytes.NewReader(data), perm, nil)
}

// CopyFile is WriteFile with the data of r. When r fails, name stays as it was.
func CopyFile(root *os.Root, name string, r io.Reader, perm fs.FileMode) error {
	if _, err := lstatRegular(root, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return writeFile(root, name, r, perm, nil)
}

// ReplaceFile is WriteFile that keeps mode and owner of an existing file; perm
// is for a new one.
func ReplaceFile(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	old, err := lstatRegular(root, name)
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	if old == nil {
		return writeFile(root, name, bytes.NewReader(data), perm, nil)
	}
	owner, _ := old.Sys().(*syscall.Stat_t)
	return writeFile(root, name, bytes.NewReader(data), old.Mode().Perm(), owner)
}

// ReplaceLink is WriteFile in place of a symbolic link; what that leads to stays.
func ReplaceLink(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	if info, err := root.Lstat(name); err != nil || info.Mode().Type() != fs.ModeSymlink {
		return errors.Join(err, fmt.Errorf("replace link %s: it is none", name))
	}
	return writeFile(root, name, bytes.NewReader(data), perm, nil)
}

// lstatRegular returns nil, nil when name does not exist.
func lstatRegular(root *os.Root, name string) (fs.FileInfo, error) {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is a %s, want a regular file", kind(info.Mode()))
	}
	return info, err
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	}
	if m.IsRegular() {
		return "regular file"
	}
	return "special file"
}

func writeFile(root *os.Root, name string, r io.Reader, perm fs.FileMode, owner *syscall.Stat_t) (err error) {
	tmp := tempName(name)
	if err := removeLeftover(root, tmp); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			root.Remove(tmp) // after a rename there is none
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	// The owner first: chown may clear mode bits, and nobody may read a secret
	// through a mode meant for another owner.
	if owner != nil {
		if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := root.Rename(tmp, name); err != nil {
		return err
	}
	return SyncDir(root, path.Dir(name))
}

// Symlink makes name a link to target in one step: name is never missing. An
// existing name that is not a symbolic link is refused.
func Symlink(root *os.Root, target, name string) error {
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("link %s: %w", name, err)
	case info.Mode()&fs.ModeSymlink == 0:
		return fmt.Errorf("link %s: it is a %s, want a symbolic link", name, kind(info.Mode()))
	}
	tmp := tempName(name)
	if err := removeLeftover(root, tmp); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := root.Symlink(target, tmp); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := root.Rename(tmp, name); err != nil {
		root.Remove(tmp)
		return fmt.Errorf("link %s: %w", name, err)
	}
	return SyncDir(root, path.Dir(name))
}

// Rename moves oldname to newname. A directory is not merged with or put in
// place of an existing one only when the caller looked first: rename(2)
// replaces an empty directory.
func Rename(root *os.Root, oldname, newname string) error {
	if err := root.Rename(oldname, newname); err != nil {
		return fmt.Errorf("rename %s to %s: %w", oldname, newname, err)
	}
	if path.Dir(oldname) != path.Dir(newname) {
		if err := SyncDir(root, path.Dir(oldname)); err != nil {
			return err
		}
	}
	return SyncDir(root, path.Dir(newname))
}

// RemoveAll removes name and everything below it; a missing one is fine.
// Symbolic links are removed, not followed.
func RemoveAll(root *os.Root, name string) error {
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	err := SyncDir(root, path.Dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nor is there a parent that could hold it
	}
	return err
}

// Mkdir makes the directory name with exactly the mode perm. An existing
// directory stays as it is, but is made durable too: the process that made it
// may have been killed before it could.
func Mkdir(root *os.Root, name string, perm fs.FileMode) error {
	err := root.Mkdir(name, perm)
	switch {
	case err == nil:
		err = root.Chmod(name, perm) // whatever the umask
	case errors.Is(err, fs.ErrExist):
		var info fs.FileInfo
		info, err = root.Lstat(name)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("it is a %s", kind(info.Mode()))
		}
	}
	if err != nil {
		return fmt.Errorf("make directory %s: %w", name, err)
	}
	return SyncDir(root, path.Dir(name))
}

// SyncDir makes the names in the directory durable.
func SyncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", name, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", name, err)
	}
	return nil
}

// syncFS makes durable all that was written to the file system of dir: with one wait for
// the disk, where a release of many files would have one for each.
func syncFS(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync the file system: %w", err)
	}
	return nil
}

func tempName(name string) string {
	return path.Join(path.Dir(name), "."+path.Base(name)+".tmp")
}

func removeLeftover(root *os.Root, tmp string) error {
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
