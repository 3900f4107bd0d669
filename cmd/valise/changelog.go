package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
)

// changelogName stands beside valise.yaml.
const changelogName = "CHANGELOG.md"

// maxChangelogFile bounds the whole file; one section has bundle.MaxChangelog.
const maxChangelogFile = 64 * bundle.MaxChangelog

// changelog returns what CHANGELOG.md says of version, "" when it says nothing.
func (a *app) changelog(dir, version string) (string, error) {
	f, err := os.Open(filepath.Join(dir, changelogName))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxChangelogFile+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxChangelogFile {
		return "", fmt.Errorf("read %s: more than %d bytes", changelogName, maxChangelogFile)
	}
	section := changelogSection(string(text), version)
	if section == "" {
		a.Note("%s has no section for %s", changelogName, version)
	}
	return section, nil
}

// changelogSection returns the text below the heading of version, up to the next
// heading of the same or a higher level. "## [1.2.3] - 2026-01-02", "## v1.2.3"
// and "# 1.2.3 (January)" are headings of 1.2.3.
func changelogSection(text, version string) string {
	var section []string
	level := 0
	fenced := false // # in a code block is no heading
	for line := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		title := strings.TrimLeft(line, "#")
		n := len(line) - len(title)
		if n > 0 && !fenced && (strings.HasPrefix(title, " ") || title == "") {
			if level > 0 && n <= level {
				break
			}
			if level == 0 {
				if words := strings.Fields(title); len(words) > 0 && headingVersion(words[0]) == version {
					level = n
				}
				continue
			}
		}
		if level > 0 {
			section = append(section, line)
		}
	}
	return strings.TrimSpace(strings.Join(section, "\n"))
}

// headingVersion takes [v1.2.3](link) and the like apart.
func headingVersion(word string) string {
	if inner, ok := strings.CutPrefix(word, "["); ok {
		word, _, _ = strings.Cut(inner, "]")
	}
	return strings.TrimPrefix(strings.TrimRight(word, ":,"), "v")
}
