package installer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// The crash schedule. A history of installs, updates and rollbacks is run once to
// count its effects; then again with every effect failing or crashing before and
// after it happens; and after every crash recovery is run, again with a crash at
// each of its effects, until it ends by itself. At the end the device must be
// wholly what the journal says is current, able to roll back, and the history
// true.
//
// TestMutants runs the same schedule over algorithms with one deliberate mistake
// each, listed there, and fails when a mistake is not caught.

// device is everything that survives a crash.
type device struct {
	world   *installertest.World
	journal *installertest.Journal
	mutant  mutant
}

// mutant changes how the installer sees journal and runtime: the algorithm with
// one mistake.
type mutant func(installer.Journal, installer.Runtime) (installer.Journal, installer.Runtime)

func newDevice(m mutant) *device {
	w := installertest.NewWorld()
	return &device{w, &installertest.Journal{Faults: w.Faults}, m}
}

// boot returns a new process on the device.
func (d *device) boot() *installer.Installer {
	var j installer.Journal = d.journal
	var r installer.Runtime = d.world
	if d.mutant != nil {
		j, r = d.mutant(j, r)
	}
	return &installer.Installer{
		Journal: j, Runtime: r,
		Now:    func() time.Time { return time.Unix(1700000000, 0).UTC() },
		NewID:  func() string { return fmt.Sprint("record-", len(d.journal.Records)+1) },
		Rotate: d.world.Rotate,
	}
}

// survive runs f and reports whether it crashed.
func survive(f func()) (crashed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(installertest.Crash); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	f()
	return false
}

// operation is one call of an operator; it returns the version that must run
// when it succeeds.
type operation struct {
	name string
	call func(*installer.Installer) installer.Result
	to   string
}

type scenario struct {
	name string
	ops  []operation
}

// scenarios are histories; the fault is met by the last operation of each. Those
// with a rotation come first: they are what some mutants fail at.
func scenarios(t testing.TB) []scenario {
	s := verifytest.NewSigner(t)
	update := func(version string) operation {
		rel := s.Release(t, bundletest.Spec{Version: version})
		return operation{"update to " + version, func(in *installer.Installer) installer.Result {
			return in.Update(context.Background(), rel, 2)
		}, version}
	}
	// rotate is an update to a release that names the signer after it.
	rotate := func(version string) operation {
		rel := s.Release(t, bundletest.Spec{Version: version, Trust: &bundle.Trust{Signers: []bundle.Signer{{Issuer: "https://example.com", Identity: signerOf(version)}}}})
		return operation{"update to " + version + " and its signer", func(in *installer.Installer) installer.Result {
			return in.Update(context.Background(), rel, 2)
		}, version}
	}
	rollback := func(to string, data ...string) operation {
		return operation{"rollback to " + to, func(in *installer.Installer) installer.Result {
			return in.Rollback(context.Background(), 2, installer.Data{Record: strings.Join(data, "")})
		}, to}
	}
	return []scenario{
		{"rotation", []operation{update("1.0.0"), rotate("1.1.0")}},
		{"rotation to a sick one", []operation{update("1.0.0"), rotate(sick)}},
		{"rollback of a rotation", []operation{update("1.0.0"), rotate("1.1.0"), rollback("1.0.0")}},
		{"install", []operation{update("1.0.0")}},
		{"update", []operation{update("1.0.0"), update("1.1.0")}},
		{"update that prunes", []operation{update("1.0.0"), update("1.1.0"), update("1.2.0")}},
		{"update to a sick one", []operation{update("1.0.0"), update("1.1.0"), update("6.6.6")}},
		{"update that migrates", []operation{update("1.0.0"), update(migrates)}},
		{"one that migrates, sick", []operation{update("1.0.0"), update(migratesSick)}},
		{"rollback with data", []operation{update("1.0.0"), update(migrates), rollback("1.0.0", "record-2")}},
		{"rollback", []operation{update("1.0.0"), update("1.1.0"), rollback("1.0.0")}},
		{"rollback twice", []operation{update("1.0.0"), update("1.1.0"), rollback("1.0.0"), rollback("1.1.0")}},
		{"update after a rollback", []operation{update("1.0.0"), update("1.1.0"), rollback("1.0.0"), update("1.2.0")}},
		{"back to a kept release", []operation{update("1.0.0"), update("1.1.0"), update("1.0.0")}},
	}
}

