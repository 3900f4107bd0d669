package bundle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// zstdFraming makes a member a zstd frame, and the file one in zstd's seekable
// format: the last frame is a skippable one with the lengths of all others.
type zstdFraming struct{}

const (
	zstdMagic = "\x28\xb5\x2f\xfd"
	// Before the length of the content in 4 bytes. Both have a checksum and no
	// dictionary. A decoder needs a window of 128 KiB for a stored frame, and one
	// of the whole content, at most MemberSize, for a compressed one.
	zstdStored     = zstdMagic + "\x84\x38"
	zstdCompressed = zstdMagic + "\xa4"
	zstdBlock      = 128 << 10 // the most that the format allows

	tocMagic   = "\x56\x2a\x4d\x18\x08\x00\x00\x00" // skippable frame with 8 bytes
	tableMagic = "\x5e\x2a\x4d\x18"
	tableEnd   = "\x00\xb1\xea\x92\x8f" // no checksums, end of a seekable file
)

func zstdBegin(head string, n int) []byte {
	return binary.LittleEndian.AppendUint32([]byte(head), uint32(n))
}

func (zstdFraming) compression() Compression { return Zstd }
func (zstdFraming) storedBlock() int         { return zstdBlock }
func (zstdFraming) begin(n int) []byte       { return zstdBegin(zstdStored, n) }
func (zstdFraming) checksum() hash.Hash      { return xxhash.New() }

func (zstdFraming) block(n int, last bool) []byte {
	v := uint32(n) << 3 // type 0: raw
	if last {
		v |= 1
	}
	return binary.LittleEndian.AppendUint32(nil, v)[:3]
}

func (zstdFraming) end(sum hash.Hash, _ int) []byte {
	return binary.LittleEndian.AppendUint32(nil, uint32(sum.(hash.Hash64).Sum64()))
}

func (zstdFraming) compressor() func(p []byte) ([]byte, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(MemberSize), zstd.WithSingleSegment(true))
	return func(p []byte) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		b := z.EncodeAll(p, nil)
		var h zstd.Header
		if err := h.Decode(b); err != nil {
			return nil, err
		}
		return append(zstdBegin(zstdCompressed, len(p)), b[h.HeaderSize:]...), nil
	}
}

func (zstdFraming) read(src *countReader) members { return &zstdMembers{src: src} }

type zstdMembers struct {
	src     *countReader
	decoder *zstd.Decoder
}

func (z *zstdMembers) next() error {
	head, err := z.src.r.Peek(len(zstdStored) + 4)
	if len(head) == 0 {
		return err
	}
	var length int
	switch {
	case strings.HasPrefix(string(head), zstdStored):
		length = len(zstdStored) + 4
	case strings.HasPrefix(string(head), zstdCompressed):
		length = len(zstdCompressed) + 4
	case len(head) < len(zstdStored)+4:
		return damaged("zstd", err)
	default:
		return &memberError{"zstd", errors.New("a frame header other than the two canonical ones")}
	}
	if len(head) < length {
		return damaged("zstd", err)
	}
	if n := binary.LittleEndian.Uint32(head[length-4:]); n > MemberSize {
		return &memberError{"zstd", fmt.Errorf("a frame of %d bytes, limit %d", n, MemberSize)}
	}
	frame := &zstdFrame{src: z.src, left: length}
	if z.decoder == nil {
		z.decoder, err = zstd.NewReader(frame, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MemberSize))
	} else {
		err = z.decoder.Reset(frame)
	}
	return damaged("zstd", err)
}

func (z *zstdMembers) Read(p []byte) (int, error) {
	n, err := z.decoder.Read(p)
	if err != io.EOF {
		err = damaged("zstd", err)
	}
	return n, err
}

// zstdFrame reads one frame and nothing behind it. It looks at the heads of
// blocks only.
type zstdFrame struct {
	src  *countReader
	head []byte // of the next block, not passed on yet
	left int    // bytes before the head of the next block
	last bool   // there is none
}

func (f *zstdFrame) Read(p []byte) (int, error) {
	if f.left == 0 && len(f.head) == 0 {
		if f.last {
			return 0, io.EOF
		}
		f.head = make([]byte, 3)
		if _, err := io.ReadFull(f.src, f.head); err != nil {
			return 0, damaged("zstd", err)
		}
		v := int(f.head[0]) | int(f.head[1])<<8 | int(f.head[2])<<16
		f.last, f.left = v&1 == 1, v>>3
		if v>>1&3 == 1 { // one byte, repeated
			f.left = 1
		}
		if f.last {
			f.left += 4 // the checksum
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.src.Read(p[:min(len(p), f.left)])
	f.left -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// footer is two skippable frames: the offset, and the seek table.
func (zstdFraming) footer(toc int64, table []member) []byte {
	b := binary.LittleEndian.AppendUint64([]byte(tocMagic), uint64(toc))
	table = append(table[:len(table):len(table)], member{file: uint32(len(b))})
	b = append(b, tableMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(8*len(table)+9))
	for _, m := range table {
		b = binary.LittleEndian.AppendUint32(b, m.file)
		b = binary.LittleEndian.AppendUint32(b, m.plain)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(table)))
	return append(b, tableEnd...)
}

func (z zstdFraming) readFooter(file io.ReaderAt, size int64) (*footer, error) {
	end := make([]byte, 9)
	if size < int64(len(end)) {
		return nil, errFooter
	}
	if _, err := file.ReadAt(end, size-int64(len(end))); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	count := int64(binary.LittleEndian.Uint32(end))
	length := int64(len(z.footer(0, nil))) + 8*(count-1)
	if string(end[4:]) != tableEnd || count < 1 || count > MaxMembers || length > size {
		return nil, errFooter
	}
	b := make([]byte, length)
	if _, err := file.ReadAt(b, size-length); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	f := &footer{start: size - length, toc: int64(binary.LittleEndian.Uint64(b[len(tocMagic):]))}
	for entries := b[len(tocMagic)+8+8:]; len(f.table) < int(count)-1; entries = entries[8:] {
		f.table = append(f.table, member{binary.LittleEndian.Uint32(entries), binary.LittleEndian.Uint32(entries[4:])})
	}
	if string(z.footer(f.toc, f.table)) != string(b) {
		return nil, errFooter
	}
	return f, nil
}
