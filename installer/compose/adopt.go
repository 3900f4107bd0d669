package compose

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/yamledit"
)

// Adoption is what was found of a compose project that something else started.
type Adoption struct {
	Project  string           `json:"project"`
	Dir      string           `json:"dir"`             // of the project
	Files    []string         `json:"files"`           // that docker compose reads
	EnvFrom  []string         `json:"env_from"`        // where its environment file comes from; none when there is none
	Version  string           `json:"version"`         // that it is recorded as
	Services []AdoptedService `json:"services"`        // those with a container
	Notes    []string         `json:"notes,omitempty"` // what an operator should know

	text   []byte // the project in one file
	env    []byte
	copies map[string][]byte // of the files, by their names in the release
	images map[string]bundle.Image
	made   time.Time
	health bundle.Health
	copied bool // the environment file is to be brought to the app's directory
}

// AdoptedService is a service of a project that is adopted.
type AdoptedService struct {
	Name   string   `json:"name"`
	Image  string   `json:"image"`           // the name it was started by
	ID     string   `json:"id"`              // of the image
	State  string   `json:"state,omitempty"` // not in the release
	Hashes []string `json:"hashes"`          // docker compose's, of how its containers were configured
}

// AdoptOptions say what cannot be found out.
type AdoptOptions struct {
	Project string   // empty is the name of the app
	Files   []string // empty are those that the containers name
	EnvFile string   // empty is the one that the containers name, or .env
	Health  string   // URL; may be empty
	Version string   // empty is that of the environment file, or UnknownVersion
}

// UnknownVersion is before all that a release can have.
const UnknownVersion = "0.0.0-adopted"

// adoptedName is where an adopted release keeps what it was found as; the files of the
// project are beside it.
const adoptedName = "adopted/project.json"

// What an adopted release may take to be healthy again: all that ran before it was
// adopted did so.
const (
	adoptedRetries  = 100
	adoptedInterval = 3 * time.Second
)

// Find reads what is there. It changes nothing.
func (a *App) Find(ctx context.Context, o AdoptOptions) (*Adoption, error) {
	f := &Adoption{Project: o.Project, Files: o.Files, Version: o.Version, copies: map[string][]byte{}, images: map[string]bundle.Image{}}
	if f.Project == "" {
		f.Project = a.Name
	}
	c := &docker.Compose{Program: a.Program, Env: a.Env, Engine: a.Engine, Project: f.Project, Profiles: []string{docker.AllProfiles}}
	started, err := c.Started(ctx)
	if err != nil {
		return nil, err
	}
	if len(started) == 0 {
		others, err := a.Engine.Projects(ctx)
		switch {
		case err == nil && len(others) == 0:
			err = fmt.Errorf("no container here is of a compose project %s, nor of any other", f.Project)
		case err == nil:
			err = fmt.Errorf("no container here is of a compose project %s; of others there are: %s; name one with --project", f.Project, strings.Join(others, ", "))
		}
		return nil, err
	}
	if err := f.origin(started, o.EnvFile); err != nil {
		return nil, err
	}
	for _, file := range f.Files {
		if filepath.Dir(file) == a.Dir && slices.Contains(bundle.ComposeOverrides[:], filepath.Base(file)) {
			f.Notes = append(f.Notes, file+" stays, and overrides each release from now on")
		}
	}
	if err := f.read(a.envPath()); err != nil {
		return nil, err
	}
	if err := f.version(a.Name); err != nil {
		return nil, err
	}
	env, name, err := docker.InMemory(f.env)
	if err != nil {
		return nil, err
	}
	defer env.Close()
	c.Dir, c.Files, c.EnvFile = f.Dir, f.Files, name
	if err := a.findServices(ctx, f, c, started); err != nil {
		return nil, err
	}
	f.health = bundle.Health{HTTP: o.Health, Retries: adoptedRetries, Interval: bundle.Duration(adoptedInterval)}
	for _, s := range f.Services {
		if s.State == "running" && !slices.Contains(f.health.Compose, s.Name) {
			f.health.Compose = append(f.health.Compose, s.Name)
		}
	}
	if len(f.health.Compose) == 0 {
		return nil, fmt.Errorf("nothing of the compose project %s runs: start it, so that a rollback has something to return to", f.Project)
	}
	_, _, err = a.adoptedManifest(ctx, f) // what is wrong with it is said now
	return f, err
}

