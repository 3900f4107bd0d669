package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// checked is open for a layer made elsewhere: it is compared with its diffID while it
// is read, because an engine does so as well, and there it is too late. A mark in the
// cache says that this was done, so that a layer is inflated once and not with each
// release. The mark is about the digest, which whoever reads compares.
func (c *layerCache) checked(ctx context.Context, l v1.Descriptor, diffID v1.Hash, open opener) opener {
	mark := filepath.Join(c.dir, "checked", l.Digest.Hex+"."+diffID.Hex)
	return func() (io.ReadCloser, error) {
		r, err := open()
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(mark); c.dir != "" && err == nil {
			return r, nil
		}
		content, w := io.Pipe()
		checked := make(chan error, 1)
		go func() {
			blob, plain := newDigestWriter(io.Discard), newDigestWriter(io.Discard)
			err := inflate(ctx, plain, io.TeeReader(content, blob))
			if err == nil && plain.sum() != diffID {
				err = &diffIDError{plain.sum(), diffID}
			}
			io.Copy(blob, content) // what is left after a failure
			switch {
			case blob.sum() != l.Digest: // it is another blob
				err = nil
			case err != nil:
				err = fmt.Errorf("layer %s is not the one of its image, pull or build the image again: %w", l.Digest, err)
			case c.dir != "" && os.MkdirAll(filepath.Dir(mark), 0o755) == nil:
				os.WriteFile(mark, nil, 0o644) // without it, the layer is inflated again
			}
			content.CloseWithError(err)
			checked <- err
		}()
		return &checkedReader{ReadCloser: r, checker: w, checked: checked}, nil
	}
}

// checkedReader gives what it reads to a checker as well, and ends as the check does.
type checkedReader struct {
	io.ReadCloser
	checker *io.PipeWriter
	checked <-chan error
	end     error // what every read returns from now on
}

func (r *checkedReader) Read(p []byte) (int, error) {
	if r.end != nil {
		return 0, r.end
	}
	n, err := r.ReadCloser.Read(p)
	if _, err := r.checker.Write(p[:n]); err != nil {
		r.end = err
		return 0, err
	}
	if err == io.EOF {
		r.checker.Close()
		r.end = err
		if err := <-r.checked; err != nil {
			r.end = err
		}
		return n, r.end
	}
	return n, err
}

func (r *checkedReader) Close() error {
	r.checker.CloseWithError(errors.New("closed"))
	return r.ReadCloser.Close()
}
