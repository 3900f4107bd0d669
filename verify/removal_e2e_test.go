//go:build e2e

package verify_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/removal.json again")

// TestRemoval takes away one refusal after the other and runs the attacks of this
// package again: exactly those that testdata/removal.json names must then be
// accepted. A refusal whose absence nobody notices has no test, and one whose
// absence lets in what another one is there for is in the wrong place.
func TestRemoval(t *testing.T) {
	var want map[string][]string
	if !*update {
		if err := json.Unmarshal(mustRead(t, removalFile), &want); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string][]string{}
	for name, m := range removals(t) {
		t.Run(name, func(t *testing.T) {
			got[name] = m.failures(t)
			if len(got[name]) == 0 {
				t.Error("without it every test passes")
			}
			if !*update && !slices.Equal(got[name], want[name]) {
				t.Errorf("without it these fail:\n%s\nwant\n%s", strings.Join(got[name], "\n"), strings.Join(want[name], "\n"))
			}
		})
	}
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(removalFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// failures are the tests that fail with the changed file. Where one has parts,
// only those are named.
func (m removal) failures(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
	abs, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{abs: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{changed: []byte(m.text), overlay: b} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, "-json", "-vet=off", ".").Output()
	if err == nil {
		return nil
	}
	failed := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		var e struct{ Action, Test string }
		if json.Unmarshal([]byte(line), &e) == nil && e.Action == "fail" && e.Test != "" {
			failed[e.Test] = true
		}
		if e.Action == "build-fail" {
			t.Fatalf("it does not compile:\n%s", out)
		}
	}
	var list []string
	for name := range failed {
		whole := false
		for other := range failed {
			whole = whole || strings.HasPrefix(other, name+"/")
		}
		if !whole {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}
