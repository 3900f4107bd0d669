package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
)

// shop is a device with one app and a drop folder. What it updates to is
// committed, unless the version is in bad; what is called stranger is refused by
// a check.
type shop struct {
	Device
	t       testing.TB
	dir     string
	mode    Mode
	records *record.Store
	bad     map[string]bool
	tried   []string
	looked  int // bundles that were verified
}

func (d *shop) Recover(context.Context, string, func(installer.Event)) error { return nil }
func (d *shop) Ready(context.Context, string) error                          { return nil }
func (d *shop) Latest(context.Context, string) (Latest, error)               { return Latest{}, ErrNoSource }

func (d *shop) Way(context.Context, string, string, []string, bool) ([]Hop, error) { return nil, nil }

var errStranger = errors.New("no trusted signer")

func (d *shop) Explain(err error) (text, check string) {
	if errors.Is(err, errStranger) {
		check = "signature"
	}
	return err.Error(), check
}

func (d *shop) Plan(_ context.Context, _, path string, _ bool, _ func(installer.Event)) (Offer, error) {
	d.looked++
	r, f, err := open(path)
	if err != nil {
		return Offer{}, err
	}
	defer f.Close()
	if strings.Contains(path, "stranger") {
		return Offer{}, errStranger
	}
	return Offer{Version: r.Manifest().Version, Changelog: "better", Plan: &installer.Plan{Action: installer.ActionUpdate}}, nil
}

func (d *shop) Update(ctx context.Context, _, path, id string, _ bool, _ *installer.Path, _ func(installer.Event)) (installer.Result, error) {
	r, f, err := open(path)
	if err != nil {
		return installer.Result{}, err
	}
	defer f.Close()
	version := r.Manifest().Version
	d.tried = append(d.tried, version)
	if d.bad[version] {
		return installer.Result{}, errors.New("it does not get healthy")
	}
	return d.commit(installer.ActionUpdate, id, version), nil
}

// commit makes version the one that runs.
func (d *shop) commit(action installer.Action, id, version string) installer.Result {
	st, err := d.records.Load(d.t.Context())
	if err == nil {
		err = d.records.Begin(d.t.Context(), installer.Record{ID: id, Action: action, From: st.Current, To: installer.Release{Version: version, Dir: version, Manifest: bundle.Digest("sha256:" + version)}, Status: installer.Applying, Created: time.Now()})
	}
	if err == nil {
		err = d.records.Commit(d.t.Context(), id, time.Now())
	}
	if err != nil {
		d.t.Fatal(err)
	}
	rec, err := d.records.Get(d.t.Context(), id)
	if err != nil {
		d.t.Fatal(err)
	}
	return installer.Result{Outcome: installer.Done, Record: rec}
}

