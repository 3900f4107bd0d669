package installer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/verify"
)

// Installer runs the transaction. The caller holds the app's lock.
type Installer struct {
	Journal Journal
	Runtime Runtime
	Now     func() time.Time
	NewID   func() string
	Report  func(Event) // may be nil
	// Rotate writes a rotation into the trust policy of this device. It may be
	// called again with the same one. Nil leaves that to the caller.
	Rotate func(context.Context, *verify.Rotation) error
	// Limits are how long the steps may take; zero is for ever.
	Limits bundle.Limits
	// Gate is asked once more, when a release is staged, whether it may run. May be nil.
	Gate func(context.Context) error
	// Path is which of several updates this one is; nil for one by itself.
	Path *Path
	// StopWithin is how long a way back may still take once the caller's context
	// has ended. Then it is left for the next recovery. Zero leaves it its limits.
	StopWithin time.Duration
}

// Outcome is how a call ended for the device.
type Outcome string

const (
	Done           Outcome = "done"            // the new release runs and is committed
	NothingToDo    Outcome = "nothing_to_do"   // it ran already, whole and healthy
	Unchanged      Outcome = "unchanged"       // it failed before anything that runs was touched, or all of a first installation was undone
	Reverted       Outcome = "reverted"        // the previous release runs again
	NeedsAttention Outcome = "needs_attention" // the undo failed too
)

// Result is the end of Update, Rollback or Recover. Err is the cause when the
// outcome is neither Done nor NothingToDo.
type Result struct {
	Outcome Outcome
	Record  Record
	Err     error
}

// ErrNothingRuns means that nothing was committed yet.
var ErrNothingRuns = errors.New("nothing is installed that can run")

// ErrNoPrevious means that there is nothing to roll back to.
var ErrNoPrevious = errors.New("no previous release: no other one was ever committed here, or it was removed")

// ErrNoRecord means that no record has that ID.
var ErrNoRecord = errors.New("there is no such record")

// ErrUnfinished means that Recover has to run first.
var ErrUnfinished = errors.New("an earlier update did not finish: run recover first")

// DeviceError is a failure that is the device's and not the release's, such as an
// engine that does not answer.
type DeviceError struct{ Err error }

func (e *DeviceError) Error() string { return e.Err.Error() }
func (e *DeviceError) Unwrap() error { return e.Err }

// deviceFaults are failures of system calls that no release can help. What a
// release's own programs meet comes as an exit code.
var deviceFaults = []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM}

func ofDevice(err error) bool {
	return errors.As(err, new(*DeviceError)) || slices.ContainsFunc(deviceFaults, func(f error) bool { return errors.Is(err, f) })
}

// Names of the steps, in their order.
const (
	stepStage    = "stage"
	stepBackup   = "backup"
	stepActivate = "activate"
	stepProbe    = "probe"
	stepRepair   = "repair"
)

// LimitError says that a step was not done in time.
type LimitError struct {
	Step  string // as Limits calls it
	Limit time.Duration
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("not done within %s, the limit of %s", e.Limit, e.Step)
}

// Within runs do for a limit at most; zero is for ever.
func Within(ctx context.Context, step string, limit bundle.Duration, do func(context.Context) error) error {
	if limit == 0 {
		return do(ctx)
	}
	cause := &LimitError{step, time.Duration(limit)}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(limit), cause)
	defer cancel()
	err := do(ctx)
	if err != nil && context.Cause(ctx) == error(cause) && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// errStopped ends a way back that takes longer than StopWithin.
var errStopped = errors.New("this program was stopped before the rollback was done: the next start continues it")

// back is the context of a way back: what ended ctx does not end it, unless it
// takes too long.
func (in *Installer) back(ctx context.Context) (context.Context, context.CancelFunc) {
	if in.StopWithin == 0 {
		return context.WithoutCancel(ctx), func() {}
	}
	return Outlive(ctx, in.StopWithin, errStopped)
}

// Outlive is a context that ends a while after ctx has ended, with that cause: for what
// has to be tidied up all the same.
func Outlive(ctx context.Context, while time.Duration, cause error) (context.Context, context.CancelFunc) {
	free, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() {
		select {
		case <-free.Done():
		case <-time.After(while):
			cancel(cause)
		}
	})
	return free, func() { forget(); cancel(nil) }
}

