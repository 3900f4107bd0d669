package release

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// Staged is a release being written. It is not a release until Commit returns nil.
// It belongs to one goroutine.
type Staged struct {
	store *Store
	name  string
	dir   *os.Root // nil after Commit or Abort
	err   error    // the first failed write: what is incomplete is never committed
}

// Stage begins the release name afresh: a left-over of an earlier attempt is
// removed first.
func (s *Store) Stage(name string) (*Staged, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("stage release: %w", err)
	}
	if err := Mkdir(s.root, releasesDir, dirMode); err != nil {
		return nil, err
	}
	staging := releasePath(stagingPrefix + name)
	if err := RemoveAll(s.root, staging); err != nil {
		return nil, err
	}
	if err := Mkdir(s.root, staging, dirMode); err != nil {
		return nil, err
	}
	dir, err := s.root.OpenRoot(staging)
	if err != nil {
		return nil, fmt.Errorf("stage release %s: %w", name, err)
	}
	return &Staged{store: s, name: name, dir: dir}, nil
}

// WriteFile adds a file with exactly the mode perm. Parents are made; a path that was
// written already is refused.
func (s *Staged) WriteFile(file string, perm fs.FileMode, r io.Reader) error {
	if s.dir == nil {
		return fmt.Errorf("stage %s: release %s is committed or aborted", file, s.name)
	}
	if err := s.writeFile(file, perm, r); err != nil {
		err = fmt.Errorf("stage %s of release %s: %w", file, s.name, err)
		s.err = errors.Join(s.err, err)
		return err
	}
	return nil
}

func (s *Staged) writeFile(file string, perm fs.FileMode, r io.Reader) error {
	if !fs.ValidPath(file) || file == "." {
		return errors.New("path is not clean and relative")
	}
	if perm&^fs.ModePerm != 0 {
		return fmt.Errorf("mode %v has more than permission bits", perm)
	}
	if err := s.mkdirs(path.Dir(file)); err != nil {
		return err
	}
	f, err := s.dir.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Close()
}

// mkdirs makes dir and its parents.
func (s *Staged) mkdirs(dir string) error {
	if dir == "." {
		return nil
	}
	if err := s.mkdirs(path.Dir(dir)); err != nil {
		return err
	}
	err := s.dir.Mkdir(dir, dirMode)
	if errors.Is(err, fs.ErrExist) {
		return nil // if it is no directory, the open fails
	}
	if err != nil {
		return err
	}
	return s.dir.Chmod(dir, dirMode) // whatever the umask
}

// Commit makes everything durable and gives the release its name. It is refused
// when a write failed, and with ErrExists when the name is taken; then the
// staged files are still there, to commit after a Remove or to Abort.
func (s *Staged) Commit() error {
	if s.dir == nil {
		return fmt.Errorf("commit release %s: it is committed or aborted", s.name)
	}
	if s.err != nil {
		return fmt.Errorf("commit release %s: it is incomplete: %w", s.name, s.err)
	}
	if err := syncFS(s.dir); err != nil {
		return fmt.Errorf("commit release %s: %w", s.name, err)
	}
	root := s.store.root
	// rename(2) would replace an empty directory.
	_, err := root.Lstat(releasePath(s.name))
	if err == nil {
		return fmt.Errorf("commit release %s: %w", s.name, ErrExists)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("commit release %s: %w", s.name, err)
	}
	if err := Rename(root, releasePath(stagingPrefix+s.name), releasePath(s.name)); err != nil {
		return err
	}
	s.dir.Close()
	s.dir = nil
	return nil
}

// Abort removes what was staged. After Commit it does nothing, so it can be
// deferred.
func (s *Staged) Abort() error {
	if s.dir == nil {
		return nil
	}
	s.dir.Close()
	s.dir = nil
	return RemoveAll(s.store.root, releasePath(stagingPrefix+s.name))
}

// Path is where the release is being written, relative to the store's root.
func (s *Staged) Path() string { return releasePath(stagingPrefix + s.name) }
