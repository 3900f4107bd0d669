package project

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/paths"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// composeFile is a compose file at one version of the app.
type composeFile struct {
	p        *Project
	services types.Services
	secrets  types.Secrets
	model    map[string]any             // as it is written, with its variables, in the long form
	images   map[string]string          // of the services, as they are written
	values   map[string]string          // of variables that the build knows
	others   []string                   // files it takes parts from, relative to the project's directory
	changed  bool                       // the release cannot have it as it is
	unknown  unknowns                   // variables that only a device sets
	without  func(names []string) error // reads the file as on a device that does not set these variables
}

// text is a string of a service as it is written, or "".
func (c *composeFile) text(service, key string) string {
	s, _ := c.attributes(service)[key].(string)
	return s
}

func (c *composeFile) attributes(service string) map[string]any {
	all, _ := c.model["services"].(map[string]any)
	attributes, _ := all[service].(map[string]any)
	return attributes
}

// loadCompose reads the compose files.
func (p *Project) loadCompose(ctx context.Context, version string) (*composeFile, error) {
	dir, err := filepath.Abs(filepath.Dir(p.Path(p.Compose.First()))) // of a relative one, parts of parts are looked for in the wrong place
	if err != nil {
		return nil, err
	}
	details := types.ConfigDetails{WorkingDir: dir}
	for _, name := range p.Compose {
		data, err := readLimited(p.Path(name), MaxComposeSize)
		if err != nil {
			return nil, p.at([]any{"compose"}, "read compose file: %v", err)
		}
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: p.Path(name), Content: data})
	}
	values, err := p.buildValues(ctx)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{workingEnv: ".", homeEnv: "~"} { // docker compose has them of its own
		if _, given := values[name]; !given {
			values[name] = value
		}
	}
	values[p.VersionEnv] = version
	c := &composeFile{p: p, values: values, images: map[string]string{}, others: slices.Clone(p.Compose[1:]), changed: len(p.Compose) > 1 || p.Profiles != nil}
	options := func(o *loader.Options) {
		o.SetProjectName(p.Project, true)
		if o.Profiles = p.Profiles; p.Profiles == nil {
			o.Profiles = []string{"*"}
		}
		o.SkipResolveEnvironment = true // an env_file is the device's
		o.SkipResolveLabels = true
		o.ResolvePaths = false // "./x" is the app's, "/x" the device's
		o.Interpolate.Substitute = c.unknown.substitute
		o.Interpolate.TypeCastMapping = c.unknown.casts(o.Interpolate.TypeCastMapping)
		o.Listeners = append(o.Listeners, c.takes)
	}
	details.Environment = values
	loaded, err := loader.LoadWithContext(ctx, details, options)
	if err != nil {
		return nil, p.composeError("%s", c.unknown.named(p.oneLine(err)))
	}
	for _, name := range p.Compose {
		if err := c.partsOf(name, filepath.Dir(p.Compose.First())); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(c.others); i++ { // grows
		name := c.others[i]
		if i >= maxParts {
			return nil, p.composeError("it takes parts from more than %d other files", maxParts)
		}
		if err := c.within(name); err != nil {
			return nil, err
		}
		if err := c.partsOf(name, filepath.Dir(name)); err != nil {
			return nil, err
		}
	}
	c.without = func(names []string) error {
		c.unknown.blank = names
		defer func() { c.unknown.blank = nil }()
		details := details
		details.Environment = values
		_, err := loader.LoadWithContext(ctx, details, options, func(o *loader.Options) { o.Listeners = nil })
		return err
	}
	homeless, err := c.homeless()
	if err != nil {
		return nil, err
	}
	for _, s := range loaded.Services {
		for i, v := range s.Volumes {
			s.Volumes[i].Source, _ = homeless(v.Source).(string)
		}
	}
	c.services, c.secrets = loaded.Services, loaded.Secrets
	ofBuilds := c.ofBuilds()
	c.changed = c.changed || len(c.others) > 0 || len(ofBuilds) > 0
	// The same once more with variables left alone: what an image name is made of,
	// and what a device gets.
	load := func(environment types.Mapping) error {
		details.Environment = environment
		c.model, err = loader.LoadModelWithContext(ctx, details, options, func(o *loader.Options) {
			o.SkipInterpolation, o.SkipValidation, o.SkipNormalization, o.SkipDefaultValues, o.SkipConsistencyCheck = true, true, true, true, true
			o.Listeners = nil
		})
		if err != nil {
			return p.composeError("%s", c.unknown.named(p.oneLine(err)))
		}
		c.model, _ = homeless(c.model).(map[string]any)
		return nil
	}
	if err := load(types.Mapping{}); err != nil {
		return nil, err
	}
	if c.changed {
		// An included file gets values of the .env beside it, which are nobody's but this
		// machine's. What is given wins over them, so it shows where they went.
		given := types.Mapping{}
		for name := range c.environment(true) {
			given[name] = taken
		}
		if err := load(given); err != nil {
			return nil, err
		}
		c.forget()
	}
	for _, name := range ofBuilds {
		delete(section(c.model, "secrets"), name)
	}
	c.choose()
	return c, nil
}

