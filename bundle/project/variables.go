package project

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/tree"
	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// buildValues are the variables whose value a build knows: those of the environment
// file beside the compose file, unless git ignores it, the defaults of valise.yaml
// over them, and over all what was given for this build. They decide images; whatever
// else a variable decides is the device's.
func (p *Project) buildValues(ctx context.Context) (map[string]string, error) {
	values, err := p.committedEnv(ctx)
	if err != nil {
		return nil, err
	}
	for name, e := range p.Env {
		if e.Default != "" {
			values[name] = e.Default
		}
	}
	maps.Copy(values, p.Set)
	return values, nil
}

// committedEnv reads the environment file beside the compose file, or else beside
// valise.yaml, and those of included files, whose values count after it. One that git
// ignores belongs to a machine.
func (p *Project) committedEnv(ctx context.Context) (map[string]string, error) {
	name := p.beside(envName)
	if !p.exists(name) {
		name = envName
	}
	all := map[string]string{}
	for _, name := range append([]string{name}, p.includedEnv()...) {
		values, err := p.readEnv(ctx, name)
		if err != nil {
			return nil, err
		}
		for key, value := range values {
			if _, there := all[key]; !there {
				all[key] = value
			}
		}
	}
	return all, nil
}

// includedEnv are the environment files of what the compose files include, as docker
// compose finds them.
func (p *Project) includedEnv() (files []string) {
	for _, name := range p.Compose {
		data, err := readLimited(p.Path(name), MaxComposeSize)
		if err != nil {
			continue // who reads it next says so
		}
		var file struct{ Include []included }
		_ = yaml.Load(data, &file)
		for _, n := range file.Include {
			if n.EnvFile == nil && n.Path.First() != "" {
				n.EnvFile = ComposeFiles{filepath.Join(cmp.Or(n.Directory, filepath.Dir(n.Path.First())), envName)}
			}
			for _, f := range n.EnvFile {
				if f = filepath.FromSlash(f); !filepath.IsAbs(f) && !strings.Contains(f, "$") {
					files = append(files, p.beside(f))
				}
			}
		}
	}
	return files
}

// readEnv reads an environment file, nothing where there is none or git ignores it.
func (p *Project) readEnv(ctx context.Context, name string) (map[string]string, error) {
	_, inside := p.inBundle(name)
	if !p.exists(name) || !inside {
		return nil, nil
	}
	data, err := readLimited(p.Path(name), MaxProjectSize)
	if err != nil {
		return nil, err
	}
	if p.Ignored != nil {
		if ignored, err := p.Ignored(ctx, []string{filepath.ToSlash(name)}); err != nil || len(ignored) > 0 {
			return nil, err
		}
	}
	values, err := dotenv.UnmarshalBytesWithLookup(data, func(string) (string, bool) { return "", false })
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p.Path(name), err)
	}
	return values, nil
}

// envTemplates are names of files that show which variables an environment file
// wants, in the order of preference. A bundle has the first one as EnvExample.
var envTemplates = []string{EnvExample, ".env.sample", ".env.template", ".env.dist", "env.example", "env.sample", "env.template", "example.env", "sample.env", "template.env"}

// envTemplate is the one of this project, or "". A file tree has it under its own name.
func (p *Project) envTemplate() string {
	if p.Tree != nil {
		return p.first(envTemplates[:1])
	}
	names := slices.Clone(envTemplates)
	for i := range names {
		names[i] = p.beside(names[i])
	}
	return p.first(append(names, envTemplates...))
}

// template is what it says; one that cannot be read says nothing, and unread is why.
func (p *Project) template() (f *environ.File, unread, err error) {
	var data []byte
	if name := p.envTemplate(); name != "" {
		var err error
		if data, err = readLimited(p.Path(name), MaxProjectSize); err != nil {
			return nil, nil, err
		}
	}
	if f, unread = p.grammar().Parse(data); unread != nil {
		f, err = p.grammar().Parse(nil)
	}
	return f, unread, err
}

