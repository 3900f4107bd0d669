// Package foreign opens what lies where others than root may write: a folder that
// people put files into, a directory that belongs to a service. Who owns a
// directory may exchange what is in it for a link, at any moment, and have root read
// or write wherever that leads.
package foreign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// LinkError says that a link lies on the way that another user made, or could have.
type LinkError struct {
	Path string
	UID  int // whose the link, or the directory it is in, is
}

func (e *LinkError) Error() string {
	return fmt.Sprintf("%s is a link that user %d could have made: name the place where it leads, or have only root write there", e.Path, e.UID)
}

const maxLinks = 40 // on one way, as Linux has it

// OpenDir opens the directory path, which is absolute. Links on the way are followed
// only when they are this user's or root's, in a directory where no one else can
// write. What is missing is made, with the mode perm, unless that is 0.
func OpenDir(path string, perm fs.FileMode) (*os.Root, error) {
	for range maxLinks {
		dir, elsewhere, err := walk(path, perm)
		if err != nil {
			return nil, err
		}
		if elsewhere == "" {
			return dir, nil
		}
		path = elsewhere
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
}

// walk is OpenDir up to the first link, and then where that leads.
func walk(path string, perm fs.FileMode) (dir *os.Root, elsewhere string, err error) {
	if !filepath.IsAbs(path) {
		return nil, "", &fs.PathError{Op: "open", Path: path, Err: fs.ErrInvalid}
	}
	if dir, err = os.OpenRoot("/"); err != nil {
		return nil, "", err
	}
	names := strings.Split(strings.Trim(filepath.Clean(path), "/"), "/")
	if names[0] == "" {
		return dir, "", nil
	}
	for i, name := range names {
		next, to, err := step(dir, name, perm)
		dir.Close()
		if err != nil {
			return nil, "", fmt.Errorf("open %s: %w", path, err)
		}
		if to != "" {
			return nil, filepath.Join(append([]string{to}, names[i+1:]...)...), nil
		}
		dir = next
	}
	return dir, "", nil
}

// step opens the directory name in dir, or says where it leads when it is a link.
func step(dir *os.Root, name string, perm fs.FileMode) (next *os.Root, to string, err error) {
	info, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) && perm != 0 {
		if err := dir.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, "", err
		}
		info, err = dir.Lstat(name)
	}
	if err != nil {
		return nil, "", err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		to, err := follow(dir, name, info)
		return nil, to, err
	}
	if next, err = dir.OpenRoot(name); err != nil {
		return nil, "", err
	}
	is, err := next.Stat(".")
	if err == nil && !os.SameFile(info, is) { // exchanged since
		err = &LinkError{filepath.Join(dir.Name(), name), owner(is)}
	}
	if err != nil {
		next.Close()
		return nil, "", err
	}
	return next, "", nil
}

// follow is where a link in dir leads, if it may be followed.
func follow(dir *os.Root, name string, link fs.FileInfo) (string, error) {
	at, err := dir.Stat(".")
	if err != nil {
		return "", err
	}
	for _, info := range []fs.FileInfo{link, at} {
		if !ours(info) || info.IsDir() && info.Mode().Perm()&0o022 != 0 {
			return "", &LinkError{filepath.Join(dir.Name(), name), owner(info)}
		}
	}
	to, err := dir.Readlink(name)
	if err == nil && !filepath.IsAbs(to) {
		to = filepath.Join(dir.Name(), to)
	}
	return to, err
}

// ours reports whether something belongs to root, or to who runs this.
func ours(info fs.FileInfo) bool { return owner(info) == 0 || owner(info) == os.Geteuid() }

func owner(info fs.FileInfo) int {
	st, _ := info.Sys().(*syscall.Stat_t)
	return int(st.Uid)
}

// OpenOwn opens the directory name below dir, in which only this user can have
// put anything.
func OpenOwn(dir *os.Root, name string) (*os.Root, error) {
	own, to, err := step(dir, name, 0)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir.Name(), name)
	if to != "" {
		return nil, fmt.Errorf("%s is a link to %s: put a directory there that only root can write to", path, to)
	}
	info, err := own.Stat(".")
	if err == nil && (owner(info) != os.Geteuid() || info.Mode().Perm()&0o022 != 0) {
		err = fmt.Errorf("%s belongs to user %d and has mode %04o: others may have changed it: look at it, then chown root %s; chmod 700 %s", path, owner(info), info.Mode().Perm(), path, path)
	}
	if err != nil {
		own.Close()
		return nil, err
	}
	return own, nil
}

// ReadFile reads a file of at most limit bytes, whose directory is opened as by
// OpenDir. A pipe or device is not waited for.
func ReadFile(path string, limit int64) ([]byte, error) {
	for range maxLinks {
		dir, err := OpenDir(filepath.Dir(path), 0)
		if err != nil {
			return nil, err
		}
		b, elsewhere, err := read(dir, filepath.Base(path), limit)
		dir.Close()
		if err != nil || elsewhere == "" {
			return b, err
		}
		path = elsewhere
	}
	return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.ELOOP}
}

func read(dir *os.Root, name string, limit int64) (b []byte, elsewhere string, err error) {
	info, err := dir.Lstat(name)
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir.Name(), name)
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		elsewhere, err := follow(dir, name, info)
		return nil, elsewhere, err
	case 0:
	default:
		return nil, "", fmt.Errorf("read %s: it is not a file", path)
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if is, err := f.Stat(); err != nil || !os.SameFile(info, is) {
		return nil, "", errors.Join(err, fmt.Errorf("read %s: it was exchanged for another file", path))
	}
	b, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("read %s: it has more than %d bytes", path, limit)
	}
	return b, "", err
}
