// Package project reads valise.yaml: what an app's repository says about its
// releases. The file is strict. An unknown or repeated key, a second document and
// a value that makes no sense are errors with file, line and column, because a
// typing error in a health check must not be found by a device.
package project

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
)

// Limits of the files a project is read from, in bytes.
const (
	MaxProjectSize = 1 << 20 // valise.yaml
	MaxComposeSize = 1 << 20 // the compose file
)

// Defaults of valise.yaml.
const (
	DefaultFile   = "valise.yaml"
	DefaultOutput = "{{.App}}-{{.Version}}.tar.gz"
	// defaultOutputSplit is DefaultOutput of one bundle for each platform.
	defaultOutputSplit = "{{.App}}-{{.Version}}-{{.OS}}-{{.Arch}}{{with .Variant}}-{{.}}{{end}}.tar.gz"
	DefaultRetries     = 10
	DefaultInterval    = 5 * time.Second
	DefaultReleases    = 3
	DefaultBackups     = 5
	DefaultTimeout     = 5 * time.Minute // of a hook

	// Scratch is the base of an image that holds only its own files.
	Scratch = "scratch"
	// EnvExample is taken into every bundle when it exists.
	EnvExample = ".env.example"
	// envName is the environment file. It belongs to the device.
	envName = ".env"
)

// Project is a valise.yaml that passed every check. Paths in it are relative to
// Dir and may use either kind of slash the system accepts.
type Project struct {
	App        string                   `yaml:"app"`
	Compose    ComposeFiles             `yaml:"compose"`
	Profiles   []string                 `yaml:"profiles"` // of the compose files; nil leaves the choice to the device
	Tree       *Tree                    `yaml:"tree"`     // instead of Compose
	Platforms  []bundle.Platform        `yaml:"platforms"`
	Images     map[string]Image         `yaml:"images"` // by image name without tag, as the compose file writes it
	Health     bundle.Health            `yaml:"health"`
	Hooks      map[string]bundle.Hook   `yaml:"hooks"`
	Backup     []bundle.Backup          `yaml:"backup"`
	Env        map[string]EnvKey        `yaml:"env"`
	Migration  bundle.Migration         `yaml:"migration"`
	Rollback   *bundle.Rollback         `yaml:"rollback"`
	Requires   *bundle.Requires         `yaml:"requires"`
	Secrets    map[string]bundle.Secret `yaml:"secrets"`
	Limits     bundle.Limits            `yaml:"limits"`
	Keep       bundle.Keep              `yaml:"keep"`
	Networks   map[string]External      `yaml:"networks"`    // external networks of the compose file, by their keys
	Volumes    map[string]Volume        `yaml:"volumes"`     // volumes of the compose file, by their keys
	Project    string                   `yaml:"project"`     // compose project name
	VersionEnv string                   `yaml:"version_env"` // key of the environment file that carries the version
	Files      []FileItem               `yaml:"files"`       // more files of the bundle, under the same path
	Installer  string                   `yaml:"installer"`   // directory with <os>-<arch>[-<variant>]/valise-installer, or NoInstaller; empty: as Installers says
	Engine     *Engine                  `yaml:"engine"`      // nil for none
	Registries map[string]Registry      `yaml:"registries"`  // by host
	Output     string                   `yaml:"output"`      // template of the bundle's file name
	Arch       map[string]string        `yaml:"arch"`        // what {{.Arch}} is, by platform
	Legacy     bundle.Platform          `yaml:"legacy"`      // whose images docker load, and updaters older than Valise, take by their plain names; empty: of the first one
	// Trust is who signs the releases after this one. A key is the path of its
	// file here, and so is the trusted root, which keeps that path in the bundle.
	Trust *bundle.Trust `yaml:"trust"`

	Dir  string `yaml:"-"` // directory of valise.yaml
	File string `yaml:"-"` // valise.yaml as it was named to Load

	// Set has values of variables for this build, over those that buildValues finds.
	Set map[string]string `yaml:"-" json:"-"`

	// Installers returns the file that is the installer for a platform, or "" where there
	// is none. It may be nil: then there are none.
	Installers func(ctx context.Context, platform bundle.Platform) (string, error) `yaml:"-" json:"-"`

	// Ignored returns those of paths, which are relative to Dir, that git ignores. It
	// may be nil.
	Ignored func(ctx context.Context, paths []string) ([]string, error) `yaml:"-" json:"-"`

	doc   *document // for errors with a position
	where place     // see top
}

// NoInstaller is said in place of a directory for a bundle without installers.
const NoInstaller = "none"

