package project

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkDraft writes a project for a compose file of 100 services, each with
// variables, a mounted file and a volume.
func BenchmarkDraft(b *testing.B) {
	dir := b.TempDir()
	var text strings.Builder
	text.WriteString("services:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  s%d: {image: \"postgres:16\", restart: always, environment: {POSTGRES_DB: \"d%d\", A: \"${A%d:-x}\", SECRET_%d: \"${SECRET_%d:?}\"}, volumes: [\"./conf/%d:/etc/%d.conf:ro\", \"v%d:/data\"]}\n", i, i, i, i, i, i, i, i)
		write(b, filepath.Join(dir, fmt.Sprintf("conf/%d", i)), "x")
	}
	text.WriteString("volumes:\n")
	for i := range 100 {
		fmt.Fprintf(&text, "  v%d:\n", i)
	}
	write(b, filepath.Join(dir, "compose.yaml"), text.String())
	for b.Loop() {
		if _, err := NewDraft(b.Context(), dir, []string{"compose.yaml"}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
