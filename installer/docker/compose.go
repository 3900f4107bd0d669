package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/bundle/trace"
)

// Env is the whole environment of the commands run here. Nothing is inherited:
// compose substitutes variables of its environment into the compose file, before
// those of the environment file.
type Env struct {
	Path         string // PATH
	Home         string // HOME, where docker looks for its plugins
	Host         string // DOCKER_HOST
	DockerConfig string // DOCKER_CONFIG, empty for $HOME/.docker
	// Answer is how long compose may take to say its version or read files; 0 is AnswerTimeout.
	Answer time.Duration
}

func (e Env) list() []string {
	var list []string
	for _, kv := range [][2]string{{"PATH", e.Path}, {"HOME", e.Home}, {"DOCKER_HOST", e.Host}, {"DOCKER_CONFIG", e.DockerConfig}} {
		if kv[1] != "" {
			list = append(list, kv[0]+"="+kv[1])
		}
	}
	return list
}

// look finds an executable in e.Path; exec.LookPath would use our own PATH.
func (e Env) look(name string) (string, bool) {
	for _, dir := range filepath.SplitList(e.Path) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(p) {
			return p, true
		}
	}
	return "", false
}

// pluginDirs are where docker looks for its plugins, after those of its configuration.
var pluginDirs = []string{"/usr/local/lib/docker/cli-plugins", "/usr/local/libexec/docker/cli-plugins", "/usr/lib/docker/cli-plugins", "/usr/libexec/docker/cli-plugins"}

// plugin is the program that "docker compose" becomes, when docker is Docker's own: it
// starts that program twice for each call, once to ask what it is. By itself it is
// docker-compose. It is empty for another docker, such as a script in its place, and
// where the configuration names directories of its own.
func (e Env) plugin(docker string) string {
	if head, err := readHead(docker, 4); err != nil || string(head) != elf {
		return ""
	}
	config := cmp.Or(e.DockerConfig, filepath.Join(e.Home, ".docker"))
	if text, err := readHead(filepath.Join(config, "config.json"), 1<<20); err == nil && bytes.Contains(text, []byte("cliPluginsExtraDirs")) {
		return ""
	}
	for _, dir := range append([]string{filepath.Join(config, "cli-plugins")}, pluginDirs...) {
		if p, err := exec.LookPath(filepath.Join(dir, "docker-compose")); err == nil && filepath.IsAbs(p) {
			return p
		}
	}
	return ""
}

// elf is how a program begins that is no script.
const elf = "\x7fELF"

// readHead reads at most n bytes of a file.
func readHead(name string, n int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, n))
}

// oldestCompose is the oldest Docker Compose that knows every option used here: up and
// create have --pull. 2.7.0 has it not.
var oldestCompose = []int{2, 10, 2}

// Program is a Docker Compose.
type Program struct {
	Command []string // how it is called
	Version string   // "2.26.1-4"
}

func (p Program) before(numbers ...int) bool {
	return slices.Compare(bundle.VersionNumbers(p.Version), numbers) < 0
}

// FindCompose finds the device's own Docker Compose, 2.10.2 or newer: as the
// plugin of docker, else as docker-compose.
func FindCompose(ctx context.Context, env Env) (Program, error) {
	var tried []string
	for _, words := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		name := strings.Join(words, " ")
		path, ok := env.look(words[0])
		if !ok {
			tried = append(tried, name+": not in PATH")
			continue
		}
		command := append([]string{path}, words[1:]...)
		if words[0] == "docker" {
			if plugin := env.plugin(path); plugin != "" {
				command = []string{plugin}
			}
		}
		version, err := env.version(ctx, name, command)
		if err != nil {
			if ctx.Err() != nil {
				return Program{}, fmt.Errorf("find docker compose: %w", context.Cause(ctx))
			}
			tried = append(tried, fmt.Sprintf("%s: %s", name, version))
			continue
		}
		p := Program{Command: command, Version: version}
		if p.before(oldestCompose...) {
			tried = append(tried, fmt.Sprintf("%s: version is %.40q, want 2.10.2 or newer", name, p.Version))
			continue
		}
		return p, nil
	}
	return Program{}, fmt.Errorf("find docker compose: no usable one (%s): install the docker-compose-plugin package", strings.Join(tried, "; "))
}

// versions are those of programs, by identity: the same program says the same again.
var versions sync.Map

