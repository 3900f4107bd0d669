package compose

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer/docker"
)

// engine is one that serves in dir.
func engine(t *testing.T, dir string, serves http.Handler) *docker.Engine {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(serves)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	e, err := docker.Connect(t.Context(), "unix://"+filepath.Join(dir, "s"), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// TestRemedy: where docker compose cannot start what ran before, the engine is restarted
// for a port that it holds, or what does not run is recreated; where neither helps,
// nothing is touched.
func TestRemedy(t *testing.T) {
	held := errors.New("Bind for 127.0.0.1:8080 failed: port is already allocated")
	gone := errors.New("RWLayer of container 44909caf1bed is unexpectedly nil")
	for _, tt := range []struct {
		name    string
		cause   error
		states  map[string]string // of containers, by service
		restart func(context.Context) error
		want    bool
		did     string
	}{
		{"port", held, nil, func(context.Context) error { return nil }, true, "restart"},
		{"port, and the engine is not ours", held, nil, nil, false, ""},
		{"port, and the engine does not come back", held, nil, func(context.Context) error { return errors.New("no") }, false, "restart"},
		{"files of a container", gone, map[string]string{"app": "exited", "db": "running"}, nil, true, "up -d --no-build --pull never --no-deps --force-recreate -- app"},
		{"everything runs", gone, map[string]string{"app": "running"}, nil, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			var list []string
			mux := http.NewServeMux()
			mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
			for service, state := range tt.states {
				list = append(list, fmt.Sprintf(`{"Id":%q,"Names":["/%s"],"Labels":{"com.docker.compose.service":%q}}`, service, service, service))
				mux.HandleFunc("/v1.41/containers/"+service+"/json", func(w http.ResponseWriter, _ *http.Request) {
					fmt.Fprintf(w, `{"Id":%q,"State":{"Status":%q,"StartedAt":"2026-01-02T03:04:05Z"},"HostConfig":{"RestartPolicy":{"Name":"always"}}}`, service, state)
				})
			}
			mux.HandleFunc("/v1.41/containers/json", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "[%s]", strings.Join(list, ",")) })
			e := engine(t, dir, mux)
			program, did := filepath.Join(dir, "compose"), filepath.Join(dir, "did")
			if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" | sed 's/.* up /up /' >"+did+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			a := &App{Name: "shop", Engine: e}
			if tt.restart != nil {
				a.RestartEngine = func(ctx context.Context) error {
					if err := os.WriteFile(did, []byte("restart\n"), 0o600); err != nil {
						t.Fatal(err)
					}
					return tt.restart(ctx)
				}
			}
			c := &docker.Compose{Program: docker.Program{Command: []string{program}, Version: "5.5.1"}, Env: docker.Env{Path: "/usr/bin:/bin"}, Engine: e, Project: "shop", Dir: dir}
			got := a.remedy(t.Context(), c, tt.cause)
			said, _ := os.ReadFile(did) // what was not done left none
			if got != tt.want || strings.TrimSpace(string(said)) != tt.did {
				t.Errorf("got %v, did %q; want %v, %q", got, said, tt.want, tt.did)
			}
		})
	}
}
