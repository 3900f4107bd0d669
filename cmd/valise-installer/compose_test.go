package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
)

const composeProjects = "../../testdata/compose"

// composeLab is what all projects of TestCompose share.
type composeLab struct {
	host   string
	valise string // the program
	dir    string // look, cosign.key and cosign.pub
}

// TestCompose takes small compose projects as people write them from init to a
// rollback on a real engine, and compares what their containers see with what
// docker compose gives them in the directory of the project. testdata/compose has
// a table of them. Without VALISE_TEST_COMPOSE=all it takes those that are marked
// fast, or that -run names.
func TestCompose(t *testing.T) {
	lab := newComposeLab(t)
	archives, err := filepath.Glob(filepath.Join(composeProjects, "*.txtar"))
	if err != nil || len(archives) < 60 {
		t.Fatal(archives, err)
	}
	all := os.Getenv("VALISE_TEST_COMPOSE") == "all" || strings.Contains(flag.Lookup("test.run").Value.String(), "TestCompose/")
	for _, file := range archives {
		p := parseComposeProject(t, lab, file)
		if _, fast := p.head["fast"]; !all && !fast {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			p.begin(t)
			p.run()
		})
	}
}

// TestComposeTable: the table of testdata/compose has every project, and no other.
func TestComposeTable(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(composeProjects, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob(filepath.Join(composeProjects, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var rows, names []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z0-9-]+(?:, [a-z0-9-]+)*) \| [^|]+ \| [^|]+ \| [^|]+ \|$`).FindAllStringSubmatch(string(b), -1) {
		rows = append(rows, strings.Split(m[1], ", ")...)
	}
	for _, a := range archives {
		names = append(names, strings.TrimSuffix(filepath.Base(a), ".txtar"))
	}
	slices.Sort(rows)
	slices.Sort(names)
	rows = slices.DeleteFunc(rows, func(s string) bool { return s == "project" })
	if !slices.Equal(rows, names) {
		t.Errorf("the table has\n%q, there are\n%q", rows, names)
	}
}

func newComposeLab(t *testing.T) *composeLab {
	lab := &composeLab{host: realEngine(t), valise: valiseProgram(t), dir: t.TempDir()}
	goBuild := func(in, out string) {
		t.Helper()
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(lab.dir, out), ".")
		cmd.Dir = in
		if out == "look" { // it runs on an empty image
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", in, err, out)
		}
	}
	goBuild(filepath.Join(composeProjects, "look"), "look")
	lab.do(t, lab.dir, lab.valise, "keygen")
	// Plain docker compose runs the same program under the names that the projects use.
	image := filepath.Join(t.TempDir(), "image")
	if err := os.MkdirAll(image, 0o755); err != nil {
		t.Fatal(err)
	}
	lab.do(t, image, "cp", filepath.Join(lab.dir, "look"), "look")
	lab.do(t, image, "sh", "-c", `tar c look | docker import -c 'ENTRYPOINT ["/look"]' - other:1; for v in 1.0.0 2.0.0; do docker tag other:1 look:$v; done`)
	t.Cleanup(func() { lab.do(t, image, "docker", "rmi", "-f", "other:1", "look:1.0.0", "look:2.0.0") })
	return lab
}

// do runs a command and returns what it prints.
func (l *composeLab) do(t testing.TB, in, name string, args ...string) string {
	t.Helper()
	out, err := l.try(in, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (l *composeLab) try(in, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = in
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+l.host, "COSIGN_PASSWORD=test", "SOURCE_DATE_EPOCH=1700000000", "GIT_CONFIG_GLOBAL=/dev/null", "XDG_CACHE_HOME="+filepath.Join(l.dir, "cache"))
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err != nil {
		return out.String() + stderr.String(), err
	}
	return out.String(), nil
}

// composeProject is one project on its way.
type composeProject struct {
	*composeLab
	t      *testing.T
	app    string
	head   map[string]string
	src    string // the repository
	work   string // where valise.yaml is, and valise runs
	device string
	files  []txtar.File
}

func parseComposeProject(t *testing.T, lab *composeLab, file string) *composeProject {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	app := "t" + strings.ToLower(rand.Text()[:10])
	a := txtar.Parse(bytes.ReplaceAll(b, []byte("APPNAME"), []byte(app)))
	p := &composeProject{composeLab: lab, app: app, head: map[string]string{}, files: a.Files}
	for line := range strings.Lines(string(a.Comment)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			p.head[key] = strings.TrimSpace(value)
		}
	}
	return p
}

func (p *composeProject) begin(t *testing.T) {
	p.t = t
	p.src, p.device = filepath.Join(t.TempDir(), p.app), filepath.Join(t.TempDir(), "device")
	p.work = filepath.Join(p.src, p.head["in"])
	t.Cleanup(func() {
		cleanEngine(t, p.host, p.app)
		for _, what := range p.external() {
			p.try(p.dir, "docker", append(what[:1:1], "rm", what[1])...)
		}
	})
}

// external are the networks and volumes of others: "external: network NAME, volume
// NAME".
func (p *composeProject) external() (list [][]string) {
	for what := range strings.SplitSeq(p.head["external"], ",") {
		if words := strings.Fields(what); len(words) == 2 {
			list = append(list, words)
		}
	}
	return list
}

// others makes the external networks and volumes, or removes them.
func (p *composeProject) others(verb string) {
	p.t.Helper()
	for _, what := range p.external() {
		p.do(p.t, p.dir, "docker", what[0], verb, what[1])
	}
}

// write writes the files of the archive whose names begin with prefix.
func (p *composeProject) write(dir, prefix string) {
	p.t.Helper()
	for _, f := range p.files {
		name, ok := strings.CutPrefix(f.Name, prefix)
		if !ok || prefix == "" && (strings.HasPrefix(name, "update/") || strings.HasPrefix(name, "device/") || name == "valise.more" || name == ".env") {
			continue
		}
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(file, f.Data, 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *composeProject) file(name string) string {
	for _, f := range p.files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func (p *composeProject) run() {
	p.write(p.src, "")
	if p.head["only"] == "refused" { // no docker compose could start it
		p.init()
		if err := os.MkdirAll(p.device, 0o755); err != nil {
			p.t.Fatal(err)
		}
		p.refused(p.build("1.0.0"), 1, "this device lacks", strings.Fields(p.head["lacks"]))
		return
	}
	if since := p.head["since"]; since != "" && p.older(since) {
		p.init()
		if err := os.MkdirAll(p.device, 0o755); err != nil {
			p.t.Fatal(err)
		}
		p.refused(p.build("1.0.0"), 1, p.head["before"], []string{"compose"})
		return
	}
	p.others("create")
	before := p.plain("1.0.0")
	p.init()
	one := p.build("1.0.0")
	p.write(p.src, "update/")
	after := p.plain("2.0.0")
	two := p.build("2.0.0")
	p.others("rm")

	app := filepath.Join(p.device, "opt", p.app)
	if err := os.MkdirAll(app, 0o755); err != nil {
		p.t.Fatal(err)
	}
	p.refused(one, 1, "this device lacks", strings.Fields(p.head["lacks"]))
	if _, made := p.head["made"]; !made {
		p.others("create")
	}
	p.refused(one, 2, "required environment keys have no value", strings.Fields(p.head["required"]))
	if err := os.WriteFile(filepath.Join(app, ".env"), []byte(p.file(".env")), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.refused(one, 2, "required files are not there", strings.Fields(p.head["needs"]))
	p.write(app, "device/")
	p.install("install", one, "--key", filepath.Join(p.dir, "cosign.pub"))
	p.same("install", before, p.look())
	p.edit()
	ids := p.ids()
	plan := p.installer("plan", two, "--output", "json")
	p.install("update", two)
	p.same("update", after, p.look())
	p.kept()
	var recreated []string
	for service, id := range p.ids() {
		if ids[service] != id {
			recreated = append(recreated, service)
		}
	}
	slices.Sort(recreated)
	want := strings.Fields(p.head["recreated"])
	if dependents := p.head["dependents"]; dependents != "" && p.older("2.29.3") {
		want = append(want, strings.Fields(dependents)...)
		slices.Sort(want)
	}
	if !slices.Equal(recreated, want) {
		p.t.Errorf("the update made %v again, want %v", recreated, want)
	}
	var planned struct {
		Services []struct{ Service, Change string }
		Notes    []installer.Note
	}
	if err := json.Unmarshal([]byte(plan), &planned); err != nil {
		p.t.Fatal(err)
	}
	if pattern := p.head["edited"]; pattern != "" && !slices.ContainsFunc(planned.Notes, func(n installer.Note) bool { return regexp.MustCompile(pattern).MatchString(n.Text) }) {
		p.t.Errorf("the plan does not say what was changed: %q", planned.Notes)
	}
	recreated = nil
	for _, s := range planned.Services {
		if s.Change == "recreated" {
			recreated = append(recreated, s.Service)
		}
	}
	if !slices.Equal(recreated, want) {
		p.t.Errorf("the plan said that %v are recreated, want %v", recreated, want)
	}
	p.install("rollback")
	p.same("rollback", before, p.look())
	if found := p.installer("doctor", "--app", p.app); strings.Contains(found, "not whole") {
		p.t.Errorf("doctor says:\n%s", found)
	}
}

func (p *composeProject) init() {
	if p.head["in"] != "" {
		p.do(p.t, p.src, "git", "init", "-q")
	}
	p.do(p.t, p.work, p.valise, append([]string{"init"}, strings.Fields(p.head["compose"])...)...)
	file := filepath.Join(p.work, "valise.yaml")
	if p.head["in"] != "" { // which names the app
		edit(p.t, file, `(?m)^app: \S+`, "app: "+p.app)
	}
	edit(p.t, file, `platforms: \[.*\]`, "platforms: [linux/"+runtime.GOARCH+"]")
	edit(p.t, file, `retries: \d+`, "retries: 30")
	edit(p.t, file, `interval: \S+`, "interval: 250ms")
	if health := p.head["health"]; health != "" {
		edit(p.t, file, `  compose: \[.*\]`, "  compose: "+health)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	var compose string
	for _, f := range p.files {
		if strings.HasSuffix(f.Name, ".yaml") || strings.HasSuffix(f.Name, ".yml") {
			compose += string(f.Data)
		}
	}
	images := "\nimages:\n"
	for _, name := range []string{"look", "other"} {
		if regexp.MustCompile(`image: "?` + name + ":").MatchString(compose) {
			images += fmt.Sprintf("  %s: {base: scratch, files: [{from: .look, to: /look}], entrypoint: [/look]}\n", name)
		}
	}
	if !strings.Contains(string(b), "version_env:") {
		b = bytes.Replace(b, []byte("\nplatforms:"), []byte("\nversion_env: VERSION # as the compose file has it\nplatforms:"), 1)
	}
	if err := os.WriteFile(file, append(b, "installer: none\n"+images+p.file("valise.more")...), 0o644); err != nil {
		p.t.Fatal(err)
	}
	p.do(p.t, p.work, "cp", filepath.Join(p.dir, "look"), ".look")
}