// version is what a compose says of itself: its version, or with an error what is wrong.
func (e Env) version(ctx context.Context, name string, command []string) (string, error) {
	program := identity(command)
	if known, ok := versions.Load(program); ok {
		return known.(string), nil
	}
	var out tail
	soon, cancel := asking(ctx, name, cmp.Or(e.Answer, AnswerTimeout))
	defer cancel()
	if err := run(soon, e, "", command, []string{"version", "--short"}, nil, &out, &out); err != nil {
		return firstLine(out.String(), err), err
	}
	version := strings.TrimPrefix(strings.TrimSpace(out.String()), "v")
	if program != "" {
		versions.Store(program, version)
	}
	return version, nil
}

// identity is a program and what changes with it; empty for one that starts another, as
// docker and scripts do.
func identity(command []string) string {
	head, _ := readHead(command[0], 4)
	info, err := os.Stat(command[0])
	if err != nil || string(head) != elf || len(command) > 1 {
		return ""
	}
	s := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintln(command[0], s.Dev, s.Ino, s.Size, s.Mtim.Nano(), s.Ctim.Nano())
}

func firstLine(s string, err error) string {
	if line, _, _ := strings.Cut(strings.TrimSpace(s), "\n"); line != "" {
		return line
	}
	return err.Error()
}

// Compose runs one compose project with the device's own Docker Compose.
type Compose struct {
	Program // from FindCompose
	Env     Env
	Engine  *Engine // for Ps; must be the engine of Env.Host

	Project string   // another name means other, empty volumes
	Dir     string   // relative paths in the compose file start here
	Files   []string // the compose file and the override that pins image IDs
	EnvFile string   // empty for none

	Profiles []string // that are on, besides those of COMPOSE_PROFILES in EnvFile

	Read *Read // what was read already; may be nil

	lostAfter time.Duration // of the test, or 0
}

// Texts are what Files have.
func (c *Compose) Texts() (texts [][]byte, err error) {
	for _, file := range c.Files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// Up makes what runs equal to the files: services, or all. It never builds or
// pulls, and returns when containers are started: whether they are healthy is
// for the probe to say. Interrupted, it may be repeated.
func (c *Compose) Up(ctx context.Context, services ...string) error {
	return c.run(ctx, append([]string{"up", "-d", "--no-build", "--pull", "never", "--remove-orphans", "--"}, services...))
}

// RemoveTwins removes what an interrupted recreation left: a container beside the
// one that it was to replace. Compose would remove one while it starts the other, and
// then a name or a port is taken. The older one has what lies in volumes without a name.
func (c *Compose) RemoveTwins(ctx context.Context) error {
	list, err := c.list(ctx)
	if err != nil {
		return err
	}
	order.By(list, func(a, b container.Summary) int {
		temporary := func(s container.Summary) int { return strings.Count(containerName(s), "_") } // ID_NAME
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(temporary(a), temporary(b)))
	})
	here := map[string]bool{}
	for _, s := range list {
		key := s.Labels[serviceLabel] + " " + s.Labels[numberLabel]
		if !here[key] {
			here[key] = true
			continue
		}
		if _, err := c.Engine.client.ContainerRemove(ctx, s.ID, client.ContainerRemoveOptions{Force: true}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove container %s, left by an interrupted recreation: %w", containerName(s), err)
		}
	}
	return nil
}

// Recreate recreates the containers of services, and starts them.
func (c *Compose) Recreate(ctx context.Context, services ...string) error {
	return c.run(ctx, append([]string{"up", "-d", "--no-build", "--pull", "never", "--no-deps", "--force-recreate", "--"}, services...))
}

// Mounting returns the IDs of the project's containers, stopped ones too, that mount
// one of paths or what is below it.
func (c *Compose) Mounting(ctx context.Context, paths []string) ([]string, error) {
	list, err := c.Engine.client.ContainerList(ctx, client.ContainerListOptions{
		All:     true,
		Filters: client.Filters{}.Add("label", projectLabel+"="+c.Project),
	})
	if err != nil {
		return nil, fmt.Errorf("list containers of project %s: %w", c.Project, err)
	}
	var ids []string
	for _, s := range list.Items {
		for _, m := range s.Mounts {
			if slices.ContainsFunc(paths, func(p string) bool { return m.Source == p || strings.HasPrefix(m.Source, p+"/") }) {
				ids = append(ids, s.ID)
				break
			}
		}
	}
	return ids, nil
}

// Down removes the project's containers and networks. Volumes stay, always.
func (c *Compose) Down(ctx context.Context) error {
	return c.run(ctx, []string{"down", "--remove-orphans"})
}

// Create makes the containers of all services as the files say and starts none.
func (c *Compose) Create(ctx context.Context) error {
	return c.run(ctx, []string{"create", "--no-build", "--pull", "never"})
}

