// Package unpack puts the content of the archives that people hand to a build
// (zip, tar, and tar compressed with gzip, bzip2, xz, zstd or lz4) into a directory.
//
// An archive may come from anywhere. Only ordinary files and directories below
// the directory are written; an entry that is anything else, or stands twice, or
// one too many, refuses the whole archive. The file is read to its end: a damaged
// one is refused where its format has a checksum (all but a bare tar), and so is
// anything that follows the archive. Devices do not use this package.
//
// 7z and rar are not read. Neither decoder can be told how much memory to use (78
// bytes of 7z ask for 6.6 GB), and that of rar panics with files of 246 bytes.
package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zip"
	"github.com/klauspost/compress/zstd"
	"github.com/mholt/archives"
)

// Limits of one archive.
const (
	MaxFiles = 40_000   // files and directories
	MaxBytes = 16 << 30 // bytes of all files together
	MaxPath  = 255      // bytes of one name

	// What comes of a small archive is limited by its size: deflate makes at most
	// 1,032 bytes of one.
	maxRatio = 1100
	minLimit = 64 << 20 // bytes that any archive may hold

	maxZipDirectory = 16 << 20  // bytes of a zip's list of entries; 40,000 need 5
	maxWindow       = 128 << 20 // memory of a zstd decoder: zstd -22; that of xz has 64 MiB: xz -9
)

// Archive unpacks file into dir, which exists and is empty. A file is executable
// or not; other mode bits, owners and times of the archive are not kept. What was
// written before an error stays.
func Archive(ctx context.Context, file, dir string) error {
	if err := archive(ctx, file, dir, MaxFiles, MaxBytes); err != nil {
		return fmt.Errorf("unpack %s: %w", file, err)
	}
	return nil
}

func archive(ctx context.Context, file, dir string, maxFiles int, maxBytes int64) (err error) {
	// Decoders meet bytes here that their authors never thought of.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its decoder failed (%v): the archive is damaged, or made to do that", p)
		}
	}()
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a file")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &writer{root: root, files: maxFiles, left: min(maxBytes, max(minLimit, info.Size()*maxRatio))}

	// By content alone: a name proves nothing.
	var magic [6]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	is := func(prefix string) bool { return bytes.HasPrefix(magic[:n], []byte(prefix)) }
	switch {
	case is("PK\x03\x04"):
		if err := checkZip(f, info.Size()); err != nil {
			return err
		}
		return archives.Zip{}.Extract(ctx, f, w.entry)
	case is("7z\xbc\xaf\x27\x1c"), is("Rar!"):
		return errors.New("7z and rar are not read: pack the files as zip or tar.xz")
	}
	for _, c := range compressions {
		if is(c.magic) {
			r, err := c.open(f)
			if err != nil {
				return err
			}
			defer r.Close()
			return w.tar(ctx, r)
		}
	}
	return w.tar(ctx, f)
}

// compressions all decode in the goroutine that reads, where a panic can be caught.
var compressions = []struct {
	magic string
	open  func(io.Reader) (io.ReadCloser, error)
}{
	{"\x1f\x8b", archives.Gz{}.OpenReader},
	{"BZh", archives.Bz2{}.OpenReader},
	{"\xfd7zXZ\x00", archives.Xz{}.OpenReader},
	{"\x28\xb5\x2f\xfd", archives.Zstd{DecoderOptions: []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)}}.OpenReader},
	{"\x04\x22\x4d\x18", archives.Lz4{}.OpenReader},
}

// tar reads r to its end.
func (w *writer) tar(ctx context.Context, r io.Reader) error {
	s := &stream{ctx: ctx, r: r, left: w.left + minLimit}
	first := true
	err := archives.Tar{}.Extract(ctx, s, func(ctx context.Context, e archives.FileInfo) error {
		first = false
		err := w.entry(ctx, e)
		s.zeros = 0
		return err
	})
	switch {
	case first && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && s.zeros == 0):
		return errors.New("it is not a whole archive of a known kind: want zip or tar, plain or compressed with gzip, bzip2, xz, zstd or lz4")
	case err != nil:
		return err
	case s.zeros < 512: // the end of a tar is longer than the padding of its last file
		return fmt.Errorf("the tar is truncated: %w", io.ErrUnexpectedEOF)
	}
	// What compresses has its checksum at the end.
	s.zeros = 0
	n, err := io.Copy(io.Discard, s)
	if err == nil && s.zeros != n {
		err = errors.New("something follows the end of the archive, such as a second one")
	}
	return err
}