const (
	sick         = "6.6.6"
	migrates     = "2.0.0" // no other release can read its data
	migratesSick = "2.0.6"
)

// signerOf is the signer that a release with a rotation names.
func signerOf(version string) string { return "signer after " + version }

// schedule runs every crash of every scenario and returns what went wrong, until
// that is enough.
func schedule(scenarios []scenario, m mutant, enough int) (problems []string, runs int) {
	for _, sc := range scenarios {
		name, setup, last := sc.name, sc.ops[:len(sc.ops)-1], sc.ops[len(sc.ops)-1]
		start := func() *device {
			d := newDevice(m)
			d.world.Sick[sick], d.world.Sick[migratesSick] = true, true
			d.world.Migrates[migrates], d.world.Migrates[migratesSick] = true, true
			for _, op := range setup {
				if res := op.call(d.boot()); res.Outcome != installer.Done {
					problems = append(problems, fmt.Sprintf("%s: %s without a fault: %v", name, op.name, res.Err))
				}
			}
			return d
		}
		d := start()
		before := d.world.Count
		last.call(d.boot())
		effects := d.world.Count - before
		for at := 1; at <= effects; at++ {
			for _, fault := range []installertest.Fault{installertest.ErrorBefore, installertest.ErrorAfter, installertest.CrashBefore, installertest.CrashAfter} {
				// Every crash in recovery, until recovery has fewer effects.
				for again := 0; ; again++ {
					d := start()
					was := d.journal.State.Current
					arm := func(n int, f installertest.Fault) { d.world.At, d.world.Fault = d.world.Count+n, f }
					arm(at, fault)
					var res installer.Result
					crashed := survive(func() { res = last.call(d.boot()) })
					runs++
					where := fmt.Sprintf("%s: %s at effect %d (%s)", name, fault, at, d.world.Last)
					d.world.At = 0
					for _, p := range d.trust() {
						problems = append(problems, where+", before recovery: "+p)
					}
					inRecovery := false
					if again > 0 {
						f := installertest.CrashBefore
						if again%2 == 0 {
							f = installertest.CrashAfter
						}
						arm((again+1)/2, f)
						inRecovery = survive(func() { d.boot().Recover(context.Background()) })
						where += fmt.Sprintf(", %s at effect %d of recovery (%s)", f, (again+1)/2, d.world.Last)
						d.world.At = 0
					}
					if _, err := d.boot().Recover(context.Background()); err != nil {
						problems = append(problems, fmt.Sprintf("%s: recover: %v", where, err))
					}
					for _, p := range d.oracle(was, last.to, res, crashed) {
						problems = append(problems, where+": "+p)
					}
					if len(problems) >= enough {
						return problems, runs
					}
					if again > 0 && !inRecovery {
						break
					}
				}
			}
		}
	}
	return problems, runs
}

