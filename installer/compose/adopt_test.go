package compose

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/valise-ota/valise/installer/docker"
)

// TestOrigin reads how strangers start projects off their containers.
func TestOrigin(t *testing.T) {
	at := t.TempDir()
	if err := os.WriteFile(filepath.Join(at, ".env"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, prod := filepath.Join(at, "docker-compose.yml"), filepath.Join(at, "prod.yml")
	one := func(dir string, files ...string) docker.Started { return docker.Started{Dir: dir, Files: files} }
	for name, tc := range map[string]struct {
		named   []string
		started []docker.Started
		want    string // directory, files, environment files; or of the error
	}{
		"one file":           {nil, []docker.Started{one(at, file), one(at, file)}, at + " | " + file + " | " + at + "/.env"},
		"several":            {nil, []docker.Started{one(at, file, prod)}, at + " | " + file + " " + prod + " | " + at + "/.env"},
		"an env file":        {nil, []docker.Started{{Dir: at, Files: []string{file}, EnvFiles: []string{"/etc/a.env", "/etc/b.env"}}}, at + " | " + file + " | /etc/a.env /etc/b.env"},
		"no env file":        {nil, []docker.Started{one("/nowhere", "/nowhere/c.yml")}, "/nowhere | /nowhere/c.yml | "},
		"of two minds":       {nil, []docker.Started{one(at, file), one(at, file, prod)}, "were started from different files"},
		"of two minds, told": {[]string{file}, []docker.Started{one(at, file), one("/elsewhere", prod)}, at + " | " + file + " | " + at + "/.env"},
		"silent":             {nil, []docker.Started{one(at)}, "do not say which files"},
		"ours":               {nil, []docker.Started{one("/opt/shop", "/opt/shop/releases/1.0.0/compose.yaml", "/opt/shop/releases/1.0.0/compose.valise.yaml")}, "started by valise-installer"},
	} {
		f := &Adoption{Project: "shop", Files: tc.named}
		err := f.origin(tc.started, "")
		got := strings.Join([]string{f.Dir, strings.Join(f.Files, " "), strings.Join(f.EnvFrom, " ")}, " | ")
		if err != nil && !strings.Contains(err.Error(), tc.want) || err == nil && got != tc.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, tc.want)
		}
	}
}

