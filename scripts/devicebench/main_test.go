package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.json")
	if err := os.WriteFile(file, []byte(`[{"name":"activate","ph":"B","ts":0},{"name":"up","ph":"B","ts":1000},{"ph":"E","ts":4000},{"ph":"E","ts":5000}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if took, err := where(file, "up"); err != nil || took != 3*time.Millisecond {
		t.Errorf("got %v, %v, want 3ms", took, err)
	}
	if took, err := where(file, "down"); err == nil {
		t.Errorf("a step that is not there took %v", took)
	}
}
