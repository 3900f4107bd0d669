// Package docs_test holds the documents to what is there.
package docs_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestThreatModel: each attack of threat-model.md names tests, vectors and
// scripts that exist, and checks and rules that exist; and no check is without an
// attack.
func TestThreatModel(t *testing.T) {
	r := readRepository(t)
	text := r.text(t, "docs/threat-model.md")
	checks := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\t(Check[A-Za-z]+) +=`).FindAllStringSubmatch(r.text(t, "verify/verify.go"), -1) {
		checks[m[1]] = false
	}
	rules := r.text(t, "bundle/FORMAT.md")
	rows := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.TrimSpace(cells[2]) == "test" || strings.Trim(cells[2], "-") == "" {
			continue
		}
		rows++
		attack := strings.TrimSpace(cells[0])
		for _, m := range regexp.MustCompile("`([A-Za-z-]+)`").FindAllStringSubmatch(cells[1], -1) {
			switch _, known := checks[m[1]]; {
			case known:
				checks[m[1]] = true
			case strings.HasPrefix(m[1], "Check"):
				t.Errorf("%s: there is no %s", attack, m[1])
			case isRule.MatchString(m[1]) && !strings.Contains(rules, " `"+m[1]+"`** "):
				t.Errorf("%s: there is no rule %s", attack, m[1])
			}
		}
		for test := range strings.SplitSeq(cells[2], ";") {
			for _, problem := range r.missing(strings.TrimSpace(test)) {
				t.Errorf("%s: %s", attack, problem)
			}
		}
	}
	if rows < 50 {
		t.Errorf("%d attacks were found in the tables", rows)
	}
	for check, named := range checks {
		if !named {
			t.Errorf("no attack names %s", check)
		}
	}
}

var isRule = regexp.MustCompile(`^[a-z][a-z0-9-]+$`)

// repository is the text of its files, by path.
type repository map[string]string

func readRepository(t *testing.T) repository {
	t.Helper()
	r := repository{}
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		name := filepath.ToSlash(strings.TrimPrefix(file, ".."+string(filepath.Separator)))
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if n := d.Name(); n == ".git" || n == "build" || n == "dist" || n == "node_modules" {
				return fs.SkipDir
			}
		case strings.HasSuffix(name, "_test.go"), name == "docs/threat-model.md", name == "bundle/FORMAT.md", name == "verify/verify.go":
			b, err := os.ReadFile(file)
			r[name] = string(b)
			return err
		case strings.HasSuffix(name, ".txtar"), strings.HasSuffix(name, ".bundle"), strings.HasSuffix(name, ".service"):
			r[name] = ""
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r repository) text(t *testing.T, name string) string {
	t.Helper()
	if r[name] == "" {
		t.Fatalf("no %s", name)
	}
	return r[name]
}

// has reports whether a file of that name, which may have a *, is there.
func (r repository) has(pattern string) bool {
	for name := range r {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// missing is what a part of a third column names and is not there. It is one of
//
//	PACKAGE `TestName`, `TestName/part`, `/part of the one before`
//	vector NAME, NAME-*
//	PROGRAM [DIRECTORY] script `NAME.txtar`
//	unit `NAME`
func (r repository) missing(test string) (problems []string) {
	quoted := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(test, -1)
	words := strings.Fields(test)
	var names []string
	for _, q := range quoted {
		names = append(names, q[1])
	}
	found := func(ok bool, what string) {
		if !ok {
			problems = append(problems, "there is no "+what)
		}
	}
	switch {
	case len(words) < 2:
		return []string{"no test is named"}
	case strings.HasPrefix(words[0], "vector"):
		for _, name := range strings.Split(strings.Join(words[1:], ""), ",") {
			found(r.has("testdata/vectors/"+name+".bundle"), "vector "+name)
		}
		return problems
	case len(names) == 0:
		return []string{"nothing is named by " + test}
	case words[0] == "unit":
		for _, name := range names {
			found(r.has("installer/device/units/"+name), test)
		}
		return problems
	case slices.Contains(words, "script"):
		dir := "script"
		if words[1] != "script" {
			dir = words[1]
		}
		for _, name := range names {
			found(r.has(words[0]+"/testdata/"+dir+"/"+name), words[0]+" "+dir+" "+name)
		}
		return problems
	}
	// Packages go by the end of their path.
	var code strings.Builder
	for name, text := range r {
		if dir := path.Dir(name); strings.HasSuffix(name, "_test.go") && (dir == words[0] || strings.HasSuffix(dir, "/"+words[0])) {
			code.WriteString(text)
		}
	}
	for _, name := range names {
		function, part, _ := strings.Cut(name, "/")
		if function != "" {
			found(regexp.MustCompile(`(?m)^func `+function+`\(`).MatchString(code.String()), words[0]+" "+function)
		}
		if part != "" {
			found(strings.Contains(code.String(), `"`+part+`"`) || strings.Contains(code.String(), `"`+strings.ReplaceAll(part, "_", " ")+`"`), words[0]+" part "+part)
		}
	}
	return problems
}
