package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// changelogName stands beside valise.yaml.
const changelogName = "CHANGELOG.md"

// maxChangelogFile bounds the whole file; one section has bundle.MaxChangelog.
const maxChangelogFile = 64 * bundle.MaxChangelog

// changelog returns what CHANGELOG.md says of version, "" when it says nothing.
// Where there is no such file, it is made of the commits since the last tag of the
// app.
func (a *app) changelog(ctx context.Context, dir, version, tag string) (string, error) {
	f, err := os.Open(filepath.Join(dir, changelogName))
	if errors.Is(err, fs.ErrNotExist) {
		return changelogOf(commitsSince(ctx, dir, version, tag)), nil
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

// conventional is a subject as conventionalcommits.org has it: type, scope, ! for
// what breaks, and text.
var conventional = lazyregexp.New(`^([a-z]+)(?:\(([^)]*)\))?(!)?: +(.+)$`)

// changelogOf groups subjects of commits. Types that change nothing for users are
// left out; subjects without a type stand under Changes.
func changelogOf(subjects []string) string {
	const breaking, features, fixes, changes = "Breaking changes", "Features", "Fixes", "Changes"
	groups := map[string][]string{}
	size := 0
	for _, s := range subjects {
		s = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return -1
			}
			return r
		}, strings.ToValidUTF8(s, "?"))
		group := changes
		if m := conventional.FindStringSubmatch(s); m != nil {
			scope, text := m[2], m[4]
			switch {
			case m[3] != "":
				group = breaking
			case m[1] == "feat":
				group = features
			case m[1] == "fix" || m[1] == "perf":
				group = fixes
			case slices.Contains([]string{"build", "chore", "ci", "docs", "refactor", "style", "test"}, m[1]):
				continue
			default:
				scope, text = "", s // a type of somebody's own, or none
			}
			s = text
			if scope != "" {
				s = scope + ": " + text
			}
		}
		line := "- " + s + "\n"
		if size += len(line); size > bundle.MaxChangelog/2 {
			groups[changes] = append(groups[changes], "- and older changes\n")
			break
		}
		groups[group] = append(groups[group], line)
	}
	var text strings.Builder
	for _, group := range []string{breaking, features, fixes, changes} {
		if len(groups[group]) == 0 {
			continue
		}
		if len(groups) > 1 || group == breaking {
			fmt.Fprintf(&text, "### %s\n\n", group)
		}
		text.WriteString(strings.Join(groups[group], "") + "\n")
	}
	return strings.TrimSpace(text.String())
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
