package installer_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// hanging does nothing at some places but wait for its context to end.
type hanging struct {
	installer.Runtime
	at map[string]bool
}

func (h hanging) wait(ctx context.Context, at string) error {
	if !h.at[at] {
		return nil
	}
	<-ctx.Done()
	return errors.New(at + ": signal: killed") // as a child that knows no cause
}

func (h hanging) Backup(ctx context.Context, from, to installer.Release, record string) error {
	return errors.Join(h.wait(ctx, "backup"), h.Runtime.Backup(ctx, from, to, record))
}

func (h hanging) Snapshot(ctx context.Context, s installer.Switch) (json.RawMessage, error) {
	if err := h.wait(ctx, "snapshot"); err != nil {
		return nil, err
	}
	return h.Runtime.Snapshot(ctx, s)
}

func (h hanging) Activate(ctx context.Context, s installer.Switch) error {
	return errors.Join(h.Runtime.Activate(ctx, s), h.wait(ctx, "activate"))
}

func (h hanging) Revert(ctx context.Context, raw json.RawMessage, from *installer.Release) error {
	return errors.Join(h.wait(ctx, "restore"), h.Runtime.Revert(ctx, raw, from))
}

func (h hanging) Prune(ctx context.Context, kept []installer.Release) error {
	return errors.Join(h.wait(ctx, "prune"), h.Runtime.Prune(ctx, kept))
}

func (h hanging) Probe(ctx context.Context, r installer.Release) error {
	if r.Version == "1.1.0" {
		if err := h.wait(ctx, "probe"); err != nil {
			return err
		}
	}
	return h.Runtime.Probe(ctx, r)
}

// TestEveryStepEnds: a step that never ends by itself is undone when its limit is
// reached, and a way back that never ends is somebody's to look at.
func TestEveryStepEnds(t *testing.T) {
	s := verifytest.NewSigner(t)
	before, next := s.Release(t, bundletest.Spec{Version: "1.0.0"}), s.Release(t, bundletest.Spec{Version: "1.1.0"})
	short := bundle.Duration(time.Millisecond)
	for _, tt := range []struct {
		at      []string
		limits  bundle.Limits
		outcome installer.Outcome
		step    string // whose limit the error names
		bad     bool
	}{
		{[]string{"backup"}, bundle.Limits{Backup: short}, installer.Unchanged, "backup", false},
		{[]string{"snapshot"}, bundle.Limits{Activate: short}, installer.Unchanged, "activate", false},
		{[]string{"activate"}, bundle.Limits{Activate: short}, installer.Reverted, "activate", true},
		{[]string{"probe"}, bundle.Limits{Probe: short}, installer.Reverted, "probe", true},
		{[]string{"activate", "restore"}, bundle.Limits{Activate: short, Backup: short, Undo: short}, installer.NeedsAttention, "undo", true},
		{[]string{"prune"}, bundle.Limits{Undo: short}, installer.Done, "", false},
	} {
		d := newDevice(nil)
		if res := d.boot().Update(t.Context(), before, 2); res.Outcome != installer.Done {
			t.Fatal(res.Err)
		}
		d.mutant = func(j installer.Journal, r installer.Runtime) (installer.Journal, installer.Runtime) {
			at := map[string]bool{}
			for _, place := range tt.at {
				at[place] = true
			}
			return j, hanging{r, at}
		}
		in := d.boot()
		in.Limits = tt.limits
		res := in.Update(t.Context(), next, 2)
		if res.Outcome != tt.outcome || (len(d.journal.State.Bad) > 0) != tt.bad {
			t.Errorf("%v: %s, bad %v: %v", tt.at, res.Outcome, d.journal.State.Bad, res.Err)
		}
		if tt.step != "" && (res.Err == nil || !strings.Contains(res.Err.Error(), "ms, the limit of "+tt.step)) {
			t.Errorf("%v: %v", tt.at, res.Err)
		}
		d.mutant = nil
		if res, err := d.boot().Recover(t.Context()); err != nil || res.Outcome == installer.NeedsAttention {
			t.Errorf("%v: recovery: %+v, %v", tt.at, res, err)
		}
	}
}

