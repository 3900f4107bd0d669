// Package workflows checks every workflow of this repository, the examples too,
// against rules that actionlint does not have. They are those of zizmor, under
// its names, as far as they concern us:
//
//	unpinned-uses         what a step uses is pinned to a commit, and says which version that is
//	excessive-permissions the workflow starts with permissions: {}, each job says what it needs
//	artipacked            actions/checkout does not leave its token in .git/config
//	template-injection    no expression stands in a script
//	dangerous-triggers    no workflow runs strangers' code with our secrets
//	secrets-inherit       a called workflow gets the secrets it names
//	cache-poisoning       what is released is not built from a cache
//	timeout               a job has a limit
package workflows

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

type workflow struct {
	On          yaml.Node      `yaml:"on"`
	Permissions map[string]any `yaml:"permissions"`
	Jobs        map[string]job `yaml:"jobs"`
	Runs        struct {
		Steps []step `yaml:"steps"`
	} `yaml:"runs"` // of a composite action
}

type job struct {
	Permissions map[string]string `yaml:"permissions"`
	Timeout     int               `yaml:"timeout-minutes"`
	Uses        string            `yaml:"uses"`
	Secrets     yaml.Node         `yaml:"secrets"`
	Steps       []step            `yaml:"steps"`
}

type step struct {
	Uses string         `yaml:"uses"`
	Run  string         `yaml:"run"`
	With map[string]any `yaml:"with"`
}

var (
	pinned     = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	usesLine   = regexp.MustCompile(`(?m)^\s*(?:- )?uses: *(\S+@[0-9a-f]{40})( # \S.*)?$`)
	dangerous  = []string{"pull_request_target", "workflow_run", "issue_comment"}
	expression = "${{"
)

// check returns what is wrong with a workflow or a composite action.
func check(data []byte) ([]string, error) {
	var w workflow
	if err := yaml.Load(data, &w); err != nil {
		return nil, err
	}
	var found []string
	report := func(rule, format string, args ...any) {
		found = append(found, rule+": "+fmt.Sprintf(format, args...))
	}
	steps := w.Runs.Steps
	if len(w.Jobs) > 0 {
		if w.Permissions == nil || len(w.Permissions) > 0 {
			report("excessive-permissions", "want permissions: {} at the top")
		}
		for _, trigger := range triggers(w.On) {
			if slices.Contains(dangerous, trigger) {
				report("dangerous-triggers", "%s", trigger)
			}
		}
	}
	for name, j := range w.Jobs {
		if j.Permissions == nil {
			report("excessive-permissions", "job %s does not say what it needs", name)
		}
		for permission, level := range j.Permissions {
			if permission == "write-all" || level == "write-all" {
				report("excessive-permissions", "job %s: %s", name, level)
			}
		}
		if j.Uses == "" && j.Timeout == 0 {
			report("timeout", "job %s has none", name)
		}
		if j.Secrets.Value == "inherit" {
			report("secrets-inherit", "job %s", name)
		}
		if j.Uses != "" {
			steps = append(steps, step{Uses: j.Uses})
		}
		steps = append(steps, j.Steps...)
		releases := j.Permissions["id-token"] == "write" || j.Permissions["contents"] == "write"
		for _, s := range j.Steps {
			if releases && (strings.HasPrefix(s.Uses, "actions/cache") || strings.HasPrefix(s.Uses, "actions/setup-go@") && s.With["cache"] != false) {
				report("cache-poisoning", "job %s: %s", name, s.Uses)
			}
		}
	}
	for _, s := range steps {
		if s.Uses != "" && !strings.HasPrefix(s.Uses, "./") && !pinned.MatchString(s.Uses) {
			report("unpinned-uses", "%s", s.Uses)
		}
		if strings.HasPrefix(s.Uses, "actions/checkout@") && s.With["persist-credentials"] != false {
			report("artipacked", "want persist-credentials: false")
		}
		if strings.Contains(s.Run, expression) {
			report("template-injection", "%q", s.Run)
		}
		if script, ok := s.With["script"].(string); ok && strings.Contains(script, expression) {
			report("template-injection", "%q", script)
		}
	}
	for _, m := range usesLine.FindAllStringSubmatch(string(data), -1) {
		if m[2] == "" {
			report("unpinned-uses", "%s does not say which version that is", m[1])
		}
	}
	return found, nil
}

// triggers are the events of on, which may be a word, a list or a mapping.
func triggers(n yaml.Node) []string {
	switch n.Kind {
	case yaml.ScalarNode:
		return []string{n.Value}
	case yaml.MappingNode:
		var all []string
		for i := 0; i < len(n.Content); i += 2 {
			all = append(all, n.Content[i].Value)
		}
		return all
	}
	var all []string
	for _, c := range n.Content {
		all = append(all, c.Value)
	}
	return all
}

func TestWorkflows(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../../.github/workflows/*.yml", "../../examples/workflows/*.yml", "../../cmd/valise/testdata/workflows/*.yml", "../../action.yml"} {
		some, err := filepath.Glob(pattern)
		if err != nil || len(some) == 0 {
			t.Errorf("nothing is called %s", pattern)
		}
		files = append(files, some...)
	}
	for _, file := range append(files, "../../README.md") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".md") { // the workflow in it, with a commit
			_, rest, _ := strings.Cut(string(data), "```yaml\n")
			text, _, ok := strings.Cut(rest, "```")
			if !ok {
				t.Errorf("%s has no workflow", file)
			}
			data = []byte(strings.Replace(text, "@COMMIT\n", "@"+strings.Repeat("0", 40)+" # v1.0.0\n", 1))
		}
		found, err := check(data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, f := range found {
			t.Errorf("%s: %s", file, f)
		}
	}
}

// TestRules has a workflow for each rule that breaks it, and nothing else.
func TestRules(t *testing.T) {
	const good = `
on: {push: {tags: ['v*']}}
permissions: {}
jobs:
  a:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions: {contents: write}
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with: {persist-credentials: false}
      - uses: actions/setup-go@b7ad1dad31e06c5925ef5d2fc7ad053ef454303e # v7.0.0
        with: {cache: false}
      - run: echo "$REF"
        env:
          REF: ${{ github.ref }}
`
	if found, err := check([]byte(good)); err != nil || len(found) > 0 {
		t.Fatal(found, err)
	}
	for _, test := range []struct{ rule, old, new string }{
		{"unpinned-uses", "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "actions/checkout@v7"},
		{"unpinned-uses", " # v7.0.1", ""},
		{"excessive-permissions", "permissions: {}\n", ""},
		{"excessive-permissions", "permissions: {}\n", "permissions: {contents: read}\n"},
		{"excessive-permissions", "    permissions: {contents: write}\n", ""},
		{"artipacked", "{persist-credentials: false}", "{fetch-depth: 0}"},
		{"template-injection", `"$REF"`, `"${{ github.ref }}"`},
		{"dangerous-triggers", "{push: {tags: ['v*']}}", "[push, pull_request_target]"},
		{"cache-poisoning", "{cache: false}", "{go-version-file: go.mod}"},
		{"secrets-inherit", "    steps:", "    secrets: inherit\n    steps:"},
		{"timeout", "    timeout-minutes: 5\n", ""},
	} {
		bad := strings.Replace(good, test.old, test.new, 1)
		found, err := check([]byte(bad))
		if bad == good || err != nil || len(found) != 1 || !strings.HasPrefix(found[0], test.rule+": ") {
			t.Errorf("%s: got %v, %v", test.rule, found, err)
		}
	}
}
