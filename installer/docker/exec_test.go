package docker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// frame is what a command wrote, as the engine sends it: 1 for stdout, 2 for stderr.
func frame(stream byte, text string) string {
	head := [8]byte{stream}
	binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
	return string(head[:]) + text
}

// execEngine runs one command in a container: talk has the connection to it.
func execEngine(t *testing.T, talk func(net io.ReadWriter), states ...string) *Compose {
	var asked int
	e := fakeEngine{
		"GET /containers/json": func(w http.ResponseWriter, r *http.Request) {
			if f := r.FormValue("filters"); strings.Contains(f, "com.docker.compose.service=db") {
				answer(`[{"Id":"second","Labels":{"com.docker.compose.container-number":"2"}},{"Id":"first","Labels":{"com.docker.compose.container-number":"1"}}]`)(w, r)
				return
			}
			answer(`[]`)(w, r)
		},
		"POST /containers/first/exec": answer(`{"Id":"x"}`),
		"POST /exec/x/start": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			talk(struct {
				io.Reader
				io.Writer
			}{rw, conn})
		},
		"GET /exec/x/json": func(w http.ResponseWriter, r *http.Request) {
			answer(states[min(asked, len(states)-1)])(w, r)
			asked++
		},
	}.start(t)
	return &Compose{Engine: e, Project: "shop"}
}

func TestExec(t *testing.T) {
	const running, good, bad = `{"Running":true}`, `{"ExitCode":0}`, `{"ExitCode":1}`
	argv := []string{"pg_dump"}
	dump := func(c io.ReadWriter) { io.WriteString(c, frame(1, "data\n")+frame(2, "no such database\n")) }
	var out bytes.Buffer
	if err := execEngine(t, dump, running, running, good).Exec(t.Context(), "db", argv, nil, &out); err != nil || out.String() != "data\n" {
		t.Errorf("%v, output %q", err, &out)
	}
	out.Reset()
	err := execEngine(t, dump, running, bad).Exec(t.Context(), "db", argv, nil, &out)
	if exit := new(ExitError); !errors.As(err, &exit) || err.Error() != "run pg_dump in service db: exit status 1: no such database" || out.String() != "data\n" {
		t.Errorf("fails: %v, output %q", err, &out)
	}
	if err := execEngine(t, dump, good).Exec(t.Context(), "web", argv, nil, &out); err == nil || !strings.Contains(err.Error(), `service "web" is not running`) {
		t.Errorf("service that does not run: %v", err)
	}

	// What is sent arrives to its end, and comes back.
	out.Reset()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	echo := func(c io.ReadWriter) {
		b, _ := io.ReadAll(c)
		io.WriteString(c, frame(1, string(b)))
	}
	if err := execEngine(t, echo, good).Exec(t.Context(), "db", argv, bytes.NewReader(big), &out); err != nil || !bytes.Equal(out.Bytes(), big) {
		t.Errorf("%v, %d of %d bytes came back", err, out.Len(), len(big))
	}
	// Input that breaks off is not taken for its end.
	broken := errors.New("damaged: gzip: invalid checksum")
	if err := execEngine(t, echo, good).Exec(t.Context(), "db", argv, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), io.Discard); !errors.Is(err, broken) {
		t.Errorf("input that breaks off: %v", err)
	}
	// A command that reads nothing, or not all, and fails is not waited for; the socket is
	// reset then.
	for name, talk := range map[string]func(io.ReadWriter){"nothing": func(io.ReadWriter) {}, "a byte": func(c io.ReadWriter) { c.Read(make([]byte, 1)) }} {
		r, w := io.Pipe()
		defer w.Close()
		go w.Write(big)
		if err := execEngine(t, talk, bad).Exec(t.Context(), "db", argv, r, io.Discard); !errors.As(err, new(*ExitError)) {
			t.Errorf("reads %s: %v", name, err)
		}
	}

	full := errors.New("no space left on device")
	if err := execEngine(t, dump, good).Exec(t.Context(), "db", argv, nil, failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("full disk: %v", err)
	}
	// An engine that ends meanwhile ends with half a frame.
	half := func(c io.ReadWriter) { io.WriteString(c, frame(1, "data\n")[:10]) }
	if err := execEngine(t, half, `{`).Exec(t.Context(), "db", argv, nil, &out); err == nil {
		t.Error("engine that ends: nil error")
	}

	// Interrupted, nothing is waited for, neither the answer nor the end.
	for name, talk := range map[string]func(io.ReadWriter, func()){
		"silent":  func(c io.ReadWriter, stop func()) { stop(); io.Copy(io.Discard, c) },
		"running": func(_ io.ReadWriter, stop func()) { stop() },
	} {
		cause := errors.New("the device goes down")
		ctx, cancel := context.WithCancelCause(t.Context())
		c := execEngine(t, func(c io.ReadWriter) { talk(c, func() { cancel(cause) }) }, running)
		if err := c.Exec(ctx, "db", argv, nil, io.Discard); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestExecLost has an engine that forgets a command and does not end its output, and one
// whose command has nothing to say for long.
func TestExecLost(t *testing.T) {
	const after = 50 * time.Millisecond
	silent := func(c io.ReadWriter) {
		io.WriteString(c, frame(1, "half a dump"))
		io.Copy(io.Discard, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bundletest.Patience())
	defer cancel()
	for name, state := range map[string]string{"does not run": `{"Running":false}`, "ended well": `{"ExitCode":0}`} {
		c := execEngine(t, silent, `{"Running":true}`, state)
		c.lostAfter = after
		if err := c.Exec(ctx, "db", []string{"pg_dump"}, nil, io.Discard); !errors.Is(err, errLost) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// It may run silently, or send what is left, for as long as it likes.
	for name, looks := range map[string]func(*watched) bool{
		"runs":  func(*watched) bool { return false },
		"sends": func(w *watched) bool { w.n.Add(1); return true },
	} {
		w := &watched{after: after, ended: make(chan struct{})}
		var asked int
		w.watch(func() bool {
			if asked++; asked == 30 {
				close(w.ended)
			}
			return looks(w)
		}, func() { t.Errorf("%s: given up", name) })
	}
}

type failingWriter struct{ err error }

func (f failingWriter) Write([]byte) (int, error) { return 0, f.err }
