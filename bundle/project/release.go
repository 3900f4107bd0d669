package project

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Release is a project at one version. Close it.
type Release struct {
	Version string
	Images  []ReleaseImage // sorted by reference
	Files   []ReleaseFile  // sorted by path; the compose file is one of them
	Compose string         // path in Files of the compose file
	// Trees are the files of an app that is a file tree, by platform, sorted by
	// their path in the tree.
	Trees map[bundle.Platform][]ReleaseFile
	// RequiredEnv are the variables that the release cannot do without, sorted;
	// the version's own key is not one of them.
	RequiredEnv []string
	Env         map[string]bundle.EnvKey // what else is known of variables
	// Trust is that of the project, with the keys themselves in place of their files.
	Trust *bundle.Trust
	// Notes are advice about the compose file: what works, but not well on a
	// device.
	Notes []string

	// Local are the files that do not travel and that a device must have, as
	// bundle.Device has them.
	Local []string

	Origins map[string]bundle.Origin // where the data of new volumes come from
	// Create are networks and volumes that a device makes.
	Create *bundle.Create

	compose *composeFile // of a compose app
	carried []carried    // what of its references travels

	temp []string // directories of unpacked archives
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
	if p.Tree != nil {
		return p.treeRelease(ctx, version, platforms)
	}
	r := &Release{Version: version, Compose: filepath.Base(p.Compose.First())}
	c, err := p.loadCompose(ctx, version)
	if err != nil {
		return nil, err
	}
	r.RequiredEnv = c.required()
	if r.Images, err = p.images(c, version, platforms); err != nil {
		return nil, err
	}
	if err := p.checkServices(c.services); err != nil {
		return nil, err
	}
	if err := p.checkExternal(c); err != nil {
		return nil, err
	}
	if err := p.checkPaths(c); err != nil {
		return nil, err
	}
	r.Create, r.Origins = p.creates(), p.origins()
	r.compose = c
	if r.Files, err = p.files(ctx, r, platforms); err != nil {
		return nil, err
	}
	if r.Trust, err = p.trust(); err != nil {
		return nil, err
	}
	r.Notes = append(r.Notes, p.notes(c)...)
	if err := p.checkNamedPlatforms(c, platforms, r); err != nil {
		return nil, err
	}
	if note, err := p.overrideNote(ctx); err != nil {
		return nil, err
	} else if note != "" {
		r.Notes = append(r.Notes, note)
	}
	return r, p.addEnv(r, r.Files)
}

