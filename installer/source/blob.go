package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/valise-ota/valise/bundle"
)

// small reports whether a blob is fetched as a whole, into memory.
func (r *remote) small() bool { return r.blob != nil && r.size <= chunkSize }

// HeadEnd is where at most the head of the bundle ends: package bundle reads ahead up to
// there.
func (f *File) HeadEnd() int64 {
	if f.blobs {
		return f.ends[0]
	}
	return f.size
}

// Hold has content that can only be judged as a whole kept in a file before it is used:
// what a mirror sends, and what a server does not give in parts. room returns an empty
// file for size bytes, which Close closes, or why there is none.
func (f *File) Hold(room func(size int64) (*os.File, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = room
}

// fetchBlob is fetch for content of a registry. What a mirror sends is not given to
// write before all of it is there and has the right digest, unless nothing else is to be
// had.
func (f *File) fetchBlob(ctx context.Context, r *remote, from, to int64, write func([]byte)) (done int64, err error) {
	if r.small() {
		b, err := f.small(ctx, r)
		if err != nil {
			return 0, err
		}
		write(b[from:to])
		return to - from, nil
	}
	for {
		held, err := f.hold(ctx, r, from+done, to, write)
		if held > 0 || err != nil {
			return done + held, err
		}
		for _, at := range r.stream() {
			var n int64
			n, err = f.fetch(ctx, at, from+done, to, write)
			if done += n; err == nil || errors.Is(err, ErrNoRanges) {
				break
			}
			if ctx.Err() != nil {
				break
			}
			at.client.failed(err)
		}
		if !errors.Is(err, ErrNoRanges) {
			return done, err
		}
		r.blob.lock <- struct{}{}
		r.blob.whole = true
		<-r.blob.lock
	}
}

// stream are the places to read a large blob from that is not held, the registry itself
// first: only the reader of it all sees whether it is right.
func (r *remote) stream() []*remote {
	mirrors := r.blob.hosts[:len(r.blob.hosts)-1]
	if r.client.bad.Load() && len(mirrors) > 0 {
		return mirrors
	}
	return append([]*remote{r}, mirrors...)
}

// small returns a blob that fits in memory.
func (f *File) small(ctx context.Context, r *remote) ([]byte, error) {
	b := make([]byte, 0, r.size)
	err := f.all(ctx, r, r.blob.hosts, func() error { b = b[:0]; return nil }, func(p []byte) error { b = append(b, p...); return nil })
	return b, err
}

// all gives a blob to write, from the first of hosts whose bytes are right; begin comes
// before each try.
func (f *File) all(ctx context.Context, r *remote, hosts []*remote, begin func() error, write func([]byte) error) error {
	errs := []error{}
	for _, at := range hosts {
		if at.client.bad.Load() && at.client != r.client {
			continue
		}
		if err := begin(); err != nil {
			return err
		}
		var failed error
		sum := sha256.New()
		try, cancel := context.WithCancel(ctx)
		_, err := f.fetch(try, at, 0, r.size, func(p []byte) {
			sum.Write(p)
			if failed == nil {
				if failed = write(p); failed != nil {
					cancel()
				}
			}
		})
		cancel()
		if failed != nil {
			return failed
		}
		if err == nil {
			err = rightBytes(at.client.host, bundle.Digest("sha256:"+hex.EncodeToString(sum.Sum(nil))), r.blob.digest)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		at.client.failed(err)
		errs = append(errs, err)
	}
	return oneLine(errs)
}

// hold gives a part of a large blob to write when all of it is in a file, and sees to
// that where it must or can be. It returns 0 when the blob has to be streamed.
func (f *File) hold(ctx context.Context, r *remote, from, to int64, write func([]byte)) (int64, error) {
	b := r.blob
	select {
	case b.lock <- struct{}{}:
		defer func() { <-b.lock }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	hosts := b.hosts
	if !b.whole {
		hosts = hosts[:len(hosts)-1]
	}
	if b.held == nil && (len(hosts) == 0 || b.streamed && !b.whole) {
		return 0, nil
	}
	if b.held == nil {
		file, err := f.keep(r.size)
		if err != nil && b.whole {
			err = fmt.Errorf("%s gives no parts of content, and all %d bytes of %s cannot be kept: %w", r.client.host, r.size, b.digest, err)
		}
		if err == nil {
			err = f.all(ctx, r, hosts, func() error {
				_, err := file.Seek(0, io.SeekStart)
				return err
			}, func(p []byte) error {
				_, err := file.Write(p)
				return err
			})
			if err != nil {
				file.Close()
			}
		}
		switch {
		case err == nil:
			b.held, b.served = file, 0
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case b.whole:
			return 0, err
		default:
			b.streamed = true
			return 0, nil
		}
	}
	buf := make([]byte, to-from)
	if _, err := b.held.ReadAt(buf, from); err != nil {
		return 0, fmt.Errorf("read content of %s: %w", b.digest, err)
	}
	write(buf)
	if b.served += to - from; b.served >= r.size { // who reads on does so elsewhere
		b.held.Close()
		b.held = nil
	}
	return to - from, nil
}

func (f *File) keep(size int64) (*os.File, error) {
	f.mu.Lock()
	room := f.room
	f.mu.Unlock()
	if room == nil {
		return nil, errors.New("there is no place for that")
	}
	return room(size)
}

// downloadBlobs is Download of a bundle in a registry.
func (s *Source) downloadBlobs(ctx context.Context, b Bundle, dst *os.File, room func(size int64) error, progress func(done, total int64)) error {
	f, err := s.Open(ctx, b)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := room(f.size); err != nil {
		return fmt.Errorf("download %s: %w", b.Name, err)
	}
	var base, at int64
	write := func(p []byte) error {
		n, err := dst.WriteAt(p, at)
		if at += int64(n); progress != nil {
			progress(at, f.size)
		}
		return err
	}
	for _, r := range f.parts {
		if r.data != nil {
			err = write(r.data)
		} else {
			err = f.all(ctx, r, r.blob.hosts, func() error { at = base; return nil }, write)
		}
		if err != nil {
			return fmt.Errorf("download %s: %w", b.Name, err)
		}
		base += r.size
	}
	return dst.Truncate(f.size)
}
