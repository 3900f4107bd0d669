package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// unpacked returns the files of a downloaded package.
func (d *debs) unpacked(name string) (tree, error) {
	if t, ok := d.cache[name]; ok {
		return t, nil
	}
	path, err := d.file(name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	files, err := dataTar(data)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", name, err)
	}
	t, err := readTree(files)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", name, err)
	}
	d.cache[name] = t
	return t, nil
}

// dataTar finds the data.tar member of a package, which is an ar archive, and opens it.
func dataTar(deb []byte) (*tar.Reader, error) {
	const magic, headerSize = "!<arch>\n", 60
	rest, ok := bytes.CutPrefix(deb, []byte(magic))
	if !ok {
		return nil, errors.New("not an ar archive")
	}
	for len(rest) >= headerSize {
		name := strings.TrimRight(string(rest[:16]), " /")
		size, err := strconv.Atoi(strings.TrimSpace(string(rest[48:58])))
		rest = rest[headerSize:]
		if err != nil || size < 0 || size > len(rest) {
			return nil, fmt.Errorf("bad size of member %q", name)
		}
		member := bytes.NewReader(rest[:size])
		rest = rest[min(size+size%2, len(rest)):] // members start at even offsets
		var plain io.Reader
		switch name {
		case "data.tar":
			plain = member
		case "data.tar.gz":
			plain, err = gzip.NewReader(member)
		case "data.tar.xz":
			plain, err = xz.NewReader(member)
		case "data.tar.zst":
			plain, err = zstd.NewReader(member)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		return tar.NewReader(plain), nil
	}
	return nil, errors.New("no data.tar that this program can read")
}
