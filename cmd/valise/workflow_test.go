package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

var update = flag.Bool("update", false, "write golden files")

// TestInitGitHub: the workflow that fits a repository. scripts/workflows and actionlint
// check the same files.
func TestInitGitHub(t *testing.T) {
	const compose, build = "services: {web: {image: 'nginx:1.29', restart: always}}\n", "services: {web: {build: ., restart: always}}\n"
	tree := "app: agent\nplatforms: [linux/arm64]\ntree: {files: [{from: agent.service, to: agent.service}], units: [agent.service]}\n"
	for name, tc := range map[string]struct {
		files map[string]string
		tags  []string // the newest one is the last
		dir   string   // where init runs
		path  string   // of the workflow
		says  string
	}{
		"images":     {map[string]string{"compose.yaml": compose}, nil, "", "release.yml", ""},
		"dockerfile": {map[string]string{"compose.yaml": build, "Dockerfile": "FROM scratch\n"}, []string{"1.9.0", "2.0.0", "nightly"}, "", "release.yml", ""},
		"monorepo": {map[string]string{"apps/shop/docker-compose.yml": compose, "apps/api/valise.yaml": tree, "apps/api/agent.service": ""},
			[]string{"shop@1.0.0", "api-v3.0.0"}, "apps/shop", "release-shop.yml", ""},
		"deploy": {map[string]string{"deploy/compose.yaml": build, "deploy/Dockerfile": "FROM scratch\n", ".github/workflows/release.yaml": "x", "release-please-config.json": "{}"},
			[]string{"v0.1.0", "v0.2.0-rc.1"}, "deploy", "valise-release.yml", "release-please pushes tags with GITHUB_TOKEN"},
		"enterprise": {map[string]string{"compose.yaml": compose, "remote": "git@github.example.com:acme/shop.git"}, nil, "", "release.yml",
			"github.example.com is not github.com: there, name a mirror of the Action with --action, sign with a key"},
		"tree": {map[string]string{"valise.yaml": tree, "agent.service": ""}, []string{"agent/v1.0.0"}, "", "release.yml", "the workflow does not build the files of the tree"},
		"go": {map[string]string{"go.mod": "module x\n", "main.go": "package main\n", "Makefile": "", "packaging/systemd/agent.service": "[Service]\nExecStart=/usr/bin/agent\n"},
			[]string{"2.2.0", "2.3.3"}, "", "release.yml", ""},
		"python": {map[string]string{"collector/requirements.txt": "", "collector/collector.service": "[Service]\nExecStart=/home/pi/venv/bin/python collector.py\n", "go.mod": "module x\n"},
			nil, "collector", "release.yml", ""},
		"node": {map[string]string{"package.json": "{}", "apps/api/Dockerfile": "FROM scratch\n", ".changeset/config.json": "{}", "docker-compose.yml": "services: {api: {build: {context: ., dockerfile: apps/api/Dockerfile}}, db: {image: 'postgres:16'}}\n"},
			[]string{"app@1.2.0"}, "", "release.yml", "changesets pushes tags with GITHUB_TOKEN"},
		"apps": {map[string]string{"apps/web/compose.yaml": build, "apps/web/Dockerfile": "FROM scratch\n", "apps/api/compose.yaml": build, "apps/api/Dockerfile": "FROM scratch\n", "apps/api/valise.yaml": tree, ".github/workflows/release-api.yml": ""},
			[]string{"api/v1.0.0", "web/v2.0.0"}, "apps/web", "release-web.yml", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range tc.files {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			git := func(date string, args ...string) {
				c := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
				c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_COMMITTER_DATE="+date)
				if out, err := c.CombinedOutput(); err != nil {
					t.Fatalf("git %s: %v\n%s", args, err, out)
				}
			}
			git("", "init", "-q")
			if remote := tc.files["remote"]; remote != "" {
				git("", "remote", "add", "origin", remote)
			}
			git("2026-01-01T00:00:00Z", "commit", "-q", "--allow-empty", "-m", "one")
			for i, tag := range tc.tags {
				git(time.Date(2026, 1, 2+i, 0, 0, 0, 0, time.UTC).Format(time.RFC3339), "tag", "-a", "-m", tag, tag)
			}
			t.Chdir(filepath.Join(dir, tc.dir))
			init := func() (int, string) {
				var out strings.Builder
				code := run(t.Context(), cli.Env{Args: []string{"init", "--github", "--action", "valise-ota/valise@cd1bc87bc834dab6116e354243e139cb0936ea15"},
					Stdout: &out, Stderr: &out, Getenv: os.Getenv, Now: time.Now})
				return code, out.String()
			}
			code, out := init()
			if code != 0 || !strings.Contains(out, tc.says) || !strings.Contains(out, "wrote "+filepath.Join(dir, ".github/workflows", tc.path)) {
				t.Fatalf("exit code %d: %s", code, out)
			}
			got, err := os.ReadFile(filepath.Join(dir, ".github/workflows", tc.path))
			if err != nil {
				t.Fatal(err)
			}
			// The comment says that this is no release.
			got = []byte(strings.ReplaceAll(string(got), "cd1bc87bc834dab6116e354243e139cb0936ea15", "cd1bc87bc834dab6116e354243e139cb0936ea15 # main: no release yet"))
			golden := filepath.Join("testdata/workflows", name+".yml")
			if golden, err = filepath.Abs(filepath.Join(packageDir, golden)); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(golden); err != nil || string(got) != string(want) {
				t.Errorf("%v: another workflow than %s (write it with -update, read the diff):\n%s", err, golden, got)
			}
			if tc.path == "valise-release.yml" {
				if code, out = init(); code != 1 || !strings.Contains(out, "valise-release.yml exists") {
					t.Errorf("a second time: exit code %d: %s", code, out)
				}
			}
		})
	}
}

