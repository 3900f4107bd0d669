package daemon

import (
	"bytes"
	"testing"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
)

// An uploaded release waits for a person, or is applied at once where the device says
// so; not one that a stick brought, which has a setting of its own, nor one that was
// left by hand.
func TestUploadMode(t *testing.T) {
	for _, tc := range []struct {
		mode     Mode
		waits    bool
		wentBack bool
		queued   bool
	}{
		{mode: Stage}, {mode: Apply, queued: true}, {mode: Apply, waits: true}, {mode: Apply, wentBack: true},
	} {
		d := newShop(t, Off)
		a := d.boot()
		if tc.wentBack {
			d.commit(installer.ActionUpdate, "NEW", "1.1.0")
			d.commit(installer.ActionRollback, "BACK", "1.0.0")
		}
		a.config.Upload = tc.mode
		m, c := bundletest.Release(t, bundletest.Spec{App: "shop", Version: "1.1.0"})
		b := bundletest.Write(t, m, c)
		u, err := a.begin("ann", NewUpload{Size: int64(len(b)), Waits: tc.waits})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.write(u, 0, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		r, err := a.finish(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.toUpdate(r).Queued; got != tc.queued || (len(a.jobs) == 1) != tc.queued {
			t.Errorf("%+v: queued %v, %d jobs", tc, got, len(a.jobs))
		}
		if r, err = a.records.Get(t.Context(), r.ID); err != nil || r.Status != installer.Pending || (r.Error != "") != tc.wentBack {
			t.Errorf("%+v: %s, %q, %v", tc, r.Status, r.Error, err)
		}
		a.close()
	}
	for mode, good := range map[Mode]bool{"": true, Stage: true, Apply: true, Off: false, "now": false} {
		if err := (Config{Upload: mode}).Validate(); (err == nil) != good {
			t.Errorf("upload %q: %v", mode, err)
		}
	}
}
