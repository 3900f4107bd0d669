package backup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCopy makes one directory what the other is, and nothing else.
func TestCopy(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	big := strings.Repeat("x", 3*smallestLinked)
	for name, text := range map[string]string{"a": big, "sub/deep/b": "b", "sub/empty": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(from, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{os.Symlink("/etc/passwd", filepath.Join(from, "link")), os.Link(filepath.Join(from, "a"), filepath.Join(from, "again")),
		os.WriteFile(filepath.Join(to, "of the image"), nil, 0o644), os.Truncate(filepath.Join(from, "sub/empty"), 1<<40)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if empty, err := Empty(to); err != nil || empty {
		t.Fatal(empty, err)
	}
	for range 2 {
		if err := Copy(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(to, "again")); err != nil || string(b) != big {
		t.Errorf("again: %d bytes, %v", len(b), err)
	}
	one, _ := os.Stat(filepath.Join(to, "a"))
	two, _ := os.Stat(filepath.Join(to, "again"))
	if !os.SameFile(one, two) || one.Mode().Perm() != 0o640 {
		t.Error("a further name is another file")
	}
	if hole, err := os.Stat(filepath.Join(to, "sub/empty")); err != nil || hole.Size() != 1<<40 {
		t.Errorf("hole: %v, %v", hole, err)
	}
	if at, err := os.Readlink(filepath.Join(to, "link")); err != nil || at != "/etc/passwd" {
		t.Errorf("link: %q, %v", at, err)
	}
	if _, err := os.Lstat(filepath.Join(to, "of the image")); err == nil {
		t.Error("what lay there before stays")
	}
	if err := Clear(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(to, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if empty, err := Empty(to); err != nil || !empty {
		t.Errorf("empty %v, %v", empty, err)
	}
}
