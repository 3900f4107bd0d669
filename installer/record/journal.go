package record

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
)

// Begin implements installer.Journal. From must be the current release: a plan
// made before another update is refused. Only ID, Action, From, To, Path and Created
// are taken from r, of one that was Add-ed before only Action, From, To, Rotation, Path and, as
// the time it started, Created. Without room for the records of the way back only a
// rollback begins: that may be what makes room.
func (s *Store) Begin(ctx context.Context, r installer.Record) error {
	if err := s.reserve(); err != nil && r.Action != installer.ActionRollback {
		return wrap("begin", r.ID, err)
	}
	err := s.change(ctx, func(tx *sql.Tx) error {
		if r.ID == "" || r.To.Dir == "" {
			return errors.New("it has no id or no release directory")
		}
		// Checked now, because Commit must not fail on it.
		if _, err := bundle.ParseVersion(r.To.Version); err != nil {
			return err
		}
		var unfinished string
		err := tx.QueryRowContext(ctx, "SELECT id FROM record WHERE status = ?", installer.Applying).Scan(&unfinished)
		if err == nil {
			return fmt.Errorf("%w (record %s)", installer.ErrUnfinished, unfinished)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		current, _, _, err := loadApp(ctx, tx)
		if err != nil {
			return err
		}
		from := ""
		if r.From != nil {
			from = r.From.Dir
		}
		if from != current.String {
			return fmt.Errorf("it begins at release %q, but current is %q", from, current.String)
		}
		fromJSON, err := encodeJSON(r.From)
		if err != nil {
			return err
		}
		toJSON, err := encodeJSON(&r.To)
		if err != nil {
			return err
		}
		rotation, err := encodeJSON(r.Rotation)
		if err != nil {
			return err
		}
		path, err := beginPath(ctx, tx, r)
		if err != nil {
			return err
		}
		turn, added, err := find(ctx, tx, r.ID)
		if errors.Is(err, installer.ErrNoRecord) {
			_, err = tx.ExecContext(ctx, `INSERT INTO record (id, action, from_release, to_release, status, rotation, path, created, started) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
				r.ID, r.Action, fromJSON, toJSON, installer.Applying, rotation, path, encodeTime(r.Created), encodeTime(r.Created))
			return err
		}
		if err != nil {
			return err
		}
		if err := checkStatus(added.Status, installer.Applying); err != nil {
			return err
		}
		// What it waited for does not count any more: another cause may end it.
		_, err = tx.ExecContext(ctx, `UPDATE record SET action = ?, from_release = ?, to_release = ?, status = ?, rotation = ?, path = ?, error = '', reason = '', started = ? WHERE turn = ?`,
			r.Action, fromJSON, toJSON, installer.Applying, rotation, path, encodeTime(r.Created), turn)
		return err
	})
	return wrap("begin", r.ID, err)
}

// beginPath makes the path of r that of the app, and counts how many times its hop
// was tried.
func beginPath(ctx context.Context, tx *sql.Tx, r installer.Record) (sql.NullString, error) {
	var next *installer.Path
	if r.Path != nil {
		p := *r.Path
		p.Version, p.Try = r.To.Version, 1
		was, err := collect(ctx, tx, scanText, "SELECT path FROM app WHERE path IS NOT NULL")
		if err != nil {
			return sql.NullString{}, err
		}
		for _, text := range was {
			var before installer.Path
			if err := json.Unmarshal([]byte(text), &before); err != nil {
				return sql.NullString{}, err
			}
			if before.Version == p.Version {
				p.Try += before.Try
			}
		}
		next = &p
	}
	path, err := encodeJSON(next)
	if err == nil {
		_, err = tx.ExecContext(ctx, "UPDATE app SET path = ?", path)
	}
	return path, err
}

// StepBegun implements installer.Journal. A step that begins again is begun
// until it is done again.
func (s *Store) StepBegun(ctx context.Context, id, step string, undo json.RawMessage, at time.Time) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if r.Status != installer.Applying && r.Status != installer.Completed {
			return fmt.Errorf("it is %s", r.Status)
		}
		var data sql.NullString
		if undo != nil {
			data = sql.NullString{String: string(undo), Valid: true}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO step (record, name, state, undo, begun) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (record, name) DO UPDATE SET state = excluded.state, ended = NULL`,
			turn, step, installer.StepBegun, data, encodeTime(at))
		return err
	})
	return wrap("begin step "+step+" of", id, err)
}

// StepDone implements installer.Journal.
func (s *Store) StepDone(ctx context.Context, id, step string, at time.Time) error {
	return s.endStep(ctx, id, step, installer.StepDone, at)
}

// StepUndone implements installer.Journal. After the commit nothing is undone.
func (s *Store) StepUndone(ctx context.Context, id, step string, at time.Time) error {
	return s.endStep(ctx, id, step, installer.StepUndone, at)
}

func (s *Store) endStep(ctx context.Context, id, step string, state installer.StepState, at time.Time) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if r.Status != installer.Applying && (r.Status != installer.Completed || state != installer.StepDone) {
			return fmt.Errorf("it is %s", r.Status)
		}
		var old installer.StepState
		err = tx.QueryRowContext(ctx, "SELECT state FROM step WHERE record = ? AND name = ?", turn, step).Scan(&old)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return errors.New("the step never began")
		case err != nil || old == state:
			return err
		case old == installer.StepUndone:
			return errors.New("the step is undone")
		}
		_, err = tx.ExecContext(ctx, "UPDATE step SET state = ?, ended = ? WHERE record = ? AND name = ?", state, encodeTime(at), turn, step)
		return err
	})
	return wrap(fmt.Sprintf("mark step %s %s of", step, state), id, err)
}

