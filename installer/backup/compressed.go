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
