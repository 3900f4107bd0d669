// Package parts reads one file that is kept in several, for places that take no
// large ones: NAME.001, NAME.002, ..., of one size but the last, which may be
// smaller. It is what split -d -a 3 --numeric-suffixes=1 makes of NAME and cat
// joins, so no tool needs to know bundles, and no part is anything by itself.
package parts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Max is how many parts three digits can number.
const Max = 999

// Error says why files are not the parts of one file.
type Error struct{ Detail string }

func (e *Error) Error() string { return e.Detail }

// Kind names these errors for front ends.
func (e *Error) Kind() string { return "format" }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Name is the name of part n, from 1 on.
func Name(name string, n int) string { return fmt.Sprintf("%s.%03d", name, n) }

var numbered = lazyregexp.New(`(?s)^(.*[^/])\.([0-9])([0-9])([0-9])$`)

// Split takes the name of a part apart. n is 0 for what is none.
func Split(file string) (name string, n int) {
	m := numbered.FindStringSubmatch(file)
	if m == nil {
		return file, 0
	}
	for _, digit := range m[2:] {
		n = 10*n + int(digit[0]-'0')
	}
	if n == 0 {
		return file, 0
	}
	return m[1], n
}

// File is a file, or the parts of one as if they were one.
type File struct {
	Name  string   // without a number
	Paths []string // of the files, in order
	files []*os.File
	ends  []int64 // offset behind each
}

// Open opens the file path, or the parts of it when there are only parts, or the
// parts of which path is the first. The caller closes it.
func Open(path string) (*File, error) {
	name, n := Split(path)
	switch {
	case n == 0 && !exists(path) && exists(Name(path, 1)), n == 1:
	case n > 1 && exists(Name(name, 1)):
		return nil, fmt.Errorf("%s is a later part of a file: name the first one, %s", path, Name(name, 1))
	case n > 1 && NamesBundle(name): // its first part is missing
	default:
		return OpenAll(path, []string{path})
	}
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries { // sorted by name
		base, n := Split(e.Name())
		if n == 0 || base != filepath.Base(name) {
			continue
		}
		if want := len(paths) + 1; n != want {
			return nil, refuse("%s is missing: put all parts, from .001 to at least .%03d, into one directory", Name(name, want), n)
		}
		if !e.Type().IsRegular() {
			return nil, refuse("%s is not a file", Name(name, n))
		}
		paths = append(paths, Name(name, n))
	}
	if len(paths) == 0 {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return OpenAll(name, paths)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// NamesBundle reports whether a file name ends as those of bundles do.
func NamesBundle(name string) bool {
	for _, c := range []bundle.Compression{bundle.Gzip, bundle.Zstd, bundle.None} {
		if strings.HasSuffix(name, c.Suffix()) {
			return true
		}
	}
	return false
}

// OpenAll opens the parts of a file, in their order. The caller closes it.
func OpenAll(name string, paths []string) (*File, error) {
	f := &File{Name: name, Paths: paths}
	for i, path := range paths {
		if err := f.add(path, i == len(paths)-1); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

func (f *File) add(path string, last bool) error {
	// A pipe would make a plain open wait for somebody who writes to it.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	f.files = append(f.files, file)
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if info.IsDir() {
		return fmt.Errorf("%s is a directory: name the bundle in it", path)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	if len(f.ends) > 0 {
		if first := f.ends[0]; size > first || size < first && !last || size == 0 {
			return refuse("%s has %d bytes and %s has %d: all parts have one size, only the last may be smaller; copy them again", path, size, f.Paths[0], first)
		}
	}
	f.ends = append(f.ends, f.Size()+size)
	return nil
}

// Size is the bytes of the whole.
func (f *File) Size() int64 {
	if len(f.ends) == 0 {
		return 0
	}
	return f.ends[len(f.ends)-1]
}

// PartSize is the bytes of each part but the last; 0 when there is one file only.
func (f *File) PartSize() int64 {
	if len(f.ends) == 1 {
		return 0
	}
	return f.ends[0]
}

// Reader reads the whole.
func (f *File) Reader() *io.SectionReader { return io.NewSectionReader(f, 0, f.Size()) }

func (f *File) ReadAt(p []byte, off int64) (int, error) {
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
func (f *File) Close() error {
	var err error
	for _, file := range f.files {
		err = errors.Join(err, file.Close())
	}
	return err
}