func newShop(t testing.TB, mode Mode) *shop {
	d := &shop{t: t, dir: t.TempDir(), mode: mode, bad: map[string]bool{}}
	for _, name := range []string{"updates", "inbox"} {
		if err := os.Mkdir(filepath.Join(d.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := d.boot()
	d.commit(installer.ActionInstall, "FIRST", "1.0.0")
	a.close()
	return d
}

// boot is a daemon that has just started. The caller closes it.
func (d *shop) boot() *app {
	d.t.Helper()
	records, err := record.Open(d.t.Context(), filepath.Join(d.dir, "state.db"), "shop")
	if err != nil {
		d.t.Fatal(err)
	}
	d.records = records
	inbox, err := os.OpenRoot(filepath.Join(d.dir, "inbox"))
	if err != nil {
		d.t.Fatal(err)
	}
	m := &Daemon{Device: d, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Audit: io.Discard, Now: time.Now, NewID: rand.Text, verifying: make(chan struct{}, 1)}
	m.Timing = Timing{Stable: time.Nanosecond, Settle: time.Nanosecond}
	m.Timing.defaults()
	a := &app{
		Daemon: m, name: "shop", config: Config{Drop: filepath.Join(d.dir, "updates"), DropMode: d.mode, Inbox: inbox.Name()}, records: records, inbox: inbox, hub: newHub(time.Now),
		jobs: make(chan job, maxQueue), wake: make(chan struct{}, 1), seen: map[string]look{}, uploads: map[string]*upload{}, queued: map[string]int{},
	}
	a.afterRestart(d.t.Context())
	return a
}

// live is a daemon's life: it looks at the drop folder again and again.
func (d *shop) live() {
	d.t.Helper()
	a := d.boot()
	defer a.close()
	for range 6 {
		a.lookAtDrop(d.t.Context())
	}
}

func (d *shop) put(name, version string) {
	d.t.Helper()
	m, c := bundletest.Release(d.t, bundletest.Spec{App: "shop", Version: version})
	d.write(name, bundletest.Write(d.t, m, c))
}

func (d *shop) write(name string, b []byte) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "updates", name), b, 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// all are the records, newest first, but for the first installation.
func (d *shop) all() []installer.Record {
	d.t.Helper()
	a := d.boot()
	defer a.close()
	found, _, err := a.records.Find(d.t.Context(), nil, -1, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	return found[:len(found)-1]
}

// A file that cannot be moved away is tried once, however often the daemon looks
// and starts, and makes one record: one that fails, one of a stranger, half a one
// and one that worked. A person who goes back from it stays there, until there is
// a newer release.
func TestDropStays(t *testing.T) {
	d := newShop(t, Apply)
	d.write(AppliedDir, nil) // files where directories belong
	d.write(failedDir, nil)
	d.bad["1.0.5"] = true
	d.put("bad.tar.gz", "1.0.5")
	d.write("half.tar.gz", []byte("half a bundle"))
	d.put("good.tar.gz", "1.1.0")
	for range 3 {
		d.live()
	}
	if got := strings.Join(d.tried, " "); got != "1.0.5 1.1.0" {
		t.Errorf("tried %s", got)
	}
	if got := d.all(); len(got) != 3 {
		t.Errorf("%d records, want one for each file: %+v", len(got), got)
	}
	a := d.boot()
	d.commit(installer.ActionRollback, "BACK", "1.0.0")
	a.close()
	for range 3 {
		d.live()
	}
	if got := d.all(); len(d.tried) != 2 || len(got) != 4 {
		t.Fatalf("tried %s, %d records after a rollback by hand", d.tried, len(got))
	}
	// A person may still say otherwise, and so does a newer release.
	all := d.all()
	a = d.boot()
	for _, r := range all {
		if r.To.Version != "1.1.0" {
			continue
		}
		req := httptest.NewRequest("POST", "/", nil)
		req.SetPathValue("id", r.ID)
		if _, err := a.postApply(req, Application{}); err != nil {
			t.Fatal(err)
		}
		a.do(t.Context(), <-a.jobs)
	}
	a.close()
	d.put("new.tar.gz", "1.2.0")
	d.live()
	d.live()
	if got := strings.Join(d.tried, " "); got != "1.0.5 1.1.0 1.1.0 1.2.0" {
		t.Errorf("tried %s", got)
	}
}

// What copies a file into the folder again and again does not overrule a person
// who went back from it: the file waits.
func TestDropAfterRollback(t *testing.T) {
	d := newShop(t, Apply)
	d.put("shop.tar.gz", "1.1.0")
	d.live()
	a := d.boot()
	d.commit(installer.ActionRollback, "BACK", "1.0.0")
	a.close()
	for range 3 {
		d.put("shop.tar.gz", "1.1.0")
		d.live()
	}
	if len(d.tried) != 1 {
		t.Fatalf("tried %s", d.tried)
	}
	if r := d.all()[0]; r.Status != installer.Pending || !r.Bundle.Verified || r.To.Version != "1.1.0" {
		t.Errorf("it does not wait: %+v", r)
	}
	d.put("newer.tar.gz", "1.1.1")
	d.live()
	if len(d.tried) != 2 || d.tried[1] != "1.1.1" {
		t.Errorf("tried %s, want a newer one", d.tried)
	}
}

// What waits is verified, whatever is not is refused; and a record whose file was
// taken away says so.
func TestDropStaged(t *testing.T) {
	d := newShop(t, Stage)
	d.put("stranger.tar.gz", "9.0.0")
	d.put("good.tar.gz", "1.1.0")
	for range 3 {
		d.live()
	}
	if d.looked != 2 || len(d.tried) != 0 {
		t.Errorf("%d verified, %s applied", d.looked, d.tried)
	}
	for _, r := range d.all() {
		switch {
		case r.Bundle == nil || r.To.Version == "9.0.0" != (r.Status == installer.Failed) || r.Status == installer.Failed == r.Bundle.Verified:
			t.Errorf("%+v %+v", r, r.Bundle)
		case r.Status == installer.Failed && r.Error != errStranger.Error():
			t.Error(r.Error)
		}
	}
	if _, err := os.Stat(filepath.Join(d.dir, "updates", failedDir, "stranger.tar.gz")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(d.dir, "updates", "good.tar.gz")); err != nil {
		t.Fatal(err)
	}
	d.live()
	for _, r := range d.all() {
		if r.Status != installer.Failed || r.Bundle.File != "" || r.To.Version == "1.1.0" && !strings.Contains(r.Error, "not in the drop folder any more") {
			t.Errorf("%+v %+v", r, r.Bundle)
		}
	}
}

// A record that waits for its turn is not deleted: whoever asked for it would hear
// nothing. A version that was only announced is not offered as the latest.
func TestQueued(t *testing.T) {
	d := newShop(t, Apply)
	a := d.boot()
	defer a.close()
	answer, err := a.postUpdate(httptest.NewRequest("POST", "/", nil), Announcement{Version: "99.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	id := answer.PublicID
	c, err := a.getCheck(httptest.NewRequest("GET", "/check", nil))
	if err != nil || c.UpdateAvailable || *c.LatestVersion != "1.0.0" {
		t.Errorf("%+v %v", c, err)
	}
	req := httptest.NewRequest("POST", "/", nil)
	req.SetPathValue("id", id)
	if _, err := a.postApply(req, Application{}); err != nil {
		t.Fatal(err)
	}
	_, err = a.deleteUpdate(req)
	if no := new(refusal); !errors.As(err, &no) || no.status != http.StatusConflict {
		t.Fatalf("deleted while it waits: %v", err)
	}
	j := <-a.jobs
	a.dequeue(j)
	if _, err := a.deleteUpdate(req); err != nil {
		t.Error(err)
	}
}

// One token has a part of the places of those who watch, and many hold none
// against somebody else.
func TestWatchers(t *testing.T) {
	h := newHub(time.Now)
	n := 0
	for range 2 * maxWatchers {
		if _, _, ok := h.watch("token:looker"); ok {
			n++
		}
	}
	if n != maxWatchersEach {
		t.Errorf("one token watches %d times", n)
	}
	for _, by := range []string{"b", "c", "d"} {
		for range maxWatchersEach {
			h.watch(by)
		}
	}
	if len(h.watchers) != maxWatchers {
		t.Fatalf("%d watch", len(h.watchers))
	}
	_, w, ok := h.watch("ann")
	if !ok || len(h.watchers) != maxWatchers || h.each["ann"] != 1 {
		t.Errorf("%v, %d watch", ok, len(h.watchers))
	}
	h.leave(w)
	h.leave(w)
	if h.each["ann"] != 0 || len(h.watchers) != maxWatchers-1 {
		t.Errorf("%d, %d", h.each["ann"], len(h.watchers))
	}
}

// TestDropReadOnce: of many bundles in the drop folder, each look reads only those that
// are new or changed, else a folder costs the square of what is in it.
func TestDropReadOnce(t *testing.T) {
	d := newShop(t, Apply)
	d.put("a.tar.gz", "1.1.0")
	d.put("b.tar.gz", "1.2.0")
	a := d.boot()
	defer a.close()
	look := func() []dropped {
		a.complete(t.Context()) // until nothing has changed for a while
		ready, _ := a.complete(t.Context())
		if len(ready) != 2 {
			t.Fatalf("%d bundles are ready, want 2", len(ready))
		}
		return ready
	}
	before := look()
	if again := look(); again[0].version != before[0].version || again[1].version != before[1].version {
		t.Error("a bundle that did not change was read again")
	}
	d.put("b.tar.gz", "1.30.0")
	if changed := look(); changed[0].version != before[0].version || changed[1].version.Original() != "1.30.0" {
		t.Errorf("%s and %s after a change, want 1.1.0 as it was and 1.30.0", changed[0].version, changed[1].version)
	}
}
