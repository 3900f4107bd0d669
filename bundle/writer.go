package bundle

import (
	"bytes"
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
)

// Content is where Write reads what a manifest lists. Write closes what it opens.
type Content interface {
	OpenFile(path string) (io.ReadCloser, error) // a file of Manifest.Files
	OpenBlob(d Digest) (io.ReadCloser, error)    // an image index, image manifest, config or layer, verbatim
}

// WriteFile is where a bundle is written: an *os.File that is new and empty.
type WriteFile interface {
	io.Writer
	io.WriterAt
}

// TOC is the table of contents: where content begins. It is a hint for readers
// that seek, never trusted.
type TOC struct {
	Format  string     `json:"format"`
	Entries []TOCEntry `json:"entries"`
}

// TOCEntry is one file or blob. Members are the file offsets of the gzip members
// that hold its content and nothing else, each of MemberSize bytes but the last
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

// Write writes the bundle of a finished manifest to dst in one pass, checks
// everything it reads against the manifest, and sets m.ImagesSHA256. progress,
// which may be nil, gets the bytes of content done and their total. Memory use
// does not depend on the size of the bundle.
func Write(ctx context.Context, dst WriteFile, m *Manifest, src Content, progress func(done, total int64)) error {
	w := &writer{ctx: ctx, members: newMemberWriter(dst, 0), prefix: m.Prefix, mtime: m.CreatedAt.Unix(), images: sha256.New(), progress: progress}
	if m.Kind == KindTree {
		return w.bundle(m, nil, nil, src, nil)
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
	if err := w.bundle(m, nil, m.blobs(), src, archive); err != nil {
		return err
	}
	m.ImagesSHA256 = hex.EncodeToString(w.images.Sum(nil))
	// The manifest stands first but names the digest of what stands last: its
	// members are stored, so the final one has the length of the placeholder.
	head := &writer{ctx: ctx, members: newMemberWriter(io.NewOffsetWriter(dst, 0), 0), mtime: w.mtime}
	if err := head.head(m, nil); err != nil {
		return err
	}
	return head.members.w.Flush()
}

// Thin writes the bundle in r, which has been checked, without the blobs for
// which omit says so. Manifest and signature stay what they are, so what is left
// out can come from elsewhere and be checked just the same.
func Thin(ctx context.Context, dst io.Writer, r *Reader, omit func(Digest) bool, progress func(done, total int64)) error {
	w := &writer{ctx: ctx, members: newMemberWriter(dst, 0), prefix: r.manifest.Prefix, mtime: r.manifest.CreatedAt.Unix(), progress: progress}
	blobs := slices.DeleteFunc(r.manifest.blobs(), func(d Descriptor) bool { return !r.HasBlob(d.Digest) || omit(d.Digest) })
	archive := func(path string) (io.ReadCloser, error) { return r.open(ImagesName + "/" + path) }
	return w.bundle(r.manifest, r.signature, blobs, r, archive)
}

// Seal writes the bundle in r to dst with signature as its signature. Everything
// behind the head is copied as it is.
func Seal(ctx context.Context, dst io.Writer, r *Reader, signature []byte) error {
	if len(signature) > MaxSignatureSize {
		return fmt.Errorf("seal: signature has %d bytes, limit %d", len(signature), MaxSignatureSize)
	}
	toc, at, err := r.readTOC()
	if err != nil {
		return fmt.Errorf("seal: read table of contents: %w", err)
	}
	w := &writer{ctx: ctx, members: newMemberWriter(dst, 0), prefix: r.manifest.Prefix, mtime: r.manifest.CreatedAt.Unix()}
	if err := w.head(r.manifest, signature); err != nil {
		return err
	}
	if err := w.members.w.Flush(); err != nil {
		return err
	}
	if _, err := io.Copy(dst, io.NewSectionReader(r.file, r.body, at-r.body)); err != nil {
		return err
	}
	shift := w.members.at - r.body
	for _, e := range toc.Entries {
		for i := range e.Members {
			e.Members[i] += shift
		}
		e.End += shift
		w.toc.Entries = append(w.toc.Entries, e)
	}
	w.members.at += at - r.body
	return w.tail()
}

// writer writes entries and remembers where they are.
type writer struct {
	ctx      context.Context
	members  *memberWriter
	images   hash.Hash // of images.tar, when it is wanted
	inImages bool
	prefix   string
	mtime    int64
	toc      TOC
	done     int64
	total    int64
	progress func(done, total int64)
}

func (w *writer) Write(p []byte) (int, error) {
	if w.inImages && w.images != nil {
		w.images.Write(p)
	}
	return w.members.Write(p)
}

func (w *writer) zeros(n int64) error {
	_, err := w.Write(make([]byte, n))
	return err
}

func (w *writer) header(name string, size int64, mode uint32) error {
	h, err := tarHeader(path.Join(w.prefix, name), size, mode, w.mtime)
	if err != nil {
		return err
	}
	_, err = w.Write(h[:])
	return err
}

// bundle writes everything. archive opens the entries of images.tar that are not
// blobs.
func (w *writer) bundle(m *Manifest, signature []byte, blobs []Descriptor, src Content, archive func(path string) (io.ReadCloser, error)) error {
	for _, f := range m.Files {
		w.total += f.Size
	}
	for _, b := range blobs {
		w.total += b.Size
	}
	if err := w.head(m, signature); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := w.entry(f.Path, f.Path, f, false, func() (io.ReadCloser, error) { return src.OpenFile(f.Path) }); err != nil {
			return err
		}
	}
	if m.Kind == KindTree {
		return w.tail()
	}
	size := imagesSize(m.Archive, blobs)
	if err := w.header(ImagesName, size, 0o644); err != nil {
		return err
	}
	w.inImages = true
	for _, f := range m.Archive {
		if err := w.entry(ImagesName+"/"+f.Path, f.Path, f, false, func() (io.ReadCloser, error) { return archive(f.Path) }); err != nil {
			return err
		}
	}
	for _, b := range blobs {
		f := File{Size: b.Size, Mode: 0o644, Digest: b.Digest}
		if err := w.entry(blobEntry(b.Digest), blobPath(b.Digest), f, true, func() (io.ReadCloser, error) { return src.OpenBlob(b.Digest) }); err != nil {
			return err
		}
	}
	if err := w.zeros(2 * blockSize); err != nil {
		return err
	}
	w.inImages = false
	if err := w.zeros(padding(size)); err != nil {
		return err
	}
	return w.tail()
}

