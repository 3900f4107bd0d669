package bundle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
)

// Content is where Write reads what a manifest lists. Write closes what it opens.
type Content interface {
	OpenFile(path string) (io.ReadCloser, error) // a file of Manifest.Files
	OpenBlob(d Digest) (io.ReadCloser, error)    // an image index, image manifest, config or layer, verbatim; several at once
}

// WriteFile is where a bundle is written: an *os.File that is new and empty.
type WriteFile interface {
	io.ReaderAt
	io.WriterAt
}

// TOC is the table of contents: where content begins. It is a hint for readers
// that seek, never trusted.
type TOC struct {
	Format  string     `json:"format"`
	Entries []TOCEntry `json:"entries"`
}

// TOCEntry is one file or blob. Members are the file offsets of the members that
// hold its content and nothing else, each of MemberSize bytes but the last
// one; End is the offset behind the last.
type TOCEntry struct {
	Name    string  `json:"name"` // path, or images.tar/blobs/sha256/<hex>
	Members []int64 `json:"members"`
	End     int64   `json:"end"`
}

const tocFormat = "valise-toc/1"

// Finish sorts and fills in what follows from the components: format, images and
// the archive entries. ImagesSHA256 stays a placeholder until Write.
func (m *Manifest) Finish() error {
	m.Format = Format
	if m.Kind == KindTree {
		return m.Validate()
	}
	m.ImagesSHA256 = strings.Repeat("0", 64)
	m.Images = nil
	for _, c := range m.Components {
		m.Images = append(m.Images, c.Reference)
	}
	var err error
	if m.Archive, err = m.archive(); err != nil {
		return err
	}
	return m.Validate()
}

// Write writes the bundle of a finished manifest to dst, checks everything it
// reads against the manifest, and sets m.ImagesSHA256. progress, which may be nil,
// gets the bytes of content done and their total. Memory use does not depend on
// the size of the bundle.
func Write(ctx context.Context, dst WriteFile, c Compression, m *Manifest, src Content, progress func(done, total int64)) error {
	return WriteThin(ctx, dst, c, m, src, func(Digest) bool { return false }, progress)
}

// WriteThin is Write without the layers and files for which omit says so, as far as
// they may be left out. Layers are read all the same: the manifest is that of the
// complete bundle, which has the digest of its images.tar.
func WriteThin(ctx context.Context, dst WriteFile, c Compression, m *Manifest, src Content, omit func(Digest) bool, progress func(done, total int64)) error {
	w := newWriter(ctx, dst, newFraming(c), m, progress)
	files := slices.DeleteFunc(slices.Clone(m.Files), func(f File) bool { return f.mayBeMissing() && omit(f.Digest) })
	small, layers := m.blobsByKind()
	if m.Kind == KindTree {
		return w.bundle(m, nil, files, small, layers, src, nil)
	}
	generated, err := m.ArchiveEntries()
	if err != nil {
		return err
	}
	archive := func(path string) (io.ReadCloser, error) {
		i := slices.IndexFunc(generated, func(g GeneratedFile) bool { return g.Path == path })
		if i < 0 {
			return nil, fmt.Errorf("%s was not generated for this manifest", path)
		}
		return io.NopCloser(bytes.NewReader(generated[i].Data)), nil
	}
	w.images, w.omit = sha256.New(), omit
	if err := w.bundle(m, nil, files, small, layers, src, archive); err != nil {
		return err
	}
	// The manifest stands first but names the digest of what stands last. That
	// value is a stored member of its own, whose length is always the same.
	m.ImagesSHA256 = hex.EncodeToString(w.images.Sum(nil))
	_, err = dst.WriteAt(storedMember(w.framing, []byte(m.ImagesSHA256)), w.imagesSHA256)
	return err
}

