package project

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/valise-ota/valise/bundle"
)

// placeholder stands for variables that only the device can set. It passes as a
// string, a number and a size.
const placeholder = "1"

// composeFile is a compose file at one version of the app.
type composeFile struct {
	p        *Project
	file     string
	services types.Services
	model    map[string]any // as it is written, with its variables, in the long form
	others   []string       // files it takes parts from, relative to the project's directory
	labels   bool           // a service has label_file
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

// required are the variables that the file cannot do without, sorted, except the
// version's own: ${X:?}, and what it passes on without a value of its own.
func (c *composeFile) required(versionEnv string) []string {
	names := c.passedOn()
	for name, v := range template.ExtractVariables(c.model, template.DefaultPattern) {
		if v.Required && name != versionEnv {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == versionEnv })
}

// passedOn are the variables that services get as the device has them
// (environment: [TOKEN]), and those that secrets and configs are made of.
func (c *composeFile) passedOn() (names []string) {
	for service := range c.services {
		switch env := c.attributes(service)["environment"].(type) {
		case map[string]any:
			for name, value := range env {
				if value == nil {
					names = append(names, name)
				}
			}
		case []any:
			for _, e := range env {
				if name, _ := e.(string); name != "" && !strings.Contains(name, "=") {
					names = append(names, name)
				}
			}
		}
	}
	for _, kind := range []string{refConfig, refSecret} {
		section, _ := c.model[kind+"s"].(map[string]any)
		for _, entry := range section {
			entry, _ := entry.(map[string]any)
			if name, _ := entry["environment"].(string); name != "" {
				names = append(names, name)
			}
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return !bundle.ValidEnvKey(name) })
}

// loadCompose reads the compose file.
func (p *Project) loadCompose(ctx context.Context, version string) (*composeFile, error) {
	file := p.Path(p.Compose)
	data, err := readLimited(file, MaxComposeSize)
	if err != nil {
		return nil, p.at([]any{"compose"}, "read compose file: %v", err)
	}
	c := &composeFile{p: p, file: file}
	options := func(o *loader.Options) {
		o.SetProjectName(p.Project, true)
		o.Profiles = []string{"*"}
		o.SkipResolveEnvironment = true // an env_file is the device's
		o.SkipResolveLabels = true
		o.ResolvePaths = false // "./x" is the app's, "/x" the device's
		o.Interpolate.Substitute = substitute
		o.Listeners = append(o.Listeners, c.takes)
	}
	details := types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: []types.ConfigFile{{Filename: file, Content: data}},
		Environment: types.Mapping{p.VersionEnv: version},
	}
	loaded, err := loader.LoadWithContext(ctx, details, options)
	if err != nil {
		return nil, p.composeError("%s", oneLine(err, file))
	}
	for _, name := range c.others {
		if !filepath.IsLocal(name) {
			return nil, p.composeError("it takes parts from %s, which is outside the directory of %s", name, DefaultFile)
		}
	}
	// The same once more with variables left alone: what an image name is made of,
	// and what a device gets.
	details.Environment = types.Mapping{}
	model, err := loader.LoadModelWithContext(ctx, details, options, func(o *loader.Options) {
		o.SkipInterpolation, o.SkipValidation, o.SkipNormalization, o.SkipDefaultValues, o.SkipConsistencyCheck = true, true, true, true, true
		o.Listeners = nil
	})
	if err != nil {
		return nil, p.composeError("%s", oneLine(err, file))
	}
	c.services, c.model = loaded.Services, model
	for name := range c.services {
		c.labels = c.labels || c.attributes(name)["label_file"] != nil
	}
	return c, nil
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
		if rel, err := filepath.Rel(c.p.Path("."), name); filepath.IsAbs(name) && err == nil {
			name = rel
		} else if name != "" {
			name = c.p.beside(filepath.FromSlash(name))
		}
		if name != "" && !slices.Contains(c.others, name) {
			c.others = append(c.others, name)
		}
	}
}

