package release

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/valise-ota/valise/bundle"
)

// What the compose file mounts lies in bundle.MountDir, each under a name that
// changes with its content. A mount is complete when it has its name; services
// may write to it all the same, as far as the compose file lets them.

func mountPath(name string) string { return path.Join(bundle.MountDir, name) }

// Mounts returns the names of the mounts that are there.
func (s *Store) Mounts() ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), bundle.MountDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// CheckMount compares a mount with what it should hold, of files as
// bundle.MountFiles has them. It is fs.ErrNotExist when it is not there. Empty
// directories and files count for nothing: the engine makes them where other
// mounts begin.
func (s *Store) CheckMount(name string, files []bundle.File) error {
	at := mountPath(name)
	info, err := s.root.Lstat(at)
	if err != nil {
		return fmt.Errorf("mount %s: %w", name, err)
	}
	if single := files[0].Path == ""; info.IsDir() == single {
		return fmt.Errorf("mount %s: it is a %s", name, kind(info.Mode()))
	}
	want := map[string]bundle.File{}
	for _, f := range files {
		want[path.Join(at, f.Path)] = f
	}
	err = fs.WalkDir(s.root.FS(), at, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := strings.TrimPrefix(p, mountPath(""))
		f, ok := want[p]
		if !ok {
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
				return nil
			}
			return fmt.Errorf("mount %s: %s was put there", name, rel)
		}
		delete(want, p)
		if err := s.checkFile(p, f); err != nil {
			return fmt.Errorf("mount %s: %s %w", name, rel, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for p := range want {
		return fmt.Errorf("mount %s: %s is missing", name, strings.TrimPrefix(p, mountPath("")))
	}
	return nil
}

// checkFile compares a file below the root with its size and digest.
func (s *Store) checkFile(name string, f bundle.File) error {
	info, err := s.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != f.Size {
		return errors.New("was changed")
	}
	file, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0) // a service may put anything there meanwhile
	if err != nil {
		return err
	}
	defer file.Close()
	got, _, err := bundle.ReadDigest(io.LimitReader(file, f.Size+1))
	if err != nil {
		return err
	}
	if got.Hex() != f.Digest.Hex() {
		return errors.New("was changed")
	}
	return nil
}

// AddMount makes the mount name, which must not be there, of files: as open
// yields them, compared with their digests. It gets its name last.
func (s *Store) AddMount(name string, files []bundle.File, open func(bundle.File) (io.ReadCloser, error)) error {
	tmp := releasePath(stagingPrefix + "mount")
	if err := RemoveAll(s.root, tmp); err != nil {
		return err
	}
	if err := s.mkdirAll(bundle.MountDir); err != nil {
		return err
	}
	if err := s.root.Mkdir(tmp, dirMode); err != nil {
		return fmt.Errorf("make mount %s: %w", name, err)
	}
	dir, err := s.root.OpenRoot(tmp)
	if err != nil {
		return fmt.Errorf("make mount %s: %w", name, err)
	}
	defer RemoveAll(s.root, tmp)
	st := &Staged{store: s, name: name, dir: dir}
	defer dir.Close()
	// One directory holds it whatever it is, so that a rename makes it complete.
	const top = "m"
	for _, f := range files {
		rc, err := open(f)
		if err != nil {
			return err
		}
		h := sha256.New()
		err = st.WriteFile(path.Join(top, f.Path), fs.FileMode(f.Mode), io.TeeReader(io.LimitReader(rc, f.Size+1), h))
		rc.Close()
		if err == nil && hex.EncodeToString(h.Sum(nil)) != f.Digest.Hex() {
			err = fmt.Errorf("make mount %s: %s of the release was changed", name, f.Path)
		}
		if err != nil {
			return err
		}
	}
	if err := syncFS(dir); err != nil {
		return err
	}
	return Rename(s.root, path.Join(tmp, top), mountPath(name))
}

// RemoveMount removes a mount; a missing one is fine.
func (s *Store) RemoveMount(name string) error { return RemoveAll(s.root, mountPath(name)) }

// maxAside bounds how many edits of one mount are kept.
const maxAside = 100

// SetMountAside moves a mount out of the way, to a name in the app's directory
// that it returns.
func (s *Store) SetMountAside(name string) (string, error) {
	base, digest, _ := cutLast(name, "-")
	to := base + ".edited-" + digest[:min(12, len(digest))]
	for n := 2; ; n++ {
		if _, err := s.root.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to, Rename(s.root, mountPath(name), to)
		} else if err != nil || n > maxAside {
			return "", fmt.Errorf("set %s aside: %s is there already: %w", name, to, err)
		}
		to = base + ".edited-" + digest[:min(12, len(digest))] + "." + strconv.Itoa(n)
	}
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