// origin is what containers agree on about how they were started.
func (f *Adoption) origin(started []docker.Started, envFile string) error {
	var dirs, files, envFiles []string
	add := func(list []string, s string) []string {
		if slices.Contains(list, s) {
			return list
		}
		return append(list, s)
	}
	for _, s := range started {
		dirs, files, envFiles = add(dirs, s.Dir), add(files, strings.Join(s.Files, ",")), add(envFiles, strings.Join(s.EnvFiles, ","))
	}
	if len(f.Files) == 0 {
		switch {
		case len(files) > 1:
			return fmt.Errorf("the containers of the compose project %s were started from different files (%s): name them with --file, in the order of docker compose", f.Project, strings.Join(files, "; "))
		case files[0] == "":
			return fmt.Errorf("the containers of the compose project %s do not say which files they were started from: name them with --file", f.Project)
		}
		f.Files = started[0].Files
	}
	for i, file := range f.Files {
		if filepath.Base(file) == pinsName {
			return fmt.Errorf("the compose project %s was started by valise-installer, from %s: there is nothing to take over", f.Project, filepath.Dir(file))
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		f.Files[i] = abs
	}
	if f.Dir = dirs[0]; len(dirs) > 1 || f.Dir == "" {
		f.Dir = filepath.Dir(f.Files[0])
	}
	switch usual := filepath.Join(f.Dir, envName); {
	case envFile != "":
		abs, err := filepath.Abs(envFile)
		if err != nil {
			return err
		}
		f.EnvFrom = []string{abs}
	case len(envFiles) == 1 && envFiles[0] != "":
		f.EnvFrom = started[0].EnvFiles
	case release.Exists(usual):
		f.EnvFrom = []string{usual}
	}
	return nil
}

// read reads the files of the project. has is where the app has its environment file.
func (f *Adoption) read(has string) error {
	var missing []string
	for i, file := range append(slices.Clone(f.Files), f.EnvFrom...) {
		b, err := foreign.ReadFile(file, bundle.MaxManifestSize)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, file)
			continue
		case err != nil:
			return fmt.Errorf("read the files of the compose project %s: %w", f.Project, err)
		}
		f.copies[fmt.Sprintf("adopted/%d-%s", i+1, unsafeName.ReplaceAllString(filepath.Base(file), "_"))] = b
		if i >= len(f.Files) { // the last line that sets a key counts
			f.env = append(append(f.env, b...), '\n')
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the compose project %s was started from files that are not there: %s: restore them, or name others with --file and --env-file", f.Project, strings.Join(missing, ", "))
	}
	if len(f.EnvFrom) == 1 && f.EnvFrom[0] == has {
		return nil
	}
	have, err := os.ReadFile(has)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.copied = len(f.EnvFrom) > 0
	case err != nil:
		return fmt.Errorf("read environment file: %w", err)
	case len(f.EnvFrom) == 0:
		f.Notes = append(f.Notes, has+" was not part of the project, and is the environment file of each release from now on")
	case !bytes.Equal(have, f.env):
		return fmt.Errorf("%s and %s are two environment files with different contents: merge them, because releases read only the first", has, strings.Join(f.EnvFrom, ", "))
	}
	return nil
}

// unsafeName is what the name of a copy does not have.
var unsafeName = lazyregexp.New(`[^A-Za-z0-9._-]`)

// version is what the project is recorded as.
func (f *Adoption) version(app string) error {
	f.Version = strings.TrimPrefix(f.Version, "v")
	if f.Version != "" {
		_, err := bundle.ParseVersion(f.Version)
		return err
	}
	f.Version = UnknownVersion
	env, err := environ.Compose.Parse(f.env)
	if err != nil {
		return fmt.Errorf("read %s: %w", strings.Join(f.EnvFrom, ", "), err)
	}
	value, _ := env.Lookup(bundle.VersionEnvOf(app))
	if value = strings.TrimPrefix(value, "v"); value != "" {
		if _, err := bundle.ParseVersion(value); err == nil {
			f.Version = value
		}
	}
	return nil
}

