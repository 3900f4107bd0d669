package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
)

// planned is a device whose source has one release, in a bubble of time.
type planned struct {
	Device
	// mu is held by set and by what reads: sleeping in a bubble gives two
	// goroutines no order that the race detector knows.
	mu      sync.Mutex
	ahead   time.Duration // of the device's clock
	latest  string
	checks  []time.Time
	fetched []time.Time
	offline bool
	cut     bool // downloads fail
	refuse  bool // what came is an old release, which a check refuses
	broken  bool // what came cannot be looked at
	slow    time.Duration
	written Settings
	busy    bool
}

func (d *planned) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *planned) n(list *[]time.Time) (n int) {
	d.set(func() { n = len(*list) })
	return n
}

func (d *planned) now() (t time.Time) {
	d.set(func() { t = time.Now().UTC().Add(d.ahead) })
	return t
}

func (d *planned) Configure(_ context.Context, _ string, s Settings) error {
	if d.busy {
		return ErrBusy
	}
	d.written = s
	return nil
}

func (d *planned) Latest(context.Context, string) (Latest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checks = append(d.checks, time.Now())
	if d.offline {
		return Latest{}, errors.New("no route to host")
	}
	return Latest{Version: d.latest, Way: []string{d.latest}}, nil
}

func (d *planned) Fetch(_ context.Context, _, version string, dst *os.File, _ func(installer.Event)) error {
	var slow time.Duration
	var cut bool
	d.set(func() { d.fetched, slow, cut = append(d.fetched, time.Now()), d.slow, d.cut })
	time.Sleep(slow)
	if cut {
		return errors.New("connection reset")
	}
	_, err := dst.WriteString(version)
	return err
}

func (d *planned) Plan(_ context.Context, _, path string, _ bool, _ func(installer.Event)) (Offer, error) {
	b, err := os.ReadFile(path)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.refuse:
		return Offer{Version: "0.9.0"}, errDowngrade
	case d.broken:
		return Offer{}, errors.New("out of memory")
	}
	return Offer{Version: string(b), Plan: &installer.Plan{Action: installer.ActionUpdate}}, err
}

var errDowngrade = errors.New("a downgrade")

func (d *planned) Explain(err error) (string, string) {
	if errors.Is(err, errDowngrade) {
		return err.Error(), "downgrade"
	}
	return err.Error(), ""
}

// inTime runs a schedule with these settings in a bubble, and begins at midnight.
func inTime(t *testing.T, s Settings, f func(t *testing.T, a *app, d *planned)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		records, err := record.Open(t.Context(), filepath.Join(dir, "state.db"), "shop")
		if err != nil {
			t.Fatal(err)
		}
		defer records.Close()
		inbox, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer inbox.Close()
		old := installer.Record{ID: "R1", Action: installer.ActionInstall, To: installer.Release{Version: "1.0.0", Dir: "1.0.0"}, Status: installer.Applying, Created: time.Now()}
		if err := errors.Join(records.Begin(t.Context(), old), records.Commit(t.Context(), "R1", time.Now())); err != nil {
			t.Fatal(err)
		}
		dev := &planned{latest: "1.1.0"}
		d := &Daemon{Device: dev, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: dev.now, NewID: rand.Text, verifying: make(chan struct{}, 1)}
		a := &app{Daemon: d, name: "shop", config: Config{Inbox: dir, Settings: s}, records: records, inbox: inbox, hub: newHub(time.Now), jobs: make(chan job, 9), rescheduled: make(chan struct{}, 1), uploads: map[string]*upload{}, queued: map[string]int{}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { a.schedule(ctx); close(ended) }()
		f(t, a, dev)
		stop()
		<-ended
	})
}

// How often, and never all devices in the same moment.
func TestScheduleJitter(t *testing.T) {
	different := map[time.Duration]bool{}
	inTime(t, Settings{Check: Interval(6 * time.Hour)}, func(t *testing.T, a *app, d *planned) {
		begin := time.Now()
		time.Sleep(10 * 24 * time.Hour)
		synctest.Wait()
		if n := d.n(&d.checks); n < 36 || n > 46 || d.n(&d.fetched) > 0 {
			t.Fatalf("%d checks, %d downloads", n, d.n(&d.fetched))
		}
		var checks []time.Time
		d.set(func() { checks = slices.Clone(d.checks) })
		if first := checks[0].Sub(begin); first > 36*time.Minute {
			t.Errorf("the first check came after %s", first)
		}
		for i, at := range checks[1:] {
			gap := at.Sub(checks[i])
			if gap < 324*time.Minute || gap > 396*time.Minute {
				t.Errorf("%s between two checks", gap)
			}
			different[gap] = true
		}
	})
	if len(different) < 10 {
		t.Errorf("only %d different pauses", len(different))
	}
}

