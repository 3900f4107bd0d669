package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var started = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func running(service string) Container {
	return Container{ID: "id-" + service, Service: service, State: "running", StartedAt: started}
}

func with(c Container, change func(*Container)) Container { change(&c); return c }

// script answers Ps with one list per attempt, the last one for ever.
func script(calls *int, lists ...[]Container) func(context.Context) ([]Container, error) {
	return func(context.Context) ([]Container, error) {
		*calls++
		return lists[min(*calls, len(lists))-1], nil
	}
}

func TestServices(t *testing.T) {
	db, api := running("db"), running("api")
	restarted := func(n int) Container {
		return with(api, func(c *Container) { c.RestartCount = n; c.StartedAt = started.Add(time.Duration(n) * time.Second) })
	}
	starting := with(db, func(c *Container) { c.Health = "starting" })
	healthy := with(db, func(c *Container) { c.Health = "healthy" })
	for _, tt := range []struct {
		name     string
		lists    [][]Container
		retries  int
		want     string // in the error
		attempts int
	}{
		{"all run", [][]Container{{db, api}}, 10, "", 2},
		{"one attempt is not enough", [][]Container{{db, api}}, 1, "", 2},
		{"others do not matter", [][]Container{{db, api, {Service: "job", State: "exited"}}}, 10, "", 2},
		{"becomes healthy", [][]Container{{starting, api}, {starting, api}, {healthy, api}}, 10, "", 3},
		{"stays starting", [][]Container{{starting, api}}, 3, "not healthy after 3 attempts: service db is starting, want healthy", 3},
		{"unhealthy", [][]Container{{with(db, func(c *Container) { c.Health = "unhealthy" }), api}}, 3, "service db is unhealthy, want healthy", 3},
		{"exited", [][]Container{{db, with(api, func(c *Container) { c.State = "exited" })}}, 3, "service api is exited (0 restarts), want running", 3},
		{"missing", [][]Container{{db}}, 3, "service api has no container", 3},
		{"restart loop seen running", [][]Container{{db, api}, {db, restarted(1)}, {db, restarted(2)}}, 3, "service api is in a restart loop: it started again since the attempt before (state running, 2 restarts)", 3},
		{"restarted by hand", [][]Container{{db, api}, {db, with(api, func(c *Container) { c.StartedAt = started.Add(1) })}}, 2, "restart loop", 2},
		{"settles after restarts", [][]Container{{db, api}, {db, restarted(1)}, {db, restarted(2)}, {db, restarted(2)}}, 10, "", 5}, // it has run for 10 s then
		{"restarted long ago", [][]Container{{db, with(api, func(c *Container) { c.RestartCount, c.StartedAt = 3, time.Time{} })}}, 10, "", 2},
		{"another ended with an error", [][]Container{{db, api, {Service: "web", State: "exited", ExitCode: 1}}}, 3, "service web ended with status 1", 3},
		{"another waits to be restarted", [][]Container{{db, api, {Service: "job", State: "restarting", RestartCount: 2}}}, 3, "service job is in a restart loop: it waits", 3},
		{"replaced each time", [][]Container{{db, api}, {db, with(api, func(c *Container) { c.ID = "x" })}}, 2, "only just been seen", 2},
		{"second replica is down", [][]Container{{db, api, with(api, func(c *Container) { c.ID, c.State = "id-api-2", "restarting" })}}, 2, "service api is in a restart loop: it waits", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls, begin := 0, time.Now()
				err := Probe(t.Context(), Checks{Services: []string{"db", "api"}, Retries: tt.retries, Interval: 5 * time.Second}, Deps{Ps: script(&calls, tt.lists...)})
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Probe: %v, want %q", err, tt.want)
				}
				if d := time.Since(begin); calls != tt.attempts || d != time.Duration(calls-1)*5*time.Second {
					t.Errorf("%d attempts in %s, want %d with 5s between them", calls, d, tt.attempts)
				}
			})
		})
	}
}

// TestEnds: what may end must end well, and what must end is not healthy before.
func TestEnds(t *testing.T) {
	api, job := running("api"), running("job")
	ended := func(code int) Container {
		return with(job, func(c *Container) { c.State, c.ExitCode = "exited", code })
	}
	for _, tt := range []struct {
		name  string
		must  bool
		named bool // in the health check, by hand
		job   Container
		want  string
	}{
		{"ended", true, false, ended(0), ""},
		{"ended, and named", true, true, ended(0), ""},
		{"failed", false, false, ended(3), "service job ended with status 3, want 0"},
		{"failed, and named", false, true, ended(137), "service job ended with status 137, want 0"},
		{"runs and may", false, true, job, ""},
		{"runs and must end", true, true, job, "service job is running, want that it ends with status 0"},
		{"waits for others", true, false, with(job, func(c *Container) { c.State = "created" }), "service job is created, want that it ends"},
		{"needed a second attempt", true, true, with(ended(0), func(c *Container) { c.RestartCount = 1 }), ""},
		{"two of it, one failed", false, true, with(ended(1), func(c *Container) { c.ID = "2" }), "ended with status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				checks := Checks{Services: []string{"api"}, Ends: map[string]bool{"job": tt.must}, Retries: 3, Interval: time.Second}
				if tt.named {
					checks.Services = append(checks.Services, "job")
				}
				list := []Container{api, tt.job}
				if tt.job.ID == "2" {
					list = append(list, ended(0))
				}
				err := Probe(t.Context(), checks, Deps{Ps: script(&calls, list)})
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Probe: %v, want %q", err, tt.want)
				}
			})
		})
	}
}

