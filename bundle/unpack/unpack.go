// Package unpack puts the content of the archives that people hand to a build
// (zip, tar, compressed tar, 7z, rar) into a directory.
//
// An archive may come from anywhere. Only ordinary files and directories below
// the directory are written; an entry that is anything else, or stands twice, or
// one too many, refuses the whole archive. Devices do not use this package.
package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/mholt/archives"
)

// Limits of one archive.
const (
	MaxFiles = 40_000   // files
	MaxBytes = 16 << 30 // bytes of all files together
)

// Archive unpacks file into dir, which exists and is empty. A file is executable
// or not; other mode bits, owners and times of the archive are not kept. What was
// written before an error stays.
func Archive(ctx context.Context, file, dir string) error {
	if err := archive(ctx, file, dir, MaxFiles); err != nil {
		return fmt.Errorf("unpack %s: %w", file, err)
	}
	return nil
}

func archive(ctx context.Context, file, dir string, maxFiles int) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// By content alone: a name proves nothing.
	format, _, err := archives.Identify(ctx, "", f)
	if err != nil && !errors.Is(err, archives.NoMatch) {
		return err
	}
	extractor, ok := format.(archives.Extractor)
	if !ok {
		return errors.New("it is no archive of a known kind, want zip, tar, compressed tar, 7z or rar")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &writer{root: root, files: maxFiles, left: MaxBytes}
	return extractor.Extract(ctx, f, w.entry)
}

type writer struct {
	root  *os.Root
	files int   // that may still come
	left  int64 // bytes that may still come
}

func (w *writer) entry(ctx context.Context, e archives.FileInfo) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := strings.TrimSuffix(strings.TrimPrefix(e.NameInArchive, "./"), "/")
	switch {
	case e.IsDir() && (name == "" || name == "."):
		return nil
	case !fs.ValidPath(name) || strings.ContainsAny(name, "\\:\x00"):
		return fmt.Errorf("entry %.120q leaves the archive or is no clean path", e.NameInArchive)
	case e.LinkTarget != "" || !e.IsDir() && !e.Mode().IsRegular():
		return fmt.Errorf("entry %.120q is a link or a special file, want files and directories", name)
	case e.IsDir():
		return w.root.MkdirAll(name, 0o755)
	}
	if w.files--; w.files < 0 {
		return errors.New("too many files")
	}
	if err := w.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	perm := fs.FileMode(0o644)
	if e.Mode()&0o100 != 0 {
		perm = 0o755
	}
	src, err := e.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	// A second entry of a name is refused, not taken in place of the first.
	dst, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer dst.Close()
	// The size that the archive names is not to be believed.
	n, err := io.Copy(dst, io.LimitReader(src, w.left+1))
	if w.left -= n; w.left < 0 {
		return fmt.Errorf("more than %d bytes", int64(MaxBytes))
	}
	if err != nil {
		return err
	}
	return dst.Close()
}
