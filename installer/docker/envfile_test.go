package docker

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Environment files are named, and not read, whatever the version of docker compose:
// those before 2.28 read them in every command.
func TestEnvFiles(t *testing.T) {
	plugin := os.Getenv("VALISE_COMPOSE")
	if plugin == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("missing: docker compose (VALISE_COMPOSE)")
		}
		t.Skip("missing: docker compose (VALISE_COMPOSE)")
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	if err := os.Symlink(plugin, filepath.Join(dir, "docker-compose")); err != nil {
		t.Fatal(err)
	}
	found, err := FindCompose(t.Context(), Env{Path: dir, Home: dir})
	if err != nil {
		t.Fatal(err)
	}
	old := script(t, dir, "old", `case "$*" in *--no-env-resolution*) echo "unknown flag: --no-env-resolution" >&2; exit 1;; esac; exec `+plugin+` "$@"`)
	files := []string{file("compose.yaml", `
x-common: &common
  env_file: &files [common.env]
  labels: ["a=${NOWHERE:-b}"]
x-more: &more {env_file: merged.env}
services:
  one: {image: x, env_file: "${WHERE}/one.env"}
  many: {image: x, env_file: [/b.env, ./a.env, "${NOWHERE:-c}.env"], labels: {com.example: x}}
  some: {image: x, env_file: [{path: may.env, required: false}, {path: must.env}]}
  merged: {<<: *more, image: x}
  listed: {<<: [*common], image: x, labels: [q=1]}
  alias: {image: x, env_file: *files}
  none: {image: x, ports: ["80:80"]}
`), file("override.yaml", "services:\n  many: {env_file: [/last.env]}\n")}
	c := &Compose{Env: Env{Path: "/usr/bin:/bin", Home: dir}, Project: "p", Dir: dir, Files: files, EnvFile: file("env", "WHERE=/srv\n")}
	for command, version := range map[string]string{plugin: found.Version, old: "2.27.1"} {
		c.Program = Program{[]string{command}, version}
		m, err := c.Model(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		if n := m.Services["none"]; len(n.Ports) != 1 || len(n.EnvFile) != 0 {
			t.Errorf("%s: %+v", command, n)
		}
		for name, want := range map[string][]string{
			"one": {"/srv/one.env"}, "many": {"/b.env", dir + "/a.env", dir + "/c.env", "/last.env"}, "some": {dir + "/may.env may be missing", dir + "/must.env"},
			"merged": {dir + "/merged.env"}, "listed": {dir + "/common.env"}, "alias": {dir + "/common.env"},
		} {
			var got []string
			for _, f := range m.Services[name].EnvFile {
				path := f.Path
				if f.Required != nil && !*f.Required {
					path += " may be missing"
				}
				got = append(got, path)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s has %q, want %q", command, name, got, want)
			}
		}
	}
}
