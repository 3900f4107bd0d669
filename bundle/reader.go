package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
)

// Reader reads one bundle. Until Check has returned nil everything but the form
// of the manifest is unknown, and whose manifest it is, only a signature can
// tell: installers take a verify.Release, which has both.
type Reader struct {
	file      io.ReaderAt
	size      int64
	framing   framing
	manifest  *Manifest
	raw       []byte
	signature []byte
	body      int64             // file offset of the member behind the head
	plain     int64             // offset of it in the tar
	index     map[string]placed // filled by Check or Locate
}

// placed is where the content of an entry lies in the file: Check found it
// there, or the table of contents says so.
type placed struct {
	member int64 // where it begins
	end    int64 // nothing behind this is part of it
	size   int64
	digest Digest
}

// Open reads the head of a bundle of size bytes: manifest and signature. The
// error is a *FormatError when the file is not a bundle, and another one when it
// cannot be read. Reader may be used by several goroutines once Check is done.
func Open(file io.ReaderAt, size int64) (*Reader, error) {
	start := make([]byte, min(blockSize, size))
	if _, err := file.ReadAt(start, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	f := newFraming(framingOf(start))
	if f == nil {
		if size == 0 {
			return nil, formatErr("framing", "", "the file is empty")
		}
		return nil, formatErr("framing", "", "the file is not a bundle: neither gzip nor zstd nor tar")
	}
	r := &Reader{file: file, size: size, framing: f}
	end := size
	if known, ok := file.(interface{ HeadEnd() int64 }); ok { // what follows costs something to read
		end = min(size, known.HeadEnd())
	}
	s := newStream(f, file, 0, end, headBuffer)
	// Whether the directory it is in is the right one is known afterwards.
	raw, head, err := r.readHead(s, func(name string) bool { return path.Base(name) == ManifestName }, MaxManifestSize)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, formatErr("manifest-first", "", "the first entry is %.80q, want %s", headerName(head), ManifestName)
	}
	if r.manifest, err = ParseManifest(raw); err != nil {
		return nil, err
	}
	r.raw = raw
	if err := r.expect(head, ManifestName, int64(len(raw)), 0o644); err != nil {
		return nil, err
	}
	if err := r.endHead(s); err != nil {
		return nil, err
	}
	signature, head, err := r.readHead(s, r.named(SignatureName), MaxSignatureSize)
	if err != nil {
		return nil, err
	}
	if signature == nil {
		return r, nil
	}
	r.signature = signature
	if err := r.expect(head, SignatureName, int64(len(signature)), 0o644); err != nil {
		return nil, err
	}
	return r, r.endHead(s)
}

// named tells the one name in the tar of an entry.
func (r *Reader) named(name string) func(string) bool {
	return func(got string) bool { return got == r.manifest.entryName(name) }
}

// readHead reads one small entry and its padding when named says that it is the
// next one, else nothing but the header it returns.
func (r *Reader) readHead(s *stream, named func(string) bool, limit int64) (data, head []byte, err error) {
	head = make([]byte, blockSize)
	if _, err := io.ReadFull(s, head); err != nil {
		return nil, nil, badStream("head", err)
	}
	name := headerName(head)
	if !named(name) {
		return nil, head, nil
	}
	size, ok := headerSize(head)
	if !ok || size > limit {
		return nil, nil, formatErr("entry-size", name, "size is beyond the limit of %d bytes", limit)
	}
	data = make([]byte, size)
	if _, err := io.ReadFull(s, data); err != nil {
		return nil, nil, badStream(name, err)
	}
	return data, head, expectZeros(s, padding(size), name)
}

func (r *Reader) endHead(s *stream) error {
	at, ok, err := s.memberStart()
	if err != nil {
		return badStream(ManifestName, err)
	}
	if !ok {
		return formatErr("member", ManifestName, "a member goes on behind the head")
	}
	r.body, r.plain = at, s.plain
	return nil
}

// Manifest returns the manifest. The caller does not change it.
func (r *Reader) Manifest() *Manifest { return r.manifest }

// ManifestBytes returns the bytes that are signed.
func (r *Reader) ManifestBytes() []byte { return r.raw }

// Signature returns the Sigstore bundle over ManifestBytes, nil when unsigned.
func (r *Reader) Signature() []byte { return r.signature }

// Compression returns how the file is made.
func (r *Reader) Compression() Compression { return r.framing.compression() }

// Size returns the bytes of the whole file.
func (r *Reader) Size() int64 { return r.size }

