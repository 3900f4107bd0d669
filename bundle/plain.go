package bundle

import (
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
)

// plainFraming is no framing: the file is the tar, and a member begins wherever
// somebody begins to read.
type plainFraming struct{}

func (plainFraming) compression() Compression  { return None }
func (plainFraming) storedBlock() int          { return 64 << 10 }
func (plainFraming) begin(int) []byte          { return nil }
func (plainFraming) block(int, bool) []byte    { return nil }
func (plainFraming) end(hash.Hash, int) []byte { return nil }
func (plainFraming) checksum() hash.Hash       { return noChecksum{crc32.NewIEEE()} }
func (plainFraming) compressor() func(p []byte) ([]byte, error) {
	return func(p []byte) ([]byte, error) { return p, nil }
}

type noChecksum struct{ hash.Hash }

func (noChecksum) Write(p []byte) (int, error) { return len(p), nil }

func (plainFraming) read(src *countReader) members { return &plainMembers{src: src} }

// plainMembers ends a member behind every Read.
type plainMembers struct {
	src  *countReader
	done bool
}

func (m *plainMembers) next() error {
	m.done = false
	_, err := m.src.r.Peek(1)
	return err
}

func (m *plainMembers) Read(p []byte) (int, error) {
	if m.done {
		return 0, io.EOF
	}
	m.done = true
	return m.src.Read(p)
}

// footer is one more block of the tar, behind its end.
func (plainFraming) footer(toc int64, _ []member) []byte {
	b := make([]byte, blockSize)
	copy(b, Format)
	binary.LittleEndian.PutUint64(b[8:], uint64(toc))
	return b
}

func (f plainFraming) readFooter(file io.ReaderAt, size int64) (*footer, error) {
	return fixedFooter(file, size, func(toc int64) []byte { return f.footer(toc, nil) }, 8)
}
