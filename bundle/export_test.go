package bundle

import "encoding/json"

// For the forger of vectors in package bundle_test.
var (
	TarHeader   = tarHeader
	WriteStored = writeStored
	Footer      = footer
	FooterSize  = footerSize
	GzipHeader  = gzipHeader
	BlobPath    = blobPath
)

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
	_, at, err := r.readTOC()
	if err != nil {
		return err
	}
	_, err = r.place(&toc, at)
	return err
}