// substitute replaces the variables of one text as compose does, except that a
// variable that must be set gets a placeholder: its value is on the device.
func substitute(text string, values template.Mapping) (string, error) {
	required := map[string]bool{}
	for {
		s, err := template.SubstituteWithOptions(text, func(name string) (string, bool) {
			if v, ok := values(name); ok {
				return v, true
			}
			return placeholder, required[name]
		}, template.WithoutLogging)
		var missing *template.MissingRequiredError
		if !errors.As(err, &missing) || required[missing.Variable] {
			return s, err
		}
		required[missing.Variable] = true
	}
}

// noDefault finds ${NAME}, ${NAME:?why}, ${NAME?why} and $NAME.
var noDefault = regexp.MustCompile(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:\}|:?\?))`)

// deviceVariable returns the first variable of text that has no value before a
// device sets it, or "".
func (p *Project) deviceVariable(text string) string {
	for _, m := range noDefault.FindAllStringSubmatch(strings.ReplaceAll(text, "$$", ""), -1) {
		if name := m[1] + m[2]; name != p.VersionEnv {
			return name
		}
	}
	return ""
}

func (p *Project) composeError(format string, args ...any) error {
	return &Error{File: filepath.Join(filepath.Dir(p.File), p.Compose), Detail: fmt.Sprintf(format, args...)}
}

// composeBuild is the image that BuildKit makes of the build section of a
// service. What would make another image than docker compose makes is refused.
func (p *Project) composeBuild(c *composeFile, name string) (Image, error) {
	b := c.services[name].Build
	for _, other := range []struct {
		key string
		set bool
	}{
		{"dockerfile_inline", b.DockerfileInline != ""}, {"additional_contexts", len(b.AdditionalContexts) > 0},
		{"secrets", len(b.Secrets) > 0}, {"ssh", len(b.SSH) > 0}, {"network", b.Network != ""}, {"extra_hosts", len(b.ExtraHosts) > 0},
		{"entitlements", len(b.Entitlements) > 0}, {"privileged", b.Privileged}, {"isolation", b.Isolation != ""},
	} {
		if other.set {
			return Image{}, p.composeError("service %s: build.%s is not supported: build the image before, and write in %s images: {%s: {from: ...}}",
				name, other.key, DefaultFile, nameOf(c.services[name].Image))
		}
	}
	if v := p.anyDeviceVariable(c.attributes(name)["build"]); v != "" {
		return Image{}, p.composeError("service %s: build depends on %s, which only a device knows: use ${%s} or give a default", name, v, p.VersionEnv)
	}
	if strings.Contains(b.Context, "://") || strings.HasPrefix(b.Context, "git@") {
		return Image{}, p.composeError("service %s: build context %s is not on this machine: write in %s images: {%s: {dockerfile: ..., context: ...}}",
			name, b.Context, DefaultFile, nameOf(c.services[name].Image))
	}
	img := Image{Context: p.beside(cmp.Or(b.Context, ".")), Target: b.Target, Labels: maps.Clone(b.Labels)}
	if img.Dockerfile = cmp.Or(b.Dockerfile, "Dockerfile"); !filepath.IsAbs(img.Dockerfile) {
		img.Dockerfile = filepath.Join(img.Context, img.Dockerfile)
	}
	for key, value := range b.Args {
		if value == nil {
			continue // it would be the value of whoever builds
		}
		if img.Args == nil {
			img.Args = map[string]string{}
		}
		img.Args[key] = *value
	}
	return img, nil
}

// beside is the path, from the directory of the project, of what the compose file
// names.
func (p *Project) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(p.Compose), name)
}

// anyDeviceVariable is deviceVariable for all strings of v.
func (p *Project) anyDeviceVariable(v any) string {
	switch v := v.(type) {
	case string:
		return p.deviceVariable(v)
	case map[string]any:
		for _, key := range sortedKeys(v) {
			if name := p.anyDeviceVariable(v[key]); name != "" {
				return name
			}
		}
	case []any:
		for _, e := range v {
			if name := p.anyDeviceVariable(e); name != "" {
				return name
			}
		}
	}
	return ""
}

// oneLine keeps a message of the compose library to its first line, without the
// file's name, which our error has already.
func oneLine(err error, file string) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	line = strings.ReplaceAll(line, " "+file+": ", ": ")
	if key, ok := strings.CutSuffix(line, " false schema"); ok {
		line = key + " is not a known key"
	}
	return line
}
