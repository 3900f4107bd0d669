package release

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/valise-ota/valise/bundle"
)

// What lies in a release's directory is believed when it has the digest that was
// verified when the release came.

// Remember lets Manifest return m, which was just verified, for its digest: what is
// on disk may be damaged.
func (s *Store) Remember(digest bundle.Digest, m *bundle.Manifest) {
	if s != nil {
		s.known, s.manifest = digest, m
	}
}

// Manifest returns the manifest of release name.
func (s *Store) Manifest(name string, want bundle.Digest) (*bundle.Manifest, error) {
	if s.known == want && s.manifest != nil {
		return s.manifest, nil
	}
	b, err := s.ReadFile(name, bundle.ManifestName, bundle.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	if got := bundle.DigestOf(b); got != want {
		return nil, fmt.Errorf("read release %s: its manifest on disk is %s, %s was verified: the directory was changed", name, got, want)
	}
	return bundle.ParseManifest(b)
}

// ReadFile reads a small file of a release; more than limit bytes are an error.
func (s *Store) ReadFile(name, file string, limit int64) ([]byte, error) {
	f, err := s.OpenFile(name, file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of release %s: %w", file, name, err)
	}
	return b, nil
}

// Check compares a file of a release, of size bytes at most, with its digest.
func (s *Store) Check(name, file string, size int64, want bundle.Digest) error {
	f, err := s.OpenFile(name, file)
	if err != nil {
		return err
	}
	defer f.Close()
	got, _, err := bundle.ReadDigest(io.LimitReader(f, size+1))
	if err != nil {
		return fmt.Errorf("read %s of release %s: %w", file, name, err)
	}
	if got.Hex() != want.Hex() {
		return fmt.Errorf("%s of release %s is not what was verified: it was changed", file, name)
	}
	return nil
}

// PutBack makes file of release name, which is there already, hold what r has.
func (s *Store) PutBack(name, file string, perm fs.FileMode, r io.Reader) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("put back %s: %w", file, err)
	}
	to := path.Join(releasePath(name), file)
	if err := s.mkdirAll(path.Dir(to)); err != nil {
		return err
	}
	return CopyFile(s.root, to, r, perm)
}

func (s *Store) mkdirAll(dir string) error {
	info, err := s.root.Lstat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("make directory %s: a %s is there", dir, kind(info.Mode()))
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	if err := s.mkdirAll(path.Dir(dir)); err != nil {
		return err
	}
	return Mkdir(s.root, dir, dirMode)
}