// homeless writes ~ in place of the home directory, which compose-go puts into what files
// name that another one includes or extends. It stays where a file has it in full.
func (c *composeFile) homeless() (func(any) any, error) {
	home := paths.ExpandUser("~")
	var written []byte
	for _, name := range c.others {
		b, err := readLimited(c.p.Path(name), MaxComposeSize)
		if err != nil {
			return nil, c.p.composeError("%s", c.p.oneLine(err))
		}
		written = append(written, b...)
	}
	var replace func(v any) any
	replace = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for key, x := range v {
				v[key] = replace(x)
			}
		case []any:
			for i, x := range v {
				v[i] = replace(x)
			}
		case string:
			if rest, ok := strings.CutPrefix(v, home); ok && len(home) > 1 && (rest == "" || os.IsPathSeparator(rest[0])) && !bytes.Contains(written, []byte(v)) {
				return "~" + filepath.ToSlash(rest)
			}
		}
		return v
	}
	return replace, nil
}

// takes notes another file that the compose file takes parts from.
func (c *composeFile) takes(event string, data map[string]any) {
	var names []string
	switch event {
	case "extends":
		name, _ := data["file"].(string)
		names = []string{name}
	case "include":
		names, _ = data["path"].(types.StringList)
	}
	for _, name := range names {
		if name != "" {
			c.part(c.from(filepath.Dir(c.p.Compose.First()), name))
		}
	}
}

// from is a path by that of the project of one that counts from dir.
func (c *composeFile) from(dir, name string) string {
	if name = filepath.FromSlash(name); !filepath.IsAbs(name) {
		return filepath.Join(dir, name)
	}
	if project, err := filepath.Abs(c.p.Dir); err == nil {
		if rel, err := filepath.Rel(project, name); err == nil {
			return rel
		}
	}
	return name
}

func (c *composeFile) part(name string) {
	if !slices.Contains(c.others, name) {
		c.others = append(c.others, name)
	}
}

// maxParts is how many other files a compose file may take parts from.
const maxParts = 1000

// within refuses to take parts from outside of the repository.
func (c *composeFile) within(name string) error {
	if _, ok := c.p.inBundle(name); !ok {
		return c.p.composeError("it takes parts from %s, %s", name, c.p.outside())
	}
	return nil
}

// partsOf notes the files that one of the files takes parts from, which count from dir:
// of those in another file the listener does not hear. One that compose could not read
// was an error already.
func (c *composeFile) partsOf(name, dir string) error {
	data, err := readLimited(c.p.Path(name), MaxComposeSize)
	if err != nil {
		return nil
	}
	var file struct {
		Include  []included
		Services map[string]struct{ Extends yaml.Node }
	}
	_ = yaml.Load(data, &file)
	known := func(names ...string) (list []string) {
		for _, name := range names {
			if name != "" && !strings.Contains(name, "$") {
				list = append(list, c.from(dir, name))
			}
		}
		return list
	}
	for _, i := range file.Include {
		for _, name := range known(append(i.EnvFile, i.Directory)...) { // read here, and no part of the release
			if err := c.within(name); err != nil {
				return err
			}
		}
		for _, name := range known(i.Path...) {
			c.part(name)
		}
	}
	for _, service := range file.Services {
		if _, file := child(&service.Extends, "file"); file != nil {
			for _, name := range known(file.Value) {
				c.part(name)
			}
		}
	}
	return nil
}

// included is an entry of include.
type included struct {
	Path      ComposeFiles `yaml:"path"`
	EnvFile   ComposeFiles `yaml:"env_file"`
	Directory string       `yaml:"project_directory"`
}

// UnmarshalYAML reads a path, or the long form. What it cannot read, compose refuses.
func (i *included) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		i.Path = ComposeFiles{n.Value}
		return nil
	}
	type long included
	_ = n.Decode((*long)(i))
	return nil
}

func (p *Project) composeError(format string, args ...any) error {
	return &Error{File: filepath.Join(filepath.Dir(p.File), p.Compose.First()), Detail: fmt.Sprintf(format, args...)}
}

// beside is the path, from the directory of the project, of what the compose file
// names.
func (p *Project) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(p.Compose.First()), name)
}

// oneLine keeps a message of the compose library to the first line that says what is
// wrong, without the name of the compose file, which our error has already.
func (p *Project) oneLine(err error) string {
	line, rest, _ := strings.Cut(err.Error(), "\n")
	if strings.HasSuffix(line, "error(s):") { // a list follows
		first, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
		line += " " + first
	}
	line = strings.ReplaceAll(line, " "+p.Path(p.Compose.First())+": ", ": ")
	if key, ok := strings.CutSuffix(line, " false schema"); ok {
		line = key + " is not a known key"
	}
	return line
}
