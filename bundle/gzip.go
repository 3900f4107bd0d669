package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

const deflateLevel = 6

// gzipFraming makes a member a gzip member.
type gzipFraming struct{}

// gzipHeader is the only one a member may have: no name, no time, no extra field.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

func (gzipFraming) compression() Compression { return Gzip }
func (gzipFraming) storedBlock() int         { return 0xffff }
func (gzipFraming) begin(int) []byte         { return gzipHeader }
func (gzipFraming) checksum() hash.Hash      { return crc32.NewIEEE() }

func (gzipFraming) block(n int, last bool) []byte {
	b := make([]byte, 1, 5)
	if last {
		b[0] = 1
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(n))
	return binary.LittleEndian.AppendUint16(b, ^uint16(n))
}

func (gzipFraming) end(sum hash.Hash, n int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, sum.(hash.Hash32).Sum32())
	return binary.LittleEndian.AppendUint32(b, uint32(n))
}

func (g gzipFraming) compressor() func(p []byte) ([]byte, error) {
	z, _ := flate.NewWriter(nil, deflateLevel) // a valid level
	return func(p []byte) ([]byte, error) {
		b := bytes.NewBuffer(slices.Clone(gzipHeader))
		z.Reset(b)
		if _, err := z.Write(p); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		sum := g.checksum()
		sum.Write(p)
		return append(b.Bytes(), g.end(sum, len(p))...), nil
	}
}

func (gzipFraming) read(src *countReader) members { return &gzipMembers{src: src} }

type gzipMembers struct {
	src *countReader // has ReadByte, so nothing behind a member is consumed
	gz  *gzip.Reader
}

func (g *gzipMembers) next() error {
	head, err := g.src.r.Peek(len(gzipHeader))
	if len(head) == 0 {
		return err
	}
	if !bytes.Equal(head, gzipHeader) && len(head) == len(gzipHeader) {
		return &memberError{"gzip", errors.New("a gzip header other than the canonical one")}
	}
	if g.gz == nil {
		g.gz = new(gzip.Reader)
	}
	if err := g.gz.Reset(g.src); err != nil {
		return damaged("gzip", err)
	}
	g.gz.Multistream(false)
	return nil
}

func (g *gzipMembers) Read(p []byte) (int, error) {
	n, err := g.gz.Read(p)
	if err != io.EOF {
		err = damaged("gzip", err)
	}
	return n, err
}

// footer is an empty member with the offset in its extra field "VA".
func (gzipFraming) footer(toc int64, _ []member) []byte {
	b := []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 12, 0, 'V', 'A', 8, 0}
	b = binary.LittleEndian.AppendUint64(b, uint64(toc))
	return append(b, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0)
}

func (g gzipFraming) readFooter(file io.ReaderAt, size int64) (*footer, error) {
	return fixedFooter(file, size, func(toc int64) []byte { return g.footer(toc, nil) }, 16)
}

// fixedFooter reads a footer of which nothing is open but the offset, at at.
func fixedFooter(file io.ReaderAt, size int64, build func(toc int64) []byte, at int) (*footer, error) {
	n := int64(len(build(0)))
	if size < n {
		return nil, errFooter
	}
	b := make([]byte, n)
	if _, err := file.ReadAt(b, size-n); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	f := &footer{start: size - n, toc: int64(binary.LittleEndian.Uint64(b[at:]))}
	if !bytes.Equal(b, build(f.toc)) {
		return nil, errFooter
	}
	return f, nil
}
