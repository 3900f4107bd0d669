package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/fleet/fleettest"
)

// disk is what outlives a device's program: notes, records, and what runs.
type disk struct {
	mu       sync.Mutex
	notes    map[string]string
	records  map[string]*entry
	current  string
	previous string
	floor    string
	applied  map[string]int // by record
	fetched  int
	ids      int
}

type entry struct {
	version string
	Record
}

// device is an App and a Store: a daemon whose updates take a while, in the time of a
// bubble, and end with the program.
type device struct {
	t testing.TB
	*disk
	ctx  context.Context
	wake func()
	// effect is called before and after everything that lasts.
	effect func(what string)

	sick, broken map[string]bool // versions that fail, and that cannot be downloaded
	newest       string
	channel      string
	opens        time.Duration
	takes        time.Duration
}

func newDevice(t testing.TB, version string) *device {
	return &device{
		t: t, ctx: t.Context(), wake: func() {}, effect: func(string) {}, takes: time.Minute, sick: map[string]bool{}, broken: map[string]bool{}, newest: "1.1.0",
		disk: &disk{notes: map[string]string{}, records: map[string]*entry{}, current: version, floor: version, applied: map[string]int{}},
	}
}

func (d *device) Notes(context.Context) (map[string]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.notes), nil
}

func (d *device) lasting(what string, change func()) {
	d.effect("before " + what)
	d.mu.Lock()
	change()
	d.mu.Unlock()
	d.effect("after " + what)
}

func (d *device) Note(_ context.Context, key, value string) error {
	d.lasting("note "+key, func() {
		if d.notes[key] = value; value == "" {
			delete(d.notes, key)
		}
	})
	return nil
}

func (d *device) State(context.Context) (State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return State{Current: d.current, Previous: d.previous, Floor: d.floor, Refused: func(version string) error {
		v, err := bundle.ParseVersion(version)
		if err == nil && v.Prerelease() != "" && !strings.HasPrefix(v.Prerelease(), d.channel+".") {
			err = fmt.Errorf("channel: %s", version)
		}
		return err
	}}, nil
}

func (d *device) Newest(context.Context) (string, error) { return d.newest, nil }
func (d *device) Receipt(_ context.Context, id string) (string, error) {
	return `{"receipt":"of ` + id + `"}`, nil
}
func (d *device) Opens() time.Duration { return d.opens }

func (d *device) NewID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids++
	return fmt.Sprint("R", d.ids)
}

func (d *device) Record(_ context.Context, id string) (Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.records[id]; e != nil {
		return e.Record, nil
	}
	return Record{}, nil
}

func (d *device) Announce(_ context.Context, id, version string) error {
	d.lasting("announce", func() {
		if d.records[id] != nil {
			d.t.Errorf("record %s is added twice", id)
		}
		d.records[id] = &entry{version, Record{Status: pending}}
	})
	return nil
}

// later does something after a while, unless the power goes before.
func (d *device) later(id, status string, end func(*entry)) {
	d.mu.Lock()
	d.records[id].Status, d.records[id].Error, d.records[id].Cut = status, "", false
	d.mu.Unlock()
	ctx := d.ctx
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(d.takes):
		}
		d.mu.Lock()
		if ctx.Err() == nil && d.records[id].Status == status {
			end(d.records[id])
		}
		d.mu.Unlock()
		d.wake()
	}()
}

func (d *device) Stage(_ context.Context, id string) error {
	d.effect("before stage")
	d.later(id, "downloading", func(e *entry) {
		d.fetched++
		if e.Status = pending; d.broken[e.version] {
			e.Error = "connection reset"
			return
		}
		e.Staged = true
	})
	d.effect("after stage")
	return nil
}

func (d *device) Apply(_ context.Context, id string) error {
	d.effect("before apply")
	d.later(id, "applying", func(e *entry) {
		if !e.Staged {
			d.fetched++
		}
		switch {
		case d.broken[e.version] && !e.Staged:
			e.Status, e.Error = pending, "connection reset"
		case d.sick[e.version]:
			e.Status, e.Error, e.Code, e.Left = reverted, "it does not get healthy", 3, d.current+" runs"
			d.applied[id]++
		default:
			d.applied[id]++
			d.previous, d.current, d.floor = d.current, e.version, e.version
			e.Status = completed
		}
	})
	d.effect("after apply")
	return nil
}

