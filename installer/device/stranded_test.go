package device

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

var patience = bundletest.Patience()

// served is a daemon of a shop until stop is called.
type served struct {
	*shop
	http.Handler
	log  *bytes.Buffer
	stop func()
}

func (s *shop) serve() *served {
	s.t.Helper()
	log := &lockedBuffer{}
	dev := &Device{Machine: s.Machine, Explanation: error.Error, Remedy: func(Remedy) string { return "" }}
	d := &daemon.Daemon{Device: dev, Log: slog.New(slog.NewTextHandler(log, nil)), Audit: io.Discard, Now: time.Now, NewID: s.NewID, Timing: daemon.Timing{Scan: 50 * time.Millisecond, Stable: time.Millisecond}}
	ctx, stop := context.WithCancel(s.t.Context())
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if err := d.Run(ctx, func() { close(ready) }); err != nil {
			s.t.Error(err)
		}
	}()
	<-ready
	end := sync.OnceFunc(func() { stop(); <-ended })
	s.t.Cleanup(func() {
		end()
		if s.t.Failed() {
			s.t.Log(log.String())
		}
	})
	return &served{s, d.Handler(), &log.Buffer, end}
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

// call asks the API.
func (s *served) call(method, path, body string, out any) int {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, daemon.Prefix+path, strings.NewReader(body)))
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			s.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	return w.Code
}

// history is what the API has, oldest first: VERSION STATUS and, of several, PATH.
func (s *served) history() (list []string) {
	s.t.Helper()
	var page daemon.Page
	s.call("GET", "?page_size=100", "", &page)
	for _, u := range page.Data {
		line := u.Version + " " + string(u.Status)
		if u.Path != nil && u.Path.Hops > 1 {
			line += " " + u.Path.String()
		}
		list = append([]string{line}, list...)
	}
	return list
}

// arrives waits until the history is this.
func (s *served) arrives(want ...string) {
	s.t.Helper()
	var got []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = s.history(); strings.Join(got, "\n") == strings.Join(want, "\n") {
			return
		}
	}
	s.t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
}

