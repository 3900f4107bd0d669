package project

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Draft is a first valise.yaml for an app that has a compose file.
type Draft struct {
	YAML []byte // every line explained, and accepted by Load
	// Notes are what the app's owner must decide or change.
	Notes []string
	// Files are more files to write beside it where there are none, by path.
	Files map[string][]byte
}

// NewDraft reads compose files and what lies beside them, and writes what it found
// as a project file for directory dir. compose is relative to dir; ignored is that of
// Project.
func NewDraft(ctx context.Context, dir string, compose []string, ignored func(context.Context, []string) ([]string, error)) (*Draft, error) {
	p := &Project{Dir: dir, File: filepath.Join(dir, DefaultFile), Ignored: ignored}
	var name string
	for _, file := range compose {
		p.Compose = append(p.Compose, filepath.ToSlash(file))
		data, err := readLimited(p.Path(file), MaxComposeSize)
		if err != nil {
			return nil, fmt.Errorf("read compose file: %w", err)
		}
		name = cmp.Or(draftProject(data), name)
	}
	var err error
	if p.doc, err = parseDocument(p.File, []byte("compose: "+strconv.Quote(p.Compose.String()))); err != nil {
		return nil, err
	}
	values, err := p.committedEnv(ctx)
	if err != nil {
		return nil, err
	}
	if p.Profiles = splitList(values[profilesEnv], ","); slices.Contains(p.Profiles, "*") {
		p.Profiles = nil
	}
	if projectPattern.MatchString(values[projectEnv]) {
		name = values[projectEnv]
	}
	p.App = draftApp(dir, name)
	p.Project = cmp.Or(name, p.App)
	fromName := bundle.VersionEnvOf(p.App)
	p.VersionEnv = fromName
	c, err := p.loadCompose(ctx, "0.0.0")
	if err != nil {
		return nil, err
	}
	if len(c.services) == 0 {
		return nil, fmt.Errorf("%s: no services", p.Path(p.Compose.First()))
	}
	if p.VersionEnv = cmp.Or(c.versionEnv(), fromName); p.VersionEnv != fromName {
		if c, err = p.loadCompose(ctx, "0.0.0"); err != nil {
			return nil, err
		}
	}
	template, unread, err := p.template()
	if err != nil {
		return nil, err
	}
	p.Env = map[string]EnvKey{}
	for _, name := range c.undecided() {
		if value, _ := template.Lookup(name); value != "" {
			p.Env[name] = EnvKey{Default: value}
		}
	}
	if len(p.Env) > 0 {
		if c, err = p.loadCompose(ctx, "0.0.0"); err != nil {
			return nil, err
		}
	}
	d := &drafter{ctx: ctx, p: p, c: c, once: c.onceOnly(), env: values, template: template}
	d.unread(unread)
	d.comment("Describes the releases of this app for valise build VERSION. Check every line.")
	d.line("\napp: %s", "name of bundles, of the directory on the device and, unless project is set, of the compose project", p.App)
	if why := "images, build sections and required variables come from it"; len(p.Compose) == 1 {
		d.line("compose: %s", why, quote(p.Compose.First()))
	} else {
		d.line("compose: [%s]", "each overrides those before it; "+why, strings.Join(quoteAll(p.Compose), ", "))
	}
	if p.Profiles != nil {
		d.line("profiles: [%s]", profilesEnv+" of "+envName+": services of other profiles are left out", strings.Join(quoteAll(p.Profiles), ", "))
	}
	d.line("platforms: [linux/amd64, linux/arm64]", "every image is packed for each of them")
	if p.Project != p.App {
		d.line("project: %s", "name of the compose project: it decides which volumes are used", p.Project)
	}
	if p.VersionEnv != fromName {
		d.line("version_env: %s", "the variable of the compose file that has the version", p.VersionEnv)
	}
	for _, part := range []func() error{d.images, d.health, d.backup, d.variables, d.files} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	out := []byte(d.text.String())
	if _, err := parse(p.File, out); err != nil {
		return nil, fmt.Errorf("write a project for %s: %w", p.Path(p.Compose.First()), err)
	}
	return &Draft{YAML: out, Notes: append(d.notes, p.notes(c)...)}, nil
}

// drafter writes a project file.
type drafter struct {
	ctx  context.Context // of the one call that it lives for
	p    *Project
	c    *composeFile
	once map[string]bool
	env  map[string]string // of the committed environment file
	// template is what the file shows that people copy to an environment file.
	template *environ.File
	text     strings.Builder
	notes    []string
}

