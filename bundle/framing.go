package bundle

import (
	"bufio"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Compression says how the tar of a bundle is put into its file.
type Compression string

// The compressions of format valise/1.
const (
	Gzip Compression = "gzip"
	Zstd Compression = "zstd" // in the seekable format of zstd's contrib/seekable_format
	None Compression = "none"
)

// ParseCompression checks that s names a compression.
func ParseCompression(s string) (Compression, error) {
	if c := Compression(s); newFraming(c) != nil {
		return c, nil
	}
	return "", fmt.Errorf("compression %q: want %s, %s or %s", s, Gzip, Zstd, None)
}

// Suffix is what the name of a file ends in: .tar.gz, .tar.zst or .tar.
func (c Compression) Suffix() string {
	switch c {
	case Gzip:
		return ".tar.gz"
	case Zstd:
		return ".tar.zst"
	}
	return ".tar"
}

// framing is how a tar is cut into members that can be read one by one: gzip
// members, zstd frames, or nothing at all. Which members there are is the
// writer's choice, except that content never shares one.
//
// A stored member holds n bytes as they are: begin, blocks of at most
// storedBlock bytes, each behind a head, and end. Its length depends on n alone,
// so it can be written before what stands in front of it.
type framing interface {
	compression() Compression

	storedBlock() int
	begin(n int) []byte
	block(n int, last bool) []byte
	end(sum hash.Hash, n int) []byte
	checksum() hash.Hash // of the content, for end

	// compressor returns what makes a compressed member. Not for several goroutines.
	compressor() func(p []byte) ([]byte, error)
	read(src *countReader) members

	// footer is what stands behind the tar: where the table of contents begins
	// and, for zstd, the seek table of all members.
	footer(toc int64, table []member) []byte
	readFooter(file io.ReaderAt, size int64) (*footer, error)
}

// members reads the content of members: next goes to the next one, and Read ends
// with io.EOF where that ends, having consumed nothing behind it.
type members interface {
	next() error // io.EOF when there is none
	io.Reader
}

// member is the length of a member in the file and in the tar.
type member struct{ file, plain uint32 }

// footer is what a framing's footer says.
type footer struct {
	start int64 // offset of the footer itself
	toc   int64 // offset of the member in which the table of contents begins
	table []member
}

var errFooter = formatErr("footer", "", "the file does not end in its footer: it is truncated or something was added")

// newFraming returns nil for what is no compression.
func newFraming(c Compression) framing {
	switch c {
	case Gzip:
		return gzipFraming{}
	case Zstd:
		return zstdFraming{}
	case None:
		return plainFraming{}
	}
	return nil
}

// framingOf tells by the first block of a file how it is made.
func framingOf(start []byte) Compression {
	switch {
	case len(start) >= 2 && string(start[:2]) == string(gzipHeader[:2]):
		return Gzip
	case len(start) >= 4 && string(start[:4]) == zstdMagic:
		return Zstd
	case len(start) == blockSize && string(start[257:262]) == "ustar":
		return None
	}
	return ""
}

// storedSize is the length of a stored member of n bytes.
func storedSize(f framing, n int64) int64 {
	if n == 0 {
		return 0
	}
	blocks := (n + int64(f.storedBlock()) - 1) / int64(f.storedBlock())
	return int64(len(f.begin(0))) + blocks*int64(len(f.block(0, true))) + n + int64(len(f.end(f.checksum(), 0)))
}

// stream reads the tar out of consecutive members.
type stream struct {
	src     *countReader
	members members
	open    bool   // a member is being read
	peeked  []byte // bytes of the member that memberStart read ahead
	plain   int64  // bytes of the tar read so far
}

// countReader counts what is read of the file, so that the count is exact at the
// end of a member.
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

func newStream(f framing, r io.ReaderAt, from, to, buffer int64) *stream {
	src := &countReader{r: bufio.NewReaderSize(markStorage{io.NewSectionReader(r, from, to-from)}, int(min(buffer, max(to-from, 16)))), n: from}
	return &stream{src: src, members: f.read(src)}
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
			if err := s.members.next(); err != nil {
				return 0, err
			}
			s.open = true
		}
		n, err := s.members.Read(p)
		s.plain += int64(n)
		if err == io.EOF {
			s.open, err = false, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// memberStart returns the file offset of the member that begins here, and false
// when the stream is in the middle of one.
func (s *stream) memberStart() (int64, bool, error) {
	if len(s.peeked) > 0 {
		return 0, false, nil
	}
	for s.open {
		var b [1]byte
		n, err := s.members.Read(b[:])
		if n > 0 {
			s.peeked = []byte{b[0]}
			return 0, false, nil
		}
		if err == io.EOF {
			s.open = false
		} else if err != nil {
			return 0, false, err
		}
	}
	return s.src.n, true, nil
}

// memberError says that a member is damaged, and by which rule.
type memberError struct {
	rule string
	err  error
}

func (e *memberError) Error() string { return e.err.Error() }
func (e *memberError) Unwrap() error { return e.err }

// damaged makes what a decoder says inside a member an error of that rule. The
// end of the file there is the end of the file, and a failing disk is a failing
// disk.
func damaged(rule string, err error) error {
	switch {
	case err == nil, isStorage(err):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	return &memberError{rule, err}
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
