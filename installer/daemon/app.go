package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/fleet"
)

// maxQueue is how many requests of an app may wait.
const maxQueue = 32

// app is one installed app, its queue and what is known about what it does.
type app struct {
	*Daemon
	name    string
	config  Config
	records Records
	inbox   *os.Root
	left    []string // files that were in the inbox when it was opened
	hub     *hub
	end     context.CancelFunc // of its queue
	agent   *fleet.Agent       // of the server that steers it; may be nil

	jobs chan job
	wake chan struct{} // the drop folder may have changed

	rescheduled chan struct{} // the settings changed
	onward      chan struct{} // an update on the way to another one is done

	fetching sync.Mutex // one download at a time
	deciding sync.Mutex // a record is put into the queue or deleted, not both
	changing sync.Mutex // one change of the settings at a time

	mu      sync.Mutex // also guards config.Settings
	uploads map[string]*upload
	queued  map[string]int // records that have jobs
	doing   *doing         // the job that is done; nil for none
	latest  *Latest        // of the last check
	checked time.Time

	seen map[string]look // files of the drop folder; the queue's goroutine only
	late late            // the schedule's goroutine only
}

// job is one transaction that waits: an update of a record, or, with run,
// something else that becomes the record.
type job struct {
	record string
	on     *installer.Path // where it is on the way to another version; found out when it is nil
	forced bool
	stage  bool // downloaded and verified, and no more
	by     string
	run    func(ctx context.Context) (installer.Result, error)
}

// run is the queue: one thing after the other.
func (a *app) run(ctx context.Context) {
	defer a.close()
	a.afterRestart(ctx)
	stop := a.watchDrop(ctx)
	defer stop()
	scan := time.NewTicker(a.Timing.Scan)
	defer scan.Stop()
	go a.schedule(ctx)
	if a.agent != nil {
		go a.agent.Run(ctx)
	}
	a.goOn(ctx)
	a.poke()
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-a.jobs:
			a.working.RLock()
			a.cancelable(ctx, j)
			a.working.RUnlock()
			a.dequeue(j)
			if a.agent != nil {
				a.agent.Wake()
			}
			a.poke()
		case <-scan.C:
			a.poke()
		case <-a.wake:
			a.lookAtDrop(ctx)
			a.dropStaleUploads()
		}
	}
}

func (a *app) close() {
	a.inbox.Close()
	a.records.Close()
}

// poke has the drop folder looked at soon.
func (a *app) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// afterRestart ends what an earlier daemon did not.
func (a *app) afterRestart(ctx context.Context) {
	a.recover(ctx)
	found, _, err := a.records.Find(ctx, []installer.Status{installer.Downloading, installer.Verifying}, -1, 0)
	if err != nil {
		a.log().Error("read records", "err", err)
	}
	for _, r := range found {
		if r.By == bySchedule && r.Status == installer.Verifying || r.By == byFleet { // who asked for it tries it again
			a.become(ctx, r.ID, installer.Pending, nil)
			continue
		}
		a.fail(ctx, r.ID, &installer.Failure{Reason: "interrupted", Err: errors.New("interrupted: the daemon ended before it was done; apply it again")})
	}
	a.dropOrphans(ctx)
}

// recover undoes what an earlier daemon, or a command, left unfinished. Who
// watched it sees how it ends.
func (a *app) recover(ctx context.Context) {
	cut, _, err := a.records.Find(ctx, []installer.Status{installer.Applying}, 1, 0)
	if err != nil {
		a.log().Error("read records", "err", err)
	}
	id := ""
	if len(cut) > 0 {
		id = cut[0].ID
		a.hub.begin(id)
		a.await(ctx, func() error { return a.Device.Ready(ctx, a.name) })
	}
	a.await(ctx, func() error {
		if err = a.Device.Recover(ctx, a.name, func(e installer.Event) { a.tell(id, e) }); errors.Is(err, ErrBusy) {
			return err
		}
		return nil
	})
	if err != nil {
		a.log().Error("recover", "err", err)
	}
	if id == "" {
		return
	}
	if r, err := a.records.Get(context.WithoutCancel(ctx), id); err == nil {
		a.changed(id, r.Status)
	}
}

// enqueue puts a job behind the others.
func (a *app) enqueue(j job) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case a.jobs <- j:
		a.queued[j.record]++
		a.hub.send(Event{Type: "queued", Record: j.record})
		return nil
	default:
		return fmt.Errorf("%d requests wait already", maxQueue)
	}
}

// dequeue forgets a job that was done.
func (a *app) dequeue(j job) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.queued[j.record]--; a.queued[j.record] <= 0 {
		delete(a.queued, j.record)
	}
}

