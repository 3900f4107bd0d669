package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
)

func TestWindow(t *testing.T) {
	at := func(h, m int) time.Time { return time.Date(2026, 5, 1, h, m, 0, 0, time.UTC) }
	for _, tc := range []struct {
		window string
		now    time.Time
		want   time.Duration
	}{
		{"", at(12, 0), 0},
		{"02:00-04:30", at(2, 0), 0},
		{"02:00-04:30", at(4, 29), 0},
		{"02:00-04:30", at(4, 30), 21*time.Hour + 30*time.Minute},
		{"02:00-04:30", at(1, 0), time.Hour},
		{"22:00-05:00", at(23, 0), 0},
		{"22:00-05:00", at(4, 59), 0},
		{"22:00-05:00", at(5, 0), 17 * time.Hour},
		{"22:00-24:00", at(23, 59), 0},
	} {
		w, err := parseWindow(tc.window)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.wait(tc.now); got != tc.want {
			t.Errorf("%s at %s: wait %s, want %s", tc.window, tc.now.Format("15:04"), got, tc.want)
		}
	}
	for _, bad := range []string{"2-4", "25:00-26:00", "02:60-03:00", "-1:00-02:00", "noon", "02:00-03:00\n", "2:00-24:60x"} {
		if (Settings{Window: bad}).Validate() == nil {
			t.Errorf("window %q is accepted", bad)
		}
	}
	for _, bad := range []Config{{DropMode: "now"}, {MaxUpload: -1}, {Settings: Settings{Auto: "yes"}}, {Settings: Settings{Check: Interval(time.Second)}}, {Settings: Settings{Check: 1 << 60}}, {Settings: Settings{Channel: "a b"}}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestHub(t *testing.T) {
	h := newHub(time.Now)
	h.send(Event{Type: "status", Record: "old"})
	h.begin("r1")
	h.send(Event{Type: "step", Step: "stage"})
	for i := range 1000 {
		h.send(Event{Type: "progress", Step: "stage", Done: int64(i + 1), Total: 1000})
	}
	past, next, ok := h.watch("ann")
	// begin, step and one progress: what moved is one line, however often.
	if !ok || len(past) != 3 || past[0].Type != "begin" || past[2].Done != 1000 {
		t.Fatalf("%v, %d events, %+v", ok, len(past), past[:min(len(past), 4)])
	}
	// Who does not listen is let go, and nobody waits for them.
	for range 100 {
		h.send(Event{Type: "step", Step: "probe"})
	}
	n := 0
	for range next {
		n++
	}
	if n == 0 || n >= 100 {
		t.Errorf("%d events before the end", n)
	}
	h.leave(next)
}

// device counts how often an update is tried, and ends as an interrupted one does.
type device struct {
	Device
	tried int
	stop  context.CancelFunc
}

func (d *device) Recover(context.Context, string, func(installer.Event)) error       { return nil }
func (d *device) Ready(context.Context, string) error                                { return nil }
func (d *device) Way(context.Context, string, string, []string, bool) ([]Hop, error) { return nil, nil }
func (d *device) Explain(err error) (string, string)                                 { return err.Error(), "" }
func (d *device) Update(ctx context.Context, _, _, _ string, _ bool, _ *installer.Path, _ func(installer.Event)) (installer.Result, error) {
	d.tried++
	d.stop()
	return installer.Result{}, ctx.Err()
}

// A bundle that takes the daemon down with it is tried twice, not for ever.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	drop := filepath.Join(dir, "updates")
	for _, d := range []string{drop, filepath.Join(dir, "inbox")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, c := bundletest.Release(t, bundletest.Spec{App: "shop", Version: "1.1.0"})
	if err := os.WriteFile(filepath.Join(drop, "shop.tar.gz"), bundletest.Write(t, m, c), 0o644); err != nil {
		t.Fatal(err)
	}
	dev := new(device)
	ids := 0
	for boot := range 4 {
		ctx, stop := context.WithCancel(t.Context())
		dev.stop = stop
		records, err := record.Open(ctx, filepath.Join(dir, "state.db"), "shop")
		if err != nil {
			t.Fatal(err)
		}
		inbox, err := os.OpenRoot(filepath.Join(dir, "inbox"))
		if err != nil {
			t.Fatal(err)
		}
		d := &Daemon{Device: dev, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now, NewID: func() string { ids++; return strings.Repeat("A", ids) }}
		d.Timing = Timing{Stable: time.Nanosecond}
		d.Timing.defaults()
		a := &app{Daemon: d, name: "shop", config: Config{Drop: drop, DropMode: Apply, Inbox: inbox.Name()}, records: records, inbox: inbox, hub: newHub(time.Now), wake: make(chan struct{}, 1), seen: map[string]look{}, uploads: map[string]*upload{}, queued: map[string]int{}}
		a.afterRestart(ctx)
		a.lookAtDrop(ctx) // it appears
		a.lookAtDrop(ctx) // it has not changed
		stop()
		if want := min(boot+1, 2); dev.tried != want {
			t.Fatalf("boot %d: tried %d times, want %d", boot, dev.tried, want)
		}
		a.close()
	}
	reason, err := os.ReadFile(filepath.Join(drop, failedDir, "shop.tar.gz"+reasonSuffix))
	if err != nil || !strings.Contains(string(reason), "interrupted") && !strings.Contains(string(reason), "canceled") {
		t.Fatalf("%s %v", reason, err)
	}
	if _, err := os.Stat(filepath.Join(drop, failedDir, "shop.tar.gz")); err != nil {
		t.Fatal(err)
	}
}

// cutOff recovers an update when the engine is there and no other program changes the app: each is so the second time.
type cutOff struct {
	device
	records          *record.Store
	asked, recovered int
}

func (d *cutOff) Ready(context.Context, string) error {
	if d.asked++; d.asked == 1 {
		return errors.New("no engine")
	}
	return nil
}

func (d *cutOff) Recover(ctx context.Context, _ string, report func(installer.Event)) error {
	if d.recovered++; d.recovered == 1 {
		return ErrBusy
	}
	report(installer.Event{Step: "undo", Detail: "it was interrupted"})
	return d.records.End(ctx, "R1", installer.RolledBack, time.Now())
}

// Who watches an update that was cut off sees why nothing happens yet, that it is undone, and how it ended.
func TestCutOff(t *testing.T) {
	records, err := record.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	if err := records.Begin(t.Context(), installer.Record{ID: "R1", Action: installer.ActionUpdate, To: installer.Release{Version: "1.1.0", Dir: "1.1.0"}, Status: installer.Applying, Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	a := &app{Daemon: &Daemon{Device: &cutOff{records: records}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now}, name: "shop", records: records, hub: newHub(time.Now)}
	a.recover(t.Context())
	past, _, _ := a.hub.watch("ann")
	var got []string
	for _, e := range past {
		got = append(got, strings.TrimSpace(e.Type+" "+e.Record+" "+e.Detail+string(e.Status)))
	}
	want := []string{"begin R1", "waiting  no engine", "waiting  " + ErrBusy.Error(), "step R1 it was interrupted", "status R1 rolled_back"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A webhook gets a CloudEvent, again when it does not answer well at first.
func TestWebhook(t *testing.T) {
	got := make(chan map[string]any, 1)
	tries := 0
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var event map[string]any
		if r.Header.Get("Content-Type") != "application/cloudevents+json" || json.NewDecoder(r.Body).Decode(&event) != nil {
			t.Errorf("%v", r.Header)
		}
		got <- event
	}))
	defer hook.Close()
	records, err := record.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	r := installer.Record{ID: "R1", To: installer.Release{Version: "1.1.0"}, Status: installer.Failed, Error: "no", Created: time.Now()}
	if err := records.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	a := &app{Daemon: &Daemon{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now}, name: "shop", config: Config{Webhook: hook.URL}, records: records}
	a.webhook("R1")
	event := <-got
	for key, want := range map[string]any{"specversion": "1.0", "type": "dev.valise.update.failed", "source": "/valise/shop", "id": "R1-failed", "subject": "1.1.0"} {
		if event[key] != want {
			t.Errorf("%s is %v, want %v", key, event[key], want)
		}
	}
	if data, _ := event["data"].(map[string]any); data["error_message"] != "no" {
		t.Errorf("data is %v", event["data"])
	}
}

// TestWebhookSecret: a password in the address of a webhook goes nowhere in the open, and
// no event goes where an answer points.
func TestWebhookSecret(t *testing.T) {
	var got int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got++; r.URL.Path == "/moved" {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}
	}))
	t.Cleanup(srv.Close)
	if err := post(t.Context(), strings.Replace(srv.URL, "http://", "http://user:secret@", 1), "{}"); err == nil || got > 0 || strings.Contains(err.Error(), "secret@") {
		t.Errorf("%d requests, %v", got, err)
	}
	if err := post(t.Context(), srv.URL+"/moved", "{}"); err == nil || got != 1 {
		t.Errorf("%d requests, %v", got, err)
	}
	if err := post(t.Context(), srv.URL, "{}"); err != nil {
		t.Error(err)
	}
}

