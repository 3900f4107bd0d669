package docker

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestComposeOptions: each option that docker compose is called with is known to every
// version that is accepted, of those whose options are recorded (scripts/compose-flags.sh),
// and the newest of those that are refused lacks one.
func TestComposeOptions(t *testing.T) {
	text, err := os.ReadFile("testdata/compose-flags.txt")
	if err != nil {
		t.Fatal(err)
	}
	known, versions := map[string][]string{}, []string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		known[fields[0]+" "+fields[1]] = fields[2:]
		if !slices.Contains(versions, fields[0]) {
			versions = append(versions, fields[0])
		}
	}

	// Every command, called as a program that writes down what it is called with.
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(filepath.Join(dir, "docker-compose"), []byte("#!/bin/sh\nfor a; do echo \"$a\"; done >>"+log+"; echo END >>"+log+"; echo 99.0.0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	env := Env{Path: dir} // and no docker with its plugin
	program, err := FindCompose(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	c := &Compose{Program: program, Env: env, Project: "shop", Dir: dir, Files: []string{"compose.yaml"}, Profiles: []string{AllProfiles}}
	ctx := t.Context()
	_, _ = c.Hashes(ctx, nil)
	_, _ = c.Model(ctx)
	_, _, _ = c.Rendered(ctx)
	for _, err := range []error{c.Up(ctx), c.Recreate(ctx, "a"), c.Down(ctx), c.Create(ctx), c.Stop(ctx, "a"), c.Logs(ctx, 1, true, io.Discard, "a"), c.Config(ctx)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	said, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	runs := string(said) + strings.Join(append(append(c.options(), runOptions("name", []string{"A=b"})...), "--", "END"), "\n") + "\n"
	used := map[string][]string{} // by command
	for call := range strings.SplitSeq(strings.TrimSuffix(runs, "END\n"), "END\n") {
		name := "compose"
		for _, word := range strings.Split(strings.TrimSpace(call), "\n") {
			switch {
			case word == "--":
				name = "" // what follows is the caller's
			case name != "" && strings.HasPrefix(word, "-"):
				used[name] = append(used[name], word)
			case name == "compose" && slices.Contains([]string{"config", "create", "down", "logs", "run", "stop", "up", "version"}, word):
				name = word
			}
		}
	}
	if len(used) < 8 || !slices.Contains(used["up"], "--pull") || !slices.Contains(used["run"], "-T") || !slices.Contains(used["version"], "--short") {
		t.Fatalf("what is called: %v", used)
	}
	missing := func(version string) (all []string) {
		for name, options := range used {
			for _, o := range options {
				// Where it is not known, Model asks again without it.
				if !slices.Contains(known[version+" "+name], o) && o != "--no-env-resolution" {
					all = append(all, name+" "+o)
				}
			}
		}
		return all
	}
	refused := ""
	for _, v := range versions {
		if slices.Compare(bundle.VersionNumbers(v), oldestCompose) < 0 {
			refused = v
			continue
		}
		if m := missing(v); m != nil {
			t.Errorf("docker compose %s is accepted and does not know %q", v, m)
		}
	}
	if refused == "" || missing(refused) == nil {
		t.Errorf("docker compose %q knows all, and is refused", refused)
	}
	if !slices.Contains(versions, "2.10.2") {
		t.Error("the options of the oldest version are not recorded")
	}
}

// TestHashes has a docker compose that, as 2.26, answers with names where it starts with
// what they stand for, and services that are to be joined.
func TestHashes(t *testing.T) {
	c := fakeCompose(t, `case "$*" in
*json*) echo '{"services": {"web": {"depends_on": {"db": {}, "off": {}}, "network_mode": "service:db", "volumes_from": ["db:ro", "container:other"]}, "db": {}}}' ;;
*/proc/*) while [ "$1" != --file ]; do shift; done; case "$(cat "$2")" in
  *off*|*service:db*) echo "web wrong" ;;
  *'"other":{"image"'*container:1db*'"volumes_from":["1db","other"]'*) echo "web started"; echo "db same" ;;
  esac ;;
*) echo "web named"; echo "db same" ;;
esac`)
	c.Files = []string{filepath.Join(t.TempDir(), "compose.yaml")}
	running := []Container{{Service: "db", ID: "1db", ConfigHash: "same"}, {Service: "web", ID: "2web", ConfigHash: "started"}}
	for _, x := range []struct{ text, has, want string }{
		{"services: {web: {env_file: a}}", "started", "started"},
		{"services: {web: {env_file: a}}", "another", "named"},
		{"services: {web: {volumes_from: [db]}}", "started", "started"},
		{"services: {web: {}}", "started", "named"}, // it has nothing that could be named in another way
	} {
		if err := os.WriteFile(c.Files[0], []byte(x.text), 0o644); err != nil {
			t.Fatal(err)
		}
		running[1].ConfigHash = x.has
		if hashes, err := c.Hashes(t.Context(), running); err != nil || hashes["web"] != x.want || hashes["db"] != "same" {
			t.Errorf("%s, %s: got %v, %v, want %s", x.text, x.has, hashes, err, x.want)
		}
	}
}