// readsEnv reports whether a service gets the whole environment file of the device.
func (c *composeFile) readsEnv() bool {
	if c == nil {
		return false
	}
	for service := range c.services {
		files, _ := c.attributes(service)["env_file"].([]any)
		for _, f := range files {
			f, _ := f.(map[string]any)
			name, _ := f["path"].(string)
			if text, _, ok := literal(here(name)); ok && onDevice(path.Clean(text)) == envName && f["required"] != false {
				return true
			}
		}
	}
	return false
}

// unknowns gives variables that only a device can set a placeholder each: a number,
// which passes as a string, a number and a size, and is known again in places that
// want something else.
type unknowns struct {
	names []string
	blank []string // names that get no placeholder, as on a device that does not set them

	last    string            // the text that was substituted last
	devices map[string]string // devices as they are written, by what they are with values
	modes   map[string]string // modes of mounts that have a variable, with values, by target
}

var placeholder = lazyregexp.New(`1077[0-9]{4}`)

func (u *unknowns) placeholder(name string) string {
	if slices.Contains(u.blank, name) {
		return ""
	}
	i := slices.Index(u.names, name)
	if i < 0 {
		i = len(u.names)
		u.names = append(u.names, name)
	}
	return fmt.Sprintf("1077%04d", i%10000)
}

// named is a path with the variables in place of their placeholders, for people to read.
func (u *unknowns) named(text string) string {
	if strings.HasPrefix(text, "/") && placeholder.FindStringIndex(text) != nil && placeholder.FindStringIndex(text)[0] == 1 {
		text = text[1:] // as volume has it
	}
	return placeholder.ReplaceAllStringFunc(text, func(number string) string {
		if i, _ := strconv.Atoi(number[4:]); i < len(u.names) {
			return "${" + u.names[i] + "}"
		}
		return number
	})
}

// substitute replaces the variables of one text as compose does, except that a
// variable that has no value gets a placeholder.
func (u *unknowns) substitute(text string, values template.Mapping) (string, error) {
	u.last = text
	required := map[string]bool{}
	for {
		s, err := template.SubstituteWithOptions(text, func(name string) (string, bool) {
			if v, ok := values(name); ok {
				return v, true
			}
			return u.placeholder(name), required[name]
		}, template.WithoutLogging)
		var missing *template.MissingRequiredError
		if !errors.As(err, &missing) || required[missing.Variable] || slices.Contains(u.blank, missing.Variable) {
			return s, err
		}
		required[missing.Variable] = true
	}
}

// fixed are what a text with a placeholder becomes in places that take certain words only.
var fixed = map[tree.Path]string{
	"services.*.healthcheck.interval":             "1s",
	"services.*.healthcheck.timeout":              "1s",
	"services.*.healthcheck.start_period":         "1s",
	"services.*.healthcheck.start_interval":       "1s",
	"services.*.stop_grace_period":                "1s",
	"services.*.deploy.update_config.delay":       "1s",
	"services.*.deploy.update_config.monitor":     "1s",
	"services.*.deploy.update_config.order":       "stop-first",
	"services.*.deploy.rollback_config.delay":     "1s",
	"services.*.deploy.rollback_config.monitor":   "1s",
	"services.*.deploy.rollback_config.order":     "stop-first",
	"services.*.deploy.restart_policy.delay":      "1s",
	"services.*.deploy.restart_policy.window":     "1s",
	"services.*.depends_on.*.condition":           "service_started",
	"services.*.pull_policy":                      "missing",
	"services.*.cgroup":                           "host",
	"services.*.network_mode":                     "bridge",
	"services.*.ipc":                              "shareable",
	"services.*.pid":                              "host",
	"services.*.networks.[]":                      "default",
	"services.*.ports.[].host_ip":                 unknownHost,
	"services.*.volumes.[].source":                "", // as an anonymous volume, which needs none
	"services.*.volumes.[].type":                  "bind",
	"services.*.volumes.[].bind.create_host_path": "true",
	"services.*.volumes.[].bind.recursive":        "enabled",
	"services.*.volumes.[].bind.selinux":          "z",
	"services.*.env_file.[].required":             "true",
	"services.*.build.no_cache":                   "false",
	"services.*.build.privileged":                 "false",
	"services.*.build.pull":                       "false",
}

