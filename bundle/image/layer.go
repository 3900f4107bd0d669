package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/valise-ota/valise/bundle"
)

// compressor names what turned a tar into a layer. The same tar must give the
// same blob from release to release, or a device would load it again, so the
// library's version is part of the name; a test compares it with go.mod.
const (
	compressor      = "klauspost-gzip-v1.20.3-level6"
	compressorLevel = 6
)

// fileTime is the time of every file made here. It is the same in every release,
// because the time is part of a layer's digest: with the time of the release an
// unchanged layer would be new each time, for the cache and for the device.
var fileTime = time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC)

// layer is a layer made here.
type layer struct {
	descriptor v1.Descriptor
	diffID     v1.Hash
	open       opener
}

// diffIDError says that a layer is not the one that was asked for.
type diffIDError struct{ got, want v1.Hash }

func (e *diffIDError) Error() string {
	return fmt.Sprintf("layer has diffID %s, want %s", e.got, e.want)
}

// makeLayer makes the layer of one Copy, or finds it in the cache. The files are
// read once to name the layer, and again only if it must be compressed.
func (c *collector) makeLayer(ctx context.Context, s Spec, p bundle.Platform, f Copy) (*layer, error) {
	entries, err := scan(ctx, c.path(f.From), f)
	if err != nil {
		return nil, err
	}
	done, err := c.busy(ctx)
	if err != nil {
		return nil, err
	}
	diffID := newDigestWriter(io.Discard)
	err = writeTar(ctx, diffID, entries)
	done()
	if err != nil {
		return nil, err
	}
	l, err := c.layer(ctx, s, p, f.To, diffID.sum(), func(w io.Writer) error { return writeTar(ctx, w, entries) })
	if errors.As(err, new(*diffIDError)) {
		err = fmt.Errorf("the files changed while they were read: %w", err)
	}
	return l, err
}