func TestScheduleOffline(t *testing.T) {
	inTime(t, Settings{Check: Interval(24 * time.Hour), Auto: Apply}, func(t *testing.T, a *app, d *planned) {
		d.set(func() { d.offline = true })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := d.n(&d.checks); n < 8 || n > 12 {
			t.Errorf("%d checks in a day without network, want about ten", n)
		}
		d.set(func() { d.offline, d.cut = false, true })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := d.n(&d.fetched); n < 3 || n > 5 {
			t.Errorf("%d downloads that were cut, want about four", n)
		}
		d.set(func() { d.cut = false })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if len(a.jobs) != 1 {
			t.Fatalf("%d updates wait", len(a.jobs))
		}
		r, err := a.records.Get(t.Context(), (<-a.jobs).record)
		if err != nil || r.To.Version != "1.1.0" || r.By != bySchedule || r.Status != installer.Pending {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// A download that fails again and again, for want of room or whatever else is not the
// release's fault, is tried after pauses that grow: one record says so. Another
// version does not wait for it.
func TestScheduleLate(t *testing.T) {
	for name, fail := range map[string]func(*planned){"download": func(d *planned) { d.cut = true }, "look": func(d *planned) { d.broken = true }} {
		t.Run(name, func(t *testing.T) {
			inTime(t, Settings{Check: Interval(10 * time.Minute), Auto: Apply}, func(t *testing.T, a *app, d *planned) {
				d.set(func() { fail(d) })
				time.Sleep(3 * 24 * time.Hour)
				synctest.Wait()
				var at []time.Time
				d.set(func() { at = slices.Clone(d.fetched) })
				if len(at) < 11 || len(at) > 14 { // 11 in the first day, then one a day
					t.Fatalf("%d downloads in three days", len(at))
				}
				for i := 1; i < len(at); i++ {
					least := min(time.Minute<<(i-1), longestPause)
					if gap := at[i].Sub(at[i-1]); gap < least || gap > least+20*time.Minute {
						t.Errorf("%s between two downloads, want %s", gap, least)
					}
				}
				if n := d.n(&d.checks); n < 300 {
					t.Errorf("%d checks", n)
				}
				found, n, err := a.records.Find(t.Context(), []installer.Status{installer.Pending, installer.Failed}, -1, 0)
				if err != nil || n != 1 || found[0].Status != installer.Pending || !strings.Contains(found[0].Error, fmt.Sprintf("not downloaded, try %d: ", len(at))) || !strings.HasSuffix(found[0].Error, "; the next one is in 24h0m0s") {
					t.Errorf("%d records, %+v, %v", n, found, err)
				}
				d.set(func() { d.latest, d.cut, d.broken = "1.2.0", false, false })
				time.Sleep(12 * time.Minute)
				synctest.Wait()
				if len(a.jobs) == 0 { // more, when it was asked again while it waits
					t.Fatal("no update waits")
				}
				if r, err := a.records.Get(t.Context(), (<-a.jobs).record); err != nil || r.To.Version != "1.2.0" || r.Error != "" {
					t.Errorf("%+v, %v", r, err)
				}
				if found, n, err = a.records.Find(t.Context(), []installer.Status{installer.Pending}, -1, 0); err != nil || n != 1 {
					t.Errorf("what is too old still waits: %+v, %v", found, err)
				}
			})
		})
	}
}

// A source that gives an old release under the name of a new one is refused once, by
// the name it was asked for.
func TestScheduleRefused(t *testing.T) {
	inTime(t, Settings{Check: Interval(10 * time.Minute), Auto: Apply}, func(t *testing.T, a *app, d *planned) {
		d.set(func() { d.refuse = true })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		found, n, err := a.records.Find(t.Context(), []installer.Status{installer.Failed}, -1, 0)
		if d.n(&d.fetched) != 1 || err != nil || n != 1 || found[0].To.Version != "1.1.0" || found[0].Error != "a downgrade" {
			t.Errorf("%d downloads, %d records, %v", d.n(&d.fetched), n, err)
		}
	})
}

// A version is applied in its time of day, by the clock of that moment, and once.
func TestScheduleWindow(t *testing.T) {
	inTime(t, Settings{Check: Interval(time.Hour), Auto: Apply, Window: "02:00-04:30"}, func(t *testing.T, a *app, d *planned) {
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		if d.n(&d.checks) != 1 || d.n(&d.fetched) != 0 {
			t.Fatalf("%d checks, %d downloads before the window", d.n(&d.checks), d.n(&d.fetched))
		}
		// The clock was wrong, twice: it is 14:15 in truth, then 01:50.
		d.set(func() { d.ahead = 14 * time.Hour })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if d.n(&d.fetched) != 0 {
			t.Fatal("downloaded in the afternoon")
		}
		d.set(func() { d.ahead, d.slow = -25*time.Minute, 3*time.Hour })
		time.Sleep(27 * time.Minute)
		synctest.Wait()
		if d.n(&d.fetched) != 1 || d.n(&d.checks) != 2 {
			t.Fatalf("%d downloads, %d checks in the window", d.n(&d.fetched), d.n(&d.checks))
		}
		// The download ends after the window: it is applied in the next one.
		time.Sleep(20 * time.Hour)
		synctest.Wait()
		if len(a.jobs) != 0 {
			t.Fatal("applied outside the window")
		}
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		if d.n(&d.fetched) != 1 || len(a.jobs) == 0 {
			t.Fatalf("%d downloads, %d updates in the next window", d.n(&d.fetched), len(a.jobs))
		}
		id := (<-a.jobs).record
		for _, next := range []installer.Status{installer.Verifying, installer.Failed} {
			if err := a.records.Become(t.Context(), id, next, errors.New("no"), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		for len(a.jobs) > 0 { // asked again while it waited
			<-a.jobs
		}
		time.Sleep(72 * time.Hour)
		synctest.Wait()
		if d.n(&d.fetched) != 1 || len(a.jobs) != 0 {
			t.Errorf("tried again: %d downloads, %d updates", d.n(&d.fetched), len(a.jobs))
		}
	})
}

// What waits until it is applied by hand does not pile up.
func TestScheduleSuperseded(t *testing.T) {
	inTime(t, Settings{Check: Interval(time.Hour), Auto: Stage}, func(t *testing.T, a *app, d *planned) {
		for _, version := range []string{"1.1.0", "1.2.0", "1.3.0"} {
			d.set(func() { d.latest = version })
			time.Sleep(3 * time.Hour)
			synctest.Wait()
		}
		found, total, err := a.records.Find(t.Context(), []installer.Status{installer.Pending}, -1, 0)
		if err != nil || total != 1 || found[0].To.Version != "1.3.0" || len(a.jobs) != 0 {
			t.Errorf("%d wait, %v", total, err)
		}
		entries, err := os.ReadDir(a.config.Inbox)
		if n := strings.Count(names(entries), bundleSuffix); err != nil || n != 1 {
			t.Errorf("files: %s, %v", names(entries), err)
		}
	})
}

func names(entries []os.DirEntry) (list string) {
	for _, e := range entries {
		list += e.Name() + " "
	}
	return list
}

// A change counts at once, also while a release waits for its time of day.
func TestReschedule(t *testing.T) {
	inTime(t, Settings{Auto: Off}, func(t *testing.T, a *app, d *planned) {
		patch := func(body string) error {
			_, err := a.patchSettings(nil, httptest.NewRequest("PATCH", "/settings", strings.NewReader(body)))
			synctest.Wait()
			return err
		}
		time.Sleep(100 * 24 * time.Hour)
		synctest.Wait()
		if d.n(&d.checks) != 0 {
			t.Fatal("checked, although never was set")
		}
		if err := patch(`{"check_every":"1h","auto":"apply","window":"05:00-06:00"}`); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if d.n(&d.checks) != 1 || d.n(&d.fetched) != 0 || d.written.Window != "05:00-06:00" {
			t.Fatalf("%d checks, %d downloads, %+v", d.n(&d.checks), d.n(&d.fetched), d.written)
		}
		d.busy = true
		if err := patch(`{"window":""}`); err == nil || a.settings().Window == "" {
			t.Fatalf("%v, %+v", err, a.settings())
		}
		d.busy = false
		if err := patch(`{"window":""}`); err != nil {
			t.Fatal(err)
		}
		if d.n(&d.fetched) != 1 || len(a.jobs) != 1 {
			t.Errorf("%d downloads, %d updates", d.n(&d.fetched), len(a.jobs))
		}
		if s := a.settings(); s.Auto != Apply || s.Check != Interval(time.Hour) {
			t.Errorf("what was not named has changed: %+v", s)
		}
		if err := patch(`{"check_every":"0s"}`); err != nil {
			t.Fatal(err)
		}
		n := d.n(&d.checks)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if d.n(&d.checks) != n {
			t.Error("checks although it was switched off")
		}
	})
}

// TestScheduleObstacle: what something stands in the way of, or a power cut ended, is
// tried again after pauses that grow, and at once when another release runs. What
// failed by itself is not.
func TestScheduleObstacle(t *testing.T) {
	ends := map[string]func(ctx context.Context, a *app, id string, try int) error{
		"obstacle": func(ctx context.Context, a *app, id string, _ int) error {
			a.obstructed(ctx, installer.Record{ID: id}, &installer.UnmetError{Reason: "it needs engine 99"})
			return nil
		},
		"power cut": func(ctx context.Context, a *app, id string, _ int) error {
			st, err := a.records.Load(ctx)
			r := installer.Record{ID: id, Action: installer.ActionUpdate, From: st.Current, To: installer.Release{Version: "1.1.0", Dir: "1.1.0"}, Created: time.Now(), Path: st.PathTo("1.1.0", 1)}
			return errors.Join(err, a.records.(*record.Store).Begin(ctx, r), a.records.(*record.Store).Fail(ctx, id, errors.New("power was lost"), false), a.records.(*record.Store).End(ctx, id, installer.RolledBack, time.Now()))
		},
		"it failed": func(ctx context.Context, a *app, id string, _ int) error {
			st, err := a.records.Load(ctx)
			r := installer.Record{ID: id, Action: installer.ActionUpdate, From: st.Current, To: installer.Release{Version: "1.1.0", Dir: "1.1.0"}, Created: time.Now(), Path: st.PathTo("1.1.0", 1)}
			return errors.Join(err, a.records.(*record.Store).Begin(ctx, r), a.records.(*record.Store).Fail(ctx, id, errors.New("probe: sick"), true), a.records.(*record.Store).End(ctx, id, installer.RolledBack, time.Now()))
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			inTime(t, Settings{Check: Interval(10 * time.Minute), Auto: Apply}, func(t *testing.T, a *app, d *planned) {
				tries := func(within time.Duration) (n int) {
					for stop := time.Now().Add(within); time.Now().Before(stop); time.Sleep(time.Minute) {
						synctest.Wait()
						for len(a.jobs) > 0 {
							id := (<-a.jobs).record
							n++
							if err := errors.Join(a.records.Become(t.Context(), id, installer.Verifying, nil, time.Now()), end(t.Context(), a, id, n)); err != nil {
								t.Fatal(err)
							}
						}
					}
					return n
				}
				switch n := tries(3 * 24 * time.Hour); {
				case name == "it failed" && n != 1:
					t.Errorf("tried %d times", n)
				case name != "it failed" && (n < 10 || n > 15): // 11 in the first day, then one a day
					t.Errorf("tried %d times in three days", n)
				}
				if name != "obstacle" {
					return
				}
				found, total, err := a.records.Find(t.Context(), []installer.Status{installer.Pending}, -1, 0)
				if err != nil || total != 1 || found[0].Error != "it needs engine 99" || found[0].Bundle == nil || d.n(&d.fetched) != 1 {
					t.Errorf("%+v, %v", found, err)
				}
				st, _ := a.records.Load(t.Context())
				r := installer.Record{ID: "HAND", Action: installer.ActionUpdate, From: st.Current, To: installer.Release{Version: "1.0.5", Dir: "1.0.5"}, Created: time.Now()}
				if err := errors.Join(a.records.(*record.Store).Begin(t.Context(), r), a.records.(*record.Store).Commit(t.Context(), "HAND", time.Now())); err != nil {
					t.Fatal(err)
				}
				if n := tries(12 * time.Minute); n == 0 {
					t.Error("not tried when another release runs")
				}
			})
		})
	}
}

// TestScheduleInterrupted: what the schedule had begun to verify when the daemon ended
// is its to try again.
func TestScheduleInterrupted(t *testing.T) {
	inTime(t, Settings{Check: Interval(time.Hour), Auto: Apply}, func(t *testing.T, a *app, d *planned) {
		a.Device = &ends{d}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		id := (<-a.jobs).record
		if err := a.records.Become(t.Context(), id, installer.Verifying, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
		a.afterRestart(t.Context())
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if len(a.jobs) == 0 || (<-a.jobs).record != id {
			t.Error("it is not tried again")
		}
	})
}

// ends is a device with nothing to recover.
type ends struct{ *planned }

func (*ends) Recover(context.Context, string, func(installer.Event)) error { return nil }