func (p *composeProject) build(version string) string {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), p.app+"-"+version+".tar.gz")
	p.do(p.t, p.work, p.valise, "build", version, "-o", file)
	p.do(p.t, p.work, p.valise, "sign", file, "--key", filepath.Join(p.dir, "cosign.key"))
	return file
}

func (p *composeProject) installer(args ...string) string {
	p.t.Helper()
	return p.do(p.t, p.device, "valise-installer", append([]string{"--root", p.device, "--progress", "none"}, args...)...)
}

func (p *composeProject) install(args ...string) {
	p.t.Helper()
	p.installer(append(args, "--app", p.app)...)
}

// refused says that an installation ends with an exit code, before anything is touched,
// and names what is missing.
func (p *composeProject) refused(file string, code int, why string, names []string) {
	p.t.Helper()
	if len(names) == 0 {
		return
	}
	out, err := p.try(p.device, "valise-installer", "--root", p.device, "--progress", "none", "install", file, "--key", filepath.Join(p.dir, "cosign.pub"))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code || !strings.Contains(out, why) {
		p.t.Errorf("install without %v: %v\n%s", names, err, out)
	}
	for _, name := range names {
		if !strings.Contains(out, name) {
			p.t.Errorf("it does not name %s: %s", name, out)
		}
	}
	if len(p.ids()) > 0 {
		p.t.Errorf("it made containers all the same")
	}
}

