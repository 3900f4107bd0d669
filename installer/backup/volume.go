package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle"
)

// volume is all files of a directory. Owners, modes, times, links of both kinds and
// holes come back; extended attributes do not, and sockets, pipes and devices are no data.
type volume struct {
	bundle.Volume
	d Deps
}

// maxFiles is how many files, directories and links of a volume are saved.
const maxFiles = 10_000_000

// maxLinked is how many files with further names are known by them: what follows is
// saved under each of its names. smallestLinked bytes is what is worth it: with
// smaller ones, names alone make many bytes of few.
const (
	maxLinked      = 100_000
	smallestLinked = 4096
)

// linked finds the further names of a file.
type linked map[[2]uint64]string

// other returns the name under which a file was met before, "" for a new one.
func (l linked) other(st unix.Stat_t, name string) string {
	if st.Nlink < 2 || held(st) < smallestLinked {
		return ""
	}
	id := [2]uint64{st.Dev, st.Ino}
	if first := l[id]; first != "" {
		return first
	}
	if len(l) < maxLinked {
		l[id] = name
	}
	return ""
}

var errTooMany = fmt.Errorf("there are more than %d files in it", maxFiles)

func (v volume) save(ctx context.Context, w io.Writer) error {
	source, below, err := v.d.HostPath(ctx, v.Service, v.Path)
	if err != nil {
		return err
	}
	return v.d.still(ctx, filepath.Join(source, below), func(ctx context.Context) error {
		root, err := descend(ctx, source, below, false)
		if err != nil {
			return err
		}
		defer root.Close()
		return compress(w, func(w io.Writer) error {
			a := archiver{w: w, tw: tar.NewWriter(w), left: maxFiles, linked: linked{}}
			if err := a.dir(ctx, root, ".", 0); err != nil {
				return err
			}
			return a.tw.Close()
		})
	})
}

// archiver writes a tree as tar.
type archiver struct {
	w      io.Writer
	tw     *tar.Writer
	left   int // entries
	linked linked
}

func (a *archiver) dir(ctx context.Context, d dir, name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%.200s... is more than %d directories deep", name, maxDepth)
	}
	st, err := d.stat()
	if err != nil {
		return err
	}
	if err := a.header(name+"/", st, tar.Header{Typeflag: tar.TypeDir}); err != nil {
		return err
	}
	return d.each(ctx, func(entry string) error {
		if a.left--; a.left < 0 {
			return errTooMany
		}
		return a.entry(ctx, d, entry, path.Join(name, entry), depth)
	})
}

func (a *archiver) entry(ctx context.Context, d dir, entry, name string, depth int) error {
	st, err := d.lstat(entry)
	if err != nil {
		return err
	}
	switch kindOf(st) {
	case unix.S_IFDIR:
		sub, err := d.enter(entry)
		if err != nil {
			return err
		}
		defer sub.Close()
		return a.dir(ctx, sub, name, depth+1)
	case unix.S_IFLNK:
		to := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(d.fd(), entry, to)
		if err != nil {
			return d.fail("readlink", entry, err)
		}
		return a.header(name, st, tar.Header{Typeflag: tar.TypeSymlink, Linkname: string(to[:n])})
	case unix.S_IFREG:
		f, st, err := d.file(entry)
		if err != nil {
			return err
		}
		defer f.Close()
		if first := a.linked.other(st, name); first != "" {
			return a.header(name, st, tar.Header{Typeflag: tar.TypeLink, Linkname: first})
		}
		return a.file(ctx, f, name, st)
	}
	return nil
}

// file writes what f has, without its holes.
func (a *archiver) file(ctx context.Context, f *os.File, name string, st unix.Stat_t) error {
	data, err := extents(f, st)
	if err != nil {
		return err
	}
	if len(data) == 1 && data[0].length == st.Size || st.Size == 0 {
		if err := a.header(name, st, tar.Header{Typeflag: tar.TypeReg, Size: st.Size}); err != nil {
			return err
		}
		return copyData(ctx, a.tw, f, data)
	}
	if err := a.tw.Flush(); err != nil {
		return err
	}
	if _, err := a.w.Write(sparseHeader(name, st, data)); err != nil {
		return err
	}
	if err := copyData(ctx, a.w, f, data); err != nil {
		return err
	}
	_, err = a.w.Write(make([]byte, padding(size(data))))
	return err
}

func (a *archiver) header(name string, st unix.Stat_t, h tar.Header) error {
	h.Name, h.Format = name, tar.FormatPAX
	h.Mode, h.Uid, h.Gid = int64(st.Mode&0o7777), int(st.Uid), int(st.Gid)
	h.ModTime = time.Unix(st.Mtim.Unix())
	return a.tw.WriteHeader(&h)
}

