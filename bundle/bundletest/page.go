package bundletest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Page compares a page of docs/reference, which is made from the source, with
// what it must be. top is the way to the top of the repository; with update the
// page is rewritten.
func Page(t *testing.T, top, name, text string, update bool) {
	t.Helper()
	file := filepath.Join(top, "docs", "reference", name)
	text = "<!-- Written by " + t.Name() + ": go test -run " + t.Name() + " -update in its package. -->\n\n" + strings.TrimRight(text, "\n") + "\n"
	if update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != text {
		t.Errorf("%s is not what the source says (%v): go test -run %s -update", file, err, t.Name())
	}
}