// findServices finds what runs, and freezes the project as that.
func (a *App) findServices(ctx context.Context, f *Adoption, c *docker.Compose, started []docker.Started) error {
	text, unset, err := c.Rendered(ctx)
	if err != nil {
		return err
	}
	containers, err := c.Ps(ctx)
	if err != nil {
		return err
	}
	hashes, err := c.Hashes(ctx, containers)
	if err != nil {
		return err
	}
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return err
	}
	var wrong, differ []string
	counts, env := map[string]int{}, map[string][]string{}
	for _, x := range containers {
		i := slices.IndexFunc(started, func(s docker.Started) bool { return s.ID == x.ID })
		if i < 0 {
			continue // made since
		}
		counts[x.Service]++
		env[x.Service] = started[i].Env
		if x.State != "running" && (x.State != "exited" || x.ExitCode != 0) || x.Health == "unhealthy" {
			wrong = append(wrong, fmt.Sprintf("service %s is %s (status %d): the way back leads to what runs, so start, fix or remove it first", x.Service, cmp.Or(x.Health, x.State), x.ExitCode))
		}
		if len(started[i].Anonymous) > 0 {
			f.Notes = append(f.Notes, fmt.Sprintf("service %s keeps data in a volume without a name, at %s: it goes along as long as each release has that service; name the volume", x.Service, strings.Join(started[i].Anonymous, ", ")))
		}
		if hash := hashes[x.Service]; hash != "" && hash != x.ConfigHash && !slices.Contains(differ, x.Service) {
			differ = append(differ, x.Service)
		}
		if other := slices.IndexFunc(f.Services, func(s AdoptedService) bool { return s.Name == x.Service }); other >= 0 {
			if f.Services[other].Hashes = append(f.Services[other].Hashes, x.ConfigHash); f.Services[other].ID != x.ImageID {
				wrong = append(wrong, fmt.Sprintf("the containers of service %s have different images: docker compose up makes them one", x.Service))
			}
			continue
		}
		f.Services = append(f.Services, AdoptedService{x.Service, started[i].Image, x.ImageID, x.State, []string{x.ConfigHash}})
		img, made, err := a.Engine.Describe(ctx, x.ImageID, info.Platform)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("service %s could not be restored: %v", x.Service, err))
			continue
		}
		if f.images[x.Service] = img; made.After(f.made) {
			f.made = made
		}
	}
	order.By(f.Services, func(x, y AdoptedService) int { return strings.Compare(x.Name, y.Name) })
	slices.Sort(differ)
	if len(differ) > 0 && len(unset) > 0 {
		wrong = append(wrong, fmt.Sprintf("variables have no value now (%s), and services do not run as their files say without them (%s): write what they were started with into %s", strings.Join(unset, ", "), strings.Join(differ, ", "), filepath.Join(f.Dir, envName)))
	} else if len(differ) > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("%s: docker compose would recreate what runs (a file or a variable changed since, or another version of docker compose started it); the way back leads to what the files say now, with the images that run", strings.Join(differ, ", ")))
	}
	var passed []string
	if f.text, passed, err = frozen(text, f.Services, counts, env); err != nil {
		wrong = append(wrong, err.Error())
	}
	if len(passed) > 0 {
		wrong = append(wrong, fmt.Sprintf("services got values from the shell that started them (%s): write them into %s", strings.Join(passed, ", "), filepath.Join(f.Dir, envName)))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("take over compose project %s: %s", f.Project, strings.Join(wrong, "; "))
	}
	return nil
}