// treeRelease is Release of a file tree.
func (p *Project) treeRelease(ctx context.Context, version string, platforms []bundle.Platform) (*Release, error) {
	r := &Release{Version: version}
	err := p.trees(ctx, r, platforms)
	if err == nil {
		r.Files, err = p.files(ctx, r, platforms)
	}
	if err == nil {
		r.Trust, err = p.trust()
	}
	if err == nil {
		err = p.addEnv(r, r.Trees[platforms[0]])
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// images joins what the compose file and the project say of every image.
func (p *Project) images(c *composeFile, version string, platforms []bundle.Platform) ([]ReleaseImage, error) {
	byReference := map[string]*ReleaseImage{}
	used := map[string]bool{}
	for _, name := range sortedKeys(c.services) {
		s := c.services[name]
		if s.Image == "" {
			return nil, p.composeError("service %s has neither an image nor a build section", name)
		}
		if v := c.deviceVariable(c.images[name]); v != "" {
			return nil, p.composeError("service %s: image %q depends on %s, which has no value: %s", name, c.images[name], v, p.advice(v, c.images[name]))
		}
		key := nameOf(s.Image)
		used[key] = true
		img, ok := p.Images[key]
		switch {
		case !ok && s.Build != nil:
			var err error
			if img, err = p.composeBuild(c, name, platforms); err != nil {
				return nil, err
			}
		case !ok:
			img = Image{From: From{Source: s.Image}}
		default:
			var err error
			if img, err = p.renderImage(key, img, version, platforms); err != nil {
				return nil, err
			}
		}
		r, ok := byReference[s.Image]
		if !ok {
			r = &ReleaseImage{Reference: s.Image, Image: img}
			byReference[s.Image] = r
		}
		// A service may run what another one builds.
		if _, given := p.Images[key]; !given && s.Build != nil {
			if r.Image.Dockerfile != "" && !reflect.DeepEqual(r.Image, img) {
				return nil, p.composeError("services %s and %s build image %s in different ways", r.Services[0], name, s.Image)
			}
			r.Image = img
		}
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

// expression is a variable with all that belongs to it.
var expression = lazyregexp.New(`\$(\{[^{}]*\}|[A-Za-z_][A-Za-z0-9_]*)`)

// namesVersion finds names of build arguments that may be the version of the app.
var namesVersion = lazyregexp.New(`(?i)VERSION|TAG|RELEASE`)

// advice says what to do about a variable that must have a value when a release is
// built. It may be the version of the app in the tag of an image, or in a build section, whose
// image is "", by its name.
func (p *Project) advice(name, image string) string {
	value := fmt.Sprintf("--set %s=VALUE, or env: {%s: {default: VALUE}}", name, name)
	version := namesVersion.MatchString(name)
	if image != "" {
		before, _, _ := strings.Cut(strings.ReplaceAll(image, "${"+name, "$"+name), "$"+name)
		before = expression.ReplaceAllString(before, "")
		version = strings.Contains(before[strings.LastIndexByte(before, '/')+1:], ":")
	}
	if !version {
		return fmt.Sprintf("give it a default, %s in %s", value, DefaultFile)
	}
	return fmt.Sprintf("when it is the version of the app, write ${%s}, or version_env: %s in %s; otherwise a default, %s", p.VersionEnv, name, DefaultFile, value)
}

// renderImage replaces the templates of img that are the same for all platforms.
func (p *Project) renderImage(name string, img Image, version string, platforms []bundle.Platform) (Image, error) {
	var failed error
	set := func(s string) string {
		s, err := render(name, s, p.versionVars(version))
		failed = errors.Join(failed, err)
		return s
	}
	all := func(m map[string]string) map[string]string {
		m = maps.Clone(m)
		for key := range m {
			m[key] = set(m[key])
		}
		return m
	}
	img.From.Source, img.Base, img.Args = set(img.From.Source), set(img.Base), all(img.Args)
	if img.Go != nil {
		g := *img.Go
		g.Base, g.Ldflags = set(cmp.Or(g.Base, Scratch)), set(g.Ldflags)
		img.Go = &g
	}
	if each := img.From.Each; each != nil {
		img.From.Each = map[bundle.Platform]string{}
		for _, platform := range platforms {
			source, ok := each[platform]
			if !ok {
				return img, p.at([]any{"images", name, "from"}, "image %q has no source for %s", name, platform)
			}
			img.From.Each[platform] = set(source)
		}
	}
	if img.Dockerfile != "" && img.Context == "" {
		img.Context = filepath.Dir(img.Dockerfile)
	}
	if failed != nil {
		return img, p.at([]any{"images", name}, "%v", failed)
	}
	return img, nil
}

// checkServices checks the services that valise.yaml names.
func (p *Project) checkServices(services types.Services) error {
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
		if none(services[name]) {
			return p.at([]any{"health", "compose", i}, "service %s is to have no containers (replicas: 0): it cannot be seen to run", name)
		}
	}
	if c := p.Health.Command; c != nil {
		if err := check(c.Service, "health", "command", "service"); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(p.Hooks) {
		if service := p.Hooks[name].Service; service != "" {
			if err := check(service, "hooks", name, "service"); err != nil {
				return err
			}
		}
	}
	for i, b := range p.Backup {
		kind, service, _ := b.Subject()
		if err := check(service, "backup", i, kind, "service"); err != nil {
			return err
		}
	}
	return nil
}

// checkExternal compares what valise.yaml says of networks and volumes with the
// compose file, and refuses what only a swarm has.
func (p *Project) checkExternal(c *composeFile) error {
	external := func(kind, name string) bool {
		section, _ := c.model[kind].(map[string]any)
		entry, _ := section[name].(map[string]any)
		return entry["external"] != nil && entry["external"] != false
	}
	for _, key := range sortedKeys(p.Networks) {
		if !external("networks", key) {
			return p.at([]any{"networks", key}, "%s has no network %s with external: true", p.Compose, key)
		}
	}
	for _, key := range sortedKeys(p.Volumes) {
		v := p.Volumes[key]
		_, there := section(c.model, "volumes")[key]
		switch {
		case v.From != "" && v.Empty || v.Create && (v.From != "" || v.Empty):
			return p.at([]any{"volumes", key}, "want one of create, from and empty")
		case v.From == "" && !v.Empty && !external("volumes", key):
			return p.at([]any{"volumes", key}, "%s has no volume %s with external: true", p.Compose, key)
		case (v.From != "" || v.Empty) && (!there || external("volumes", key)):
			return p.at([]any{"volumes", key}, "%s has no volume %s of its own%s", p.Compose, key, didYouMean(key, sortedKeys(section(c.model, "volumes"))))
		case v.From == key:
			return p.at([]any{"volumes", key, "from"}, "from is the key of another volume, in the release before")
		}
	}
	for _, kind := range []string{"configs", "secrets"} {
		section, _ := c.model[kind].(map[string]any)
		for _, key := range sortedKeys(section) {
			if external(kind, key) {
				return p.composeError("%s %s is external: docker compose has none, only a swarm does; write file: or environment:", strings.TrimSuffix(kind, "s"), key)
			}
		}
	}
	return nil
}

// checkNamedPlatforms compares the platform that a service names with those of the release:
// other devices refuse it.
func (p *Project) checkNamedPlatforms(c *composeFile, platforms []bundle.Platform, r *Release) error {
	for _, name := range sortedKeys(c.services) {
		named := c.services[name].Platform
		if named == "" || placeholder.MatchString(named) {
			continue
		}
		q, err := bundle.ParsePlatform(named)
		if err != nil {
			return p.composeError("service %s: platform %q is not one platform: leave it out, the release has an image for each", name, named)
		}
		others := slices.DeleteFunc(slices.Clone(platforms), func(o bundle.Platform) bool { return o.OS() == q.OS() && o.Arch() == q.Arch() })
		if len(others) > 0 {
			r.Notes = append(r.Notes, fmt.Sprintf("service %s has platform: %s: devices of %v refuse it; leave platform out, the release has an image for each", name, named, others))
		}
	}
	return nil
}

// laptopPath are absolute paths of macOS, of Docker Desktop and of Windows below Linux.
var laptopPath = lazyregexp.New(`^/(Users|Volumes|Applications|Library|System|private|host_mnt|mnt/[a-z]/Users)(/|$)`)

// checkPaths refuses absolute paths that no device has: an engine would make an empty
// directory in the place of each.
func (p *Project) checkPaths(c *composeFile) error {
	check := func(user, at string) error {
		if !laptopPath.MatchString(at) {
			return nil
		}
		if system, ok := strings.CutPrefix(at, "/private"); ok {
			return p.composeError("%s uses %s, a path of macOS: on a device it is %s", user, at, system)
		}
		return p.composeError("%s uses %s, a path of a laptop that a device does not have: write one from the compose file, or a variable", user, at)
	}
	for _, name := range sortedKeys(c.services) {
		s, user := c.services[name], "service "+name
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if err := check(user, v.Source); err != nil {
					return err
				}
			}
		}
		for _, f := range s.EnvFiles {
			if err := check(user, f.Path); err != nil {
				return err
			}
		}
	}
	for _, kind := range []string{refConfig, refSecret} {
		entries := section(c.model, kind+"s")
		for _, name := range sortedKeys(entries) {
			entry, _ := entries[name].(map[string]any)
			at, _ := entry["file"].(string)
			if err := check(kind+" "+name, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// files lists the files of the bundle that are not images.
func (p *Project) files(ctx context.Context, r *Release, platforms []bundle.Platform) ([]ReleaseFile, error) {
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
	if p.Tree == nil { // else they are part of the tree
		if err := add(r.Compose, p.Path(p.Compose.First()), "compose"); err != nil {
			return nil, err
		}
		if err := p.carry(ctx, r, add); err != nil {
			return nil, err
		}
		if name := p.envTemplate(); name != "" {
			if err := add(EnvExample, p.Path(name)); err != nil {
				return nil, err
			}
		}
	}
	if p.Trust != nil && p.Trust.TrustedRoot != "" {
		if err := add(p.Trust.TrustedRoot, p.Path(p.Trust.TrustedRoot), "trust", "trusted_root"); err != nil {
			return nil, err
		}
	}
	for _, platform := range platforms {
		source, err := p.installer(ctx, platform)
		if err != nil {
			return nil, err
		}
		if source == "" {
			continue
		}
		name := bundle.InstallerPath(platform)
		if err := add(name, source, "installer"); err != nil {
			return nil, err
		}
		// It is a program whatever the mode it was unpacked with.
		f := files[name]
		f.Executable = true
		files[name] = f
	}
	if p.Engine != nil {
		for _, platform := range platforms {
			if err := p.engineFiles(platform, add); err != nil {
				return nil, err
			}
		}
	}
	var list []ReleaseFile
	for _, path := range sortedKeys(files) {
		list = append(list, files[path])
	}
	var bad *bundle.FormatError
	if errors.As(bundle.CheckPaths(sortedKeys(files)), &bad) {
		return nil, p.at([]any{"files"}, "%s: %s: rename it, or leave it out with files: [\"!PATH\"]", bad.Path, bad.Detail)
	}
	return list, nil
}

// installer is where the installer for a platform is, or "".
func (p *Project) installer(ctx context.Context, platform bundle.Platform) (string, error) {
	switch {
	case p.Installer == NoInstaller, p.Installer == "" && p.Installers == nil:
		return "", nil
	case p.Installer == "":
		return p.Installers(ctx, platform)
	}
	return filepath.Join(p.Path(p.Installer), platform.Dashed(), bundle.InstallerName), nil
}

// carry adds the files that valise.yaml and the compose file name.
func (p *Project) carry(ctx context.Context, r *Release, add func(path, source string, at ...any) error) error {
	c, err := p.carrier(ctx)
	if err != nil {
		return err
	}
	for i, item := range p.Files {
		if err := c.item(item, "files", i); err != nil {
			return err
		}
	}
	if r.carried, err = c.carryReferences(r.compose); err != nil {
		return err
	}
	for _, name := range sortedKeys(c.files) {
		if err := add(name, c.files[name].Source); err != nil {
			return err
		}
	}
	r.Notes, r.Local = append(r.Notes, c.notes...), sortedKeys(c.local)
	if len(r.carried) == 0 && !r.compose.changed {
		return nil
	}
	for _, name := range append([]string{p.Compose.First()}, r.compose.others...) {
		at, ok := p.inBundle(name)
		if !ok {
			return p.composeError("takes parts from %s, %s", name, p.outside())
		}
		if err := add(path.Join(SourceDir, at), p.Path(name), "compose"); err != nil {
			return err
		}
	}
	return nil
}

// trust reads the keys of the signers to come.
func (p *Project) trust() (*bundle.Trust, error) {
	if p.Trust == nil {
		return nil, nil
	}
	t := &bundle.Trust{Signers: slices.Clone(p.Trust.Signers), TrustedRoot: p.Trust.TrustedRoot}
	for i, s := range t.Signers {
		if s.Key == "" {
			continue
		}
		key, err := os.ReadFile(p.Path(s.Key))
		if err != nil {
			return nil, p.at([]any{"trust", "signers", i, "key"}, "read public key: %v", err)
		}
		if block, _ := pem.Decode(key); block == nil || block.Type != "PUBLIC KEY" {
			return nil, p.at([]any{"trust", "signers", i, "key"}, "%s is not a public key in PEM", s.Key)
		}
		t.Signers[i].Key = string(key)
	}
	return t, nil
}

// nameOf is an image reference without tag and digest.
func nameOf(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// Builds reports whether images of the release are made of Dockerfiles, and of Go
// packages.
func (p *Project) Builds(ctx context.Context) (dockerfiles, packages bool, err error) {
	if p.Tree != nil {
		return false, false, nil
	}
	c, err := p.loadCompose(ctx, "0.0.0")
	if err != nil {
		return false, false, err
	}
	for _, s := range c.services {
		img, given := p.Images[nameOf(s.Image)]
		dockerfiles = dockerfiles || img.Dockerfile != "" || !given && s.Build != nil
		packages = packages || img.Go != nil
	}
	return dockerfiles, packages, nil
}