// settings has the daemon look for releases, and apply them.
func (s *shop) settings(text string) {
	s.t.Helper()
	b, err := os.ReadFile(s.ConfigPath("shop"))
	if err == nil {
		err = os.WriteFile(s.ConfigPath("shop"), fmt.Appendf(b, "updates: {%s}\n", text), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestStranded: a daemon that applies by itself arrives behind a required stop, whether
// the stop is in the source or comes by hand.
func TestStranded(t *testing.T) {
	t.Run("over stops", func(t *testing.T) {
		s := installed(t)
		s.from("path: " + s.released("1.1.0 1.2.0<1.1.0 1.3.0<1.2.0"))
		s.settings("check: 1m, auto: apply")
		s.serve().arrives("1.0.0 completed", "1.1.0 completed 1 of 3 to 1.3.0", "1.2.0 completed 2 of 3 to 1.3.0", "1.3.0 completed 3 of 3 to 1.3.0")
	})
	t.Run("by hand", func(t *testing.T) {
		s := installed(t)
		dir := s.released("1.1.0 1.2.0<1.1.0")
		stop := filepath.Join(t.TempDir(), "shop-1.1.0.tar.gz")
		if err := os.Rename(filepath.Join(dir, "shop-1.1.0.tar.gz"), stop); err != nil {
			t.Fatal(err)
		}
		s.from("path: " + dir)
		s.settings("check: 1m, auto: apply")
		d := s.serve()
		var c daemon.Check
		d.call("GET", "/check", "", &c)
		if c.Blocked == nil || !strings.Contains(*c.Blocked, "starts from 1.1.0 or a newer version") || c.UpdateAvailable || len(c.Way) > 0 {
			t.Errorf("%+v", c)
		}
		d.arrives("1.0.0 completed")
		d.stop()
		if err := s.take(stop, Options{}); err != nil {
			t.Fatal(err)
		}
		s.serve().arrives("1.0.0 completed", "1.1.0 completed", "1.2.0 completed")
	})
	t.Run("one fails", func(t *testing.T) {
		s := installed(t)
		s.from("path: " + s.released("1.1.0 1.2.0<1.1.0 1.2.1<1.1.0 1.3.0<1.2.0"))
		s.Sick["1.2.1"] = true
		s.settings("check: 1m, auto: apply")
		d := s.serve()
		d.arrives("1.0.0 completed", "1.1.0 completed 1 of 3 to 1.3.0", "1.2.1 rolled_back 2 of 3 to 1.3.0")
		d.stop() // its next look comes in a minute, that of a new one soon
		s.serve().arrives("1.0.0 completed", "1.1.0 completed 1 of 3 to 1.3.0", "1.2.1 rolled_back 2 of 3 to 1.3.0", "1.2.0 completed 1 of 2 to 1.3.0", "1.3.0 completed 2 of 2 to 1.3.0")
	})
}

// TestApplyOver: what is applied by the API is reached over what has to come first,
// from the source or from bundles that wait.
func TestApplyOver(t *testing.T) {
	s := installed(t)
	dir := s.released("1.1.0 1.2.0<1.1.0 1.3.0<1.2.0 2.0.0<1.9.0")
	s.from("path: " + dir)
	d := s.serve()
	var c daemon.Check
	d.call("GET", "/check", "", &c)
	if strings.Join(c.Way, " ") != "1.1.0 1.2.0 1.3.0" || c.LatestVersion == nil || *c.LatestVersion != "1.3.0" || c.Blocked == nil {
		t.Errorf("%+v", c)
	}
	var u daemon.Update
	if code := d.call("POST", "/download", "", &u); code != http.StatusCreated || u.Version != "1.3.0" {
		t.Fatalf("%d, %+v", code, u)
	}
	var p installer.Plan
	if code := d.call("GET", "/"+u.PublicID+"/plan", "", &p); code != http.StatusOK || len(p.Way) != 3 || p.Way[2].Version != "1.3.0" || p.Way[1].Bytes == 0 || p.From != "1.0.0" || p.To != "1.3.0" {
		t.Errorf("%d, %+v", code, p)
	}
	if code := d.call("POST", "/"+u.PublicID+"/apply", "", nil); code != http.StatusOK {
		t.Fatal(code)
	}
	d.arrives("1.0.0 completed", "1.3.0 completed 3 of 3 to 1.3.0", "1.1.0 completed 1 of 3 to 1.3.0", "1.2.0 completed 2 of 3 to 1.3.0")

	// Nothing leads to what the source does not have the stop of: it waits, and says why.
	if code := d.call("POST", "", `{"version":"2.0.0"}`, nil); code != http.StatusCreated {
		t.Fatal(code)
	}
	var page daemon.Page
	d.call("GET", "?status=pending", "", &page)
	id := page.Data[0].PublicID
	d.call("POST", "/"+id+"/apply", "", nil)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		d.call("GET", "/"+id, "", &u)
		if u.ErrorMessage != nil && u.Status == installer.Pending && strings.Contains(*u.ErrorMessage, "starts from 1.9.0") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", u)
		}
	}
}

// TestDropOver: bundles in the drop folder are a way, in whatever order they come; one
// whose stop is missing waits for it in the folder.
func TestDropOver(t *testing.T) {
	s := installed(t)
	dir, drop := s.released("1.1.0 1.2.0<1.1.0 1.3.0<1.2.0"), filepath.Join(s.AppDir("shop"), "updates")
	if err := os.Mkdir(drop, 0o755); err != nil {
		t.Fatal(err)
	}
	d := s.serve()
	put := func(version string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "shop-"+version+".tar.gz"))
		if err == nil {
			err = os.WriteFile(filepath.Join(drop, version+".tar.gz"), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("1.3.0")
	d.arrives("1.0.0 completed", "1.3.0 pending")
	put("1.2.0")
	d.arrives("1.0.0 completed", "1.3.0 pending", "1.2.0 pending")
	put("1.1.0")
	d.arrives("1.0.0 completed", "1.3.0 completed", "1.2.0 completed", "1.1.0 completed")
}

// TestGoOn: what ended in the middle of a way that a person had begun goes on with the
// next daemon, also one that a command was on.
func TestGoOn(t *testing.T) {
	s := installed(t)
	s.from("path: " + s.released("1.1.0 1.2.0<1.1.0 1.3.0<1.2.0"))
	c, err := s.Verify(t.Context(), "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Plan(t.Context(), c, Options{}); err != nil {
		t.Fatal(err)
	}
	if res, err := s.Apply(t.Context(), c, Options{}); err != nil || res.Outcome != installer.Done {
		t.Fatalf("%+v, %v", res, err)
	}
	c.Close()
	s.serve().arrives("1.0.0 completed", "1.1.0 completed 1 of 3 to 1.3.0", "1.3.0 completed 3 of 3 to 1.3.0", "1.2.0 completed 2 of 3 to 1.3.0")
}
