package project

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
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

// InstallerName is the program that a bundle carries for every platform.
const InstallerName = "valise-installer"

// Release is a project at one version.
type Release struct {
	Version string
	Images  []ReleaseImage // sorted by reference
	Files   []ReleaseFile  // sorted by path; the compose file is one of them
	Compose string         // path in Files of the compose file
	// RequiredEnv are the variables that the compose file cannot do without,
	// sorted; the version's own key is not one of them.
	RequiredEnv []string
}

// ReleaseImage is an image that services of the compose file run.
type ReleaseImage struct {
	Reference string   // as the compose file has it, variables replaced
	Services  []string // sorted
	Image     Image    // what the project says of it; From is Reference when it says nothing
}

// ReleaseFile is a file that goes into the bundle as it is.
type ReleaseFile struct {
	Path       string // in the bundle
	Source     string // on this machine
	Executable bool
}

// Release reads the compose file and finds the images and files that a release
// of this version for these platforms needs. It neither reads the environment of
// this machine nor the network.
func (p *Project) Release(ctx context.Context, version string, platforms []bundle.Platform) (*Release, error) {
	r := &Release{Version: version, Compose: filepath.Base(p.Compose)}
	services, required, err := p.loadCompose(ctx, version)
	if err != nil {
		return nil, err
	}
	r.RequiredEnv = required
	if r.Images, err = p.images(services); err != nil {
		return nil, err
	}
	if err := p.checkServices(services); err != nil {
		return nil, err
	}
	if r.Files, err = p.files(platforms); err != nil {
		return nil, err
	}
	return r, nil
}

// service is what we need to know of a service of the compose file.
type service struct {
	image string
	build bool
}

// loadCompose returns the services of the compose file by name, and the variables
// it requires.
func (p *Project) loadCompose(ctx context.Context, version string) (map[string]service, []string, error) {
	file := p.Path(p.Compose)
	data, err := readLimited(file, MaxComposeSize)
	if err != nil {
		return nil, nil, p.at([]any{"compose"}, "read compose file: %v", err)
	}
	details := types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: []types.ConfigFile{{Filename: file, Content: data}},
		Environment: types.Mapping{p.VersionEnv: version},
	}
	var other error // a file outside the bundle that the compose file takes parts from
	options := func(o *loader.Options) {
		o.SetProjectName(p.Project, true)
		o.Profiles = []string{"*"}
		o.SkipResolveEnvironment = true // an env_file is the device's
		o.SkipResolveLabels = true
		o.Interpolate.Substitute = substitute
		o.Listeners = append(o.Listeners, func(event string, data map[string]any) {
			if other == nil {
				other = p.checkOtherFile(event, data)
			}
		})
	}
	loaded, err := loader.LoadWithContext(ctx, details, options)
	if err != nil {
		return nil, nil, p.composeError("%s", oneLine(err, file))
	}
	if other != nil {
		return nil, nil, p.composeError("%v", other)
	}
	// The same once more with variables left alone: what an image name is made of.
	model, err := loader.LoadModelWithContext(ctx, details, options, func(o *loader.Options) {
		o.SkipInterpolation, o.SkipValidation, o.Listeners = true, true, nil
	})
	if err != nil {
		return nil, nil, p.composeError("%s", oneLine(err, file))
	}
	services := map[string]service{}
	raw, _ := model["services"].(map[string]any)
	for name, s := range loaded.Services {
		services[name] = service{image: s.Image, build: s.Build != nil}
		attributes, _ := raw[name].(map[string]any)
		text, _ := attributes["image"].(string)
		if v := p.deviceVariable(text); v != "" {
			return nil, nil, p.composeError("service %s: image %q depends on %s, which only a device knows: use ${%s} or give a default", name, text, v, p.VersionEnv)
		}
	}
	var required []string
	for name, v := range template.ExtractVariables(model, template.DefaultPattern) {
		if v.Required && name != p.VersionEnv {
			required = append(required, name)
		}
	}
	slices.Sort(required)
	return services, required, nil
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

