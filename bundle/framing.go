package bundle

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// The outer file is a tar in gzip members. The tar is canonical: the manifest
// determines every byte of it except content, which it pins by digest. Only
// where members begin and how they are deflated is the writer's choice.

const blockSize = 512

// tarHeader is the only header that format valise/1 knows: a plain file, owner
// 0, name in ustar form. mtime is in seconds since 1970.
func tarHeader(name string, size int64, mode uint32, mtime int64) ([blockSize]byte, error) {
	var h [blockSize]byte
	prefix := ""
	if len(name) > 100 {
		cut := -1
		for i := range name {
			if name[i] == '/' && i <= 155 && len(name)-i-1 <= 100 {
				cut = i
				break
			}
		}
		if cut < 0 {
			return h, fmt.Errorf("path %q does not fit a tar header: a directory of at most 155 and a rest of at most 100 bytes", name)
		}
		prefix, name = name[:cut], name[cut+1:]
	}
	copy(h[0:], name)
	copy(h[100:], fmt.Sprintf("%07o", mode))
	copy(h[108:], "0000000\x000000000\x00")
	if size < 1<<33 {
		copy(h[124:], fmt.Sprintf("%011o", size))
	} else { // base 256, which every current tar reads
		h[124] = 0x80
		binary.BigEndian.PutUint64(h[128:], uint64(size))
	}
	copy(h[136:], fmt.Sprintf("%011o", mtime))
	copy(h[148:], "        ")
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	copy(h[345:], prefix)
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h, nil
}

// headerSize reads the size field of a header written by tarHeader.
func headerSize(h []byte) (int64, bool) {
	if h[124] == 0x80 {
		n := binary.BigEndian.Uint64(h[128:])
		return int64(n), n <= MaxFileSize
	}
	var n int64
	for _, b := range h[124:135] {
		if b < '0' || b > '7' {
			return 0, false
		}
		n = n<<3 | int64(b-'0')
	}
	return n, true
}

func headerName(h []byte) string {
	cstring := func(b []byte) string {
		for i, c := range b {
			if c == 0 {
				return string(b[:i])
			}
		}
		return string(b)
	}
	name := cstring(h[:100])
	if prefix := cstring(h[345:500]); prefix != "" {
		name = prefix + "/" + name
	}
	return name
}

func padding(size int64) int64 { return -size & (blockSize - 1) }

// memberWriter writes gzip members of at most MemberSize input each.
type memberWriter struct {
	w      *bufio.Writer
	at     int64 // offset in the file of the next member
	plain  int64 // bytes of the tar written so far
	stored bool  // do not deflate
	buf    []byte
	flate  *flate.Writer
}

func newMemberWriter(w io.Writer, at int64) *memberWriter {
	fl, _ := flate.NewWriter(io.Discard, 6) // 6 is a valid level
	return &memberWriter{w: bufio.NewWriterSize(w, 1<<20), at: at, buf: make([]byte, 0, MemberSize), flate: fl, stored: true}
}

func (m *memberWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(m.buf) == MemberSize {
			if err := m.boundary(); err != nil {
				return 0, err
			}
		}
		k := min(MemberSize-len(m.buf), len(p))
		m.buf = append(m.buf, p[:k]...)
		p = p[k:]
	}
	m.plain += int64(n)
	return n, nil
}

// boundary ends the member being written, if any.
func (m *memberWriter) boundary() error {
	if len(m.buf) == 0 {
		return nil
	}
	c := &countWriter{w: m.w}
	err := m.writeMember(c)
	m.buf = m.buf[:0]
	m.at += c.n
	return err
}

func (m *memberWriter) writeMember(w io.Writer) error {
	if _, err := w.Write(gzipHeader); err != nil {
		return err
	}
	if m.stored {
		if err := writeStored(w, m.buf); err != nil {
			return err
		}
	} else {
		m.flate.Reset(w)
		if _, err := m.flate.Write(m.buf); err != nil {
			return err
		}
		if err := m.flate.Close(); err != nil {
			return err
		}
	}
	tail := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(m.buf))
	_, err := w.Write(binary.LittleEndian.AppendUint32(tail, uint32(len(m.buf))))
	return err
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// gzipHeader is the only one a member may have: no name, no time, no extra field.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// writeStored writes p as stored blocks of deflate. Their length depends on
// len(p) alone, so a stored member can be replaced by one of the same length.
func writeStored(w io.Writer, p []byte) error {
	for {
		k := min(len(p), 0xffff)
		var head [5]byte
		if k == len(p) {
			head[0] = 1 // the last block
		}
		binary.LittleEndian.PutUint16(head[1:], uint16(k))
		binary.LittleEndian.PutUint16(head[3:], ^uint16(k))
		if _, err := w.Write(head[:]); err != nil {
			return err
		}
		if _, err := w.Write(p[:k]); err != nil {
			return err
		}
		if p = p[k:]; len(p) == 0 {
			return nil
		}
	}
}