func (d *device) Rollback(_ context.Context, id, version string) error {
	d.mu.Lock()
	d.records[id] = &entry{version, Record{Status: pending}}
	d.mu.Unlock()
	d.later(id, "applying", func(e *entry) {
		d.applied[id]++
		d.previous, d.current = "", version
		e.Status = completed
	})
	return nil
}

func (d *device) Cancel(_ context.Context, id, why string) (late bool, err error) {
	d.lasting("cancel", func() {
		e := d.records[id]
		if late = e.Status == "applying" || e.Status == completed; !late {
			e.Status, e.Error = failed, why
		}
	})
	return late, nil
}

// boot ends what went on, as a power cut does, and starts the program again.
func (d *device) boot(server http.RoundTripper, c Config) *Agent {
	d.t.Helper()
	d.mu.Lock()
	for _, e := range d.records {
		switch e.Status {
		case "downloading":
			e.Status = pending
		case "applying":
			e.Status, e.Error, e.Cut = reverted, "interrupted", true
		}
	}
	d.mu.Unlock()
	if c.HawkBit == "" {
		c.HawkBit = "http://localhost"
	}
	client, err := NewClient(c, c.ID, "test", server)
	if err != nil {
		d.t.Fatal(err)
	}
	g := &Agent{Config: c, Client: client, App: d, Store: d, Name: "shop", Log: slog.New(slog.DiscardHandler), Now: time.Now}
	if err := g.Load(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	d.wake = g.Wake
	return g
}

// direct hands requests to a server without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.Host = r.URL.Host
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// rounds are polls, with five minutes between them.
func rounds(t *testing.T, g *Agent, n int) {
	t.Helper()
	for range n {
		if err := g.Round(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
	}
}

// over fails when the server understood something as an error.
func understood(t *testing.T, s *fleettest.Server) {
	t.Helper()
	if p := s.Problems(); len(p) > 0 {
		t.Errorf("hawkBit would refuse: %q", p)
	}
}

func has(t *testing.T, a fleettest.Action, state string, messages ...string) {
	t.Helper()
	if a.State != state {
		t.Errorf("action %d is %s, want %s: %q", a.ID, a.State, state, a.Messages)
	}
	i := 0
	for _, m := range a.Messages {
		if i < len(messages) && strings.HasPrefix(m, messages[i]) {
			i++
		}
	}
	if i < len(messages) {
		t.Errorf("action %d: no %q in %q", a.ID, messages[i], a.Messages)
	}
}

// inBubble has a device on 1.0.0 and a server in a bubble of time.
func inBubble(t *testing.T, c Config, f func(t *testing.T, d *device, s *fleettest.Server, g *Agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c.ID = "d1"
		s, d := new(fleettest.Server), newDevice(t, "1.0.0")
		f(t, d, s, d.boot(direct{s}, c))
		understood(t, s)
	})
}

// TestUpdate: what a server assigns is installed once, and it hears how that goes. The
// first thing it hears is what runs from the factory.
func TestUpdate(t *testing.T) {
	inBubble(t, Config{Attributes: map[string]string{"site": "berlin"}}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		rounds(t, g, 2)
		if got := s.Target("d1"); got.Attributes["site"] != "berlin" || got.Attributes["valise.app"] != "shop" || got.Attributes["valise.version"] != "1.0.0" || got.Installed != "1.0.0" {
			t.Errorf("%+v", got)
		}
		id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		rounds(t, g, 6)
		has(t, s.Action(id), "finished", "proceeding/none | accepted", `closed/success | 1.1.0 runs | {"receipt":"of R1"}`)
		if got := s.Target("d1"); d.current != "1.1.0" || got.Attributes["valise.version"] != "1.1.0" || got.Installed != "1.1.0" || d.applied["R1"] != 1 || s.Action(id).Late != 0 {
			t.Errorf("%s runs, %+v, %v", d.current, got, d.applied)
		}
		// What is over is not told again by the next program.
		g = d.boot(direct{s}, g.Config)
		if rounds(t, g, 2); s.Action(id).Late != 0 {
			t.Errorf("%+v", s.Action(id))
		}
		// What comes by hand is told too.
		d.current = "1.1.1"
		rounds(t, g, 2)
		if got := s.Target("d1").Installed; got != "1.1.1" {
			t.Errorf("the server believes that %s runs", got)
		}
		// What runs already is a success, and nothing is installed.
		id = s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "v1.1.1"})
		rounds(t, g, 1)
		has(t, s.Action(id), "finished", "closed/success | 1.1.1 runs already")
		if len(d.applied) != 1 {
			t.Errorf("%v", d.applied)
		}
		// A person installs what waits for the server.
		id = s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0", Update: "skip"})
		rounds(t, g, 3)
		d.current, d.floor = "1.2.0", "1.2.0"
		rounds(t, g, 2)
		has(t, s.Action(id), "finished", "downloaded", "closed/success | 1.2.0 runs already")
		if d.records["R2"].Status != failed {
			t.Errorf("%+v", d.records["R2"])
		}
	})
}

