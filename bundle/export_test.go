package bundle

import "encoding/json"

// For the forger of vectors in package bundle_test.
var (
	TarHeader  = tarHeader
	BlobPath   = blobPath
	GzipHeader = gzipHeader
)

func StoredMember(c Compression, p []byte) []byte { return storedMember(newFraming(c), p) }

// Footer is the footer behind members of these lengths.
func Footer(c Compression, toc int64, members [][2]int) []byte {
	var table []member
	for _, m := range members {
		table = append(table, member{uint32(m[0]), uint32(m[1])})
	}
	return newFraming(c).footer(toc, table)
}

func (m *Manifest) Blobs() []Descriptor { return m.blobs() }

// RawTOC is the table of contents of a good bundle, and PlaceTOC what Locate makes
// of another one.
func RawTOC(r *Reader) ([]byte, error) {
	toc, _, err := r.readTOC()
	if err != nil {
		return nil, err
	}
	return json.Marshal(toc)
}

func PlaceTOC(r *Reader, text []byte) error {
	var toc TOC
	if err := json.Unmarshal(text, &toc); err != nil {
		return err
	}
	_, end, err := r.readTOC()
	if err != nil {
		return err
	}
	_, err = r.place(&toc, end.toc)
	return err
}
