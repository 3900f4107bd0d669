package docker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// script writes an executable shell script.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindCompose(t *testing.T) {
	noPlugin := `echo "docker: 'compose' is not a docker command." >&2; exit 1`
	for _, tt := range []struct {
		name, docker, standalone string
		command, version, want   string
	}{
		{"plugin", "echo v2.24.5", "echo 1.29.2", "docker compose", "2.24.5", ""},
		{"standalone", noPlugin, "echo 5.5.1", "docker-compose", "5.5.1", ""},
		{"too old", noPlugin, "echo 1.29.2", "", "", `docker compose: docker: 'compose' is not a docker command.; docker-compose: version is "1.29.2"`},
		{"without up --pull", "echo 2.7.0", "echo v2.10.1", "", "", `docker compose: version is "2.7.0", want 2.10.2 or newer; docker-compose: version is "2.10.1"`},
		{"the oldest", "echo 2.6.1", "echo v2.10.2", "docker-compose", "2.10.2", ""},
		{"of a distribution", "echo 2.26.1-4", "", "docker compose", "2.26.1-4", ""},
		{"nothing", "", "", "", "", "docker compose: not in PATH; docker-compose: not in PATH"},
		{"silent failure", "exit 7", "", "", "", "docker compose: exit status 7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.docker != "" {
				script(t, dir, "docker", tt.docker)
			}
			if tt.standalone != "" {
				script(t, dir, "docker-compose", tt.standalone)
			}
			p, err := FindCompose(t.Context(), Env{Path: dir})
			got := strings.ReplaceAll(strings.Join(p.Command, " "), dir+"/", "")
			if got != tt.command || p.Version != tt.version || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("FindCompose: %q, %q, %v", got, p.Version, err)
			}
		})
	}
}

// TestPlugin calls the plugin itself where docker is Docker's own, and nothing else is.
func TestPlugin(t *testing.T) {
	home, bin, config := t.TempDir(), t.TempDir(), t.TempDir()
	docker := filepath.Join(bin, "docker")
	for _, dir := range []string{filepath.Join(home, ".docker/cli-plugins"), filepath.Join(config, "cli-plugins")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		script(t, dir, "docker-compose", `[ "$*" = "version --short" ] && echo 5.5.1`)
	}
	for _, tt := range []struct{ name, docker, config, settings, want string }{
		{"of home", "\x7fELF...", "", "", home + "/.docker/cli-plugins/docker-compose"},
		{"of DOCKER_CONFIG", "\x7fELF...", config, `{"currentContext": "default"}`, config + "/cli-plugins/docker-compose"},
		{"directories of the configuration", "\x7fELF...", config, `{"cliPluginsExtraDirs": ["/opt/plugins"]}`, ""},
		{"a script in place of docker", "#!/bin/sh\necho 5.5.1", config, "{}", docker + " compose"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, text := range map[string]string{docker: tt.docker, filepath.Join(config, "config.json"): tt.settings} {
				if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			p, err := FindCompose(t.Context(), Env{Path: bin, Home: home, DockerConfig: tt.config})
			if got := strings.Join(p.Command, " "); got != tt.want || tt.want != "" && (p.Version != "5.5.1" || err != nil) {
				t.Errorf("FindCompose: %q, %q, %v; want %q", got, p.Version, err, tt.want)
			}
		})
	}
}

