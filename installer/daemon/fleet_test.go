package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/fleet"
	"github.com/valise-ota/valise/installer/fleet/fleettest"
	"github.com/valise-ota/valise/installer/record"
)

// steeredDevice is a device whose bundles are their versions, with real records. Updates
// take a minute for each step, in the time of a bubble.
type steeredDevice struct {
	Device
	dir    string
	config Config

	mu      sync.Mutex
	source  map[string]string // what the source gives for a version
	way     map[string][]string
	sick    map[string]bool
	halted  map[string]bool // by its rollout file
	fetched []string
	updated []string
	dark    bool // the power is cut when the daemon ends
}

func (d *steeredDevice) Apps() ([]string, error)                              { return []string{"shop"}, nil }
func (d *steeredDevice) Config(string) (Config, error)                        { return d.config, nil }
func (d *steeredDevice) Ready(context.Context, string) error                  { return nil }
func (d *steeredDevice) Replaced() bool                                       { return false }
func (d *steeredDevice) OnRollback(string, installer.Release) (string, error) { return "never", nil }
func (d *steeredDevice) Receipt(context.Context, string, string) (string, error) {
	return "", errors.New("no room")
}
func (d *steeredDevice) Explain(err error) (string, string) {
	if errors.Is(err, errOlder) {
		return err.Error(), "downgrade"
	}
	return err.Error(), ""
}

func (d *steeredDevice) Records(ctx context.Context, app string) (Records, error) {
	return record.Open(ctx, d.dir+"/state.db", app)
}

func (d *steeredDevice) open(ctx context.Context) (*record.Store, error) {
	return record.Open(context.WithoutCancel(ctx), d.dir+"/state.db", "shop")
}

func (d *steeredDevice) Recover(ctx context.Context, _ string, _ func(installer.Event)) error {
	j, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer j.Close()
	st, err := j.Load(ctx)
	if err != nil || st.Unfinished == nil {
		return err
	}
	return errors.Join(j.Fail(ctx, st.Unfinished.ID, &installer.Failure{Reason: "interrupted", Err: errors.New("interrupted")}, false), j.End(ctx, st.Unfinished.ID, installer.RolledBack, time.Now()))
}

func (d *steeredDevice) Latest(context.Context, string) (Latest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	newest := ""
	for v := range d.source {
		newest = max(newest, v)
	}
	return Latest{Version: newest, Way: []string{newest}}, nil
}

func (d *steeredDevice) Fetch(ctx context.Context, _, version string, dst *os.File, _ func(installer.Event)) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fetched = append(d.fetched, version)
	if d.source[version] == "" {
		return errors.New("404")
	}
	_, err := dst.WriteString(d.source[version])
	return err
}

func (d *steeredDevice) Plan(_ context.Context, _, path string, _ bool, _ func(installer.Event)) (Offer, error) {
	b, err := os.ReadFile(path)
	if strings.HasPrefix(string(b), "0.") {
		return Offer{Version: string(b)}, errOlder
	}
	return Offer{Version: string(b), Plan: &installer.Plan{Action: installer.ActionUpdate}}, err
}

func (d *steeredDevice) Way(_ context.Context, _, version string, _ []string, _ bool) (hops []Hop, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	j, err := record.OpenReadOnly(context.Background(), d.dir+"/state.db", "shop")
	if err != nil {
		return nil, err
	}
	defer j.Close()
	st, err := j.Load(context.Background())
	if err != nil {
		return nil, err
	}
	way := append(slices.Clone(d.way[version]), version)
	for _, v := range way[slices.Index(way, st.Current.Version)+1:] {
		hops = append(hops, Hop{Hop: installer.Hop{Version: v}})
	}
	return hops, nil
}

func (d *steeredDevice) Update(ctx context.Context, _, path, id string, _ bool, on *installer.Path, report func(installer.Event)) (res installer.Result, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return res, err
	}
	version := string(b)
	if strings.HasPrefix(version, "0.") {
		return res, errOlder
	}
	if d.halted[version] {
		return res, &installer.HeldError{Version: version, Halted: true}
	}
	return d.transact(ctx, installer.ActionUpdate, id, version, on, report)
}

func (d *steeredDevice) Rollback(ctx context.Context, _, id, _ string, report func(installer.Event)) (installer.Result, error) {
	return d.transact(ctx, installer.ActionRollback, id, "", nil, report)
}