// head writes the manifest and its signature, up to a member boundary.
func (w *writer) head(m *Manifest, signature []byte) error {
	b, err := m.Encode()
	if err != nil {
		return err
	}
	if len(b) > MaxManifestSize {
		return formatErr("entry-size", ManifestName, "%d bytes, limit %d", len(b), MaxManifestSize)
	}
	for _, e := range []struct {
		name string
		data []byte
	}{{ManifestName, b}, {SignatureName, signature}} {
		if e.data == nil {
			continue
		}
		if err := w.header(e.name, int64(len(e.data)), 0o644); err != nil {
			return err
		}
		if err := w.members.boundary(); err != nil {
			return err
		}
		if _, err := w.Write(e.data); err != nil {
			return err
		}
		if err := w.members.boundary(); err != nil {
			return err
		}
		if err := w.zeros(padding(int64(len(e.data)))); err != nil {
			return err
		}
		if err := w.members.boundary(); err != nil {
			return err
		}
	}
	return nil
}

// entry writes a header, the content in members of its own, and the padding.
func (w *writer) entry(name, inTar string, f File, stored bool, open func() (io.ReadCloser, error)) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if err := w.header(inTar, f.Size, f.Mode); err != nil {
		return err
	}
	if err := w.members.boundary(); err != nil {
		return err
	}
	rc, err := open()
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer rc.Close()
	w.members.stored = stored
	e := TOCEntry{Name: name, Members: []int64{}}
	r := newDigestReader(rc, f.Size, f.Digest, name)
	chunk := make([]byte, 256<<10)
	for n := int64(0); ; {
		if n%MemberSize == 0 && n < f.Size {
			if err := w.members.boundary(); err != nil {
				return err
			}
			e.Members = append(e.Members, w.members.at)
			if err := w.ctx.Err(); err != nil {
				return err
			}
		}
		k, err := r.Read(chunk[:min(int64(len(chunk)), MemberSize-n%MemberSize)])
		if _, werr := w.Write(chunk[:k]); werr != nil {
			return fmt.Errorf("write %s: %w", name, werr)
		}
		n += int64(k)
		w.done += int64(k)
		if w.progress != nil && k > 0 {
			w.progress(w.done, w.total)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := w.members.boundary(); err != nil {
		return err
	}
	w.members.stored = true
	e.End = w.members.at
	w.toc.Entries = append(w.toc.Entries, e)
	return w.zeros(padding(f.Size))
}

// tail writes the table of contents, the end of the tar and the footer.
func (w *writer) tail() error {
	if err := w.members.boundary(); err != nil {
		return err
	}
	at := w.members.at
	w.toc.Format = tocFormat
	b, err := json.Marshal(w.toc)
	if err != nil {
		return err
	}
	if len(b) > MaxTOCSize {
		return formatErr("entry-size", TOCName, "%d bytes, limit %d", len(b), MaxTOCSize)
	}
	w.members.stored = false
	if err := w.header(TOCName, int64(len(b)), 0o644); err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.zeros(padding(int64(len(b))) + 2*blockSize); err != nil {
		return err
	}
	if err := w.members.boundary(); err != nil {
		return err
	}
	if _, err := w.members.w.Write(footer(at)); err != nil {
		return err
	}
	return w.members.w.Flush()
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
			err = formatErr("digest", d.name, "ends %d bytes early", d.left)
		}
	}
	return n, err
}
