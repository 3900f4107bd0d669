// Package installertest is a device in memory: a journal and a runtime whose
// every effect can fail or crash before, in the middle of and after it happens.
package installertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/verify"
)

// Fault says what goes wrong at one effect.
type Fault int

const (
	None Fault = iota
	ErrorBefore
	ErrorAfter
	CrashBefore
	CrashAfter
)

func (f Fault) String() string {
	return [...]string{"none", "error before", "error after", "crash before", "crash after"}[f]
}

// Crash is what a crashing effect panics with. Nothing recovers it but the test.
type Crash struct{ At string }

// ErrInjected is the error of a failing effect.
var ErrInjected = errors.New("injected failure")

// Faults numbers effects from 1 and makes one of them go wrong.
type Faults struct {
	At    int
	Fault Fault
	Count int    // effects seen
	Last  string // name of the last one
}

// Effect runs do, which changes the world, unless the fault says otherwise.
func (f *Faults) Effect(name string, do func()) error {
	f.Count++
	f.Last = name
	hit := f.Count == f.At
	if hit && f.Fault == ErrorBefore {
		return fmt.Errorf("%s: %w", name, ErrInjected)
	}
	if hit && f.Fault == CrashBefore {
		panic(Crash{name})
	}
	do()
	if hit && f.Fault == ErrorAfter {
		return fmt.Errorf("%s: %w", name, ErrInjected)
	}
	if hit && f.Fault == CrashAfter {
		panic(Crash{name})
	}
	return nil
}

// World is the device: what is on its disk, in its engine and running. It
// survives a crash.
type World struct {
	*Faults
	Dirs    map[string]bool // releases on disk
	Images  map[string]bool // releases whose images the engine has, by directory
	Env     string          // version in the environment file
	Current string          // where the link points
	Running string          // what the engine runs
	Torn    map[string]bool // of Images: there by name only
	Sick    map[string]bool // versions that never become healthy
	Saved   []string        // versions whose data was saved, in order
	Policy  string          // identity of the signer in the trust policy on disk
	Paused  bool            // the app waits while its data are saved

	Migrates map[string]bool   // versions whose data no other version can read
	Data     string            // version that migrated the data, if one did
	Backups  map[string]string // Data by record
}

// NewWorld returns a device with nothing on it.
func NewWorld() *World {
	return &World{Faults: new(Faults), Dirs: map[string]bool{}, Images: map[string]bool{}, Torn: map[string]bool{}, Sick: map[string]bool{}, Migrates: map[string]bool{}, Backups: map[string]string{}}
}