// Thin writes the bundle in r, which has been checked, without the layers and files
// for which omit says so, as far as they may be left out. Manifest and signature
// stay what they are, so what is left out can come from elsewhere and be checked
// just the same.
func Thin(ctx context.Context, dst WriteFile, r *Reader, omit func(Digest) bool, progress func(done, total int64)) error {
	w := newWriter(ctx, dst, r.framing, r.manifest, progress)
	w.parallel = 1 // in the order of the file: who reads it from a server reads ahead, and only there
	small, layers := r.manifest.blobsByKind()
	layers = slices.DeleteFunc(layers, func(d Descriptor) bool { return !r.HasBlob(d.Digest) || omit(d.Digest) })
	files := slices.DeleteFunc(slices.Clone(r.manifest.Files), func(f File) bool {
		return f.mayBeMissing() && (!r.HasFile(f.Path) || omit(f.Digest))
	})
	archive := func(path string) (io.ReadCloser, error) { return r.open(ImagesName + "/" + path) }
	return w.bundle(r.manifest, r.signature, files, small, layers, r, archive)
}

const sealBuffer = 1 << 20 // bytes that are copied at once

// Seal writes the bundle in r to dst with signature as its signature. Everything
// behind the head is copied as it is.
func Seal(ctx context.Context, dst io.Writer, r *Reader, signature []byte) error {
	if len(signature) > MaxSignatureSize {
		return fmt.Errorf("seal: signature has %d bytes, limit %d", len(signature), MaxSignatureSize)
	}
	toc, end, err := r.readTOC()
	if err != nil {
		return fmt.Errorf("seal: read table of contents: %w", err)
	}
	w := newWriter(ctx, nil, r.framing, r.manifest, nil)
	w.dst = dst
	if err := w.head(r.manifest, signature); err != nil {
		return err
	}
	rest := contextReader{ctx, io.NewSectionReader(r.file, r.body, end.toc-r.body)}
	if _, err := io.CopyBuffer(dst, rest, make([]byte, sealBuffer)); err != nil {
		return err
	}
	shift := w.at - r.body
	for _, e := range toc.Entries {
		for i := range e.Members {
			e.Members[i] += shift
		}
		e.End += shift
		w.toc.Entries = append(w.toc.Entries, e)
	}
	at := int64(0)
	for _, m := range end.table {
		if at >= r.body && at < end.toc {
			w.table = append(w.table, m)
		}
		at += int64(m.file)
	}
	w.at += end.toc - r.body
	return w.tail()
}

// writer writes entries and remembers where they are.
type writer struct {
	ctx          context.Context
	dst          io.Writer
	framing      framing
	compress     func([]byte) ([]byte, error)
	at           int64  // offset in the file of the next member
	between      []byte // padding and headers since the last content
	prefix       string
	mtime        int64
	file         WriteFile         // for layers
	parallel     int               // layers received at the same time
	images       hash.Hash         // of images.tar, when it is wanted
	omit         func(Digest) bool // layers that only images sees; nil means none
	inImages     bool
	imagesSHA256 int64 // where the manifest has that digest
	toc          TOC
	table        []member
	progress     func(done, total int64)
	total        int64

	writing sync.Mutex // into file
	mu      sync.Mutex // of done and stored.ready
	grown   *sync.Cond // stored.ready is
	done    int64
}

func newWriter(ctx context.Context, file WriteFile, f framing, m *Manifest, progress func(done, total int64)) *writer {
	w := &writer{ctx: ctx, file: file, parallel: storeParallel, framing: f, compress: f.compressor(), prefix: m.Prefix, mtime: m.CreatedAt.Unix(), progress: progress}
	w.dst = io.NewOffsetWriter(file, 0)
	w.grown = sync.NewCond(&w.mu)
	return w
}

// tell reports n more bytes of content.
func (w *writer) tell(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += n
	if w.progress != nil && n > 0 {
		w.progress(w.done, w.total)
	}
}

// add appends to what stands between two contents.
func (w *writer) add(p []byte) {
	if w.inImages && w.images != nil {
		w.images.Write(p)
	}
	w.between = append(w.between, p...)
}

func (w *writer) zeros(n int64) { w.add(make([]byte, n)) }

func (w *writer) header(name string, size int64, mode uint32) error {
	h, err := tarHeader(path.Join(w.prefix, name), size, mode, w.mtime)
	w.add(h[:])
	return err
}

