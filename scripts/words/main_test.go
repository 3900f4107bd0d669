package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheck: what is refused where people read it, and nothing else.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, want string }{
		"doc.md":       {"It is for\nsomebody.\n", `doc.md:2: "somebody"`},
		"split.md":     {"It goes\nback to 1.0.0.\n", "split.md:1: \"goes\\nback to\""},
		"code.md":      {"```sh\nchown nobody x\n```\nand `nobody` too\n", ""},
		"allowed.md":   {"There is no engine, and it is no longer here.\n", ""},
		"no.md":        {"It is no bundle.\n", `"is no bundle"`},
		"CHANGELOG.md": {"## [Unreleased]\nfor users\n## [1.0.0]\nfor somebody\n", ""},
		"text.go":      {"package x\n\nvar a = \"ask somebody\"\n", `text.go:3: "somebody"`},
		"comment.go":   {"package x\n\n// a is for somebody.\nvar a = 1 // nobody\n", ""},
		"doc.go":       {"package x\n\n// A is for\n// somebody.\nvar A = 1\n", `doc.go:4: "somebody"`},
		"field.go":     {"package x\n\ntype a struct {\n\tB int // for somebody\n}\n", `field.go:4: "somebody"`},
		"long.go":      {"package x\n\nvar a = errors.New(\"" + strings.Repeat("word ", 26) + "\")\n", "an error of 26 words"},
		"method.go":    {"package x\n\nfunc (e *E) Error() string { return fmt.Sprintf(\"" + strings.Repeat("word ", 26) + "\") }\n", "an error of 26 words"},
		"help.go":      {"package x\n\nvar a = Help(\"" + strings.Repeat("word ", 26) + "\")\n", ""},
		"de.json":      {`{"a": "Jemand muss nachsehen"}`, `"Jemand"`},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := check([]string{path})
		if got := strings.Join(found, "\n"); err != nil || c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %v, %v, want %s", name, found, err, c.want)
		}
	}
}