// do carries a job out, waiting for the engine and for another program that
// holds the app's lock: neither is the bundle's fault.
func (a *app) do(ctx context.Context, j job) {
	if j.run != nil {
		a.other(ctx, j)
		return
	}
	r, err := a.records.Get(ctx, j.record)
	if err != nil || r.Status != installer.Pending {
		return // deleted since, or done by somebody else
	}
	a.await(ctx, func() error { return a.Device.Ready(ctx, a.name) })
	if ctx.Err() != nil {
		return
	}
	if j.stage {
		a.stage(ctx, r)
		return
	}
	if j.on != nil {
		a.update(ctx, r, j.on, j.forced)
		return
	}
	way, on, err := a.way(ctx, r)
	switch {
	case err != nil:
		a.obstructed(ctx, r, err)
	case len(way) < 2:
		a.update(ctx, r, on, j.forced)
	default:
		a.walk(ctx, j, r, way[0], on)
	}
}

// way is what leads to the version of a record, and where on it the next update is:
// nothing when none else has to come first. The error is an obstacle.
func (a *app) way(ctx context.Context, r installer.Record) ([]Hop, *installer.Path, error) {
	st, err := a.records.Load(ctx)
	if err != nil {
		return nil, nil, err
	}
	way, err := a.wayTo(ctx, r.To.Version, false)
	if err != nil && !installer.Obstacle(err) {
		return nil, nil, nil // the update itself says what is wrong
	}
	if err != nil || len(way) == 0 {
		return nil, nil, err
	}
	return way, st.PathTo(r.To.Version, len(way)), nil
}

// wayTo asks for the way to a version over all bundles that wait here.
func (a *app) wayTo(ctx context.Context, version string, costs bool) ([]Hop, error) {
	waiting, _, err := a.records.Find(ctx, []installer.Status{installer.Pending}, -1, 0)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, w := range waiting {
		if path, err := a.pathOf(w); err == nil {
			files = append(files, path)
		}
	}
	return a.Device.Way(ctx, a.name, version, files, costs)
}

// walk carries out the first update of those that lead to the version of target, and
// puts target into the queue again. When it fails, target waits for a person.
func (a *app) walk(ctx context.Context, j job, target installer.Record, first Hop, on *installer.Path) {
	r, err := a.open(ctx, first.Version)
	if err == nil && r == nil {
		r = &installer.Record{ID: a.NewID(), To: installer.Release{Version: first.Version}, Status: installer.Pending, By: target.By, Created: a.Now()}
		if err = a.records.Add(ctx, *r); err == nil {
			a.changed(r.ID, installer.Pending)
		}
	}
	if err == nil && r.Status != installer.Pending {
		err = fmt.Errorf("%s is %s", first.Version, r.Status)
	}
	if err == nil && a.update(ctx, *r, on, false) {
		if err = a.enqueue(job{record: target.ID, forced: j.forced}); err == nil {
			return
		}
	}
	if ctx.Err() != nil {
		return // the next daemon goes on
	}
	cause := error(&installer.Failure{Reason: "first", Err: fmt.Errorf("%s has to run first, and was not installed: see its record", first.Version)})
	if err != nil {
		cause = a.told(err)
	}
	a.become(ctx, target.ID, installer.Pending, cause)
}

// goOn takes up the way that an earlier daemon, or a command, was on. One by schedule
// is the schedule's, which has a window.
func (a *app) goOn(ctx context.Context) {
	st, err := a.records.Load(ctx)
	s := a.settings()
	if err != nil || a.agent != nil || st.Path == nil || st.Path.Hops < 2 || st.Path.Try > maxTries || s.Auto == Apply && s.Check > 0 {
		return
	}
	r, err := a.open(ctx, st.Path.Target)
	if err == nil && r == nil {
		r = &installer.Record{ID: a.NewID(), To: installer.Release{Version: st.Path.Target}, Status: installer.Pending, Created: a.Now()}
		err = a.records.Add(ctx, *r)
	}
	if err == nil {
		err = a.enqueue(job{record: r.ID})
	}
	if err != nil {
		a.log().Error("go on", "path", st.Path.String(), "err", err)
	}
}

