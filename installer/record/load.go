package record

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/valise-ota/valise/installer"
)

// Load implements installer.Journal: one consistent state.
func (s *Store) Load(ctx context.Context) (installer.State, error) {
	state := installer.State{App: s.app}
	err := s.view(ctx, func(tx *sql.Tx) error {
		current, previous, floor, err := loadApp(ctx, tx)
		if err != nil {
			return err
		}
		state.Floor = floor
		if state.Kept, err = collect(ctx, tx, scanRelease, "SELECT release FROM release ORDER BY turn DESC"); err != nil {
			return err
		}
		for _, r := range state.Kept {
			if r.Dir == current.String {
				state.Current = &r
			}
			if r.Dir == previous.String {
				state.Previous = &r
			}
		}
		if state.Bad, err = collect(ctx, tx, scanText, "SELECT version FROM bad ORDER BY turn"); err != nil {
			return err
		}
		rotation, err := collect(ctx, tx, scanText, "SELECT rotation FROM record WHERE turn = (SELECT rotation FROM app)")
		if err != nil {
			return err
		}
		for _, text := range rotation {
			if err := json.Unmarshal([]byte(text), &state.Rotation); err != nil {
				return err
			}
		}
		path, err := collect(ctx, tx, scanText, "SELECT path FROM app WHERE path IS NOT NULL")
		if err != nil {
			return err
		}
		for _, text := range path {
			if err := json.Unmarshal([]byte(text), &state.Path); err != nil {
				return err
			}
		}
		held, err := collect(ctx, tx, scanText, "SELECT rollout FROM app WHERE rollout IS NOT NULL")
		if err != nil {
			return err
		}
		for _, text := range held {
			if err := json.Unmarshal([]byte(text), &state.Rollout); err != nil {
				return err
			}
		}
		unfinished, err := loadRecords(ctx, tx, " WHERE status = ?", installer.Applying)
		if err != nil || len(unfinished) == 0 {
			return err
		}
		state.Unfinished = &unfinished[0]
		return nil
	})
	if err != nil {
		return installer.State{}, fmt.Errorf("load record: %w", err)
	}
	return state, nil
}

// History implements installer.Journal. A negative limit means all.
func (s *Store) History(ctx context.Context, limit, offset int) (records []installer.Record, err error) {
	err = s.view(ctx, func(tx *sql.Tx) error {
		records, err = loadRecords(ctx, tx, " ORDER BY turn DESC LIMIT ? OFFSET ?", limit, offset)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return records, nil
}

func loadApp(ctx context.Context, tx *sql.Tx) (current, previous sql.NullString, floor string, err error) {
	err = tx.QueryRowContext(ctx, "SELECT current, previous, floor FROM app").Scan(&current, &previous, &floor)
	return current, previous, floor, err
}

const selectRecord = `SELECT turn, id, action, from_release, to_release, status, error, reason, log, attention, changelog, bundle, actor, rotation, path, created, started, ended FROM record`

// loadRecords returns records with their steps.
func loadRecords(ctx context.Context, tx *sql.Tx, where string, args ...any) ([]installer.Record, error) {
	type numbered struct {
		turn int64
		installer.Record
	}
	found, err := collect(ctx, tx, func(row scanner) (numbered, error) {
		turn, r, err := scanRecord(row)
		return numbered{turn, r}, err
	}, selectRecord+where, args...)
	if err != nil {
		return nil, err
	}
	var records []installer.Record
	for _, r := range found {
		r.Steps, err = collect(ctx, tx, scanStep, "SELECT name, state, undo, begun, ended FROM step WHERE record = ? ORDER BY turn", r.turn)
		if err != nil {
			return nil, err
		}
		records = append(records, r.Record)
	}
	return records, nil
}

type scanner interface{ Scan(dst ...any) error }

// collect reads every row before the next query: there is one connection.
func collect[T any](ctx context.Context, tx *sql.Tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

func scanText(row scanner) (s string, err error) {
	err = row.Scan(&s)
	return s, err
}

func scanRelease(row scanner) (r installer.Release, err error) {
	var text string
	if err := row.Scan(&text); err != nil {
		return r, err
	}
	err = json.Unmarshal([]byte(text), &r)
	return r, err
}

func scanRecord(row scanner) (turn int64, r installer.Record, err error) {
	var from, file, rotation, path, started, ended sql.NullString
	var to, created string
	if err := row.Scan(&turn, &r.ID, &r.Action, &from, &to, &r.Status, &r.Error, &r.Reason, &r.Log, &r.Attention, &r.Changelog, &file, &r.By, &rotation, &path, &created, &started, &ended); err != nil {
		return 0, r, err
	}
	if rotation.Valid {
		if err := json.Unmarshal([]byte(rotation.String), &r.Rotation); err != nil {
			return 0, r, err
		}
	}
	if path.Valid {
		if err := json.Unmarshal([]byte(path.String), &r.Path); err != nil {
			return 0, r, err
		}
	}
	if file.Valid {
		if err := json.Unmarshal([]byte(file.String), &r.Bundle); err != nil {
			return 0, r, err
		}
	}
	if from.Valid {
		if err := json.Unmarshal([]byte(from.String), &r.From); err != nil {
			return 0, r, err
		}
	}
	if err := json.Unmarshal([]byte(to), &r.To); err != nil {
		return 0, r, err
	}
	if r.Created, err = decodeTime(sql.NullString{String: created, Valid: true}); err != nil {
		return 0, r, err
	}
	if r.Started, err = decodeTime(started); err != nil {
		return 0, r, err
	}
	r.Ended, err = decodeTime(ended)
	return turn, r, err
}

func scanStep(row scanner) (st installer.Step, err error) {
	var undo, ended sql.NullString
	var begun string
	if err := row.Scan(&st.Name, &st.State, &undo, &begun, &ended); err != nil {
		return st, err
	}
	if undo.Valid {
		st.Undo = json.RawMessage(undo.String)
	}
	if st.Begun, err = decodeTime(sql.NullString{String: begun, Valid: true}); err != nil {
		return st, err
	}
	st.Ended, err = decodeTime(ended)
	return st, err
}

// encodeJSON returns NULL for nothing.
func encodeJSON[T any](v *T) (sql.NullString, error) {
	if v == nil {
		return sql.NullString{}, nil
	}
	b, err := json.Marshal(v)
	return sql.NullString{String: string(b), Valid: true}, err
}

// Times are text, in UTC, for the technician who opens the file with sqlite3.
func encodeTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func decodeTime(s sql.NullString) (time.Time, error) {
	if !s.Valid {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, s.String)
}