// effects runs several effects and stops at the first failure.
func (w *World) effects(list ...func() error) error {
	for _, e := range list {
		if err := e(); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) one(name string, do func()) func() error {
	return func() error { return w.Effect(name, do) }
}

func (w *World) Inspect(context.Context, *verify.Release, installer.State) (installer.Facts, error) {
	return installer.Facts{Platform: "linux/amd64"}, nil
}

func (w *World) Stage(_ context.Context, rel *verify.Release, to installer.Release, _ []installer.Release) error {
	if !rel.Valid() {
		return errors.New("stage: not a verified release")
	}
	return w.effects(
		w.one("write release directory", func() { w.Dirs[to.Dir] = true }),
		w.one("load images", func() { w.Images[to.Dir] = true }),
	)
}

func (w *World) Backup(_ context.Context, from, _ installer.Release, record string) error {
	if w.Running != from.Version {
		return fmt.Errorf("backup: %q runs instead of %s", w.Running, from.Version)
	}
	return w.effects(
		w.one("pause services", func() { w.Paused = true }),
		w.one("save data", func() { w.Saved, w.Backups[record] = append(w.Saved, from.Version), w.Data }),
		w.one("resume services", func() { w.Paused = false }),
	)
}

func (w *World) Resume(context.Context, installer.Release, installer.Release) error {
	return w.Effect("resume services", func() { w.Paused = false })
}

type snapshot struct{ Env, Current, Data string }

func (w *World) Snapshot(_ context.Context, s installer.Switch) (json.RawMessage, error) {
	snap := snapshot{Env: w.Env, Current: w.Current}
	if w.Migrates[s.To.Version] || s.Data != "" {
		snap.Data = s.Record
	}
	return json.Marshal(snap)
}

func (w *World) Activate(_ context.Context, s installer.Switch) error {
	return w.effects(
		w.one("write env", func() { w.Env = s.To.Version }),
		w.one("switch current", func() { w.Current = s.To.Dir }),
		func() error { return w.restoreData(s.Data) },
		func() error { return w.start(s.To) },
	)
}

func (w *World) restoreData(record string) error {
	saved, ok := w.Backups[record]
	if !ok {
		return nil
	}
	return w.effects(
		w.one("stop services", func() { w.Running = "" }),
		w.one("restore data", func() { w.Data = saved }),
	)
}

func (w *World) start(r installer.Release) error {
	if !w.Dirs[r.Dir] || !w.Images[r.Dir] {
		return fmt.Errorf("start %s: its files or images are gone", r.Version)
	}
	return w.effects(
		w.one("stop services", func() { w.Running = "" }),
		w.one("start services", func() {
			if w.Running = r.Version; w.Migrates[r.Version] {
				w.Data = r.Version
			}
		}),
	)
}

func (w *World) Revert(_ context.Context, raw json.RawMessage, from *installer.Release) error {
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return w.effects(
		w.one("restore env", func() { w.Env = s.Env }),
		w.one("restore current", func() { w.Current = s.Current }),
		func() error { return w.restoreData(s.Data) },
		func() error {
			if from == nil {
				return w.Effect("stop services", func() { w.Running = "" })
			}
			return w.start(*from)
		},
	)
}

func (w *World) Probe(_ context.Context, r installer.Release) error {
	if err := w.Effect("probe", func() {}); err != nil {
		return err
	}
	if w.Running != r.Version || w.Torn[r.Dir] || w.Sick[r.Version] || w.Data != "" && w.Data != r.Version {
		return fmt.Errorf("%q runs and is not a healthy %s", w.Running, r.Version)
	}
	return nil
}

func (w *World) Intact(_ context.Context, r installer.Release) error {
	if !w.Dirs[r.Dir] || !w.Images[r.Dir] {
		return fmt.Errorf("files or images of %s are gone", r.Version)
	}
	return nil
}

func (w *World) Repair(_ context.Context, rel *verify.Release, r installer.Release, _ []installer.Release, fresh bool) error {
	if fresh {
		if err := w.effects(
			w.one("stop services", func() { w.Running = "" }),
			w.one("remove images", func() {
				delete(w.Images, r.Dir)
				delete(w.Torn, r.Dir)
			}),
		); err != nil {
			return err
		}
	}
	if rel != nil {
		if err := w.effects(
			w.one("put back files", func() { w.Dirs[r.Dir] = true }),
			w.one("load images", func() { w.Images[r.Dir] = true }),
		); err != nil {
			return err
		}
	}
	return w.effects(
		w.one("write env", func() { w.Env = r.Version }),
		w.one("switch current", func() { w.Current = r.Dir }),
		func() error { return w.start(r) },
	)
}

func (w *World) Prune(_ context.Context, kept []installer.Release) error {
	stay := map[string]bool{}
	for _, k := range kept {
		stay[k.Dir] = true
	}
	gone := func(dir string, _ bool) bool { return !stay[dir] }
	return w.effects(
		w.one("prune images", func() { maps.DeleteFunc(w.Images, gone) }),
		w.one("prune release directories", func() { maps.DeleteFunc(w.Dirs, gone) }),
	)
}

// Rotate writes the trust policy; half of it may be all that is written.
func (w *World) Rotate(_ context.Context, r *verify.Rotation) error {
	return w.effects(
		w.one("write policy", func() { w.Policy = "half of " + r.Signers[0].Identity }),
		w.one("write rest of policy", func() { w.Policy = r.Signers[0].Identity }),
	)
}

// Journal is an installer.Journal in memory. Its writes are effects of the same
// Faults: each happens wholly or not at all, as a database's do.
type Journal struct {
	*Faults
	State   installer.State
	Records []installer.Record // newest last
}

// clone keeps callers from changing what is recorded.
func clone[T any](v T) T {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var out T
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

func (j *Journal) find(id string) *installer.Record {
	for i := range j.Records {
		if j.Records[i].ID == id {
			return &j.Records[i]
		}
	}
	return nil
}

func (j *Journal) Load(context.Context) (installer.State, error) {
	st := clone(j.State)
	for _, r := range j.Records {
		if r.Status == installer.Applying {
			c := clone(r)
			for i := range c.Steps { // Undo is not part of the JSON
				c.Steps[i].Undo = r.Steps[i].Undo
			}
			st.Unfinished = &c
		}
	}
	return st, nil
}

func (j *Journal) Begin(_ context.Context, r installer.Record) error {
	for _, old := range j.Records {
		if old.Status == installer.Applying {
			return errors.New("begin: another record is unfinished")
		}
	}
	return j.Effect("journal: begin", func() { j.Records = append(j.Records, clone(r)) })
}

func (j *Journal) step(id, name string, change func(*installer.Step)) error {
	r := j.find(id)
	if r == nil || r.Status != installer.Applying {
		return fmt.Errorf("journal: record %s is not unfinished", id)
	}
	i := slices.IndexFunc(r.Steps, func(s installer.Step) bool { return s.Name == name })
	if i < 0 {
		return fmt.Errorf("journal: step %s was not begun", name)
	}
	return j.Effect("journal: "+name, func() { change(&r.Steps[i]) })
}

func (j *Journal) StepBegun(_ context.Context, id, name string, undo json.RawMessage, at time.Time) error {
	r := j.find(id)
	if r == nil || r.Status != installer.Applying {
		return fmt.Errorf("journal: record %s is not unfinished", id)
	}
	return j.Effect("journal: begin "+name, func() {
		r.Steps = append(r.Steps, installer.Step{Name: name, State: installer.StepBegun, Undo: undo, Begun: at})
	})
}

func (j *Journal) StepDone(_ context.Context, id, name string, at time.Time) error {
	return j.step(id, name, func(s *installer.Step) { s.State, s.Ended = installer.StepDone, at })
}

func (j *Journal) StepUndone(_ context.Context, id, name string, at time.Time) error {
	return j.step(id, name, func(s *installer.Step) { s.State, s.Ended = installer.StepUndone, at })
}

// end runs a change of an unfinished record.
func (j *Journal) end(id, name string, change func(*installer.Record)) error {
	r := j.find(id)
	if r == nil || r.Status != installer.Applying {
		return fmt.Errorf("journal: record %s is not unfinished", id)
	}
	return j.Effect("journal: "+name, func() { change(r) })
}

func (j *Journal) Fail(_ context.Context, id string, cause error, bad bool) error {
	return j.end(id, "fail", func(r *installer.Record) {
		if r.Error == "" {
			r.Error, r.Reason = cause.Error(), installer.ReasonOf(cause)
		}
		if bad && !slices.Contains(j.State.Bad, r.To.Version) {
			j.State.Bad = append(j.State.Bad, r.To.Version)
		}
	})
}

func (j *Journal) Said(_ context.Context, id, log string) error {
	return j.end(id, "said", func(r *installer.Record) { r.Log = log })
}

func (j *Journal) Attention(_ context.Context, id, cause string) error {
	return j.end(id, "attention", func(r *installer.Record) { r.Attention = cause })
}

func (j *Journal) End(_ context.Context, id string, status installer.Status, at time.Time) error {
	return j.end(id, "end", func(r *installer.Record) { r.Status, r.Ended, r.Attention = status, at, "" })
}

func (j *Journal) Commit(_ context.Context, id string, at time.Time) error {
	return j.end(id, "commit", func(r *installer.Record) {
		r.Status, r.Ended, r.To.CommittedAt = installer.Completed, at, at
		to := r.To
		same := func(k installer.Release) bool { return k.Dir == to.Dir }
		j.State.Kept = slices.DeleteFunc(j.State.Kept, same)
		j.State.Kept = append([]installer.Release{to}, j.State.Kept...)
		j.State.Current = &to
		if r.From == nil || r.From.Dir != to.Dir {
			j.State.Previous = r.From
		}
		if r.Rotation != nil {
			j.State.Rotation = clone(r.Rotation)
		}
		j.State.Bad = slices.DeleteFunc(j.State.Bad, func(v string) bool { return v == to.Version })
		a, errA := bundle.ParseVersion(to.Version)
		b, errB := bundle.ParseVersion(j.State.Floor)
		if errA == nil && (errB != nil || !b.GreaterThan(a)) {
			j.State.Floor = to.Version
		}
	})
}

func (j *Journal) Rotated(context.Context) error {
	return j.Effect("journal: rotated", func() { j.State.Rotation = nil })
}

func (j *Journal) Forget(_ context.Context, dirs []string) error {
	return j.Effect("journal: forget", func() {
		j.State.Kept = slices.DeleteFunc(j.State.Kept, func(k installer.Release) bool { return slices.Contains(dirs, k.Dir) })
	})
}

func (j *Journal) History(_ context.Context, limit, offset int) ([]installer.Record, error) {
	list := clone(j.Records)
	slices.Reverse(list)
	list = list[min(offset, len(list)):]
	return list[:min(limit, len(list))], nil
}