// TestMaintenance: a window that is closed counts, whatever else the server says.
func TestMaintenance(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		s.Wrong = func(_ string, answer map[string]any) {
			if deployment, ok := answer["deployment"].(map[string]any); ok {
				deployment["update"] = forced
			}
		}
		s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0", Window: "unavailable"})
		if rounds(t, g, 5); d.current != "1.0.0" || !d.records["R1"].Staged {
			t.Errorf("%s runs, %+v", d.current, d.records["R1"])
		}
	})
}

// TestTakesDown: a release that takes the device down each time is tried three times.
func TestTakesDown(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		begun := 0
		d.effect = func(what string) {
			if what == "before apply" {
				begun++
			}
		}
		for range 10 {
			rounds(t, g, 1)
			if e := d.records["R1"]; e != nil && begun > 0 && e.Status != failed {
				e.Status = "applying"
			}
			power, off := context.WithCancel(t.Context())
			defer off()
			d.ctx = power
			g = d.boot(direct{s}, g.Config)
			d.current, d.floor = "1.0.0", "1.0.0" // it never got further
		}
		rounds(t, g, 2)
		if has(t, s.Action(id), "error", "closed/failure 1 | "); begun != maxTries {
			t.Errorf("begun %d times", begun)
		}
	})
}

// TestFails: a release that does not become healthy, and one that cannot be downloaded.
func TestFails(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		d.sick["1.1.0"], d.broken["1.2.0"] = true, true
		id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		rounds(t, g, 3)
		has(t, s.Action(id), "error", `closed/failure 3 | it does not get healthy | 1.0.0 runs | {"receipt":"of R`)
		id = s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0"})
		rounds(t, g, 100)
		has(t, s.Action(id), "error", "proceeding/none | try 1 of 3: connection reset", "proceeding/none | try 3 of 3: connection reset", "closed/failure 1 | tried 3 times: connection reset")
		if d.fetched != 1+maxTries { // that of 1.1.0 too
			t.Errorf("%d downloads", d.fetched)
		}
		// A new action for the same version does not make it download at once again.
		for range 20 {
			id = s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0"})
			rounds(t, g, 2)
			s.Cancel(id)
			rounds(t, g, 2)
		}
		if d.fetched > 1+maxTries+1 {
			t.Errorf("%d downloads in %d actions", d.fetched, id)
		}
	})
}

