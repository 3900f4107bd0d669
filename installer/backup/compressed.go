package backup

import (
	"context"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"

	"github.com/valise-ota/valise/bundle"
)

// compress writes what save gives as gzip.
func compress(w io.Writer, save func(io.Writer) error) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := save(zw); err != nil {
		return err
	}
	return zw.Close()
}

// inflate gives read the content of a gzip file and then reads to its end, where
// the checksum stands.
func inflate(ctx context.Context, f *os.File, read func(io.Reader) error) error {
	zr, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	if err := read(zr); err != nil {
		return err
	}
	_, err = copyAll(ctx, io.Discard, zr)
	return err
}

// edges reads all of a gzip file and returns the first and the last bytes of its
// content.
func edges(ctx context.Context, f *os.File, first, last int) (begin, end []byte, err error) {
	e := &edge{first: first, last: last}
	err = inflate(ctx, f, func(r io.Reader) error { _, err := copyAll(ctx, e, r); return err })
	return e.begin, e.end, err
}

// edge keeps the first and the last bytes written to it.
type edge struct {
	begin, end  []byte
	first, last int
}

func (e *edge) Write(p []byte) (int, error) {
	e.begin = append(e.begin, p[:min(len(p), e.first-len(e.begin))]...)
	e.end = append(e.end, p...)
	if over := len(e.end) - e.last; over > 0 {
		e.end = append(e.end[:0], e.end[over:]...)
	}
	return len(p), nil
}

// copyAll is io.Copy that ends with ctx.
func copyAll(ctx context.Context, w io.Writer, r io.Reader) (n int64, err error) {
	for {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		done, err := io.CopyN(w, r, copyStep)
		if n += done; err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// command saves data in a way of the release's own.
type command struct {
	bundle.BackupCommand
	x Execer
}

func (c command) save(ctx context.Context, w io.Writer) error {
	return compress(w, func(w io.Writer) error { return c.x.Exec(ctx, c.Service, c.Save, nil, w) })
}

// check knows only that all was written that the command gave: what is in it the
// command knows.
func (c command) check(ctx context.Context, f *os.File) error {
	return inflate(ctx, f, func(io.Reader) error { return nil })
}

func (c command) restore(ctx context.Context, f *os.File) error {
	return inflate(ctx, f, func(r io.Reader) error { return c.x.Exec(ctx, c.Service, c.Restore, r, io.Discard) })
}

func (c command) ready(context.Context) error { return nil }
