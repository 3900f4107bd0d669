package record

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
)

// What happens to a record outside a transaction: somebody hands over a bundle
// or announces one, it is looked at, refused, tried again or deleted.

// Add adds a record that is Pending, Downloading, or Failed at once: an update,
// unless r says otherwise. From is not taken from r: it is what runs when the
// transaction begins.
func (s *Store) Add(ctx context.Context, r installer.Record) error {
	r.Error, r.By, r.To.Version = plain.Text(r.Error), plain.Text(r.By), plain.Text(r.To.Version)
	err := s.change(ctx, func(tx *sql.Tx) error {
		if r.ID == "" {
			return errors.New("it has no id")
		}
		if _, err := bundle.ParseVersion(r.To.Version); err != nil && r.Status != installer.Failed {
			return err
		}
		var ended sql.NullString
		switch r.Status {
		case installer.Pending, installer.Downloading:
		case installer.Failed:
			ended = sql.NullString{String: encodeTime(r.Created), Valid: true}
		default:
			return fmt.Errorf("it is %s, want pending, downloading or failed", r.Status)
		}
		to, err := encodeJSON(&r.To)
		if err != nil {
			return err
		}
		file, err := encodeBundle(r.Bundle)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO record (id, action, to_release, status, error, reason, changelog, bundle, actor, created, ended) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.ID, cmp.Or(r.Action, installer.ActionUpdate), to, r.Status, r.Error, r.Reason, r.Changelog, file, r.By, encodeTime(r.Created), ended)
		return err
	})
	return wrap("add", r.ID, err)
}

// Become moves a record to Pending, Downloading, Verifying or Failed. Failed has a
// cause, and Pending where something blocked it. What an earlier try left goes when it is Pending again.
func (s *Store) Become(ctx context.Context, id string, next installer.Status, cause error, at time.Time) error {
	text, reason := "", ""
	if cause != nil {
		text, reason = plain.Text(cause.Error()), installer.ReasonOf(cause)
	}
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if r.Status == installer.Applying || next == installer.Applying || next == installer.Completed || next == installer.RolledBack {
			return errors.New("only a transaction may do that")
		}
		if err := checkStatus(r.Status, next); err != nil {
			return err
		}
		switch next {
		case installer.Pending:
			return execAll(ctx, tx, []statement{
				{`DELETE FROM step WHERE record = ?`, []any{turn}},
				{`UPDATE record SET status = ?, error = ?, reason = ?, attention = '', started = NULL, ended = NULL WHERE turn = ?`, []any{next, text, reason, turn}},
			})
		case installer.Failed:
			_, err = tx.ExecContext(ctx, `UPDATE record SET status = ?, error = ?, reason = ?, ended = ? WHERE turn = ?`, next, text, reason, encodeTime(at), turn)
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE record SET status = ?, started = coalesce(started, ?) WHERE turn = ?`, next, encodeTime(at), turn)
		return err
	})
	return wrap(fmt.Sprintf("mark as %s", next), id, err)
}

// SetBundle says which file a record is about; nil when it is gone. changelog
// replaces the one it has, unless it is empty.
func (s *Store) SetBundle(ctx context.Context, id string, b *installer.Bundle, changelog string) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, _, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		file, err := encodeBundle(b)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE record SET bundle = ?, changelog = CASE ?2 WHEN '' THEN changelog ELSE ?2 END WHERE turn = ?3`, file, changelog, turn)
		return err
	})
	return wrap("set bundle of", id, err)
}

// Note says by whom the next try of a record was asked for.
func (s *Store) Note(ctx context.Context, id, by string) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE record SET actor = ? WHERE id = ?`, by, id)
		return err
	})
	return wrap("note actor of", id, err)
}

// Delete removes a record from the history. One that is being worked on stays.
func (s *Store) Delete(ctx context.Context, id string) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		switch r.Status {
		case installer.Downloading, installer.Verifying, installer.Applying:
			return fmt.Errorf("it is %s", r.Status)
		}
		return execAll(ctx, tx, []statement{
			{`DELETE FROM step WHERE record = ?`, []any{turn}},
			{`DELETE FROM record WHERE turn = ?`, []any{turn}},
		})
	})
	return wrap("delete", id, err)
}

// Get returns one record, steps included.
func (s *Store) Get(ctx context.Context, id string) (installer.Record, error) {
	var found []installer.Record
	err := s.view(ctx, func(tx *sql.Tx) (err error) {
		found, err = loadRecords(ctx, tx, " WHERE id = ?", id)
		return err
	})
	if err == nil && len(found) == 0 {
		err = installer.ErrNoRecord
	}
	if err != nil {
		return installer.Record{}, wrap("get", id, err)
	}
	return found[0], nil
}

// Find returns the newest records in one of the states, all when there are
// none, and how many there are without the limit.
func (s *Store) Find(ctx context.Context, states []installer.Status, limit, offset int) (records []installer.Record, total int, err error) {
	where, args := "", []any{}
	if len(states) > 0 {
		where = " WHERE status IN (?" + strings.Repeat(", ?", len(states)-1) + ")"
		for _, st := range states {
			args = append(args, st)
		}
	}
	err = s.view(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM record"+where, args...).Scan(&total); err != nil {
			return err
		}
		records, err = loadRecords(ctx, tx, where+" ORDER BY turn DESC LIMIT ? OFFSET ?", append(args, limit, offset)...)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read history: %w", err)
	}
	return records, total, nil
}

func encodeBundle(b *installer.Bundle) (sql.NullString, error) {
	if b == nil {
		return sql.NullString{}, nil
	}
	text, err := json.Marshal(b)
	return sql.NullString{String: string(text), Valid: true}, err
}

// OfFile returns the records about a file that is still there, newest first.
func (s *Store) OfFile(ctx context.Context, file string) (records []installer.Record, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		records, err = loadRecords(ctx, tx, " WHERE json_extract(bundle, '$.file') = ? ORDER BY turn DESC", file)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return records, nil
}

// SetRollout keeps a rollout file in place of one with a lower sequence, or of one with
// the sequence instead, which counts no more.
func (s *Store) SetRollout(ctx context.Context, r installer.Rollout, instead int64) error {
	text, err := encodeJSON(&r)
	if err == nil {
		err = s.change(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE app SET rollout = ? WHERE rollout IS NULL OR rollout ->> 'sequence' < ? OR rollout ->> 'sequence' = ?", text, r.Sequence, instead)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("keep rollout file: %w", err)
	}
	return nil
}
