package bundle

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Check reads the whole file and compares every byte with the manifest: framing,
// names, order, digests, the end. Layers, installers and engines may be missing
// (a thin bundle), nothing may be added. progress, which may be nil, gets bytes of
// the file read.
//
// Where the table of contents offers places to start, several parts are checked
// at once. Each part must end exactly where the next one began, so together they
// are the one pass that a reader without a table of contents makes; when they do
// not meet, that pass is made and its verdict counts.
func (r *Reader) Check(ctx context.Context, progress func(done, total int64)) error {
	small, layers := r.manifest.blobsByKind()
	c := &check{ctx: ctx, r: r, blobs: append(small, layers...), optional: map[Digest]bool{}, progress: progress}
	for _, l := range layers {
		c.optional[l.Digest] = true
	}
	if ends := c.split(min(runtime.GOMAXPROCS(0), maxParts)); len(ends) > 1 && c.parallel(ends) {
		return nil
	}
	c.done = 0
	p := c.part(nil, nil)
	if err := p.run(); err != nil {
		return err
	}
	if err := c.imagesSize(p); err != nil {
		return err
	}
	r.index = p.index
	return nil
}

const (
	maxParts    = 4
	minPartSize = 8 << 20 // bytes of the file; less is not worth a goroutine
)

// check is one Check.
type check struct {
	ctx      context.Context
	r        *Reader
	blobs    []Descriptor
	optional map[Digest]bool // layers: a thin bundle may leave them out
	progress func(done, total int64)
	mu       sync.Mutex // of done, and one call of progress at a time
	done     int64
}

// ErrTOC means that the table of contents cannot be used. It is not a verdict about the
// file: Check makes one, in one pass.
var ErrTOC = errors.New("the table of contents cannot be used")

// mark is the beginning of a blob's content: where a part ends and the next one
// begins.
type mark struct {
	blob   int   // index in blobs
	member int64 // file offset
}

// split looks for up to n parts of about the same size. The table of contents is
// only believed as far as the parts turn out to meet.
func (c *check) split(n int) []*mark {
	n = min(n, int((c.r.size-c.r.body)/minPartSize))
	if n < 2 {
		return nil
	}
	toc, _, err := c.r.readTOC()
	if err != nil {
		return nil
	}
	index := map[string]int{}
	for i, b := range c.blobs {
		index[blobEntry(b.Digest)] = i
	}
	var ends []*mark
	step := (c.r.size - c.r.body) / int64(n)
	next := c.r.body + step
	for _, e := range toc.Entries {
		i, ok := index[e.Name]
		if ok && len(e.Members) > 0 && e.Members[0] >= next && e.Members[0] < c.r.size && len(ends) < n-1 {
			ends = append(ends, &mark{i, e.Members[0]})
			next = e.Members[0] + step
		}
	}
	return append(ends, nil)
}

// parallel checks the parts that end at ends and reports whether everything is
// well.
func (c *check) parallel(ends []*mark) bool {
	parts := make([]*part, len(ends))
	var start *mark
	for i, end := range ends {
		parts[i] = c.part(start, end)
		start = end
	}
	var failed atomic.Bool
	var wg sync.WaitGroup
	for _, p := range parts {
		p.stop = &failed
		wg.Go(func() {
			if p.run() != nil {
				failed.Store(true)
			}
		})
	}
	wg.Wait()
	if failed.Load() || c.imagesSize(parts...) != nil {
		return false
	}
	index := map[string]placed{}
	for _, p := range parts {
		maps.Copy(index, p.index)
	}
	c.r.index = index
	return true
}

// imagesSize compares the size that the header of images.tar claims with what is
// there.
func (c *check) imagesSize(parts ...*part) error {
	var got int64
	for _, p := range parts {
		got += p.images
	}
	if want := parts[0].claimed; got != want {
		return formatErr("entry-size", ImagesName, "has %d bytes, its header says %d", got, want)
	}
	return nil
}

