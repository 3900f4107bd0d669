package project

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// release loads files of a new directory as a project at version 1.2.3.
func release(t *testing.T, files map[string]string) (*Release, string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
	if err != nil {
		return nil, dir, err
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
		{"list", image("{from: [b]}"), compose, "valise.yaml:5:20: cannot construct !!seq into string"},
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
		{"build variable", goodProject, "services: {db: {image: a, build: {context: ., args: {X: \"${TOKEN}\"}}}}\n",
			"compose.yaml: service db: build depends on TOKEN, which only a device knows: use ${SHOP_VERSION} or give a default"},
		{"remote context", goodProject, "services: {db: {image: a, build: \"https://example.org/a.git\"}}\n",
			"compose.yaml: service db: build context https://example.org/a.git is not on this machine: write in valise.yaml images: {a: {dockerfile: ..., context: ...}}"},
		{"two builds", goodProject, "services: {db: {image: a, build: x}, e: {image: a, build: y}}\n", "compose.yaml: services db and e build image a in different ways"},

		{"mount", goodProject, "services: {db: {image: a, volumes: [\"./here.txt:/a:ro\"]}}\n",
			"compose.yaml: service db uses file ./here.txt, which is not in the bundle: write in valise.yaml files: [here.txt]"},
		{"mount in a directory", goodProject, "services: {db: {image: a, volumes: [{type: bind, source: conf/a.conf, target: /a}]}}\n",
			"compose.yaml: service db uses file conf/a.conf, which is not in the bundle: write in valise.yaml files: [conf/a.conf]"},
		{"config", goodProject, "services: {db: {image: a, configs: [x]}}\nconfigs: {x: {file: here.txt}}\n",
			"compose.yaml: config x uses file here.txt, which is not in the bundle: write in valise.yaml files: [here.txt]"},
		{"env file", goodProject, "services: {db: {image: a, env_file: [.env, here.txt]}}\n",
			"compose.yaml: service db uses file here.txt, which is not in the bundle: write in valise.yaml files: [here.txt]"},
		{"compose file elsewhere", strings.Replace(goodProject, "compose.yaml", "conf/compose.yaml", 1), "services: {db: {image: a}}\n",
			"conf/compose.yaml: service db uses file ./a.conf: want the compose file beside valise.yaml, because a bundle has it at its root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, dir, err := release(t, map[string]string{"valise.yaml": c.project, "compose.yaml": c.compose, "here.txt": "x", "conf/a.conf": "x",
				"conf/compose.yaml": "services: {db: {image: a, volumes: [\"./a.conf:/a\"]}}\n"})
			if want := dir + "/" + c.want; err == nil || err.Error() != want {
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
  db: {image: a, restart: always, volumes: ["./here.txt:/a", "./conf:/conf", "/etc/localtime:/l", "named:/n", "./made-there:/m"],
       healthcheck: {test: [CMD, "true"], start_period: 30s, start_interval: 1s}, depends_on: {migrate: {condition: service_completed_successfully}}}
  fine: {image: a, deploy: {restart_policy: {condition: any}}}
  migrate: {image: a}
  slow: {image: a, restart: unless-stopped, healthcheck: {test: [CMD, "true"], start_period: 30s}}
  pulls: {image: a, restart: always, pull_policy: always}
  stops: {image: a, restart: "no"}
  data: {image: a, restart: always, volumes: ["./data:/data"]}
  tool: {image: a, profiles: [tools]}
volumes: {named: {}}
`})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"service pulls: pull_policy: always needs a registry or the source at every start: leave it out, the bundle has the image",
		"service slow: healthcheck has start_period and no start_interval: an engine since 25 then looks every 5s while the service starts; with start_interval: 1s an update is done sooner",
		"service stops has no restart policy: it stays down when the device was switched off; write restart: unless-stopped",
		"service data uses directory ./data, and no file of it is in the bundle: right for data of the device, else list its files under files",
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