// stream is a tar as it is read.
type stream struct {
	ctx   context.Context
	r     io.Reader
	left  int64
	zeros int64 // bytes with nothing else after them
}

func (s *stream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if s.left -= int64(n); s.left < 0 {
		return 0, errors.New("more than a file of this size may hold")
	}
	if rest := bytes.TrimRight(p[:n], "\x00"); len(rest) > 0 {
		s.zeros = int64(n - len(rest))
	} else {
		s.zeros += int64(n)
	}
	return n, err
}

// checkZip looks at what readers of zip leave to chance: they search for the list of
// entries from the end, and find one inside other things.
func checkZip(f io.ReaderAt, size int64) error {
	list := &limitedReaderAt{f, maxZipDirectory}
	z, err := zip.NewReader(list, size)
	if err != nil {
		return err
	}
	const endSize = 22 // of the record before the comment
	var b [30]byte
	at := size - endSize - int64(len(z.Comment))
	if n, err := f.ReadAt(b[:endSize], max(at, 0)); err != nil || at < 0 || !bytes.HasPrefix(b[:n], []byte("PK\x05\x06")) {
		return errors.New("something follows the end of the zip, such as a second one")
	}
	// Where a list may be found in two places, readers take either.
	dirSize, dirAt := int64(binary.LittleEndian.Uint32(b[12:])), int64(binary.LittleEndian.Uint32(b[16:]))
	var zip64 [4]byte
	if at >= 20 {
		if _, err := f.ReadAt(zip64[:], at-20); err != nil {
			return err
		}
	}
	if dirAt+dirSize != at && string(zip64[:]) != "PK\x06\x07" {
		return errors.New("its list of entries is not where it says: it is two files, or damaged")
	}
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return err
	}
	// The header of a file: lengths of name and extra field at its end.
	start := int64(len(b)) + int64(binary.LittleEndian.Uint16(b[26:])) + int64(binary.LittleEndian.Uint16(b[28:]))
	found := false
	list.left = math.MaxInt64
	for _, e := range z.File {
		if e.Method != zip.Store && e.Method != zip.Deflate {
			return fmt.Errorf("entry %.120q: compression method %d, want stored or deflate", e.Name, e.Method)
		}
		at, err := e.DataOffset()
		if err != nil {
			return fmt.Errorf("entry %.120q: %w", e.Name, err)
		}
		found = found || at == start
	}
	if !found {
		return errors.New("it begins with a file that its list of entries does not have: it is two files, or damaged")
	}
	return nil
}

type limitedReaderAt struct {
	r    io.ReaderAt
	left int64
}

func (l *limitedReaderAt) ReadAt(p []byte, at int64) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, fmt.Errorf("its list of entries has more than %d bytes", maxZipDirectory)
	}
	return l.r.ReadAt(p, at)
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
		return fmt.Errorf("entry %.120q leaves the archive or is not a clean path", e.NameInArchive)
	case len(name) > MaxPath:
		return fmt.Errorf("entry %.120q... has a name of %d bytes, want at most %d", name, len(name), MaxPath)
	case e.LinkTarget != "" || !e.IsDir() && !e.Mode().IsRegular():
		return fmt.Errorf("entry %.120q is a link or a special file, want files and directories", name)
	case sparse(e):
		return fmt.Errorf("entry %.120q is a sparse file: pack it without tar's --sparse", name)
	}
	if w.files--; w.files < 0 {
		return errors.New("too many files")
	}
	if e.IsDir() {
		return w.root.MkdirAll(name, 0o755)
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
	n, err := io.Copy(dst, &stream{ctx: ctx, r: src, left: w.left})
	if w.left -= n; err != nil {
		return err
	}
	if n != e.Size() {
		return fmt.Errorf("entry %.120q: %d bytes, want %d", name, n, e.Size())
	}
	return dst.Close()
}

// sparse says whether a file of a tar has holes, which its bytes do not pay for.
func sparse(e archives.FileInfo) bool {
	h, ok := e.Header.(*tar.Header)
	if !ok {
		return false
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}