// kept looks for what edit wrote: it is not in effect, and not lost.
func (p *composeProject) kept() {
	p.t.Helper()
	if p.head["edit"] == "" {
		return
	}
	out, err := p.try(p.device, "grep", "-rl", "of the container", filepath.Join("opt", p.app))
	if err != nil || !strings.Contains(out, ".edited-") {
		p.t.Errorf("what the container wrote is not kept: %s", out)
	}
}

// edit has a service write into a mounted file: "edit: SERVICE FILE", and what doctor
// and the update must say of it stands in "edited: PATTERN".
func (p *composeProject) edit() {
	p.t.Helper()
	service, file, ok := strings.Cut(p.head["edit"], " ")
	if !ok {
		return
	}
	p.do(p.t, p.src, "docker", "exec", p.ids()[service], "/look", "write", file, "of the container")
	found := p.installer("doctor", "--app", p.app)
	if !regexp.MustCompile(`warning.*current.*` + p.head["edited"]).MatchString(found) {
		p.t.Errorf("doctor does not say what was changed:\n%s", found)
	}
}

// plain runs the project by docker compose, as its author would, and returns what its
// containers see.
func (p *composeProject) plain(version string) map[string]string {
	p.t.Helper()
	dir := filepath.Join(p.t.TempDir(), "plain")
	if err := os.CopyFS(dir, os.DirFS(p.src)); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte(p.file(".env")+"\nVERSION="+version+"\n"), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.write(dir, "device/")
	compose := []string{"compose", "-p", p.app}
	if in := cmp.Or(p.head["in"], filepath.Dir(p.head["compose"])); p.head["in"]+p.head["compose"] != "" { // its own .env is beside it
		compose = append(compose, "-f", filepath.Join(in, "compose.yaml"), "--env-file", ".env")
	}
	p.do(p.t, dir, "docker", append(compose, "up", "-d", "--no-build", "--pull", "never")...)
	seen := p.look()
	if out, err := p.try(dir, "docker", append(compose, "down", "-v")...); err != nil {
		if !strings.Contains(out, "active endpoints") {
			p.t.Fatalf("docker compose down: %v\n%s", err, out)
		}
		freeNetworks(p.t, p.host, p.app)
		p.do(p.t, dir, "docker", append(compose, "down", "-v")...)
	}
	return seen
}

