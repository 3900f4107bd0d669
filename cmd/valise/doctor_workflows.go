package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle/project"
)

const (
	// maxWorkflows is how many workflows of a repository are looked at.
	maxWorkflows = 200
	// maxWorkflowSize is how many bytes of one are.
	maxWorkflowSize = 1 << 20
	// maxCalls is how deep workflows that call workflows are followed.
	maxCalls = 4
)

// hubWorkflow is a workflow file, as far as releases depend on it.
type hubWorkflow struct {
	On          yaml.Node         `yaml:"on"`
	Permissions yaml.Node         `yaml:"permissions"`
	Env         map[string]any    `yaml:"env"`
	Jobs        map[string]hubJob `yaml:"jobs"`
}

type hubJob struct {
	Uses        string         `yaml:"uses"`
	Permissions yaml.Node      `yaml:"permissions"`
	Environment yaml.Node      `yaml:"environment"`
	Env         map[string]any `yaml:"env"`
	Steps       []hubStep      `yaml:"steps"`
}

type hubStep struct {
	Uses string         `yaml:"uses"`
	With map[string]any `yaml:"with"`
	Env  map[string]any `yaml:"env"`
}

// Levels of a permission.
const (
	levelNone    = "none"
	levelDefault = "default" // no workflow says: the repository's setting does
	levelWrite   = "write"
)

// releasing is a step that runs the Action.
type releasing struct {
	top         string // file of the workflow that is started
	file        string // and of the one that has the step, whose identity signs
	job, uses   string
	sign        string
	publishes   bool
	dryRun      bool   // always, or by an expression
	key         bool   // COSIGN_PRIVATE_KEY is in its environment
	named       bool   // its inputs say the tag or the version
	prefix      string // input tag-prefix
	project     string // path of what it builds, "" when that is done elsewhere
	contents    string // level of the permission
	idToken     string
	environment string
	on          triggers
}

// triggers are the events that start a workflow.
type triggers struct {
	events []string
	tags   []string // patterns of push
	any    bool     // push without patterns: branches too
	branch string   // the only one of push, if it is one
}

// foreignCall is a job that is another repository's workflow, which is not read.
type foreignCall struct{ file, job, uses string }

// readWorkflows reads the workflows of a repository and finds what runs the Action.
func readWorkflows(top string) (steps []releasing, calls []foreignCall, problems []string, err error) {
	files, err := filepath.Glob(filepath.Join(top, ".github/workflows/*.y*ml"))
	if err != nil {
		return nil, nil, nil, err
	}
	if len(files) > maxWorkflows {
		return nil, nil, nil, fmt.Errorf("%d workflows, %d are looked at", len(files), maxWorkflows)
	}
	all := map[string]*hubWorkflow{}
	for _, file := range files {
		name := filepath.Base(file)
		w, err := readWorkflow(file)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		all[name] = w
	}
	var walk func(top, file string, on triggers, cap func(string, string) string, depth int)
	walk = func(top, file string, on triggers, cap func(string, string) string, depth int) {
		w := all[file]
		if w == nil || depth > maxCalls {
			return
		}
		for _, name := range sortedKeys(w.Jobs) {
			j := w.Jobs[name]
			level := func(permission, fallback string) string {
				return cap(permission, levelOf(j.Permissions, w.Permissions, permission, fallback))
			}
			if local, ok := strings.CutPrefix(j.Uses, "./.github/workflows/"); ok {
				walk(top, local, on, func(permission, own string) string {
					return lower(own, level(permission, fallbackOf(permission)))
				}, depth+1)
			} else if j.Uses != "" {
				calls = append(calls, foreignCall{top, name, j.Uses})
			}
			for _, s := range j.Steps {
				if !isOurs(s.Uses) {
					continue
				}
				with := func(input, fallback string) string {
					if v, ok := s.With[input]; ok {
						return fmt.Sprint(v)
					}
					return fallback
				}
				r := releasing{top: top, file: file, job: name, uses: s.Uses, on: on, sign: with("sign", signKeyless), prefix: with("tag-prefix", ""),
					publishes: with("publish", "true") != "false", dryRun: with("dry-run", "false") != "false", named: with("tag", "")+with("version", "") != "",
					contents: level("contents", levelDefault), idToken: level("id-token", levelNone), environment: environmentOf(j.Environment)}
				if with("bundle", "") == "" {
					r.project = path.Join(with("working-directory", "."), with("project", project.DefaultFile))
				}
				for _, env := range []map[string]any{s.Env, j.Env, w.Env} {
					r.key = r.key || env[privateKeyEnv] != nil
				}
				steps = append(steps, r)
			}
		}
	}
	for _, name := range sortedKeys(all) {
		if on := triggersOf(all[name].On); len(on.events) != 1 || on.events[0] != "workflow_call" {
			walk(name, name, on, func(_, own string) string { return own }, 0)
		}
	}
	return steps, calls, problems, nil
}