func (d *drafter) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

// unread notes that what shows the keys could not be read.
func (d *drafter) unread(why error) {
	if why != nil {
		d.note("%s: %v: no key of it is in this file, and build refuses it: write it so that it can be read", d.p.envTemplate(), why)
	}
}

// comment writes lines that stand alone.
func (d *drafter) comment(format string, args ...any) {
	fmt.Fprintf(&d.text, "# "+format+"\n", args...)
}

// section writes a comment after an empty line.
func (d *drafter) section(format string, args ...any) {
	d.text.WriteString("\n")
	d.comment(format, args...)
}

// line writes a line with its explanation behind it.
func (d *drafter) line(format, why string, args ...any) {
	fmt.Fprintf(&d.text, format+" # "+why+"\n", args...)
}

// quote writes s as YAML needs it.
func quote(s string) string {
	raw, err := yaml.Marshal(s)
	if text := strings.TrimSuffix(string(raw), "\n"); err == nil && !strings.Contains(text, "\n") && !strings.ContainsAny(s, "#,[]{}&*!|>'\"%@`") {
		return text
	}
	return strconv.Quote(s)
}

var notInApp = lazyregexp.New(`[^a-z0-9]+`)

// draftApp is the name of the compose project, or else of the directory.
func draftApp(dir, project string) string {
	name := project
	if name == "" {
		if abs, err := filepath.Abs(dir); err == nil {
			name = filepath.Base(abs)
		}
	}
	name = notInApp.ReplaceAllString(strings.ToLower(name), "-")
	name = strings.Trim(strings.TrimLeft(name, "0123456789-"), "-")
	if name = name[:min(len(name), 63)]; !bundle.ValidApp(name) {
		return "app"
	}
	return name
}

// draftProject is the name that the compose file gives its project, or "".
func draftProject(compose []byte) string {
	var top struct {
		Name string `yaml:"name"`
	}
	_ = yaml.Unmarshal(compose, &top) // mistakes are found later, with a position
	if !projectPattern.MatchString(top.Name) {
		return ""
	}
	return top.Name
}

var (
	// tagVariable finds the variable of a tag.
	tagVariable = lazyregexp.New(`:[A-Za-z0-9_.-]*\$(?:\{([A-Za-z_][A-Za-z0-9_]*)[^{}]*\}|([A-Za-z_][A-Za-z0-9_]*))[A-Za-z0-9_.-]*$`)
	// ownVersion are names that people give to the version of their own app.
	ownVersion = lazyregexp.New(`^((APP|IMAGE|DOCKER|DOCKER_IMAGE|CONTAINER|RELEASE|BUILD|PROJECT|STACK|DEPLOY|GIT|CI_COMMIT)_)?(VERSION|TAG|RELEASE)$`)
)

// versionEnv is the variable that most images of the app itself have in their tag,
// or "": of images that are built here, and those whose variable is called as the
// version of an app is. POSTGRES_VERSION is not.
func (c *composeFile) versionEnv() string {
	count := map[string]int{}
	best := ""
	prefix := strings.TrimSuffix(bundle.VersionEnvOf(c.p.App), "VERSION")
	for _, service := range sortedKeys(c.images) {
		m := tagVariable.FindStringSubmatch(c.images[service])
		if m == nil || databaseImage(c.services[service].Image) != "" {
			continue
		}
		name := m[1] + m[2]
		if c.services[service].Build == nil && !ownVersion.MatchString(strings.TrimPrefix(strings.ToUpper(name), prefix)) {
			continue
		}
		if count[name]++; best == "" || count[name] > count[best] {
			best = name
		}
	}
	return best
}