// TestModes: download and update each may wait, for the server, for its maintenance
// window, for the window of the device, or for a person.
func TestModes(t *testing.T) {
	for name, tc := range map[string]struct {
		action fleettest.Action
		opens  time.Duration
		staged bool
		told   string
		then   func(*device, *fleettest.Server, int)
	}{
		"download skip": {fleettest.Action{Download: "skip", Update: "skip"}, 0, false, "proceeding/none", func(_ *device, s *fleettest.Server, id int) {
			s.Set(id, func(a *fleettest.Action) { a.Download, a.Update = "", "" })
		}},
		"update skip": {fleettest.Action{Update: "skip"}, 0, true, "downloaded/none", func(_ *device, s *fleettest.Server, id int) { s.Set(id, func(a *fleettest.Action) { a.Update = "" }) }},
		"maintenance window": {fleettest.Action{Window: "unavailable"}, 0, true, "downloaded/none", func(_ *device, s *fleettest.Server, id int) {
			s.Set(id, func(a *fleettest.Action) { a.Window = "available" })
		}},
		"local window":  {fleettest.Action{}, 2 * time.Hour, true, "scheduled/none | updates may begin here at ", func(d *device, _ *fleettest.Server, _ int) { d.opens = 0 }},
		"attempt":       {fleettest.Action{Download: "attempt", Update: "attempt"}, 0, true, "downloaded/none", func(d *device, _ *fleettest.Server, _ int) { _ = d.Apply(context.Background(), "R1") }},
		"download only": {fleettest.Action{DownloadOnly: true}, 0, true, "downloaded/none", nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
				tc.action.Target, tc.action.Module, tc.action.Version = "d1", "shop", "1.1.0"
				d.opens = tc.opens
				id := s.Assign(tc.action)
				rounds(t, g, 5)
				a := s.Action(id)
				if d.current != "1.0.0" || d.records["R1"].Staged != tc.staged || d.records["R1"].Status != pending {
					t.Errorf("%s runs, %+v", d.current, d.records["R1"])
				}
				if tc.then == nil {
					has(t, a, "downloaded", tc.told)
					return
				}
				has(t, a, "running", "proceeding/none", tc.told)
				tc.then(d, s, id)
				rounds(t, g, 4)
				has(t, s.Action(id), "finished", "closed/success | 1.1.0 runs")
				if d.current != "1.1.0" || d.applied["R1"] != 1 || d.fetched != 1 {
					t.Errorf("%s runs, %v, %d downloads", d.current, d.applied, d.fetched)
				}
			})
		})
	}
}

// TestCanceled: before, while and after.
func TestCanceled(t *testing.T) {
	for name, tc := range map[string]struct {
		rounds  int
		takes   time.Duration
		update  string
		state   string
		told    string
		current string
	}{
		"before it is seen":   {0, time.Minute, "", "canceled", "cancel: closed/success", "1.0.0"},
		"while it waits":      {3, time.Minute, "skip", "canceled", "cancel: closed/success", "1.0.0"},
		"while it downloads":  {1, time.Hour, "skip", "canceled", "cancel: closed/success", "1.0.0"},
		"while it is applied": {1, 30 * time.Minute, "", "finished", "cancel: rejected/none", "1.1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
				rounds(t, g, 1)
				d.takes = tc.takes
				id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0", Update: tc.update})
				rounds(t, g, tc.rounds)
				s.Cancel(id)
				rounds(t, g, 10)
				has(t, s.Action(id), tc.state, tc.told)
				if a := s.Action(id); d.current != tc.current || a.Finals != 1 || a.Late != 0 {
					t.Errorf("%s runs, %+v", d.current, a)
				}
			})
		})
	}
}

// TestConfirmed: where the server wants a person on the device to say yes or no.
func TestConfirmed(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0", State: "confirm", Update: "attempt"})
		rounds(t, g, 3)
		has(t, s.Action(id), "confirm")
		if d.fetched != 0 || g.Seen().Wants != "1.1.0" || g.Confirm("R2") || !g.Confirm("R1") {
			t.Errorf("%d downloads, %+v", d.fetched, g.Seen())
		}
		rounds(t, g, 5)
		has(t, s.Action(id), "finished", "confirmed", "closed/success")
		id = s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0", State: "confirm"})
		rounds(t, g, 2)
		delete(d.records, "R2")
		rounds(t, g, 3)
		has(t, s.Action(id), "confirm", "denied")
		if a := s.Action(id); len(a.Messages) != 1 || d.current != "1.1.0" {
			t.Errorf("%s runs, %q", d.current, a.Messages)
		}
		s.Cancel(id)
		rounds(t, g, 2)
		has(t, s.Action(id), "canceled", "denied", "cancel: closed/success")
		// What this device would not install it does not ask anybody about.
		id = s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "0.9.0", State: "confirm"})
		rounds(t, g, 2)
		has(t, s.Action(id), "confirm", "denied")
	})
}

// TestDeleted: a person deletes what the server wants.
func TestDeleted(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0", Update: "skip"})
		rounds(t, g, 2)
		delete(d.records, "R1")
		rounds(t, g, 2)
		has(t, s.Action(id), "error", "closed/failure 1 | a person deleted it")
	})
}