// TestRead refuses what could not come back, and two environment files that differ.
func TestRead(t *testing.T) {
	at, has := t.TempDir(), filepath.Join(t.TempDir(), ".env")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, env := filepath.Join(at, "c.yml"), filepath.Join(at, ".env")
	read := func() (*Adoption, error) {
		f := &Adoption{Project: "shop", Files: []string{file}, EnvFrom: []string{env}, copies: map[string][]byte{}}
		return f, f.read(has)
	}
	refused := func(want string) {
		t.Helper()
		if _, err := read(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	refused("files that are not there: " + file + ", " + env)
	write(file, "services: {}\n")
	write(env, "SHOP_VERSION=v1.4.2\nA=1")
	if f, err := read(); err != nil || !f.copied || len(f.copies) != 2 {
		t.Errorf("%+v, %v", f, err)
	} else if err := f.version("shop"); err != nil || f.Version != "1.4.2" {
		t.Errorf("version %q, %v", f.Version, err)
	}
	write(has, "A=2\n")
	refused("two environment files")
	write(has, "SHOP_VERSION=v1.4.2\nA=1\n") // as it was brought here before
	if f, err := read(); err != nil || f.copied {
		t.Errorf("%+v, %v", f, err)
	}
	if err := os.Remove(has); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(has, 0o700); err != nil {
		t.Fatal(err)
	}
	refused("is a directory")
	for text, want := range map[string]string{"": UnknownVersion, "SHOP_VERSION=latest": UnknownVersion, "SHOP_VERSION=2.0.0-rc.1": "2.0.0-rc.1", "VERSION=3.0.0": UnknownVersion} {
		f := &Adoption{env: []byte(text)}
		if err := f.version("shop"); err != nil || f.Version != want {
			t.Errorf("%s: %q, %v", text, f.Version, err)
		}
	}
}

// TestFrozen: the file says what runs, and nothing else.
func TestFrozen(t *testing.T) {
	const text = `name: shop
services:
  web:
    build: {context: /srv/shop}
    pull_policy: always
    depends_on:
      db: {condition: service_started, required: true}
      tool: {condition: service_started, required: false}
    environment: {PRICE: "1$$", NOWHERE: , SHELL_TOKEN: null}
  db: {image: "postgres:16", profiles: [data]}
  twin: {image: "busybox:1"}
  tool: {image: "nobody/knows:1", profiles: [tools]}
volumes: {data: {name: shop_data}}
`
	runs := []AdoptedService{{Name: "web", Image: "shop-web"}, {Name: "db", Image: "postgres:16"}, {Name: "twin", Image: "busybox:1"}}
	got, passed, err := frozen([]byte(text), runs, map[string]int{"web": 1, "db": 1, "twin": 3}, map[string][]string{"web": {"PATH=/bin", "SHELL_TOKEN=x"}})
	if err != nil || !slices.Equal(passed, []string{"web: SHELL_TOKEN"}) {
		t.Fatal(passed, err)
	}
	for _, want := range []string{"image: shop-web", "scale: 3", `PRICE: "1$$"`, "name: shop_data", "condition: service_started"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	for _, never := range []string{"build", "profiles", "tool", "pull_policy", "scale: 1", "NOWHERE", "SHELL_TOKEN"} {
		if strings.Contains(string(got), never) {
			t.Errorf("%q is in\n%s", never, got)
		}
	}
	if _, _, err := frozen([]byte(text), append(runs, AdoptedService{Name: "old"}), nil, nil); err == nil || !strings.Contains(err.Error(), "service old has a container, and is in none of its files") {
		t.Error(err)
	}
	for _, bad := range []string{"", "services: []", "{", "name: x"} {
		if _, _, err := frozen([]byte(bad), runs, nil, nil); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

var passedOn = regexp.MustCompile(`(?m)^      [A-Z_]+: null$`)

// TestFrozenProjects: docker compose makes the same of a project that is frozen, read
// anywhere and without its environment, as of its files: what the way back leads to is
// what was adopted. The projects are those of testdata/compose, the fast ones unless
// VALISE_TEST_COMPOSE is all.
func TestFrozenProjects(t *testing.T) {
	t.Parallel()
	if os.Getenv("VALISE_TEST_DOCKER_HOST") == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("docker compose is needed (VALISE_TEST_DOCKER_HOST)")
		}
		t.Skip("docker compose is needed (VALISE_TEST_DOCKER_HOST)")
	}
	env := docker.Env{Path: os.Getenv("PATH"), Home: t.TempDir(), DockerConfig: os.Getenv("DOCKER_CONFIG")}
	program, err := docker.FindCompose(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob("../../testdata/compose/*.txtar")
	if err != nil || len(archives) < 60 {
		t.Fatal(archives, err)
	}
	// Docker compose before some version counts the profiles of a service as part of it: the first update makes that
	// service anew.
	hash := func(service string) string {
		c := &docker.Compose{Program: program, Env: env, Project: "p", Dir: t.TempDir(), Profiles: []string{docker.AllProfiles}}
		c.Files = []string{filepath.Join(c.Dir, "compose.yaml")}
		if err := os.WriteFile(c.Files[0], []byte("services: {a: {image: x"+service+"}}"), 0o600); err != nil {
			t.Fatal(err)
		}
		hashes, err := c.Hashes(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return hashes["a"]
	}
	profilesCount := hash("") != hash(", profiles: [p]")
	seen := 0
	for _, file := range archives {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv("VALISE_TEST_COMPOSE") != "all" && !strings.Contains(string(archive.Comment), "fast") {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		c := &docker.Compose{Program: program, Env: env, Project: "p", Dir: t.TempDir(), Profiles: []string{docker.AllProfiles}}
		for _, f := range archive.Files {
			at := filepath.Join(c.Dir, f.Name)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, []byte(strings.ReplaceAll(string(f.Data), "APPNAME", "p")), 0o644); err != nil {
				t.Fatal(err)
			}
			switch {
			case f.Name == ".env":
				c.EnvFile = at
			case slices.Contains([]string{"compose.yaml", "compose.yml", "docker-compose.yml", "compose.override.yaml", "docker-compose.override.yml"}, f.Name):
				c.Files = append(c.Files, at)
			}
		}
		text, _, err := c.Rendered(t.Context())
		if err != nil || len(c.Files) == 0 {
			continue // it wants values, or files, of a device
		}
		before, err := c.Hashes(t.Context(), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		was := *c
		var services []AdoptedService
		for _, service := range slices.Sorted(maps.Keys(before)) {
			services = append(services, AdoptedService{Name: service, Image: "p-" + service})
		}
		still, _, err := frozen(text, services, nil, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Files, c.EnvFile, c.Dir, c.Profiles = []string{filepath.Join(c.Dir, "still.yaml")}, "", t.TempDir(), nil
		if err := os.WriteFile(c.Files[0], still, 0o600); err != nil {
			t.Fatal(err)
		}
		after, err := c.Hashes(t.Context(), nil)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, still)
			continue
		}
		seen++
		var running []docker.Container
		for service, hash := range after {
			running = append(running, docker.Container{Service: service, ConfigHash: hash})
		}
		if before, err = was.Hashes(t.Context(), running); err != nil { // some versions have to be asked again: Hashes
			t.Errorf("%s: %v", name, err)
			continue
		}
		for service, hash := range before {
			if profilesCount && regexp.MustCompile(`(?m)^  "?`+regexp.QuoteMeta(service)+`"?:\n(    .*\n)*    profiles:`).Match(text) {
				continue
			}
			if after[service] != hash && !strings.Contains(string(text), "build:") && !passedOn.Match(text) { // an image takes its place; what has no value is not in it
				t.Errorf("%s: service %s is another one\n%s\n%s", name, service, text, still)
			}
		}
	}
	if least := map[bool]int{true: 50, false: 3}[os.Getenv("VALISE_TEST_COMPOSE") == "all"]; seen < least {
		t.Errorf("only %d projects were looked at", seen)
	}
}
