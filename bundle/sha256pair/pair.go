// Package sha256pair hashes the same bytes into two SHA-256 digests, such as that of a
// file and that of the archive it stands in, for the price of one: both need the same
// message schedule, and a core has room for the rounds of two.
package sha256pair

import (
	"encoding"
	"encoding/binary"
	"hash"
	"sync"
)

// Write writes p to a and b, which are of crypto/sha256.
func Write(a, b hash.Hash, p []byte) {
	if n := len(p) &^ 63; fast && n > 0 && writeBlocks(a, b, p[:n]) {
		p = p[n:]
	}
	if len(p) < 4<<10 { // not worth another goroutine
		a.Write(p)
		b.Write(p)
		return
	}
	var other sync.WaitGroup
	other.Go(func() { b.Write(p) })
	a.Write(p)
	other.Wait()
}

// state is what crypto/sha256 makes of a digest: magic, h0 to h7, an unfinished
// block, and the length.
type state interface {
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}

const (
	words     = 4 // offset of h0
	length    = words + 8*4 + 64
	stateSize = length + 8
)

// writeBlocks writes whole blocks, and returns false when the digests are not at
// the beginning of one.
func writeBlocks(a, b hash.Hash, p []byte) bool {
	var raw [2][]byte
	var h [2][8]uint32
	for i, d := range []hash.Hash{a, b} {
		s, ok := d.(state)
		if !ok {
			return false
		}
		var err error
		raw[i], err = s.AppendBinary(make([]byte, 0, stateSize))
		if err != nil || len(raw[i]) != stateSize || binary.BigEndian.Uint64(raw[i][length:])%64 != 0 {
			return false
		}
		for j := range h[i] {
			h[i][j] = binary.BigEndian.Uint32(raw[i][words+4*j:])
		}
	}
	blocks(&h[0], &h[1], p)
	for i, d := range []hash.Hash{a, b} {
		for j, v := range h[i] {
			binary.BigEndian.PutUint32(raw[i][words+4*j:], v)
		}
		binary.BigEndian.PutUint64(raw[i][length:], binary.BigEndian.Uint64(raw[i][length:])+uint64(len(p)))
		if err := d.(state).UnmarshalBinary(raw[i]); err != nil {
			panic(err) // it is what AppendBinary returned, with other numbers
		}
	}
	return true
}