// TestRollback: to the release before, where the device allows it, and to none older.
func TestRollback(t *testing.T) {
	for _, allow := range [][]string{nil, {Update, Rollback}} {
		inBubble(t, Config{Allow: allow}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
			d.current, d.previous, d.floor = "1.2.0", "1.1.0", "1.2.0"
			old := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.0.0"})
			id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
			rounds(t, g, 6)
			has(t, s.Action(old), "error", "closed/failure 4 | downgrade: 1.0.0 is older than 1.2.0")
			if allow == nil {
				has(t, s.Action(id), "error", "closed/failure 4 | downgrade: 1.1.0 is older than 1.2.0")
			} else if has(t, s.Action(id), "finished", "closed/success"); d.current != "1.1.0" {
				t.Errorf("%s runs", d.current)
			}
		})
	}
}

// TestSuperseded: of two actions that are open the one is ended that the server does not
// have any more.
func TestSuperseded(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		old := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0", Update: "skip"})
		rounds(t, g, 3)
		s.Set(old, func(a *fleettest.Action) { a.State = "canceled" }) // by force
		id := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0"})
		rounds(t, g, 5)
		has(t, s.Action(id), "finished")
		if d.current != "1.2.0" || d.records["R1"].Status != failed {
			t.Errorf("%s runs, %+v", d.current, d.records["R1"])
		}
	})
}

// TestServerForgets: a server that begins anew gives old names to other actions, and may
// want again what was done.
func TestServerForgets(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		rounds(t, g, 4)
		s.Forget()
		again := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		rounds(t, g, 4)
		has(t, s.Action(again), "finished", "closed/success")
		s.Forget()
		d.sick["1.1.1"] = true
		for range 2 {
			sick := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.1"})
			rounds(t, g, 4)
			has(t, s.Action(sick), "error", "closed/failure 3 | it does not get healthy")
			s.Forget()
		}
		other := s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.2.0"})
		rounds(t, g, 4)
		has(t, s.Action(other), "finished", "closed/success | 1.2.0 runs")
		if d.current != "1.2.0" || len(d.applied) != 3 || s.Target("d1").Attributes["valise.version"] != "1.2.0" {
			t.Errorf("%s runs, %v", d.current, d.applied)
		}
	})
}

// TestPolling: the server says how long it is left alone, within the bounds of the device.
func TestPolling(t *testing.T) {
	for _, tc := range []struct {
		sleep    string
		poll     Poll
		min, max int // polls in a day
	}{
		{"00:05:00", Poll{}, 270, 310},
		{"00:00:00", Poll{}, 2600, 2890},
		{"99:59:59", Poll{}, 1, 2},
		{"12:00", Poll{Min: time.Hour}, 20, 26},
		{"65535:00:00", Poll{Max: 2 * time.Hour}, 11, 14},
		{"00:00:01", Poll{Min: 10 * time.Minute}, 125, 146},
	} {
		t.Run(tc.sleep, func(t *testing.T) {
			inBubble(t, Config{Poll: tc.poll}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
				s.Sleep = tc.sleep
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { g.Run(ctx); close(ended) }()
				time.Sleep(24 * time.Hour)
				synctest.Wait()
				if n := s.Target("d1").Polls; n < tc.min || n > tc.max {
					t.Errorf("%d polls in a day, want %d to %d", n, tc.min, tc.max)
				}
				stop()
				<-ended
			})
		})
	}
}

// cut is what a device stops with.
type cut struct{ at string }