// casts are for the places of a compose file that take no number, beside those that
// compose knows itself.
func (u *unknowns) casts(known map[tree.Path]interpolation.Cast) map[tree.Path]interpolation.Cast {
	casts := map[tree.Path]interpolation.Cast{
		"services.*.ports.[]":            unknownPort,
		"services.*.volumes.[]":          u.volume,
		"services.*.devices.[]":          u.device,
		"services.*.extra_hosts.*":       unknownAddress,
		"services.*.build.extra_hosts.*": unknownAddress,
	}
	for place, cast := range known {
		casts[place] = func(text string) (any, error) {
			if !placeholder.MatchString(text) {
				return cast(text)
			}
			if v, err := cast("1"); err == nil {
				return v, nil
			}
			return cast("false")
		}
	}
	for place, word := range fixed {
		casts[place] = func(text string) (any, error) {
			if placeholder.MatchString(text) {
				return word, nil
			}
			return text, nil
		}
	}
	return casts
}

// unknownHost is the address of a port that only a device knows.
const unknownHost = "127.10.77.1"

// unknownPort keeps what is known of a port, and gives the rest numbers of its own:
// two ports must differ.
func unknownPort(text string) (any, error) {
	if !placeholder.MatchString(text) {
		return text, nil
	}
	number := func(text string) string {
		n, _ := strconv.Atoi(placeholder.FindString(text)[4:])
		return strconv.Itoa(10000 + n)
	}
	i := strings.LastIndexByte(text, ':')
	port, protocol, _ := strings.Cut(text[i+1:], "/")
	if placeholder.MatchString(port) {
		port = number(port)
	}
	if i >= 0 && !strings.Contains(port, "-") {
		published := text[:i]
		if published = published[strings.LastIndexByte(published, ':')+1:]; placeholder.MatchString(text[:i]) {
			published = number(text[:i])
		}
		port = unknownHost + ":" + published + ":" + port
	}
	if protocol != "" && !placeholder.MatchString(protocol) {
		port += "/" + protocol
	}
	return port, nil
}

// unknownAddress gives a name an address; compose takes that in a map of names too.
func unknownAddress(text string) (any, error) {
	if !placeholder.MatchString(text) {
		return text, nil
	}
	name, _, _ := strings.Cut(strings.Replace(text, "=", ":", 1), ":")
	return name + ":127.0.0.1", nil
}

// volume takes a source that begins with a variable for a directory of the device: a
// volume would have to be declared.
func (u *unknowns) volume(text string) (any, error) {
	parts := strings.Split(text, ":")
	plain := strings.NewReplacer(":-", "  ", ":?", "  ", ":+", "  ").Replace(u.last)
	if mode := u.last[strings.LastIndexByte(plain, ':')+1:]; len(parts) > 2 && strings.Contains(mode, "$") {
		if u.modes == nil {
			u.modes = map[string]string{}
		}
		u.modes[parts[1]] = parts[2]
	}
	if !placeholder.MatchString(text) {
		return text, nil
	}
	for i, part := range parts {
		if i < 2 && placeholder.FindStringIndex(part) != nil && placeholder.FindStringIndex(part)[0] == 0 {
			parts[i] = path.Join("/", part)
		}
	}
	if len(parts) == 1 {
		parts = append(parts, parts[0])
	}
	if len(parts) > 2 && placeholder.MatchString(parts[2]) {
		parts = parts[:2]
	}
	return strings.Join(parts, ":"), nil
}

// device notes how a device is written: compose takes the colon of a default for one
// of its own.
func (u *unknowns) device(text string) (any, error) {
	if u.devices == nil {
		u.devices = map[string]string{}
	}
	if other, ok := u.devices[text]; ok && other != u.last {
		u.devices[text] = strings.ReplaceAll(text, "$", "$$") // whichever it was
	} else {
		u.devices[text] = u.last
	}
	return text, nil
}

