// Package record keeps an app's update records in one SQLite file. Store is the
// installer.Journal of a device.
//
// The file is in WAL mode with synchronous=FULL, chosen for power cuts. A
// transaction is committed when its frames are in the write-ahead log and the
// log is fsynced: one append and one fsync, nothing that is valid is
// overwritten, and a torn frame fails its checksum and counts as not written.
// In DELETE mode the commit is the unlink of the rollback journal, and
// synchronous=FULL does not fsync the directory after it: a power cut could
// bring the journal back, and with it undo a commit that was acknowledged. In
// WAL mode, too, `status` in a second process never waits for the update that
// runs, nor the update for it.
//
// The file may be copied only together with FILE-wal, or when no process has it
// open: the last one to close it empties the log into it.
//
// Undo data may hold secrets; the files are for root alone (0600).
package record

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/valise-ota/valise/installer"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	// ErrDamaged says that the file is not an intact database.
	ErrDamaged = errors.New("the record is damaged")
	// ErrNewer says that a newer valise-installer wrote the file.
	ErrNewer = errors.New("the record was written by a newer valise-installer")
	// ErrOlder says that the file has to be migrated before it is only read.
	ErrOlder = errors.New("the record was written by an older valise-installer")
)

// busyTimeout is for the moments in which SQLite locks even in WAL mode, such as
// recovery of the log after a crash, in milliseconds.
const busyTimeout = 10_000

// Store is the record of one app. It may be used by several goroutines. Close it.
type Store struct {
	// Changed is called after every change that is durable. May be nil.
	Changed func(context.Context)

	db   *sql.DB
	path string
	app  string
	file fs.FileInfo // that was opened
}

var _ installer.Journal = (*Store)(nil)

// Open opens the record of app for reading and writing, and creates or migrates
// it where needed. The directory must exist.
func Open(ctx context.Context, path, app string) (*Store, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(ctx, path, app); err != nil {
			return nil, err
		}
	}
	s, err := openWritable(ctx, path, app)
	if gainRoom(path, err) {
		s, err = openWritable(ctx, path, app)
	}
	return s, err
}

func openWritable(ctx context.Context, path, app string) (*Store, error) {
	return open(ctx, path, app, url.Values{
		"mode": {"rw"}, "_journal_mode": {"WAL"}, "_synchronous": {"FULL"}, "_foreign_keys": {"on"}, "_txlock": {"immediate"},
	}, func(s *Store) error {
		var mode string
		if err := s.db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
			return err
		}
		if mode != "wal" {
			return fmt.Errorf("its journal mode is %s, want wal: the file system cannot share memory", mode)
		}
		return s.migrate(ctx, migrations)
	})
}

// OpenReadOnly opens an existing record for Load and History, also while
// another process updates. A record that does not exist yet is an error that is
// fs.ErrNotExist, one of an older program is ErrOlder. SQLite keeps its locks
// beside the file; where it cannot, on a full or read-only file system, a copy in
// memory is read.
func OpenReadOnly(ctx context.Context, path, app string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	s, err := openReadOnly(ctx, path, app)
	if err == nil || !noRoom(err) {
		return s, err
	}
	if s, cerr := openCopy(ctx, path, app); cerr == nil {
		return s, nil
	}
	return nil, err
}

// memoryDir is a file system in memory on every Linux.
const memoryDir = "/dev/shm"

// openCopy reads a copy in memory of the file and its log. No other process has
// the file open, or SQLite would not have had to make anything beside it.
func openCopy(ctx context.Context, path, app string) (*Store, error) {
	dir, err := os.MkdirTemp(memoryDir, "valise-record-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // SQLite has its files open by then
	to := filepath.Join(dir, filepath.Base(path))
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err == nil {
			err = os.WriteFile(to+suffix, b, 0o600)
		}
		if err != nil {
			return nil, err
		}
	}
	return openReadOnly(ctx, to, app)
}