// part walks one part of the tar behind the head.
type part struct {
	*check
	s          *stream
	start, end *mark // nil: from the head, to the end of the file
	stop       *atomic.Bool
	index      map[string]placed
	claimed    int64 // size of images.tar as its header says, when that is in this part
	images     int64 // bytes of images.tar in this part
	seen       int64 // offset in the file up to which progress was told
	buf        []byte
}

func (c *check) part(start, end *mark) *part {
	from := c.r.body
	if start != nil {
		from = start.member
	}
	return &part{check: c, s: newStream(c.r.framing, c.r.file, from, c.r.size, contentBuffer), start: start, end: end, index: map[string]placed{}, seen: from, buf: make([]byte, min(256<<10, c.r.size))}
}

func (p *part) run() error {
	blobs := p.blobs
	from := int64(0)
	if p.start == nil {
		if p.r.manifest.Kind == KindTree {
			return p.tree()
		}
		if err := p.head(); err != nil {
			return err
		}
		from = p.s.plain
		for _, f := range p.r.manifest.Archive {
			if err := p.header(f.Path, f.Size, f.Mode); err != nil {
				return err
			}
			if err := p.content(ImagesName+"/"+f.Path, f.Size, f.Digest, nil); err != nil {
				return err
			}
		}
	} else {
		if err := p.blob(p.blobs[p.start.blob]); err != nil {
			return err
		}
		blobs = blobs[p.start.blob+1:]
	}
	for {
		head, err := p.block(ImagesName)
		if err != nil {
			return err
		}
		// What is next is one of the blobs that may still come; those passed
		// over are missing.
		end := allZero(head)
		for len(blobs) > 0 && (end || headerName(head) != blobPath(blobs[0].Digest)) {
			if !p.optional[blobs[0].Digest] {
				return formatErr("missing", blobEntry(blobs[0].Digest), "expected here, found %s; only layers may be left out", describe(head))
			}
			blobs = blobs[1:]
		}
		if end {
			break
		}
		if len(blobs) == 0 {
			return formatErr("unlisted", ImagesName, "holds %s, which the manifest does not list there", describe(head))
		}
		b := blobs[0]
		blobs = blobs[1:]
		if err := p.r.expect(head, blobPath(b.Digest), b.Size, 0o644); err != nil {
			return err
		}
		if p.end != nil && b.Digest == p.blobs[p.end.blob].Digest {
			p.images = p.s.plain - from
			if at, ok, err := p.s.memberStart(); err != nil || !ok || at != p.end.member {
				return ErrTOC
			}
			return nil
		}
		if err := p.blob(b); err != nil {
			return err
		}
	}
	if p.end != nil {
		return ErrTOC
	}
	if err := expectZeros(p.s, blockSize, ImagesName); err != nil {
		return err
	}
	p.images = p.s.plain - from
	if p.start == nil && p.images != p.claimed {
		return p.imagesSize(p)
	}
	// The rest of the archive begins at a block, and images.tar is whole blocks.
	return p.tail()
}

// tree checks a bundle that has no images.
func (p *part) tree() error {
	for _, f := range p.r.manifest.Files {
		if err := p.header(f.Path, f.Size, f.Mode); err != nil {
			return err
		}
		if err := p.content(f.Path, f.Size, f.Digest, nil); err != nil {
			return err
		}
	}
	return p.tail()
}

// head checks the files and the header of images.tar.
func (p *part) head() error {
	head, err := p.block(ImagesName)
	if err != nil {
		return err
	}
	for _, f := range p.r.manifest.Files {
		if err := p.r.expect(head, f.Path, f.Size, f.Mode); err != nil {
			if f.mayBeMissing() {
				continue // what is here instead must be what comes next
			}
			return err
		}
		if err := p.content(f.Path, f.Size, f.Digest, nil); err != nil {
			return err
		}
		if head, err = p.block(ImagesName); err != nil {
			return err
		}
	}
	size, ok := headerSize(head)
	if !ok {
		return formatErr("entry-size", ImagesName, "size is not a number")
	}
	p.claimed = size
	return p.r.expect(head, ImagesName, size, 0o644)
}