// packageDir is where the tests of this package start.
var packageDir, _ = os.Getwd()

func TestTagPrefix(t *testing.T) {
	for _, tc := range []struct {
		tags    string // the newest one first
		below   string
		several bool // projects are
		want    string
		apps    bool
	}{
		{"", "", false, "v", false},
		{"", "deploy/", false, "v", false},
		{"", "apps/shop/", true, "shop-v", true},
		{"v1.2.3 1.0.0", "", false, "v", false},
		{"2026.11.29 v1.2.3", "", false, "", false},
		{"latest nightly-2 v1.2", "", false, "v", false},
		{"shop-v1.2.3 v1.0.0", "", false, "shop-v", false},
		{"v1.0.0 shop@1.2.3", "services/shop/", false, "shop@", false},
		{"services/shop/v1.2.3 other/v1.0.0", "services/shop/", true, "services/shop/v", true},
		{"@acme/till@3.0.0 @acme/shop@1.2.3", "packages/shop/", false, "@acme/shop@", true},
		{"api-v3.0.0 v1.0.0", "", false, "v", true},
		{"api-v3.0.0", "", false, "shop-v", true},
		{"api-v3.0.0 v1.0.0", "shop/", true, "shop-v", true},
		{"$(x)1.0.0 'v1.0.0", "", false, "v", false},
	} {
		if got, apps := tagPrefix(strings.Fields(tc.tags), "shop", tc.below, tc.several); got != tc.want || apps != tc.apps {
			t.Errorf("%q in %q: got %q, %v, want %q, %v", tc.tags, tc.below, got, apps, tc.want, tc.apps)
		}
	}
}

// TestActionPins: what is written is pinned as our own examples are.
func TestActionPins(t *testing.T) {
	files, _ := filepath.Glob("../../examples/workflows/*.yml")
	more, _ := filepath.Glob("../../.github/workflows/*.yml")
	var all strings.Builder
	for _, file := range append(files, more...) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	for name, pin := range actionPins {
		if !strings.Contains(all.String(), "uses: "+name+"@"+pin+"\n") {
			t.Errorf("no workflow of ours uses %s@%s", name, pin)
		}
	}
}