func copyData(ctx context.Context, w io.Writer, f *os.File, data []extent) error {
	for _, x := range data {
		if _, err := f.Seek(x.offset, io.SeekStart); err != nil {
			return err
		}
		if err := copyN(ctx, w, f, x.length); err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
	return nil
}

// copyN copies n bytes, and ends with ctx.
func copyN(ctx context.Context, w io.Writer, r io.Reader, n int64) error {
	for n > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		done, err := io.CopyN(w, r, min(n, copyStep))
		if n -= done; err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const copyStep = 1 << 20 // bytes between two looks at a context

func (v volume) check(ctx context.Context, f *os.File) error {
	return inflate(ctx, f, func(r io.Reader) error {
		return eachEntry(r, func(_ *tar.Header, data []extent) error { return copyN(ctx, io.Discard, r, size(data)) })
	})
}

// eachEntry reads an archive that save made. do has to read from r what data says.
func eachEntry(r io.Reader, do func(h *tar.Header, data []extent) error) error {
	for {
		// The reader would give the holes of a file as zeros, and look at
		// terabytes of them. It reads no more than a header, so the content is
		// taken from behind its back, and the next header is for a new one.
		h, err := tar.NewReader(r).Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := dataOf(h)
		if err == nil {
			err = do(h, data)
		}
		if err == nil {
			_, err = io.CopyN(io.Discard, r, padding(size(data)))
		}
		if err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
}

// restore empties the directory and fills it again. What else lies in its place
// goes.
func (v volume) restore(ctx context.Context, f *os.File) error {
	source, below, err := v.d.HostPath(ctx, v.Service, v.Path)
	if err != nil {
		return err
	}
	root, err := descend(ctx, source, below, true)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.clear(ctx); err != nil {
		return err
	}
	x := extractor{root: root, at: root, dir: "."}
	defer x.close()
	if err := inflate(ctx, f, func(r io.Reader) error { return x.extract(ctx, r) }); err != nil {
		return err
	}
	return syncFS(root.File)
}

// extractor writes a tree. The archive is our own, the names in it are a
// container's, and other containers may be at work in the same directory.
type extractor struct {
	root   dir
	at     dir    // the directory written to last
	dir    string // its name
	masked uint32 // bits of modes that files do not get
}

func (x *extractor) close() {
	if x.dir != "." {
		x.at.Close()
	}
}

// parent opens the directory of an entry.
func (x *extractor) parent(name string) (dir, error) {
	if parent := path.Dir(name); parent != x.dir {
		x.close()
		x.at, x.dir = x.root, "."
		at, err := x.descend(parent)
		if err != nil {
			return dir{}, err
		}
		x.at, x.dir = at, parent
	}
	return x.at, nil
}

// descend opens a directory below the root: the root itself for ".".
func (x *extractor) descend(name string) (dir, error) {
	at := x.root
	for part := range strings.SplitSeq(name, "/") {
		if part == "." {
			break
		}
		next, err := at.enter(part)
		if at != x.root {
			at.Close()
		}
		if err != nil {
			return dir{}, err
		}
		at = next
	}
	return at, nil
}

// link gives a file that was written before a further name. Whatever lies under the
// first one by now is the container's own, and nothing of it is changed.
func (x *extractor) link(first string, at dir, base string) error {
	if !filepath.IsLocal(first) {
		return errors.New("it is a link that leads out of the directory")
	}
	from, err := x.descend(path.Dir(first))
	if err != nil {
		return err
	}
	if from != x.root {
		defer from.Close()
	}
	return unix.Linkat(from.fd(), path.Base(first), at.fd(), base, 0)
}

func (x *extractor) entry(ctx context.Context, h *tar.Header, r io.Reader, data []extent) error {
	name := path.Clean(strings.TrimSuffix(h.Name, "/"))
	if !filepath.IsLocal(name) {
		return errors.New("its name leads outside the directory")
	}
	at, err := x.parent(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	times := []unix.Timespec{unix.NsecToTimespec(h.ModTime.UnixNano()), unix.NsecToTimespec(h.ModTime.UnixNano())}
	var f *os.File
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeLink:
		return x.link(h.Linkname, at, base)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, at.fd(), base); err != nil {
			return err
		}
		if err := unix.Fchownat(at.fd(), base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return unix.UtimesNanoAt(at.fd(), base, times, unix.AT_SYMLINK_NOFOLLOW)
	case tar.TypeDir:
		d, err := at.mkdir(ctx, base) // "." is there
		if err != nil {
			return err
		}
		f = d.File
	case tar.TypeReg:
		if f, err = at.create(base); err != nil {
			return err
		}
		mode &^= x.masked
	default:
		return fmt.Errorf("is of type %q, which is never saved", h.Typeflag)
	}
	defer f.Close()
	if h.Typeflag == tar.TypeReg {
		if err := fill(ctx, f, h.Size, r, data); err != nil {
			return err
		}
	}
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil { // after chown, which takes setuid away
		return err
	}
	return unix.UtimesNanoAt(at.fd(), base, times, unix.AT_SYMLINK_NOFOLLOW)
}

// fill writes the content of a file of size bytes, with its holes.
func fill(ctx context.Context, f *os.File, size int64, r io.Reader, data []extent) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	for _, d := range data {
		if _, err := f.Seek(d.offset, io.SeekStart); err != nil {
			return err
		}
		if err := copyN(ctx, f, r, d.length); err != nil {
			return err
		}
	}
	return nil
}

func (v volume) ready(context.Context) error { return nil }

// measure is what save would read, in bytes.
func (v volume) measure(ctx context.Context) (n int64, err error) {
	source, below, err := v.d.HostPath(ctx, v.Service, v.Path)
	if err != nil {
		return 0, err
	}
	root, err := descend(ctx, source, below, false)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	left, links := maxFiles, linked{}
	var walk func(d dir, depth int) error
	walk = func(d dir, depth int) error {
		return d.each(ctx, func(name string) error {
			if left--; left < 0 {
				return errTooMany
			}
			st, err := d.lstat(name)
			switch {
			case errors.Is(err, os.ErrNotExist): // the app is at work
				return nil
			case err == nil && kindOf(st) == unix.S_IFDIR && depth < maxDepth:
				sub, err := d.enter(name)
				if err != nil {
					return nil
				}
				defer sub.Close()
				return walk(sub, depth+1)
			case err == nil && kindOf(st) == unix.S_IFREG && links.other(st, "counted") == "":
				n += min(held(st), math.MaxInt64-n)
			}
			return err
		})
	}
	return n, walk(root, 0)
}

func syncFS(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", f.Name(), err)
	}
	return nil
}
