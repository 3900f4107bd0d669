package project

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// release loads files of a new directory as a project at version 1.2.3.
func release(t *testing.T, files map[string]string) (*Release, string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		to, link := strings.CutPrefix(text, "-> ")
		if !link && text != "|" {
			write(t, name, text)
			continue
		}
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if link {
			err = errors.Join(err, os.Symlink(to, name))
		} else {
			err = errors.Join(err, syscall.Mkfifo(name, 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
	if err != nil {
		return nil, dir, err
	}
	p.Ignored = func(_ context.Context, paths []string) ([]string, error) {
		return slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return !strings.Contains(p, "ignored") }), nil
	}
	r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
	return r, dir, err
}

// TestSources has every way of saying where an image comes from.
func TestSources(t *testing.T) {
	const compose = "services: {db: {image: \"shop/db:${SHOP_VERSION}\", build: {context: src, dockerfile: ../Dockerfile.db, target: t, args: {V: \"$SHOP_VERSION\", W: \"${W:-x}\"}, labels: {l: m}}}}\n"
	for _, c := range []struct {
		name, image string
		want        Image
	}{
		{"compose build", "", Image{Context: "src", Dockerfile: "Dockerfile.db", Target: "t", Args: map[string]string{"V": "1.2.3", "W": "x"}, Labels: map[string]string{"l": "m"}}},
		{"engine", "{from: \"docker:shop/db:{{.Version}}\"}", Image{From: From{Source: "docker:shop/db:1.2.3"}}},
		{"archive", "{from: archive:db.tar}", Image{From: From{Source: "archive:db.tar"}}},
		{"archives", "{from: {linux/amd64: archive:a.tar, linux/arm64: \"oci:{{.Tag}}\"}}", Image{From: From{Each: map[bundle.Platform]string{"linux/amd64": "archive:a.tar"}}}},
		{"go", "{go: ./cmd/db}", Image{Go: &Go{Package: "./cmd/db", Base: Scratch}}},
		{"go with all", "{go: {package: ./cmd/db, ldflags: \"-X main.version={{.Version}}\", base: debian, env: {GOEXPERIMENT: x}}, user: \"1\"}",
			Image{Go: &Go{Package: "./cmd/db", Base: "debian", Ldflags: "-X main.version=1.2.3", Env: map[string]string{"GOEXPERIMENT": "x"}}, User: "1"}},
		{"dockerfile", "{dockerfile: docker/Dockerfile}", Image{Dockerfile: "docker/Dockerfile", Context: "docker"}},
		{"dockerfile with all", "{dockerfile: ./Dockerfile, context: ., target: t, args: {V: \"{{.Version}}\"}}", Image{Dockerfile: "./Dockerfile", Context: ".", Target: "t", Args: map[string]string{"V": "1.2.3"}}},
		{"base", "{base: \"docker:base:{{.Version}}\", files: [{from: a, to: /a}]}", Image{Base: "docker:base:1.2.3", Files: []Copy{{From: "a", To: "/a"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := goodProject
			if c.image != "" {
				text += "images: {shop/db: " + c.image + "}\n"
			}
			r, _, err := release(t, map[string]string{"valise.yaml": text, "compose.yaml": compose})
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Images[0].Image; !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

// TestComposeBuild: every key of a build section counts, is noted or is refused; what
// only builds read is nothing of a device.
func TestComposeBuild(t *testing.T) {
	r, _, err := release(t, map[string]string{"valise.yaml": goodProject + "installer: none\n", "compose.yaml": `services:
  db:
    image: x
    restart: always
    build:
      context: web
      args: [GIT_SHA, SHOP_VERSION, "A=1"]
      additional_contexts: {shared: ./shared, alpine: "docker-image://alpine:3"}
      cache_from: ["ghcr.io/acme/x:cache", "type=gha,scope=x"]
      cache_to: ["type=inline"]
      pull: true
      no_cache: true
      platforms: [linux/amd64, linux/arm64]
      tags: ["ghcr.io/acme/x:1"]
      provenance: true
      sbom: true
      secrets: [npm, {source: pip, target: pip.conf}, both]
    secrets: [both]
secrets: {npm: {environment: NPM_TOKEN}, pip: {file: ./pip.conf}, both: {environment: BOTH}}
`})
	if err != nil {
		t.Fatal(err)
	}
	img := r.Images[0].Image
	got := img.Build
	got.Secrets = slices.Clone(got.Secrets)
	for i, s := range got.Secrets {
		if at := strings.Index(s, "src="); at > 0 { // of this test's directory
			got.Secrets[i] = s[:at+4] + filepath.Base(s)
		}
	}
	want := Build{Contexts: map[string]string{"shared": "shared", "alpine": "docker-image://alpine:3"}, Secrets: []string{"id=npm,env=NPM_TOKEN", "id=pip.conf,src=pip.conf", "id=both,env=BOTH"},
		CacheFrom: []string{"type=registry,ref=ghcr.io/acme/x:cache", "type=gha,scope=x"}, CacheTo: []string{"type=inline"}, Pull: true, NoCache: true}
	if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(img.Args, map[string]string{"SHOP_VERSION": "1.2.3", "A": "1"}) {
		t.Errorf("got %+v, %v", got, img.Args)
	}
	notes := strings.Join(r.Notes, "\n")
	for _, want := range []string{"build argument GIT_SHA has no value", "build.tags is for registries", "build.provenance is for registries", "build.sbom is for registries"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note %q in:\n%s", want, notes)
		}
	}
	if slices.Contains(r.RequiredEnv, "NPM_TOKEN") || len(r.Local) > 0 {
		t.Errorf("a device must have %v and %v", r.RequiredEnv, r.Local)
	}
	resolved, err := r.Resolve(nil)
	if err != nil || resolved == nil || strings.Contains(string(resolved.Text), "NPM_TOKEN") || strings.Contains(string(resolved.Text), "pip") || !strings.Contains(string(resolved.Text), "both") {
		t.Errorf("got %v\n%s", err, resolved.Text)
	}
}

// TestSharedBuild has a service that runs what another one builds.
func TestSharedBuild(t *testing.T) {
	r, _, err := release(t, map[string]string{"valise.yaml": goodProject,
		"compose.yaml": "services: {a: {image: x}, db: {image: x, build: .}, c: {image: x}}\n"})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Images) != 1 || r.Images[0].Image.Dockerfile != "Dockerfile" || len(r.Images[0].Services) != 3 {
		t.Errorf("got %+v", r.Images)
	}
}

// longName is a path that a file system takes and a bundle does not.
var longName = "deep/" + strings.Repeat("d", 150) + "/" + strings.Repeat("f", 151)

func TestBadSources(t *testing.T) {
	const compose = "services: {db: {image: \"a:${SHOP_VERSION}\"}}\n"
	image := func(text string) string { return goodProject + "images: {a: " + text + "}\n" }
	for _, c := range []struct{ name, project, compose, want string }{
		{"three", image("{from: x, go: y, dockerfile: z}"), compose, `valise.yaml:5:10: image "a" has both from and go, want one`},
		{"go changed by base", image("{go: x, base: y}"), compose, `valise.yaml:5:10: image "a" has both base and go, want one`},
		{"no name", image("{from: \"docker:\"}"), compose, `valise.yaml:5:20: image "a": docker: needs a name`},
		{"no file", image("{base: \"archive:\", files: [{from: a, to: /a}]}"), compose, `valise.yaml:5:20: image "a": archive: needs a name`},
		{"empty map", image("{from: {}}"), compose, `valise.yaml:5:14: image "a" has no source for linux/amd64`},
		{"no platform", image("{from: {linux/arm64: b}}"), compose, `valise.yaml:5:14: image "a" has no source for linux/amd64`},
		{"bad platform", image("{from: {amd64: b}}"), compose, `valise.yaml:5:28: want platform linux/arm64, got "amd64"`},
		{"other name of a platform", image("{from: {linux/arm64/v8: b}}"), compose, `valise.yaml:5:37: want platform linux/arm64, got "linux/arm64/v8"`},
		{"list", image("{from: [b]}"), compose, "valise.yaml:5:20: want a text"},
		{"template", image("{from: \"b:{{.Version\"}"), compose, "valise.yaml:5:20: template: from:1: unclosed action"},
		{"template of a platform", image("{from: \"oci:{{.Arch}}\"}"), compose, "valise.yaml:5:20: template: from:1:6: executing \"from\" at <.Arch>: can't evaluate field Arch in type project.VersionVars"},
		{"context alone", image("{from: b, context: .}"), compose, `valise.yaml:5:10: image "a" has context, target or args, which belong to dockerfile`},
		{"dockerfile changed", image("{dockerfile: b, user: x}"), compose, `valise.yaml:5:10: image "a" is taken as it is; to change it write base in place of dockerfile`},
		{"no package", image("{go: {base: b}}"), compose, `valise.yaml:5:14: image "a": go needs package, the directory of the program`},
		{"unknown in go", image("{go: {pakage: b}}"), compose, `valise.yaml:5:19: unknown key "pakage", did you mean "package"?`},
		{"go env", image("{go: {package: b, env: {\"a b\": c}}}"), compose, `valise.yaml:5:44: "a b" is not the name of a variable`},
		{"scratch from", image("{from: scratch}"), compose, `valise.yaml:5:20: from is "scratch", which holds nothing; write base: scratch and files`},

		{"build key", goodProject, "services: {db: {image: a, build: {context: ., network: host}}}\n",
			"compose.yaml: service db: build.network is not supported: build the image before, and write in valise.yaml images: {a: {from: ...}}"},
		{"build secret of nothing", goodProject, "services: {db: {image: \"a:1\", build: {context: web, secrets: [npm]}}}\nsecrets: {npm: {external: true}}\n",
			"compose.yaml: service db: build.secrets has npm, which has neither environment nor file: build the image before, and write in valise.yaml images: {a: {from: ...}}"},
		{"build secret with an option", goodProject, "services: {db: {image: \"a:1\", build: {context: web, secrets: [{source: npm, target: \"x,type=file\"}]}}}\nsecrets: {npm: {environment: NPM_TOKEN}}\n",
			"compose.yaml: service db: build.secrets has npm, whose name or file has other characters than letters, digits, ., _ and -: build the image before, and write in valise.yaml images: {a: {from: ...}}"},
		{"build context of a service", goodProject, "services: {db: {image: a, build: {context: ., additional_contexts: {base: \"service:e\"}}}, e: {image: b, build: x}}\n",
			"compose.yaml: service db: build.additional_contexts has base of kind service, which is neither a directory nor docker-image://: build the image before, and write in valise.yaml images: {a: {from: ...}}"},
		{"build ulimits", goodProject, "services: {db: {image: a, build: {context: ., ulimits: {nofile: 1024}}}}\n",
			"compose.yaml: service db: build.ulimits is not supported: build the image before, and write in valise.yaml images: {a: {from: ...}}"},
		{"build platforms", goodProject, "services: {db: {image: a, build: {context: ., platforms: [linux/s390x]}}}\n",
			"compose.yaml: service db: build.platforms has no linux/amd64, for which the release is: build the image before, and write in valise.yaml images: {a: {from: ...}}"},
		{"build variable", goodProject, "services: {db: {image: a, build: {context: ., args: {X: \"${TOKEN}\"}}}}\n",
			"compose.yaml: service db: build depends on TOKEN, which has no value: give it a default, --set TOKEN=VALUE, or env: {TOKEN: {default: VALUE}} in valise.yaml"},
		{"build version", goodProject, "services: {db: {image: a, build: {context: ., args: {X: \"${APP_RELEASE}\"}}}}\n",
			"compose.yaml: service db: build depends on APP_RELEASE, which has no value: when it is the version of the app, write ${SHOP_VERSION}, or version_env: APP_RELEASE in valise.yaml; otherwise a default, --set APP_RELEASE=VALUE, or env: {APP_RELEASE: {default: VALUE}}"},
		{"remote context", goodProject, "services: {db: {image: a, build: \"https://example.org/a.git\"}}\n",
			"compose.yaml: service db: build context https://example.org/a.git is not on this machine: write in valise.yaml images: {a: {dockerfile: ..., context: ...}}, or {from: ...} for an image that is built"},
		{"two builds", goodProject, "services: {db: {image: a, build: x}, e: {image: a, build: y}}\n", "compose.yaml: services db and e build image a in different ways"},

		{"include of a number", goodProject, "services: {db: {image: a}}\ninclude: [7]\n", "compose.yaml: decoding failed due to the following error(s): '[0]' expected a map or struct, got \"int\""},
		{"mount outside", goodProject, "services: {db: {image: a, volumes: [\"..:/a:ro\"]}}\n", "compose.yaml: service db uses .., which is above the directory of valise.yaml, and there is no git repository: put valise.yaml into a directory that holds both"},
		{"mount of all", goodProject, "services: {db: {image: a, volumes: [\".:/a\"]}}\n",
			"compose.yaml: service db uses ., the directory of the compose file or one above, which holds passwords on a device: leave it out, or mount directories below it"},
		{"mount of the updates", goodProject, "services: {db: {image: a, volumes: [\"./updates/x:/a\"]}}\n",
			"compose.yaml: service db uses ./updates/x, and updates in the app's directory on a device belongs to Valise: choose another name"},
		{"data outside", goodProject, "services: {db: {image: a, volumes: [\"../nowhere:/a\"]}}\n",
			"compose.yaml: service db uses ../nowhere, which is above the directory of valise.yaml, and there is no git repository: put valise.yaml into a directory that holds both"},
		{"mount of the compose file", goodProject, "services: {db: {image: a, volumes: [\"./compose.yaml:/a\"]}}\n",
			"compose.yaml: service db uses ./compose.yaml, the compose file itself: give the service a copy"},
		{"empty directory as a file", goodProject, "services: {db: {image: a, volumes: [\"./empty.conf:/etc/a.conf\"]}}\n",
			"compose.yaml: service db uses ./empty.conf, which is an empty directory and not a file: an engine makes one in place of a file that is missing; put the file there"},
		{"directory as env_file", goodProject, "services: {db: {image: a, env_file: conf}}\n", "compose.yaml: service db uses conf, which is a directory and not a file"},
		{"link out", goodProject, "services: {db: {image: a, volumes: [\"./out:/a\"]}}\n", "valise.yaml: DIR/out is a link to /etc/hostname, which is outside the directory of valise.yaml"},
		{"link out in a directory", goodProject, "services: {db: {image: a, volumes: [\"./links:/a\"]}}\n", "valise.yaml: DIR/links/out is a link to /etc/hostname, which is outside the directory of valise.yaml"},
		{"listed link out", goodProject + "files: [links]\n", "services: {db: {image: a}}\n", "valise.yaml:5:9: DIR/links/out is a link to /etc/hostname, which is outside the directory of valise.yaml"},
		{"pipe in a directory", goodProject, "services: {db: {image: a, volumes: [\"./pipes:/a\"]}}\n", `valise.yaml: DIR/pipes/p is a pipe, not a file: leave it out with files: ["!pipes/p"]`},
		{"device in a directory", goodProject, "services: {db: {image: a, volumes: [\"./nodes:/a\"]}}\n", `valise.yaml: DIR/nodes/null is a device, not a file: leave it out with files: ["!nodes/null"]`},
		{"names that differ in case", goodProject, "services: {db: {image: a, volumes: [\"./cases:/a:ro\"]}}\n", `valise.yaml: cases/a.conf: the same name as cases/A.conf on some file systems: rename it, or leave it out with files: ["!PATH"]`},
		{"path of 300 bytes", goodProject, "services: {db: {image: a, volumes: [\"./deep:/a:ro\"]}}\n", `valise.yaml: "deep/` + longName[5:80] + `": path has 307 bytes, want 1 to 255: rename it, or leave it out with files: ["!PATH"]`},
		{"of git", goodProject, "services: {db: {image: a, volumes: [\"./sub/.git/config:/a:ro\"]}}\n",
			"valise.yaml: sub/.git/config belongs to git, which may keep a token there, as actions/checkout has it do: write {path: sub/.git/config, public: true} when everybody may read it, or \"!sub/.git/config\""},
		{"of git, listed", goodProject + "files: [sub/.git/config]\n", "services: {db: {image: a}}\n",
			"valise.yaml:5:9: sub/.git/config belongs to git, which may keep a token there, as actions/checkout has it do: write {path: sub/.git/config, public: true} when everybody may read it, or \"!sub/.git/config\""},
		{"of git, by a link", goodProject, "services: {db: {image: a, volumes: [\"./git:/a:ro\"]}}\n",
			"valise.yaml: git/config belongs to git, which may keep a token there, as actions/checkout has it do: write {path: git/config, public: true} when everybody may read it, or \"!git/config\""},
		{"environment file by hand", goodProject + "files: [.env.production]\n", "services: {db: {image: a}}\n",
			"valise.yaml:5:9: .env.production is an environment file: everyone who has a bundle can read it; write {path: .env.production, public: true} when they may read this"},
		{"ignored by hand", goodProject + "files: [ignored.txt]\n", "services: {db: {image: a}}\n",
			"valise.yaml:5:9: git ignores ignored.txt: everyone who has a bundle can read it; write {path: ignored.txt, public: true} when they may read this"},
		{"secret by hand", goodProject + "files: [here.txt]\n", "services: {db: {image: a, secrets: [x]}}\nsecrets: {x: {file: here.txt}}\n",
			"compose.yaml: secret x uses here.txt, which is listed under files: everyone who has a bundle can read it; write {path: here.txt, public: true} when they may read this"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, dir, err := release(t, map[string]string{"valise.yaml": c.project, "compose.yaml": c.compose, "here.txt": "x", "conf/a.conf": "x", "empty.conf/.gitkeep": "", ".env.production": "A=1", "ignored.txt": "x",
				"out": "-> /etc/hostname", "links/out": "-> /etc/hostname", "links/in": "-> ../here.txt", "sub/.git/config": "x", "git/config": "-> ../sub/.git/config", "pipes/p": "|",
				"nodes/null": "-> /dev/null", "cases/a.conf": "a", "cases/A.conf": "A", longName: "x"})
			if want := dir + "/" + strings.ReplaceAll(c.want, "DIR", dir); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

// TestNotes has one service for every advice, and one that needs none.
func TestNotes(t *testing.T) {
	r, _, err := release(t, map[string]string{
		"valise.yaml": goodProject + "files: [here.txt, conf/a.conf]\n",
		"here.txt":    "x", "conf/a.conf": "x", "data/b": "x",
		"compose.yaml": `services:
  db: {image: a, restart: always, volumes: ["./here.txt:/a", "./conf:/conf:ro", "/etc/localtime:/l", "named:/n", "./made-there:/m"],
       healthcheck: {test: [CMD, "true"], start_period: 30s, start_interval: 1s}, depends_on: {migrate: {condition: service_completed_successfully}}}
  fine: {image: a, deploy: {restart_policy: {condition: any}}}
  migrate: {image: a}
  slow: {image: a, restart: unless-stopped, healthcheck: {test: [CMD, "true"], start_period: 30s}}
  pulls: {image: a, restart: always, pull_policy: always}
  stops: {image: a, restart: "no", ports: ["80"]}
  job: {image: a, restart: "no"}
  again: {image: a, restart: on-failure}
  none: {image: a, deploy: {replicas: 0}}
  data: {image: a, restart: always, volumes: ["./data:/data"]}
  tool: {image: a, profiles: [tools]}
volumes: {named: {}}
`})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`service data may write to ./data, which is in every release (files: 1): its changes there are set aside when another release is installed; for data of the device, write files: ["!data"] or mount it :ro`,
		"service pulls: pull_policy: always needs a registry or the source at every start: leave it out, the bundle has the image",
		"service slow: healthcheck has start_period and no start_interval: an engine since 25 then looks every 5s while the service starts; use more retries in place of start_period, or start_interval: 1s when every device has engine 25 or newer",
		"service stops has no restart policy: it does not start again after the device was off; write restart: unless-stopped",
	}
	if !reflect.DeepEqual(r.Notes, want) {
		t.Errorf("got  %s\nwant %s", fmt.Sprintf("%q", r.Notes), fmt.Sprintf("%q", want))
	}
}

// TestPlatformsOfBuild asks for a platform that only the command line names.
func TestPlatformsOfBuild(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "valise.yaml"), goodProject+"images: {a: {from: {linux/amd64: b}}}\n")
	write(t, filepath.Join(dir, "compose.yaml"), "services: {db: {image: a}}\n")
	p, err := Load(t.Context(), filepath.Join(dir, "valise.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Release(t.Context(), "1.2.3", []bundle.Platform{"linux/arm64"})
	if want := dir + `/valise.yaml:5:14: image "a" has no source for linux/arm64`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestUnpackEnds leaves nothing behind when a build ends while an archive is read.
func TestUnpackEnds(t *testing.T) {
	dir, temp := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	write(t, filepath.Join(dir, DefaultFile), "app: cloud\nplatforms: [linux/amd64]\ntree:\n  files:\n  - {unpack: a.tar, to: .}\n  units: [x.service]\nhealth: {http: \"http://127.0.0.1:8080/health\", version: version}\n")
	write(t, filepath.Join(dir, "a.tar"), "something")
	p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Release(ctx, "1.2.3", p.Platforms); err == nil || !strings.Contains(err.Error(), "unpack "+filepath.Join(dir, "a.tar")+": context canceled") {
		t.Errorf("got %v, want an archive that was not read to its end", err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestCarry has files of every kind that travel, and some that must not.
func TestCarry(t *testing.T) {
	r, _, err := release(t, map[string]string{
		"valise.yaml": goodProject + "files: [scripts, \"docs/*.md\", {path: ignored/public.txt, public: true}, \"!scripts/tmp\", \"!left\"]\n",
		"compose.yaml": `services:
  db:
    image: a
    restart: always
    volumes: ["./conf:/conf:ro", "./data:/data", "${CONF:-./one.conf}:/one.conf:ro", "./left:/left", "./linked:/linked:ro"]
    env_file: [app.env, .env, {path: none.env, required: false}, .env.production]
    secrets: [s]
    configs: [c]
secrets: {s: {file: ./s.txt}}
configs: {c: {file: conf/a}}
`,
		"conf/a": "a", "conf/sub/b": "b", "conf/ignored": "x", "conf/.env": "A=1", "data/.gitkeep": "", "one.conf": "1", "left/x": "x", "linked": "-> one.conf",
		"app.env": "A=1", ".env": "B=1", ".env.production": "C=1", "s.txt": "secret", "scripts/x.sh": "x", "scripts/tmp/y": "y", "docs/a.md": "a", "docs/b.txt": "b",
		"ignored/public.txt": "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	var files []bundle.File
	var names []string
	for _, f := range r.Files {
		names = append(names, f.Path)
		files = append(files, bundle.File{Path: f.Path, Mode: 0o644, Digest: bundle.DigestOf([]byte(f.Path))})
	}
	if want := strings.Fields("app.env compose-source/compose.yaml compose.yaml conf/a conf/sub/b docs/a.md ignored/public.txt linked one.conf scripts/x.sh"); !slices.Equal(names, want) {
		t.Errorf("got  %s\nwant %s", names, want)
	}
	notes := strings.Join(r.Notes, "\n")
	for _, want := range []string{"uses ./left, which a line under files leaves out", "secret s uses ./s.txt, which is a secret: it is not in the release, and the device must have it as /opt/shop/s.txt",
		"uses .env.production, which is an environment file", "conf/.env in it is an environment file and is left out", "uses ./conf: 1 files in it that git ignores are left out"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note says %q:\n%s", want, notes)
		}
	}
	resolved, err := r.Resolve(files)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Fields("app.env conf conf/a linked one.conf"); !slices.Equal(resolved.Mounts, want) {
		t.Errorf("mounts are %s, want %s", resolved.Mounts, want)
	}
	for _, want := range []string{
		"source: ./releases/.mounts/" + bundle.MountName(files, "conf") + "\n",
		"source: ${CONF:-./releases/.mounts/" + bundle.MountName(files, "one.conf") + "}\n",
		"- ./releases/.mounts/./" + bundle.MountName(files, "app.env") + "\n",
		"file: ./releases/.mounts/" + bundle.MountName(files, "conf/a") + "\n",
		"source: ./data\n", "source: ./left\n", "file: ./s.txt\n", "path: none.env\n", "- .env\n", "- .env.production\n",
		"valise.files: ",
	} {
		if !strings.Contains(string(resolved.Text), want) {
			t.Errorf("the compose file has no %q:\n%s", want, resolved.Text)
		}
	}
	// It is one that compose reads.
	dir := t.TempDir()
	write(t, filepath.Join(dir, DefaultFile), goodProject)
	write(t, filepath.Join(dir, "compose.yaml"), string(resolved.Text))
	p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.loadCompose(t.Context(), "1.2.3"); err != nil {
		t.Error(err)
	}
}

// TestTooManyFiles: a directory of a hundred thousand files is refused when they are
// counted, not when they were packed.
func TestTooManyFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, DefaultFile), goodProject)
	write(t, filepath.Join(dir, "compose.yaml"), "services: {db: {image: a, volumes: [\"./many:/a:ro\", \"./more:/b:ro\"]}}\n")
	write(t, filepath.Join(dir, "more/a"), "a")
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"many", bundle.MaxFiles / 2, ""},
		{"more", bundle.MaxFiles / 2, fmt.Sprintf("valise.yaml: manifest.json: %d files, limit %d", bundle.MaxFiles+3, bundle.MaxFiles)},
		{"many", bundle.MaxFiles + 1, fmt.Sprintf("compose.yaml: service db uses ./many: many holds more than %d files: leave out what is not part of a release with files: [\"!PATTERN\"]", bundle.MaxFiles)},
	} {
		at := filepath.Join(dir, c.name)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range c.n {
			if err := os.Link(filepath.Join(dir, DefaultFile), filepath.Join(at, fmt.Sprint(i))); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
		}
		p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Release(t.Context(), "1.2.3", p.Platforms)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d files in %s: %v, want %q", c.n, c.name, err, c.want)
		}
	}
}

// TestOfWindows: what works on a Windows machine alone is said, or refused.
func TestOfWindows(t *testing.T) {
	files := func(source string) map[string]string {
		return map[string]string{
			"valise.yaml":  "app: shop\r\ncompose: compose.yaml\r\nplatforms: [linux/amd64]\r\nhealth: {compose: [web]}\r\nfiles: [scripts, tool.txt]\r\n",
			"compose.yaml": "services:\r\n  web:\r\n    image: \"web:1\"\r\n    restart: always\r\n    environment: [\"A=${A:-b}\"]\r\n    volumes:\r\n      - " + source + "\r\n",
			"conf/a.conf":  "a = b\r\n", "scripts/run.sh": "#!/bin/sh\r\necho hello\r\n", "scripts/good.sh": "#!/bin/sh\necho a\r\n", "tool.txt": "#!", ".env.example": "A=b\r\n",
		}
	}
	for _, source := range []string{`.\conf:/etc/conf`, `C:\data:/data`, `c:/data:/data:ro`, `..\conf\a.conf:/a.conf`} {
		if _, _, err := release(t, files(source)); err == nil || !strings.Contains(err.Error(), "a path of Windows") {
			t.Errorf("%s: %v", source, err)
		}
	}
	r, _, err := release(t, files("./conf:/etc/conf"))
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	for _, n := range r.Notes {
		if strings.Contains(n, "Windows") {
			notes = append(notes, n)
		}
	}
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "scripts/run.sh is a script with Windows line endings") {
		t.Errorf("notes: %q", notes)
	}
}
