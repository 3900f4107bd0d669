//go:build e2e

package device

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// removals are refusals of a fleet server and of rollout files, each with what it is
// replaced by, and the test that must fail then.
var removals = []struct{ file, from, to, test string }{
	{"fleet/work.go", `!bundle.Newer(version, st.Floor) && version != st.Floor`, `false`, "TestHostileAction"},
	{"fleet/work.go", `if err := st.Refused(version); err != nil {`, `if err := st.Refused(version); err != nil && false {`, "TestHostileAction"},
	{"fleet/work.go", `len(d.Chunks) != 1 || d.Chunks[0].Name != g.Name`, `len(d.Chunks) == 0`, "TestHostileAction"},
	{"fleet/work.go", `a != nil && a.Version == version {`, `a != nil {`, "TestServerForgets"},
	{"fleet/work.go", `a.Tries >= maxTries`, `false`, "TestFails"},
	{"fleet/work.go", `time.Now().Before(l.again)`, `false`, "TestHostileAlternates"},
	{"fleet/work.go", `version == st.Previous && g.Config.allows(Rollback)`, `g.Config.allows(Rollback)`, "TestRollback"},
	{"fleet/ddi.go", `actionID.MatchString(id)`, `true`, "TestHostileAnswer"},
	{"fleet/ddi.go", `return http.ErrUseLastResponse`, `return nil`, "TestHostileAnswer"},
	{"fleet/ddi.go", `|| s.Page {`, `{`, "TestProxyAnswers"},
	{"fleet/config.go", `u.Scheme == "http" && !loopback(u.Hostname())`, `false`, "TestConfigRefused"},
	{"fleet/agent.go", `min(max(g.sleep, g.Config.pollMin()), g.Config.pollMax())`, `g.sleep`, "TestPolling"},
	{"device/rollout.go", `case got.Sequence < known:`, `case false:`, "TestRolloutReplay"},
	{"device/rollout.go", `r == nil && t.config.Required`, `false`, "TestRolloutRequired"},
	{"device/rollout.go", `held != nil && held.Halted && !o.Forced`, `false && held.Halted`, "TestRolloutHalted"},
	{"device/update.go", "			err = c.halted(o)\n		}\n		return err", "		}\n		return err", "TestRolloutGate"},
}

// TestRemovalFleet takes away one refusal after the other.
func TestRemovalFleet(t *testing.T) {
	for _, r := range removals {
		t.Run(r.test+" "+r.file+" "+r.from, func(t *testing.T) {
			file, err := filepath.Abs("../" + r.file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), r.from); n != 1 {
				t.Fatalf("%s has it %d times", r.file, n)
			}
			changed, overlay := filepath.Join(t.TempDir(), "changed.go"), filepath.Join(t.TempDir(), "overlay.json")
			b, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
			if err != nil {
				t.Fatal(err)
			}
			for name, b := range map[string][]byte{changed: []byte(strings.Replace(string(text), r.from, r.to, 1)), overlay: b} {
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", overlay, "-run", "^"+r.test+"$", filepath.Dir(file)).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+r.test) {
				t.Errorf("without it %s does not fail: %v\n%s", r.test, err, out)
			}
		})
	}
}
