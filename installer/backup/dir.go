package backup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is an open directory that belongs to a container. Methods take the name of
// one entry of it, and no link is ever followed: whatever the container puts in
// the place of a file or directory, at whatever moment, root stays where it is.
// os.Root would follow links that do not leave it, and wait for a pipe.
type dir struct{ *os.File }

// maxDepth is how many directories are saved below one another. Each has a file
// descriptor while what is in it is walked.
const maxDepth = 128

// linkError says that a link lies where root wanted to go.
type linkError struct{ name string }

func (e *linkError) Error() string {
	return e.name + " is a link: root does not follow what a container puts there; remove it in the container"
}

// openDir opens what is mounted into a container. Its path is root's own.
func openDir(name string) (dir, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	return dir{f}, err
}

func (d dir) fd() int { return int(d.Fd()) }

func (d dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.Name(), name), Err: err}
}

func (d dir) lstat(name string) (st unix.Stat_t, err error) {
	return st, d.fail("lstat", name, unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW))
}

func (d dir) stat() (st unix.Stat_t, err error) {
	return st, d.fail("stat", "", unix.Fstat(d.fd(), &st))
}

func kindOf(st unix.Stat_t) uint32 { return st.Mode & unix.S_IFMT }

func (d dir) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		if st, serr := d.lstat(name); serr == nil && kindOf(st) == unix.S_IFLNK {
			return nil, &linkError{filepath.Join(d.Name(), name)}
		}
		return nil, d.fail("open", name, err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.Name(), name)), nil
}

// enter opens a directory of d.
func (d dir) enter(name string) (dir, error) {
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	return dir{f}, err
}

// file opens a regular file of d for reading.
func (d dir) file(name string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	f, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, st, err
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || kindOf(st) != unix.S_IFREG {
		f.Close()
		return nil, st, errors.Join(err, fmt.Errorf("%s is not a file", f.Name()))
	}
	return f, st, nil
}

// create makes a file that was not there.
func (d dir) create(name string) (*os.File, error) {
	return d.open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

// mkdir makes a directory, or opens the one that is there. What else is there is
// removed.
func (d dir) mkdir(ctx context.Context, name string) (dir, error) {
	if st, err := d.lstat(name); err == nil && kindOf(st) != unix.S_IFDIR {
		if err := d.remove(ctx, name); err != nil {
			return dir{}, err
		}
	}
	switch err := unix.Mkdirat(d.fd(), name, 0o700); {
	case err == nil:
		sub, err := d.enter(name)
		if err != nil {
			return sub, err
		}
		st, err := d.stat()
		if err == nil {
			err = sub.own(st) // until the archive says whose it is
		}
		return sub, err
	case err != unix.EEXIST:
		return dir{}, d.fail("mkdir", name, err)
	}
	return d.enter(name)
}

func (d dir) own(like unix.Stat_t) error {
	if err := d.Chown(int(like.Uid), int(like.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(d.fd(), like.Mode&0o7777)
}

// descend opens a directory below what is mounted into a container. make makes
// directories that are not there, and removes what lies where they belong.
func descend(ctx context.Context, source, below string, make bool) (dir, error) {
	at, err := openDir(source)
	if err != nil {
		return at, err
	}
	for name := range strings.SplitSeq(below, "/") {
		if name == "" || name == "." {
			continue
		}
		var next dir
		if make {
			next, err = at.mkdir(ctx, name)
		} else {
			next, err = at.enter(name)
		}
		at.Close()
		if at = next; err != nil {
			at.Close()
			return dir{}, err
		}
	}
	return at, nil
}

// remove removes name with all that is in it. That it is not there is no error.
func (d dir) remove(ctx context.Context, name string) error {
	switch err := unix.Unlinkat(d.fd(), name, 0); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM:
	default:
		return d.fail("remove", name, err)
	}
	sub, err := d.enter(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := sub.clear(ctx); err != nil {
		return err
	}
	err = unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
	return d.fail("remove", name, err)
}

// clear removes all that is in d, however deep: what is too deep to be walked is
// brought up first. The place of a mount stays, without what is in it, and so do
// the directories above it.
func (d dir) clear(ctx context.Context) error { return d.clearBelow(ctx, d, 0) }

func (d dir) clearBelow(ctx context.Context, top dir, depth int) error {
	for again := true; again; {
		again = false
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return err
		}
		err := d.each(ctx, func(name string) error {
			err := unix.Unlinkat(d.fd(), name, 0)
			if err == unix.EISDIR || err == unix.EPERM {
				err = d.removeDir(ctx, name, top, depth)
			}
			if err == nil {
				again = true
			}
			if err == unix.ENOENT || err == unix.EBUSY || err == unix.ENOTEMPTY {
				err = nil
			}
			return d.fail("remove", name, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d dir) removeDir(ctx context.Context, name string, top dir, depth int) error {
	if depth >= maxDepth {
		return unix.Renameat(d.fd(), name, top.fd(), tempPrefix+rand.Text())
	}
	sub, err := d.enter(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := sub.clearBelow(ctx, top, depth+1); err != nil {
		return err
	}
	return unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
}

// each gives the names in d to do, some at a time: there may be millions.
func (d dir) each(ctx context.Context, do func(name string) error) error {
	for {
		names, err := d.Readdirnames(256)
		for _, name := range names {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := do(name); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