// oracle says what is wrong with a device that has recovered. was is the release
// that was current before the operation to version to.
func (d *device) oracle(was *installer.Release, to string, res installer.Result, crashed bool) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	st, w := d.journal.State, d.world
	rec := d.journal.Records[max(len(d.journal.Records)-1, 0):]
	version := func(r *installer.Release) string {
		if r == nil {
			return ""
		}
		return r.Version
	}
	current := version(st.Current)
	if current != to && current != version(was) {
		bad("current is %q, neither the old %q nor the new %q", current, version(was), to)
	}
	if w.Sick[current] {
		bad("a release that is not healthy was committed")
	}
	if w.Running != current || w.Env != current {
		bad("%q runs with the environment of %q, current is %q", w.Running, w.Env, current)
	}
	if w.Paused {
		bad("services wait for a backup that nobody makes")
	}
	if w.Data != "" && w.Data != current {
		bad("the data are those of %q, current is %q", w.Data, current)
	}
	if st.Current != nil && w.Current != st.Current.Dir || st.Current == nil && w.Current != "" {
		bad("the link points to %q, current is %q", w.Current, current)
	}
	for _, r := range []*installer.Release{st.Current, st.Previous} {
		if r != nil && (!w.Dirs[r.Dir] || !w.Images[r.Dir]) {
			bad("files or images of %s are gone", r.Version)
		}
	}
	for _, k := range st.Kept {
		if !w.Dirs[k.Dir] || !w.Images[k.Dir] {
			bad("files or images of %s are gone, which is listed as kept", k.Version)
		}
	}
	if was != nil && current == to && to != version(was) && version(st.Previous) != version(was) {
		bad("previous is %q, %s ran before", version(st.Previous), version(was))
	}
	for _, r := range d.journal.Records {
		if r.Status == installer.Applying {
			bad("record %s is unfinished after recovery", r.ID)
		}
	}
	if !crashed {
		switch {
		case res.Outcome == installer.Done && current != to:
			bad("the operation said done, %q is current", current)
		case (res.Outcome == installer.Reverted || res.Outcome == installer.Unchanged) && current == to && to != version(was):
			bad("the operation said %s, %q is current", res.Outcome, current)
		case res.Outcome != installer.Done && res.Err == nil:
			bad("the operation said %s and no reason", res.Outcome)
		}
	}
	if len(rec) == 1 && rec[0].To.Version == to {
		if (rec[0].Status == installer.Completed) != (current == to) && version(was) != to {
			bad("the record says %s, %q is current", rec[0].Status, current)
		}
		if rec[0].Status == installer.Completed && rec[0].Action == installer.ActionUpdate && !slices.Contains(w.Saved, version(was)) {
			bad("updated without a backup of %s", version(was))
		}
	}
	// Who is trusted follows the commits: what an uncommitted release says about
	// signers has no effect, and what a committed one says is not taken back.
	if st.Rotation != nil {
		bad("a rotation is pending after recovery")
	}
	problems = append(problems, d.trust()...)
	// A rollback must really work from here.
	if st.Previous != nil && !w.Sick[st.Previous.Version] {
		data := ""
		for _, r := range d.journal.Records {
			if w.Data != "" && r.To.Version == w.Data && r.Status == installer.Completed {
				data = r.ID
			}
		}
		if r := d.boot().Rollback(context.Background(), 2, installer.Data{Record: data}); r.Outcome != installer.Done || w.Running != st.Previous.Version {
			bad("rollback from here: %s, %v", r.Outcome, r.Err)
		}
	}
	return problems
}

// trust says what is wrong with who is trusted, at any moment: what counts is the
// journal's rotation, else the policy on disk.
func (d *device) trust() []string {
	want := ""
	for _, r := range d.journal.Records {
		if r.Rotation != nil && r.Status == installer.Completed {
			want = r.Rotation.Signers[0].Identity
		}
	}
	got := d.world.Policy
	if r := d.journal.State.Rotation; r != nil {
		got = r.Signers[0].Identity
	}
	if got != want {
		return []string{fmt.Sprintf("%q is trusted, the committed releases say %q", got, want)}
	}
	return nil
}

func TestCrashSchedule(t *testing.T) {
	problems, runs := schedule(scenarios(t), nil, 20)
	for _, p := range problems {
		t.Error(p)
	}
	if runs < 1000 {
		t.Errorf("only %d runs", runs)
	}
	t.Logf("%d runs", runs)
}

// The mutants: each is the algorithm with one mistake.
type noIntent struct{ installer.Journal }

func (m noIntent) StepBegun(context.Context, string, string, json.RawMessage, time.Time) error {
	return nil
}
func (m noIntent) StepDone(ctx context.Context, id, step string, at time.Time) error {
	if err := m.Journal.StepBegun(ctx, id, step, json.RawMessage(`{}`), at); err != nil {
		return err
	}
	return m.Journal.StepDone(ctx, id, step, at)
}

type hideSteps struct {
	installer.Journal
	hide func(installer.Record, installer.Step) bool
}

func (m hideSteps) Load(ctx context.Context) (installer.State, error) {
	st, err := m.Journal.Load(ctx)
	if st.Unfinished != nil {
		st.Unfinished.Steps = slices.DeleteFunc(st.Unfinished.Steps, func(s installer.Step) bool { return m.hide(*st.Unfinished, s) })
	}
	return st, err
}

