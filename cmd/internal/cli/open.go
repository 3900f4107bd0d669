package cli

import (
	"fmt"
	"os"
	"syscall"

	"github.com/valise-ota/valise/bundle"
)

// OpenBundle opens a bundle, whose content is unknown until it is verified. The
// caller closes the file.
func OpenBundle(path string) (*bundle.Reader, *os.File, error) {
	// A pipe would make a plain open wait for somebody who writes to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open bundle: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("open bundle: %w", err)
	}
	r, err := bundle.Open(f, info.Size())
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	return r, f, nil
}
