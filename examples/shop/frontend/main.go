// Command frontend serves the shop's page and passes /api/ and /health on to the backend.
//
// It does not know its version: its layer stays the same from release to release.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{
		Addr:              ":8080",
		Handler:           handler("/srv/site", &url.URL{Scheme: "http", Host: "backend:8080"}),
		ReadHeaderTimeout: 5 * time.Second,
	}
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	}()
	log.Printf("the shop's page is on %s", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func handler(site string, backend *url.URL) http.Handler {
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend)
		r.SetXForwarded()
	}}
	mux := http.NewServeMux()
	mux.Handle("/api/", proxy)
	mux.Handle("/health", proxy)
	mux.Handle("/", http.FileServer(http.Dir(site)))
	return mux
}