// checkOtherFile refuses a compose file that takes parts from a file which is
// not in the bundle: on the device it would be missing. An include is refused
// altogether, because it also reads the .env file of this machine.
func (p *Project) checkOtherFile(event string, data map[string]any) error {
	if event == "include" {
		return errors.New("include is not supported: write the services here, or use extends")
	}
	name, ok := data["file"].(string)
	if event != "extends" || !ok {
		return nil
	}
	if filepath.Dir(p.Compose) != "." || !slices.Contains(p.Files, filepath.ToSlash(filepath.Clean(name))) {
		return fmt.Errorf("extends file %s: want it beside %s and listed under files", name, DefaultFile)
	}
	return nil
}

func (p *Project) composeError(format string, args ...any) error {
	return &Error{File: filepath.Join(filepath.Dir(p.File), p.Compose), Detail: fmt.Sprintf(format, args...)}
}

// images joins what the compose file and the project say of every image.
func (p *Project) images(services map[string]service) ([]ReleaseImage, error) {
	byReference := map[string]*ReleaseImage{}
	used := map[string]bool{}
	for _, name := range sortedKeys(services) {
		s := services[name]
		if s.image == "" {
			return nil, p.composeError("service %s has no image: write image: %s/%s:${%s}", name, p.App, name, p.VersionEnv)
		}
		key := nameOf(s.image)
		used[key] = true
		img, ok := p.Images[key]
		if !ok && s.build {
			return nil, p.composeError("service %s is built from source, which valise does not do: "+
				"write in %s images: {%s: {base: ..., files: [...]}}, or from: if something else builds it", name, DefaultFile, key)
		}
		if !ok {
			img = Image{From: s.image}
		}
		if byReference[s.image] == nil {
			byReference[s.image] = &ReleaseImage{Reference: s.image, Image: img}
		}
		r := byReference[s.image]
		r.Services = append(r.Services, name)
	}
	for _, name := range sortedKeys(p.Images) {
		if !used[name] {
			return nil, p.at([]any{"images", name}, "no service of %s runs image %q%s", p.Compose, name, didYouMean(name, sortedKeys(used)))
		}
	}
	var images []ReleaseImage
	for _, reference := range sortedKeys(byReference) {
		images = append(images, *byReference[reference])
	}
	return images, nil
}

// checkServices checks the services that valise.yaml names.
func (p *Project) checkServices(services map[string]service) error {
	check := func(name string, at ...any) error {
		if _, ok := services[name]; !ok {
			return p.at(at, "%s has no service %q%s", p.Compose, name, didYouMean(name, sortedKeys(services)))
		}
		return nil
	}
	for i, name := range p.Health.Compose {
		if err := check(name, "health", "compose", i); err != nil {
			return err
		}
	}
	for i, b := range p.Backup {
		if err := check(b.Postgres.Service, "backup", i, "postgres", "service"); err != nil {
			return err
		}
	}
	return nil
}

// files lists the files of the bundle that are not images.
func (p *Project) files(platforms []bundle.Platform) ([]ReleaseFile, error) {
	files := map[string]ReleaseFile{}
	add := func(path, source string, at ...any) error {
		info, err := os.Stat(source)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return p.at(at, "file %s does not exist", source)
		case err != nil:
			return p.at(at, "%v", err)
		case !info.Mode().IsRegular():
			return p.at(at, "%s is not a file", source)
		}
		if other, ok := files[path]; ok && other.Source != source {
			return p.at(at, "%s and %s would both be %s in the bundle", other.Source, source, path)
		}
		files[path] = ReleaseFile{Path: path, Source: source, Executable: info.Mode()&0o100 != 0}
		return nil
	}
	if err := add(filepath.Base(p.Compose), p.Path(p.Compose), "compose"); err != nil {
		return nil, err
	}
	for i, f := range p.Files {
		if err := add(f, p.Path(f), "files", i); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(p.Path(EnvExample)); err == nil {
		if err := add(EnvExample, p.Path(EnvExample)); err != nil {
			return nil, err
		}
	}
	if p.Installer != "" {
		for _, platform := range platforms {
			name := platform.Dashed() + "/" + InstallerName
			if err := add("installer/"+name, filepath.Join(p.Path(p.Installer), filepath.FromSlash(name)), "installer"); err != nil {
				return nil, err
			}
			// It is a program whatever the mode it was unpacked with.
			f := files["installer/"+name]
			f.Executable = true
			files["installer/"+name] = f
		}
	}
	var list []ReleaseFile
	for _, path := range sortedKeys(files) {
		list = append(list, files[path])
	}
	return list, nil
}

// nameOf is an image reference without tag and digest.
func nameOf(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

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
