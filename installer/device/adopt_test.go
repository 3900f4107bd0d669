package device

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/valise-ota/valise/installer/record"
)

// TestAdoptAgain: an adoption that was cut off before its first entry left records
// that name no kind. It is found again by what lies in the directory.
func TestAdoptAgain(t *testing.T) {
	m := newcomer(t)
	dir := m.AppDir("cloud")
	if err := os.MkdirAll(filepath.Dir(m.journalPath("cloud")), 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := record.Open(t.Context(), m.journalPath("cloud"), "cloud")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, links := range []bool{false, true} {
		if links {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("releases/v1.0.0", filepath.Join(dir, "current")); err != nil {
				t.Fatal(err)
			}
		}
		if isTree, err := m.adoptsTree(t.Context(), "cloud", dir, AdoptOptions{}); isTree != links || err != nil {
			t.Errorf("with the link of a file tree %t: found to be one: %t, %v", links, isTree, err)
		}
	}
}