// step is one part of the transaction: an effect and, beside it, its undo. undo
// gets what prepare returned before the effect, and may be nil when the effect
// leaves nothing behind that matters.
type step struct {
	name    string
	limit   bundle.Duration // of do, and undoLimit of undo
	prepare func(context.Context) (json.RawMessage, error)
	do      func(context.Context) error
	undo    func(context.Context, json.RawMessage) error

	undoLimit bundle.Duration
}

// Data says what a rollback does to the app's data. The zero value keeps them.
type Data struct {
	Record  string // whose backup is restored
	Discard bool   // do not save today's data first: they are lost
}

// steps returns the transaction of a record. rel is nil for a rollback, whose
// release is staged already, and in recovery, which only undoes.
func (in *Installer) steps(r Record, rel *verify.Release, kept []Release, data Data) []step {
	change := Switch{Record: r.ID, Action: r.Action, From: r.From, To: r.To, Data: data.Record}
	l := in.Limits
	stage := step{
		name: stepStage, limit: l.Stage, undoLimit: l.Undo,
		do: func(ctx context.Context) error { return in.Runtime.Stage(ctx, rel, r.To, kept) },
		undo: func(ctx context.Context, _ json.RawMessage) error {
			// What stays behind is garbage that the next prune removes; nothing
			// trusts it, so it is no reason to call a person.
			if err := in.Runtime.Prune(ctx, kept); err != nil {
				in.report(Event{Step: "prune", Ended: true, Err: err})
			}
			return nil
		},
	}
	backup := step{
		name: stepBackup, limit: l.Backup, undoLimit: l.Undo,
		do:   func(ctx context.Context) error { return in.Runtime.Backup(ctx, *r.From, r.To, r.ID) },
		undo: func(ctx context.Context, _ json.RawMessage) error { return in.Runtime.Resume(ctx, *r.From, r.To) },
	}
	activate := step{
		name: stepActivate, limit: l.Activate, undoLimit: plus(l.Undo, l.Backup), // data may come back
		prepare: func(ctx context.Context) (json.RawMessage, error) { return in.Runtime.Snapshot(ctx, change) },
		do:      func(ctx context.Context) error { return in.Runtime.Activate(ctx, change) },
		undo: func(ctx context.Context, snapshot json.RawMessage) error {
			if err := in.Runtime.Revert(ctx, snapshot, r.From); err != nil {
				return err
			}
			if r.From == nil {
				return nil
			}
			if err := in.Runtime.Probe(ctx, *r.From); err != nil {
				return fmt.Errorf("probe %s: %w", r.From.Version, err)
			}
			return nil
		},
	}
	probe := step{
		name: stepProbe, limit: l.Probe,
		do: func(ctx context.Context) error { return in.Runtime.Probe(ctx, r.To) },
	}
	repair := step{
		name: stepRepair, limit: plus(l.Stage, l.Activate, l.Probe), undoLimit: l.Undo,
		do: func(ctx context.Context) error { return in.repair(ctx, rel, r.To, kept) },
		undo: func(ctx context.Context, _ json.RawMessage) error {
			// The release was current before and is it now, whatever it lacks:
			// there is no way back that a person could help with.
			if err := in.Runtime.Repair(ctx, nil, r.To, kept, false); err != nil {
				in.report(Event{Step: stepRepair, Ended: true, Err: err})
			}
			return nil
		},
	}
	if data.Record != "" {
		activate.limit = plus(l.Activate, l.Backup)
	}
	switch {
	case r.Repairs():
		return []step{repair}
	case r.Action == ActionRollback && (data.Record == "" || data.Discard):
		return []step{activate, probe}
	case r.Action == ActionRollback:
		return []step{backup, activate, probe}
	case r.From == nil:
		return []step{stage, activate, probe}
	}
	return []step{stage, backup, activate, probe}
}

// plus is the sum of limits: none when one of them is.
func plus(limits ...bundle.Duration) (sum bundle.Duration) {
	for _, l := range limits {
		if sum += l; l == 0 {
			return 0
		}
	}
	return sum
}