// frozen makes the file of a project say what runs: services without a container are
// not in it, the others belong to no profile, are not built, and get no variable that
// had no value. passed are those that containers, whose environment env is, had one of.
func frozen(text []byte, services []AdoptedService, counts map[string]int, env map[string][]string) (out []byte, passed []string, err error) {
	var doc yaml.Node
	if err := yaml.Load(text, &doc); err != nil {
		return nil, nil, err
	}
	top := &doc
	if doc.Kind == yaml.DocumentNode {
		top = doc.Content[0]
	}
	all := yamledit.Member(top, "services")
	if all == nil {
		return nil, nil, errors.New("its files have no services")
	}
	runs := map[string]bool{}
	for _, s := range services {
		service := yamledit.Member(all, s.Name)
		if service == nil {
			return nil, nil, fmt.Errorf("service %s has a container, and is in none of its files: remove it, or name the files with --file", s.Name)
		}
		runs[s.Name] = true
		for _, key := range []string{"build", "develop", "profiles", "pull_policy"} {
			yamledit.Set(service, key, nil)
		}
		for _, key := range without(yamledit.Member(service, "environment")) {
			if slices.ContainsFunc(env[s.Name], func(kv string) bool { return strings.HasPrefix(kv, key+"=") }) {
				passed = append(passed, s.Name+": "+key)
			}
		}
		if yamledit.Member(service, "image") == nil {
			yamledit.Set(service, "image", yamledit.Text(s.Image))
		}
		if n := counts[s.Name]; n > 1 && yamledit.Member(service, "deploy") == nil {
			yamledit.Set(service, "scale", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(n)})
		}
	}
	for i := len(all.Content) - 2; i >= 0; i -= 2 {
		if name := all.Content[i].Value; !runs[name] {
			yamledit.Set(all, name, nil)
			continue
		}
		needs := yamledit.Member(all.Content[i+1], "depends_on")
		for j := 0; needs != nil && needs.Kind == yaml.MappingNode && j+1 < len(needs.Content); {
			if name := needs.Content[j].Value; !runs[name] {
				yamledit.Set(needs, name, nil)
			} else {
				j += 2
			}
		}
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err = errors.Join(e.Encode(&doc), e.Close())
	return b.Bytes(), passed, err
}

// without removes the members of a map that have no value, and returns their names.
func without(m *yaml.Node) (keys []string) {
	for i := 0; m != nil && m.Kind == yaml.MappingNode && i+1 < len(m.Content); i += 2 {
		if m.Content[i+1].Tag == "!!null" {
			keys = append(keys, m.Content[i].Value)
		}
	}
	for _, key := range keys {
		yamledit.Set(m, key, nil)
	}
	return keys
}

// adoptedManifest is that of the project, and the files that it names.
func (a *App) adoptedManifest(ctx context.Context, f *Adoption) (*bundle.Manifest, map[string][]byte, error) {
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return nil, nil, err
	}
	kept := *f
	kept.Notes, kept.Services = nil, slices.Clone(f.Services)
	for i := range kept.Services {
		kept.Services[i].State = "" // how it is now
		slices.Sort(kept.Services[i].Hashes)
	}
	record, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	compose := "compose.yaml"
	if filepath.Dir(f.Files[0]) == a.Dir { // its place in the app's directory is that of the link
		compose = filepath.Base(f.Files[0])
	}
	files := maps.Clone(f.copies)
	files[compose], files[adoptedName] = f.text, record
	made := f.made.UTC().Truncate(time.Second)
	if made.Unix() < 0 {
		made = time.Unix(0, 0).UTC()
	}
	m := &bundle.Manifest{
		App: a.Name, Kind: bundle.KindCompose, Version: f.Version, CreatedAt: made, Platforms: []bundle.Platform{info.Platform},
		Device: bundle.Device{
			Compose: compose, Project: f.Project, VersionEnv: bundle.VersionEnvOf(a.Name), Health: f.health,
			Keep: bundle.Keep{Releases: 3, Backups: 5},
		},
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, bundle.File{Path: name, Size: int64(len(files[name])), Mode: 0o644, Digest: bundle.DigestOf(files[name])})
	}
	byTag := map[string][]string{}
	images := map[string]bundle.Image{}
	for _, service := range slices.Sorted(maps.Keys(f.images)) {
		tag := docker.Tag(a.Name, f.images[service])
		byTag[tag], images[tag] = append(byTag[tag], service), f.images[service]
	}
	for _, tag := range slices.Sorted(maps.Keys(byTag)) {
		m.Components = append(m.Components, bundle.Component{Reference: tag, Services: byTag[tag], Images: []bundle.Image{images[tag]}})
	}
	return m, files, m.Finish()
}

