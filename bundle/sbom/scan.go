package sbom

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	cpb "github.com/google/osv-scalibr/binary/proto/config_go_proto"
	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/language/dotnet/depsjson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/golang/gobinary"
	"github.com/google/osv-scalibr/extractor/filesystem/language/java/archive"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/packagejson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/php/composerlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/wheelegg"
	"github.com/google/osv-scalibr/extractor/filesystem/language/ruby/gemspec"
	"github.com/google/osv-scalibr/extractor/filesystem/language/rust/cargoauditable"
	"github.com/google/osv-scalibr/extractor/filesystem/os/apk"
	"github.com/google/osv-scalibr/extractor/filesystem/os/dpkg"
	"github.com/google/osv-scalibr/extractor/filesystem/os/rpm"
	"github.com/google/osv-scalibr/extractor/filesystem/simplefileapi"
	scalibrfs "github.com/google/osv-scalibr/fs"
	"github.com/google/osv-scalibr/log"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	maxWanted   = 1 << 30 // bytes of a file that is looked into
	maxInMemory = 8 << 20 // bytes of one that is not put on disk for it
)

type newExtractor = func(*cpb.PluginConfig) (filesystem.Extractor, error)

// ofSystem read the database of a package manager, and with it the os-release file
// of the same image: they run when all layers are read.
var ofSystem = []newExtractor{dpkg.New, apk.New, rpm.New}

// ofFile need one file only and run when it comes by.
var ofFile = []newExtractor{archive.New, composerlock.New, depsjson.New, gemspec.New, packagejson.New, wheelegg.New}

// ofProgram are the same for executables.
var ofProgram = []newExtractor{cargoauditable.New, gobinary.New}

var osRelease = []string{"etc/os-release", "usr/lib/os-release"}

type scanner struct {
	temp                    string
	root                    *os.Root // files for the extractors of systems, under their own paths
	systems, files, program []filesystem.Extractor
	number                  int             // of the layer
	found                   map[string]find // by path in the image
	problems                []string
}

// find is a file that somebody wanted. Its packages are known when it is read, or,
// for a database, at the end.
type find struct {
	layer    int
	database bool
	packages []*extractor.Package
}

// silent: libraries do not print.
type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Error(...any)          {}
func (silent) Warnf(string, ...any)  {}
func (silent) Warn(...any)           {}
func (silent) Infof(string, ...any)  {}
func (silent) Info(...any)           {}
func (silent) Debugf(string, ...any) {}
func (silent) Debug(...any)          {}

func init() { log.SetLogger(silent{}) }

func newScanner(temp string) (*scanner, error) {
	s := &scanner{temp: temp, found: map[string]find{}}
	for list, makers := range map[*[]filesystem.Extractor][]newExtractor{&s.systems: ofSystem, &s.files: ofFile, &s.program: ofProgram} {
		for _, make := range makers {
			e, err := make(&cpb.PluginConfig{MaxFileSizeBytes: maxWanted})
			if err != nil {
				return nil, err
			}
			*list = append(*list, e)
		}
	}
	// Without an etc the extractors take it for no Linux.
	if err := os.MkdirAll(filepath.Join(temp, "root", "etc"), 0o700); err != nil {
		return nil, err
	}
	var err error
	s.root, err = os.OpenRoot(filepath.Join(temp, "root"))
	return s, err
}

// layer reads the next layer.
func (s *scanner) layer(ctx context.Context, open func() (io.ReadCloser, error)) error {
	rc, err := open()
	if err != nil {
		return err
	}
	defer rc.Close()
	r, err := uncompressed(rc)
	if err != nil {
		return err
	}
	defer r.Close()
	s.number++
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // checksums come last
			return err
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.entry(ctx, h, t); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
}