func (d *steeredDevice) transact(ctx context.Context, action installer.Action, id, version string, on *installer.Path, report func(installer.Event)) (res installer.Result, err error) {
	j, err := d.open(ctx)
	if err != nil {
		return res, err
	}
	defer j.Close()
	lasting := context.WithoutCancel(ctx)
	st, err := j.Load(lasting)
	if err != nil {
		return res, err
	}
	to := installer.Release{Version: version, Dir: version}
	if action == installer.ActionRollback {
		to = *st.Previous
	}
	if err := j.Begin(lasting, installer.Record{ID: id, Action: action, From: st.Current, To: to, Path: on, Created: time.Now()}); err != nil {
		return res, err
	}
	end := func(cause error, bad bool) (installer.Result, error) {
		err := errors.Join(j.Fail(lasting, id, cause, bad), j.End(lasting, id, installer.RolledBack, time.Now()))
		r, gerr := j.Get(lasting, id)
		return installer.Result{Outcome: installer.Reverted, Record: r, Err: cause}, errors.Join(err, gerr)
	}
	for _, step := range []string{"stage", "activate", "probe"} {
		report(installer.Event{Step: step})
		select {
		case <-ctx.Done():
			d.mu.Lock()
			dark := d.dark
			d.mu.Unlock()
			if dark { // nothing is written any more
				return res, ctx.Err()
			}
			return end(context.Cause(ctx), false)
		case <-time.After(time.Minute):
		}
		report(installer.Event{Step: step, Ended: true})
	}
	d.mu.Lock()
	d.updated = append(d.updated, to.Version)
	sick := d.sick[to.Version]
	d.mu.Unlock()
	if sick {
		return end(errors.New("it does not get healthy"), true)
	}
	if err := j.Commit(lasting, id, time.Now()); err != nil {
		return res, err
	}
	r, err := j.Get(lasting, id)
	return installer.Result{Outcome: installer.Done, Record: r}, err
}

// errOlder is what a check says, as package verify does.
var errOlder = &installer.Failure{Reason: "check.downgrade", Err: errors.New("a downgrade")}

// wire hands requests to a server without a network.
type wire struct{ http.Handler }

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.Host = r.URL.Host
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec.Result(), nil
}

// steeredLife is a device in a bubble, with a server.
type steeredLife struct {
	t   *testing.T
	dev *steeredDevice
	s   *fleettest.Server
	d   *Daemon
	off func()
}

func (l *steeredLife) boot() {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	l.d = &Daemon{Device: l.dev, Log: slog.New(slog.DiscardHandler), Audit: io.Discard, Now: time.Now, NewID: rand.Text, Fleet: wire{l.s}, Timing: Timing{Scan: time.Hour}}
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- l.d.Run(ctx, func() { close(ready) }) }()
	<-ready
	l.off = func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Error(err)
		}
	}
}

