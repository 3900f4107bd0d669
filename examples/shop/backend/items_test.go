package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// memory is a store without a database.
type memory struct {
	items []item
	away  error
}

func (m *memory) ping(context.Context) error { return m.away }

func (m *memory) add(_ context.Context, name string) (item, error) {
	if m.away != nil {
		return item{}, m.away
	}
	m.items = append(m.items, item{ID: int64(len(m.items) + 1), Name: name})
	return m.items[len(m.items)-1], nil
}

func (m *memory) list(context.Context, int) ([]item, int, error) {
	return m.items, len(m.items), m.away
}

func TestHandler(t *testing.T) {
	version = "1.0.0"
	away := errors.New("connection refused")
	for _, test := range []struct {
		name, method, path, body string
		away                     error
		broken                   string
		status                   int
		want                     string
	}{
		{name: "healthy", method: "GET", path: "/health", status: 200, want: `{"database":"ok","status":"ok","version":"1.0.0"}`},
		{name: "database away", method: "GET", path: "/health", away: away, status: 503, want: `"database":"away"`},
		{name: "broken release", method: "GET", path: "/health", broken: "yes", status: 503, want: `"status":"failing"`},
		{name: "add", method: "POST", path: "/api/items", body: `{"name":" tea "}`, status: 201, want: `"name":"tea"`},
		{name: "add nothing", method: "POST", path: "/api/items", body: `{"name":" "}`, status: 400, want: "error"},
		{name: "add garbage", method: "POST", path: "/api/items", body: `{`, status: 400, want: "error"},
		{name: "add while away", method: "POST", path: "/api/items", body: `{"name":"tea"}`, away: away, status: 503, want: "error"},
		{name: "list", method: "GET", path: "/api/items", status: 200, want: `{"count":1,"items":[{"id":1,"name":"cup"`},
		{name: "list while away", method: "GET", path: "/api/items", away: away, status: 503, want: "error"},
		{name: "wrong method", method: "DELETE", path: "/api/items", status: 405, want: ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			broken = test.broken
			t.Cleanup(func() { broken = "" })
			s := &memory{items: []item{{ID: 1, Name: "cup"}}, away: test.away}
			w := httptest.NewRecorder()
			handler(s).ServeHTTP(w, httptest.NewRequest(test.method, test.path, strings.NewReader(test.body)))
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Errorf("got %d %s, want %d and %s", w.Code, w.Body, test.status, test.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	if err := check(server.URL); err != nil {
		t.Error(err)
	}
	status = http.StatusServiceUnavailable
	if err := check(server.URL); err == nil {
		t.Error("an unhealthy service passed the check")
	}
}
