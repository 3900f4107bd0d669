package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"

	"github.com/valise-ota/valise/bundle"
)

// Limits of an archive.
const (
	maxArchiveEntries   = 100_000  // files and links
	maxArchiveDocuments = 64 << 20 // bytes of JSON files that are kept in memory
	maxLinks            = 8        // from one link to the next
)

// archive is what is known of a tar after reading it once: where everything is,
// and its small JSON files. "docker save" writes its table of contents last, so
// there is no shorter way.
type archive struct {
	path      string
	gzip      bool
	entries   map[string]archiveEntry
	documents map[string][]byte
}

type archiveEntry struct {
	offset, size int64  // in an archive that is not compressed
	link         string // name of another entry
}

// openArchive fills r from a file: an archive of docker save, or an OCI image
// layout in a tar.
func (c *collector) openArchive(ctx context.Context, s Spec, file string, r *root) error {
	a, err := readArchive(ctx, c.path(file))
	if err != nil {
		return err
	}
	if _, ok := a.documents["manifest.json"]; ok {
		r.images, err = c.archiveImages(ctx, s, a)
		return err
	}
	if _, ok := a.documents["index.json"]; !ok {
		return fmt.Errorf("neither an archive of docker save nor an OCI image layout: no manifest.json and no index.json")
	}
	if a.gzip {
		return fmt.Errorf("an OCI image layout in a compressed tar: unpack it with gunzip first")
	}
	r.source = a
	return r.load()
}

// readArchive reads the file once to its end, so that a file that was cut off is
// noticed.
func readArchive(ctx context.Context, file string) (*archive, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", file)
	}
	a := &archive{path: file, entries: map[string]archiveEntry{}, documents: map[string][]byte{}}
	r, err := a.reader(ctx, f)
	if err != nil {
		return nil, err
	}
	total := 0
	err = walkTar(r, func(name string, h *tar.Header, content io.Reader) error {
		e := archiveEntry{size: h.Size, link: linkOf(name, h)}
		if !a.gzip {
			if e.offset, err = f.Seek(0, io.SeekCurrent); err != nil {
				return err
			}
		}
		a.entries[name] = e
		if len(a.entries) > maxArchiveEntries {
			return fmt.Errorf("more than %d entries", maxArchiveEntries)
		}
		raw, _, err := readJSON(content, h)
		if raw == nil || err != nil {
			return err
		}
		if total += len(raw); total > maxArchiveDocuments {
			return fmt.Errorf("more than %d bytes of JSON files", maxArchiveDocuments)
		}
		a.documents[name] = raw
		return nil
	})
	return a, err
}

// reader returns the tar in f, which stands at its start. Where possible it can
// seek: that is how a tar is read past its layers.
func (a *archive) reader(ctx context.Context, f *os.File) (io.Reader, error) {
	var magic [4]byte
	n, err := io.ReadFull(f, magic[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic[:n], gzipMagic):
		a.gzip = true
		return gzip.NewReader(contextReader{ctx, f})
	case bytes.HasPrefix(magic[:n], zstdMagic):
		return nil, errors.New("compressed with zstd: unpack it first, or use gzip")
	}
	return f, nil
}

// walkTar calls do for every file and link of a tar and reads what is behind it.
func walkTar(r io.Reader, do func(name string, h *tar.Header, content io.Reader) error) error {
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, r) // the checksum of gzip comes last
			return cutOff(err)
		}
		if err != nil {
			return cutOff(err)
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeLink, tar.TypeSymlink:
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			return fmt.Errorf("%.80q is neither a file, a directory nor a link", h.Name)
		}
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return fmt.Errorf("%.80q is a sparse file", h.Name)
			}
		}
		if err := do(path.Clean(h.Name), h, t); err != nil {
			return cutOff(err)
		}
	}
}

func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the archive is truncated: %w", err)
	}
	return err
}

// linkOf returns the name that a link leads to. Old engines write a layer once
// and link to it.
func linkOf(name string, h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeSymlink:
		return path.Join(path.Dir(name), h.Linkname)
	case tar.TypeLink:
		return path.Clean(h.Linkname)
	}
	return ""
}

// readJSON reads an entry that is small and looks like JSON; raw is nil for
// others. Then rest has the content.
func readJSON(content io.Reader, h *tar.Header) (raw []byte, rest io.Reader, err error) {
	if h.Typeflag != tar.TypeReg || h.Size == 0 || h.Size > bundle.MaxImageManifest {
		return nil, content, nil
	}
	b := bufio.NewReader(content)
	first, err := b.Peek(1)
	if err != nil || first[0] != '{' && first[0] != '[' {
		return nil, b, err
	}
	raw, err = io.ReadAll(b)
	return raw, bytes.NewReader(raw), err
}

// follow returns the name of the file that name is or leads to.
func follow(links func(name string) (link string, ok bool), name string) (string, error) {
	name = path.Clean(name)
	for range maxLinks {
		link, ok := links(name)
		switch {
		case !ok:
			return "", fmt.Errorf("%.80q is missing in the archive", name)
		case link == "":
			return name, nil
		}
		name = link
	}
	return "", fmt.Errorf("%.80q: more than %d links", name, maxLinks)
}

func (a *archive) follow(name string) (string, error) {
	return follow(func(name string) (string, bool) { e, ok := a.entries[name]; return e.link, ok }, name)
}

// openEntry opens a file of an archive that is not compressed.
func (a *archive) openEntry(name string) (io.ReadCloser, error) {
	e := a.entries[name]
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, e.offset, e.size), f}, nil
}

// The rest makes an OCI image layout in a tar a source: its blobs are taken
// verbatim, and read where they are.

func (a *archive) root(ctx context.Context) (v1.Descriptor, []byte, error) {
	return layoutRoot(ctx, a, a.documents["index.json"])
}

func (a *archive) blob(d v1.Descriptor) (string, error) {
	if !bundle.Digest(d.Digest.String()).Valid() {
		return "", fmt.Errorf("open blob: digest is %.80q", d.Digest)
	}
	return a.follow("blobs/sha256/" + d.Digest.Hex)
}

func (a *archive) has(d v1.Descriptor) bool {
	_, err := a.blob(d)
	return err == nil
}

func (a *archive) document(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	return readDocument(d, a.layer(ctx, d))
}

func (a *archive) layer(_ context.Context, d v1.Descriptor) opener {
	return func() (io.ReadCloser, error) {
		name, err := a.blob(d)
		if err != nil {
			return nil, err
		}
		return a.openEntry(name)
	}
}