// roundTripper is an HTTP server without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func respond(status int, body string, header ...string) *http.Response {
	res := &http.Response{StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for i := 0; i+1 < len(header); i += 2 {
		res.Header.Set(header[i], header[i+1])
	}
	return res
}

func versionIs(member, version string) map[string]string {
	if member == "" {
		return nil
	}
	return map[string]string{member: version}
}

func TestHTTP(t *testing.T) {
	const health = "http://127.0.0.1:8080/health"
	hang := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	for _, tt := range []struct {
		name    string
		member  string
		rt      roundTripper
		want    string
		seconds int // two attempts, 1 s apart
	}{
		{"ok", "", func(*http.Request) (*http.Response, error) { return respond(200, "fine"), nil }, "", 0},
		{"version", "version", func(*http.Request) (*http.Response, error) {
			return respond(200, `{"status":"ok","version":"2.1.0"}`), nil
		}, "", 0},
		{"old version", "version", func(*http.Request) (*http.Response, error) { return respond(200, `{"version":"2.0.0"}`), nil }, `not healthy after 2 attempts: check ` + health + `: version is "2.0.0", want "2.1.0"`, 1},
		{"no version", "version", func(*http.Request) (*http.Response, error) { return respond(200, `{"Version":"2.1.0"}`), nil }, `answer has no version: no member "version"`, 1},
		{"number", "version", func(*http.Request) (*http.Response, error) { return respond(200, `{"version":2}`), nil }, `version is "2", want "2.1.0"`, 1},
		{"no JSON", "version", func(*http.Request) (*http.Response, error) { return respond(200, "<html>"), nil }, "not a JSON object", 1},
		{"503", "", func(*http.Request) (*http.Response, error) { return respond(503, ""), nil }, "answers 503 Service Unavailable, want 200", 1},
		{"204", "", func(*http.Request) (*http.Response, error) { return respond(204, ""), nil }, "answers 204", 1},
		{"refused", "", func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }, "check " + health + ": connection refused", 1},
		{"hangs", "", hang, "no answer within 5s", 11},
		{"too long", "", func(*http.Request) (*http.Response, error) { return respond(200, strings.Repeat("x", maxBody+1)), nil }, "longer than 1048576 bytes", 1},
		{"just fits", "", func(*http.Request) (*http.Response, error) { return respond(200, strings.Repeat("x", maxBody)), nil }, "", 0},
		{"redirect on the host", "", func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/health" {
				return respond(302, "", "Location", "/healthz"), nil
			}
			return respond(200, ""), nil
		}, "", 0},
		{"redirect elsewhere", "", func(r *http.Request) (*http.Response, error) {
			if r.URL.Hostname() != "127.0.0.1" {
				t.Errorf("asked %s", r.URL)
			}
			return respond(302, "", "Location", "http://example.test/"), nil
		}, `answers 302 Found to "http://example.test/", want 200`, 1},
		{"redirect loop", "", func(*http.Request) (*http.Response, error) { return respond(302, "", "Location", "/health"), nil }, "answers 302", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				err := Probe(t.Context(), Checks{URL: health, JSON: versionIs(tt.member, "2.1.0"), Retries: 2, Interval: time.Second}, Deps{Transport: tt.rt})
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Probe: %v, want %q", err, tt.want)
				}
				if d := time.Since(begin); d != time.Duration(tt.seconds)*time.Second {
					t.Errorf("took %s, want %ds", d, tt.seconds)
				}
			})
		})
	}
}

