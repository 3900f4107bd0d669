package docs_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDecisions: each record has its number, title, date, state, context,
// decision and consequences; the index has its line; and what supersedes it is
// there.
func TestDecisions(t *testing.T) {
	files, err := filepath.Glob("decisions/[0-9]*.md")
	if err != nil || len(files) < 58 {
		t.Fatalf("%d records, %v", len(files), err)
	}
	index := read(t, "decisions/index.md")
	record := regexp.MustCompile(`^# (\d+)\. (.+)\n\n(\d{4}-\d\d-\d\d), (?:accepted|superseded by \[\d+\]\(\d{4}-[a-z0-9-]+\.md\))\n\n` +
		`## Context\n\n(?s:.+)\n\n## Decision\n\n(?s:.+)\n\n## Consequences\n\n(?s:.+)\n$`)
	for i, file := range files {
		m := record.FindStringSubmatch(read(t, file))
		if m == nil || m[1] != fmt.Sprint(i+1) || !strings.HasPrefix(filepath.Base(file), fmt.Sprintf("%04d-", i+1)) {
			t.Errorf("%s is not record %d in the form of the others", file, i+1)
			continue
		}
		if line := fmt.Sprintf("| %s | [%s](%s) | %s |\n", m[1], m[2], filepath.Base(file), m[3]); !strings.Contains(index, line) {
			t.Errorf("decisions/index.md does not have the line %s", line)
		}
	}
	if lines := strings.Count(index, "](0"); lines != len(files) {
		t.Errorf("decisions/index.md has %d lines for %d records", lines, len(files))
	}
}