func openReadOnly(ctx context.Context, path, app string) (*Store, error) {
	return open(ctx, path, app, url.Values{"mode": {"ro"}, "_query_only": {"on"}}, func(s *Store) error {
		return s.view(ctx, func(tx *sql.Tx) error {
			version, err := schemaVersion(ctx, tx, len(migrations))
			switch {
			case err != nil:
				return err
			case version == 0:
				return fmt.Errorf("it is empty: %w", fs.ErrNotExist)
			case version < len(migrations):
				return fmt.Errorf("%w: it has schema %d, Open brings it to %d", ErrOlder, version, len(migrations))
			}
			return checkApp(ctx, tx, app)
		})
	})
}

func open(ctx context.Context, path, app string, options url.Values, prepare func(*Store) error) (*Store, error) {
	options.Set("_busy_timeout", strconv.Itoa(busyTimeout))
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: options.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open record %s: %w", path, err)
	}
	// One connection: a process has one writer at most, and the settings above
	// hold for every statement.
	db.SetMaxOpenConns(1)
	s := &Store{db: db, path: abs, app: app}
	if err = s.check(ctx); err == nil {
		err = prepare(s)
	}
	if err == nil {
		s.file, err = os.Stat(abs)
	}
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open record %s: %w", path, damaged(err))
	}
	return s, nil
}

// check reads the whole file, which is small: better to hear of damage now than
// in the middle of an update.
func (s *Store) check(ctx context.Context) error {
	var answer string
	err := s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&answer)
	if err == nil && answer != "ok" {
		err = fmt.Errorf("%w: %s", ErrDamaged, answer)
	}
	return err
}

// create makes a file with our mode, which gets its name when it is complete: one that is
// there has its tables, whenever the power failed. SQLite takes an empty file for a new
// database, and gives the log the same mode.
func create(ctx context.Context, path, app string) (err error) {
	tmp := path + ".new"
	remove := func() {
		for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
			_ = os.Remove(tmp + suffix)
		}
	}
	remove() // of an attempt that was cut off
	defer func() {
		if err != nil {
			remove()
		}
	}()
	if err := os.WriteFile(tmp, nil, 0o600); err != nil {
		return fmt.Errorf("open record: %w", err)
	}
	s, err := openWritable(ctx, tmp, app)
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if _, err := os.Stat(tmp + "-wal"); !errors.Is(err, fs.ErrNotExist) { // SQLite does not say so
		return fmt.Errorf("open record %s: its log could not be brought into the file", tmp)
	}
	if err := replace(tmp, path); err != nil {
		return fmt.Errorf("open record: %w", err)
	}
	return nil
}

// damaged turns what SQLite says about a broken file into one sentence.
func damaged(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return err
}

// Gone reports whether the file was removed, or another one has its place: the app was
// uninstalled, perhaps installed again, or its records were recreated.
func (s *Store) Gone() bool {
	now, err := os.Stat(s.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(s.file, now)
}

// Close closes the file.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close record: %w", err)
	}
	return nil
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// change runs f in one durable transaction. f may run twice.
func (s *Store) change(ctx context.Context, f func(*sql.Tx) error) error {
	err := s.transact(ctx, nil, f)
	if gainRoom(s.path, err) {
		err = s.transact(ctx, nil, f)
	}
	if err == nil && s.Changed != nil {
		s.Changed(ctx)
	}
	return err
}

// view runs f on one consistent state.
func (s *Store) view(ctx context.Context, f func(*sql.Tx) error) error {
	return s.transact(ctx, &sql.TxOptions{ReadOnly: true}, f)
}

func (s *Store) transact(ctx context.Context, opts *sql.TxOptions, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, opts)
	if err != nil {
		return damaged(err)
	}
	defer tx.Rollback() // after a commit it does nothing
	if err := f(tx); err != nil {
		return damaged(err)
	}
	return damaged(tx.Commit())
}
