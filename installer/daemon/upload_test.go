package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
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

// TestKeepable: bundles that failed do not keep the next one out, those that wait do.
func TestKeepable(t *testing.T) {
	d := newShop(t, Off)
	a := d.boot()
	defer a.close()
	for i := range maxKept {
		id := fmt.Sprintf("R%d", i)
		r := installer.Record{ID: id, To: installer.Release{Version: fmt.Sprintf("1.1.%d", i)}, Status: installer.Pending, Created: a.Now(), Bundle: &installer.Bundle{File: id + bundleSuffix, Size: 1}}
		if err := errors.Join(a.records.Add(t.Context(), r), a.inbox.WriteFile(id+bundleSuffix, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.begin("ann", NewUpload{Size: 1}); err == nil || !strings.Contains(err.Error(), "8 bundles wait already") {
		t.Errorf("with 8 that wait: %v", err)
	}
	for _, id := range []string{"R2", "R5"} {
		a.fail(t.Context(), id, errors.New("it is not healthy"))
	}
	if _, err := a.begin("ann", NewUpload{Size: 1}); err != nil {
		t.Errorf("with 2 that failed: %v", err)
	}
	for id, want := range map[string]string{"R2": "", "R5": "R5" + bundleSuffix, "R7": "R7" + bundleSuffix} {
		r, err := a.records.Get(t.Context(), id)
		_, gone := a.inbox.Stat(id + bundleSuffix)
		if err != nil || r.Bundle.File != want || (gone != nil) != (want == "") {
			t.Errorf("%s has file %q, %v, %v", id, r.Bundle.File, gone, err)
		}
	}
}
