package parts

import (
	"fmt"

	"github.com/valise-ota/valise/bundle"
)

// OpenBundle opens a bundle in one file or in parts, whose content is unknown
// until it is verified. The caller closes the file.
func OpenBundle(path string) (*bundle.Reader, *File, error) {
	f, err := Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open bundle: %w", err)
	}
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	return r, f, nil
}
