package backup

import (
	"archive/tar"
	"context"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// Copy makes directory to hold what from does, and nothing else, durably: what a saved
// volume would give back. Both are volumes that nothing writes to meanwhile; their paths
// are the engine's.
func Copy(ctx context.Context, from, to string) error {
	source, err := openDir(from)
	if err != nil {
		return err
	}
	defer source.Close()
	root, err := openDir(to)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.clear(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	defer r.Close() // or the archiver would wait for ever
	go func() {
		a := archiver{w: w, tw: tar.NewWriter(w), left: maxFiles, linked: linked{}}
		err := a.dir(ctx, source, ".", 0)
		if err == nil {
			err = a.tw.Close()
		}
		w.CloseWithError(err)
	}()
	x := extractor{root: root, at: root, dir: "."}
	defer x.close()
	if err := x.extract(ctx, r); err != nil {
		return err
	}
	return syncFS(root.File)
}

// Clear removes all that is in a volume.
func Clear(ctx context.Context, at string) error {
	root, err := openDir(at)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.clear(ctx)
}

// Empty reports whether a volume holds nothing; what a new file system has is nothing.
func Empty(at string) (bool, error) {
	root, err := openDir(at)
	if err != nil {
		return false, err
	}
	defer root.Close()
	names, err := root.Readdirnames(2)
	if err == io.EOF {
		err = nil
	}
	return !slices.ContainsFunc(names, func(name string) bool { return name != "lost+found" }), err
}

// extract writes what is in an archive.
func (x *extractor) extract(ctx context.Context, r io.Reader) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(x.root.fd(), &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		x.masked = unix.S_ISUID | unix.S_ISGID
	}
	return eachEntry(r, func(h *tar.Header, data []extent) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return x.entry(ctx, h, r, data)
	})
}