// restore writes devices, lists of networks and services, and modes of mounts of a service
// as they are written: without values compose misreads them.
func (c *composeFile) restore(name string, service map[string]any) error {
	s := c.services[name]
	if list, ok := service["devices"].([]any); ok {
		for i := range list {
			if _, long := list[i].(map[string]any); !long || i >= len(s.Devices) {
				continue
			}
			d := s.Devices[i]
			for text, written := range c.unknown.devices {
				source, rest, _ := strings.Cut(text, ":")
				target, permissions, _ := strings.Cut(rest, ":")
				if strings.Contains(written, "$") && source == d.Source && cmp.Or(target, source) == d.Target && cmp.Or(permissions, "rwm") == d.Permissions {
					list[i] = written
				}
			}
		}
	}
	for _, key := range []string{"networks", "depends_on"} { // variables in keys are none
		if all, ok := service[key].(map[string]any); ok && slices.ContainsFunc(sortedKeys(all), func(name string) bool { return strings.Contains(name, "$") }) {
			var list []any
			for _, name := range sortedKeys(all) {
				list = append(list, name)
			}
			service[key] = list
		}
	}
	volumes, _ := service["volumes"].([]any)
	for i := range volumes {
		v, _ := volumes[i].(map[string]any)
		target, _ := v["target"].(string)
		mode, ok := c.unknown.modes[target]
		if !ok {
			continue
		}
		for _, loaded := range s.Volumes {
			if loaded.Target != target {
				continue
			}
			if placeholder.MatchString(mode) {
				return fmt.Errorf("the mode of the mount at %s is a variable without a default: write ro or rw", target)
			}
			if loaded.ReadOnly {
				v["read_only"] = true
			}
			if bind := loaded.Bind; bind != nil && bind.SELinux+bind.Propagation != "" {
				options, _ := v["bind"].(map[string]any)
				if options == nil {
					options = map[string]any{}
					v["bind"] = options
				}
				for key, value := range map[string]string{"selinux": bind.SELinux, "propagation": bind.Propagation} {
					if value != "" {
						options[key] = value
					}
				}
			}
		}
	}
	return nil
}

// variable finds any variable.
var variable = lazyregexp.New(`\$\{?([A-Za-z_][A-Za-z0-9_]*)`)

