package backup

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/valise-ota/valise/bundle"
)

// sqlite is a database file in a volume. SQLite never opens it there: its names,
// its log and its shared memory belong to a container, which may exchange or cut
// them at any moment. It opens a copy, made while the container stands still.
type sqlite struct {
	bundle.SQLite
	d   Deps
	dir *os.Root // where the copy is made
}

// copyName is the copy before it is compressed.
const copyName = tempPrefix + "copy.sqlite"

// SQLite's other files, by what their names end with. Shared memory is made anew.
const (
	walSuffix     = "-wal"
	journalSuffix = "-journal"
	shmSuffix     = "-shm"
)

// place opens the directory of the database. make brings it back.
func (s sqlite) place(ctx context.Context, make bool) (d dir, host, name string, err error) {
	source, below, err := s.d.HostPath(ctx, s.Service, s.Path)
	if err != nil {
		return d, "", "", err
	}
	if below == "" || below == "." {
		return d, "", "", fmt.Errorf("%s is a mount of its own, without SQLite's other files: mount its directory", s.Path)
	}
	d, err = descend(ctx, source, path.Dir(below), make)
	return d, filepath.Join(source, below), path.Base(below), err
}

func (s sqlite) save(ctx context.Context, w io.Writer) (err error) {
	d, host, name, err := s.place(ctx, false)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := s.forget(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.forget()) }()
	if err := s.d.still(ctx, host, func(ctx context.Context) error {
		for _, suffix := range []string{"", walSuffix, journalSuffix} {
			err := s.copy(ctx, d, name, suffix)
			if err != nil && (suffix == "" || !errors.Is(err, fs.ErrNotExist)) {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := checkSQLite(ctx, filepath.Join(s.dir.Name(), copyName)); err != nil {
		return err
	}
	if fi, err := s.dir.Lstat(copyName + walSuffix); err == nil && fi.Size() > 0 {
		return fmt.Errorf("its log could not be brought in: %d bytes are left", fi.Size())
	}
	f, err := s.dir.Open(copyName)
	if err != nil {
		return err
	}
	defer f.Close()
	return compress(w, func(w io.Writer) error { _, err := copyAll(ctx, w, f); return err })
}

// copy copies one of SQLite's files.
func (s sqlite) copy(ctx context.Context, d dir, name, suffix string) error {
	from, st, err := d.file(name + suffix)
	if err != nil {
		return err
	}
	defer from.Close()
	data, err := extents(from, st)
	if err != nil {
		return err
	}
	to, err := s.dir.OpenFile(copyName+suffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := room(to, size(data)); err != nil {
		return err
	}
	if err := to.Truncate(st.Size); err != nil {
		return err
	}
	for _, x := range data {
		if _, err := to.Seek(x.offset, io.SeekStart); err != nil {
			return err
		}
		if err := copyData(ctx, to, from, []extent{x}); err != nil {
			return err
		}
	}
	if suffix == journalSuffix {
		return checkJournal(to)
	}
	return nil
}

// journalMagic ends a journal of a transaction over several databases. Before it
// stands the name of a file, chosen by the container; where SQLite does not find
// it, it takes the transaction for done, although it may be half done.
var journalMagic = []byte{0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7}

func checkJournal(f *os.File) error {
	b := make([]byte, len(journalMagic))
	if n, err := f.Seek(-int64(len(b)), io.SeekEnd); err != nil || n < 0 {
		return nil // shorter
	}
	if _, err := io.ReadFull(f, b); err != nil {
		return err
	}
	if bytes.Equal(b, journalMagic) {
		return errors.New("it is in the middle of a transaction over several databases: try again")
	}
	return nil
}

// forget removes the copy.
func (s sqlite) forget() error {
	for _, suffix := range []string{"", walSuffix, journalSuffix, shmSuffix} {
		if err := s.dir.Remove(copyName + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// checkSQLite brings the log or the journal in and proves that the database is
// whole.
func checkSQLite(ctx context.Context, path string) error {
	// What a container wrote may call no function that could do anything.
	query := "_pragma=trusted_schema(0)&_pragma=cell_size_check(1)&mode=rw"
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: query}).String())
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var answer string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&answer); err != nil {
		return err
	}
	if answer != "ok" {
		return fmt.Errorf("integrity check: %s", answer)
	}
	if _, err := db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		return err
	}
	return db.Close()
}

// check reads all of it; what is in it was checked before it was compressed.
func (s sqlite) check(ctx context.Context, f *os.File) error {
	return inflate(ctx, f, func(io.Reader) error { return nil })
}

// restore puts the file in the place of the old one. Nobody may have that open.
func (s sqlite) restore(ctx context.Context, f *os.File) error {
	d, _, name, err := s.place(ctx, true)
	if err != nil {
		return err
	}
	defer d.Close()
	like, err := d.lstat(name)
	if err != nil || kindOf(like) != unix.S_IFREG {
		if like, err = d.stat(); err != nil {
			return err
		}
		like.Mode &= 0o666
	}
	temp := tempPrefix + name
	// Log and journal belong to the old file.
	for _, old := range []string{name + walSuffix, name + shmSuffix, name + journalSuffix, temp} {
		if err := d.remove(ctx, old); err != nil {
			return err
		}
	}
	if st, err := d.lstat(name); err == nil && kindOf(st) == unix.S_IFDIR {
		if err := d.remove(ctx, name); err != nil {
			return err
		}
	}
	to, err := d.create(temp)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := inflate(ctx, f, func(r io.Reader) error { _, err := copyAll(ctx, to, r); return err }); err != nil {
		return err
	}
	like.Mode &= 0o777
	if err := (dir{to}).own(like); err != nil {
		return err
	}
	if err := to.Sync(); err != nil {
		return err
	}
	if err := unix.Renameat(d.fd(), temp, d.fd(), name); err != nil {
		return d.fail("rename", temp, err)
	}
	return d.Sync()
}

func (s sqlite) ready(context.Context) error { return nil }

// measure is the size of the database and what is still to come into it.
func (s sqlite) measure(ctx context.Context) (n int64, err error) {
	d, _, name, err := s.place(ctx, false)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	for _, suffix := range []string{"", walSuffix, journalSuffix} {
		st, err := d.lstat(name + suffix)
		if err == nil {
			n += held(st)
		} else if suffix == "" {
			return 0, err
		}
	}
	return n, nil
}
