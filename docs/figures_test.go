package docs_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	section = regexp.MustCompile(`(?m)^##? .+$`)
	// A limit or a setting is a round number; one with decimals was measured.
	figure = regexp.MustCompile(`\b\d+\.\d+[ \x{a0}](?:s|ms|seconds|minutes|[kKMG]i?B|%)(?:\W|$)`)
	maker  = regexp.MustCompile("(?m)(?:`|^)(?:sudo |[A-Z_]+=\\S+ )*(?:make [a-z]|scripts/[a-z0-9-]+\\.sh|go test |go run |time [a-z])")
)

// TestFigures: a section with a measured number names the command that measured it.
func TestFigures(t *testing.T) {
	files, _ := filepath.Glob("*.md")
	more, _ := filepath.Glob("*/*.md")
	found := 0
	for _, file := range append(append(files, more...), "../README.md", "../CONTRIBUTING.md") {
		text := regexp.MustCompile("(?ms)^ *```text$.*?^ *```$").ReplaceAllString(read(t, file), "") // what a program prints
		starts := append([][]int{{0, 0}}, section.FindAllStringIndex(text, -1)...)
		for i, at := range starts {
			end := len(text)
			if i+1 < len(starts) {
				end = starts[i+1][0]
			}
			part := text[at[0]:end]
			f := figure.FindString(part)
			if f != "" {
				found++
			}
			if f != "" && !maker.MatchString(part) && !strings.Contains(text, "writes this page") {
				t.Errorf("%s: %q has %q and does not name the command that measured it", file, strings.TrimSpace(text[at[0]:at[1]]), f)
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d sections with figures were found", found)
	}
}