// Run runs argv in a new container of service, as docker compose run does, with
// more variables for it, and starts what the service depends on. The container
// is called name and is removed at the end, whatever the end is. Its output, both
// kinds, goes to out.
func (c *Compose) Run(ctx context.Context, name, service string, argv, env []string, out io.Writer) error {
	remove := func() error {
		tidy, cancel := tidying(ctx)
		defer cancel()
		_, err := c.Engine.client.ContainerRemove(tidy, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	if err := remove(); err != nil { // of a run that was cut off
		return fmt.Errorf("run %s in a new container of service %s: %w", argv[0], service, err)
	}
	err := run(ctx, c.Env, c.Dir, c.words(), slices.Concat(runOptions(name, env), []string{"--", service}, argv), nil, out, out)
	if rerr := remove(); err == nil {
		err = rerr
	}
	if err != nil {
		return fmt.Errorf("run %s in a new container of service %s: %w", argv[0], service, err)
	}
	return nil
}

// runOptions are the words that Run begins with.
func runOptions(name string, env []string) []string {
	args := []string{"run", "--rm", "-T", "--name", name}
	for _, kv := range env {
		args = append(args, "--env", kv)
	}
	return args
}

// Stop stops services, or all.
func (c *Compose) Stop(ctx context.Context, services ...string) error {
	return c.run(ctx, append([]string{"stop", "--"}, services...))
}

// Logs writes the last lines of services, or all, to out, and with follow all that comes
// until ctx ends.
func (c *Compose) Logs(ctx context.Context, lines int, follow bool, out io.Writer, services ...string) error {
	args := []string{"logs", "--no-color", "--tail", strconv.Itoa(lines)}
	if follow {
		args = append(args, "--follow")
	}
	args = append(append(args, "--"), services...)
	var stderr tail
	plainLines := &unerased{out: out}
	if err := run(ctx, c.Env, c.Dir, c.words(), args, nil, plainLines, &stderr); err != nil {
		return fmt.Errorf("compose logs of project %s: %w", c.Project, withOutput(err, &stderr))
	}
	_, err := out.Write(plainLines.rest)
	return err
}

// unerased leaves out what some versions of docker compose, 2.26 is one, begin each line
// of a log with, also where nothing is a terminal: the command to erase a line.
type unerased struct {
	out  io.Writer
	rest []byte // the beginning of such a command
}

func (u *unerased) Write(p []byte) (int, error) {
	erase := []byte("\x1b[2K")
	b := append(u.rest, p...)
	end := len(b)
	for n := 1; n < len(erase); n++ {
		if bytes.HasSuffix(b, erase[:n]) {
			end = len(b) - n
		}
	}
	u.rest = slices.Clone(b[end:])
	_, err := u.out.Write(bytes.ReplaceAll(b[:end], erase, nil))
	return len(p), err
}

// Config returns what is wrong with the files or with the variables they need. Model has
// read all of them, unless services have environment files.
func (c *Compose) Config(ctx context.Context) error {
	if m, err := c.Model(ctx); err == nil && !m.unread {
		return nil
	}
	ctx, cancel := asking(ctx, "docker compose", cmp.Or(c.Env.Answer, AnswerTimeout))
	defer cancel()
	return c.run(ctx, []string{"config", "--quiet"})
}

// Hashes returns what compose makes of the definition of every service: a container of
// running with another one is replaced by Up.
//
// Some versions, 2.26 is one, answer with the names of environment files, of dependencies
// that are off, and of services that another one joins, where Up takes the values of the
// files, leaves those dependencies out, and takes the container that is joined. So where a
// container differs, it is also compared with what compose says of the resolved project.
func (c *Compose) Hashes(ctx context.Context, running []Container) (map[string]string, error) {
	hashes, err := c.hashes(ctx)
	if err != nil || !slices.ContainsFunc(running, func(x Container) bool { return hashes[x.Service] != x.ConfigHash }) {
		return hashes, err
	}
	texts, err := c.Texts()
	if err != nil || !slices.ContainsFunc(texts, func(b []byte) bool { return named.Match(b) }) {
		return hashes, err
	}
	resolved, err := c.resolvedHashes(ctx, running)
	if err != nil {
		return hashes, nil // versions that do not read what they write are none of those
	}
	for _, x := range running {
		if hash := resolved[x.Service]; hash == x.ConfigHash {
			hashes[x.Service] = hash
		}
	}
	return hashes, nil
}

// named finds what may be of another name in the answer.
var named = lazyregexp.New(`\b(env_file|required|volumes_from)\b|service:`)

// resolvedHashes are the hashes of the project as compose writes it out, with containers
// in place of services that are joined.
func (c *Compose) resolvedHashes(ctx context.Context, running []Container) (map[string]string, error) {
	out, err := c.output(ctx, "config", "--format", "json")
	if err != nil {
		return nil, err
	}
	var model map[string]any
	d := json.NewDecoder(strings.NewReader(out))
	d.UseNumber()
	if err := d.Decode(&model); err != nil {
		return nil, err
	}
	services, _ := model["services"].(map[string]any)
	joined := map[string]any{}
	for _, s := range services {
		s, _ := s.(map[string]any)
		depends, _ := s["depends_on"].(map[string]any)
		maps.DeleteFunc(depends, func(name string, _ any) bool { return services[name] == nil })
		for _, container := range join(s, running) {
			joined[container] = map[string]string{"image": "joined"} // the name of a service stands there otherwise
		}
	}
	maps.Copy(joined, services)
	model["services"] = joined
	text, err := json.Marshal(model)
	if err != nil {
		return nil, err
	}
	f, name, err := InMemory(text)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	resolved := *c
	resolved.Files, resolved.EnvFile = []string{name}, ""
	return resolved.hashes(ctx)
}

// join writes into a service which containers it joins, as Up does, and returns those
// whose volumes it has.
func join(s map[string]any, running []Container) (volumes []string) {
	id := func(name string) string {
		for _, x := range running {
			if x.Service == name {
				return x.ID
			}
		}
		return name
	}
	for _, key := range []string{"network_mode", "ipc", "pid"} {
		text, _ := s[key].(string)
		if name, ok := strings.CutPrefix(text, "service:"); ok {
			s[key] = "container:" + id(name)
		}
	}
	list, _ := s["volumes_from"].([]any)
	for i := range list {
		text, _ := list[i].(string)
		name, rest, _ := strings.Cut(text, ":")
		if name == "container" {
			name, _, _ = strings.Cut(rest, ":")
		} else {
			name = id(name)
		}
		list[i], volumes = name, append(volumes, name)
	}
	return volumes
}

// RecreatesDependents reports whether Up recreates the services that depend on one which
// it recreates, as docker compose before 2.29.3 does.
func (p Program) RecreatesDependents() bool { return p.before(2, 29, 3) }

func (c *Compose) hashes(ctx context.Context) (map[string]string, error) {
	out, err := c.output(ctx, "config", "--hash", "*")
	if err != nil {
		return nil, err
	}
	hashes := map[string]string{}
	for line := range strings.Lines(out) {
		if service, hash, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			hashes[service] = hash
		}
	}
	return hashes, nil
}

// Port is a port of this device that a service wants.
type Port struct {
	Service  string
	IP       string // empty for all addresses
	Number   int
	Protocol string
}

// output runs one compose command and returns what it prints.
func (c *Compose) output(ctx context.Context, args ...string) (string, error) {
	out, _, err := c.outputs(ctx, args...)
	return out, err
}

// outputs is output with what the command says besides.
func (c *Compose) outputs(ctx context.Context, args ...string) (string, string, error) {
	ctx, cancel := asking(ctx, "docker compose", cmp.Or(c.Env.Answer, AnswerTimeout))
	defer cancel()
	var out strings.Builder
	var stderr tail
	if err := run(ctx, c.Env, c.Dir, c.words(), args, nil, &out, &stderr); err != nil {
		return "", "", fmt.Errorf("compose %s of project %s: %w", args[0], c.Project, withOutput(err, &stderr))
	}
	return out.String(), stderr.String(), nil
}

// run runs one compose command and puts its output in the error.
func (c *Compose) run(ctx context.Context, args []string) error {
	var out tail
	if err := run(ctx, c.Env, c.Dir, c.words(), args, nil, &out, &out); err != nil {
		return fmt.Errorf("compose %s of project %s: %w", args[0], c.Project, withOutput(err, &tail{withoutProgress(out.b)}))
	}
	return nil
}

// progressLine is what compose says of everything it does well:
// " Container shop-db-1  Created".
var progressLine = lazyregexp.New(`(?m)^ *(Network|Volume|Container|Image) \S+ +(Creat|Start|Stopp|Remov|Recreat|Runn|Wait|Health|Exit|Restart|Kill)(e|ed|ing|y)\s*$\n?`)

// withoutProgress leaves what went wrong; all of it when that is nothing.
func withoutProgress(b []byte) []byte {
	if rest := progressLine.ReplaceAll(b, nil); len(bytes.TrimSpace(rest)) > 0 {
		return rest
	}
	return b
}

// words are what every call begins with.
func (c *Compose) words() []string { return append(slices.Clone(c.Command), c.options()...) }

// options are given in full, so that no file and no variable that happens to
// lie around decides.
func (c *Compose) options() []string {
	envFile := c.EnvFile
	if envFile == "" {
		envFile = "/dev/null"
	}
	opts := []string{"--project-name", c.Project, "--project-directory", c.Dir, "--env-file", envFile}
	for _, f := range c.Files {
		opts = append(opts, "--file", f)
	}
	for _, p := range c.Profiles {
		opts = append(opts, "--profile", p)
	}
	return opts
}

// tidyTimeout is how long the engine may take for what has to be done although the
// caller has ended: to remove one container, to let some go on.
const tidyTimeout = 2 * time.Minute

func tidying(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), tidyTimeout, &SilentError{"the engine", tidyTimeout})
}