// boundary writes what stands between two contents.
func (w *writer) boundary() error {
	p := w.between
	w.between = nil
	return w.compressed(p)
}

// compressed writes a member.
func (w *writer) compressed(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	b, err := w.compress(p)
	if err != nil {
		return err
	}
	return w.write(b, len(p))
}

// write writes a finished member.
func (w *writer) write(b []byte, plain int) error {
	n, err := w.dst.Write(b)
	w.at += int64(n)
	w.table = append(w.table, member{uint32(len(b)), uint32(plain)})
	return err
}

// bundle writes everything. archive opens the entries of images.tar that are not
// blobs.
func (w *writer) bundle(m *Manifest, signature []byte, files []File, small, layers []Descriptor, src Content, archive func(path string) (io.ReadCloser, error)) error {
	for _, f := range slices.Concat(files, m.Archive) {
		w.total += f.Size
	}
	for _, b := range slices.Concat(small, layers) {
		w.total += b.Size
	}
	if err := w.head(m, signature); err != nil {
		return err
	}
	for _, f := range files {
		if err := w.entry(f.Path, f, func() (io.ReadCloser, error) { return src.OpenFile(f.Path) }); err != nil {
			return err
		}
	}
	if m.Kind == KindTree {
		return w.tail()
	}
	size := imagesSize(m.Archive, slices.Concat(small, slices.DeleteFunc(slices.Clone(layers), w.omits)))
	if err := w.header(ImagesName, size, 0o644); err != nil {
		return err
	}
	w.inImages = true
	for _, f := range m.Archive {
		if err := w.entry(ImagesName+"/"+f.Path, f, func() (io.ReadCloser, error) { return archive(f.Path) }); err != nil {
			return err
		}
	}
	for _, b := range small {
		f := File{Path: blobPath(b.Digest), Size: b.Size, Mode: 0o644, Digest: b.Digest}
		if err := w.entry(blobEntry(b.Digest), f, func() (io.ReadCloser, error) { return src.OpenBlob(b.Digest) }); err != nil {
			return err
		}
	}
	if err := w.layers(layers, src); err != nil {
		return err
	}
	w.zeros(2 * blockSize)
	w.inImages = false
	w.zeros(padding(size))
	return w.tail()
}

// omits reports whether a layer is left out, and read only for the digest.
func (w *writer) omits(b Descriptor) bool { return w.omit != nil && w.omit(b.Digest) }

// imagesKey is what stands before the digest of images.tar in a manifest. Line
// feed and quotes keep it apart from text that looks like it.
const imagesKey = "\n  \"images_sha256\": \""

// head writes the manifest and its signature, up to a member boundary.
func (w *writer) head(m *Manifest, signature []byte) error {
	b, err := m.Encode()
	if err != nil {
		return err
	}
	if len(b) > MaxManifestSize {
		return formatErr("entry-size", ManifestName, "%d bytes, limit %d", len(b), MaxManifestSize)
	}
	if err := w.header(ManifestName, int64(len(b)), 0o644); err != nil {
		return err
	}
	if err := w.boundary(); err != nil {
		return err
	}
	rest := b
	if i := bytes.Index(b, []byte(imagesKey)); i >= 0 && m.Kind != KindTree {
		i += len(imagesKey)
		if err := w.compressed(b[:i]); err != nil {
			return err
		}
		w.imagesSHA256 = w.at
		if err := w.write(storedMember(w.framing, b[i:i+64]), 64); err != nil {
			return err
		}
		rest = b[i+64:]
	}
	if err := w.compressed(rest); err != nil {
		return err
	}
	w.zeros(padding(int64(len(b))))
	if err := w.boundary(); err != nil {
		return err
	}
	if signature != nil {
		if err := w.header(SignatureName, int64(len(signature)), 0o644); err != nil {
			return err
		}
		if err := w.boundary(); err != nil {
			return err
		}
		if err := w.compressed(signature); err != nil {
			return err
		}
		w.zeros(padding(int64(len(signature))))
	}
	return w.boundary()
}

