package bundle

import (
	"errors"
	"fmt"
	"slices"
)

// Locate takes from the table of contents where content lies, where Check reads
// the whole file to see it. It reads the end of the file, and it proves nothing:
// what is opened afterwards is compared with the manifest as it is read, and what
// is not opened is never looked at. So Locate is for a file of which only parts
// are fetched, and whose other parts are not used.
//
// The error is ErrTOC, which is not a verdict about the file, or one of reading.
func (r *Reader) Locate() error {
	toc, end, err := r.readTOC()
	if f := new(FormatError); errors.As(err, &f) {
		return fmt.Errorf("%w: %s", ErrTOC, f.Detail)
	}
	if err != nil {
		return err
	}
	index, err := r.place(toc, end.toc)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTOC, err)
	}
	r.index = index
	return nil
}

// place compares a table of contents, which ends the content at at, with what the
// manifest lets a file have.
func (r *Reader) place(toc *TOC, at int64) (map[string]placed, error) {
	want, optional := map[string]placed{}, map[string]bool{}
	add := func(name string, size int64, d Digest) { want[name] = placed{size: size, digest: d} }
	for _, f := range r.manifest.Files {
		add(f.Path, f.Size, f.Digest)
		optional[f.Path] = f.mayBeMissing()
	}
	for _, f := range r.manifest.Archive {
		add(ImagesName+"/"+f.Path, f.Size, f.Digest)
	}
	small, layers := r.manifest.blobsByKind()
	for _, b := range small {
		add(blobEntry(b.Digest), b.Size, b.Digest)
	}
	for _, l := range layers {
		add(blobEntry(l.Digest), l.Size, l.Digest)
		optional[blobEntry(l.Digest)] = true
	}
	needed := 0
	for name := range want {
		if !optional[name] {
			needed++
		}
	}
	index := map[string]placed{}
	behind := r.body
	for _, e := range toc.Entries {
		p, known := want[e.Name]
		if _, twice := index[e.Name]; !known || twice {
			return nil, fmt.Errorf("it lists %.80q, which is not expected there", e.Name)
		}
		p.member = behind // of empty content
		if len(e.Members) > 0 {
			p.member = e.Members[0]
		}
		p.end = e.End
		switch {
		case p.member < behind || p.end < p.member || p.end > at || !slices.IsSorted(e.Members):
			return nil, fmt.Errorf("the place of %s is impossible", e.Name)
		case p.end-p.member > p.size+p.size/8+maxFraming:
			return nil, fmt.Errorf("%s takes %d bytes for %d", e.Name, p.end-p.member, p.size)
		}
		behind = p.end
		index[e.Name] = p
		if !optional[e.Name] {
			needed--
		}
	}
	if needed > 0 {
		return nil, errors.New("it leaves out what every bundle has")
	}
	return index, nil
}

// maxFraming is what may come to the bytes of one content, and an eighth of them,
// in the file: framing of members, and what a compressor makes of bytes that do
// not get smaller.
const maxFraming = 64 << 10

// Range is a part of a file: the bytes from From up to, not including, To.
type Range struct{ From, To int64 }

// Ranges returns where files, given by their paths, and blobs lie, in the order
// of the file. What the bundle does not hold is left out. It is for readers that
// fetch before they open, after Locate.
func (r *Reader) Ranges(files []string, blobs []Digest) []Range {
	var list []Range
	add := func(name string) {
		if p, ok := r.index[name]; ok && p.end > p.member {
			list = append(list, Range{p.member, p.end})
		}
	}
	for _, f := range files {
		add(f)
	}
	for _, b := range blobs {
		add(blobEntry(b))
	}
	slices.SortFunc(list, func(a, b Range) int { return int(min(max(a.From-b.From, -1), 1)) })
	return slices.Compact(list)
}
