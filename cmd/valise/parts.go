package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

const minPartSize = 1 << 20

// parsePartSize reads 2000MiB or bytes; 0 means one file.
func parsePartSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n < minPartSize || n > math.MaxInt64 {
		return 0, cli.Usagef("--split-size is %q, want a size of at least 1MiB, such as 2000MiB", s)
	}
	return int64(n), nil
}

// pendingBundle is a bundle that is being written, in one file or in parts. Until
// commit they have other names.
type pendingBundle struct {
	path string
	size int64 // of each part but the last

	mu    sync.Mutex
	parts []pendingPart
	end   int64 // of what was written
}

type pendingPart interface {
	io.ReaderAt
	io.WriterAt
	Name() string
	SyscallConn() (syscall.RawConn, error)
	Sync() error
	Close() error
	Cleanup() error
}

// newBundle begins a bundle in parts of size bytes, or in one file for 0.
func newBundle(path string, size int64) *pendingBundle {
	if size == 0 {
		size = math.MaxInt64
	}
	return &pendingBundle{path: path, size: size}
}

// part returns the part with the byte at off, and where in it that is.
func (p *pendingBundle) part(off int64) (pendingPart, int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := off / p.size
	if i >= parts.Max {
		return nil, 0, cli.WithHint(fmt.Errorf("the bundle has more than %d parts of %d bytes", parts.Max, p.size), "build it with a larger --split-size")
	}
	for int64(len(p.parts)) <= i {
		f, err := newFile(p.path)
		if err != nil {
			return nil, 0, err
		}
		p.parts = append(p.parts, f)
	}
	return p.parts[i], off % p.size, nil
}

// each calls do with every piece of b, which stands at off, that is in one part.
func (p *pendingBundle) each(b []byte, off int64, do func(f pendingPart, b []byte, at int64) (int, error)) (int, error) {
	done := 0
	for done < len(b) {
		f, at, err := p.part(off + int64(done))
		if err != nil {
			return done, err
		}
		n, err := do(f, b[done:done+int(min(int64(len(b)-done), p.size-at))], at)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

func (p *pendingBundle) ReadAt(b []byte, off int64) (int, error) {
	return p.each(b, off, pendingPart.ReadAt)
}

func (p *pendingBundle) WriteAt(b []byte, off int64) (int, error) {
	n, err := p.each(b, off, func(f pendingPart, b []byte, at int64) (int, error) {
		n, err := f.WriteAt(b, at)
		startWriteback(f, at, int64(n))
		return n, err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end = max(p.end, off+int64(n))
	return n, err
}

// Write appends.
func (p *pendingBundle) Write(b []byte) (int, error) { return p.WriteAt(b, p.end) }

// Cleanup removes what commit did not put into place.
func (p *pendingBundle) Cleanup() {
	for _, f := range p.parts {
		f.Cleanup()
	}
}

// commit puts the bundle into place and removes what an earlier one has besides.
// The first part comes last: without it nothing reads the others.
func (p *pendingBundle) commit() error {
	for _, f := range p.parts {
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	old := 0
	for old < parts.Max && isFile(parts.Name(p.path, old+1)) {
		old++
	}
	dir := filepath.Dir(p.path)
	kept := len(p.parts)
	if kept == 1 { // in one file, which every reader prefers to parts
		if err := errors.Join(os.Rename(p.parts[0].Name(), p.path), syncDir(dir)); err != nil {
			return err
		}
		kept = 0
	}
	for n := kept; n > 1; n-- {
		if err := os.Rename(p.parts[n-1].Name(), parts.Name(p.path, n)); err != nil {
			return err
		}
	}
	for n := old; n > kept; n-- {
		if err := os.Remove(parts.Name(p.path, n)); err != nil {
			return err
		}
	}
	if kept > 0 {
		if err := errors.Join(syncDir(dir), os.Rename(p.parts[0].Name(), parts.Name(p.path, 1)), syncDir(dir)); err != nil {
			return err
		}
		if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(dir)
}
