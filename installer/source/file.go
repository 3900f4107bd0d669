package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/valise-ota/valise/bundle"
)

// How a remote file is read.
const (
	headWindow = 32 << 10         // bytes fetched at its beginning, where the manifest is
	tailWindow = 8 << 10          // and at its end, where the table of contents is
	maxWindow  = 1 << 20          // what windows grow to when reading goes on
	joinGap    = 8 << 10          // ranges this near to each other are fetched as one
	chunkSize  = 4 << 20          // bytes of one request
	parallel   = 3                // requests at once, and chunks in memory
	slow       = 10 * time.Second // for a chunk: more at once would only end later
)

// File is a bundle on a server. It is an io.ReaderAt: what Expect announced is
// fetched ahead, several ranges at once; anything else when it is asked for.
// Memory does not depend on its size. Methods may be called by several
// goroutines, but two that read at different places of what was announced throw
// away what the other one waits for.
type File struct {
	ctx    context.Context
	cancel context.CancelFunc
	size   int64
	parts  []*remote
	ends   []int64 // offset behind each part

	mu       sync.Mutex
	changed  sync.Cond
	plan     []*chunk // of Expect, in the order of the file
	windows  []*chunk // fetched without being announced; few and small
	window   int64    // size of the next one
	spool    *spool   // may be nil
	free     [][]byte // buffers of chunks that were dropped
	lanes    int      // requests at once: 1 or parallel
	running  sync.WaitGroup
	requests int
	bytes    int64
	spooled  int64

	blobs bool                               // parts are content of a registry, or in memory
	room  func(size int64) (*os.File, error) // of Hold; may be nil
}

// chunk is a part of the file in memory, or on its way there.
type chunk struct {
	bundle.Range
	buf     []byte // what came so far
	started bool
	busy    bool // a goroutine uses buf
	waited  int  // readers that wait for it
	cancel  context.CancelFunc
	err     error
}

// Open begins to read a bundle that is on a server. The error is ErrNoRanges when
// that gives only whole files: see Download. The caller closes the file.
func (s *Source) Open(ctx context.Context, b Bundle) (*File, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &File{ctx: ctx, cancel: cancel, window: headWindow, lanes: 1}
	f.changed.L = &f.mu
	if t := b.parts[0].tag; t != nil {
		f.blobs = true
		if err := t.open(ctx, f); err != nil {
			cancel()
			return nil, fmt.Errorf("read %s: %w", b.Name, err)
		}
		return f, nil
	}
	var head *chunk
	for i, p := range b.parts {
		r := &remote{part: p, location: p.url}
		f.parts = append(f.parts, r)
		// The first answer tells that there are ranges, and the size.
		if i == 0 || p.size < 0 {
			c := &chunk{Range: bundle.Range{From: f.size, To: f.size + headWindow}, started: true}
			if p.size >= 0 {
				c.To = f.size + min(headWindow, p.size)
			}
			if _, err := f.fetch(ctx, r, 0, c.To-c.From, func(p []byte) { c.buf = append(c.buf, p...) }); err != nil {
				cancel()
				return nil, fmt.Errorf("read %s: %w", b.Name, err)
			}
			if i == 0 {
				head = c
			}
		}
		f.size += r.size
		f.ends = append(f.ends, f.size)
	}
	if head == nil || f.size > bundle.MaxFileSize {
		cancel()
		return nil, fmt.Errorf("read %s: it has %d bytes, limit %d", b.Name, f.size, int64(bundle.MaxFileSize))
	}
	head.To = head.From + int64(len(head.buf))
	f.windows = []*chunk{head}
	return f, nil
}

// Size returns the bytes of the bundle.
func (f *File) Size() int64 { return f.size }

// Traffic is what reading cost so far: requests sent, bytes of content received,
// and bytes that came from the spool instead.
type Traffic struct {
	Requests int   `json:"requests"`
	Bytes    int64 `json:"bytes"`
	Spooled  int64 `json:"spooled,omitempty"`
}

