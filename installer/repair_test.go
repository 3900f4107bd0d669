package installer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// TestRepair damages the current release in each way, has the update to it fail
// or crash at every effect, and repeats it: then it runs again, and nothing else
// has changed.
func TestRepair(t *testing.T) {
	s := verifytest.NewSigner(t)
	before, current := s.Release(t, bundletest.Spec{Version: "1.0.0"}), s.Release(t, bundletest.Spec{Version: "1.1.0"})
	damages := map[string]func(*installertest.World, string){
		"none":        func(*installertest.World, string) {},
		"files gone":  func(w *installertest.World, dir string) { delete(w.Dirs, dir) },
		"images gone": func(w *installertest.World, dir string) { delete(w.Images, dir) },
		"torn image":  func(w *installertest.World, dir string) { w.Torn[dir] = true },
		"stopped":     func(w *installertest.World, _ string) { w.Running = "" },
	}
	for name, damage := range damages {
		start := func() *device {
			d := newDevice(nil)
			for _, r := range []*verify.Release{before, current} {
				if res := d.boot().Update(context.Background(), r, 2); res.Outcome != installer.Done {
					t.Fatalf("%s: set up: %+v", name, res)
				}
			}
			damage(d.world, d.journal.State.Current.Dir)
			*d.world.Faults = installertest.Faults{}
			return d
		}
		whole := start()
		want := installer.Done
		if name == "none" {
			want = installer.NothingToDo
		}
		if res := whole.boot().Update(context.Background(), current, 2); res.Outcome != want || (want == installer.Done) != (res.Record.ID != "") {
			t.Fatalf("%s: %+v, want %s", name, res, want)
		}
		for at := 1; at <= whole.world.Count; at++ {
			for _, fault := range []installertest.Fault{installertest.ErrorBefore, installertest.ErrorAfter, installertest.CrashBefore, installertest.CrashAfter} {
				d := start()
				d.world.At, d.world.Fault = at, fault
				survive(func() { d.boot().Update(context.Background(), current, 2) })
				where := fmt.Sprintf("%s, %s %d (%s)", name, fault, at, d.world.Last)
				*d.world.Faults = installertest.Faults{}
				if _, err := d.boot().Recover(context.Background()); err != nil {
					t.Fatalf("%s: recover: %v", where, err)
				}
				if res := d.boot().Update(context.Background(), current, 2); res.Outcome != installer.Done && res.Outcome != installer.NothingToDo {
					t.Fatalf("%s: repeated: %+v", where, res)
				}
				st := d.journal.State
				if err := errors.Join(d.world.Intact(context.Background(), *st.Current), d.world.Probe(context.Background(), *st.Current)); err != nil {
					t.Errorf("%s: %v", where, err)
				}
				if st.Current.Version != "1.1.0" || st.Previous == nil || st.Previous.Version != "1.0.0" || len(st.Bad) > 0 {
					t.Errorf("%s: %+v", where, st)
				}
			}
		}
	}
}