// Registry says how a registry is reached.
type Registry struct {
	Mirrors []string `yaml:"mirrors"` // HOST or HOST/PATH, asked before it
	HTTP    bool     `yaml:"http"`    // it speaks HTTP only
	CA      string   `yaml:"ca"`      // file of certificates, PEM, of who certifies it
}

// External says of a network that the compose file calls external whether a device
// makes it.
type External struct {
	Create bool `yaml:"create"`
}

// Volume says of an external volume whether a device makes it, and of another one
// where its data come from when it is new in a release.
type Volume struct {
	Create bool   `yaml:"create"`
	From   string `yaml:"from"`
	Empty  bool   `yaml:"empty"`
}

// origins are the volumes whose data come from somewhere, nil for none.
func (p *Project) origins() map[string]bundle.Origin {
	var all map[string]bundle.Origin
	for key, v := range p.Volumes {
		if v.From != "" || v.Empty {
			if all == nil {
				all = map[string]bundle.Origin{}
			}
			all[key] = bundle.Origin{From: v.From, Empty: v.Empty}
		}
	}
	return all
}

// OwnVolumes are the keys of the volumes in a compose file that are not external, sorted.
func OwnVolumes(compose []byte) []string {
	var top struct {
		Volumes map[string]struct {
			External any `yaml:"external"`
		} `yaml:"volumes"`
	}
	_ = yaml.Unmarshal(compose, &top) // docker compose says what is wrong with it
	maps.DeleteFunc(top.Volumes, func(_ string, v struct {
		External any `yaml:"external"`
	}) bool {
		return v.External != nil && v.External != false
	})
	return sortedKeys(top.Volumes)
}

// creates are the networks and volumes that a device makes, nil for none.
func (p *Project) creates() *bundle.Create {
	var c bundle.Create
	for _, key := range sortedKeys(p.Networks) {
		if p.Networks[key].Create {
			c.Networks = append(c.Networks, key)
		}
	}
	for _, key := range sortedKeys(p.Volumes) {
		if p.Volumes[key].Create {
			c.Volumes = append(c.Volumes, key)
		}
	}
	if len(c.Networks)+len(c.Volumes) == 0 {
		return nil
	}
	return &c
}

// Image says where an image comes from. Exactly one of From, Base, Go and
// Dockerfile is set: From takes an existing image, Base makes one by putting Files
// on it, Go by building a program, and Dockerfile by BuildKit.
//
// A source is a registry reference, oci:DIR (an OCI image layout), archive:FILE
// (docker save) or docker:NAME (the local engine), and a template over
// VersionVars.
type Image struct {
	From From   `yaml:"from"`
	Base string `yaml:"base"` // a source, or scratch
	Go   *Go    `yaml:"go"`

	Dockerfile string            `yaml:"dockerfile"`
	Context    string            `yaml:"context"` // directory; empty means that of Dockerfile
	Target     string            `yaml:"target"`  // stage; empty means the last one
	Args       map[string]string `yaml:"args"`    // templates over VersionVars
	Build      Build             `yaml:"-" json:"-"`

	Files      []Copy            `yaml:"files"`
	Entrypoint []string          `yaml:"entrypoint"` // replaces the base's, and its cmd
	Cmd        []string          `yaml:"cmd"`
	Env        map[string]string `yaml:"env"` // added to the base's
	User       string            `yaml:"user"`
	Workdir    string            `yaml:"workdir"`
	Labels     map[string]string `yaml:"labels"` // added to the base's
	Expose     []string          `yaml:"expose"` // PORT or PORT/PROTOCOL
	StopSignal string            `yaml:"stop_signal"`
}

// Build is what the build section of a compose file says besides.
type Build struct {
	Contexts                    map[string]string // directories, from that of the project, or docker-image://REFERENCE
	Secrets, CacheFrom, CacheTo []string          // as docker buildx takes them
	Pull, NoCache               bool
}

// From is one source for all platforms, or one for each.
type From struct {
	Source string
	Each   map[bundle.Platform]string
}

// UnmarshalYAML reads "from: SOURCE" and "from: {PLATFORM: SOURCE}".
func (f *From) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		return n.Decode(&f.Each)
	}
	return n.Decode(&f.Source)
}

func (f From) empty() bool { return f.Source == "" && f.Each == nil }

// Go is a program that ko builds from source.
type Go struct {
	Package string            `yaml:"package"` // directory of the main package
	Ldflags string            `yaml:"ldflags"` // template over VersionVars; empty means -s -w
	Base    string            `yaml:"base"`    // a source, or scratch, which is the default
	Env     map[string]string `yaml:"env"`     // of go build
}

// UnmarshalYAML reads "go: PACKAGE" and "go: {package: PACKAGE, ...}".
func (g *Go) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		type plain Go
		return n.Decode((*plain)(g))
	}
	return n.Decode(&g.Package)
}

