package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle"
)

// volume is all files of a directory. Owners, modes, times and links come back;
// extended attributes and sparseness do not, and sockets and devices are no data.
type volume struct {
	bundle.Volume
	d Deps
}

func (v volume) open(ctx context.Context) (*os.Root, string, error) {
	host, err := v.d.HostPath(ctx, v.Service, v.Path)
	if err != nil {
		return nil, "", err
	}
	root, err := os.OpenRoot(host)
	return root, host, err
}

func (v volume) save(ctx context.Context, w io.Writer) (err error) {
	root, host, err := v.open(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	resume, err := v.d.Pause(ctx, host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resume()) }()
	return compress(w, func(w io.Writer) error {
		tw := tar.NewWriter(w)
		err := fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			return addFile(tw, root, name)
		})
		if err != nil {
			return err
		}
		return tw.Close()
	})
}

func addFile(tw *tar.Writer, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	link := ""
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if link, err = root.Readlink(name); err != nil {
			return err
		}
	default:
		return nil
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}

func (v volume) check(_ context.Context, f *os.File) error {
	return inflate(f, func(r io.Reader) error {
		return eachEntry(r, func(_ *tar.Header, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
	})
}

func eachEntry(r io.Reader, do func(*tar.Header, io.Reader) error) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := do(h, tr); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// restore empties the directory and fills it again.
func (v volume) restore(ctx context.Context, f *os.File) error {
	root, _, err := v.open(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	if err := inflate(f, func(r io.Reader) error {
		return eachEntry(r, func(h *tar.Header, r io.Reader) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return extract(root, h, r)
		})
	}); err != nil {
		return err
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return syncFS(d)
}

// extract writes one entry. The archive is our own; root keeps it in the volume
// all the same.
func extract(root *os.Root, h *tar.Header, r io.Reader) error {
	name, mode := path.Clean(strings.TrimSuffix(h.Name, "/")), h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, h.Uid, h.Gid)
	default:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(f, r); err != nil {
			return err
		}
	}
	if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := root.Chmod(name, mode); err != nil { // after chown, which takes setuid away
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}

func (v volume) ready(context.Context) error { return nil }

// own gives f the owner and mode of like.
func own(f *os.File, like fs.FileInfo) error {
	st, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no owner known")
	}
	if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	mode := like.Mode().Perm()
	if like.IsDir() {
		mode &= 0o666
	}
	return f.Chmod(mode)
}

func syncFS(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", f.Name(), err)
	}
	return nil
}
