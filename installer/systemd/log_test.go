package systemd

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLog: what systemd says of each start in a container leaves room for the unit's own words.
func TestLog(t *testing.T) {
	dir := t.TempDir()
	journal := "#!/bin/sh\necho this does not start\n" +
		"for i in 1 2 3 4 5 6; do echo 'x.service: Failed to kill control group /x, ignoring: Input/output error'; done\n" +
		"echo x.service: Failed with result exit-code.\n"
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(journal), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if got, want := Log(t.Context(), "x.service", 2), "this does not start\nx.service: Failed with result exit-code."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
