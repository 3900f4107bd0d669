package bundle

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

const (
	storeParallel = 4         // layers received at the same time, from sources of their own
	storeBuffer   = 257 << 10 // bytes of each that are written at once
	checkBuffer   = 256 << 10 // bytes that are hashed at once
)

// stored is a layer on its way into the file.
type stored struct {
	blob    Descriptor
	header  [blockSize]byte
	omitted bool
	members []int64 // offsets in the file
	ready   int64   // bytes of content that are in the file
}

// layers writes blobs as stored members. Where those belong is known before their
// content is, so several are received at once. Their digests and that of images.tar
// are made at the same time, in order, of what is in the file already: that reads
// from memory, and keeps a second core busy.
func (w *writer) layers(blobs []Descriptor, src Content) error {
	var list []*stored
	for _, b := range blobs {
		h, err := tarHeader(blobPath(b.Digest), b.Size, 0o644, w.mtime)
		if err != nil {
			return err
		}
		s := &stored{blob: b, header: h, omitted: w.omits(b)}
		list = append(list, s)
		if s.omitted {
			continue
		}
		w.between = append(w.between, h[:]...)
		if err := w.boundary(); err != nil {
			return err
		}
		for done := int64(0); done < b.Size; done += MemberSize {
			n := min(b.Size-done, MemberSize)
			s.members = append(s.members, w.at)
			size := storedSize(w.framing, n)
			w.table = append(w.table, member{uint32(size), uint32(n)})
			w.at += size
		}
		w.toc.Entries = append(w.toc.Entries, TOCEntry{Name: blobEntry(b.Digest), Members: s.members, End: w.at})
		w.dst = io.NewOffsetWriter(w.file, w.at)
		w.between = make([]byte, padding(b.Size))
	}

	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.grown.Broadcast()
	})
	var all sync.WaitGroup
	var next atomic.Int64
	for range min(w.parallel, len(list)) {
		all.Go(func() {
			buf := make([]byte, 0, storeBuffer)
			for i := int(next.Add(1)) - 1; i < len(list) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if list[i].omitted {
					continue
				}
				if err := w.store(ctx, list[i], src, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, s := range list {
		if err := w.check(ctx, s, src); err != nil {
			cancel(err)
			break
		}
	}
	all.Wait()
	return context.Cause(ctx)
}

// store writes one layer, whatever it is: check compares it with its digest.
func (w *writer) store(ctx context.Context, s *stored, src Content, buf []byte) error {
	r, closeLayer, err := openLayer(ctx, s, src)
	if err != nil {
		return err
	}
	defer closeLayer()
	fresh := 0 // bytes of content in buf
	flush := func(at int64) error {
		if err := w.writeAt(buf, at-int64(len(buf))); err != nil {
			return fmt.Errorf("write %s: %w", blobEntry(s.blob.Digest), err)
		}
		w.mu.Lock()
		s.ready += int64(fresh)
		w.grown.Broadcast()
		w.mu.Unlock()
		w.tell(int64(fresh))
		buf, fresh = buf[:0], 0
		return nil
	}
	for i, at := range s.members {
		n := int(min(s.blob.Size-int64(i)*MemberSize, MemberSize))
		put := func(p []byte) {
			buf = append(buf, p...)
			at += int64(len(p))
		}
		sum := w.framing.checksum()
		put(w.framing.begin(n))
		for left := n; left > 0; {
			k := min(left, w.framing.storedBlock())
			put(w.framing.block(k, k == left))
			p := buf[len(buf) : len(buf)+k]
			if _, err := io.ReadFull(r, p); err != nil {
				return readError(s, err)
			}
			sum.Write(p)
			buf, at = buf[:len(buf)+k], at+int64(k)
			fresh += k
			left -= k
			if left == 0 {
				put(w.framing.end(sum, n))
			}
			if left == 0 || cap(buf)-len(buf) < w.framing.storedBlock()+64 {
				if err := flush(at); err != nil {
					return err
				}
			}
		}
	}
	return atEnd(r, s)
}

// atEnd reads the end of a layer, where its source says what it has against it.
func atEnd(r io.Reader, s *stored) error {
	switch _, err := io.ReadFull(r, make([]byte, 1)); err {
	case io.EOF:
		return nil
	case nil:
		return formatErr("digest", blobEntry(s.blob.Digest), "it has more than the %d bytes in the manifest", s.blob.Size)
	default:
		return readError(s, err)
	}
}

// writeAt writes one at a time: file systems do no better, and those who wait
// here do not spin there.
func (w *writer) writeAt(p []byte, at int64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	_, err := w.file.WriteAt(p, at)
	return err
}

// check compares a layer with its digest, and adds it to images.tar's.
func (w *writer) check(ctx context.Context, s *stored, src Content) error {
	var r io.Reader = &backReader{w: w, ctx: ctx, s: s}
	if s.omitted { // read for the digests only
		layer, closeLayer, err := openLayer(ctx, s, src)
		if err != nil {
			return err
		}
		defer closeLayer()
		r = layer
	}
	sum := sha256.New()
	add := func(p []byte) { sum.Write(p) }
	if w.images != nil {
		w.images.Write(s.header[:])
		add = func(p []byte) {
			var both sync.WaitGroup
			both.Go(func() { w.images.Write(p) })
			sum.Write(p)
			both.Wait()
		}
	}
	buf := make([]byte, checkBuffer)
	for left := s.blob.Size; left > 0; left -= int64(len(buf)) {
		buf = buf[:min(left, checkBuffer)]
		if _, err := io.ReadFull(r, buf); err != nil {
			return readError(s, err)
		}
		add(buf)
		if s.omitted {
			w.tell(int64(len(buf)))
		}
	}
	if s.omitted {
		if err := atEnd(r, s); err != nil {
			return err
		}
	}
	if got := digestFrom(sum.Sum(nil)); got != s.blob.Digest {
		return formatErr("digest", blobEntry(s.blob.Digest), "content is %s, the manifest says %s", got, s.blob.Digest)
	}
	if w.images != nil {
		w.images.Write(make([]byte, padding(s.blob.Size)))
	}
	return nil
}

// backReader reads the content of a layer out of the file while it arrives there.
type backReader struct {
	w      *writer
	ctx    context.Context
	s      *stored
	done   int64 // bytes read
	member int   // the next one
	at     int64 // where the next byte is
	inside int64 // bytes left in the member
	block  int64 // and in its block
}

func (r *backReader) Read(p []byte) (int, error) {
	f := r.w.framing
	if r.inside == 0 {
		if r.member == len(r.s.members) {
			return 0, io.EOF
		}
		r.at = r.s.members[r.member] + int64(len(f.begin(0)))
		r.member++
		r.inside = min(r.s.blob.Size-r.done, MemberSize)
	}
	if r.block == 0 {
		r.block = min(r.inside, int64(f.storedBlock()))
		r.at += int64(len(f.block(int(r.block), false)))
	}
	p = p[:min(int64(len(p)), r.block)]
	r.w.mu.Lock()
	for r.s.ready < r.done+int64(len(p)) && r.ctx.Err() == nil {
		r.w.grown.Wait()
	}
	r.w.mu.Unlock()
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	n, err := r.w.file.ReadAt(p, r.at)
	r.done, r.at, r.inside, r.block = r.done+int64(n), r.at+int64(n), r.inside-int64(n), r.block-int64(n)
	if n == len(p) {
		err = nil
	}
	return n, err
}

// openLayer opens a layer at its source. Reads fail when ctx ends.
func openLayer(ctx context.Context, s *stored, src Content) (io.Reader, func(), error) {
	r, err := src.OpenBlob(s.blob.Digest)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", blobEntry(s.blob.Digest), err)
	}
	stop := context.AfterFunc(ctx, func() { r.Close() }) // ends a read that waits
	return r, func() {
		stop()
		r.Close()
	}, nil
}

func readError(s *stored, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("it ends before its %d bytes: %w", s.blob.Size, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read %s: %w", blobEntry(s.blob.Digest), err)
}