// older reports whether docker compose here is older than a version.
func (p *composeProject) older(version string) bool {
	p.t.Helper()
	has := strings.TrimPrefix(strings.TrimSpace(p.do(p.t, p.dir, "docker", "compose", "version", "--short")), "v")
	return slices.Compare(bundle.VersionNumbers(has), bundle.VersionNumbers(version)) < 0
}

func (p *composeProject) ids() map[string]string {
	p.t.Helper()
	ids := map[string]string{}
	out := p.do(p.t, p.src, "docker", "ps", "-a", "--no-trunc", "--filter", "label=com.docker.compose.project="+p.app, "--format", `{{.Label "com.docker.compose.service"}} {{.ID}} {{.Label "com.docker.compose.container-number"}}`)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); f[2] == "1" { // of several the first
			ids[f[0]] = f[1]
		}
	}
	return ids
}

// inspectedMount is what docker inspect says of a mount, without its source and the
// mode, which is empty in the long form.
type inspectedMount struct {
	Type, Name, Destination, Propagation string
	RW                                   bool
}

// look returns what every container of the app sees, and how it is configured.
func (p *composeProject) look() map[string]string {
	p.t.Helper()
	seen := map[string]string{}
	ids := p.ids()
	all := p.do(p.t, p.src, "docker", "ps", "-a", "--filter", "label=com.docker.compose.project="+p.app, "--format", `{{.Label "com.docker.compose.service"}}`)
	for service, id := range ids {
		n := slices.Sorted(strings.Lines(all))
		seen[service] = fmt.Sprintf("%d containers\n", len(slices.DeleteFunc(n, func(s string) bool { return strings.TrimSpace(s) != service })))
		var all []struct {
			State           struct{ Running bool }
			Config          map[string]any
			HostConfig      map[string]any
			Mounts          []inspectedMount
			NetworkSettings struct {
				Networks map[string]struct{ Aliases []string }
			}
		}
		if err := json.Unmarshal([]byte(p.do(p.t, p.src, "docker", "inspect", id)), &all); err != nil {
			p.t.Fatal(err)
		}
		c := all[0]
		// What differs for a reason: the image is pinned to its ID, mounts have other
		// sources, labels say which release; env is compared from the inside.
		for _, key := range []string{"Image", "Hostname", "Env"} {
			delete(c.Config, key)
		}
		for _, key := range []string{"Binds", "Mounts"} {
			delete(c.HostConfig, key)
		}
		if mode, _ := c.HostConfig["NetworkMode"].(string); regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(mode) { // docker compose 2.26; Networks has the name
			c.HostConfig["NetworkMode"] = "ID"
		}
		for _, key := range []string{"ExtraHosts", "Ulimits"} { // in no order
			list, _ := c.HostConfig[key].([]any)
			slices.SortFunc(list, func(x, y any) int { return strings.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
		}
		labels, _ := c.Config["Labels"].(map[string]any)
		for key := range labels {
			if strings.HasPrefix(key, "com.docker.compose.") || key == "valise.files" {
				delete(labels, key)
			}
		}
		networks := map[string][]string{}
		for name, n := range c.NetworkSettings.Networks {
			networks[name] = slices.DeleteFunc(n.Aliases, func(s string) bool { return len(s) >= 12 && strings.HasPrefix(id, s) })
		}
		for i, m := range c.Mounts {
			if !strings.HasPrefix(m.Name, p.app) { // of nobody: it has no name
				c.Mounts[i].Name = ""
			}
		}
		slices.SortFunc(c.Mounts, func(x, y inspectedMount) int { return strings.Compare(x.Destination, y.Destination) })
		config, err := json.MarshalIndent([]any{c.State, c.Config, c.HostConfig, c.Mounts, networks}, "", " ")
		if err != nil {
			p.t.Fatal(err)
		}
		seen[service] += string(config)
		if c.State.Running {
			seen[service] += p.do(p.t, p.src, "docker", "exec", id, "/look", "view")
		}
	}
	for service := range seen { // those that one joins
		for other, id := range ids {
			seen[service] = strings.ReplaceAll(seen[service], id, "container of "+other)
		}
	}
	return seen
}

func (p *composeProject) same(when string, want, got map[string]string) {
	p.t.Helper()
	for service := range want {
		want[service] = strings.ReplaceAll(want[service], "-rw-r--r-- secret of a laptop\\n", "GENERATED")
		got[service] = regexp.MustCompile(`-rw------- [0-9a-f]{32}\b`).ReplaceAllString(got[service], "GENERATED")
		if want[service] != got[service] {
			p.t.Errorf("%s: service %s differs from that of docker compose: %s", when, service, difference(strings.Split(want[service], "\n"), strings.Split(got[service], "\n")))
		}
	}
	if len(got) != len(want) {
		p.t.Errorf("%s: %d services, docker compose has %d", when, len(got), len(want))
	}
}