// TestStopped: who asks the program to end gets that at every step and on the way back
// from it, however much hangs, and the next recovery goes on with what was left. That is
// what systemd does, which kills what takes too long.
func TestStopped(t *testing.T) {
	s := verifytest.NewSigner(t)
	before, next := s.Release(t, bundletest.Spec{Version: "1.0.0"}), s.Release(t, bundletest.Spec{Version: "1.1.0"})
	update := func(ctx context.Context, in *installer.Installer) installer.Result { return in.Update(ctx, next, 2) }
	for _, tt := range []struct {
		at      []string // where it hangs; it is told to end at the first
		change  func(context.Context, *installer.Installer) installer.Result
		outcome installer.Outcome // NeedsAttention: the next recovery has to go on
	}{
		{[]string{"stage"}, update, installer.Unchanged},
		{[]string{"stage", "prune"}, update, installer.Unchanged},
		{[]string{"backup"}, update, installer.Unchanged},
		{[]string{"backup", "resume", "prune"}, update, installer.NeedsAttention},
		{[]string{"snapshot"}, update, installer.Unchanged},
		{[]string{"activate"}, update, installer.Reverted},
		{[]string{"activate", "restore"}, update, installer.NeedsAttention},
		{[]string{"probe"}, update, installer.Reverted},
		{[]string{"probe", "restore"}, update, installer.NeedsAttention},
		{[]string{"prune"}, update, installer.Done},
		{[]string{"repair"}, func(ctx context.Context, in *installer.Installer) installer.Result { return in.Reapply(ctx, 2, true) }, installer.Unchanged},
	} {
		d := newDevice(nil)
		if res := d.boot().Update(t.Context(), before, 2); res.Outcome != installer.Done {
			t.Fatal(res.Err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		d.mutant = func(j installer.Journal, r installer.Runtime) (installer.Journal, installer.Runtime) {
			at := map[string]bool{}
			for _, place := range tt.at {
				at[place] = true
			}
			return j, telling{hanging{r, at}, tt.at[0], cancel}
		}
		in := d.boot()
		in.StopWithin = time.Millisecond
		res := tt.change(ctx, in) // and so it ends
		st, err := d.journal.Load(t.Context())
		if left := res.Outcome == installer.NeedsAttention; err != nil || res.Outcome != tt.outcome || ctx.Err() == nil || left != (st.Unfinished != nil) || left && st.Unfinished.Attention != "" || len(st.Bad) > 0 {
			t.Errorf("%v: %+v, %+v, %v", tt.at, res, st, err)
		}
		d.mutant = nil
		want := "1.0.0"
		if tt.outcome == installer.Done {
			want = "1.1.0"
		}
		if res, err := d.boot().Recover(t.Context()); err != nil || res.Outcome == installer.NeedsAttention || d.world.Running != want {
			t.Errorf("%v: recovery: %+v, %v, %s runs", tt.at, res, err, d.world.Running)
		}
	}
}

// telling is hanging, and has somebody tell the program to end when it begins.
type telling struct {
	hanging
	at   string
	stop func()
}

func (h telling) tell(at string) {
	if at == h.at {
		h.stop()
	}
}

func (h telling) Stage(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	h.tell("stage")
	return errors.Join(h.wait(ctx, "stage"), h.Runtime.Stage(ctx, rel, to, kept))
}

func (h telling) Backup(ctx context.Context, from, to installer.Release, record string) error {
	h.tell("backup")
	return h.hanging.Backup(ctx, from, to, record)
}

func (h telling) Resume(ctx context.Context, from, to installer.Release) error {
	return errors.Join(h.wait(ctx, "resume"), h.Runtime.Resume(ctx, from, to))
}

func (h telling) Snapshot(ctx context.Context, s installer.Switch) (json.RawMessage, error) {
	h.tell("snapshot")
	return h.hanging.Snapshot(ctx, s)
}

func (h telling) Activate(ctx context.Context, s installer.Switch) error {
	h.tell("activate")
	return h.hanging.Activate(ctx, s)
}

func (h telling) Probe(ctx context.Context, r installer.Release) error {
	if r.Version == "1.1.0" {
		h.tell("probe")
	}
	return h.hanging.Probe(ctx, r)
}

func (h telling) Repair(ctx context.Context, rel *verify.Release, r installer.Release, kept []installer.Release, fresh bool) error {
	h.tell("repair")
	return errors.Join(h.wait(ctx, "repair"), h.Runtime.Repair(ctx, rel, r, kept, fresh))
}

func (h telling) Prune(ctx context.Context, kept []installer.Release) error {
	h.tell("prune")
	return h.hanging.Prune(ctx, kept)
}
