package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/foreign"
)

// traced begins the trace of a command, if one is wanted. It stops none: what is wrong
// with the file is said once.
func (p *program) traced(c *cobra.Command) (ctx context.Context, end func(error)) {
	if p.trace == "" {
		return c.Context(), func(error) {}
	}
	fail := func(err error) { p.Note("the trace is not complete: %v", err) }
	f, err := p.traceFile(p.trace)
	if err != nil {
		p.Note("no trace is written: %v", err)
		return c.Context(), func(error) {}
	}
	ctx, span := trace.New(c.Context(), f, p.Now, c.CommandPath()+" "+cli.Version(), fail)
	return ctx, func(err error) {
		span.End(err)
		if err := f.Close(); err != nil {
			fail(err)
		}
	}
}

// traceHead is how a trace begins.
var traceHead = []byte("[\n{\"name\":\"process_name\"")

// traceFile makes a file of that name, in place of an earlier trace and of nothing else. No
// link leads elsewhere, and where apps have their files it may not be: docker compose, systemd
// or the drop folder would take it for one of theirs.
func (p *program) traceFile(path string) (*os.File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(path) != ".json" {
		return nil, fmt.Errorf("the name of %s does not end in .json", path)
	}
	dir, err := foreign.OpenDir(filepath.Dir(path), 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if i := slices.IndexFunc(appDirs, func(d string) bool { return strings.HasPrefix(dir.Name()+"/", filepath.Join(p.Root, d)+"/") }); i >= 0 {
		return nil, fmt.Errorf("%s is below /%s, where apps have their files: name a file elsewhere, such as /root/trace.json", path, appDirs[i])
	}
	name := filepath.Base(path)
	if isTrace(dir, name) {
		if err := dir.Remove(name); err != nil {
			return nil, err
		}
	}
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is there already and is not a trace", path)
	}
	return f, err
}

var appDirs = []string{"opt", "etc", "var/lib", "run"}

func isTrace(dir *os.Root, name string) bool {
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(traceHead))
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	_, err = io.ReadFull(f, head)
	return err == nil && bytes.Equal(head, traceHead)
}