// call asks the API.
func (l *steeredLife) call(method, path, body string, out any) int {
	l.t.Helper()
	w := httptest.NewRecorder()
	l.d.Handler().ServeHTTP(w, httptest.NewRequest(method, Prefix+path, bytes.NewBufferString(body)))
	if out != nil {
		if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
			l.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	return w.Code
}

func (l *steeredLife) runs() string {
	l.t.Helper()
	var st State
	l.call("GET", "/state", "", &st)
	return st.Current.Version
}

func (l *steeredLife) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (l *steeredLife) has(id int, state, last string) {
	l.t.Helper()
	a := l.s.Action(id)
	if a.State != state || len(a.Messages) == 0 || !strings.HasPrefix(a.Messages[len(a.Messages)-1], last) {
		l.t.Errorf("action %d is %s, want %s with %q at the end: %q", id, a.State, state, last, a.Messages)
	}
}

func steeredInBubble(t *testing.T, c fleet.Config, f func(t *testing.T, l *steeredLife)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c.HawkBit, c.ID = "http://localhost", "d1"
		dev := &steeredDevice{dir: dir, source: map[string]string{"1.1.0": "1.1.0", "1.2.0": "1.2.0"}, sick: map[string]bool{}, way: map[string][]string{}}
		dev.config = Config{Drop: dir + "/drop", DropMode: Off, Inbox: dir + "/inbox", Source: "there", Fleet: c, Settings: Settings{Auto: Off}}
		j, err := dev.open(t.Context())
		if err == nil {
			first := installer.Record{ID: "FIRST", Action: installer.ActionInstall, To: installer.Release{Version: "1.0.0", Dir: "1.0.0"}, Status: installer.Applying, Created: time.Now()}
			err = errors.Join(j.Begin(t.Context(), first), j.Commit(t.Context(), "FIRST", time.Now()), j.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		l := &steeredLife{t: t, dev: dev, s: new(fleettest.Server)}
		l.boot()
		f(t, l)
		l.off()
		if p := l.s.Problems(); len(p) > 0 {
			t.Errorf("hawkBit would refuse: %q", p)
		}
	})
}

// TestFleet: a daemon installs what its server assigns, by the records that everything else
// makes, tells how it ended, and shows what the server wants.
func TestFleet(t *testing.T) {
	steeredInBubble(t, fleet.Config{}, func(t *testing.T, l *steeredLife) {
		id := l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		l.wait(30 * time.Minute)
		l.has(id, "finished", "closed/success | 1.1.0 runs")
		var page Page
		if l.call("GET", "", "", &page); l.runs() != "1.1.0" || page.Data[0].UserPublicID != byFleet || page.Data[0].Status != installer.Completed || len(page.Data) != 2 {
			t.Errorf("%s runs, %+v", l.runs(), page.Data)
		}
		var st State
		if l.call("GET", "/state", "", &st); st.Fleet == nil || st.Fleet.Newest != "1.2.0" || st.Fleet.Wants != "" || st.Fleet.ID != "d1" {
			t.Errorf("%+v", st.Fleet)
		}
		// Downloaded and verified; a person presses Apply.
		id = l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0", Download: "attempt", Update: "attempt"})
		l.wait(30 * time.Minute)
		l.has(id, "running", "downloaded/none")
		l.call("GET", "", "", &page)
		if r := page.Data[0]; l.runs() != "1.1.0" || !r.Verified || !r.HasFirmwareFile || r.Status != installer.Pending {
			t.Errorf("%s runs, %+v", l.runs(), r)
		}
		if code := l.call("POST", "/"+page.Data[0].PublicID+"/apply", "", nil); code != http.StatusOK {
			t.Error(code)
		}
		l.wait(30 * time.Minute)
		l.has(id, "finished", "closed/success | 1.2.0 runs")
		if got := fmt.Sprint(l.dev.updated, l.dev.fetched); got != "[1.1.0 1.2.0] [1.1.0 1.2.0]" {
			t.Error(got)
		}
	})
}

// TestFleetConsent: the server asks for consent, which Apply on the device gives.
func TestFleetConsent(t *testing.T) {
	steeredInBubble(t, fleet.Config{}, func(t *testing.T, l *steeredLife) {
		id := l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0", State: "confirm"})
		l.wait(30 * time.Minute)
		var page Page
		l.call("GET", "", "", &page)
		r := page.Data[0]
		if !r.Asked || r.HasFirmwareFile || l.s.Action(id).State != "confirm" {
			t.Errorf("%+v", r)
		}
		if code := l.call("POST", "/"+r.PublicID+"/apply", "", nil); code != http.StatusOK {
			t.Error(code)
		}
		l.wait(30 * time.Minute)
		l.has(id, "finished", "closed/success")
		id = l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0", State: "confirm"})
		l.wait(30 * time.Minute)
		l.call("GET", "", "", &page)
		if code := l.call("DELETE", "/"+page.Data[0].PublicID, "", nil); code != http.StatusOK {
			t.Error(code)
		}
		l.wait(30 * time.Minute)
		if l.has(id, "confirm", "denied"); l.runs() != "1.1.0" {
			t.Errorf("%s runs", l.runs())
		}
	})
}

// TestFleetCanceled: what is downloaded, or loaded, is undone; what is being switched goes
// on, and the server hears so.
func TestFleetCanceled(t *testing.T) {
	for name, tc := range map[string]struct {
		after       time.Duration // from when the server is asked
		state, last string
		runs        string
	}{
		"downloading": {30 * time.Second, "canceled", "cancel: closed/success", "1.0.0"},
		"staging":     {90 * time.Second, "canceled", "cancel: closed/success", "1.0.0"},
		"switching":   {150 * time.Second, "finished", "closed/success", "1.1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			steeredInBubble(t, fleet.Config{Poll: fleet.Poll{Min: 5 * time.Second, Max: 5 * time.Second}}, func(t *testing.T, l *steeredLife) {
				l.wait(time.Minute)
				id := l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
				for len(l.s.Action(id).Messages) == 0 {
					l.wait(time.Second)
				}
				l.wait(tc.after)
				l.s.Cancel(id)
				l.wait(10 * time.Minute)
				l.has(id, tc.state, tc.last)
				if a := l.s.Action(id); l.runs() != tc.runs || a.Finals != 1 || a.Late != 0 {
					t.Errorf("%s runs, %+v", l.runs(), a)
				}
			})
		})
	}
}

