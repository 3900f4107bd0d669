package backup

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// extent is a part of a file that is no hole.
type extent struct{ offset, length int64 }

// maxExtents is how many a file may have. What is behind the last of them is
// saved as if it had no holes: the list has to fit into 1 MiB.
const maxExtents = 16384

// extents lists what a file has between its holes.
func extents(f *os.File, st unix.Stat_t) (data []extent, err error) {
	for at := int64(0); at < st.Size; {
		if len(data) == maxExtents {
			data[len(data)-1].length = st.Size - data[len(data)-1].offset
			break
		}
		from, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // the rest is a hole
		}
		to := int64(0)
		if err == nil {
			to, err = f.Seek(from, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, err
		}
		if from = max(from, at); from >= st.Size {
			break
		}
		at = min(to, st.Size)
		if at <= from {
			return nil, fmt.Errorf("%s changes while it is read", f.Name())
		}
		data = append(data, extent{from, at - from})
	}
	return data, nil
}

func size(data []extent) (n int64) {
	for _, x := range data {
		n += x.length
	}
	return n
}

// held is what a file takes on the disk, or less.
func held(st unix.Stat_t) int64 { return min(st.Size, st.Blocks*512) }

// padding is what follows n bytes in a tar.
func padding(n int64) int64 { return -n & 511 }

// sparseHeader is the header of a file with holes in GNU tar's format for that,
// 0.1, which archive/tar reads and does not write. Values stand in the extended
// header only.
func sparseHeader(name string, st unix.Stat_t, data []extent) []byte {
	var m []string
	for _, x := range data {
		m = append(m, strconv.FormatInt(x.offset, 10), strconv.FormatInt(x.length, 10))
	}
	if end := len(data) - 1; end < 0 || data[end].offset+data[end].length < st.Size { // where the file ends
		m = append(m, strconv.FormatInt(st.Size, 10), "0")
	}
	sec, nsec := st.Mtim.Unix()
	var records strings.Builder
	for _, r := range [][2]string{
		{"uid", strconv.FormatUint(uint64(st.Uid), 10)},
		{"gid", strconv.FormatUint(uint64(st.Gid), 10)},
		{"mtime", fmt.Sprintf("%d.%09d", sec, nsec)},
		{"size", strconv.FormatInt(size(data), 10)},
		{"GNU.sparse.size", strconv.FormatInt(st.Size, 10)},
		{"GNU.sparse.numblocks", strconv.Itoa(len(m) / 2)},
		{"GNU.sparse.name", name},
		{"GNU.sparse.map", strings.Join(m, ",")},
	} {
		text := " " + r[0] + "=" + r[1] + "\n"
		n := len(text) + len(strconv.Itoa(len(text)))
		if digits := len(strconv.Itoa(n)); digits+len(text) != n {
			n = digits + len(text)
		}
		records.WriteString(strconv.Itoa(n) + text)
	}
	x := records.String()
	return slices.Concat(ustar("PaxHeaders/sparse", 0o644, int64(len(x)), tar.TypeXHeader), []byte(x), make([]byte, padding(int64(len(x)))),
		ustar("GNUSparseFile", int64(st.Mode&0o7777), 0, tar.TypeReg))
}

// ustar is a header block.
func ustar(name string, mode, size int64, kind byte) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], fmt.Sprintf("%07o\x00%07o\x00%07o\x00%011o\x00%011o\x00        ", mode, 0, 0, size, 0))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00", sum))
	return b
}

// dataOf is what of a file follows its header.
func dataOf(h *tar.Header) ([]extent, error) {
	if h.Typeflag != tar.TypeReg {
		return nil, nil
	}
	m, ok := h.PAXRecords["GNU.sparse.map"]
	if !ok {
		return []extent{{0, h.Size}}, nil
	}
	var data []extent
	var n [2]int64
	at := int64(0)
	for i, field := range strings.Split(m, ",") {
		v, err := strconv.ParseInt(field, 10, 64)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("its list of holes has %.40q", field)
		}
		if n[i%2] = v; i%2 == 1 {
			if n[0] < at || n[1] > h.Size-n[0] {
				return nil, errors.New("its list of holes leads out of the file")
			}
			at = n[0] + n[1]
			data = append(data, extent{n[0], n[1]})
		}
	}
	return data, nil
}