type ignoreCommit struct{ *installertest.Journal }

func (m ignoreCommit) Load(ctx context.Context) (installer.State, error) {
	st, err := m.Journal.Load(ctx)
	if n := len(m.Records); n > 0 && st.Unfinished == nil && m.Records[n-1].Status == installer.Completed && m.Last == "journal: commit" {
		r := m.Records[n-1]
		st.Unfinished = &r
		m.Records[n-1].Status = installer.Applying
	}
	return st, err
}

type pruneBeforeCommit struct {
	installer.Journal
	runtime installer.Runtime
}

func (m pruneBeforeCommit) Commit(ctx context.Context, id string, at time.Time) error {
	st, err := m.Load(ctx)
	if err != nil {
		return err
	}
	if err := m.runtime.Prune(ctx, []installer.Release{st.Unfinished.To}); err != nil {
		return err
	}
	return m.Journal.Commit(ctx, id, at)
}

type commitBeforeProbe struct {
	installer.Runtime
	journal *installertest.Journal
}

func (m commitBeforeProbe) Probe(ctx context.Context, r installer.Release) error {
	if st, _ := m.journal.Load(ctx); st.Unfinished != nil && st.Unfinished.To.Version == r.Version {
		if err := m.journal.Commit(ctx, st.Unfinished.ID, time.Time{}); err != nil {
			return err
		}
	}
	return m.Runtime.Probe(ctx, r)
}

type noSnapshot struct{ installer.Runtime }

func (m noSnapshot) Snapshot(context.Context, installer.Switch) (json.RawMessage, error) {
	return json.RawMessage(`{}`), nil
}

type lateSnapshot struct {
	installer.Runtime
	journal installer.Journal
}

func (m lateSnapshot) Revert(ctx context.Context, _ json.RawMessage, from *installer.Release) error {
	now, err := m.Runtime.Snapshot(ctx, installer.Switch{}) // what is there now, not what was there
	if err != nil {
		return err
	}
	return m.Runtime.Revert(ctx, now, from)
}

type noUndo struct{ installer.Runtime }

func (m noUndo) Revert(context.Context, json.RawMessage, *installer.Release) error { return nil }

type pruneAll struct{ installer.Runtime }

func (m pruneAll) Prune(ctx context.Context, _ []installer.Release) error {
	return m.Runtime.Prune(ctx, nil)
}

type noBackup struct{ installer.Runtime }

func (m noBackup) Backup(context.Context, installer.Release, installer.Release, string) error {
	return nil
}

type noResume struct{ installer.Runtime }

func (m noResume) Resume(context.Context, installer.Release, installer.Release) error { return nil }

// keepData goes back to the old release and leaves it the new one's data.
type keepData struct{ installer.Runtime }

func (m keepData) Snapshot(ctx context.Context, s installer.Switch) (json.RawMessage, error) {
	s.Record = ""
	return m.Runtime.Snapshot(ctx, s)
}

type swallowProbe struct{ installer.Runtime }

func (m swallowProbe) Probe(context.Context, installer.Release) error { return nil }

type trustEarly struct {
	installer.Runtime
	device *installertest.Journal
	world  *installertest.World
}

func (m trustEarly) Probe(ctx context.Context, r installer.Release) error {
	if st, _ := m.device.Load(ctx); st.Unfinished != nil && st.Unfinished.Rotation != nil && r == st.Unfinished.To {
		if err := m.world.Rotate(ctx, st.Unfinished.Rotation); err != nil {
			return err
		}
	}
	return m.Runtime.Probe(ctx, r)
}

type trustNotedFirst struct{ installer.Journal }

func (m trustNotedFirst) Load(ctx context.Context) (installer.State, error) {
	st, err := m.Journal.Load(ctx)
	if err == nil && st.Rotation != nil {
		err = m.Rotated(ctx)
	}
	return st, err
}

type trustRolledBack struct {
	installer.Journal
	world *installertest.World
}

func (m trustRolledBack) Commit(ctx context.Context, id string, at time.Time) error {
	st, err := m.Load(ctx)
	if err == nil && st.Unfinished.Action == installer.ActionRollback {
		m.world.Policy = ""
	}
	return errors.Join(err, m.Journal.Commit(ctx, id, at))
}

