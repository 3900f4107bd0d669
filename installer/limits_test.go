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

func (h hanging) Backup(ctx context.Context, from installer.Release, record string) error {
	return errors.Join(h.wait(ctx, "backup"), h.Runtime.Backup(ctx, from, record))
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

// TestStoppedWayBack: who asks the program to end gets that, and the next recovery
// goes on with what was left.
func TestStoppedWayBack(t *testing.T) {
	s := verifytest.NewSigner(t)
	d := newDevice(nil)
	d.boot().Update(t.Context(), s.Release(t, bundletest.Spec{Version: "1.0.0"}), 2)
	d.mutant = func(j installer.Journal, r installer.Runtime) (installer.Journal, installer.Runtime) {
		return j, hanging{r, map[string]bool{"activate": true, "restore": true}}
	}
	ctx, cancel := context.WithCancel(t.Context())
	in := d.boot()
	in.StopWithin = time.Millisecond
	in.Report = func(e installer.Event) {
		if e.Step == "activate" && !e.Ended {
			cancel()
		}
	}
	res := in.Update(ctx, s.Release(t, bundletest.Spec{Version: "1.1.0"}), 2)
	st, err := d.journal.Load(t.Context())
	if err != nil || res.Outcome != installer.NeedsAttention || st.Unfinished == nil || st.Unfinished.Attention != "" || len(st.Bad) > 0 {
		t.Errorf("%+v, %+v, %v", res, st, err)
	}
	d.mutant = nil
	if res, err := d.boot().Recover(t.Context()); err != nil || res.Outcome != installer.Reverted || d.world.Running != "1.0.0" {
		t.Errorf("%+v, %v", res, err)
	}
}