// update downloads the bundle of a record, when it has none, and carries it out. It
// reports whether that release runs.
func (a *app) update(ctx context.Context, r installer.Record, on *installer.Path, forced bool) bool {
	a.hub.begin(r.ID)
	var res installer.Result
	var err error
	for again := false; ; again = true {
		if r, err = a.withBundle(ctx, r); installer.Obstacle(err) || err != nil && r.By == byFleet && ctx.Err() == nil && a.refusedBy(err) == "" {
			a.obstructed(ctx, r, err)
			return false
		} else if err != nil {
			a.fail(context.WithoutCancel(ctx), r.ID, a.told(err))
			return false
		}
		path, err := a.pathOf(r)
		if err != nil {
			a.fail(ctx, r.ID, &installer.Failure{Reason: "not-kept", Err: err})
			return false
		}
		a.become(ctx, r.ID, installer.Verifying, nil)
		res, err = a.carryOut(ctx, path, r.ID, on, forced)
		if again || !errors.As(err, new(*installer.LackingError)) || dropName(r) != "" || a.config.Source == "" {
			a.ended(ctx, r, res, err)
			break
		}
		// It was downloaded without what this device had then, and has no more.
		a.become(ctx, r.ID, installer.Pending, nil)
		a.forgetFile(ctx, r.ID)
		r.Bundle = nil
	}
	if res.Outcome != installer.Done {
		return false
	}
	select {
	case a.onward <- struct{}{}:
	default:
	}
	return true
}

func (a *app) carryOut(ctx context.Context, path, id string, on *installer.Path, forced bool) (res installer.Result, err error) {
	a.await(ctx, func() error {
		res, err = a.Device.Update(ctx, a.name, path, id, forced, on, a.report(id))
		if errors.Is(err, ErrBusy) {
			return err
		}
		return nil
	})
	return res, err
}

// obstructed leaves a record waiting: nothing is wrong with its release, and what stands
// in the way may go.
func (a *app) obstructed(ctx context.Context, r installer.Record, err error) {
	a.become(context.WithoutCancel(ctx), r.ID, installer.Pending, a.told(err))
	a.log().Warn("it waits", "version", r.To.Version, "err", err)
}

// withBundle downloads the bundle of a record that has none.
func (a *app) withBundle(ctx context.Context, r installer.Record) (installer.Record, error) {
	if r.Bundle != nil && r.Bundle.File != "" {
		return r, nil
	}
	a.fetching.Lock()
	defer a.fetching.Unlock()
	a.become(ctx, r.ID, installer.Downloading, nil)
	err := a.fetch(ctx, r.ID, r.To.Version)
	if errors.Is(err, ErrNoSource) {
		return r, errors.New("it has no bundle, and this device knows no place to fetch one from: upload the bundle of that version")
	}
	if err != nil {
		return r, err
	}
	b := &installer.Bundle{File: r.ID + bundleSuffix}
	if b.Digest, b.Size, err = a.settle(ctx, filepath.Join(a.config.Inbox, r.ID+unverified)); err != nil {
		return r, err
	}
	if err := a.inbox.Rename(r.ID+unverified, b.File); err != nil {
		return r, err
	}
	if err := a.records.SetBundle(ctx, r.ID, b, ""); err != nil {
		return r, err
	}
	r.Bundle = b
	return r, nil
}

// await repeats f, with a pause, until it returns nil or ctx ends.
func (a *app) await(ctx context.Context, f func() error) {
	for said := false; ; said = true {
		err := f()
		if err == nil || ctx.Err() != nil {
			return
		}
		if text, _ := a.Device.Explain(err); !said {
			a.log().Warn("waiting", "err", err)
			a.hub.send(Event{Type: "waiting", Detail: text, Reason: installer.ReasonOf(err)})
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.Timing.Stable):
		}
	}
}

// ended makes what came of an update known: to the record, when the transaction
// did not do so, to those who watch, and to who put the bundle there.
func (a *app) ended(ctx context.Context, r installer.Record, res installer.Result, err error) {
	stopped := ctx.Err() != nil
	ctx = context.WithoutCancel(ctx)
	switch {
	case err == nil && res.Outcome == installer.NothingToDo:
		a.fail(ctx, r.ID, &installer.Failure{Reason: "runs", Err: fmt.Errorf("%s runs already, nothing to do", r.To.Version)})
	case err != nil && !stopped && (installer.Obstacle(err) || (r.By == bySchedule || r.By == byFleet) && a.refusedBy(err) == ""):
		a.obstructed(ctx, r, err)
		return
	case err == nil && res.Outcome == installer.Unchanged && res.Record.Reason == halted: // while it was fetched
		a.obstructed(ctx, r, &installer.Failure{Reason: halted, Err: res.Err})
		return
	case err == nil && res.Record.ID != r.ID: // it failed before the transaction had a record
		a.fail(ctx, r.ID, a.told(res.Err))
	case err != nil:
		a.fail(ctx, r.ID, a.told(err))
	default:
		a.changed(r.ID, res.Record.Status)
	}
	if f := dropName(r); f != "" {
		if stopped {
			return // it stays where it is, and is tried again
		}
		a.finishDrop(ctx, f, r.ID, err == nil && (res.Outcome == installer.Done || res.Outcome == installer.NothingToDo))
		return
	}
	if res.Outcome == installer.Done { // nothing needs the file any more
		a.forgetFile(ctx, r.ID)
	}
}

