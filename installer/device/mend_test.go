package device

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify/verifytest"
)

// committed puts releases of shop on a device and commits them one after the other.
func committed(t *testing.T, versions ...string) *Machine {
	m := newcomer(t)
	s := verifytest.NewSigner(t)
	for _, dir := range []string{m.stateDir("shop"), m.AppDir("shop"), filepath.Dir(m.ConfigPath("shop"))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(m.ConfigPath("shop"), []byte("trust: {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	store, err := release.Create(m.AppDir("shop"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	j, err := m.openRecords(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i, v := range versions {
		rel := s.Release(t, bundletest.Spec{App: "shop", Version: v})
		if err := store.PutBack(v, bundle.ManifestName, 0o644, bytes.NewReader(rel.ManifestBytes())); err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 1+i, 0, 0, 0, 0, time.UTC)
		if err := os.Chtimes(filepath.Join(m.AppDir("shop"), "releases", v), at, at); err != nil {
			t.Fatal(err)
		}
		st, err := j.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r := installer.Record{ID: "r" + v, Action: installer.ActionUpdate, From: st.Current, To: installer.Release{Version: v, Dir: v, Manifest: rel.Digest(), Signer: "key"}, Created: at}
		if err := errors.Join(j.Begin(t.Context(), r), j.Commit(t.Context(), r.ID, at), store.SetCurrent(v)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestMendRecords: torn or lost records come back from the copy of the last commit, or
// from the releases on disk, and nothing that was there is removed.
func TestMendRecords(t *testing.T) {
	tear := func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte{0xa5}, 4<<12), 0o600) }
	for name, tt := range map[string]struct {
		spoil      func(path string) error
		copy, torn bool
	}{
		"torn":              {tear, true, true},
		"gone":              {os.Remove, true, false},
		"cut short":         {func(path string) error { return os.Truncate(path, 5000) }, true, true},
		"both torn":         {func(path string) error { return errors.Join(tear(path), tear(path+".copy")) }, false, true},
		"all of it is gone": {func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, false, false},
	} {
		m := committed(t, "1.0.0", "1.2.0", "1.1.0") // the last one was forced
		path := m.journalPath("shop")
		before := []string{"1.1.0", "1.2.0", "1.0.0"}
		for _, log := range []string{"-wal", "-shm"} {
			_ = os.Remove(path + log)
		}
		if err := tt.spoil(path); err != nil {
			t.Fatal(err)
		}
		advised := new(Error)
		app, err := m.TheApp()
		if err == nil {
			_, _, err = m.ReadState(t.Context(), app)
		}
		if !errors.As(err, &advised) || advised.Advice != RepairRecords {
			t.Errorf("%s: before: %v", name, err)
		}
		all, err := m.MendRecords(t.Context())
		if err != nil || len(all) != 1 || all[0].Copy != tt.copy || all[0].Current != "1.1.0" || !slices.Equal(all[0].Releases, before) || (all[0].Aside != "") != tt.torn || tt.torn && !release.Exists(all[0].Aside) {
			t.Errorf("%s: %+v, %v", name, all, err)
			continue
		}
		_, st, err := m.ReadState(t.Context(), "shop")
		if err != nil || st.Previous == nil || st.Previous.Version != "1.2.0" || st.Floor != "1.2.0" || st.Unfinished != nil {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		if again, err := m.MendRecords(t.Context()); err != nil || len(again) != 0 {
			t.Errorf("%s: again: %+v, %v", name, again, err)
		}
	}
	m := newcomer(t) // nothing is there, and nothing is made
	if all, err := m.MendRecords(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
