// Command backend is the shop's service: it stores items in PostgreSQL.
//
//	GET  /api/items   {"count": 2, "items": [{"id": 2, "name": "tea", "created_at": "..."}, ...]}, newest first
//	POST /api/items   {"name": "tea"} -> 201 and the item
//	GET  /health      {"status": "ok", "version": "1.0.0", "database": "ok"}, 503 when it is not well
//
// "backend check" asks a running one for its health and exits with 0 or 1: the image has no other HTTP client.
// Environment: DATABASE_URL, or DB_PASSWORD for the database of compose.yaml.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/lib/pq"
)

// Set by build.sh.
var (
	version = "0.0.0"
	broken  = "" // "yes": this release never gets healthy
)

const address = ":8080"

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == "check" {
		err = check("http://127.0.0.1" + address + "/health")
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = serve(ctx, databaseURL(os.Getenv))
		stop()
	}
	if err != nil {
		log.Fatal(err)
	}
}

func databaseURL(getenv func(string) string) string {
	if u := getenv("DATABASE_URL"); u != "" {
		return u
	}
	u := url.URL{
		Scheme: "postgres", Host: "db:5432", Path: "shop", RawQuery: "sslmode=disable&connect_timeout=2",
		User: url.UserPassword("shop", getenv("DB_PASSWORD")),
	}
	return u.String()
}

func serve(ctx context.Context, databaseURL string) error {
	db, err := sql.Open("postgres", databaseURL)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(8)
	server := &http.Server{
		Addr:              address,
		Handler:           handler(&postgres{db: db}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Printf("shop %s listens on %s", version, address)
	return listen(ctx, server)
}

// listen serves until ctx is done, then lets open requests finish.
func listen(ctx context.Context, server *http.Server) error {
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

func check(url string) error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
