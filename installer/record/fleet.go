package record

import (
	"context"
	"database/sql"
	"fmt"
)

// FleetNotes are what has to be remembered of the server that steers the app.
func (s *Store) FleetNotes(ctx context.Context) (map[string]string, error) {
	notes := map[string]string{}
	err := s.view(ctx, func(tx *sql.Tx) error {
		rows, err := collect(ctx, tx, func(row scanner) (kv [2]string, err error) {
			err = row.Scan(&kv[0], &kv[1])
			return kv, err
		}, "SELECT key, value FROM fleet")
		for _, kv := range rows {
			notes[kv[0]] = kv[1]
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what the fleet server was told: %w", err)
	}
	return notes, nil
}

// SetFleetNote keeps a value under a key; an empty one removes it.
func (s *Store) SetFleetNote(ctx context.Context, key, value string) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		query, args := "INSERT INTO fleet (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", []any{key, value}
		if value == "" {
			query, args = "DELETE FROM fleet WHERE key = ?", args[:1]
		}
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("note what the fleet server was told: %w", err)
	}
	return nil
}
