package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "backend "+r.Method+" "+r.URL.Path)
	}))
	defer backend.Close()
	to, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/":          "<title>Shop</title>",
		"/style.css": "font-family",
		"/api/items": "backend GET /api/items",
		"/health":    "backend GET /health",
	} {
		w := httptest.NewRecorder()
		handler("site", to).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d %s, want %q", path, w.Code, w.Body, want)
		}
	}
}