type trustForgotten struct{ installer.Journal }

func (m trustForgotten) Load(ctx context.Context) (installer.State, error) {
	st, err := m.Journal.Load(ctx)
	st.Rotation = nil
	return st, err
}

func TestMutants(t *testing.T) {
	all := scenarios(t)
	type j = installer.Journal
	type r = installer.Runtime
	for name, m := range map[string]mutant{
		"no intent record":            func(a j, b r) (j, r) { return noIntent{a}, b },
		"recovery skips running step": func(a j, b r) (j, r) { return hideSteps{a, running}, b },
		"failed step is not undone":   func(a j, b r) (j, r) { return hideSteps{a, failed}, b },
		"commit point ignored":        func(a j, b r) (j, r) { return ignoreCommit{a.(*installertest.Journal)}, b },
		"prune before commit":         func(a j, b r) (j, r) { return pruneBeforeCommit{a, b}, b },
		"commit before probe":         func(a j, b r) (j, r) { return a, commitBeforeProbe{b, a.(*installertest.Journal)} },
		"no snapshot":                 func(a j, b r) (j, r) { return a, noSnapshot{b} },
		"snapshot taken too late":     func(a j, b r) (j, r) { return a, lateSnapshot{b, a} },
		"activate has no undo":        func(a j, b r) (j, r) { return a, noUndo{b} },
		"prune ignores kept":          func(a j, b r) (j, r) { return a, pruneAll{b} },
		"no backup":                   func(a j, b r) (j, r) { return a, noBackup{b} },
		"paused services stay so":     func(a j, b r) (j, r) { return a, noResume{b} },
		"data stay as they are":       func(a j, b r) (j, r) { return a, keepData{b} },
		"probe is not asked":          func(a j, b r) (j, r) { return a, swallowProbe{b} },
		"trust before the commit": func(a j, b r) (j, r) {
			return a, trustEarly{b, a.(*installertest.Journal), b.(*installertest.World)}
		},
		"trust noted before it is written": func(a j, b r) (j, r) { return trustNotedFirst{a}, b },
		"trust rolled back":                func(a j, b r) (j, r) { return trustRolledBack{a, b.(*installertest.World)}, b },
		"trust forgotten":                  func(a j, b r) (j, r) { return trustForgotten{a}, b },
	} {
		t.Run(name, func(t *testing.T) {
			problems, _ := schedule(all, m, 1)
			if len(problems) == 0 {
				t.Fatal("the schedule did not catch it")
			}
			t.Log(problems[0])
		})
	}
}

func running(_ installer.Record, s installer.Step) bool { return s.State == installer.StepBegun }
func failed(r installer.Record, s installer.Step) bool {
	return s.State == installer.StepBegun && !strings.HasPrefix(r.Error, "interrupted") && r.Error != ""
}

func TestUnverifiedReleaseIsRefused(t *testing.T) {
	d := newDevice(nil)
	res := d.boot().Update(context.Background(), new(verify.Release), 2)
	if res.Outcome != installer.Unchanged || res.Err == nil || d.world.Count != 0 {
		t.Errorf("%+v after %d effects", res, d.world.Count)
	}
}