// waitDelay is how long a killed command's pipes may stay open.
const waitDelay = 5 * time.Second

// run runs command with args. When ctx ends the command's whole process group
// is killed: docker runs compose as a child of its own.
func run(ctx context.Context, env Env, dir string, command, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(command) == 0 || len(args) == 0 {
		return errors.New("no docker compose command given")
	}
	cmd := exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], args...)...)
	cmd.Env = env.list()
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = waitDelay
	err := trace.Run(ctx, "docker compose "+args[0], cmd)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// outputLimit is how many bytes of a command's output an error quotes.
const outputLimit = 64 << 10

// tail keeps the last outputLimit bytes written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*outputLimit {
		t.b = append(t.b[:0], t.b[len(t.b)-outputLimit:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b[max(0, len(t.b)-outputLimit):]) }

func withOutput(err error, out *tail) error {
	if s := strings.TrimSpace(out.String()); s != "" {
		return fmt.Errorf("%w: %s", err, s)
	}
	return err
}

// Labels that compose gives to containers.
const (
	projectLabel = "com.docker.compose.project"
	serviceLabel = "com.docker.compose.service"
	numberLabel  = "com.docker.compose.container-number"
	oneOffLabel  = "com.docker.compose.oneoff" // "True" for one of docker compose run
	hashLabel    = "com.docker.compose.config-hash"
)

