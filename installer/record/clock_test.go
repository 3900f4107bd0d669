package record_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/verify/verifytest"
)

// TestClockJumps has a clock that goes years back and forward at every look: a
// device without a battery gets the time from the network in the middle of an
// update. Order, what is current and what recovery undoes do not depend on it,
// wherever the power goes.
func TestClockJumps(t *testing.T) {
	s := verifytest.NewSigner(t)
	old, good, sick := s.Release(t, bundletest.Spec{Version: "2.9.0"}), s.Release(t, bundletest.Spec{Version: "2.10.0"}), s.Release(t, bundletest.Spec{Version: "3.0.0"})
	years := []int{2026, 1970, 2099, 2000, 2038}
	// device installs and updates, loses the power at effect number at of an
	// update to a release that does not get healthy, and recovers.
	device := func(at int) (effects int) {
		ctx := t.Context()
		path := filepath.Join(t.TempDir(), "state.db")
		w := installertest.NewWorld()
		w.Sick["3.0.0"] = true
		looks, records := 0, 0
		boot := func() (*installer.Installer, *record.Store) {
			j, err := record.Open(ctx, path, old.Manifest().App)
			if err != nil {
				t.Fatal(err)
			}
			return &installer.Installer{
				Journal: j, Runtime: w,
				Now: func() time.Time {
					looks++
					return time.Date(years[looks%len(years)], 1, 2, 3, 4, 5, 0, time.UTC)
				},
				NewID: func() string { records++; return fmt.Sprint("r", records) },
			}, j
		}
		in, j := boot()
		for _, step := range []func() installer.Result{
			func() installer.Result { return in.Update(ctx, old, 3) },
			func() installer.Result { return in.Update(ctx, good, 3) },
			func() installer.Result { return in.Rollback(ctx, 3, installer.Data{}) },
			func() installer.Result { return in.Rollback(ctx, 3, installer.Data{}) },
		} {
			if res := step(); res.Outcome != installer.Done {
				t.Fatalf("%+v", res)
			}
		}
		*w.Faults = installertest.Faults{At: at, Fault: installertest.CrashAfter}
		func() {
			defer func() { _ = recover() }()
			if res := in.Update(ctx, sick, 3); res.Outcome != installer.Reverted && at == 0 {
				t.Fatalf("%+v", res)
			}
		}()
		effects = w.Count
		*w.Faults = installertest.Faults{}
		j.Close()
		in, j = boot()
		defer j.Close()
		if res, err := in.Recover(ctx); err != nil || res.Outcome == installer.NeedsAttention {
			t.Fatalf("power lost after effect %d: %+v, %v", at, res, err)
		}
		st, err := j.Load(ctx)
		if err != nil || st.Unfinished != nil || st.Current.Version != "2.10.0" || st.Previous.Version != "2.9.0" || st.Floor != "2.10.0" || w.Running != "2.10.0" {
			t.Errorf("power lost after effect %d: %+v, %s runs, %v", at, st, w.Running, err)
		}
		list, err := j.History(ctx, -1, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range slices.Backward(list) {
			got = append(got, string(r.Action)+" "+r.To.Version)
		}
		if want := []string{"install 2.9.0", "update 2.10.0", "rollback 2.9.0", "rollback 2.10.0", "update 3.0.0"}; !slices.Equal(got, want) {
			t.Errorf("history is %q, want %q", got, want)
		}
		return effects
	}
	for at := range device(0) {
		device(at + 1)
	}
}
