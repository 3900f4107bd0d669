package bundle

import (
	"encoding/binary"
	"fmt"
)

// The tar is canonical: the manifest determines every byte of it except content,
// which it pins by digest.

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
