package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"text/template"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

//go:embed workflow.yml.tmpl
var workflowText string

// actionPins are the actions of a workflow, by the commits of the releases behind "#".
var actionPins = map[string]string{
	"actions/checkout":           "3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
	"actions/setup-go":           "b7ad1dad31e06c5925ef5d2fc7ad053ef454303e # v7.0.0",
	"actions/upload-artifact":    "043fb46d1a93c77aae656e7c1c64a875d1fc6a0a # v7.0.1",
	"actions/download-artifact":  "3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1",
	"docker/setup-qemu-action":   "96fe6ef7f33517b61c61be40b68a1882f3264fb8 # v4.2.0",
	"docker/setup-buildx-action": "37fe631027851001ddb9b187196cc803df7f5f0e # v4.3.0",
}

// ourRepository has the Action.
const ourRepository = "valise-ota/valise"

// runnerArchs are what a runner of GitHub for x64 runs by itself.
var runnerArchs = []string{"amd64", "386"}

// plainTag is a tag or path that means itself in YAML, and as a pattern of GitHub.
var plainTag = lazyregexp.New(`^[A-Za-z0-9_./@-]*$`)

var actionPattern = lazyregexp.New(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_./-]+@[A-Za-z0-9_./-]+$`)

// workflow is what the template of a release workflow says.
type workflow struct {
	App, Name, File         string
	Tags                    string // pattern
	Prefix, Project         string // inputs, "" for their defaults
	Builds, Dockerfiles, Go bool
	Tree                    bool
	GoMod, QEMU, Action     string
	Command                 string // that may build the files of a tree
}

// writeWorkflow writes the workflow that releases a project, and returns its path and
// what is to be decided.
func (a *app) writeWorkflow(ctx context.Context, file, action string) (string, []string, error) {
	p, err := project.Load(ctx, file)
	if err != nil {
		return "", nil, err
	}
	top, ok := runGit(ctx, p.Dir, "rev-parse", "--show-toplevel")
	if !ok {
		return "", nil, cli.WithHint(fmt.Errorf("write workflow: %s is in no git repository", file), "git init, or run it in a checkout")
	}
	below, _ := runGit(ctx, p.Dir, "rev-parse", "--show-prefix")
	if !plainTag.MatchString(below) {
		return "", nil, fmt.Errorf("write workflow: the directory %q has characters that a workflow does not take as they are", below)
	}
	tags, _ := runGit(ctx, p.Dir, "tag", "--list", "--sort=-creatordate")
	w := workflow{App: p.App, Tree: p.Tree != nil}
	projects, _ := runGit(ctx, top, "ls-files", "--cached", "--others", "--exclude-standard", "--", project.DefaultFile, "*/"+project.DefaultFile)
	prefix, several := tagPrefix(strings.Fields(tags), p.App, below, len(strings.Split(projects, "\n")) > 1)
	w.Tags = prefix + "*"
	if prefix == "" {
		w.Tags = "[0-9]*"
	}
	w.Name = "release"
	if several {
		w.Name, w.Prefix = "release-"+p.App, prefix
	}
	if rel := below + filepath.Base(file); rel != project.DefaultFile {
		w.Project = rel
	}
	if w.Dockerfiles, w.Go, err = p.Builds(ctx); err != nil {
		return "", nil, err
	}
	w.Builds = w.Dockerfiles || w.Go || w.Tree
	w.GoMod = "go.mod"
	if dir, _, ok := nearest(top, below, "go.mod"); ok {
		w.GoMod = path.Join(dir, "go.mod")
	}
	if w.Tree {
		w.buildCommand(top, below)
	}
	if w.Dockerfiles {
		var foreign []string
		for _, platform := range p.Platforms {
			if arch := platform.Arch(); !slices.Contains(runnerArchs, arch) && !slices.Contains(foreign, arch) {
				foreign = append(foreign, arch)
			}
		}
		w.QEMU = strings.Join(foreign, ",")
	}
	notes := releaseTools(top)
	if w.Tree {
		notes = append(notes, "the workflow does not build the files of the tree: write your commands into it, before the Action, where it says so")
	}
	remote, _ := runGit(ctx, top, "remote", "get-url", "origin")
	if at, _, _ := strings.Cut(strings.TrimPrefix(publicURL(remote), "https://"), "/"); at != "" && at != "github.com" {
		notes = append(notes, at+" is not github.com: there, name a mirror of the Action with --action, sign with a key (sign: key) or a private Sigstore, and use artifact actions of version 3")
	}
	if action != "" && !actionPattern.MatchString(action) {
		return "", nil, cli.Usagef("--action is %q, want OWNER/NAME@COMMIT", action)
	}
	if w.Action = action; action == "" {
		var pinned bool
		if w.Action, pinned = ourAction(ctx); !pinned {
			notes = append(notes, "the commit of this valise's release is not known here: put it in place of "+strings.TrimPrefix(w.Action, ourRepository+"@")+" (or name it with --action)")
		}
	}

	dir := filepath.Join(top, ".github/workflows")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("write workflow: %w", err)
	}
	for _, w.File = range []string{w.Name + ".yml", "valise-" + w.Name + ".yml"} {
		name := filepath.Join(dir, w.File)
		if others, _ := filepath.Glob(strings.TrimSuffix(name, "yml") + "y*ml"); len(others) > 0 {
			err = cli.WithHint(fmt.Errorf("write workflow: %s exists", others[0]), "delete or rename it first")
			continue
		}
		var text bytes.Buffer
		t, perr := template.New(w.File).Funcs(template.FuncMap{"action": func(name string) string { return name + "@" + actionPins[name] }}).Parse(workflowText)
		if perr == nil {
			perr = t.Execute(&text, w)
		}
		if perr != nil {
			return "", nil, fmt.Errorf("write workflow: %w", perr)
		}
		return name, notes, writeProject(name, text.Bytes())
	}
	return "", nil, err
}

// tagPrefix is what the tags of an app begin with: as the newest of them does, which in
// a repository of several apps names this one. below is where the project is in the
// repository. Tags that name others mean several apps, too.
func tagPrefix(tags []string, app, below string, several bool) (string, bool) {
	var named, plain []string
	for _, tag := range tags {
		prefix, _, ok := bundle.SplitTag(tag)
		if !ok || !plainTag.MatchString(prefix) {
			continue
		}
		name := strings.TrimRight(strings.TrimSuffix(prefix, "v"), "-/_.@")
		if _, scoped, ok := strings.Cut(name, "/"); ok && strings.HasPrefix(name, "@") { // as changesets writes packages of npm
			name = scoped
		}
		switch name {
		case "":
			plain = append(plain, prefix)
		case app, path.Base(below), strings.Trim(below, "/"):
			named = append(named, prefix)
		default:
			several = true
		}
	}
	switch {
	case len(named) > 0:
		return named[0], several
	case several && (below != "" || len(plain) == 0):
		return app + "-v", several
	case len(plain) > 0:
		return plain[0], several
	}
	return "v", several
}

// nearest finds the first of some files in a directory of a repository, or above it.
func nearest(top, below string, files ...string) (dir, file string, ok bool) {
	for dir = strings.Trim(below, "/"); ; dir = path.Dir(dir) {
		for _, file := range files {
			if _, err := os.Stat(filepath.Join(top, dir, file)); err == nil {
				return dir, file, true
			}
		}
		if dir == "" || dir == "." {
			return "", "", false
		}
	}
}

// buildCommands are what builds a repository that has a file.
var buildCommands = map[string]string{
	"Makefile": "make", "go.mod": "go build -trimpath -o dist/linux-amd64/ ./...", "Cargo.toml": "cargo build --release --locked",
	"package.json": "npm ci && npm run build", "pyproject.toml": "python3 -m pip wheel --wheel-dir dist .",
	"requirements.txt": "python3 -m pip wheel --wheel-dir dist -r requirements.txt",
}

// buildCommand looks for what builds the files of a tree.
func (w *workflow) buildCommand(top, below string) {
	dir, file, ok := nearest(top, below, "Makefile", "go.mod", "Cargo.toml", "package.json", "pyproject.toml", "requirements.txt")
	w.Command = cmp.Or(buildCommands[file], "make")
	if ok && dir != "" && dir != "." {
		w.Command = "cd " + dir + " && " + w.Command
	}
	_, err := os.Stat(filepath.Join(top, dir, "go.mod"))
	w.Go = ok && err == nil
}

// releaseTools tells of tools that tag and release in this repository already.
func releaseTools(top string) []string {
	for _, tool := range []struct{ name, files string }{
		{"release-please", "release-please-config.json"}, {"release-please", ".release-please-manifest.json"},
		{"semantic-release", ".releaserc*"}, {"semantic-release", "release.config.*"}, {"changesets", ".changeset/config.json"},
	} {
		if found, _ := filepath.Glob(filepath.Join(top, tool.files)); len(found) > 0 {
			return []string{tool.name + " pushes tags with GITHUB_TOKEN, which starts no workflow: in its job, with permissions: actions: write, run \"gh workflow run FILE --ref TAG\" afterwards"}
		}
	}
	return nil
}

// ourAction is what uses: names: the commit of this program's release, or the one it
// was built from. It reports false when neither is known.
func ourAction(ctx context.Context) (string, bool) {
	if version := cli.Released(); version != "" {
		// The commit that an annotated tag names, or what the other kind is.
		out, _ := runGit(ctx, ".", "ls-remote", "https://github.com/"+ourRepository, "refs/tags/v"+version, "refs/tags/v"+version+"^{}")
		lines := strings.Fields(out)
		if len(lines) >= 2 && regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(lines[len(lines)-2]) {
			return ourRepository + "@" + lines[len(lines)-2] + " # v" + version, true
		}
		return ourRepository + "@v" + version, false
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return ourRepository + "@" + s.Value + " # main: no release", true
			}
		}
	}
	return ourRepository + "@COMMIT", false
}