// TestKilled: the power goes before or after each thing that lasts: notes, records,
// requests that the server got or did not. Every action is carried out once, and its end
// is told.
func TestKilled(t *testing.T) {
	scenarios := map[string]struct {
		action  fleettest.Action
		press   bool
		cancel  int // after so many rounds
		config  Config
		setup   func(*device)
		current string
		states  []string
	}{
		"update":   {action: fleettest.Action{Version: "1.1.0"}, current: "1.1.0", states: []string{"finished"}},
		"sick":     {action: fleettest.Action{Version: "1.1.0"}, setup: func(d *device) { d.sick["1.1.0"] = true }, current: "1.0.0", states: []string{"error"}},
		"refused":  {action: fleettest.Action{Version: "0.9.0"}, current: "1.0.0", states: []string{"error"}},
		"confirm":  {action: fleettest.Action{Version: "1.1.0", State: "confirm"}, press: true, current: "1.1.0", states: []string{"finished"}},
		"cancel":   {action: fleettest.Action{Version: "1.1.0", Update: "skip"}, cancel: 3, current: "1.0.0", states: []string{"canceled"}},
		"window":   {action: fleettest.Action{Version: "1.1.0", Window: "unavailable"}, current: "1.1.0", states: []string{"finished"}},
		"rollback": {action: fleettest.Action{Version: "0.9.0"}, config: Config{Allow: []string{Rollback}}, setup: func(d *device) { d.previous = "0.9.0" }, current: "0.9.0", states: []string{"finished", "error"}},
	}
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			points := 0
			for n := 1; ; n++ {
				hit := false
				synctest.Test(t, func(t *testing.T) {
					s, d := new(fleettest.Server), newDevice(t, "1.0.0")
					if sc.setup != nil {
						sc.setup(d)
					}
					c := sc.config
					c.ID = "d1"
					sc.action.Target, sc.action.Module = "d1", "shop"
					id := s.Assign(sc.action)
					at, seen := "", 0
					d.effect = func(what string) {
						if seen++; seen == n {
							at, hit = what, true
							panic(cut{what})
						}
					}
					wire := roundTripper(func(r *http.Request) (*http.Response, error) {
						d.effect("before " + r.Method + " " + r.URL.Path)
						res, err := direct{s}.RoundTrip(r)
						d.effect("after " + r.Method + " " + r.URL.Path)
						return res, err
					})
					power, off := context.WithCancel(t.Context())
					d.ctx = power
					g := d.boot(wire, c)
					for i := range 40 {
						down := false
						func() {
							defer func() {
								if p := recover(); p != nil {
									if _, ok := p.(cut); !ok {
										panic(p)
									}
									down = true
								}
							}()
							if err := g.Round(t.Context(), true); err != nil {
								t.Fatal(err)
							}
						}()
						if down {
							off()
							power, off = context.WithCancel(t.Context())
							d.ctx = power
							g = d.boot(wire, c)
						}
						if sc.press {
							g.Confirm("R1")
							g.Confirm("R2")
						}
						if sc.cancel > 0 && i == sc.cancel {
							s.Cancel(id)
						}
						if i == 6 {
							s.Set(id, func(a *fleettest.Action) {
								if a.Window != "" {
									a.Window = "available"
								}
							})
						}
						time.Sleep(5 * time.Minute)
						synctest.Wait()
					}
					off()
					understood(t, s)
					a := s.Action(id)
					if !slices.Contains(sc.states, a.State) || a.Finals != 1 || a.State == sc.states[0] && d.current != sc.current {
						t.Errorf("cut %s: %s runs, %+v", at, d.current, a)
					}
					for r, n := range d.applied {
						if n > 1 {
							t.Errorf("cut %s: record %s was applied %d times", at, r, n)
						}
					}
					if len(d.applied) > 1 {
						t.Errorf("cut %s: %v", at, d.applied)
					}
				})
				if !hit || t.Failed() {
					break
				}
				points++
			}
			if points < 20 {
				t.Errorf("only %d points", points)
			}
			t.Logf("%d points", points)
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var errLost = errors.New("no route to host")

// lossy loses requests and answers, sends requests twice, and is cut off for a while.
type lossy struct {
	http.Handler
	share float64
	mu    sync.Mutex
	off   bool
}

func (l *lossy) set(off bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.off = off
}

func (l *lossy) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	off := l.off
	l.mu.Unlock()
	if off || rand.Float64() < l.share {
		return nil, errLost
	}
	if rand.Float64() < l.share/2 { // it comes twice
		body := []byte(nil)
		if r.Body != nil {
			body, _ = io.ReadAll(r.Body)
		}
		again := r.Clone(r.Context())
		again.Body = io.NopCloser(strings.NewReader(string(body)))
		_, _ = direct{l}.RoundTrip(again)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
	}
	res, err := direct{l}.RoundTrip(r)
	if rand.Float64() < l.share {
		return nil, errLost
	}
	return res, err
}