// OpenFile returns the content of a file of the manifest. What is read is the
// manifest's only when reading ends with io.EOF: the storage may give something
// else than Check saw, and after Locate nothing was checked yet.
func (r *Reader) OpenFile(path string) (io.ReadCloser, error) { return r.open(path) }

// OpenBlob returns the content of a blob, see OpenFile. HasBlob says which ones
// a thin bundle has.
func (r *Reader) OpenBlob(d Digest) (io.ReadCloser, error) {
	rc, err := r.open(blobEntry(d))
	if err != nil || !r.manifest.isImageMetadata(d) {
		return rc, err
	}
	b, err := io.ReadAll(rc)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b)), r.manifest.checkImageBlob(d, b)
}

// HasFile reports whether the bundle holds the file.
func (r *Reader) HasFile(path string) bool {
	_, ok := r.index[path]
	return ok
}

// HasBlob reports whether the bundle holds the blob.
func (r *Reader) HasBlob(d Digest) bool {
	_, ok := r.index[blobEntry(d)]
	return ok
}

func blobEntry(d Digest) string { return ImagesName + "/" + blobPath(d) }

func (r *Reader) open(name string) (io.ReadCloser, error) {
	if r.index == nil {
		return nil, errors.New("read bundle: it was neither checked nor located")
	}
	p, ok := r.index[name]
	if !ok {
		return nil, fmt.Errorf("read bundle: it does not hold %s", name)
	}
	buffer := min(p.size+4<<10, contentBuffer) // there may be thousands of small files
	return &content{newDigestReader(newStream(r.framing, r.file, p.member, p.end, buffer), p.size, p.digest, name), name}, nil
}

// content is what open returns.
type content struct {
	r    *digestReader
	name string
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = badStream(c.name, err)
	}
	return n, err
}

func (c *content) Close() error { return nil }

// readTOC returns the table of contents and the footer.
func (r *Reader) readTOC() (*TOC, *footer, error) {
	end, err := r.framing.readFooter(r.file, r.size)
	if err != nil {
		return nil, nil, err
	}
	if end.toc < r.body || end.toc > end.start {
		return nil, nil, errFooter
	}
	data, _, err := r.readHead(newStream(r.framing, r.file, end.toc, end.start, contentBuffer), r.named(TOCName), MaxTOCSize)
	if err != nil {
		return nil, nil, err
	}
	toc := new(TOC)
	if err := json.Unmarshal(data, toc); err != nil || toc.Format != tocFormat {
		return nil, nil, fmt.Errorf("%w: %s is not one", ErrTOC, TOCName)
	}
	return toc, end, nil
}

// expect compares a header with the only one the manifest allows there.
func (r *Reader) expect(got []byte, name string, size int64, mode uint32) error {
	want, err := tarHeader(r.manifest.entryName(name), size, mode, r.manifest.CreatedAt.Unix())
	if err != nil {
		return formatErr("path", name, "%v", err)
	}
	if !bytes.Equal(got, want[:]) {
		return formatErr("entry", name, "expected here with %d bytes, found %s", size, describe(got))
	}
	return nil
}

// describe says what a tar header that should not be there is.
func describe(h []byte) string {
	if allZero(h) {
		return "the end of the archive"
	}
	kind := "a file"
	switch h[156] {
	case '0', 0:
	case '1':
		kind = "a hard link"
	case '2':
		kind = "a symbolic link"
	case '3', '4', '6':
		kind = "a device or pipe"
	case '5':
		kind = "a directory"
	case 'x', 'g':
		kind = "an extended header"
	case 'S':
		kind = "a sparse file"
	default:
		kind = fmt.Sprintf("an entry of type %q", h[156])
	}
	size, _ := headerSize(h)
	return fmt.Sprintf("%s called %.80q with %d bytes", kind, headerName(h), size)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func expectZeros(r io.Reader, n int64, name string) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return badStream(name, err)
	}
	if !allZero(b) {
		return formatErr("padding", name, "is followed by bytes that are not zero")
	}
	return nil
}

// badStream turns an error of reading the tar into one that says where. A damaged
// member is the bundle's fault; a failing disk is not.
func badStream(name string, err error) error {
	var f *FormatError
	if errors.As(err, &f) {
		return err
	}
	if isStorage(err) {
		return fmt.Errorf("read bundle: %w", err)
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return formatErr("truncated", name, "the file ends in the middle of it")
	}
	if m := (*memberError)(nil); errors.As(err, &m) && m.rule == "zstd" {
		return formatErr("zstd", name, "damaged: %v", err)
	}
	return formatErr("gzip", name, "damaged: %v", err)
}