// A test may call this program docker-compose. It says its version, and that it was asked.
func init() {
	if dir, name := filepath.Split(os.Args[0]); name == "docker-compose" {
		f, _ := os.OpenFile(dir+"asked", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		fmt.Fprintln(f, os.Args[1:])
		fmt.Println("v2.26.1-4")
		os.Exit(0)
	}
}

// The version of a docker compose is asked once, and again when it is another program.
func TestKnownVersion(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "docker-compose")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	want := func(what string, times int) {
		t.Helper()
		p, err := FindCompose(t.Context(), Env{Path: dir})
		asked, _ := os.ReadFile(filepath.Join(dir, "asked"))
		if got := strings.Count(string(asked), "[version --short]"); err != nil || p.Version != "2.26.1-4" || got != times {
			t.Errorf("%s: %+v, %v, asked %d times, want %d", what, p, err, got, times)
		}
	}
	want("first", 1)
	want("again", 1)
	b, err := os.ReadFile(self)
	if err == nil {
		err = errors.Join(os.Remove(program), os.WriteFile(program, b, 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	want("another file", 2)
	want("another file, again", 2)
	if err := os.Chtimes(program, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	want("another time", 3)
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	script(t, dir, "docker-compose", "echo '[version --short]' >>"+dir+"/asked; echo 2.26.1-4")
	want("a script", 4)
	want("a script, which may start another program now", 5)
}

// fakeCompose is a compose that is a shell script.
func fakeCompose(t *testing.T, body string) *Compose {
	t.Helper()
	dir := t.TempDir()
	return &Compose{
		Program: Program{[]string{script(t, dir, "c", body), "compose"}, "5.5.1"},
		Env:     Env{Path: "/usr/bin:/bin", Home: "/nowhere", Host: "unix:///x.sock"},
		Project: "shop", Dir: dir, Files: []string{"a.yml", "b.yml"}, EnvFile: ".env",
	}
}

// TestLogs has a docker compose that erases each line before it writes it, as 2.26 does.
func TestLogs(t *testing.T) {
	c := fakeCompose(t, `for part in '\033[2Kapi-1 | on' 'e\n\033' '[' '2Kapi-1 | \033[31mtwo\n' '\033[2'; do printf "$part"; sleep 0.02; done`)
	var out bytes.Buffer
	if err := c.Logs(t.Context(), 10, false, &out); err != nil {
		t.Fatal(err)
	}
	if want := "api-1 | one\napi-1 | \x1b[31mtwo\n\x1b[2"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestComposeCommands(t *testing.T) {
	t.Setenv("TAG", "from the environment of the installer")
	opts := "compose --project-name shop --project-directory DIR --env-file .env --file a.yml --file b.yml "
	for _, tt := range []struct {
		want string
		run  func(*Compose) error
	}{
		{"up -d --no-build --pull never --remove-orphans --", func(c *Compose) error { return c.Up(t.Context()) }},
		{"up -d --no-build --pull never --remove-orphans -- db", func(c *Compose) error { return c.Up(t.Context(), "db") }},
		{"down --remove-orphans", func(c *Compose) error { return c.Down(t.Context()) }},
		{"stop -- api web", func(c *Compose) error { return c.Stop(t.Context(), "api", "web") }},
		{"config --quiet", func(c *Compose) error { return c.Config(t.Context()) }},
	} {
		c := fakeCompose(t, `echo "$@" >log; env >env; pwd >>log`)
		if err := tt.run(c); err != nil {
			t.Error(err)
		}
		log, _ := os.ReadFile(filepath.Join(c.Dir, "log"))
		if want := strings.ReplaceAll(opts+tt.want+"\nDIR\n", "DIR", c.Dir); string(log) != want {
			t.Errorf("ran %q, want %q", log, want)
		}
		env, _ := os.ReadFile(filepath.Join(c.Dir, "env"))
		if strings.Contains(string(env), "TAG=") || !strings.Contains(string(env), "DOCKER_HOST=unix:///x.sock\n") || !strings.Contains(string(env), "HOME=/nowhere\n") {
			t.Errorf("environment: %s", env)
		}
	}
}

func TestComposeErrors(t *testing.T) {
	c := fakeCompose(t, `i=0; while [ $i -lt 3000 ]; do echo "line $i of a very long and quite useless text of compose"; i=$((i+1)); done; echo "the reason" >&2; exit 5`)
	err := c.Up(t.Context())
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 || !strings.HasSuffix(err.Error(), "the reason") || !strings.HasPrefix(err.Error(), "compose up of project shop: exit status 5: ") {
		t.Errorf("Up: %.200v", err)
	}
	if n := len(err.Error()); n < outputLimit || n > outputLimit+100 {
		t.Errorf("error has %d bytes, want about %d", n, outputLimit)
	}

	if err := (&Compose{}).Up(t.Context()); err == nil {
		t.Error("Up without a command: nil error")
	}
}

// A cancelled command is gone with its children.
func TestComposeCancel(t *testing.T) {
	c := fakeCompose(t, `sleep 1000 & echo $! >child.tmp; mv child.tmp child; wait`)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by the operator")
	child := filepath.Join(c.Dir, "child")
	go func() {
		for t.Context().Err() == nil {
			if _, err := os.Stat(child); err == nil {
				cancel(stop)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := c.Up(ctx); !errors.Is(err, stop) {
		t.Errorf("Up: %v", err)
	}
	b, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	// It was killed; it may take a moment until its new parent reaps it.
	for deadline := time.Now().Add(bundletest.Patience()); syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the child still runs")
		}
	}
}

func TestComposeReal(t *testing.T) {
	e, info, app := realEngine(t)
	env := Env{Path: os.Getenv("PATH"), Home: t.TempDir(), Host: e.Host(), DockerConfig: os.Getenv("DOCKER_CONFIG")}
	program, err := FindCompose(t.Context(), env)
	if err != nil {
		need(t, err.Error())
	}
	t.Logf("%+v", program)

	bin := filepath.Join(t.TempDir(), "app")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "./testdata/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	binary, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	b := blobs{}
	base := layer(t, file{"app", 0o755, binary})
	one := b.image(t, info.Platform, v1.Config{Entrypoint: []string{"/app"}, Cmd: []string{"sleep"}}, base)
	two := b.image(t, info.Platform, v1.Config{Entrypoint: []string{"/app"}, Cmd: []string{"sleep"}, Env: []string{"TWO=2"}}, base)
	images := tagged(app, one, two)
	load(t, e, b, images)
	ids, err := e.Check(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	project := "valise-test-" + strings.ToLower(rand.Text())
	c := &Compose{
		Program: program, Env: env, Engine: e, Project: project, Dir: dir,
		Files: []string{write("compose.yml", `
services:
  api: {image: "example.test/api:${VERSION:?is not set}", network_mode: none, volumes: ["data:/data"], restart: unless-stopped, stop_grace_period: 0s}
  loop: {image: "example.test/api:1", network_mode: none, command: [crash], restart: always, stop_grace_period: 0s}
volumes: {data: {}}
`), ""},
	}
	pin := func(id string) string {
		return write("pin.yml", fmt.Sprintf("services:\n  api: {image: %q, pull_policy: never}\n  loop: {image: %q, pull_policy: never}\n", id, id))
	}
	c.Files[1] = pin(ids[images[0].Tag])
	t.Cleanup(func() {
		if err := c.Down(testContext); err != nil {
			t.Error(err)
		}
		volume := project + "_data"
		if _, err := e.client.VolumeInspect(testContext, volume, client.VolumeInspectOptions{}); err != nil {
			t.Errorf("Down took the volume: %v", err)
		}
		e.client.VolumeRemove(testContext, volume, client.VolumeRemoveOptions{})
	})

	t.Setenv("VERSION", "9") // must not be seen
	if err := c.Config(t.Context()); err == nil || !strings.Contains(err.Error(), "is not set") {
		t.Errorf("Config without its variable: %v", err)
	}
	c.EnvFile = write("app.env", "VERSION=1\n")
	if err := c.Config(t.Context()); err != nil {
		t.Fatal(err)
	}
	ps := func() (api, loop Container) {
		t.Helper()
		list, err := c.Ps(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, ctr := range list {
			switch ctr.Service {
			case "api":
				api = ctr
			case "loop":
				loop = ctr
			}
		}
		return api, loop
	}
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	api, loop := ps()
	if api.State != "running" || api.Health != "" || api.RestartCount != 0 || api.ImageID != ids[images[0].Tag] || api.StartedAt.IsZero() {
		t.Errorf("api: %+v", api)
	}
	for first := loop; loop.RestartCount <= first.RestartCount; _, loop = ps() {
		time.Sleep(10 * time.Millisecond)
	}
	if err := c.Up(t.Context()); err != nil { // again
		t.Fatal(err)
	}
	if again, _ := ps(); again.ID != api.ID || !again.StartedAt.Equal(api.StartedAt) {
		t.Error("Up again made a new container")
	}

	big := make([]byte, 4<<20)
	rand.Read(big)
	var out bytes.Buffer
	if err := c.Exec(t.Context(), "api", []string{"/app", "cat"}, bytes.NewReader(big), &out); err != nil || !bytes.Equal(out.Bytes(), big) {
		t.Errorf("Exec: %v, %d of %d bytes came back", err, out.Len(), len(big))
	}
	out.Reset()
	err = c.Exec(t.Context(), "api", []string{"/app", "fail"}, nil, &out)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || !strings.Contains(err.Error(), "no such database") || out.String() != "half a result\n" {
		t.Errorf("Exec: %v, output %q", err, &out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Exec(ctx, "api", []string{"/app", "flood"}, nil, writerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Exec cancelled: %v", err)
	}

	// The next release: another image, one service less.
	c.Files[0] = write("compose.yml", `
services:
  api: {image: "example.test/api:2", network_mode: none, volumes: ["data:/data"], restart: unless-stopped, stop_grace_period: 0s}
volumes: {data: {}}
`)
	c.Files[1] = write("pin.yml", fmt.Sprintf("services:\n  api: {image: %q, pull_policy: never}\n", ids[images[1].Tag]))
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	next, loop := ps()
	if next.ID == api.ID || next.ImageID != ids[images[1].Tag] || next.State != "running" || loop.ID != "" {
		t.Errorf("after the update: api %+v, loop %+v", next, loop)
	}
	if err := c.Stop(t.Context(), "api"); err != nil {
		t.Fatal(err)
	}
	if next, _ = ps(); next.State != "exited" {
		t.Errorf("after Stop: %+v", next)
	}
	c.Files[1] = write("pin.yml", "services:\n  api: {image: 'sha256:"+strings.Repeat("0", 64)+"', pull_policy: never}\n")
	if err := c.Up(t.Context()); err == nil {
		t.Error("Up with an image that is not there: nil error")
	} else {
		t.Log(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestWithoutProgress(t *testing.T) {
	const progress = " Network shop_default  Creating \n Container shop-db-1 Created\n Container shop-db-1  Starting\n"
	for in, want := range map[string]string{
		progress + "Error response from daemon: no\n": "Error response from daemon: no\n",
		progress:                        progress,
		" Container shop-db-1  Error\n": " Container shop-db-1  Error\n",
	} {
		if got := string(withoutProgress([]byte(in))); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestRemoveTwins: of two containers of one service and number, the older one stays.
func TestRemoveTwins(t *testing.T) {
	summary := func(id, name, service, number string, created int) string {
		return fmt.Sprintf(`{"Id":%q,"Names":["/%s"],"Created":%d,"Labels":{"com.docker.compose.service":%q,"com.docker.compose.container-number":%q}}`, id, name, created, service, number)
	}
	var removed []string
	engine := fakeEngine{"GET /containers/json": answer("[" + strings.Join([]string{
		summary("new", "0123456789ab_shop-app-1", "app", "1", 20), summary("old", "shop-app-1", "app", "1", 20), summary("second", "shop-app-2", "app", "2", 30),
		summary("again", "shop-db-1", "db", "1", 50), summary("first", "shop-db-1", "db", "1", 40),
	}, ",") + "]")}
	for _, id := range []string{"new", "again"} {
		engine["DELETE /containers/"+id] = func(w http.ResponseWriter, r *http.Request) {
			removed = append(removed, id)
			if r.URL.Query().Get("v") == "1" {
				t.Errorf("%s goes with its volumes", id)
			}
			w.WriteHeader(http.StatusNoContent)
		}
	}
	if err := (&Compose{Engine: engine.start(t), Project: "shop"}).RemoveTwins(t.Context()); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(removed); !slices.Equal(removed, []string{"again", "new"}) {
		t.Errorf("removed %q", removed)
	}
}
