package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/valise-ota/valise/bundle"
)

// Download fetches a whole bundle into dst, for servers that do not give parts of
// files. room is asked before the first byte of each of its files, with what the
// server says of its size. progress, which may be nil, gets bytes; total is -1 while
// it is unknown.
func (s *Source) Download(ctx context.Context, b Bundle, dst *os.File, room func(size int64) error, progress func(done, total int64)) error {
	if b.parts[0].tag != nil {
		return s.downloadBlobs(ctx, b, dst, room, progress)
	}
	var base int64
	for _, p := range b.parts {
		n, err := p.download(ctx, dst, base, b.Size, room, progress)
		if err != nil {
			return fmt.Errorf("download %s: %w", b.Name, err)
		}
		base += n
	}
	return dst.Truncate(base)
}

// download writes a part to dst from base on. An attempt that ends early is of no
// use to the next one.
func (p part) download(ctx context.Context, dst *os.File, base, total int64, room func(int64) error, progress func(done, total int64)) (int64, error) {
	var n int64
	err := p.client.again(ctx, p.client.attempts, func() (err error) {
		n, err = p.downloadOnce(ctx, dst, base, total, room, progress)
		return err
	})
	return n, err
}

// again calls once until it is done, or fails in a way that will not pass, or so often.
func (c *client) again(ctx context.Context, attempts int, once func() error) error {
	wait := c.backoff()
	for failed := 1; ; failed++ {
		err := once()
		if err == nil || !temporary(err) {
			return err
		}
		if attempts == 1 {
			return err
		}
		if failed >= attempts {
			return fmt.Errorf("%w (given up after %d attempts)", err, failed)
		}
		if err := c.pause(ctx, wait.NextBackOff(), err); err != nil {
			return err
		}
	}
}

// read reads a small file.
func (p part) read(ctx context.Context, attempts int, limit int64) (b []byte, header http.Header, err error) {
	err = p.client.again(ctx, attempts, func() error {
		ctx, watch := watchStall(ctx, p.client.stall)
		defer watch.stop()
		res, err := p.get(ctx, p.url, http.Header{})
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return statusError(res)
		}
		host := res.Request.URL.Host
		b, err = io.ReadAll(io.LimitReader(res.Body, limit+1))
		if err != nil {
			return &temporaryError{err: fmt.Errorf("connection to %s: %w", host, err)}
		}
		if int64(len(b)) > limit {
			return fmt.Errorf("the answer of %s has more than %d bytes", host, limit)
		}
		header = res.Header
		return nil
	})
	return b, header, err
}

func (p part) downloadOnce(ctx context.Context, dst *os.File, base, total int64, room func(int64) error, progress func(done, total int64)) (int64, error) {
	ctx, watch := watchStall(ctx, p.client.stall)
	defer watch.stop()
	res, err := p.get(ctx, p.url, http.Header{})
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	size := res.ContentLength
	switch {
	case res.StatusCode != http.StatusOK:
		return 0, statusError(res)
	case size < 0:
		return 0, fmt.Errorf("%s does not say how long the file is", res.Request.URL.Host)
	case p.size >= 0 && size != p.size:
		return 0, fmt.Errorf("%w: it has %d bytes, not %d", ErrChanged, size, p.size)
	case size > bundle.MaxFileSize-base:
		return 0, fmt.Errorf("it has %d bytes, limit %d", size, int64(bundle.MaxFileSize))
	}
	if total < 0 && p.size < 0 {
		total = base + size
	}
	// An attempt that failed is written over.
	if err := dst.Truncate(base); err != nil {
		return 0, err
	}
	if err := room(max(total-base, size)); err != nil {
		return 0, err
	}
	done, to := base, io.NewOffsetWriter(dst, base)
	return watch.copy(ctx, res, size, func(b []byte) error {
		done += int64(len(b))
		if progress != nil {
			progress(done, total)
		}
		_, err := to.Write(b)
		return err
	})
}