// uncompressed goes by the first bytes: media types of layers lie.
func uncompressed(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 256<<10)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// entry looks at one entry of a layer. Names with .wh. take away what layers below
// have, and whatever else comes replaces it.
func (s *scanner) entry(ctx context.Context, h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	dir, base := path.Split(name)
	if base == ".wh..wh..opq" {
		s.remove(func(p string) bool { return strings.HasPrefix(p, dir) })
		return nil
	}
	gone, whiteout := strings.CutPrefix(base, ".wh.")
	if whiteout {
		name = dir + gone
	}
	if whiteout || h.Typeflag != tar.TypeDir {
		s.remove(func(p string) bool { return p == name || strings.HasPrefix(p, name+"/") })
	}
	if whiteout || h.Typeflag != tar.TypeReg || h.Size > maxWanted {
		return nil
	}
	delete(s.found, name) // the last one of a layer counts
	api := simplefileapi.New(name, h.FileInfo())
	wants := func(e filesystem.Extractor) bool { return e.FileRequired(api) }
	if slices.ContainsFunc(s.systems, wants) || slices.Contains(osRelease, name) {
		s.found[name] = find{layer: s.number, database: true}
		return s.save(name, content)
	}
	b := bufio.NewReader(content)
	extractors := s.files
	if magic, _ := b.Peek(4); string(magic) == "\x7fELF" {
		extractors = s.program
	}
	if !slices.ContainsFunc(extractors, wants) {
		return nil
	}
	f, closeFile, err := s.hold(b, h.Size)
	if err != nil {
		return err
	}
	defer closeFile()
	packages, err := s.extract(ctx, extractors, &filesystem.ScanInput{FS: s.fs(), Path: name, Root: s.root.Name(), Info: h.FileInfo()}, f)
	if len(packages) > 0 {
		s.found[name] = find{layer: s.number, packages: packages}
	}
	return err
}

// remove forgets what layers below have.
func (s *scanner) remove(gone func(string) bool) {
	maps.DeleteFunc(s.found, func(p string, f find) bool { return f.layer < s.number && gone(p) })
}

func (s *scanner) fs() scalibrfs.FS { return scalibrfs.DirFS(s.root.Name()) }

// save puts a file below root.
func (s *scanner) save(name string, content io.Reader) error {
	if err := s.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// file is what extractors get to read.
type file interface {
	io.ReadSeeker
	io.ReaderAt
}

// hold makes a stream a file.
func (s *scanner) hold(r io.Reader, size int64) (file, func(), error) {
	if size <= maxInMemory {
		b := make([]byte, size)
		_, err := io.ReadFull(r, b)
		return bytes.NewReader(b), func() {}, err
	}
	f, err := os.CreateTemp(s.temp, "file-*")
	if err != nil {
		return nil, nil, err
	}
	done := func() { f.Close(); os.Remove(f.Name()) }
	_, err = io.Copy(f, r)
	if err != nil {
		done()
	}
	return f, done, err
}

// extract runs those extractors that want a file. What they cannot read is a
// problem, and no error.
func (s *scanner) extract(ctx context.Context, extractors []filesystem.Extractor, in *filesystem.ScanInput, f file) ([]*extractor.Package, error) {
	var packages []*extractor.Package
	for _, e := range extractors {
		if !e.FileRequired(simplefileapi.New(in.Path, in.Info)) {
			continue
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		in.Reader = f
		got, err := e.Extract(ctx, in)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			s.problems = append(s.problems, fmt.Sprintf("%s: %s: %v", in.Path, e.Name(), err))
		}
		packages = append(packages, got.Packages...)
	}
	return packages, nil
}

// databases reads what the package managers of the image wrote.
func (s *scanner) databases(ctx context.Context) error {
	for _, name := range osRelease {
		if _, ok := s.found[name]; !ok {
			if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.found)) {
		if !s.found[name].database {
			continue
		}
		f, err := s.root.Open(name)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			var packages []*extractor.Package
			packages, err = s.extract(ctx, s.systems, &filesystem.ScanInput{FS: s.fs(), Path: name, Root: s.root.Name(), Info: info}, f)
			s.found[name] = find{packages: packages}
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
