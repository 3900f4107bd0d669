package device

import (
	"os"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
)

// TestRecoverNothing: an installation that was cut off before anything of it was written
// down left records without a word in them, and needs no engine to recover from.
func TestRecoverNothing(t *testing.T) {
	m := newcomer(t)
	m.Getenv = func(name string) string {
		return map[string]string{"DOCKER_HOST": "unix:///nowhere/docker.sock"}[name]
	}
	if err := os.MkdirAll(m.stateDir("shop"), 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := m.openRecords(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if res, err := m.Recover(t.Context()); err != nil || res.Outcome != installer.NothingToDo {
		t.Errorf("%s, %v", res.Outcome, err)
	}

	// One that failed needs the engine, if it was of a compose app.
	for kind, want := range map[string]string{"": bundle.KindCompose, bundle.KindTree: bundle.KindTree} {
		m := newcomer(t)
		if err := os.MkdirAll(m.stateDir("shop"), 0o700); err != nil {
			t.Fatal(err)
		}
		j, err := m.openRecords(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		r := installer.Record{ID: "1", Action: installer.ActionUpdate, To: installer.Release{Version: "1.0.0", Dir: "v1.0.0", Kind: kind}, Created: m.Now()}
		if err := j.Begin(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := j.End(t.Context(), "1", installer.Failed, m.Now()); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := m.kindOf(t.Context(), "shop"); got != want || err != nil {
			t.Errorf("kind %q: %q, %v", kind, got, err)
		}
	}
}