func readWorkflow(file string) (*hubWorkflow, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxWorkflowSize || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a file of at most %d bytes", maxWorkflowSize)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	w := new(hubWorkflow)
	return w, yaml.Load(b, w)
}

func sortedKeys[T any](m map[string]T) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// isOurs reports whether a step uses the Action: ours, a fork or a mirror of it.
func isOurs(uses string) bool {
	name, _, _ := strings.Cut(uses, "@")
	return path.Base(name) == path.Base(ourRepository) && strings.Count(name, "/") == 1 && !strings.HasPrefix(name, ".")
}

func fallbackOf(permission string) string {
	if permission == "id-token" { // no setting gives it
		return levelNone
	}
	return levelDefault
}

// levelOf is the level of a permission of a job: as it says, or its workflow, or fallback.
func levelOf(job, workflow yaml.Node, permission, fallback string) string {
	for _, n := range []yaml.Node{job, workflow} {
		switch n.Kind {
		case yaml.ScalarNode:
			switch n.Value {
			case "write-all":
				return levelWrite
			case "read-all":
				return "read"
			}
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == permission {
					return n.Content[i+1].Value
				}
			}
			return levelNone
		}
	}
	return fallback
}

// lower is the lower of two levels: a called workflow has no more than its caller.
func lower(a, b string) string {
	order := []string{levelNone, "read", levelDefault, levelWrite}
	if slices.Index(order, a) < slices.Index(order, b) {
		return a
	}
	return b
}

func environmentOf(n yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return n.Value
	}
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "name" {
			return n.Content[i+1].Value
		}
	}
	return ""
}

func triggersOf(on yaml.Node) (t triggers) {
	switch on.Kind {
	case yaml.ScalarNode:
		t.events = []string{on.Value}
	case yaml.SequenceNode:
		for _, n := range on.Content {
			t.events = append(t.events, n.Value)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(on.Content); i += 2 {
			t.events = append(t.events, on.Content[i].Value)
			if on.Content[i].Value == "push" {
				var push struct {
					Tags           yaml.Node `yaml:"tags"`
					Branches       yaml.Node `yaml:"branches"`
					TagsIgnore     yaml.Node `yaml:"tags-ignore"`
					BranchesIgnore yaml.Node `yaml:"branches-ignore"`
				}
				if on.Content[i+1].Decode(&push) != nil {
					continue
				}
				for _, n := range append(push.Tags.Content, &push.Tags) {
					if n.Kind == yaml.ScalarNode {
						t.tags = append(t.tags, n.Value)
					}
				}
				if push.TagsIgnore.Kind != 0 {
					t.tags = append(t.tags, "**")
				}
				if c := push.Branches.Content; len(c) == 1 && tagStart(c[0].Value) == c[0].Value {
					t.branch = c[0].Value
				}
				t.any = t.tags == nil && push.Branches.Kind == 0 && push.BranchesIgnore.Kind == 0
			}
		}
		return t
	}
	t.any = slices.Contains(t.events, "push")
	return t
}

// startsFor reports whether a pushed tag starts the workflow.
func (t *triggers) startsFor(tag string) bool {
	starts := t.any
	for _, pattern := range t.tags {
		rest, not := strings.CutPrefix(pattern, "!")
		if re, err := tagPattern(rest); err == nil && re.MatchString(tag) {
			starts = !not
		}
	}
	return starts
}

// tagPattern reads a filter pattern of GitHub: * any characters but /, ** any, ? and + as
// in regular expressions, [] characters.
func tagPattern(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case strings.HasPrefix(pattern[i:], "**"):
			b.WriteString(".*")
			i++
		case c == '*':
			b.WriteString("[^/]*")
		case strings.IndexByte("?+[]-", c) >= 0:
			b.WriteByte(c)
		case c == '\\' && i+1 < len(pattern):
			i++
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	return regexp.Compile("^(?:" + b.String() + ")$")
}

// tagStart is the text that every tag of a pattern begins with.
func tagStart(pattern string) string {
	if i := strings.IndexAny(pattern, "*?+[!\\"); i >= 0 {
		return pattern[:i]
	}
	return pattern
}
