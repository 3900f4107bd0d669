package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"log"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

type item struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
}

// store is where items are kept; the tests have another one than PostgreSQL.
type store interface {
	ping(ctx context.Context) error
	add(ctx context.Context, name string) (item, error)
	list(ctx context.Context, limit int) (items []item, count int, err error)
}

func handler(s store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/items", func(w http.ResponseWriter, r *http.Request) {
		items, count, err := s.list(r.Context(), 50)
		if err != nil {
			fail(w, err)
			return
		}
		reply(w, http.StatusOK, map[string]any{"count": count, "items": items})
	})
	mux.HandleFunc("POST /api/items", func(w http.ResponseWriter, r *http.Request) {
		var wanted struct{ Name string }
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&wanted)
		name := strings.TrimSpace(wanted.Name)
		if err != nil || name == "" || len(name) > 200 {
			reply(w, http.StatusBadRequest, map[string]string{"error": `want {"name": "..."}, 200 bytes at most`})
			return
		}
		added, err := s.add(r.Context(), name)
		if err != nil {
			fail(w, err)
			return
		}
		reply(w, http.StatusCreated, added)
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		status, health := http.StatusOK, map[string]string{"status": "ok", "version": version, "database": "ok"}
		if err := s.ping(ctx); err != nil {
			log.Printf("health: %v", err)
			status, health["status"], health["database"] = http.StatusServiceUnavailable, "failing", "away"
		}
		if broken == "yes" {
			status, health["status"] = http.StatusServiceUnavailable, "failing"
		}
		reply(w, status, health)
	})
	return mux
}

func fail(w http.ResponseWriter, err error) {
	log.Print(err)
	reply(w, http.StatusServiceUnavailable, map[string]string{"error": "the database does not answer"})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}

// postgres keeps items in a table that it makes when it first reaches the database.
type postgres struct {
	db    *sql.DB
	ready atomic.Bool
}

func (p *postgres) prepare(ctx context.Context) error {
	if p.ready.Load() {
		return nil
	}
	_, err := p.db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS items (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		name text NOT NULL,
		created_at timestamptz NOT NULL DEFAULT now())`)
	if err == nil {
		p.ready.Store(true)
	}
	return err
}

func (p *postgres) ping(ctx context.Context) error {
	if err := p.prepare(ctx); err != nil {
		return err
	}
	return p.db.PingContext(ctx)
}

func (p *postgres) add(ctx context.Context, name string) (item, error) {
	added := item{Name: name}
	if err := p.prepare(ctx); err != nil {
		return added, err
	}
	row := p.db.QueryRowContext(ctx, `INSERT INTO items (name) VALUES ($1) RETURNING id, created_at`, name)
	return added, row.Scan(&added.ID, &added.CreatedAt)
}

func (p *postgres) list(ctx context.Context, limit int) ([]item, int, error) {
	if err := p.prepare(ctx); err != nil {
		return nil, 0, err
	}
	var count int
	if err := p.db.QueryRowContext(ctx, `SELECT count(*) FROM items`).Scan(&count); err != nil {
		return nil, 0, err
	}
	rows, err := p.db.QueryContext(ctx, `SELECT id, name, created_at FROM items ORDER BY id DESC LIMIT $1`, limit)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	items := []item{}
	for rows.Next() {
		var i item
		if err := rows.Scan(&i.ID, &i.Name, &i.CreatedAt); err != nil {
			return nil, 0, err
		}
		items = append(items, i)
	}
	return items, count, rows.Err()
}