func TestCancelledUpdateGoesBack(t *testing.T) {
	s := verifytest.NewSigner(t)
	d := newDevice(nil)
	if res := d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.0.0"}), 2); res.Outcome != installer.Done {
		t.Fatal(res.Err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	in := d.boot()
	in.Report = func(e installer.Event) {
		if e.Step == "activate" && e.Ended {
			cancel()
		}
	}
	res := in.Update(ctx, s.Release(t, bundletest.Spec{Version: "1.1.0"}), 2)
	if res.Outcome != installer.Reverted || d.world.Running != "1.0.0" {
		t.Errorf("%s, %q runs", res.Outcome, d.world.Running)
	}
	if len(d.journal.State.Bad) != 0 {
		t.Error("a stopped update counts as a failure of its version")
	}
}

type brokenSnapshot struct{ installer.Runtime }

func (brokenSnapshot) Snapshot(context.Context, installer.Switch) (json.RawMessage, error) {
	return nil, syscall.ENOSPC
}

// TestNotItsFault: a release that never began to run is not marked as failing, and the
// error is the one that was met and not the text of the record.
func TestNotItsFault(t *testing.T) {
	s := verifytest.NewSigner(t)
	d := newDevice(nil)
	d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.0.0"}), 2)
	d.mutant = func(j installer.Journal, r installer.Runtime) (installer.Journal, installer.Runtime) {
		return j, brokenSnapshot{r}
	}
	res := d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.1.0"}), 2)
	if res.Outcome != installer.Unchanged || len(d.journal.State.Bad) != 0 || !errors.Is(res.Err, syscall.ENOSPC) {
		t.Errorf("%s, %v, bad versions %v", res.Outcome, res.Err, d.journal.State.Bad)
	}
}

type failingDevice struct {
	installer.Runtime
	err error
}

func (m failingDevice) Probe(ctx context.Context, r installer.Release) error {
	if r.Version == "1.1.0" {
		return m.err
	}
	return m.Runtime.Probe(ctx, r)
}

type fullJournal struct{ installer.Journal }

func (j fullJournal) StepDone(ctx context.Context, id, step string, at time.Time) error {
	if step == "activate" {
		return errors.New("database or disk is full (13)")
	}
	return j.Journal.StepDone(ctx, id, step, at)
}

// TestFullJournal: what cannot be written down is not the release's fault.
func TestFullJournal(t *testing.T) {
	s := verifytest.NewSigner(t)
	d := newDevice(nil)
	d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.0.0"}), 2)
	d.mutant = func(j installer.Journal, r installer.Runtime) (installer.Journal, installer.Runtime) {
		return fullJournal{j}, r
	}
	res := d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.1.0"}), 2)
	if res.Outcome != installer.Reverted || len(d.journal.State.Bad) != 0 {
		t.Errorf("%s, bad versions %v", res.Outcome, d.journal.State.Bad)
	}
}

// TestDeviceAtFault: a release that ran into a failing device may be tried again.
func TestDeviceAtFault(t *testing.T) {
	s := verifytest.NewSigner(t)
	for _, tc := range []struct {
		err error
		bad int
	}{
		{&installer.DeviceError{Err: errors.New("reach container engine")}, 0},
		{fmt.Errorf("link current: %w", &fs.PathError{Op: "symlinkat", Path: "current", Err: syscall.EIO}), 0},
		{fmt.Errorf("write environment file: %w", syscall.ENOSPC), 0},
		{fmt.Errorf("ask for its health: %w", syscall.ECONNREFUSED), 1}, // nothing listens: its own fault
	} {
		d := newDevice(nil)
		d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.0.0"}), 2)
		d.mutant = func(j installer.Journal, r installer.Runtime) (installer.Journal, installer.Runtime) {
			return j, failingDevice{r, tc.err}
		}
		res := d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.1.0"}), 2)
		if res.Outcome != installer.Reverted || len(d.journal.State.Bad) != tc.bad {
			t.Errorf("%v: %s, bad versions %v", tc.err, res.Outcome, d.journal.State.Bad)
		}
	}
}

func TestNeedsAttention(t *testing.T) {
	s := verifytest.NewSigner(t)
	d := newDevice(nil)
	d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.0.0"}), 2)
	d.world.Sick["1.0.0"], d.world.Sick["1.1.0"] = true, true
	res := d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.1.0"}), 2)
	if res.Outcome != installer.NeedsAttention || res.Err == nil {
		t.Fatalf("%s, %v", res.Outcome, res.Err)
	}
	if res := d.boot().Update(context.Background(), s.Release(t, bundletest.Spec{Version: "1.2.0"}), 2); !errors.Is(res.Err, installer.ErrUnfinished) {
		t.Errorf("another update meanwhile: %v", res.Err)
	}
	d.world.Sick["1.0.0"] = false
	if res, err := d.boot().Recover(context.Background()); err != nil || res.Outcome != installer.Reverted || d.world.Running != "1.0.0" {
		t.Errorf("once the old release is healthy again: %s, %v", res.Outcome, err)
	}
	if st := d.journal.State; !slices.Contains(st.Bad, "1.1.0") {
		t.Error("the failed version is not marked")
	}
}
