package record

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// applicationID is "VALS" in the file's header: another program's database is
// refused before anything is written to it.
const applicationID = 0x56414c53

// migrations bring a file from version i to i+1; their number is the schema
// version in PRAGMA user_version. A shipped one is never edited.
//
// Releases are kept as JSON, as in the API: a new optional field of
// installer.Release needs no migration.
var migrations = []string{`
CREATE TABLE app (
	one      INTEGER PRIMARY KEY CHECK (one = 1),
	name     TEXT NOT NULL,
	current  TEXT REFERENCES release (dir),
	previous TEXT REFERENCES release (dir),
	floor    TEXT NOT NULL DEFAULT '' -- highest version ever committed, by SemVer
) STRICT;

CREATE TABLE release ( -- committed and not forgotten
	dir     TEXT PRIMARY KEY,
	release TEXT NOT NULL CHECK (json_valid(release)),
	turn    INTEGER NOT NULL UNIQUE -- order of commits; the clock may have jumped
) STRICT;

CREATE TABLE bad (
	turn    INTEGER PRIMARY KEY,
	version TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE record (
	turn         INTEGER PRIMARY KEY,
	id           TEXT NOT NULL UNIQUE,
	action       TEXT NOT NULL CHECK (action IN ('install', 'update', 'rollback')),
	from_release TEXT CHECK (json_valid(from_release)),
	to_release   TEXT NOT NULL CHECK (json_valid(to_release)),
	status       TEXT NOT NULL CHECK (status IN ('applying', 'completed', 'failed', 'rolled_back')),
	error        TEXT NOT NULL DEFAULT '',
	attention    TEXT NOT NULL DEFAULT '',
	created      TEXT NOT NULL,
	ended        TEXT,
	CHECK ((status = 'applying') = (ended IS NULL))
) STRICT;

-- Two unfinished records would each claim to know what to undo.
CREATE UNIQUE INDEX record_unfinished ON record (status) WHERE status = 'applying';

CREATE TABLE step (
	turn   INTEGER PRIMARY KEY,
	record INTEGER NOT NULL REFERENCES record (turn),
	name   TEXT NOT NULL,
	state  TEXT NOT NULL CHECK (state IN ('begun', 'done', 'undone')),
	undo   TEXT CHECK (json_valid(undo)),
	begun  TEXT NOT NULL,
	ended  TEXT,
	UNIQUE (record, name),
	CHECK ((state = 'begun') = (ended IS NULL))
) STRICT;
`, `
-- Records begin before their transaction does: when a bundle is handed over
-- or announced. SQLite cannot change a CHECK, so both tables are
-- recreated; step goes first because it refers to record.
CREATE TABLE record2 (
	turn         INTEGER PRIMARY KEY,
	id           TEXT NOT NULL UNIQUE,
	action       TEXT NOT NULL CHECK (action IN ('install', 'update', 'rollback')),
	from_release TEXT CHECK (json_valid(from_release)),
	to_release   TEXT NOT NULL CHECK (json_valid(to_release)),
	status       TEXT NOT NULL CHECK (status IN ('pending', 'downloading', 'verifying', 'applying', 'completed', 'failed', 'rolled_back')),
	error        TEXT NOT NULL DEFAULT '',
	attention    TEXT NOT NULL DEFAULT '',
	changelog    TEXT NOT NULL DEFAULT '',
	bundle       TEXT CHECK (json_valid(bundle)),
	actor        TEXT NOT NULL DEFAULT '',
	created      TEXT NOT NULL,
	started      TEXT,
	ended        TEXT,
	CHECK ((status IN ('completed', 'failed', 'rolled_back')) = (ended IS NOT NULL))
) STRICT;
INSERT INTO record2 (turn, id, action, from_release, to_release, status, error, attention, created, started, ended)
	SELECT turn, id, action, from_release, to_release, status, error, attention, created, created, ended FROM record;
CREATE TABLE step2 (
	turn   INTEGER PRIMARY KEY,
	record INTEGER NOT NULL REFERENCES record2 (turn),
	name   TEXT NOT NULL,
	state  TEXT NOT NULL CHECK (state IN ('begun', 'done', 'undone')),
	undo   TEXT CHECK (json_valid(undo)),
	begun  TEXT NOT NULL,
	ended  TEXT,
	UNIQUE (record, name),
	CHECK ((state = 'begun') = (ended IS NULL))
) STRICT;
INSERT INTO step2 SELECT turn, record, name, state, undo, begun, ended FROM step;
DROP TABLE step;
DROP TABLE record;
ALTER TABLE record2 RENAME TO record;
ALTER TABLE step2 RENAME TO step;
CREATE UNIQUE INDEX record_unfinished ON record (status) WHERE status = 'applying';
`, `
ALTER TABLE record ADD COLUMN rotation TEXT CHECK (json_valid(rotation)); -- who signs from here on, once committed
ALTER TABLE app ADD COLUMN rotation INTEGER REFERENCES record (turn); -- committed, and not yet in the policy on disk
`, `
-- json_valid(NULL) is NULL, which a CHECK takes, since SQLite 3.45, and 0, which it
-- does not, before: an older one calls the file damaged. What is stored stays as it is,
-- so only the text of the schema changes, as "ALTER TABLE" of SQLite's manual says.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(replace(replace(sql,
	'CHECK (json_valid(from_release))', 'CHECK (from_release IS NULL OR json_valid(from_release))'),
	'CHECK (json_valid(bundle))', 'CHECK (bundle IS NULL OR json_valid(bundle))'),
	'CHECK (json_valid(rotation))', 'CHECK (rotation IS NULL OR json_valid(rotation))'),
	'CHECK (json_valid(undo))', 'CHECK (undo IS NULL OR json_valid(undo))')
	WHERE type = 'table' AND name IN ('record', 'step');
PRAGMA writable_schema = RESET;
`, `
ALTER TABLE record ADD COLUMN path TEXT CHECK (path IS NULL OR json_valid(path)); -- which of several updates it is
ALTER TABLE app ADD COLUMN path TEXT CHECK (path IS NULL OR json_valid(path)); -- that of the last one, until the target is reached
ALTER TABLE record ADD COLUMN log TEXT NOT NULL DEFAULT ''; -- what failed services printed last
`, `
ALTER TABLE record ADD COLUMN reason TEXT NOT NULL DEFAULT ''; -- the kind of the error
`, `
CREATE TABLE fleet ( -- what the server that steers the app wants, and was told
	key   TEXT PRIMARY KEY,
	value TEXT NOT NULL
) STRICT;
`, `
ALTER TABLE app ADD COLUMN rollout TEXT CHECK (rollout IS NULL OR json_valid(rollout)); -- the newest rollout file, and its signature
`}

