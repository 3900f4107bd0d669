// Package release keeps the releases of one app on disk:
//
//	ROOT/releases/NAME/...          a complete release, never changed again
//	ROOT/releases/.staging-NAME/... one being written
//	ROOT/releases/.trash-NAME/...   one being removed
//	ROOT/current -> releases/NAME   the one that runs
//	ROOT/failed/NAME/...            one that failed, kept for people
//
// A directory under its own name is complete, because it gets the name after
// everything in it is durable and loses the name before anything in it goes.
// What a power cut leaves half-way has a leading dot, which no release name
// has, and Clean removes it.
//
// One process at a time may change a Store: hold Lock. Nothing below the root
// is trusted to be what Valise left there: all access goes through os.Root, and
// a symbolic link where a directory belongs is refused.
package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

const (
	releasesDir   = "releases"
	currentLink   = "current"
	failedDir     = "failed"
	stagingPrefix = ".staging-"
	trashPrefix   = ".trash-"

	dirMode fs.FileMode = 0o755 // services that are not root read their files
)

// ErrExists says that a release of that name is there already. Whether its
// content is the same is for the caller to find out.
var ErrExists = errors.New("a release of this name exists")

var namePattern = lazyregexp.New(`^[0-9A-Za-z][0-9A-Za-z.+~-]{0,200}$`)

// ValidName reports whether s may be the name of a release directory.
func ValidName(s string) bool { return namePattern.MatchString(s) }

func checkName(s string) error {
	if !ValidName(s) {
		return fmt.Errorf("name %q: want 1 to 201 of 0-9 A-Z a-z . + ~ -, the first a digit or letter", s)
	}
	return nil
}

func releasePath(name string) string { return path.Join(releasesDir, name) }

// Store is the releases below one root. Close it.
type Store struct {
	root     *os.Root
	known    bundle.Digest // of manifest, see Know
	manifest *bundle.Manifest
}

// Open opens the root of an app, such as /opt/shop. It changes nothing.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open app root: %w", err)
	}
	return &Store{root: root}, nil
}

// Create is Open that makes dir first, with the parents it lacks, all durable.
func Create(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("create app root: %w", err)
	}
	if err := mkdirAll(dir); err != nil {
		return nil, fmt.Errorf("create app root: %w", err)
	}
	return Open(dir)
}

func mkdirAll(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := mkdirAll(parent); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return SyncDir(root, ".") // perhaps a link to a bigger disk, which is the administrator's choice
	}
	return Mkdir(root, filepath.Base(dir), dirMode)
}

// Close releases the root.
func (s *Store) Close() error { return s.root.Close() }

// Root is the root itself, for the durable functions of this package on other
// files of the app. It belongs to the Store.
func (s *Store) Root() *os.Root { return s.root }

// Current is the release that current leads to; ok is false when there is none.
// A current that Valise did not make is an error, never a guess.
func (s *Store) Current() (name string, ok bool, err error) {
	target, err := s.root.Readlink(currentLink)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read current: %w", err)
	}
	name, found := strings.CutPrefix(target, releasesDir+"/")
	if !found || !ValidName(name) {
		return "", false, fmt.Errorf("read current: got link to %q, want releases/NAME", target)
	}
	return name, true, nil
}

// SetCurrent makes current lead to a complete release, in one step.
func (s *Store) SetCurrent(name string) error {
	if err := s.checkRelease(name); err != nil {
		return fmt.Errorf("set current: %w", err)
	}
	return Symlink(s.root, releasesDir+"/"+name, currentLink)
}

// ClearCurrent removes the link; none is fine. Anything else of that name stays.
func (s *Store) ClearCurrent() error {
	info, err := s.root.Lstat(currentLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear current: %w", err)
	}
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("clear current: it is a %s, want a symbolic link", kind(info.Mode()))
	}
	return RemoveAll(s.root, currentLink)
}

// checkRelease refuses a name that is not a directory of its own.
func (s *Store) checkRelease(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	info, err := s.root.Lstat(releasePath(name))
	if err != nil {
		return fmt.Errorf("release %s: %w", name, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("release %s: it is a %s, want a directory", name, kind(info.Mode()))
	}
	return nil
}

// List returns the names of the complete releases, sorted as text: the journal
// knows which one is newer.
func (s *Store) List() ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), releasesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && ValidName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// OpenFile opens a file of a release for reading. Links that lead out of the
// release are refused, even to another place below the root.
func (s *Store) OpenFile(name, file string) (*os.File, error) {
	if err := s.checkRelease(name); err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	dir, err := s.root.OpenRoot(releasePath(name))
	if err != nil {
		return nil, fmt.Errorf("open release %s: %w", name, err)
	}
	defer dir.Close()
	f, err := dir.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for a writer
	if err != nil {
		return nil, fmt.Errorf("open %s of release %s: %w", file, name, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("open %s of release %s: it is not a regular file", file, name)
	}
	return f, nil
}

// Remove removes a release; a missing one is fine, the current one is refused.
func (s *Store) Remove(name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("remove release: %w", err)
	}
	current, ok, err := s.Current()
	if err != nil {
		return fmt.Errorf("remove release %s: %w", name, err)
	}
	if ok && current == name {
		return fmt.Errorf("remove release %s: it is current", name)
	}
	trash := releasePath(trashPrefix + name)
	if err := RemoveAll(s.root, trash); err != nil {
		return err
	}
	if _, err := s.root.Lstat(releasePath(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := Rename(s.root, releasePath(name), trash); err != nil {
		return err
	}
	return RemoveAll(s.root, trash)
}

// Clean removes what a power cut left half written or half removed. No release
// may be in the making.
func (s *Store) Clean() error {
	entries, err := fs.ReadDir(s.root.FS(), releasesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clean releases: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagingPrefix) || strings.HasPrefix(e.Name(), trashPrefix) {
			if err := RemoveAll(s.root, releasePath(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// MoveAside takes a release out of the store, into failed/NAME beside it, where
// nothing uses it; a missing one is fine, the current one is refused. Of what is
// there the newest keep stay.
func (s *Store) MoveAside(name string, keep int) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("move release aside: %w", err)
	}
	if _, err := s.root.Lstat(releasePath(name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	current, ok, err := s.Current()
	if err != nil {
		return fmt.Errorf("move release %s aside: %w", name, err)
	}
	if ok && current == name {
		return fmt.Errorf("move release %s aside: it is current", name)
	}
	if err := Mkdir(s.root, failedDir, 0o700); err != nil {
		return err
	}
	aside := path.Join(failedDir, name)
	if err := RemoveAll(s.root, aside); err != nil {
		return err
	}
	if err := Rename(s.root, releasePath(name), aside); err != nil {
		return err
	}
	now := time.Now()
	if err := s.root.Chtimes(aside, now, now); err != nil { // for the order below, and for people
		return fmt.Errorf("move release %s aside: %w", name, err)
	}
	return s.pruneFailed(keep)
}

func (s *Store) pruneFailed(keep int) error {
	entries, err := fs.ReadDir(s.root.FS(), failedDir)
	if err != nil {
		return fmt.Errorf("list failed releases: %w", err)
	}
	age := func(e fs.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return age(b).Compare(age(a)) })
	for _, e := range entries[min(keep, len(entries)):] {
		if err := RemoveAll(s.root, path.Join(failedDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