// noDefault finds ${NAME}, ${NAME:?why}, ${NAME?why} and $NAME.
var noDefault = lazyregexp.New(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:\}|:?\?))`)

// deviceVariable returns the first variable in the strings of v that has no value
// before a device sets it, or "".
func (c *composeFile) deviceVariable(v any) string {
	return append(c.unset(v, nil), "")[0]
}

// undecided are the variables that images depend on and that have no value, of
// services in their order.
func (c *composeFile) undecided() (names []string) {
	for _, service := range sortedKeys(c.images) {
		names = c.unset(c.images[service], names)
		names = c.unset(c.attributes(service)["build"], names)
	}
	return names
}

// open reports which keys of the environment file the app gets without a word about
// what holds when they have no value: in a compose file, a default says it. A file tree
// gets them all.
func (c *composeFile) open() func(key string) bool {
	if c == nil {
		return func(string) bool { return true }
	}
	bare := map[string]bool{} // variables, and whether one of their places has no default
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			text := strings.ReplaceAll(v, "$$", "")
			for _, m := range variable.FindAllStringSubmatch(text, -1) {
				bare[m[1]] = bare[m[1]] || false
			}
			for _, m := range noDefault.FindAllStringSubmatch(text, -1) {
				bare[m[1]+m[2]] = true
			}
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(c.model)
	all := c.readsEnv()
	return func(key string) bool {
		open, used := bare[key]
		return open || all && !used
	}
}

// mentions reports whether the compose file itself has a variable.
func (c *composeFile) mentions(name string) bool {
	_, used := template.ExtractVariables(c.model, template.DefaultPattern)[name]
	return used || slices.Contains(c.passedOn(), name)
}

// unset adds the variables in all strings of v that have no value before a device
// sets them.
func (c *composeFile) unset(v any, names []string) []string {
	switch v := v.(type) {
	case string:
		for _, m := range noDefault.FindAllStringSubmatch(strings.ReplaceAll(v, "$$", ""), -1) {
			name := m[1] + m[2]
			if _, known := c.values[name]; !known {
				names = append(names, name)
			}
		}
	case map[string]any:
		for _, key := range sortedKeys(v) {
			names = c.unset(v[key], names)
		}
	case []any:
		for _, e := range v {
			names = c.unset(e, names)
		}
	}
	return names
}

// required are the variables that the file cannot do without, sorted: ${X:?}, what it
// passes on without a value of its own, and where nothing at all would be wrong, as in
// read_only: ${X}. The version's own is none of them.
func (c *composeFile) required() []string {
	names := c.passedOn()
	used := template.ExtractVariables(c.model, template.DefaultPattern)
	for name, v := range used {
		if v.Required {
			names = append(names, name)
		}
	}
	var doubtful []string
	for _, name := range c.unknown.names {
		if _, ok := used[name]; ok && !slices.Contains(names, name) {
			doubtful = append(doubtful, name)
		}
	}
	names = append(names, c.needed(doubtful)...)
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == c.p.VersionEnv || ofCompose(name) })
}

// ofCompose reports whether docker compose gives a variable its value by itself.
func ofCompose(name string) bool { return name == workingEnv || name == homeEnv }

// needed are those of names without which the file is wrong: halves are looked at, since
// each look reads the whole file.
func (c *composeFile) needed(names []string) []string {
	switch {
	case len(names) == 0 || c.without(names) == nil:
		return nil
	case len(names) == 1:
		return names
	}
	half := len(names) / 2
	return append(c.needed(names[:half:half]), c.needed(names[half:])...)
}

// passedOn are the variables that services get as the device has them
// (environment: [TOKEN]), and those that secrets and configs are made of.
func (c *composeFile) passedOn() (names []string) {
	for name, value := range c.environment(false) {
		if value == nil && bundle.ValidEnvKey(name) {
			names = append(names, name)
		}
	}
	return names
}

// environment are the variables that the file gives to services; those whose value
// it takes from outside have none. Services of profiles that only the device chooses
// are optional.
func (c *composeFile) environment(optional bool) map[string]*string {
	all := map[string]*string{}
	for service, s := range c.services {
		if !optional && c.p.Profiles == nil && len(s.Profiles) > 0 {
			continue
		}
		for name, value := range environmentOf(c.attributes(service)) {
			if _, there := all[name]; !there || value == nil {
				all[name] = value
			}
		}
	}
	for _, kind := range []string{refConfig, refSecret} {
		for _, entry := range section(c.model, kind+"s") {
			entry, _ := entry.(map[string]any)
			if name, _ := entry["environment"].(string); name != "" {
				all[name] = nil
			}
		}
	}
	return all
}

// environmentOf is the environment of a service in either of its forms.
func environmentOf(service map[string]any) map[string]*string {
	all := map[string]*string{}
	switch env := service["environment"].(type) {
	case map[string]any:
		for name, value := range env {
			all[name] = nil
			if value != nil {
				all[name] = new(fmt.Sprint(value))
			}
		}
	case []any:
		for _, e := range env {
			line, _ := e.(string)
			name, value, ok := strings.Cut(line, "=")
			if all[name] = nil; ok {
				all[name] = &value
			}
		}
	}
	return all
}

// taken is a value that nothing else has.
const taken = "\x00taken"

// forget takes values out again that came from around the compose file.
func (c *composeFile) forget() {
	for _, service := range section(c.model, "services") {
		service, _ := service.(map[string]any)
		switch env := service["environment"].(type) {
		case map[string]any:
			for name, value := range env {
				if value == taken {
					env[name] = nil
				}
			}
		case []any:
			for i, e := range env {
				line, _ := e.(string)
				env[i] = strings.TrimSuffix(line, "="+taken)
			}
		}
	}
	for _, kind := range []string{refConfig, refSecret} {
		for _, entry := range section(c.model, kind+"s") {
			entry, _ := entry.(map[string]any)
			maps.DeleteFunc(entry, func(_ string, value any) bool { return value == taken })
		}
	}
}

func section(model map[string]any, name string) map[string]any {
	s, _ := model[name].(map[string]any)
	return s
}