// layer returns the layer with this diffID from the cache, or compresses what
// write writes. Two callers that want the same layer make it once.
func (c *collector) layer(ctx context.Context, s Spec, p bundle.Platform, detail string, diffID v1.Hash, write func(io.Writer) error) (*layer, error) {
	defer c.cache.lock(diffID)()
	done, err := c.busy(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := c.cache.find(ctx, diffID)
	if err != nil {
		return nil, err
	}
	if l != nil {
		c.event(s, p, Reuse, detail)
		return l, nil
	}
	c.event(s, p, Compress, detail)
	return c.cache.add(ctx, diffID, write)
}

// entry is a file of a layer.
type entry struct {
	name   string // in the image, without leading slash
	source string // file to read; empty for directories and links
	link   string // target of a symbolic link
	mode   int64
	size   int64
}

// usualModes are directories that would break if a layer made them 0755 again.
var usualModes = map[string]int64{"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777}

// scan lists what f puts into the image, parents first. Modes do not depend on
// the umask of whoever checked the files out: only "executable" is kept.
func scan(ctx context.Context, from string, f Copy) ([]entry, error) {
	info, err := os.Stat(from) // follows: a link named here is meant to be followed
	if err != nil {
		return nil, err
	}
	to := strings.TrimPrefix(f.To, "/")
	var entries []entry
	for dir := path.Dir(to); dir != "."; dir = path.Dir(dir) {
		entries = append(entries, directory(dir))
	}
	add := func(name, source string, info fs.FileInfo) error {
		switch {
		case info.IsDir():
			entries = append(entries, directory(name))
		case info.Mode().IsRegular():
			mode := int64(0o644)
			if info.Mode()&0o100 != 0 {
				mode = 0o755
			}
			if f.Mode != 0 {
				mode = int64(f.Mode)
			}
			entries = append(entries, entry{name: name, source: source, mode: mode, size: info.Size()})
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(source)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(from, source)
			if err != nil {
				return err
			}
			if filepath.IsAbs(target) || !filepath.IsLocal(filepath.Join(filepath.Dir(rel), target)) {
				return fmt.Errorf("symbolic link %s leads out of the directory, to %s", rel, target)
			}
			entries = append(entries, entry{name: name, link: filepath.ToSlash(target), mode: 0o777})
		default:
			return fmt.Errorf("%s is neither a file, a directory nor a symbolic link", source)
		}
		return nil
	}
	if !info.IsDir() {
		err = add(to, from, info)
	} else {
		// A trailing separator makes WalkDir follow a link to the directory.
		err = filepath.WalkDir(from+string(filepath.Separator), func(source string, d fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(from, source)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return add(path.Join(to, filepath.ToSlash(rel)), source, info)
		})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, err
}

func directory(name string) entry {
	mode, ok := usualModes[name]
	if !ok {
		mode = 0o755
	}
	return entry{name: name + "/", mode: mode}
}

// writeTar writes a layer that depends on names, contents and modes only.
func writeTar(ctx context.Context, w io.Writer, entries []entry) error {
	t := tar.NewWriter(w)
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: e.size, ModTime: fileTime, Linkname: e.link, Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case e.link != "":
			h.Typeflag = tar.TypeSymlink
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := copyFile(ctx, t, e); err != nil {
			return err
		}
	}
	return t.Close()
}

func copyFile(ctx context.Context, w io.Writer, e entry) error {
	f, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(w, io.LimitReader(contextReader{ctx, f}, e.size))
	if err == nil && n != e.size {
		err = fmt.Errorf("%s changed while it was read: %d bytes, want %d", e.source, n, e.size)
	}
	return err
}

// layerCache keeps compressed layers in files called DIFFID.DIGEST.tar.gz below a
// directory for each compressor. A file appears by rename, complete or not at all.
type layerCache struct {
	dir string

	mu    sync.Mutex // of locks
	locks map[v1.Hash]*sync.Mutex
}

// lock keeps others from making the layer with this diffID until unlock.
func (c *layerCache) lock(diffID v1.Hash) (unlock func()) {
	c.mu.Lock()
	l, ok := c.locks[diffID]
	if !ok {
		l = new(sync.Mutex)
		c.locks[diffID] = l
	}
	c.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// find returns the layer with this diffID, or nil. The file is hashed: one that
// changed is removed and made again instead of spoiling releases from now on.
func (c *layerCache) find(ctx context.Context, diffID v1.Hash) (*layer, error) {
	names, err := filepath.Glob(filepath.Join(c.dir, compressor, diffID.Hex+".*.tar.gz"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		w := newDigestWriter(io.Discard)
		if err := hashFile(ctx, w, name); err != nil {
			return nil, err
		}
		if filepath.Base(name) == cacheName(diffID, w.sum()) {
			return newLayer(name, diffID, w), nil
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, nil
}

// add compresses what write writes, which must have this diffID.
func (c *layerCache) add(ctx context.Context, diffID v1.Hash, write func(io.Writer) error) (*layer, error) {
	if c.dir == "" {
		return nil, errors.New("no cache directory")
	}
	dir := filepath.Join(c.dir, compressor)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// The final name holds the digest, which nobody knows yet: write under
	// another one and rename at the end.
	tmp, err := os.CreateTemp(dir, ".layer-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	blob := newDigestWriter(tmp)
	z, err := gzip.NewWriterLevel(blob, compressorLevel)
	if err != nil {
		return nil, err
	}
	content := newDigestWriter(z)
	if err := write(content); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if got := content.sum(); got != diffID {
		return nil, &diffIDError{got, diffID}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := tmp.Sync(); err != nil {
		return nil, err
	}
	if err := tmp.Close(); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, cacheName(diffID, blob.sum()))
	if err := os.Rename(tmp.Name(), name); err != nil {
		return nil, err
	}
	return newLayer(name, diffID, blob), nil
}

func cacheName(diffID, digest v1.Hash) string { return diffID.Hex + "." + digest.Hex + ".tar.gz" }

func newLayer(name string, diffID v1.Hash, blob *digestWriter) *layer {
	return &layer{
		descriptor: v1.Descriptor{MediaType: types.OCILayer, Digest: blob.sum(), Size: blob.size},
		diffID:     diffID,
		open:       func() (io.ReadCloser, error) { return os.Open(name) },
	}
}

func hashFile(ctx context.Context, w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, contextReader{ctx, f})
	return err
}

// contextReader stops in the middle of a large file when ctx ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// digestWriter hashes and counts what passes through it.
type digestWriter struct {
	w    io.Writer
	hash hash.Hash
	size int64
}

func newDigestWriter(w io.Writer) *digestWriter { return &digestWriter{w: w, hash: sha256.New()} }

func (d *digestWriter) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.hash.Write(p[:n])
	d.size += int64(n)
	return n, err
}

func (d *digestWriter) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(d.hash.Sum(nil))}
}
