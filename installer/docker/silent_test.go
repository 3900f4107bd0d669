package docker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// deaf is the address of an engine that takes connections and never answers, as one
// that was stopped.
func deaf(t *testing.T) string {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "unix://" + socket
}

// TestSilent: who does not answer is named, and nothing waits for ever.
func TestSilent(t *testing.T) {
	const wait = 50 * time.Millisecond
	silent := new(SilentError)
	_, err := Connect(t.Context(), deaf(t), wait)
	if !errors.As(err, new(*UnreachableError)) || !errors.As(err, &silent) || !strings.Contains(err.Error(), "the engine does not answer within 50ms") {
		t.Errorf("connect: %v", err)
	}
	e := fakeEngine{"GET /version": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}.start(t)
	e.answer = wait
	if _, err := e.Info(t.Context()); !errors.As(err, &silent) {
		t.Errorf("info: %v", err)
	}
	dir := t.TempDir()
	script(t, dir, "docker", "sleep 100000 & wait")
	if _, err := FindCompose(t.Context(), Env{Path: dir + ":/usr/bin:/bin", Answer: wait}); err == nil || !strings.Contains(err.Error(), "docker compose does not answer within 50ms") {
		t.Errorf("version: %v", err)
	}
	c := fakeCompose(t, "sleep 100000 & wait")
	c.Env.Answer = wait
	if err := c.Config(t.Context()); !errors.As(err, &silent) {
		t.Errorf("config: %v", err)
	}
	if _, err := c.Hashes(t.Context(), nil); !errors.As(err, &silent) {
		t.Errorf("hashes: %v", err)
	}
	// A caller in a hurry is told so, not that the engine hangs.
	cause := errors.New("the status has no time")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, cause)
	defer cancel()
	if _, err := Connect(ctx, deaf(t), time.Hour); !errors.Is(err, cause) {
		t.Errorf("in a hurry: %v", err)
	}
}

// TestPodman: an engine that speaks Docker's language and is not it is refused by name.
func TestPodman(t *testing.T) {
	e := fakeEngine{"GET /version": answer(`{"Platform":{"Name":"linux/amd64/debian-12"},"Components":[{"Name":"Podman Engine","Version":"4.3.1"},{"Name":"Conmon","Version":"2.1.6"}],"Version":"4.3.1","ApiVersion":"1.41","Os":"linux","Arch":"amd64"}`)}.start(t)
	if _, err := e.Info(t.Context()); !errors.As(err, new(*UnsupportedError)) || !strings.Contains(err.Error(), "Podman 4.3.1") || !strings.Contains(err.Error(), "without the layers that it has already") {
		t.Errorf("%v", err)
	}
}
