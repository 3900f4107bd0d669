package bundle

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

const (
	storeParallel = 4         // layers received at the same time
	storeBuffer   = 257 << 10 // bytes of each that are written at once
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
// content is, so several are received at once. The digest of images.tar is made
// at the same time, in order, of what is in the file already: that reads from
// memory, and keeps a second core busy.
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
	for range min(storeParallel, len(list)) {
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
	if w.images != nil {
		for _, s := range list {
			w.images.Write(s.header[:])
			next := w.readBack
			if s.omitted {
				next = w.hashOnly
			}
			if err := next(ctx, s, src); err != nil {
				cancel(err)
				break
			}
			w.images.Write(make([]byte, padding(s.blob.Size)))
		}
	}
	all.Wait()
	return context.Cause(ctx)
}

// store writes one layer.
func (w *writer) store(ctx context.Context, s *stored, src Content, buf []byte) error {
	r, err := w.openLayer(ctx, s, src)
	if err != nil {
		return err
	}
	defer r.close()
	fresh := 0 // bytes of content in buf
	flush := func(at int64) error {
		if _, err := w.file.WriteAt(buf, at-int64(len(buf))); err != nil {
			return fmt.Errorf("write %s: %w", r.name, err)
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
				return fmt.Errorf("read %s: %w", r.name, err)
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
	return r.finish()
}

// readBack adds a layer to the digest of images.tar as it arrives in the file.
func (w *writer) readBack(ctx context.Context, s *stored, _ Content) error {
	block := make([]byte, w.framing.storedBlock())
	done := int64(0)
	for _, at := range s.members {
		at += int64(len(w.framing.begin(0)))
		for left := min(s.blob.Size-done, MemberSize); left > 0; {
			p := block[:min(left, int64(len(block)))]
			at += int64(len(w.framing.block(len(p), false)))
			done += int64(len(p))
			w.mu.Lock()
			for s.ready < done && ctx.Err() == nil {
				w.grown.Wait()
			}
			w.mu.Unlock()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if _, err := w.file.ReadAt(p, at); err != nil {
				return fmt.Errorf("read back: %w", err)
			}
			w.images.Write(p)
			at += int64(len(p))
			left -= int64(len(p))
		}
	}
	return nil
}

// hashOnly adds a layer that is left out to the digest of images.tar.
func (w *writer) hashOnly(ctx context.Context, s *stored, src Content) error {
	r, err := w.openLayer(ctx, s, src)
	if err != nil {
		return err
	}
	defer r.close()
	block := make([]byte, storeBuffer)
	for {
		n, err := r.Read(block)
		w.images.Write(block[:n])
		w.tell(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", r.name, err)
		}
	}
}

// layerReader reads a layer until ctx ends.
type layerReader struct {
	*digestReader
	close func()
}

func (w *writer) openLayer(ctx context.Context, s *stored, src Content) (*layerReader, error) {
	name := blobEntry(s.blob.Digest)
	rc, err := src.OpenBlob(s.blob.Digest)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	stop := context.AfterFunc(ctx, func() { rc.Close() }) // ends a read that waits
	return &layerReader{newDigestReader(rc, s.blob.Size, s.blob.Digest, name), func() {
		stop()
		rc.Close()
	}}, nil
}