// Commit implements installer.Journal. Steps that are still begun become done,
// and undo data goes: it may be large and hold secrets. When the record is a
// rollback, the record that brought the release it leaves becomes RolledBack.
func (s *Store) Commit(ctx context.Context, id string, at time.Time) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := checkStatus(r.Status, installer.Completed); err != nil {
			return err
		}
		_, previous, floor, err := loadApp(ctx, tx)
		if err != nil {
			return err
		}
		if floor, err = raise(floor, r.To.Version); err != nil {
			return err
		}
		// Installing the current release again leaves previous alone: a
		// release cannot be rolled back to itself.
		switch {
		case r.From == nil:
			previous = sql.NullString{}
		case r.From.Dir != r.To.Dir:
			previous = sql.NullString{String: r.From.Dir, Valid: true}
		}
		r.To.CommittedAt = at.UTC()
		to, err := encodeJSON(&r.To)
		if err != nil {
			return err
		}
		return execAll(ctx, tx, []statement{
			{`INSERT INTO release (dir, release, turn) VALUES (?, ?, (SELECT coalesce(max(turn), 0) + 1 FROM release))
				ON CONFLICT (dir) DO UPDATE SET release = excluded.release, turn = excluded.turn`, []any{r.To.Dir, to}},
			{`UPDATE app SET current = ?, previous = ?, floor = ?`, []any{r.To.Dir, previous, floor}},
			{`UPDATE app SET rotation = ? WHERE (SELECT rotation FROM record WHERE turn = ?) IS NOT NULL`, []any{turn, turn}},
			{`UPDATE app SET path = NULL WHERE json_extract(path, '$.hop') >= json_extract(path, '$.hops')`, nil},
			{`DELETE FROM bad WHERE version = ?`, []any{r.To.Version}},
			{`UPDATE step SET state = ?, ended = ? WHERE record = ? AND state = ?`, []any{installer.StepDone, encodeTime(at), turn, installer.StepBegun}},
			{forgetUndo, []any{turn}},
			{`UPDATE record SET status = ?, to_release = ?, ended = ? WHERE turn = ?`, []any{installer.Completed, to, encodeTime(at), turn}},
			{`UPDATE record SET status = ?, error = ?, reason = 'by-hand' WHERE turn = (
				SELECT max(old.turn) FROM record old, record new
				WHERE new.turn = ? AND new.action = ? AND old.status = ? AND old.turn <> new.turn
				AND json_extract(new.to_release, '$.dir') <> json_extract(new.from_release, '$.dir') -- else only data was restored
				AND json_extract(old.to_release, '$.dir') = json_extract(new.from_release, '$.dir')
				AND json_extract(old.to_release, '$.dir') IS NOT json_extract(old.from_release, '$.dir'))`, // of a repair
				[]any{installer.RolledBack, "rolled back by hand to " + r.To.Version, turn, installer.ActionRollback, installer.Completed}},
		})
	})
	return wrap("commit", id, err)
}