// Update brings the app to a verified release: the first one, a newer one, or
// what the operator insisted on when it was verified. The one that runs is put
// back when it is damaged or not healthy. keep is how many committed releases
// stay.
func (in *Installer) Update(ctx context.Context, rel *verify.Release, keep int) Result {
	if !rel.Valid() {
		return Result{Outcome: Unchanged, Err: errors.New("update: the release was not verified")}
	}
	st, err := in.Journal.Load(ctx)
	if err != nil {
		return Result{Outcome: Unchanged, Err: err}
	}
	m := rel.Manifest()
	to := Release{Version: m.Version, Manifest: rel.Digest(), Signer: rel.Signer().String(), Dir: dirFor(m, rel.Digest(), st.Kept)}
	if m.Kind != bundle.KindCompose {
		to.Kind = m.Kind
	}
	if st.Current != nil && st.Current.Manifest == to.Manifest && st.Unfinished == nil {
		r := Record{Action: ActionUpdate, From: st.Current, To: *st.Current}
		err := in.runs(ctx, *st.Current)
		if err == nil {
			return Result{Outcome: NothingToDo, Record: r}
		}
		if ctx.Err() != nil {
			return Result{Outcome: Unchanged, Record: r, Err: err}
		}
		in.report(Event{Step: stepRepair, Detail: err.Error()})
		if config := new(ConfigError); errors.As(err, &config) && config.Edited() {
			rel = nil // its files and images are here
		}
		return in.run(ctx, st, r, rel, keep, Data{})
	}
	action := ActionUpdate
	if st.Current == nil {
		action = ActionInstall
	}
	return in.run(ctx, st, Record{Action: action, From: st.Current, To: to, Rotation: rel.Rotation(), Path: in.Path}, rel, keep, Data{})
}

// Reapply has the current release run as it is configured now: what was changed is
// made again, what does not run is started. Unless always, nothing is done when it
// runs so.
func (in *Installer) Reapply(ctx context.Context, keep int, always bool) Result {
	st, err := in.Journal.Load(ctx)
	if err != nil {
		return Result{Outcome: Unchanged, Err: err}
	}
	if st.Current == nil {
		return Result{Outcome: Unchanged, Err: ErrNothingRuns}
	}
	r := Record{Action: ActionUpdate, From: st.Current, To: *st.Current}
	if !always && st.Unfinished == nil {
		err := in.runs(ctx, *st.Current)
		switch {
		case err == nil:
			return Result{Outcome: NothingToDo, Record: r}
		case ctx.Err() != nil:
			return Result{Outcome: Unchanged, Record: r, Err: err}
		}
		if config := new(ConfigError); !errors.As(err, &config) || config.Edited() { // that it does not run is why this was called
			in.report(Event{Step: stepRepair, Detail: err.Error()})
		}
	}
	return in.run(ctx, st, r, nil, keep, Data{})
}

// runs returns nil when release r is whole, runs and is healthy, within the limit of
// a probe.
func (in *Installer) runs(ctx context.Context, r Release) error {
	return Within(ctx, stepProbe, in.Limits.Probe, func(ctx context.Context) error {
		if err := in.Runtime.Intact(ctx, r); err != nil {
			return err
		}
		return in.Runtime.Probe(ctx, r)
	})
}

// repair puts back what is missing. When that does not make the app healthy,
// something that looks whole is not: all of it comes from the bundle again.
func (in *Installer) repair(ctx context.Context, rel *verify.Release, r Release, kept []Release) error {
	if err := in.Runtime.Repair(ctx, rel, r, kept, false); err != nil {
		return err
	}
	err := in.Runtime.Probe(ctx, r)
	if err == nil || ctx.Err() != nil || ofDevice(err) || rel == nil {
		return err
	}
	in.report(Event{Step: stepRepair, Detail: err.Error()})
	if err := in.Runtime.Repair(ctx, rel, r, kept, true); err != nil {
		return err
	}
	return in.Runtime.Probe(ctx, r)
}

// Rollback brings the app back to the release that ran before the current one.
// It needs neither bundle nor network.
func (in *Installer) Rollback(ctx context.Context, keep int, data Data) Result {
	st, err := in.Journal.Load(ctx)
	if err != nil {
		return Result{Outcome: Unchanged, Err: err}
	}
	if st.Current == nil || st.Previous == nil {
		return Result{Outcome: Unchanged, Err: ErrNoPrevious}
	}
	return in.run(ctx, st, Record{Action: ActionRollback, From: st.Current, To: *st.Previous}, nil, keep, data)
}

