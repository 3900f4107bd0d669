package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"syscall"
)

// local is a directory on this device: a disk, a stick, a network share.
type local struct{ app, dir string }

func (l local) list(context.Context) ([]Release, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	var files []found
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			files = append(files, found{e.Name(), info.Size(), part{path: filepath.Join(l.dir, e.Name())}})
		}
	}
	return group(l.app, files), nil
}

func (l local) find(ctx context.Context, version string) (Release, error) {
	return among(ctx, l, version)
}

// among looks for a version in a list.
func among(ctx context.Context, l lister, version string) (Release, error) {
	all, err := l.list(ctx)
	if err != nil {
		return Release{}, err
	}
	for _, r := range all {
		if r.Version == version {
			return r, nil
		}
	}
	return Release{}, fs.ErrNotExist
}

// LocalFile is a bundle on this device, in one file or in parts.
type LocalFile struct {
	files []*os.File
	ends  []int64
}

// URL is where a browser gets the bundle; empty for one that is on this device or
// in several files.
func (b Bundle) URL() string {
	if len(b.parts) != 1 {
		return ""
	}
	return b.parts[0].url
}

// OpenLocal opens a bundle that is not Remote. The caller closes it.
func (b Bundle) OpenLocal() (*LocalFile, error) {
	f := &LocalFile{}
	var size int64
	for _, p := range b.parts {
		// A pipe would make a plain open wait for somebody who writes to it.
		file, err := os.OpenFile(p.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open bundle: %w", err)
		}
		f.files = append(f.files, file)
		info, err := file.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a file", p.path)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open bundle: %w", err)
		}
		size += info.Size()
		f.ends = append(f.ends, size)
	}
	return f, nil
}

// Size returns the bytes of the bundle.
func (f *LocalFile) Size() int64 { return f.ends[len(f.ends)-1] }

func (f *LocalFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		i := sort.Search(len(f.ends), func(i int) bool { return f.ends[i] > at })
		if i == len(f.ends) {
			return done, io.EOF
		}
		var base int64
		if i > 0 {
			base = f.ends[i-1]
		}
		n, err := f.files[i].ReadAt(p[done:done+int(min(int64(len(p)-done), f.ends[i]-at))], at-base)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// Close closes the files.
func (f *LocalFile) Close() error {
	var err error
	for _, file := range f.files {
		err = errors.Join(err, file.Close())
	}
	return err
}