func (d *drafter) images() error {
	d.section("Images are pulled from their registry, and those with a build section are built by BuildKit.")
	var other []string
	for _, name := range sortedKeys(d.c.services) {
		s := d.c.services[name]
		switch {
		case d.c.deviceVariable(d.c.images[name]) != "":
			v := d.c.deviceVariable(d.c.images[name])
			d.note("service %s: image %s depends on %s, which has no value: %s", name, d.c.images[name], v, d.p.advice(v, d.c.images[name]))
			continue
		case s.Build == nil:
			continue
		}
		img, err := d.p.composeBuild(d.c, name, nil)
		if err != nil {
			var mistake *Error
			if errors.As(err, &mistake) {
				d.note("%s", mistake.Detail)
				continue
			}
			return err
		}
		key := nameOf(s.Image)
		if d.p.exists(img.Dockerfile) {
			d.comment("  %s: %s with context %s", key, filepath.ToSlash(img.Dockerfile), filepath.ToSlash(img.Context))
			continue
		}
		if !d.p.exists(filepath.Join(img.Context, "go.mod")) {
			d.note("service %s: %s does not exist: write where image %s comes from under images", name, img.Dockerfile, key)
			continue
		}
		other = append(other, fmt.Sprintf("  %s: {go: %s} # a Go module without a Dockerfile: built with ko on an empty base\n", quote(key), quote(filepath.ToSlash(img.Context))))
		d.note("image %s: check that %s is the directory of the main package", key, img.Context)
	}
	if len(other) > 0 {
		d.line("images:", "those that come from somewhere else, by name without tag")
		d.text.WriteString(strings.Join(other, ""))
	}
	return nil
}

func (p *Project) exists(name string) bool {
	_, err := os.Stat(p.Path(name))
	return err == nil
}

func (d *drafter) health() error {
	var checked, running []string
	for _, name := range sortedKeys(d.c.services) {
		s := d.c.services[name]
		switch h := s.HealthCheck; {
		case d.once[name] || len(s.Profiles) > 0:
		case h != nil && !h.Disable:
			checked = append(checked, name)
		default:
			running = append(running, name)
		}
	}
	d.section("When a release counts as healthy. If it does not become healthy, it is rolled back.")
	d.text.WriteString("health:\n")
	if ends := slices.DeleteFunc(sortedKeys(d.c.services), func(name string) bool { return !d.once[name] }); len(ends) > 0 {
		d.comment("  services that end, or do not run: %s", strings.Join(ends, ", "))
	}
	names, why := checked, "the services with a health check: they must be healthy"
	if len(names) == 0 {
		names, why = running, "no service has a health check, so these must only run: add health checks to "+d.p.Compose.String()
	}
	if len(names) == 0 {
		names = sortedKeys(d.c.services)
	}
	d.line("  compose: [%s]", why, strings.Join(quoteAll(names), ", "))
	if len(checked) > 0 && len(running) > 0 {
		d.text.WriteString("  # without a health check: " + strings.Join(running, ", ") + "; named above, they must at least run\n")
	}
	d.text.WriteString("  # http: " + d.url() + " # a URL that must answer 200, as the user sees it\n")
	d.text.WriteString("  # version: version # the member of that answer that must equal the version\n")
	d.line("  retries: %d", "attempts", DefaultRetries)
	d.line("  interval: %s", "between two attempts", DefaultInterval)
	return nil
}

// url is a guess of where the app answers.
func (d *drafter) url() string {
	for _, target := range []uint32{80, 8080, 8000, 3000} {
		for _, name := range sortedKeys(d.c.services) {
			for _, port := range d.c.services[name].Ports {
				if port.Published == "80" {
					return "http://127.0.0.1/health"
				}
				if port.Target == target && port.Published != "" && port.HostIP != unknownHost {
					return "http://127.0.0.1:" + port.Published + "/health"
				}
			}
		}
	}
	return "http://127.0.0.1/health"
}

func quoteAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = quote(s)
	}
	return out
}

// files says which files travel because the compose file names them.
func (d *drafter) files() error {
	c, err := d.p.carrier(d.ctx)
	if err != nil {
		return err
	}
	// What variables proposes to generate is not missing.
	written, err := parse(d.p.File, []byte(d.text.String()))
	if err != nil {
		return err
	}
	d.p.Secrets = written.Secrets
	list, err := c.carryReferences(d.c)
	d.notes = append(d.notes, c.notes...)
	var mistake *Error
	if errors.As(err, &mistake) {
		d.note("%s", mistake.Detail)
		return nil
	}
	if err != nil || len(list) == 0 {
		return err
	}
	users := map[string]string{}
	for _, r := range list {
		users[r.path] = cmp.Or(users[r.path], r.user)
	}
	d.section("These are in a release, because %s names them; files adds others, and \"!PATH\" leaves one out.", d.p.Compose)
	for _, name := range sortedKeys(users) {
		d.comment("  %s, for %s", name, users[name])
	}
	return nil
}