// blob checks the content of a blob, and of an image manifest or config also
// what it means.
func (p *part) blob(b Descriptor) error {
	var keep *bytes.Buffer
	if p.r.manifest.isImageMetadata(b.Digest) {
		keep = new(bytes.Buffer)
	}
	if err := p.content(blobEntry(b.Digest), b.Size, b.Digest, keep); err != nil || keep == nil {
		return err
	}
	return p.r.manifest.checkImageBlob(b.Digest, keep.Bytes())
}

// tail checks what follows images.tar: the table of contents, the end of the tar,
// the footer, and then nothing.
func (p *part) tail() error {
	at, ok, err := p.s.memberStart()
	if err != nil {
		return badStream(TOCName, err)
	}
	if !ok {
		return formatErr("member", TOCName, "does not begin at a member")
	}
	head, err := p.block(TOCName)
	if err != nil {
		return err
	}
	if headerName(head) != p.r.manifest.entryName(TOCName) {
		return formatErr("unlisted", "", "holds %s, which the manifest does not list", describe(head))
	}
	size, ok := headerSize(head)
	if !ok || size > MaxTOCSize {
		return formatErr("entry-size", TOCName, "size is beyond the limit of %d bytes", MaxTOCSize)
	}
	if err := p.r.expect(head, TOCName, size, 0o644); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, p.s, size); err != nil {
		return badStream(TOCName, err)
	}
	if err := expectZeros(p.s, padding(size)+2*blockSize, TOCName); err != nil {
		return err
	}
	behind, ok, err := p.s.memberStart()
	if err != nil {
		return badStream("the end", err)
	}
	end, err := p.r.framing.readFooter(p.r.file, p.r.size)
	if err != nil {
		return err
	}
	if !ok || end.start != behind || end.toc != at {
		return errFooter
	}
	p.tell(p.r.size)
	return nil
}

func (p *part) block(name string) ([]byte, error) {
	head := make([]byte, blockSize)
	if _, err := io.ReadFull(p.s, head); err != nil {
		return nil, badStream(name, err)
	}
	return head, nil
}

func (p *part) header(name string, size int64, mode uint32) error {
	head, err := p.block(name)
	if err != nil {
		return err
	}
	return p.r.expect(head, name, size, mode)
}

// content hashes one entry and notes where it begins. keep, when not nil, gets a
// copy.
func (p *part) content(name string, size int64, want Digest, keep *bytes.Buffer) error {
	at, ok, err := p.s.memberStart()
	if err != nil {
		return badStream(name, err)
	}
	if !ok {
		return formatErr("member", name, "does not begin at a member")
	}
	d := newDigestReader(p.s, size, want, name)
	for {
		n, err := d.Read(p.buf)
		if keep != nil {
			keep.Write(p.buf[:n])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return badStream(name, err)
		}
		p.tell(p.s.src.n)
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if p.stop != nil && p.stop.Load() {
			return context.Canceled // another part failed
		}
	}
	if size > 0 {
		if _, ok, err := p.s.memberStart(); err != nil {
			return badStream(name, err)
		} else if !ok {
			return formatErr("member", name, "shares its last member")
		}
	}
	p.index[name] = placed{at, p.r.size, size, want}
	return expectZeros(p.s, padding(size), name)
}

// tell reports progress up to an offset of the file.
func (p *part) tell(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += offset - p.seen
	p.seen = offset
	if p.progress != nil {
		p.progress(p.done, p.r.size-p.r.body)
	}
}

// isImageMetadata reports whether d is an image manifest or config.
func (m *Manifest) isImageMetadata(d Digest) bool {
	return slices.ContainsFunc(m.Components, func(c Component) bool {
		return slices.ContainsFunc(c.Images, func(i Image) bool { return i.Manifest.Digest == d || i.Config.Digest == d })
	})
}