// schemaVersion returns 0 for a file that has no schema yet, and an error for
// one that is not ours to read.
func schemaVersion(ctx context.Context, q querier, known int) (int, error) {
	var id, version, tables int
	for query, dst := range map[string]*int{
		"PRAGMA application_id":              &id,
		"PRAGMA user_version":                &version,
		"SELECT count(*) FROM sqlite_schema": &tables,
	} {
		if err := q.QueryRowContext(ctx, query).Scan(dst); err != nil {
			return 0, err
		}
	}
	switch {
	case id == 0 && version == 0 && tables == 0:
		return 0, nil
	case id != applicationID:
		return 0, errors.New("it is another program's database")
	case version > known:
		return 0, fmt.Errorf("%w: it has schema %d, this program knows up to %d", ErrNewer, version, known)
	}
	return version, nil
}

// migrate brings the file to the newest of list, all in one transaction, and
// enters the app. It refuses the record of another app.
func (s *Store) migrate(ctx context.Context, list []string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		version, err := schemaVersion(ctx, tx, len(list))
		if err != nil {
			return err
		}
		for i := version; i < len(list); i++ {
			if _, err := tx.ExecContext(ctx, list[i]); err != nil {
				return fmt.Errorf("migrate to schema %d: %w", i+1, err)
			}
		}
		if version < len(list) {
			if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, len(list))); err != nil {
				return err
			}
		}
		if version == 0 {
			if _, err := tx.ExecContext(ctx, "INSERT INTO app (one, name) VALUES (1, ?)", s.app); err != nil {
				return err
			}
		}
		return checkApp(ctx, tx, s.app)
	})
}

func checkApp(ctx context.Context, q querier, app string) error {
	var got string
	if err := q.QueryRowContext(ctx, "SELECT name FROM app").Scan(&got); err != nil {
		return err
	}
	if got != app {
		return fmt.Errorf("it is the record of app %q, want %q", got, app)
	}
	return nil
}