// entry writes a header, the content in members of its own, and the padding.
func (w *writer) entry(name string, f File, open func() (io.ReadCloser, error)) error {
	if err := w.header(f.Path, f.Size, f.Mode); err != nil {
		return err
	}
	if err := w.boundary(); err != nil {
		return err
	}
	rc, err := open()
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer rc.Close()
	e := TOCEntry{Name: name, Members: []int64{}}
	r := newDigestReader(rc, f.Size, f.Digest, name)
	chunk := make([]byte, min(MemberSize, f.Size))
	for left := f.Size; left > 0; {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		p := chunk[:min(left, MemberSize)]
		if _, err := io.ReadFull(r, p); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if w.inImages && w.images != nil {
			w.images.Write(p)
		}
		e.Members = append(e.Members, w.at)
		if err := w.compressed(p); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		left -= int64(len(p))
		w.tell(int64(len(p)))
	}
	if err := r.finish(); err != nil {
		return err
	}
	e.End = w.at
	w.toc.Entries = append(w.toc.Entries, e)
	w.zeros(padding(f.Size))
	return nil
}

// storedMember returns a stored member.
func storedMember(f framing, p []byte) []byte {
	sum := f.checksum()
	sum.Write(p)
	b := append([]byte(nil), f.begin(len(p))...)
	for rest := p; len(rest) > 0; {
		k := min(len(rest), f.storedBlock())
		b = append(append(b, f.block(k, k == len(rest))...), rest[:k]...)
		rest = rest[k:]
	}
	return append(b, f.end(sum, len(p))...)
}

// tail writes the table of contents, the end of the tar and the footer.
func (w *writer) tail() error {
	if err := w.boundary(); err != nil {
		return err
	}
	at := w.at
	w.toc.Format = tocFormat
	b, err := json.Marshal(w.toc)
	if err != nil {
		return err
	}
	if len(b) > MaxTOCSize {
		return formatErr("entry-size", TOCName, "%d bytes, limit %d", len(b), MaxTOCSize)
	}
	if err := w.header(TOCName, int64(len(b)), 0o644); err != nil {
		return err
	}
	w.add(b)
	w.zeros(padding(int64(len(b))) + 2*blockSize)
	for len(w.between) > 0 {
		n := min(len(w.between), MemberSize)
		if err := w.compressed(w.between[:n]); err != nil {
			return err
		}
		w.between = w.between[n:]
	}
	if len(w.table) >= MaxMembers {
		return fmt.Errorf("the bundle has %d members, limit %d", len(w.table), MaxMembers-1)
	}
	_, err = w.dst.Write(w.framing.footer(at, w.table))
	return err
}

// contextReader stops in the middle of a large copy when ctx ends.
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

// digestReader passes on size bytes and fails instead of ending when they are
// not the ones of digest. It is the only way content leaves or enters a bundle.
type digestReader struct {
	r    io.Reader
	hash hash.Hash
	left int64
	want Digest
	name string
}

func newDigestReader(r io.Reader, size int64, want Digest, name string) *digestReader {
	return &digestReader{r: r, hash: sha256.New(), left: size, want: want, name: name}
}

// finish compares all that was read with the digest.
func (d *digestReader) finish() error {
	if _, err := d.Read(nil); err != io.EOF {
		return cmp.Or(err, io.ErrUnexpectedEOF)
	}
	return nil
}

func (d *digestReader) Read(p []byte) (int, error) {
	if d.left == 0 {
		if d.hash != nil {
			if got := digestFrom(d.hash.Sum(nil)); got != d.want {
				return 0, formatErr("digest", d.name, "content is %s, the manifest says %s", got, d.want)
			}
			d.hash = nil
		}
		return 0, io.EOF
	}
	n, err := d.r.Read(p[:min(int64(len(p)), d.left)])
	d.hash.Write(p[:n])
	d.left -= int64(n)
	if err == io.EOF {
		err = nil
		if d.left > 0 {
			err = fmt.Errorf("it ends %d bytes early: %w", d.left, io.ErrUnexpectedEOF)
		}
	}
	return n, err
}