// RestoreData restores saved data and runs the current release with them: a
// rollback to the same release.
func (in *Installer) RestoreData(ctx context.Context, keep int, data Data) Result {
	st, err := in.Journal.Load(ctx)
	if err != nil {
		return Result{Outcome: Unchanged, Err: err}
	}
	if st.Current == nil {
		return Result{Outcome: Unchanged, Err: errors.New("nothing is installed that can take the data")}
	}
	return in.run(ctx, st, Record{Action: ActionRollback, From: st.Current, To: *st.Current}, nil, keep, data)
}

// dirFor names the directory of a release after its version, and after its
// digest too when another release of that version is still there. Trees have a v
// before it, as scripts older than Valise do.
func dirFor(m *bundle.Manifest, digest bundle.Digest, kept []Release) string {
	name := m.Version
	if m.Kind == bundle.KindTree {
		name = "v" + name
	}
	for _, k := range kept {
		if k.Dir == name && k.Manifest != digest {
			return name + "~" + digest.Hex()[:12]
		}
	}
	return name
}

func (in *Installer) run(ctx context.Context, st State, r Record, rel *verify.Release, keep int, data Data) Result {
	if st.Unfinished != nil {
		return Result{Outcome: Unchanged, Record: *st.Unfinished, Err: ErrUnfinished}
	}
	r.ID, r.Status, r.Created = in.NewID(), Applying, in.Now()
	r.Started = r.Created
	if err := in.Journal.Begin(ctx, r); err != nil {
		return Result{Outcome: Unchanged, Record: r, Err: err}
	}
	for _, s := range in.steps(r, rel, st.Kept, data) {
		if s.name == stepBackup && in.Gate != nil {
			if err := in.Gate(ctx); err != nil {
				return in.revert(ctx, r, err, false)
			}
		}
		if begun, err := in.do(ctx, r.ID, s); err != nil {
			cause := &stepError{s.name, r.To.Version, err}
			// A release that fails by itself is marked; one that was
			// interrupted, or never got as far, is not to blame.
			bad := r.Action == ActionUpdate && ctx.Err() == nil && begun && !ofDevice(err) && (s.name == stepActivate || s.name == stepProbe)
			return in.revert(ctx, r, cause, bad)
		}
	}
	if err := ctx.Err(); err != nil {
		return in.revert(ctx, r, fmt.Errorf("stopped before the commit: %w", err), false)
	}
	if err := in.Journal.Commit(context.WithoutCancel(ctx), r.ID, in.Now()); err != nil {
		return in.revert(ctx, r, fmt.Errorf("commit %s: %w", r.To.Version, err), false)
	}
	r.Status = Completed
	ctx, cancel := in.back(ctx)
	defer cancel()
	in.rotate(ctx)
	in.prune(ctx, keep)
	return Result{Outcome: Done, Record: r}
}

// do runs one step and reports whether its effect may have begun.
func (in *Installer) do(ctx context.Context, id string, s step) (begun bool, err error) {
	ctx, span := trace.Begin(ctx, trace.Step, s.name)
	defer func() { span.End(err) }()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	var undo json.RawMessage
	if s.prepare != nil {
		if err := Within(ctx, s.name, s.limit, func(ctx context.Context) error { undo, err = s.prepare(ctx); return err }); err != nil {
			return false, err
		}
	}
	if err := in.Journal.StepBegun(ctx, id, s.name, undo, in.Now()); err != nil {
		return false, err
	}
	in.report(Event{Step: s.name})
	err = Within(ctx, s.name, s.limit, s.do)
	in.report(Event{Step: s.name, Ended: true, Err: err})
	if err != nil {
		return true, err
	}
	if err := in.Journal.StepDone(ctx, id, s.name, in.Now()); err != nil {
		return true, &DeviceError{err}
	}
	return true, nil
}

// revert notes the cause and undoes the record as the journal knows it: the same
// path that recovery takes after a crash.
func (in *Installer) revert(ctx context.Context, r Record, cause error, bad bool) Result {
	ctx, cancel := in.back(ctx)
	defer cancel()
	in.report(Event{Step: "undo", Detail: cause.Error()})
	attention := func(err error) Result {
		return Result{Outcome: NeedsAttention, Record: r, Err: errors.Join(cause, err)}
	}
	st, err := in.Journal.Load(ctx)
	if err != nil {
		return attention(err)
	}
	if st.Unfinished == nil {
		// The commit happened although the journal reported an error.
		r.Status = Completed
		return Result{Outcome: Done, Record: r}
	}
	if err := in.Journal.Fail(ctx, r.ID, cause, bad); err != nil {
		return attention(err)
	}
	in.witness(ctx, r, st.Unfinished.Steps)
	res, err := in.Recover(ctx)
	if err != nil {
		return attention(err)
	}
	switch {
	case res.Outcome == NeedsAttention:
		res.Err = errors.Join(cause, res.Err)
	case res.Outcome == Unchanged:
		res.Err = cause // the record has no more than its text
	}
	return res
}

