package bundle_test

import (
	"bytes"
	"path"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// forged is a bundle in pieces, each of which can be made wrong before it is put
// together. What is not touched is as Write makes it, except that everything is
// stored.
type forged struct {
	entries  []forgedEntry // of the outer tar, without the table of contents
	images   []forgedEntry // of images.tar
	prefix   string        // directory of the entries of the outer tar
	mtime    int64
	toc      []byte // instead of the right one
	tail     []byte // behind the end
	imageEnd []byte // behind the last entry of images.tar
	noFooter bool
	format   bundle.Compression        // gzip
	member   func(plain []byte) []byte // how a member is written
}

type forgedEntry struct {
	name    string
	data    []byte
	size    int64 // in the header, when not that of data
	mode    uint32
	header  func(h []byte) // changes the header; its checksum is mended
	isImage bool           // data is the images
	joined  bool           // content shares the member of the header
}

func forge(t testing.TB, m *bundle.Manifest, c *bundletest.Content, signature []byte) *forged {
	t.Helper()
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	f := &forged{mtime: m.CreatedAt.Unix(), prefix: m.Prefix}
	f.entries = append(f.entries, forgedEntry{name: bundle.ManifestName, data: raw})
	if signature != nil {
		f.entries = append(f.entries, forgedEntry{name: bundle.SignatureName, data: signature})
	}
	for _, file := range m.Files {
		f.entries = append(f.entries, forgedEntry{name: file.Path, data: c.Files[file.Path], mode: file.Mode})
	}
	if m.Kind == bundle.KindTree {
		return f
	}
	f.entries = append(f.entries, forgedEntry{name: bundle.ImagesName, isImage: true})
	generated, err := m.ArchiveEntries()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range generated {
		f.images = append(f.images, forgedEntry{name: g.Path, data: g.Data})
	}
	for _, b := range m.Blobs() {
		f.images = append(f.images, forgedEntry{name: bundle.BlobPath(b.Digest), data: c.Blobs[b.Digest]})
	}
	return f
}

// find returns the entry called name of the outer tar, or of images.tar when
// name begins with "images.tar/".
func (f *forged) find(t testing.TB, name string) *forgedEntry {
	t.Helper()
	list := f.entries
	if rest, ok := strings.CutPrefix(name, bundle.ImagesName+"/"); ok {
		list, name = f.images, rest
	}
	for i := range list {
		if list[i].name == name {
			return &list[i]
		}
	}
	t.Fatalf("no entry %s", name)
	return nil
}

func (e *forgedEntry) head(t testing.TB, prefix string, mtime, size int64) []byte {
	t.Helper()
	if e.size != 0 {
		size = e.size
	}
	if e.mode == 0 {
		e.mode = 0o644
	}
	h, err := bundle.TarHeader(path.Join(prefix, e.name), size, e.mode, mtime)
	if err != nil {
		t.Fatal(err)
	}
	if e.header != nil {
		e.header(h[:])
		copy(h[148:], "        ")
		sum := 0
		for _, b := range h {
			sum += int(b)
		}
		copy(h[148:], []byte{'0' + byte(sum>>15&7), '0' + byte(sum>>12&7), '0' + byte(sum>>9&7), '0' + byte(sum>>6&7), '0' + byte(sum>>3&7), '0' + byte(sum&7), 0, ' '})
	}
	return h[:]
}

func pad(n int) []byte { return make([]byte, -n&511) }

// bytes puts the pieces together.
func (f *forged) bytes(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	if f.format == "" {
		f.format = bundle.Gzip
	}
	if f.member == nil {
		f.member = func(p []byte) []byte { return bundle.StoredMember(f.format, p) }
	}
	var members [][2]int
	write := func(parts ...[]byte) {
		for _, p := range parts {
			if len(p) > 0 {
				b := f.member(p)
				out.Write(b)
				members = append(members, [2]int{len(b), len(p)})
			}
		}
	}
	entry := func(e *forgedEntry) {
		head := e.head(t, f.prefix, f.mtime, int64(len(e.data)))
		if e.joined {
			write(append(head, e.data...), pad(len(e.data)))
			return
		}
		write(head, e.data, pad(len(e.data)))
	}
	for i := range f.entries {
		e := &f.entries[i]
		if !e.isImage {
			entry(e)
			continue
		}
		size := 1024 + len(f.imageEnd)
		for _, b := range f.images {
			size += 512 + len(b.data) + len(pad(len(b.data)))
		}
		write(e.head(t, "", f.mtime, int64(size)))
		for i := range f.images {
			entry(&f.images[i])
		}
		write(f.imageEnd, make([]byte, 1024))
	}
	toc := f.toc
	if toc == nil {
		toc = []byte(`{"format":"valise-toc/1","entries":[]}`)
	}
	at := int64(out.Len())
	tocEntry := forgedEntry{name: bundle.TOCName, data: toc}
	write(append(append(append(tocEntry.head(t, f.prefix, f.mtime, int64(len(toc))), toc...), pad(len(toc))...), make([]byte, 1024)...))
	if !f.noFooter {
		out.Write(bundle.Footer(f.format, at, members))
	}
	out.Write(f.tail)
	return out.Bytes()
}

func storedMember(p []byte) []byte { return bundle.StoredMember(bundle.Gzip, p) }