// reinstalled is a device whose app comes and goes.
type reinstalled struct {
	device
	dir string
}

func (d *reinstalled) Apps() ([]string, error) {
	if _, err := os.Stat(d.dir + "/state.db"); err != nil {
		return nil, nil
	}
	return []string{"shop"}, nil
}
func (d *reinstalled) Config(string) (Config, error) {
	return Config{Inbox: d.dir + "/inbox", Drop: d.dir + "/drop", DropMode: Off, Settings: Settings{Auto: Off}}, nil
}
func (d *reinstalled) Records(ctx context.Context, app string) (Records, error) {
	return record.Open(ctx, d.dir+"/state.db", app)
}
func (d *reinstalled) Replaced() bool { return false }

// TestOrphans: what an earlier daemon left in the inbox goes, not what comes while this
// one still recovers.
func TestOrphans(t *testing.T) {
	dev := &reinstalled{dir: t.TempDir()}
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(dev.dir+"/inbox/"+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dev.dir+"/inbox", 0o700); err != nil {
		t.Fatal(err)
	}
	write("A" + unverified)
	write("B" + bundleSuffix)
	a, err := (&Daemon{Device: dev, Log: slog.New(slog.DiscardHandler), Now: time.Now}).open(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	write("C" + unverified)
	a.dropOrphans(t.Context())
	if names, err := fs.Glob(a.inbox.FS(), "*"); err != nil || !slices.Equal(names, []string{"C" + unverified}) {
		t.Errorf("%q, %v", names, err)
	}
}

// TestReinstalled: a daemon that runs on follows an app that is removed and installed
// again, and shows nothing of the one before.
func TestReinstalled(t *testing.T) {
	dev := &reinstalled{dir: t.TempDir()}
	install := func(id string) {
		t.Helper()
		if err := os.RemoveAll(dev.dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dev.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if id == "" {
			return
		}
		j, err := record.Open(t.Context(), dev.dir+"/state.db", "shop")
		if err == nil {
			err = errors.Join(j.Add(t.Context(), installer.Record{ID: id, Action: installer.ActionUpdate, To: installer.Release{Version: "1.0.0"}, Status: installer.Failed, Created: time.Unix(1, 0)}), j.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	install("first")
	ctx, cancel := context.WithCancel(t.Context())
	d := &Daemon{Device: dev, Log: slog.New(slog.DiscardHandler), Audit: io.Discard, Now: time.Now, NewID: func() string { return "x" }, Timing: Timing{Scan: time.Hour}}
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- d.Run(ctx, func() { close(ready) }) }()
	defer func() { cancel(); <-ended }()
	<-ready
	becomes := func(status int, with string) {
		t.Helper()
		for deadline := time.Now().Add(bundletest.Patience()); ; time.Sleep(time.Millisecond) {
			w := httptest.NewRecorder()
			d.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/ota", nil))
			if w.Code == status && strings.Contains(w.Body.String(), with) {
				return
			}
			if w.Code >= 500 || time.Now().After(deadline) {
				t.Fatalf("%d %s, want %d with %s", w.Code, w.Body, status, with)
			}
		}
	}
	becomes(200, "first")
	install("second")
	becomes(200, "second")
	install("")
	becomes(404, `no app is installed here: on the device, use \"sudo valise-installer install BUNDLE\", or for one that runs already \"adopt --root /opt/APP\"`)
}