// footer is the last member: empty, with the offset of the member in which the
// table of contents begins in its extra field "VA".
func footer(toc int64) []byte {
	b := []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 12, 0, 'V', 'A', 8, 0}
	b = binary.LittleEndian.AppendUint64(b, uint64(toc))
	return append(b, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0)
}

var footerSize = int64(len(footer(0)))

// parseFooter returns the offset that footer was given.
func parseFooter(b []byte) (int64, bool) {
	if int64(len(b)) != footerSize {
		return 0, false
	}
	toc := int64(binary.LittleEndian.Uint64(b[16:]))
	return toc, toc >= 0 && string(footer(toc)) == string(b)
}

// stream reads the tar out of consecutive gzip members.
type stream struct {
	src    *countReader
	gz     *gzip.Reader
	open   bool   // a member is being read
	peeked []byte // bytes of the member that memberStart read ahead
	plain  int64  // bytes of the tar read so far
}

// countReader counts what the gzip reader consumes: it reads byte by byte where
// it must, so that the count is exact at the end of a member.
type countReader struct {
	r *bufio.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *countReader) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// Bytes that are read at once: of the head and the table of contents, which are
// small and may have to come over a network, and of everything else.
const (
	headBuffer    = 32 << 10
	contentBuffer = 256 << 10
)

func newStream(r io.ReaderAt, from, to int64) *stream {
	return newStreamSize(r, from, to, contentBuffer)
}

func newStreamSize(r io.ReaderAt, from, to, buffer int64) *stream {
	return &stream{src: &countReader{r: bufio.NewReaderSize(markStorage{io.NewSectionReader(r, from, to-from)}, int(min(buffer, max(to-from, 16)))), n: from}}
}

func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.peeked) > 0 {
		n := copy(p, s.peeked)
		s.peeked = s.peeked[n:]
		s.plain += int64(n)
		return n, nil
	}
	for {
		if !s.open {
			if err := s.next(); err != nil {
				return 0, err
			}
		}
		n, err := s.gz.Read(p)
		s.plain += int64(n)
		if err == io.EOF {
			s.open, err = false, nil
		}
		if n > 0 || err != nil {
			return n, wrapGzip(err)
		}
	}
}

// next opens the next member; io.EOF when the input ends instead.
func (s *stream) next() error {
	head, err := s.src.r.Peek(len(gzipHeader))
	if len(head) == 0 {
		return err
	}
	if !bytes.Equal(head, gzipHeader) && len(head) == len(gzipHeader) {
		return errors.New("a gzip header other than the canonical one")
	}
	if s.gz == nil {
		s.gz = new(gzip.Reader)
	}
	if err := s.gz.Reset(s.src); err != nil {
		return wrapGzip(err)
	}
	s.gz.Multistream(false)
	s.open = true
	return nil
}

// memberStart returns the file offset of the member that begins here, and false
// when the stream is in the middle of one.
func (s *stream) memberStart() (int64, bool, error) {
	if len(s.peeked) > 0 {
		return 0, false, nil
	}
	for s.open {
		var b [1]byte
		n, err := s.gz.Read(b[:])
		if n > 0 {
			s.peeked = []byte{b[0]}
			return 0, false, nil
		}
		if err == io.EOF {
			s.open = false
		} else if err != nil {
			return 0, false, wrapGzip(err)
		}
	}
	return s.src.n, true, nil
}

func wrapGzip(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// storageError is a failure of the file under a bundle, not of its content.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

func isStorage(err error) bool {
	var s *storageError
	return errors.As(err, &s)
}

// markStorage makes failures of an io.ReaderAt recognisable behind the gzip
// reader.
type markStorage struct{ r io.Reader }

func (m markStorage) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && err != io.EOF {
		err = &storageError{err}
	}
	return n, err
}