// other carries out what has no bundle: a rollback, or data that come back.
func (a *app) other(ctx context.Context, j job) {
	a.await(ctx, func() error { return a.Device.Ready(ctx, a.name) })
	a.hub.begin(j.record)
	var res installer.Result
	var err error
	a.await(ctx, func() error {
		res, err = j.run(ctx)
		if errors.Is(err, ErrBusy) {
			return err
		}
		return nil
	})
	ctx = context.WithoutCancel(ctx)
	if err == nil && res.Err == nil && res.Record.ID == "" { // data ended the way back of an earlier update, whose record says so
		a.hub.send(Event{Type: "status", Record: j.record, Status: installer.RolledBack})
		return
	}
	if err == nil && res.Record.ID == j.record {
		if err := a.records.Note(ctx, j.record, j.by); err != nil {
			a.log().Error("write record", "err", err)
		}
		a.changed(j.record, res.Record.Status)
		return
	}
	if err == nil {
		err = res.Err
	}
	r := installer.Record{ID: j.record, Action: installer.ActionRollback, Status: installer.Failed, Error: a.explain(err), Reason: installer.ReasonOf(err), By: j.by, Created: a.Now()}
	if err := a.records.Add(ctx, r); err != nil {
		a.log().Error("write record", "err", err)
	}
	a.changed(j.record, installer.Failed)
}

func (a *app) explain(err error) string {
	text, _ := a.Device.Explain(err)
	return text
}

// refusedBy is the check that refused a bundle, if one did.
func (a *app) refusedBy(err error) string {
	_, check := a.Device.Explain(err)
	return check
}

// told is an error in the words of the device.
func (a *app) told(err error) error {
	return &installer.Failure{Reason: installer.ReasonOf(err), Err: errors.New(a.explain(err))}
}

func (a *app) fail(ctx context.Context, id string, cause error) {
	a.become(ctx, id, installer.Failed, cause)
}

func (a *app) become(ctx context.Context, id string, next installer.Status, cause error) {
	if err := a.records.Become(ctx, id, next, cause, a.Now()); err != nil {
		a.log().Error("write record", "record", id, "err", err)
		return
	}
	a.changed(id, next)
}

// changed tells everybody that a record has another status.
func (a *app) changed(id string, status installer.Status) {
	a.log().Info("record", "record", id, "status", status)
	a.hub.send(Event{Type: "status", Record: id, Status: status})
	if a.agent != nil {
		a.agent.Wake()
	}
	if a.config.Webhook != "" {
		go a.webhook(id)
	}
}

// report turns the progress of a transaction into events. The first step of it
// is when the record is applied.
func (a *app) report(id string) func(installer.Event) {
	applying := false
	return func(e installer.Event) {
		if !applying && !e.Ended && e.Step != "verify" && e.Step != "" {
			applying = true
			a.changed(id, installer.Applying)
		}
		if e.Step == "activate" {
			a.switching()
		}
		a.tell(id, e)
	}
}

// tell makes a step of a transaction known to those who watch.
func (a *app) tell(id string, e installer.Event) {
	out := Event{Type: "step", Record: id, Step: e.Step, Detail: e.Detail, Done: e.Done, Total: e.Total, Ended: e.Ended}
	if e.Done > 0 && !e.Ended {
		out.Type = "progress"
	}
	if e.Err != nil {
		out.Error, out.Reason = e.Err.Error(), installer.ReasonOf(e.Err)
	}
	a.hub.send(out)
}

func (a *app) log() *slog.Logger { return a.Log.With("app", a.name) }

// pathOf is where the bundle of a record lies.
func (a *app) pathOf(r installer.Record) (string, error) {
	if r.Bundle == nil || r.Bundle.File == "" {
		return "", errors.New("it has no bundle: upload one of that version first")
	}
	if name := dropName(r); name != "" {
		found, err := bundlesIn(os.DirFS(a.dropDir()))
		if err != nil || found[name] == nil {
			return "", fmt.Errorf("%s is not in the drop folder any more: copy it there again", name)
		}
		return filepath.Join(a.dropDir(), name), nil
	}
	if filepath.Base(r.Bundle.File) != r.Bundle.File {
		return "", fmt.Errorf("the record names %q as its file", r.Bundle.File)
	}
	return filepath.Join(a.config.Inbox, r.Bundle.File), nil
}

// dropPrefix marks the bundles of records that lie in the drop folder.
const dropPrefix = "drop/"

func dropName(r installer.Record) string {
	if r.Bundle == nil {
		return ""
	}
	name, ok := strings.CutPrefix(r.Bundle.File, dropPrefix)
	if !ok || filepath.Base(name) != name {
		return ""
	}
	return name
}