// Copy puts a file, or a directory with all it holds, into an image.
type Copy struct {
	From string `yaml:"from"` // template over Vars
	To   string `yaml:"to"`   // absolute path in the image of the file or directory
	Mode string `yaml:"mode"` // octal, of every file; empty keeps whether a file is executable
}

// Vars are the names a template of Copy.From may use.
type Vars struct {
	OS, Arch, Variant string
	Platform          string // linux/arm/v7
	Version           string // without v
}

// VersionVars are the names that a template may use which is the same for all
// platforms.
type VersionVars struct {
	App, Version string // without v
	Tag          string // with v
}

// Vars returns the variables of one platform.
func (p *Project) Vars(platform bundle.Platform, version string) Vars {
	return Vars{OS: platform.OS(), Arch: cmp.Or(p.Arch[string(platform)], platform.Arch()), Variant: platform.Variant(), Platform: string(platform), Version: version}
}

// Render returns c.From for one platform, relative to the project's directory.
func (c Copy) Render(v Vars) (string, error) { return render("from", c.From, v) }

// OutputVars are the names that the template of the file name may use. Those of
// a platform are empty in a bundle of several.
type OutputVars struct {
	VersionVars
	OS, Arch, Variant string
}

// OutputName returns the file name of the bundle of one version, of one platform
// or, when platform is empty, of several.
func (p *Project) OutputName(version string, platform bundle.Platform) (string, error) {
	text := p.Output
	if platform != "" && text == DefaultOutput {
		text = defaultOutputSplit
	}
	v := p.Vars(platform, version)
	name, err := render("output", text, OutputVars{p.versionVars(version), v.OS, v.Arch, v.Variant})
	if err != nil {
		return "", err
	}
	if name == "" || name[0] == '.' || strings.ContainsAny(name, `/\`) {
		return "", fmt.Errorf("output gives %q, want a file name", name)
	}
	return name, nil
}

// NamesPlatform reports whether the file name says for which platform a bundle
// is: then there is one bundle for each.
func (p *Project) NamesPlatform() bool {
	a, errA := p.OutputName("0.0.0", "linux/a")
	b, errB := p.OutputName("0.0.0", "linux/b")
	return p.Output != DefaultOutput && errA == nil && errB == nil && a != b
}

// Prefix is the directory that the tree of a bundle called name is in.
func Prefix(name string) string {
	for _, suffix := range []string{".gz", ".tgz", ".zst", ".tar"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

func (p *Project) versionVars(version string) VersionVars {
	return VersionVars{p.App, version, "v" + version}
}

func render(name, text string, vars any) (string, error) {
	t, err := template.New(name).Option("missingkey=error").Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, vars); err != nil {
		return "", err
	}
	return b.String(), nil
}

// Path returns the place of a path of the project.
func (p *Project) Path(rel string) string {
	if filepath.IsAbs(rel) {
		return filepath.Clean(rel)
	}
	return filepath.Join(p.Dir, rel)
}

// Load reads and checks the project file at path. It reads no other file.
func Load(ctx context.Context, path string) (*Project, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := readLimited(path, MaxProjectSize)
	if err != nil {
		return nil, fmt.Errorf("read project: %w", err)
	}
	return parse(path, data)
}

func parse(path string, data []byte) (*Project, error) {
	doc, err := parseDocument(path, data)
	if err != nil {
		return nil, err
	}
	p := &Project{
		Health: bundle.Health{Retries: DefaultRetries, Interval: bundle.Duration(DefaultInterval)},
		Keep:   bundle.Keep{Releases: DefaultReleases, Backups: DefaultBackups},
		Output: DefaultOutput,
		Dir:    filepath.Dir(path),
		File:   path,
		doc:    doc,
	}
	if key, _ := child(doc.root, "templates"); key != nil {
		return nil, doc.errorAt(key, "templates belong in tree: services of a compose app read the environment file themselves, or a file that docker compose makes of it: configs: {NAME: {content: \"... ${KEY} ...\"}} in the compose file")
	}
	if err := doc.decode(p); err != nil {
		return nil, err
	}
	for name, h := range p.Hooks {
		if h.Timeout == 0 {
			h.Timeout = bundle.Duration(DefaultTimeout)
			p.Hooks[name] = h
		}
	}
	if p.Tree != nil {
		p.Tree.EnvFile = cmp.Or(p.Tree.EnvFile, "/etc/"+p.App+"/"+p.App+".env")
	}
	if p.Project == "" {
		p.Project = p.App
	}
	if p.VersionEnv == "" && p.Tree == nil {
		p.VersionEnv = bundle.VersionEnvOf(p.App)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}
