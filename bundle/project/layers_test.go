package project

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestDeviceVariables has a variable without a value in every place that takes no
// number. It stays a variable, and the rest of the file is read as ever.
func TestDeviceVariables(t *testing.T) {
	for _, c := range []struct{ name, service, top string }{
		{"bind source", `volumes: ["${DATA}:/data", "${MORE}:/more:ro", "${DATA}/sub:/sub", "./${HERE}:/here"]`, ""},
		{"mount target", `volumes: ["data:${TARGET}", "$WHOLE"]`, "volumes: {data: {}}"},
		{"long mount", `volumes: [{type: bind, source: "${DATA}", target: /a, read_only: "${RO}", bind: {create_host_path: "${MAKE}"}}, {type: volume, source: "${VOLUME}", target: /b}, {type: "${TYPE}", source: x, target: /c}]`, "volumes: {x: {}}"},
		{"tmpfs", `volumes: [{type: tmpfs, target: /t, tmpfs: {size: "${SIZE}"}}]`, ""},
		{"boolean", `read_only: "${RO}"
    privileged: "${PRIV}"
    init: "${INIT}"
    tty: "${TTY}"`, ""},
		{"duration", `healthcheck: {test: [CMD, "true"], interval: "${I}", timeout: "${T}s", start_period: "${P}", retries: "${R}", disable: "${D}"}
    stop_grace_period: "${G}"`, ""},
		{"number", `cpus: "${CPUS}"
    mem_limit: "${MEM}"
    pids_limit: "${PIDS}"
    shm_size: "${SHM}"
    ulimits: {nofile: {soft: "${SOFT}", hard: "${HARD}"}}`, ""},
		{"deploy", `deploy: {replicas: "${N}", resources: {limits: {cpus: "${CPUS}", memory: "${MEM}m"}, reservations: {devices: [{capabilities: [gpu], count: "${GPUS}"}]}}, restart_policy: {delay: "${DELAY}", max_attempts: "${MAX}"}}`, ""},
		{"one container", `container_name: x1
    scale: "${N}"`, ""},
		{"port", `ports: ["${A}:80", "${B}:80", "$C", "${D}:${D}", "${IP}:8080:81", "${BIND}:9000/tcp", "127.0.0.1:${E}:82"]`, ""},
		{"port range", `ports: ["${FROM}-${TO}:5000-5010", "${RANGE}:${RANGE}/udp"]`, ""},
		{"protocol", `ports: ["80:80/${PROTO}", {target: "${PORT}", published: "${PUBLISHED}", host_ip: "${IP}", protocol: "${PROTO}", mode: host}]`, ""},
		{"expose", `expose: ["${A}", "${B}"]`, ""},
		{"network name", `networks: [a, "${NET}"]`, "networks: {a: {name: \"${NAME}\", external: \"${EXT}\"}, b: {internal: \"${IN}\", enable_ipv6: \"${SIX}\", ipam: {config: [{subnet: \"${SUBNET}\"}]}}}"},
		{"address", `networks: {a: {ipv4_address: "${IP}", aliases: ["${ALIAS}"]}}`, "networks: {a: {}}"},
		{"network mode", `network_mode: "service:${OTHER}"
    ipc: "${IPC}"
    pid: "${PID}"`, ""},
		{"external volume", `volumes: ["v:/v"]`, "volumes: {v: {external: \"${EXT}\", name: \"${NAME}\"}}"},
		{"external secret", `secrets: [s]`, "secrets: {s: {file: \"${FILE}\"}}"},
		{"config", `configs: [{source: c, target: /c, mode: "${MODE}"}]`, "configs: {c: {content: \"${TEXT}\"}}"},
		{"pull policy", `pull_policy: "${PULL}"`, ""},
		{"extra hosts", `extra_hosts: ["${HOST}", "db:${IP}", "${NAME}:${IP}"]`, ""},
		{"extra hosts by name", `extra_hosts: {db: "${IP}"}`, ""},
		{"depends on", `depends_on: {b: {condition: "${WHEN}", required: "${REQUIRED}"}}`, ""},
		{"restart", `restart: "${RESTART}"
    platform: "${PLATFORM}"
    user: "${UID}:${GID}"`, ""},
		{"device", `devices: ["${DEVICE}:/dev/x", "$OTHER"]
    dns: ["${DNS1}", "${DNS2}"]
    cap_add: ["${CAP}"]
    group_add: ["${GROUP}"]`, ""},
		{"env file", `env_file: [{path: "${FILE}", required: "${REQUIRED}"}]`, ""},
		{"logging", `logging: {driver: "${DRIVER}", options: {max-size: "${SIZE}"}}
    labels: {a: "Host(${DOMAIN})"}
    hostname: "${HOST}"
    sysctls: {net.core.somaxconn: "${MAX}"}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{
				"valise.yaml":  strings.ReplaceAll(goodProject, "compose.yaml", "[compose.yaml, more.yaml]"),
				"compose.yaml": "services:\n  db:\n    image: a\n    " + c.service + "\n  b: {image: b}\n" + c.top + "\n",
				"more.yaml":    "services: {b: {labels: {l: m}}}\n",
			}
			r, dir, err := release(t, files)
			if err != nil {
				t.Fatal(strings.ReplaceAll(err.Error(), dir, ""))
			}
			resolved, err := r.Resolve(nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range variable.FindAllString(c.service+c.top, -1) {
				if !strings.Contains(string(resolved.Text), m) {
					t.Errorf("%s is gone:\n%s", m, resolved.Text)
				}
			}
			if placeholder.Match(resolved.Text) {
				t.Errorf("has a placeholder:\n%s", resolved.Text)
			}
			// It is drafted too.
			if _, err := NewDraft(t.Context(), dir, []string{"compose.yaml", "more.yaml"}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNeeded has variables that a device must set, because nothing in their place is
// wrong, and one that may be empty.
func TestNeeded(t *testing.T) {
	r, _, err := release(t, map[string]string{"valise.yaml": goodProject, "compose.yaml": `services:
  db:
    image: "a:${SHOP_VERSION}"
    read_only: "${RO}"
    volumes: ["${DATA}:/data", "./x:/x:${MODE:-ro}"]
    ports: ["${PORT}:80"]
    stop_grace_period: "${GRACE}"
    pull_policy: "${PULL}"
    networks: [n]
    environment: {LEVEL: "${LEVEL}", URL: "http://${HOST}:${PORT}"}
    hostname: "${HOST}"
  tool: {image: a, profiles: [tools], environment: [TOOL_TOKEN]}
networks: {n: {external: "${EXT}"}}
`})
	if want := strings.Fields("DATA EXT GRACE PULL RO"); err != nil || !slices.Equal(r.RequiredEnv, want) {
		t.Errorf("got %v, %v, want %s", r, err, want)
	}
}

// TestUnknownURL does not take a port that only a device knows for one.
func TestUnknownURL(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "compose.yaml"), "services: {a: {image: b, ports: [\"${PORT}:8080\"]}, c: {image: b, ports: [\"3001:3000\"]}}\n")
	d, err := NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil)
	if err != nil || !strings.Contains(string(d.YAML), "http://127.0.0.1:3001/health") {
		t.Errorf("got %s, %v", d.YAML, err)
	}
}

// resolve is the release's compose file, or that of the repository when it is good as it is.
func resolve(t *testing.T, files map[string]string) string {
	t.Helper()
	r, _, err := release(t, files)
	if err != nil {
		t.Fatal(err)
	}
	var list []bundle.File
	for _, f := range r.Files {
		list = append(list, bundle.File{Path: f.Path, Mode: 0o644, Digest: bundle.DigestOf([]byte(f.Path))})
	}
	resolved, err := r.Resolve(list)
	if err != nil {
		t.Fatal(err)
	}
	if resolved == nil {
		return files[r.Compose]
	}
	return string(resolved.Text)
}

// TestLayers has files over each other, and profiles.
func TestLayers(t *testing.T) {
	const project = "app: shop\ncompose: [compose.yaml, deploy/prod.yaml]\nprofiles: [web]\nplatforms: [linux/amd64]\nhealth: {compose: [db]}\n"
	files := map[string]string{
		"valise.yaml": project,
		"compose.yaml": `services:
  db: {image: "db:${SHOP_VERSION}", environment: {LEVEL: "${LEVEL:-low}", KEEP: "1"}, ports: ["5432:5432"], volumes: ["./conf:/conf:ro"]}
  web: {image: web, profiles: [web], depends_on: {db: {condition: service_started}, debug: {condition: service_started, required: false}}, secrets: [s]}
  debug: {image: "debug:${ONLY_HERE}", profiles: [debug], environment: [DEBUG_TOKEN], secrets: [d]}
secrets: {s: {environment: S}, d: {environment: D}}
`,
		"deploy/prod.yaml": "services: {db: {environment: {LEVEL: \"${LEVEL:?}\"}, ports: !reset [], restart: always, volumes: [\"./more.conf:/more.conf:ro\"]}}\n",
		"conf/a":           "a", "more.conf": "m", "deploy/more.conf": "not this one",
	}
	r, _, err := release(t, files)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range r.Files {
		names = append(names, f.Path)
	}
	if want := strings.Fields("compose-source/compose.yaml compose-source/deploy/prod.yaml compose.yaml conf/a more.conf"); !slices.Equal(names, want) {
		t.Errorf("files: %s, want %s", names, want)
	}
	if want := []string{"LEVEL", "S"}; !slices.Equal(r.RequiredEnv, want) {
		t.Errorf("required: %s, want %s", r.RequiredEnv, want)
	}
	text := resolve(t, files)
	for _, want := range []string{"image: db:${SHOP_VERSION}\n", "- LEVEL=${LEVEL:?}\n", "- KEEP=1\n", "restart: always\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, not := range []string{"debug", "profiles", "5432", "DEBUG_TOKEN", "environment: D\n"} {
		if strings.Contains(text, not) {
			t.Errorf("%q in\n%s", not, text)
		}
	}
	for _, c := range []struct{ name, project, want string }{
		{"not there", strings.ReplaceAll(project, "deploy/", ""), "valise.yaml:2:1: read compose file: stat DIR/prod.yaml: no such file or directory"},
		{"twice", strings.ReplaceAll(project, "deploy/prod", "compose"), "valise.yaml:2:25: compose.yaml is listed twice"},
		{"outside", strings.ReplaceAll(project, "deploy/prod", "../prod"), "compose.yaml: it takes parts from ../prod.yaml, which is above the directory of valise.yaml, and there is no git repository: put valise.yaml into a directory that holds both"},
		{"empty", strings.ReplaceAll(project, "[compose.yaml, deploy/prod.yaml]", "[]"), "valise.yaml: compose is missing, want the path of the compose file, or tree, the files of an app that systemd runs"},
		{"profile", strings.ReplaceAll(project, "[web]", "[\"*\"]"), "valise.yaml:3:12: profile \"*\" is listed twice or is not a name of a profile"},
		{"in a tree", "app: shop\nprofiles: [a]\nplatforms: [linux/amd64]\ntree: {files: [{from: a, to: a}], units: [a]}\n", "valise.yaml:2:1: profiles belongs to a compose app, and this one is a tree"},
	} {
		files["valise.yaml"] = c.project
		_, dir, err := release(t, files)
		if c.name == "outside" {
			write(t, filepath.Join(filepath.Dir(dir), "prod.yaml"), "services: {}\n")
			p, perr := Load(t.Context(), filepath.Join(dir, DefaultFile))
			if perr != nil {
				t.Fatal(perr)
			}
			_, err = p.Release(t.Context(), "1.2.3", p.Platforms)
		}
		if want := dir + "/" + strings.ReplaceAll(c.want, "DIR", dir); err == nil || err.Error() != want {
			t.Errorf("%s: got  %v\nwant %s", c.name, err, want)
		}
	}
}

// TestBuildValues has images that variables of the build decide.
func TestBuildValues(t *testing.T) {
	const compose = "services: {db: {image: \"${REGISTRY}/db:${SHOP_VERSION}\", environment: {REGISTRY: \"${REGISTRY}\"}}, pg: {image: \"postgres:${PG:-16}\"}, fixed: {image: \"x:${SHOP_VERSION}\"}}\n"
	images := func(files map[string]string, set map[string]string) []string {
		t.Helper()
		dir := t.TempDir()
		for name, text := range files {
			write(t, filepath.Join(dir, name), text)
		}
		p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
		if err != nil {
			t.Fatal(err)
		}
		p.Set = set
		p.Ignored = func(_ context.Context, paths []string) ([]string, error) {
			return slices.DeleteFunc(slices.Clone(paths), func(string) bool { return files["ignored"] == "" }), nil
		}
		r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
		if err != nil {
			return []string{strings.TrimPrefix(err.Error(), dir)}
		}
		var list []string
		for _, img := range r.Images {
			list = append(list, img.Reference)
		}
		return list
	}
	const env = "REGISTRY=ghcr.io/acme\r\nPG=17\r\nSHOP_VERSION=0.9\r\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		set   map[string]string
		want  []string
	}{
		{"committed", map[string]string{".env": env}, nil, []string{"ghcr.io/acme/db:1.2.3", "postgres:17", "x:1.2.3"}},
		{"ignored", map[string]string{".env": env, "ignored": "yes"}, map[string]string{"REGISTRY": "r.example.org"}, []string{"postgres:16", "r.example.org/db:1.2.3", "x:1.2.3"}},
		{"set wins", map[string]string{".env": env}, map[string]string{"REGISTRY": "r.example.org"}, []string{"postgres:17", "r.example.org/db:1.2.3", "x:1.2.3"}},
		{"default of valise.yaml", map[string]string{"valise.yaml": goodProject + "env: {REGISTRY: {default: d.example.org}}\n"}, nil, []string{"d.example.org/db:1.2.3", "postgres:16", "x:1.2.3"}},
		{"nothing", nil, nil, []string{`/compose.yaml: service db: image "${REGISTRY}/db:${SHOP_VERSION}" depends on REGISTRY, which has no value: give it a default, --set REGISTRY=VALUE, or env: {REGISTRY: {default: VALUE}} in valise.yaml`}},
	} {
		files := map[string]string{"valise.yaml": goodProject, "compose.yaml": compose}
		for name, text := range c.files {
			files[name] = text
		}
		if got := images(files, c.set); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got  %q\nwant %q", c.name, got, c.want)
		}
	}
	// What the build decided is in the release's file, what it did not is as it was.
	text := resolve(t, map[string]string{"valise.yaml": goodProject, "compose.yaml": compose, ".env": env})
	for _, want := range []string{"image: ghcr.io/acme/db:1.2.3\n", "REGISTRY: ${REGISTRY}\n", "image: postgres:17\n", "image: x:${SHOP_VERSION}\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestNames has images without a name, and versions that are no tag.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, DefaultFile), goodProject)
	write(t, filepath.Join(dir, "compose.yaml"), "services: {db: {image: \"a:${SHOP_VERSION}\"}, Web_.1: {build: .}, _: {build: sub}}\n")
	p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1.2.3", "1.2.3+build.7"} {
		r, err := p.Release(t.Context(), version, p.Platforms)
		if err != nil {
			t.Fatal(err)
		}
		tag := strings.ReplaceAll(version, "+", "_")
		var got []string
		for _, img := range r.Images {
			got = append(got, img.Reference+" "+img.Image.Context)
		}
		if want := []string{"a:" + tag + " ", "shop-web-1:" + tag + " .", "shop:" + tag + " sub"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		resolved, err := r.Resolve(nil)
		if err != nil {
			t.Fatal(err)
		}
		want := "image: shop-web-1:${SHOP_VERSION}\n"
		if tag != version {
			want = "image: shop-web-1:" + tag + "\n"
		}
		if !strings.Contains(string(resolved.Text), want) || strings.Contains(string(resolved.Text), "build:") {
			t.Errorf("no %q in\n%s", want, resolved.Text)
		}
	}
}

// TestIncludedEnv keeps values of the environment file beside an included file on
// this machine, whether git ignores it or not.
func TestIncludedEnv(t *testing.T) {
	text := resolve(t, map[string]string{
		"valise.yaml":      goodProject,
		"compose.yaml":     "include: [inc/compose.yaml, beside.yaml]\nservices: {db: {image: a}}\n",
		"beside.yaml":      "services: {b: {image: a, environment: [TOKEN, \"OWN=1\"]}}\n",
		"inc/compose.yaml": "services: {c: {image: a, environment: [TOKEN, \"OWN=2\"], secrets: [s]}}\nsecrets: {s: {environment: TOKEN}}\n",
		".env":             "TOKEN=hidden-beside\nOWN=hidden-beside\n",
		"inc/.env":         "TOKEN=hidden-in\nOWN=hidden-in\n",
	})
	if strings.Contains(text, "hidden") || strings.Contains(text, "taken") || strings.Count(text, "environment: TOKEN\n") != 1 || strings.Count(text, "- TOKEN\n") != 2 || !strings.Contains(text, "OWN=1") {
		t.Errorf("got\n%s", text)
	}
}

// TestHome has the home directory in files that others include or extend: nobody's but
// this machine's, also where the project lies in it.
func TestHome(t *testing.T) {
	mounts := func(name string) string {
		return `{image: a, volumes: ["~/conf:/a", "${HOME}/conf:/b", "/home/me/literal:/c", {type: bind, source: ~/long, target: /d}, "./` + name + `:/e"], env_file: [{path: ~/x.env, required: false}]}`
	}
	files := map[string]string{
		"valise.yaml":   goodProject,
		"compose.yaml":  "include: [part.yaml, sub/part.yaml]\nservices:\n  db: " + mounts("one") + "\n  ex: {extends: {file: sub/base.yaml, service: base}}\n",
		"part.yaml":     "services: {p: " + mounts("two") + "}\nconfigs: {c: {file: ~/conf/app.conf}}\n",
		"sub/part.yaml": "services: {q: " + mounts("three") + "}\n",
		"sub/base.yaml": "services: {base: " + mounts("four") + "}\n",
		"one/a":         "1\n", "two/a": "2\n", "sub/three/a": "3\n", "sub/four/a": "4\n",
	}
	t.Setenv("HOME", "/home/other")
	want := resolve(t, files)
	if strings.Contains(want, "/home/other") || strings.Count(want, "/home/me/literal") != 4 || strings.Count(want, "~/long") != 4 || strings.Count(want, "~/x.env") != 4 || strings.Count(want, "~/conf") < 5 {
		t.Errorf("got\n%s", want)
	}
	for _, home := range []string{"/home/me", os.TempDir(), filepath.Dir(os.TempDir()), "/"} {
		t.Setenv("HOME", home)
		if got := resolve(t, files); home != "/" && got != want || strings.Contains(got, os.TempDir()) {
			t.Errorf("HOME=%s: got\n%s\nwant\n%s", home, got, want)
		}
	}
}

// TestNestedInclude reads a project from where people stand: in its directory. Every
// file is named from the compose file that names it.
func TestNestedInclude(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"valise.yaml":           goodProject,
		"compose.yaml":          "include: [two/compose.yaml]\nservices: {db: {image: a, volumes: [\"./f:/f:ro\"]}}\n",
		"two/compose.yaml":      "include: [deep/compose.yaml]\nservices: {b: {image: a, volumes: [\"./f:/f:ro\"]}}\n",
		"two/deep/compose.yaml": "services: {c: {extends: {file: ../base.yaml, service: c}, image: a, configs: [c]}}\nconfigs: {c: {file: ./g}}\n",
		"two/base.yaml":         "services: {c: {image: x, volumes: [\"./h:/h:ro\"]}}\n",
		"f":                     "", "two/f": "", "two/h": "", "two/deep/g": "",
	} {
		write(t, name, text)
	}
	p, err := Load(t.Context(), DefaultFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range r.Files {
		got = append(got, f.Path)
	}
	if want := []string{"compose-source/compose.yaml", "compose-source/two/base.yaml", "compose-source/two/compose.yaml", "compose-source/two/deep/compose.yaml",
		"compose.yaml", "f", "two/deep/g", "two/f", "two/h"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestUnknownProfile says that a profile that no service has is none.
func TestUnknownProfile(t *testing.T) {
	r, _, err := release(t, map[string]string{"valise.yaml": goodProject + "profiles: [web, wbe]\n",
		"compose.yaml": "services: {db: {image: a, restart: always}, b: {image: a, restart: always, profiles: [web]}}\n"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{`profiles: no service has the profile "wbe"`}; !slices.Equal(r.Notes, want) {
		t.Errorf("got %q, want %q", r.Notes, want)
	}
}

// TestFindCompose looks for the files of a release as people name them.
func TestFindCompose(t *testing.T) {
	const alone, over = "services: {a: {image: b}}\n", "services: {a: {restart: always}}\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
		note  string
	}{
		{"nothing", map[string]string{"other.yaml": alone}, "", ""},
		{"as docker compose", map[string]string{"docker-compose.yml": alone, "compose.yaml": alone}, "compose.yaml", ""},
		{"release alone", map[string]string{"compose.yaml": alone, "compose.prod.yaml": alone}, "compose.prod.yaml", ""},
		{"release over it", map[string]string{"compose.yaml": alone, "compose.prod.yaml": over, "compose.override.yaml": over}, "compose.yaml, compose.prod.yaml", ""},
		{"production", map[string]string{"docker-compose.yml": alone, "docker-compose.production.yml": over}, "docker-compose.yml, docker-compose.production.yml", ""},
		{"release only", map[string]string{"docker-compose.prod.yml": over}, "docker-compose.prod.yml", ""},
		{"override", map[string]string{"docker-compose.yml": alone, "docker-compose.override.yml": over}, "docker-compose.yml, docker-compose.override.yml", "docker-compose.override.yml goes over docker-compose.yml, as with docker compose"},
		{"override of a machine", map[string]string{"docker-compose.yml": alone, "docker-compose.override.yml": over, "ignore": "docker-compose.override.yml"}, "docker-compose.yml", "docker-compose.override.yml: git ignores it"},
		{"as .env says", map[string]string{"compose.yaml": alone, "a.yaml": alone, "b.yaml": over, ".env": "COMPOSE_FILE=a.yaml:b.yaml\n"}, "a.yaml, b.yaml", ""},
		{"with another separator", map[string]string{"a.yaml": alone, "b.yaml": over, ".env": "COMPOSE_FILE=a.yaml;b.yaml\r\nCOMPOSE_PATH_SEPARATOR=;\r\n"}, "a.yaml, b.yaml", ""},
		{"as .env of a machine", map[string]string{"compose.yaml": alone, "a.yaml": alone, ".env": "COMPOSE_FILE=a.yaml\n", "ignore": ".env"}, "compose.yaml", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range c.files {
				write(t, filepath.Join(dir, name), text)
			}
			ignored := func(_ context.Context, paths []string) ([]string, error) {
				return slices.DeleteFunc(slices.Clone(paths), func(name string) bool { return name != c.files["ignore"] }), nil
			}
			got, notes, err := FindCompose(t.Context(), dir, ignored)
			if err != nil || got.String() != c.want || !strings.Contains(strings.Join(notes, "\n"), c.note) || (c.note == "") != (len(notes) == 0) {
				t.Errorf("got %s, %q, %v", got, notes, err)
			}
		})
	}
}

// TestOverrideNote says what docker compose would take by itself.
func TestOverrideNote(t *testing.T) {
	r, _, err := release(t, map[string]string{"valise.yaml": goodProject, "compose.yaml": "services: {db: {image: a, restart: always}}\n", "docker-compose.override.yml": "services: {}\n"})
	want := "docker-compose.override.yml is not part of the release; docker compose would put it over compose.yaml: when it belongs to the release, write compose: [compose.yaml, docker-compose.override.yml]"
	if err != nil || !slices.Contains(r.Notes, want) {
		t.Errorf("got %q, %v", r.Notes, err)
	}
}

// TestDraftValues has what a repository says of variables: in an environment file for
// everybody, and in a template.
func TestDraftValues(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shop")
	write(t, filepath.Join(dir, "compose.yaml"), `services:
  a: {image: "${REGISTRY}/a:${TAG}", environment: {LEVEL: "${LEVEL}", PORT: "${PORT:-80}", SAME: "${SAME:-1}", KEY: "${SECRET_KEY}", EMPTY: "${EMPTY}", BOT: "${BOT_TOKEN}", SIGN: "${SECRET_TOKEN}"}, profiles: [x]}
  b: {image: b, profiles: [y]}
  c: {image: "c:${C_IMAGE}", env_file: .env}
`)
	write(t, filepath.Join(dir, ".env"), "LEVEL=info\r\nPORT=8080\r\nSAME=1\r\nSECRET_KEY=changeme\r\nCOMPOSE_PROFILES=x\r\nCOMPOSE_PROJECT_NAME=other\r\nUNUSED=1\r\nEMPTY=\r\n")
	write(t, filepath.Join(dir, "env.example"), "C_IMAGE=7\nREGISTRY=r.example.org\nTHEIRS=\"a # b\"\nEMPTY=\n")
	d, err := NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(d.YAML)
	for _, want := range []string{"\nprofiles: [x] #", "\napp: other #", "\n  C_IMAGE: {default: \"7\"} #", "\n  REGISTRY: {default: r.example.org} #", "\n  LEVEL: {initial: info} #", "\n  PORT: {initial: \"8080\"} #",
		"\n  THEIRS: {initial: \"a # b\"} #", "\n  UNUSED: {initial: \"1\"} #", "\n  SECRET_KEY: {hex: 32} #", "\n  SECRET_TOKEN: {hex: 32} #", "at the installation: BOT_TOKEN\n", "\n  EMPTY: {required: false} #"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, not := range []string{"changeme", "COMPOSE_PROJECT"} {
		if strings.Contains(text, not) {
			t.Errorf("%q in\n%s", not, text)
		}
	}
	write(t, filepath.Join(dir, DefaultFile), text)
	p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
	if err != nil || len(r.Images) != 2 || r.Images[0].Reference != "c:7" || r.Images[1].Reference != "r.example.org/a:1.2.3" {
		t.Fatal(r, err)
	}
	// Without a line in valise.yaml, keys of the template that have a value are optional.
	write(t, filepath.Join(dir, DefaultFile), "app: shop\ncompose: compose.yaml\nversion_env: TAG\nplatforms: [linux/amd64]\nhealth: {compose: [c]}\nenv: {REGISTRY: {default: r.example.org}, C_IMAGE: {default: \"7\"}, EMPTY: {required: true}}\n")
	if p, err = Load(t.Context(), filepath.Join(dir, DefaultFile)); err != nil {
		t.Fatal(err)
	}
	if r, err = p.Release(t.Context(), "1.2.3", p.Platforms); err != nil || !slices.Equal(r.RequiredEnv, []string{"EMPTY"}) {
		t.Errorf("required: %v, %v", r, err)
	}
}

// TestVersionEnv guesses which variable is the version of the app.
func TestVersionEnv(t *testing.T) {
	for _, c := range []struct{ services, want string }{
		{`api: {image: acme/api:1}, db: {image: "postgres:${POSTGRES_VERSION:-16}"}`, ""},
		{`a: {image: "acme/manager:${MANAGER_VERSION:-latest}"}, p: {image: "acme/proxy:${PROXY_VERSION}"}`, ""},
		{`api: {image: "acme/api:${IMAGE_TAG:-latest}"}, db: {image: "postgres:${POSTGRES_VERSION:-16}"}`, "IMAGE_TAG"},
		{`api: {image: "${REGISTRY:-ghcr.io/acme}/api:v$TAG"}`, "TAG"},
		{`api: {image: "acme/api:${RELEASE_OF_API}", build: .}, d: {image: "d:${TAG}"}, e: {image: "e:${TAG}"}`, "TAG"},
		{`api: {image: "acme/api:${WHATEVER}", build: .}`, "WHATEVER"},
		{`api: {image: "acme/api:${SHOP_TAG}-alpine"}`, "SHOP_TAG"},
		{`db: {image: "mysql:${VERSION}"}`, ""},
		{`a: {image: "a:1", environment: {X: "b:${TAG}"}}`, ""},
	} {
		dir := filepath.Join(t.TempDir(), "shop")
		write(t, filepath.Join(dir, "compose.yaml"), "services: {"+c.services+"}\n")
		write(t, filepath.Join(dir, ".env"), "TAG=1.0\n")
		d, err := NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for line := range strings.Lines(string(d.YAML)) {
			if rest, ok := strings.CutPrefix(line, "version_env: "); ok {
				got, _, _ = strings.Cut(rest, " ")
			}
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.services, got, c.want)
		}
	}
}

// TestWindows has files as an editor on Windows writes them.
func TestWindows(t *testing.T) {
	files := map[string]string{
		"valise.yaml":  goodProject + "files: [scripts/a.sh]\nenv: {B: {help: x}}\n",
		"compose.yaml": "services:\n  db:\n    image: a:${SHOP_VERSION}\n    env_file: [.env]\n    label_file: [labels.txt]\n    command: |\n      one\n      two\n    extends: {file: base.yaml, service: base}\n",
		"base.yaml":    "services:\n  base:\n    restart: always\n    environment: [A]\n",
		"labels.txt":   "l=v\n", ".env.example": "# what\nB=1\n", "scripts/a.sh": "x\n",
	}
	for name, text := range files {
		files[name] = strings.ReplaceAll(text, "\n", "\r\n")
	}
	r, _, err := release(t, files)
	if err != nil || !slices.Equal(r.RequiredEnv, []string{"A"}) || r.Images[0].Reference != "a:1.2.3" {
		t.Fatal(r, err)
	}
	if text := resolve(t, files); strings.Contains(text, "\r") || strings.Contains(text, `\r`) || !strings.Contains(text, "l: v\n") {
		t.Errorf("got\n%q", text)
	}
}

// TestShortForms has devices and mounts whose variables have colons of their own.
func TestShortForms(t *testing.T) {
	files := map[string]string{"valise.yaml": strings.ReplaceAll(goodProject, "compose.yaml", "[compose.yaml, more.yaml]"), "more.yaml": "services: {db: {labels: {l: m}}}\n",
		"compose.yaml": `services:
  db:
    image: a
    networks: ["${NET:-n}", other]
    depends_on: ["${ON:-b}"]
    devices: ["${STICK:-/dev/ttyACM0}:/dev/ttyACM0", "${OTHER:-/dev/a}:/dev/b:${RIGHTS:-rw}", "$WHOLE", "/dev/c:/dev/c"]
    volumes: ["/etc/hosts:/hosts:${MODE:-ro}", "./here:/here:${HERE_MODE:-ro,z}", "/w:/w:${WRITABLE:-rw}", "${SRC}:/src:z,ro"]
  b: {image: b}
networks: {n: {}, other: {}}
`, "here/x": "x"}
	text := resolve(t, files)
	for _, want := range []string{"- ${STICK:-/dev/ttyACM0}:/dev/ttyACM0\n", "- ${OTHER:-/dev/a}:/dev/b:${RIGHTS:-rw}\n", "- $WHOLE\n", "source: /dev/c\n", "selinux: z\n", "- ${SRC}:/src:ro,z\n", "- ${NET:-n}\n", "- other\n", "- ${ON:-b}\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Count(text, "read_only: true\n") != 2 {
		t.Errorf("got\n%s", text)
	}
	files["compose.yaml"] = "services: {db: {image: a, volumes: [\"/x:/x:${MODE:?}\"]}}\n"
	r, dir, err := release(t, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(nil); err == nil || err.Error() != dir+"/compose.yaml: service db: the mode of the mount at /x is a variable without a default: write ro or rw" {
		t.Errorf("got %v", err)
	}
}

// TestNeededLooks: each look reads the whole file, so there are few for many variables.
func TestNeededLooks(t *testing.T) {
	var names []string
	for i := range 128 {
		names = append(names, fmt.Sprint("V", i))
	}
	looks := 0
	c := &composeFile{without: func(blank []string) error {
		if looks++; slices.Contains(blank, "V5") || slices.Contains(blank, "V90") {
			return errors.New("wrong")
		}
		return nil
	}}
	if got := c.needed(names); !slices.Equal(got, []string{"V5", "V90"}) || looks > 32 {
		t.Errorf("got %s after %d looks", got, looks)
	}
}

// TestEnvOfIncluded has an image that a committed environment file of an included file decides.
func TestEnvOfIncluded(t *testing.T) {
	for include, want := range map[string]string{
		"[inc/compose.yaml]": "image: b:beside\n",
		"[{path: inc/compose.yaml, env_file: inc/prod.env}]":                    "image: b:prod\n",
		"[{path: [inc/compose.yaml], env_file: [inc/ignored.env, other/.env]}]": "image: b:other\n",
		"[{path: inc/compose.yaml, project_directory: other}]":                  "image: b:other\n",
	} {
		files := map[string]string{"valise.yaml": goodProject, "compose.yaml": "include: " + include + "\nservices: {db: {image: a}}\n",
			"inc/compose.yaml": "services: {b: {image: \"b:${B_TAG}\", environment: {B_TAG: \"${B_TAG}\"}}}\n",
			"inc/.env":         "B_TAG=beside\n", "inc/prod.env": "B_TAG=prod\n", "inc/ignored.env": "B_TAG=ignored\n", "other/.env": "B_TAG=other\n"}
		if text := resolve(t, files); !strings.Contains(text, want) || !strings.Contains(text, "B_TAG: ${B_TAG}\n") {
			t.Errorf("%s: no %q in\n%s", include, want, text)
		}
	}
}
