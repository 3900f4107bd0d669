package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/valise-ota/valise/bundle"
)

// maxHead is how much of a whole file is read for its manifest: what package bundle
// takes for that, and its framing.
const maxHead = bundle.MaxManifestSize + bundle.MaxSignatureSize + 1<<20

// Head reads what a bundle says of itself, and no more than that takes: 32 KiB,
// unless its manifest is longer. It is not verified: it tells what is worth fetching.
func (s *Source) Head(ctx context.Context, b Bundle) (*bundle.Manifest, error) {
	var at interface {
		io.ReaderAt
		io.Closer
		Size() int64
	}
	var err error
	if !b.Remote() {
		at, err = b.OpenLocal()
	} else if at, err = s.Open(ctx, b); errors.Is(err, ErrNoRanges) {
		at, err = b.parts[0].begin(ctx, b.Size)
	}
	if err != nil {
		return nil, err
	}
	defer at.Close()
	r, err := bundle.Open(at, at.Size())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", b.Name, err)
	}
	return r.Manifest(), nil
}

// beginning is a file of which the server gives nothing but the whole. What is read
// of it is kept.
type beginning struct {
	io.ReadCloser
	stop func()
	size int64
	buf  []byte
}

// begin asks for the first part of a bundle of size bytes, -1 when that is unknown.
func (p part) begin(ctx context.Context, size int64) (*beginning, error) {
	ctx, watch := watchStall(ctx, p.client.stall)
	res, err := p.get(ctx, p.url, http.Header{})
	if err != nil {
		watch.stop()
		return nil, err
	}
	if size < 0 {
		size = res.ContentLength
	}
	b := &beginning{res.Body, watch.stop, size, nil}
	switch {
	case res.StatusCode != http.StatusOK:
		err = statusError(res)
	case size < 0 || size > bundle.MaxFileSize:
		err = fmt.Errorf("%s says that the file has %d bytes, limit %d", res.Request.URL.Host, size, int64(bundle.MaxFileSize))
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *beginning) Size() int64 { return b.size }

func (b *beginning) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

// ReadAt reads on up to where p ends. Package bundle has a limit for that.
func (b *beginning) ReadAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	if end > maxHead {
		return 0, fmt.Errorf("its beginning has more than %d bytes", maxHead)
	}
	for int64(len(b.buf)) < end {
		piece := make([]byte, min(headWindow, end-int64(len(b.buf))))
		n, err := io.ReadFull(b.ReadCloser, piece)
		if b.buf = append(b.buf, piece[:n]...); errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return 0, err
		}
	}
	if off >= int64(len(b.buf)) {
		return 0, io.EOF
	}
	n := copy(p, b.buf[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