// TestFleetPowerCuts: a release that takes three updates arrives, though the daemon ends in
// the middle of each; and one that is sick fails once.
func TestFleetPowerCuts(t *testing.T) {
	steeredInBubble(t, fleet.Config{Poll: fleet.Poll{Min: 5 * time.Second, Max: 5 * time.Second}}, func(t *testing.T, l *steeredLife) {
		l.dev.way["1.3.0"] = []string{"1.1.0", "1.2.0"}
		l.dev.source["1.3.0"] = "1.3.0"
		id := l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.3.0"})
		for i, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
			l.dev.dark = i != 1 // else the daemon is stopped
			for applying := false; !applying || l.runs() != version; {
				l.wait(time.Second)
				var st State
				l.call("GET", "/state", "", &st)
				applying = st.Running != nil && st.Running.Status == installer.Applying
			}
			l.off()
			l.boot()
		}
		l.wait(time.Hour)
		if l.has(id, "finished", "closed/success | 1.3.0 runs"); l.runs() != "1.3.0" {
			t.Errorf("%s runs: %v", l.runs(), l.dev.updated)
		}
		if got := fmt.Sprint(l.dev.updated); got != "[1.1.0 1.2.0 1.3.0]" {
			t.Error(got)
		}
		l.dev.source["1.4.0"], l.dev.sick["1.4.0"] = "1.4.0", true
		id = l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.4.0"})
		l.wait(time.Hour)
		l.has(id, "error", "closed/failure 3 | it does not get healthy | 1.3.0 runs")
		again := l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.4.0"})
		l.wait(time.Hour)
		l.has(again, "error", "closed/failure 4 | 1.4.0 failed on this device")
		if n := len(l.dev.updated); n != 4 {
			t.Errorf("%d updates", n)
		}
	})
}

// TestFleetRefused: what the source gives under the name that the server wants is verified
// as everything is, and what a check refused is not fetched for another action.
func TestFleetRefused(t *testing.T) {
	steeredInBubble(t, fleet.Config{}, func(t *testing.T, l *steeredLife) {
		l.dev.source["1.1.0"] = "0.9.0" // signed, and old
		l.dev.source["1.2.0"] = "1.1.9" // signed, and another one
		l.dev.source["2.0.0-beta.1"] = "2.0.0-beta.1"
		for _, tc := range []struct {
			version, update, want string
			fetched               int
		}{
			{"1.1.0", "", "closed/failure 4 | a downgrade | 1.0.0 runs", 1},
			{"1.1.0", "", "closed/failure 4 | 1.1.0 was refused before: a downgrade", 1},
			{"1.2.0", "skip", "closed/failure 4 | the source gave 1.1.9 under the name of 1.2.0 | 1.0.0 runs", 2},
			{"2.0.0-beta.1", "", "closed/failure 4 | channel: 2.0.0-beta.1 is a pre-release of beta", 2},
		} {
			id := l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: tc.version, Update: tc.update})
			l.wait(time.Hour)
			if l.has(id, "error", tc.want); l.runs() != "1.0.0" || len(l.dev.fetched) != tc.fetched {
				t.Errorf("%s runs, %v", l.runs(), l.dev.fetched)
			}
		}
	})
}

// TestFleetHalted: what a rollout file halts is not installed for a server either, which hears
// so; and is when the halt ends.
func TestFleetHalted(t *testing.T) {
	steeredInBubble(t, fleet.Config{}, func(t *testing.T, l *steeredLife) {
		l.dev.halted = map[string]bool{"1.1.0": true}
		id := l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		l.wait(6 * time.Hour)
		l.has(id, "error", "closed/failure 4 | tried 3 times: 1.1.0 was halted by its rollout file (--force installs it) | 1.0.0 runs")
		l.dev.halted = nil
		id = l.s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		l.wait(24 * time.Hour)
		if l.has(id, "finished", "closed/success"); l.runs() != "1.1.0" {
			t.Errorf("%s runs", l.runs())
		}
	})
}

// TestFleetConfig: a server needs a source beside it, and no other who decides.
func TestFleetConfig(t *testing.T) {
	c := Config{Source: "there", Fleet: fleet.Config{HawkBit: "https://updates.example/"}}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"no source": func(c *Config) { c.Source = "" },
		"auto":      func(c *Config) { c.Auto = Apply },
		"address":   func(c *Config) { c.Fleet.HawkBit = "http://updates.example/" },
	} {
		bad := c
		if change(&bad); bad.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	steeredInBubble(t, fleet.Config{}, func(t *testing.T, l *steeredLife) {
		var p Problem
		if code := l.call("PATCH", "/settings", `{"auto": "apply"}`, &p); code != http.StatusUnprocessableEntity || !strings.Contains(p.Detail, "fleet server") {
			t.Errorf("%d %+v", code, p)
		}
	})
}
