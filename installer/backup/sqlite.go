package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/valise-ota/valise/bundle"
)

// sqlite is a database file in a volume. It is copied while the app uses it, by
// SQLite itself: locks work between a container and its host.
type sqlite struct {
	bundle.SQLite
	d   Deps
	dir *os.Root // where the copy is made
}

// copyName is the copy before it is compressed.
const copyName = tempPrefix + "copy.sqlite"

func (s sqlite) save(ctx context.Context, w io.Writer) (err error) {
	host, err := s.d.HostPath(ctx, s.Service, s.Path)
	if err != nil {
		return err
	}
	if fi, err := os.Lstat(host); err != nil {
		return err
	} else if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", s.Path)
	}
	copied := filepath.Join(s.dir.Name(), copyName)
	if err := s.dir.Remove(copyName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer s.dir.Remove(copyName)
	if err := query(ctx, host, "rw", func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", copied)
		return err
	}); err != nil {
		return err
	}
	if err := checkSQLite(ctx, copied); err != nil {
		return err
	}
	f, err := s.dir.Open(copyName)
	if err != nil {
		return err
	}
	defer f.Close()
	return compress(w, func(w io.Writer) error { _, err := io.Copy(w, f); return err })
}

// query opens a database for do. The busy timeout waits for the app.
func query(ctx context.Context, path, mode string, do func(*sql.DB) error) error {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(60000)&mode=" + mode}).String())
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	return do(db)
}

func checkSQLite(ctx context.Context, path string) error {
	return query(ctx, path, "ro", func(db *sql.DB) error {
		var answer string
		if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&answer); err != nil {
			return err
		}
		if answer != "ok" {
			return fmt.Errorf("integrity check: %s", answer)
		}
		return nil
	})
}

// check reads all of it; what is in it was checked before it was compressed.
func (s sqlite) check(_ context.Context, f *os.File) error {
	return inflate(f, func(io.Reader) error { return nil })
}

// restore puts the file in the place of the old one. Nobody may have that open.
func (s sqlite) restore(ctx context.Context, f *os.File) error {
	host, err := s.d.HostPath(ctx, s.Service, s.Path)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(filepath.Dir(host))
	if err != nil {
		return err
	}
	defer dir.Close()
	name := filepath.Base(host)
	like, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		like, err = dir.Stat(".")
	}
	if err != nil {
		return err
	}
	// Log and journal belong to the old file.
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if err := dir.Remove(name + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return writeFile(dir, name, func(to *os.File) error {
		if err := inflate(f, func(r io.Reader) error { _, err := io.Copy(to, r); return err }); err != nil {
			return err
		}
		return own(to, like)
	})
}

func (s sqlite) ready(context.Context) error { return nil }
