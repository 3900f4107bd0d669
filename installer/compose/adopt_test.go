package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
    environment: {PRICE: "1$$"}
  db: {image: "postgres:16", profiles: [data]}
  twin: {image: "busybox:1"}
  tool: {image: "nobody/knows:1", profiles: [tools]}
volumes: {data: {name: shop_data}}
`
	runs := []AdoptedService{{Name: "web", Image: "shop-web"}, {Name: "db", Image: "postgres:16"}, {Name: "twin", Image: "busybox:1"}}
	got, err := frozen([]byte(text), runs, map[string]int{"web": 1, "db": 1, "twin": 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"image: shop-web", "scale: 3", `PRICE: "1$$"`, "name: shop_data", "condition: service_started"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	for _, never := range []string{"build", "profiles", "tool", "pull_policy", "scale: 1"} {
		if strings.Contains(string(got), never) {
			t.Errorf("%q is in\n%s", never, got)
		}
	}
	if _, err := frozen([]byte(text), append(runs, AdoptedService{Name: "old"}), nil); err == nil || !strings.Contains(err.Error(), "service old has a container, and is in none of its files") {
		t.Error(err)
	}
	for _, bad := range []string{"", "services: []", "{", "name: x"} {
		if _, err := frozen([]byte(bad), runs, nil); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