// What is kept of what failed services print.
const (
	maxLogLines = 200
	maxLogSize  = 32 << 10         // bytes
	logTimeout  = 30 * time.Second // an engine that hangs keeps nobody from the way back
)

// witness keeps what services of the new release printed last: on the way back they go,
// and their output with them.
func (in *Installer) witness(ctx context.Context, r Record, steps []Step) {
	w, ok := in.Runtime.(Witness)
	if !ok || !slices.ContainsFunc(steps, func(s Step) bool { return s.Name == stepActivate || s.Name == stepRepair }) {
		return
	}
	asked, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	var log lastWords
	err := w.LastWords(asked, r.To, maxLogLines, &log)
	if text := log.text(); text != "" {
		err = in.Journal.Said(ctx, r.ID, text)
	}
	if err != nil {
		in.report(Event{Step: "log", Ended: true, Err: err})
	}
}

// lastWords keeps the end of what is written to it.
type lastWords struct{ b []byte }

func (l *lastWords) Write(p []byte) (int, error) {
	n := len(p)
	if l.b = append(l.b, p[max(0, n-maxLogSize):]...); len(l.b) > 2*maxLogSize {
		l.b = append(l.b[:0], l.b[len(l.b)-maxLogSize:]...)
	}
	return n, nil
}

// text is maxLogLines and maxLogSize of it at most, as a person may read it.
func (l *lastWords) text() string {
	b := l.b
	if cut := len(b) - maxLogSize; cut > 0 {
		b = b[cut:]
		b = b[1+bytes.IndexByte(b, '\n'):]
	}
	var lines []string
	for line := range strings.Lines(plain.Text(string(b))) {
		lines = append(lines, line)
	}
	text := strings.Join(lines[max(0, len(lines)-maxLogLines):], "")
	return text[max(0, len(text)-maxLogSize):] // escapes are longer than what they stand for
}

// rotate brings a committed rotation into the policy on disk. Until that has
// worked the journal says what counts, so a failure is for recovery to mend.
func (in *Installer) rotate(ctx context.Context) {
	st, err := in.Journal.Load(ctx)
	if err == nil && st.Rotation != nil && in.Rotate != nil {
		if err = in.Rotate(ctx, st.Rotation); err == nil {
			err = in.Journal.Rotated(ctx)
		}
	}
	if err != nil {
		in.report(Event{Step: "trust", Ended: true, Err: err})
	}
}

func (in *Installer) prune(ctx context.Context, keep int) {
	st, err := in.Journal.Load(ctx)
	if err == nil {
		stay, drop := split(st, keep)
		// Forget first: the journal never names a release that is gone, and
		// what is forgotten is garbage that any later prune removes.
		if err = in.Journal.Forget(ctx, drop); err == nil {
			err = Within(ctx, "undo", in.Limits.Undo, func(ctx context.Context) error {
				return trace.Do(ctx, trace.Step, "prune", func(ctx context.Context) error { return in.Runtime.Prune(ctx, stay) })
			})
		}
	}
	if err != nil {
		in.report(Event{Step: "prune", Ended: true, Err: err})
	}
}

// split divides the kept releases into those that stay and the directories of
// those that go. Current and previous always stay.
func split(st State, keep int) (stay []Release, drop []string) {
	for _, k := range st.Kept {
		same := func(r *Release) bool { return r != nil && r.Dir == k.Dir }
		if same(st.Current) || same(st.Previous) {
			stay = append(stay, k)
		}
	}
	for _, k := range st.Kept {
		if slices.ContainsFunc(stay, func(r Release) bool { return r.Dir == k.Dir }) {
			continue
		}
		if len(stay) < keep {
			stay = append(stay, k)
		} else {
			drop = append(drop, k.Dir)
		}
	}
	return stay, drop
}

func (in *Installer) report(e Event) {
	if in.Report != nil {
		in.Report(e)
	}
}
