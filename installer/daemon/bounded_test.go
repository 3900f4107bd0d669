package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// serving is h on a socket, as the daemon has one; it returns how to connect.
func serving(t *testing.T, h http.Handler) func() net.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go server.Serve(Limit(l))
	t.Cleanup(func() { server.Close() })
	return func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(bundletest.Patience()))
		return c
	}
}

// A body that does not come ends its connection, whatever is asked of the daemon.
func TestDribble(t *testing.T) {
	d := newShop(t, Apply)
	a := d.boot()
	t.Cleanup(a.close)
	a.Device, a.apps = answering{d}, map[string]*app{"shop": a}
	a.Timing.Patience = 100 * time.Millisecond
	u, err := a.begin("ann", NewUpload{Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	connect := serving(t, a.Handler())
	for _, call := range []string{"POST " + Prefix, "POST " + Prefix + "/FIRST/apply", "POST " + Prefix + "/FIRST/rollback", "PATCH " + Prefix + "/settings", "POST /uploads", "PATCH /uploads/" + u.id + "?offset=0", "POST /uploads/x/done", "DELETE /uploads/x", "GET " + Prefix + "/state"} {
		c := connect()
		fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: valise\r\nContent-Length: 100\r\n\r\n{", call)
		b, err := io.ReadAll(c) // an answer, perhaps, and the end
		if errors.Is(err, os.ErrDeadlineExceeded) || strings.HasPrefix(string(b), "HTTP/1.1 20") && !strings.HasPrefix(call, "GET ") {
			t.Errorf("%s: %v, %.100q", call, err, b)
		}
	}
	if at, err := a.upload(u.id); err != nil || at.offset != 1 {
		t.Errorf("what came of the upload is not kept: %+v, %v", at, err)
	}
}

// An answer that nobody reads ends, so that what it holds open is given back.
func TestUnread(t *testing.T) {
	ended := make(chan error, 1)
	connect := serving(t, Bounded{Now: time.Now, Patience: 100 * time.Millisecond, Bundle: func(*http.Request) bool { return false }, Next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 10*pieceSize)); err != nil {
				ended <- err
				return
			}
		}
	})})
	fmt.Fprint(connect(), "GET / HTTP/1.1\r\nHost: valise\r\n\r\n")
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(bundletest.Patience()):
		t.Error("it is written for ever")
	}
}

// Once a body is here, its request may be worked on for longer than that took, also
// by a library that has deadlines of its own.
func TestWorkAfterBody(t *testing.T) {
	patience := bundletest.Slower(500 * time.Millisecond)
	connect := serving(t, Bounded{Now: time.Now, Patience: patience, Bundle: func(r *http.Request) bool { return r.URL.Path == "/bundle" }, Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_, err := io.Copy(io.Discard, r.Body)
		_ = errors.Join(rc.SetReadDeadline(time.Now().Add(patience)), rc.SetWriteDeadline(time.Now().Add(patience)))
		select {
		case <-r.Context().Done():
			err = r.Context().Err()
		case <-time.After(2 * patience):
		}
		fmt.Fprintf(w, "ended: %v", err)
	})})
	for _, path := range []string{"/bundle", "/call"} {
		c := connect()
		for range 2 { // on one connection
			fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: valise\r\nContent-Length: 3\r\n\r\nabc", path)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(path, err)
			}
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != "ended: <nil>" {
				t.Errorf("%s: %q, %v", path, b, err)
			}
		}
	}
}

// A bundle may take long to come, as long as it goes on.
func TestPatient(t *testing.T) {
	now := time.Now()
	each := func(n int) io.ReadCloser {
		b := Bounded{Now: func() time.Time { return now }}
		return b.patient(http.NewResponseController(httptest.NewRecorder()), io.NopCloser(readerFunc(func(p []byte) (int, error) {
			now = now.Add(30 * time.Second)
			return min(len(p), n), nil
		})))
	}
	if _, err := io.CopyN(io.Discard, each(pieceSize/2), 10*pieceSize); err != nil {
		t.Error(err)
	}
	if n, err := io.CopyN(io.Discard, each(1), 100); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes in an hour: %v", n, err)
	}
}