// Fail implements installer.Journal. When the record is committed it does
// nothing: a Commit that returned an error may have happened all the same, and
// then nothing is undone. Load tells.
func (s *Store) Fail(ctx context.Context, id string, cause error, bad bool) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err != nil || r.Status == installer.Completed {
			return err
		}
		if err := checkStatus(r.Status, installer.Failed); err != nil {
			return err
		}
		statements := []statement{{`UPDATE record SET error = ?, reason = ? WHERE turn = ? AND error = ''`, []any{plain.Text(cause.Error()), installer.ReasonOf(cause), turn}}}
		if bad {
			statements = append(statements, statement{`INSERT INTO bad (version) VALUES (?) ON CONFLICT DO NOTHING`, []any{r.To.Version}},
				statement{`UPDATE app SET path = NULL`, nil})
		}
		return execAll(ctx, tx, statements)
	})
	return wrap("fail", id, err)
}

// Attention implements installer.Journal. The last cause stays.
func (s *Store) Attention(ctx context.Context, id, cause string) error {
	cause = plain.Text(cause)
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err != nil {
			return err
		}
		if r.Status != installer.Applying {
			return fmt.Errorf("it is %s", r.Status)
		}
		_, err = tx.ExecContext(ctx, `UPDATE record SET attention = ? WHERE turn = ?`, cause, turn)
		return err
	})
	return wrap("note attention for", id, err)
}

// Said implements installer.Journal.
func (s *Store) Said(ctx context.Context, id, log string) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		if err == nil && r.Status != installer.Applying {
			err = fmt.Errorf("it is %s", r.Status)
		}
		if err == nil {
			_, err = tx.ExecContext(ctx, `UPDATE record SET log = ? WHERE turn = ?`, plain.Text(log), turn)
		}
		return err
	})
	return wrap("note what was printed for", id, err)
}

// End implements installer.Journal. All is undone by then, so what Attention
// noted is cleared, and so is the undo data. A committed record is past the point of no return and
// cannot end.
func (s *Store) End(ctx context.Context, id string, status installer.Status, at time.Time) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		turn, r, err := find(ctx, tx, id)
		switch {
		case err != nil:
			return err
		case status == installer.Completed:
			return errors.New("only a commit completes it")
		case r.Status == installer.Completed:
			return errors.New("it is committed")
		}
		if err := checkStatus(r.Status, status); err != nil {
			return err
		}
		return execAll(ctx, tx, []statement{
			{`UPDATE record SET status = ?, attention = '', ended = ? WHERE turn = ?`, []any{status, encodeTime(at), turn}},
			{forgetUndo, []any{turn}},
		})
	})
	return wrap("end", id, err)
}

// Rotated implements installer.Journal.
func (s *Store) Rotated(ctx context.Context) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE app SET rotation = NULL")
		return err
	})
	if err != nil {
		return fmt.Errorf("note rotation: %w", err)
	}
	return nil
}

// Forget implements installer.Journal. Unknown names are fine. Nothing is
// forgotten when one name is refused.
func (s *Store) Forget(ctx context.Context, dirs []string) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		current, previous, _, err := loadApp(ctx, tx)
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if dir == current.String || dir == previous.String {
				return fmt.Errorf("%s is the current or the previous release", dir)
			}
			if _, err := tx.ExecContext(ctx, "DELETE FROM release WHERE dir = ?", dir); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget releases: %w", err)
	}
	return nil
}

// raise returns the higher one of floor and version, by SemVer. Build metadata has no
// order: of two versions that differ in nothing else, the later one counts, because
// the operator forced it.
func raise(floor, version string) (string, error) {
	v, err := bundle.ParseVersion(version)
	if err != nil {
		return "", err
	}
	if floor == "" {
		return version, nil
	}
	f, err := bundle.ParseVersion(floor)
	if err != nil {
		return "", fmt.Errorf("read floor: %w", err)
	}
	if f.GreaterThan(v) {
		return floor, nil
	}
	return version, nil
}

func checkStatus(old, next installer.Status) error {
	if !old.CanBecome(next) {
		return fmt.Errorf("it is %s and cannot become %s", old, next)
	}
	return nil
}

// find returns the record id, without its steps.
func find(ctx context.Context, tx *sql.Tx, id string) (turn int64, r installer.Record, err error) {
	turn, r, err = scanRecord(tx.QueryRowContext(ctx, selectRecord+" WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		err = installer.ErrNoRecord
	}
	return turn, r, err
}

const forgetUndo = `UPDATE step SET undo = NULL WHERE record = ?`

type statement struct {
	query string
	args  []any
}

func execAll(ctx context.Context, tx *sql.Tx, statements []statement) error {
	for _, st := range statements {
		if _, err := tx.ExecContext(ctx, st.query, st.args...); err != nil {
			return err
		}
	}
	return nil
}

func wrap(verb, id string, err error) error {
	if err != nil {
		return fmt.Errorf("%s record %s: %w", verb, id, err)
	}
	return nil
}