func (f *File) Traffic() Traffic {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Traffic{f.requests, f.bytes, f.spooled}
}

func (f *File) count(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += n
}

// Close ends all transfers. What the spool keeps is on disk when it returns.
func (f *File) Close() error {
	f.cancel()
	f.running.Wait()
	for _, r := range f.parts {
		if r.blob != nil && r.blob.held != nil {
			r.blob.held.Close()
		}
	}
	return nil
}

// part is the index of the one that holds off.
func (f *File) part(off int64) int {
	return sort.Search(len(f.ends), func(i int) bool { return f.ends[i] > off })
}

// Join merges ranges that lie so near to each other that fetching what is between
// them costs less than another request. They are sorted.
func Join(ranges []bundle.Range) (joined []bundle.Range, bytes int64) {
	for _, r := range ranges {
		if n := len(joined); n > 0 && r.From-joined[n-1].To <= joinGap {
			joined[n-1].To = max(joined[n-1].To, r.To)
		} else {
			joined = append(joined, r)
		}
	}
	for _, r := range joined {
		bytes += r.To - r.From
	}
	return joined, bytes
}

// Expect says which ranges, sorted, will be read, each soon after the one before.
// It replaces what was said before.
func (f *File) Expect(ranges []bundle.Range) {
	joined := ranges
	if !f.blobs { // else what is between is a request of its own
		joined, _ = Join(ranges)
	}
	var plan []*chunk
	for _, r := range joined {
		for r.From < r.To {
			// Borders are the same whatever is wanted, so that what is in a
			// spool fits again; a short rest is no request of its own.
			to := (r.From/chunkSize + 1) * chunkSize
			if to+chunkSize/4 >= r.To {
				to = r.To
			}
			if i := f.part(r.From); i < len(f.ends) {
				to = min(to, f.ends[i])
				if f.parts[i].small() {
					r.From, to = f.ends[i]-f.parts[i].size, f.ends[i]
				}
				if f.parts[i].data != nil {
					r.From = to
					continue
				}
			}
			plan = append(plan, &chunk{Range: bundle.Range{From: r.From, To: to}})
			r.From = to
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.plan {
		f.drop(c)
	}
	f.plan = plan
}

// Spool keeps what Expect announced in a directory below dir as it comes, until
// Done: after a power cut it does not have to be fetched again. id stands for the
// content, so that only the same one is taken from there.
func (f *File) Spool(dir string, id bundle.Digest) error {
	s, err := openSpool(dir, fmt.Sprintf("%s %d %s %s", id, f.size, f.parts[0].etag, f.parts[0].modified))
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spool = s
	return nil
}

// drop forgets what a chunk holds. f.mu is held.
func (f *File) drop(c *chunk) {
	if c.cancel != nil {
		c.cancel()
	}
	if !c.busy && c.buf != nil {
		f.recycle(c.buf)
	}
	c.started, c.busy, c.buf, c.err, c.cancel = false, false, nil, nil, nil
	f.changed.Broadcast() // somebody may wait for it
}

func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read bundle: negative offset")
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= f.size {
			return done, io.EOF
		}
		n, err := f.readSome(p[done:], at)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readSome reads at least one byte at off, which is in the file.
func (f *File) readSome(p []byte, off int64) (int, error) {
	if i := f.part(off); f.parts[i].data != nil {
		return copy(p, f.parts[i].data[off-f.ends[i]+f.parts[i].size:]), nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.at(off, int64(len(p)))
	for {
		if have := c.From + int64(len(c.buf)); off < have {
			return copy(p, c.buf[off-c.From:]), nil
		}
		if c.err != nil {
			return 0, c.err
		}
		if !c.started { // somebody read elsewhere meanwhile
			c = f.at(off, int64(len(p)))
			continue
		}
		c.waited++
		f.changed.Wait()
		c.waited--
	}
}

// at returns the chunk that holds off, on its way at least, and sees to those
// behind it. f.mu is held.
func (f *File) at(off, n int64) *chunk {
	i := sort.Search(len(f.plan), func(i int) bool { return f.plan[i].To > off })
	if i < len(f.plan) && f.plan[i].From <= off {
		for j, c := range f.plan {
			if j < i || j >= i+parallel {
				// Who waits gets a byte first: else two readers drop each
				// other's chunk for ever.
				if c.started && c.waited == 0 {
					f.drop(c)
				}
			} else if !c.started && j < i+f.lanes {
				f.start(c)
			}
		}
		return f.plan[i]
	}
	for _, c := range f.windows {
		if c.From <= off && off < c.To {
			return c
		}
	}
	// Windows grow while reading goes on behind the last one.
	if last := len(f.windows) - 1; last >= 0 && f.windows[last].To == off {
		f.window = min(2*f.window, maxWindow)
	} else {
		f.window = headWindow
	}
	c := &chunk{Range: bundle.Range{From: off, To: min(off+max(f.window, min(n, maxWindow)), f.size)}}
	if f.size-off <= tailWindow {
		c.From = max(f.size-tailWindow, 0)
	}
	if i := f.part(off); f.blobs {
		base := f.ends[i] - f.parts[i].size
		if c.From, c.To = max(c.From, base), min(c.To, f.ends[i]); f.parts[i].small() {
			c.From, c.To = base, f.ends[i]
		}
	}
	if f.windows = append(f.windows, c); len(f.windows) > 4 {
		f.windows = slices.Delete(f.windows, 1, 2) // the head is read again
	}
	f.start(c)
	return c
}

// start fetches a chunk in the background. f.mu is held.
func (f *File) start(c *chunk) {
	ctx, cancel := context.WithCancel(f.ctx)
	c.started, c.cancel = true, cancel
	keep := f.spool
	if !slices.Contains(f.plan, c) {
		keep = nil
	}
	if b := keep.get(c.Range); b != nil {
		c.buf = b
		f.spooled += int64(len(b))
		return
	}
	var buf []byte
	if n := len(f.free); n > 0 && int64(cap(f.free[n-1])) >= c.To-c.From {
		buf, f.free = f.free[n-1], f.free[:n-1]
	} else {
		buf = make([]byte, 0, c.To-c.From)
	}
	c.buf, c.busy = buf, true
	began := time.Now()
	f.running.Go(func() {
		defer cancel()
		err := f.fill(ctx, c, &buf)
		if err == nil {
			keep.put(c.Range, buf) // whether somebody still reads it or not
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.lanes = parallel
		if time.Since(began).Seconds()*chunkSize > slow.Seconds()*float64(len(buf)) {
			f.lanes = 1
		}
		if ctx.Err() != nil && f.ctx.Err() == nil {
			f.recycle(buf) // it was dropped
			return
		}
		c.busy, c.err = false, err
		f.changed.Broadcast()
	})
}

func (f *File) recycle(buf []byte) {
	if len(f.free) < parallel {
		f.free = append(f.free, buf[:0])
	}
}

// fill fetches a chunk, which may begin in one part and end in the next.
func (f *File) fill(ctx context.Context, c *chunk, buf *[]byte) error {
	for at := c.From; at < c.To; {
		i := f.part(at)
		var base int64
		if i > 0 {
			base = f.ends[i-1]
		}
		to, fetch := min(c.To, f.ends[i]), f.fetch
		if f.blobs {
			fetch = f.fetchBlob
		}
		n, err := fetch(ctx, f.parts[i], at-base, to-base, func(p []byte) {
			f.mu.Lock()
			defer f.mu.Unlock()
			*buf = append(*buf, p...)
			if ctx.Err() == nil { // else c was dropped, and perhaps started again
				c.buf = *buf
				f.changed.Broadcast()
			}
		})
		if at += n; err != nil {
			return err
		}
	}
	return nil
}
