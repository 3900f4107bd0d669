package project

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden shows everything that is made of a good project.
func TestGolden(t *testing.T) {
	p, err := Load(t.Context(), "testdata/shop/valise.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(struct {
		Project *Project
		Release *Release
	}{p, r}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const golden = "testdata/shop.golden.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (run with -update and look at the diff):\n%s", golden, got)
	}
}

const (
	goodProject = `app: shop
compose: compose.yaml
platforms: [linux/amd64]
health: {compose: [db]}
`
	goodCompose = `services:
  db: {image: "postgres:17"}
`
)

func TestDefaults(t *testing.T) {
	p, err := parse("valise.yaml", []byte(strings.Replace(goodProject, "app: shop", "app: my-shop", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if p.Project != "my-shop" || p.VersionEnv != "MY_SHOP_VERSION" || p.Keep != (bundle.Keep{Releases: 3, Backups: 5}) ||
		p.Health.Retries != 10 || p.Health.Interval != bundle.Duration(DefaultInterval) {
		t.Errorf("got %+v", p)
	}
	name, err := p.OutputName("1.2.3", "")
	if err != nil || name != "my-shop-1.2.3.tar.gz" {
		t.Errorf("output %q, %v", name, err)
	}
}

func TestOutputName(t *testing.T) {
	for _, c := range []struct{ output, all, arm, prefix string }{
		{"", "cloud-1.2.3.tar.gz", "cloud-1.2.3-linux-aarch64-linux.tar.gz", "cloud-1.2.3-linux-aarch64-linux"},
		{"cloud-update-{{.Version}}.tgz", "cloud-update-1.2.3.tgz", "cloud-update-1.2.3.tgz", "cloud-update-1.2.3"},
		{"cloud-{{.Tag}}-{{.Arch}}.tar.gz", "cloud-v1.2.3-.tar.gz", "cloud-v1.2.3-aarch64-linux.tar.gz", "cloud-v1.2.3-aarch64-linux"},
	} {
		text := goodTree + "arch: {linux/arm64: aarch64-linux}\n"
		if c.output != "" {
			text += "output: \"" + c.output + "\"\n"
		}
		p, err := parse("valise.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		all, _ := p.OutputName("1.2.3", "")
		arm, _ := p.OutputName("1.2.3", "linux/arm64")
		if all != c.all || arm != c.arm || Prefix(arm) != c.prefix || p.NamesPlatform() != strings.Contains(c.output, "Arch") {
			t.Errorf("%q: got %s, %s, %s, %v", c.output, all, arm, Prefix(arm), p.NamesPlatform())
		}
	}
}

func TestRender(t *testing.T) {
	c := Copy{From: "{{.Version}}/{{.Platform}}/{{.OS}}-{{.Arch}}{{with .Variant}}-{{.}}{{end}}"}
	got, err := c.Render(new(Project).Vars("linux/arm/v7", "1.2.3"))
	if want := "1.2.3/linux/arm/v7/linux-arm-v7"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// goodTree is an app that systemd runs.
const goodTree = `app: cloud
platforms: [linux/amd64, linux/arm64]
tree:
  files: [{from: "dist/{{.OS}}-{{.Arch}}", to: .}, {from: web, to: web}]
  units: [packaging/cloud.service]
health: {http: "http://127.0.0.1:1/"}
`

// badProjects has one line of error per mistake.
var badProjects = []struct{ name, text, want string }{
	{"empty", " \n", "valise.yaml: empty, want at least app, compose, platforms and health"},
	{"list", "- a\n", "valise.yaml:1:1: want keys and values"},
	{"syntax", "app: [1\n", "valise.yaml:2:1: did not find expected ',' or ']'"},
	{"two documents", goodProject + "---\napp: b\n", "valise.yaml: more than one document"},
	{"duplicate", goodProject + "app: b\n", `valise.yaml:5:1: mapping key "app" already defined at line 1`},
	{"unknown", goodProject + "file: []\n", `valise.yaml:5:1: unknown key "file", did you mean "files"?`},
	{"unknown far", goodProject + "watermelon: 1\n", `valise.yaml:5:1: unknown key "watermelon"`},
	{"unknown inside", goodProject + "images:\n  a:\n    bass: x\n", `valise.yaml:7:5: unknown key "bass", did you mean "base"?`},
	{"unknown in list", goodProject + "backup: [{postgress: {}}]\n", `valise.yaml:5:11: unknown key "postgress", did you mean "postgres"?`},
	{"one for a list", goodProject + "profiles: web\n", "valise.yaml:5:11: want a list, such as [one, two]"},
	{"type", goodProject + "keep: {releases: many}\n", "valise.yaml:5:18: want a whole number"},
	{"duration", "app: a\nhealth: {interval: 5}\n", `valise.yaml:2:20: time: missing unit in duration "5"`},
	{"no app", "compose: c\n", "valise.yaml: app is missing"},
	{"app", "app: My Shop\n", `valise.yaml:1:6: app is "My Shop", want a lower-case letter, then up to 62 lower-case letters, digits and hyphens`},
	{"no platforms", "app: a\n", "valise.yaml: platforms is missing, want for example [linux/amd64, linux/arm64]"},
	{"platform", "app: a\nplatforms: [linux/amd64, arm]\n", `valise.yaml:2:26: platform "arm": want os/architecture or os/architecture/variant`},
	{"platform twice", "app: a\nplatforms: [linux/arm64, linux/arm64/v8]\n", "valise.yaml:2:26: platform linux/arm64 is listed twice"},
	{"image tag", goodProject + "images: {\"postgres:17\": {from: x}}\n", `valise.yaml:5:10: image "postgres:17" has a tag or digest, want the name alone: "postgres"`},
	{"image empty", goodProject + "images: {a: {}}\n", `valise.yaml:5:10: image "a" has no source, want from, base, go or dockerfile`},
	{"image both", goodProject + "images: {a: {from: b, base: c}}\n", `valise.yaml:5:10: image "a" has both from and base, want one`},
	{"from changed", goodProject + "images: {a: {from: b, user: c}}\n", `valise.yaml:5:10: image "a" is taken as it is; to change it write base in place of from`},
	{"scratch", goodProject + "images: {a: {base: scratch}}\n", `valise.yaml:5:20: image "a" has no files on an empty base`},
	{"template", goodProject + "images: {a: {base: b, files: [{from: \"{{.Os}}\", to: /a}]}}\n", `valise.yaml:5:38: template: from:1:2: executing "from" at <.Os>: can't evaluate field Os in type project.Vars`},
	{"to", goodProject + "images: {a: {base: b, files: [{from: x, to: a/../b}]}}\n", `valise.yaml:5:45: to is "a/../b", want a clean absolute path below /`},
	{"mode", goodProject + "images: {a: {base: b, files: [{from: x, to: /a, mode: rwx}]}}\n", `valise.yaml:5:55: mode is "rwx", want octal digits in quotes, for example "0755"`},
	{"expose", goodProject + "images: {a: {base: b, expose: [http]}}\n", `valise.yaml:5:32: expose is "http", want PORT or PORT/PROTOCOL`},
	{"no health", "app: a\ncompose: c\nplatforms: [linux/amd64]\n", "valise.yaml: health: there is no check, want compose (services), http, tcp or command: what cannot be seen to fail cannot be rolled back"},
	{"retries", "app: a\nplatforms: [linux/amd64]\nhealth: {compose: [a], retries: 0}\n", "valise.yaml:3:1: health: retries is 0, want 1 to 1000"},
	{"backup", goodProject + "backup: [{postgres: {service: db, user: \"-c\"}}]\n", "valise.yaml:5:10: backup: postgres: want user and database, each of A-Z a-z 0-9 _ . -, the first not -, or none: those of the service's own environment"},
	{"two backups in one", goodProject + "backup: [{sqlite: {service: db, path: /a}, volume: {service: db, path: /b}}]\n", "valise.yaml:5:10: backup: want exactly one of postgres, mysql, mongo, redis, sqlite, volume and command"},
	{"hook file", goodProject + "hooks: {migrate: {run: [bin/migrate]}}\n", "valise.yaml:5:19: hook migrate: bin/migrate is not in the bundle: list it under files, or name a service to run it in"},
	{"hook moment", goodProject + "hooks: {boot: {service: db, run: [x]}}\n", `valise.yaml:5:9: hook "boot" is not a moment, want one of pre-stage, post-stage, pre-backup, post-backup, pre-activate, migrate, post-activate, post-probe, pre-rollback, post-rollback`},
	{"rollback without backup", goodProject + "rollback: {restore_data: ask}\n", "valise.yaml:5:1: rollback: data must be restored and nothing is backed up: want backup"},
	{"irreversible", goodProject + "migration: irreversible\nrollback: {restore_data: never}\n", "valise.yaml:6:1: rollback: restore_data is never after an irreversible migration: no rollback would be possible"},
	{"secret", goodProject + "secrets: {A: {hex: 4}}\n", "valise.yaml:5:11: A: 4 random bytes, want 8 to 128"},
	{"password", goodProject + "secrets: {A: {password: 8}}\n", "valise.yaml:5:11: A: 8 characters, want 12 to 128"},
	{"secret of two kinds", goodProject + "secrets: {A: {hex: 8, base64: 8}}\n", "valise.yaml:5:11: A: want one of hex, base64 and password"},
	{"prefix", goodProject + "secrets: {A: {hex: 8, prefix: a=b}}\n", `valise.yaml:5:11: A: prefix is "a=b", want at most 127 of A-Z a-z 0-9 _ . -`},
	{"limits", goodProject + "limits: {undo: 200h}\n", "valise.yaml:5:1: limits: undo must be greater than 0s and at most 168h0m0s, got 200h0m0s"},
	{"no such limit", goodProject + "limits: {start: 1h}\n", `valise.yaml:5:10: unknown key "start", did you mean "stage"?`},
	{"keep", goodProject + "keep: {releases: 1}\n", "valise.yaml:5:18: releases is 1, want 2 to 100: the running one and one to roll back to"},
	{"file outside", goodProject + "files: [../x]\n", `valise.yaml:5:9: file "../x" is not a clean path below the directory of valise.yaml`},
	{"no kind", "app: a\nplatforms: [linux/amd64]\nhealth: {http: \"http://a\"}\n", "valise.yaml: compose is missing, want the path of the compose file, or tree, the files of an app that systemd runs"},
	{"both kinds", goodTree + "compose: c\n", "valise.yaml:7:10: compose belongs to a compose app, and this one is a tree"},
	{"images of a tree", goodTree + "images: {}\n", "valise.yaml:7:1: images belongs to a compose app, and this one is a tree"},
	{"backup of a tree", goodTree + "backup: []\n", "valise.yaml:7:1: backup is about data in containers, and this app is a tree: an update and a rollback leave alone what its units write; let ExecStartPre= of the unit save or migrate it, so that the release before can still run"},
	{"service of a tree", strings.Replace(goodTree, "{http", "{compose: [a], http", 1), "valise.yaml:6:10: compose belongs to a compose app, and this one is a tree: its units must run in any case"},
	{"tree without files", strings.Replace(goodTree, "  files", "  required", 1), "valise.yaml:4:14: want a text"},
	{"tree without units", strings.Replace(goodTree, "  units", "  required", 1), "valise.yaml:3:1: units is missing, want for example [packaging/cloud.service]"},
	{"part of two", strings.Replace(goodTree, "from: web", "from: web, unpack: web.zip", 1), "valise.yaml:4:52: want from or unpack, and to"},
	{"part outside", strings.Replace(goodTree, "to: web", "to: ../web", 1), `valise.yaml:4:68: to is "../web", want a clean path below the top of the tree, or .`},
	{"template of a tree", strings.Replace(goodTree, "{{.OS}}", "{{.Os}}", 1), `valise.yaml:4:11: template: from:1:7: executing "from" at <.Os>: can't evaluate field Os in type project.Vars`},
	{"unit outside", strings.Replace(goodTree, "[packaging", "[/etc", 1), `valise.yaml:5:11: "/etc/cloud.service" is listed twice or is not a clean path in the tree`},
	{"mode of a file", goodTree[:len(goodTree)-len("health: {http: \"http://127.0.0.1:1/\"}\n")] + "  templates: [{from: a, to: /etc/a/b, mode: \"0755\"}]\nhealth: {http: \"http://a\"}\n", `valise.yaml:6:45: mode is "0755", want "0600", "0640" or "0644" in quotes`},
	{"default and initial", goodTree + "env: {A: {default: 1, initial: 2}}\n", "valise.yaml:7:7: want default, for every update, or initial, for the first installation"},
	{"default of a secret", goodTree + "env: {A: {default: 1}}\nsecrets: {A: {hex: 8}}\n", "valise.yaml:7:7: A is generated by secrets, and so cannot have a default"},
	{"variable", goodTree + "env: {\"A B\": {}}\n", `valise.yaml:7:7: "A B" is not the name of a variable`},
	{"arch", goodTree + "arch: {amd64: x}\n", "valise.yaml:7:15: want a platform and its name in your files, for example linux/amd64: x86_64-linux"},
	{"output", goodProject + "output: \"a/{{.Version}}\"\n", `valise.yaml:5:9: output gives "a/0.0.0", want a file name`},
}

func TestBadProject(t *testing.T) {
	for _, c := range badProjects {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse("valise.yaml", []byte(c.text))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestBadRelease has one line of error per mistake that needs the other files.
func TestBadRelease(t *testing.T) {
	for _, c := range []struct{ name, project, compose, want string }{
		{"no compose file", goodProject, "", "DIR/valise.yaml:2:10: read compose file: stat DIR/compose.yaml: no such file or directory"},
		{"compose syntax", goodProject, "services: [", "DIR/compose.yaml: failed to parse: yaml: line 2: did not find expected node content"},
		{"compose key", goodProject, "services: {db: {image: a, imagge: b}}\n", "DIR/compose.yaml: validating: services.db.imagge is not a known key"},
		{"no services", goodProject, "services: {}\n", `DIR/valise.yaml:4:20: compose.yaml has no service "db"`},
		{"variable", goodProject, "services: {db: {image: \"a:${TAG}\"}}\n",
			`DIR/compose.yaml: service db: image "a:${TAG}" depends on TAG, which has no value: when it is the version of the app, write ${SHOP_VERSION}, or version_env: TAG in valise.yaml; otherwise a default, --set TAG=VALUE, or env: {TAG: {default: VALUE}}`},
		{"required variable", goodProject, "services: {db: {image: \"a:${TAG:?}\"}}\n",
			`DIR/compose.yaml: service db: image "a:${TAG:?}" depends on TAG, which has no value: when it is the version of the app, write ${SHOP_VERSION}, or version_env: TAG in valise.yaml; otherwise a default, --set TAG=VALUE, or env: {TAG: {default: VALUE}}`},
		{"whole reference", goodProject, "services: {db: {image: \"${DB_IMAGE:?error}\"}}\n",
			`DIR/compose.yaml: service db: image "${DB_IMAGE:?error}" depends on DB_IMAGE, which has no value: give it a default, --set DB_IMAGE=VALUE, or env: {DB_IMAGE: {default: VALUE}} in valise.yaml`},
		{"name and tag", goodProject, "services: {db: {image: \"localhost:5000/${NAME}:${NAME_TAG}\"}}\n",
			`DIR/compose.yaml: service db: image "localhost:5000/${NAME}:${NAME_TAG}" depends on NAME, which has no value: give it a default, --set NAME=VALUE, or env: {NAME: {default: VALUE}} in valise.yaml`},
		{"tag alone", goodProject + "env: {NAME: {default: x}}\n", "services: {db: {image: \"localhost:5000/${NAME:-a:b}:v${NAME_TAG}-alpine\"}}\n",
			`DIR/compose.yaml: service db: image "localhost:5000/${NAME:-a:b}:v${NAME_TAG}-alpine" depends on NAME_TAG, which has no value: when it is the version of the app, write ${SHOP_VERSION}, or version_env: NAME_TAG in valise.yaml; otherwise a default, --set NAME_TAG=VALUE, or env: {NAME_TAG: {default: VALUE}}`},
		{"variable for a service", goodProject, "services: {db: {image: a, depends_on: [\"${OTHER}\"]}}\n", `DIR/compose.yaml: service "db" depends on undefined service "${OTHER}": invalid compose project`},
		{"extends", goodProject, "services: {db: {extends: {file: nowhere.yaml, service: x}}}\n", "DIR/compose.yaml: open DIR/nowhere.yaml: no such file or directory"},
		{"unused image", goodProject + "images: {postgras: {from: x}}\n", goodCompose, `DIR/valise.yaml:5:10: no service of compose.yaml runs image "postgras", did you mean "postgres"?`},
		{"health service", strings.Replace(goodProject, "[db]", "[dbb]", 1), goodCompose, `DIR/valise.yaml:4:20: compose.yaml has no service "dbb", did you mean "db"?`},
		{"hook service", goodProject + "hooks: {migrate: {service: dbb, run: [x]}}\n", goodCompose, `DIR/valise.yaml:5:28: compose.yaml has no service "dbb", did you mean "db"?`},
		{"backup service", goodProject + "backup: [{postgres: {service: pg, user: a, database: b}}]\n", goodCompose, `DIR/valise.yaml:5:31: compose.yaml has no service "pg", did you mean "db"?`},
		{"missing file", goodProject + "files: [a.txt]\n", goodCompose, "DIR/valise.yaml:5:9: file DIR/a.txt does not exist"},
		{"tree that is not built", goodTree, "", "DIR/valise.yaml:4:11: there is nothing at DIR/dist/linux-amd64: build the app before, or write where its build puts it"},
		{"missing installer", goodProject + "installer: ../dist\n", goodCompose, "DIR/valise.yaml:5:12: file PARENT/dist/linux-amd64/valise-installer does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "valise.yaml"), c.project)
			if c.compose != "" {
				write(t, filepath.Join(dir, "compose.yaml"), c.compose)
			}
			write(t, filepath.Join(dir, "more.yaml"), "services: {x: {image: y}}\n")
			p, err := Load(t.Context(), filepath.Join(dir, "valise.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Release(t.Context(), "1.2.3", p.Platforms)
			want := strings.NewReplacer("DIR", dir, "PARENT", filepath.Dir(dir)).Replace(c.want)
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestExtends(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "valise.yaml"), goodProject)
	write(t, filepath.Join(dir, "compose.yaml"), "services: {db: {extends: {file: ./more.yaml, service: x}}}\n")
	write(t, filepath.Join(dir, "more.yaml"), "services: {x: {image: \"y:${SHOP_VERSION}\"}}\n")
	p, err := Load(t.Context(), filepath.Join(dir, "valise.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Images) != 1 || r.Images[0].Reference != "y:1.2.3" {
		t.Errorf("got %+v", r.Images)
	}
}

func TestInstaller(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "valise.yaml"), strings.Replace(goodProject, "linux/amd64", "linux/arm/v7", 1)+"installer: bin\n")
	write(t, filepath.Join(dir, "compose.yaml"), goodCompose)
	write(t, filepath.Join(dir, "bin/linux-arm-v7/valise-installer"), "x")
	p, err := Load(t.Context(), filepath.Join(dir, "valise.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
	if err != nil {
		t.Fatal(err)
	}
	got := r.Files[len(r.Files)-1]
	if got.Path != "installer/linux-arm-v7/valise-installer" || !got.Executable {
		t.Errorf("got %+v", got)
	}
}

func TestEngine(t *testing.T) {
	for _, c := range []struct {
		name, want string // want is the error, or the last file
		files      []string
	}{
		{"packages", "engine/linux-amd64/docker.io_20_amd64.deb", []string{"linux-amd64/docker.io_20_amd64.deb", "linux-amd64/docker-compose"}},
		{"archive", "engine/linux-amd64/docker-29.1.2.tgz", []string{"linux-amd64/docker-29.1.2.tgz"}},
		{"both", "1 *.deb and 1 docker-*.tgz", []string{"linux-amd64/a.deb", "linux-amd64/docker-29.1.2.tgz"}},
		{"neither", "0 *.deb and 0 docker-*.tgz", []string{"linux-amd64/docker-compose"}},
		{"stranger", "notes.txt is neither", []string{"linux-amd64/notes.txt"}},
		{"platform", "linux-amd64: no such file", []string{"linux-arm64/a.deb"}},
		{"compose alone", "engine/linux-amd64/docker-compose", []string{"linux-amd64/docker-compose"}},
		{"compose alone, with an engine", "want docker-compose alone", []string{"linux-amd64/docker-compose", "linux-amd64/docker-29.1.2.tgz"}},
		{"pinned", "engine/linux-amd64/docker-compose", []string{"linux-amd64/docker-compose", "linux-amd64/docker-29.1.2.tgz", "linux-amd64/docker-28.0.0.tgz"}},
		{"pinned, another one", "has SHA-256 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881, want " + strings.Repeat("0", 64), []string{"linux-amd64/docker-compose"}},
		{"pinned, missing", "docker-29.1.2.tgz: no such file or directory: valise engine fetch downloads it", []string{"linux-amd64/docker-28.0.0.tgz"}},
		{"pinned, for others", "nothing is for linux/amd64: valise engine fetch downloads it", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			engine := "stuff"
			const sum = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of x
			switch {
			case strings.HasPrefix(c.name, "compose alone"):
				engine = "{dir: stuff, compose: true}"
			case c.name == "pinned, another one":
				engine = "{dir: stuff, compose: true, sha256: {linux-amd64/docker-compose: \"" + strings.Repeat("0", 64) + "\"}}"
			case c.name == "pinned, for others":
				engine = "{dir: stuff, compose: true, sha256: {linux-arm64/docker-compose: " + sum + "}}"
			case strings.HasPrefix(c.name, "pinned"):
				engine = "{dir: stuff, docker: 29.1.2, sha256: {linux-amd64/docker-compose: " + sum + ", linux-amd64/docker-29.1.2.tgz: " + sum + "}}"
			}
			files := map[string]string{"valise.yaml": goodProject + "engine: " + engine + "\n", "compose.yaml": goodCompose}
			for _, f := range c.files {
				files["stuff/"+f] = "x"
			}
			r, _, err := release(t, files)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
				return
			}
			if got := r.Files[len(r.Files)-1].Path; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestWithEngine: the text of valise.yaml with another engine, wherever it stood.
func TestWithEngine(t *testing.T) {
	want := &Engine{Dir: "stuff", Docker: "29.1.3", Compose: "2.40.3", Mirrors: EngineMirrors{Docker: "http://mirror.lan/docker"}, SHA256: map[string]string{"linux-amd64/docker-compose": strings.Repeat("0", 64)}}
	for name, text := range map[string]string{
		"none":            goodProject,
		"no line feed":    strings.TrimSuffix(goodProject, "\n"),
		"last":            goodProject + "engine: other\n",
		"in the middle":   "engine: {dir: other,\n  compose: true}\n\n# the app\n" + goodProject,
		"block, comments": "engine: # x\n  compose: true\n# of the app\n" + goodProject + "# end\n",
	} {
		p, err := parse("valise.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.WithEngine(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := parse("valise.yaml", out)
		if err != nil || !reflect.DeepEqual(again.Engine, want) {
			t.Errorf("%s: %v, %+v\n%s", name, err, again.Engine, out)
		}
		if again != nil {
			again.Engine, again.doc, p.Engine, p.doc = nil, nil, nil, nil
		}
		if !reflect.DeepEqual(again, p) || strings.Count(string(out), "#") != strings.Count(strings.Replace(text, " # x", "", 1), "#")+1 {
			t.Errorf("%s: changed more than the engine:\n%s", name, out)
		}
	}
	p, err := parse("valise.yaml", []byte("{app: shop, compose: compose.yaml, platforms: [linux/amd64], health: {compose: [db]}}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WithEngine(want); err == nil {
		t.Error("changed a {...}")
	}
}

// TestEngineRefused: keys that make no sense.
func TestEngineRefused(t *testing.T) {
	for engine, want := range map[string]string{
		"''":                              "engine is empty",
		"{docker: 29.1.3, debian: sid}":   "want docker, the static archive, or debian, packages",
		"{docker: 29.1}":                  "want a version such as 29.1.3",
		"{docker: latest}":                "want a version such as 29.1.3",
		"{compose: false}":                "want a version such as 2.40.3, or true",
		"{debian: 'a b'}":                 "want the name of a release",
		"{debian: \"x [trusted=yes]\"}":   "want the name of a release",
		"{mirrors: {docker: mirror.lan}}": "want https://HOST/PATH",
		"{mirrors: {debian: \"https://a/b c [trusted=yes]\"}}":             "want https://HOST/PATH",
		"{mirrors: {compose: \"https://u:p@host/x\"}}":                     "want https://HOST/PATH",
		"{sha256: {../x: '00'}}":                                           "want PLATFORM/FILE and its SHA-256",
		"{sha256: {linux-amd64/../../x: " + strings.Repeat("0", 64) + "}}": "want PLATFORM/FILE and its SHA-256",
		"{doker: 29.1.3}": "unknown key \"doker\"",
	} {
		if _, err := parse("valise.yaml", []byte(goodProject+"engine: "+engine+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", engine, err, want)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	good, err := os.ReadFile("testdata/shop/valise.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("a: &a {<<: *a}\n"))
	f.Fuzz(func(t *testing.T, data []byte) { parse("valise.yaml", data) })
}