// Adopt makes a release of what was found, and keeps its images. What runs is not
// touched. It may be called again.
func (a *App) Adopt(ctx context.Context, f *Adoption) (r installer.Release, err error) {
	m, files, err := a.adoptedManifest(ctx, f)
	if err != nil {
		return r, err
	}
	b, err := m.Encode()
	if err != nil {
		return r, err
	}
	r = installer.Release{Version: m.Version, Dir: m.Version, Manifest: bundle.DigestOf(b), Signer: installer.Adopted}
	images, err := a.images(m, m.Platforms[0])
	if err != nil {
		return r, err
	}
	if _, err := a.Engine.Check(ctx, images); err != nil { // which gives them our names
		return r, err
	}
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return r, err
	}
	if err := a.keep(ctx, images); err != nil {
		return r, err
	}
	if err := a.Engine.Sync(ctx); err != nil {
		return r, err
	}
	if files[pinsName], err = pins(m, images, info.Store); err != nil {
		return r, err
	}
	files[bundle.ManifestName] = b
	if have, err := a.Releases.ReadFile(r.Dir, bundle.ManifestName, bundle.MaxManifestSize); err == nil && bundle.DigestOf(have) != r.Manifest {
		r.Dir += "~" + r.Manifest.Hex()[:12] // it was adopted before, as something else
	}
	if !release.IsDir(filepath.Join(a.Dir, "releases", r.Dir)) {
		if err := a.stageAdopted(r.Dir, files); err != nil {
			return r, err
		}
	}
	if f.copied {
		if err := release.ReplaceFile(a.Releases.Root(), envName, f.env, 0o600); err != nil {
			return r, err
		}
	}
	if err := a.Releases.SetCurrent(r.Dir); err != nil {
		return r, err
	}
	if filepath.Dir(f.Files[0]) == a.Dir {
		return r, nil // its own file stays until the next release comes
	}
	return r, a.linkCompose(m, r)
}

func (a *App) stageAdopted(name string, files map[string][]byte) error {
	dir, err := a.Releases.Stage(name)
	if err != nil {
		return err
	}
	defer dir.Abort()
	for _, file := range slices.Sorted(maps.Keys(files)) {
		// Values of environment files are in them.
		if err := dir.WriteFile(file, 0o600, bytes.NewReader(files[file])); err != nil {
			return err
		}
	}
	return dir.Commit()
}

// asAdopted gives containers that run since before release r was adopted the hash that
// r has for them: with the same image they are what it is.
func (a *App) asAdopted(r installer.Release, hashes map[string]string, running []docker.Container) error {
	b, err := a.Releases.ReadFile(r.Dir, adoptedName, bundle.MaxManifestSize)
	if err != nil {
		return err
	}
	var found Adoption
	if err := json.Unmarshal(b, &found); err != nil {
		return fmt.Errorf("read release %s: %s: %w", r.Version, adoptedName, err)
	}
	for i, x := range running {
		if slices.ContainsFunc(found.Services, func(s AdoptedService) bool {
			return s.Name == x.Service && s.ID == x.ImageID && slices.Contains(s.Hashes, x.ConfigHash)
		}) {
			running[i].ConfigHash = hashes[x.Service]
		}
	}
	return nil
}

// strayed says which directories with data an adopted project has where the next
// release begins with nothing in their place.
func (a *App) strayed(ctx context.Context, m *bundle.Manifest, dir string, before, next *docker.Model) (left []installer.Note, err error) {
	for _, name := range slices.Sorted(maps.Keys(next.Services)) {
		for _, v := range next.Services[name].Volumes {
			has := there(v.Source) || comes(m, dir, v.Source)
			if named, ok := next.Volumes[v.Source]; v.Type == "volume" && ok {
				if has, err = a.holds(ctx, named.Name); err != nil {
					return nil, err
				}
			}
			for _, old := range before.Services[name].Volumes {
				if has || old.Type != "bind" || old.Source == v.Source || path.Clean(old.Target) != path.Clean(v.Target) {
					continue
				}
				if entries, err := os.ReadDir(old.Source); err == nil && len(entries) > 0 {
					left = append(left, installer.Notef("service %s finds %s in %s %s, where nothing is, and what was adopted has it in %s: copy it there while the app is stopped", name, v.Target, v.Type, v.Source, old.Source))
				}
			}
		}
	}
	return left, nil
}