// What an answer says, and the other checks.
func TestAnswerTCPCommand(t *testing.T) {
	answer := func(status int, body string) Deps {
		return Deps{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return respond(status, body), nil })}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	const url = "http://127.0.0.1/"
	for _, tt := range []struct {
		name   string
		checks Checks
		deps   Deps
		want   string
	}{
		{"status", Checks{URL: url, Status: 204}, answer(204, ""), ""},
		{"other status", Checks{URL: url, Status: 204}, answer(200, ""), "answers 200 OK, want 204"},
		{"body", Checks{URL: url, Body: "ready"}, answer(200, "all ready"), ""},
		{"other body", Checks{URL: url, Body: "ready"}, answer(200, "soon"), `answer does not contain "ready"`},
		{"json", Checks{URL: url, JSON: map[string]string{"db.up": "true", "n": "1.5", "s": "x"}}, answer(200, `{"db":{"up":true},"n":1.5,"s":"x"}`), ""},
		{"other json", Checks{URL: url, JSON: map[string]string{"db.up": "true"}}, answer(200, `{"db":{"up":false}}`), `db.up is "false", want "true"`},
		{"no json", Checks{URL: url, JSON: map[string]string{"db.up": "true"}}, answer(200, `{"db":1}`), "answer has no db.up: it is not a JSON object"},
		{"json object", Checks{URL: url, JSON: map[string]string{"db": "{}"}}, answer(200, `{"db":{}}`), "it is not a single value"},
		{"tcp", Checks{TCP: []string{l.Addr().String()}}, Deps{}, ""},
		{"closed tcp", Checks{TCP: []string{l.Addr().String(), closed.Addr().String()}}, Deps{}, "check tcp " + closed.Addr().String()},
		{"command", Checks{Command: func(context.Context) error { return nil }}, Deps{}, ""},
		{"failing command", Checks{Command: func(context.Context) error { return errors.New("exit status 2") }}, Deps{}, "check by command: exit status 2"},
	} {
		tt.checks.Retries = 1
		err := Probe(t.Context(), tt.checks, tt.deps)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// A service that nobody named restarts while the page answers.
func TestLuckyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		err := Probe(t.Context(), Checks{URL: "http://127.0.0.1/", Retries: 3, Interval: time.Second}, Deps{
			Ps: func(context.Context) ([]Container, error) {
				n++
				return []Container{with(running("worker"), func(c *Container) { c.RestartCount = n })}, nil
			},
			Transport: roundTripper(func(*http.Request) (*http.Response, error) { return respond(200, ""), nil }),
		})
		if err == nil || !strings.Contains(err.Error(), "service worker is in a restart loop") {
			t.Errorf("Probe: %v", err)
		}
	})
}

func TestStableFor(t *testing.T) {
	for _, tt := range []struct {
		name    string
		down    func(time.Duration) bool // since the beginning
		want    string
		seconds int
	}{
		{"stable", func(time.Duration) bool { return false }, "", 30},
		{"once down", func(d time.Duration) bool { return d == 20*time.Second }, "", 51},
		{"down again and again", func(d time.Duration) bool { return d%(10*time.Second) == 0 }, "not healthy after 3 attempts", 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				err := Probe(t.Context(), Checks{URL: "http://127.0.0.1/", Retries: 3, Interval: time.Second, StableFor: 30 * time.Second}, Deps{
					Transport: roundTripper(func(*http.Request) (*http.Response, error) {
						if tt.down(time.Since(begin)) {
							return respond(500, ""), nil
						}
						return respond(200, ""), nil
					}),
				})
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Probe: %v, want %q", err, tt.want)
				}
				if d := time.Since(begin); d != time.Duration(tt.seconds)*time.Second {
					t.Errorf("took %s, want %ds", d, tt.seconds)
				}
			})
		})
	}
}

// Services and HTTP must pass in the same attempt.
func TestSameAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		up, down := []Container{running("api")}, []Container{with(running("api"), func(c *Container) { c.Health = "unhealthy" })}
		err := Probe(t.Context(), Checks{Services: []string{"api"}, URL: "http://127.0.0.1/", Retries: 6, Interval: time.Second}, Deps{
			Ps: func(context.Context) ([]Container, error) {
				if n++; n%2 == 0 {
					return down, nil
				}
				return up, nil
			},
			Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				if n%2 == 0 {
					return respond(200, ""), nil
				}
				return respond(500, ""), nil
			}),
		})
		if err == nil {
			t.Error("Probe: nil error")
		}
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		err := Probe(ctx, Checks{Services: []string{"api"}, Retries: 1000, Interval: 5 * time.Second}, Deps{
			Ps: func(context.Context) ([]Container, error) { return nil, errors.New("engine is starting") },
		})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "engine is starting") {
			t.Errorf("Probe: %v", err)
		}
	})
}

// A real server, and a proxy in the environment that must not be asked.
func TestDirect(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"version":"1.0.0"}`) }))
	defer srv.Close()
	for _, key := range []string{"http_proxy", "HTTP_PROXY", "all_proxy"} {
		t.Setenv(key, "http://127.0.0.1:1")
	}
	if err := Probe(t.Context(), Checks{URL: srv.URL, JSON: versionIs("version", "1.0.0"), Retries: 1}, Deps{}); err != nil {
		t.Error(err)
	}
}