// Container is one container of a compose project.
type Container struct {
	ID           string
	Service      string
	State        string // "running", "restarting", "exited", ...
	Health       string // "healthy", "unhealthy", "starting"; empty without a health check
	RestartCount int    // restarts by the engine since it was created
	ImageID      string
	StartedAt    time.Time
	ConfigHash   string // see Hashes
	Ended        bool   // well, and the engine does not start it again: it had one thing to do
	ExitCode     int    // of one that has ended
}

// list asks for the containers of the project's services, stopped ones too.
func (c *Compose) list(ctx context.Context) ([]container.Summary, error) {
	list, err := c.Engine.client.ContainerList(ctx, client.ContainerListOptions{
		All:     true,
		Filters: client.Filters{}.Add("label", projectLabel+"="+c.Project, oneOffLabel+"=False"),
	})
	if err != nil {
		return nil, fmt.Errorf("list containers of project %s: %w", c.Project, err)
	}
	return list.Items, nil
}

// Ps returns the containers of the project, stopped ones too.
func (c *Compose) Ps(ctx context.Context) ([]Container, error) {
	list, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	var containers []Container
	for _, s := range list {
		// The list has neither restart counts nor, on engine 20.10, health.
		res, err := c.Engine.client.ContainerInspect(ctx, s.ID, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue // replaced since the list was made
		}
		if err != nil {
			return nil, fmt.Errorf("inspect container %s: %w", containerName(s), err)
		}
		ctr := res.Container
		out := Container{
			ID:           ctr.ID,
			Service:      s.Labels[serviceLabel],
			ConfigHash:   s.Labels[hashLabel],
			RestartCount: ctr.RestartCount,
			ImageID:      ctr.Image,
		}
		if st := ctr.State; st != nil {
			out.State, out.ExitCode = string(st.Status), st.ExitCode
			restart := ctr.HostConfig != nil && (ctr.HostConfig.RestartPolicy.IsAlways() || ctr.HostConfig.RestartPolicy.IsUnlessStopped())
			out.Ended = out.State == "exited" && st.ExitCode == 0 && !restart
			if st.Health != nil && st.Health.Status != "none" {
				out.Health = string(st.Health.Status)
			}
			if out.StartedAt, err = time.Parse(time.RFC3339Nano, st.StartedAt); err != nil {
				return nil, fmt.Errorf("inspect container %s: %w", containerName(s), err)
			}
		}
		containers = append(containers, out)
	}
	return containers, nil
}
