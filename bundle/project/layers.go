package project

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// ComposeFiles are one compose file, or several, each over those before it, as
// docker compose -f takes them. Paths in them count from the directory of the first.
type ComposeFiles []string

// UnmarshalYAML reads "compose: FILE" and "compose: [FILE, FILE]".
func (c *ComposeFiles) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode((*[]string)(c))
	}
	var name string
	if err := n.Decode(&name); err != nil {
		return err
	}
	if *c = nil; name != "" {
		*c = ComposeFiles{name}
	}
	return nil
}

// First is the file that gives a release's compose file its name and directory, or "".
func (c ComposeFiles) First() string {
	if len(c) == 0 {
		return ""
	}
	return c[0]
}

func (c ComposeFiles) String() string { return strings.Join(c, ", ") }

// Variables of docker compose itself.
const (
	filesEnv     = "COMPOSE_FILE"
	separatorEnv = "COMPOSE_PATH_SEPARATOR"
	profilesEnv  = "COMPOSE_PROFILES"
	projectEnv   = "COMPOSE_PROJECT_NAME"
	workingEnv   = "PWD" // the directory that it runs in
	homeEnv      = "HOME"
)

// splitList are the items of a list in a variable; nil when there are none.
func splitList(text, separator string) (list []string) {
	for item := range strings.SplitSeq(text, separator) {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// choose brings the model to what a device runs: images that the build decides by
// their name, and of services with profiles those that were chosen.
func (c *composeFile) choose() {
	services := section(c.model, "services")
	used := map[string]bool{} // configs and secrets
	for _, name := range sortedKeys(services) {
		s, chosen := c.services[name]
		if !chosen {
			delete(services, name)
			continue
		}
		service := c.attributes(name)
		c.changed = c.changed || service["label_file"] != nil
		c.images[name] = c.text(name, "image")
		if s.Image == "" && s.Build != nil {
			c.name(name)
			s = c.services[name]
		}
		// A tag has no +, which is where build metadata begin.
		if image := strings.ReplaceAll(s.Image, "+", "_"); image != s.Image || c.decided(c.images[name]) {
			s.Image = image
			c.services[name] = s
			service["image"], c.changed = image, true
		}
		for _, r := range s.Configs {
			used[refConfig+r.Source] = true
		}
		for _, r := range s.Secrets {
			used[refSecret+r.Source] = true
		}
		if c.p.Profiles == nil {
			continue
		}
		delete(service, "profiles")
		if depends, ok := service["depends_on"].(map[string]any); ok {
			for other := range depends {
				if _, there := c.services[other]; !there {
					delete(depends, other)
				}
			}
		}
	}
	if c.p.Profiles == nil {
		return
	}
	for _, kind := range []string{refConfig, refSecret} {
		entries := section(c.model, kind+"s")
		for name := range entries {
			if !used[kind+name] {
				delete(entries, name)
			}
		}
	}
}

// name gives what a service builds the name that docker compose gives it, and the version.
func (c *composeFile) name(service string) {
	image := strings.Trim(notInImage.ReplaceAllString(strings.ToLower(c.p.Project+"-"+service), "-"), "-") + ":"
	s := c.services[service]
	s.Image = image + c.values[c.p.VersionEnv]
	c.services[service] = s
	c.images[service] = fmt.Sprintf("%s${%s}", image, c.p.VersionEnv)
	c.attributes(service)["image"], c.changed = c.images[service], true
}

// notInImage is what the name of an image cannot have.
var notInImage = lazyregexp.New(`[^a-z0-9]+`)

// decided reports whether a build gives text its value, by more than the version.
func (c *composeFile) decided(text string) bool {
	if c.deviceVariable(text) != "" {
		return false
	}
	return slices.ContainsFunc(variable.FindAllStringSubmatch(strings.ReplaceAll(text, "$$", ""), -1), func(m []string) bool {
		_, known := c.values[m[1]]
		return known && m[1] != c.p.VersionEnv
	})
}

var (
	// ComposeNames are those that docker compose looks for, in its order.
	ComposeNames = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}
	// releaseNames mean a release; some stand alone, others go over a file of ComposeNames.
	releaseNames = namesOf("prod", "production", "deploy")
)

func namesOf(kinds ...string) (names []string) {
	for _, kind := range kinds {
		for _, separator := range []string{".", "-"} {
			for _, name := range []string{"docker-compose", "compose"} {
				names = append(names, name+separator+kind+".yml", name+separator+kind+".yaml")
			}
		}
	}
	return names
}

// FindCompose returns the compose files of a release in dir, relative to it: what
// COMPOSE_FILE in the committed environment file says, a file that means a release
// and stands alone, one that goes over what docker compose takes by itself, or that with
// its override. There are none when no file has a usual name. Notes say what was left out.
func FindCompose(ctx context.Context, dir string, ignored func(context.Context, []string) ([]string, error)) (files ComposeFiles, notes []string, err error) {
	p := &Project{App: "app", Project: "app", Dir: dir, File: filepath.Join(dir, DefaultFile), Ignored: ignored}
	if p.doc, err = parseDocument(p.File, []byte("app: app")); err != nil {
		return nil, nil, err
	}
	values, err := p.committedEnv(ctx)
	if err != nil {
		return nil, nil, err
	}
	if list := splitList(values[filesEnv], cmp.Or(values[separatorEnv], ":")); list != nil {
		return list, nil, nil
	}
	base, release, override := p.first(ComposeNames), p.first(releaseNames), p.first(bundle.ComposeOverrides[:])
	if release != "" {
		p.Compose = ComposeFiles{release}
		if _, err := p.loadCompose(ctx, "0.0.0"); err == nil || base == "" {
			return p.Compose, nil, nil
		}
		return ComposeFiles{base, release}, nil, nil
	}
	if base == "" {
		return nil, nil, nil
	}
	if override == "" {
		return ComposeFiles{base}, nil, nil
	}
	if ignored != nil {
		if own, err := ignored(ctx, []string{override}); err != nil || len(own) > 0 {
			return ComposeFiles{base}, []string{fmt.Sprintf("%s: git ignores it, so it is not part of a release", override)}, err
		}
	}
	return ComposeFiles{base, override}, []string{fmt.Sprintf("%s goes over %s, as with docker compose: when it is for development only, write compose: %s", override, base, base)}, nil
}

// first is the first of names that there is.
func (p *Project) first(names []string) string {
	for _, name := range names {
		if p.exists(name) {
			return name
		}
	}
	return ""
}

// overrideNote says that docker compose would take another file by itself.
func (p *Project) overrideNote(ctx context.Context) (string, error) {
	if len(p.Compose) != 1 || !slices.Contains(ComposeNames, filepath.Base(p.Compose.First())) {
		return "", nil
	}
	for _, name := range bundle.ComposeOverrides[:] {
		name = filepath.ToSlash(p.beside(name))
		if !p.exists(name) {
			continue
		}
		if _, inside := p.inBundle(name); p.Ignored != nil && inside {
			if own, err := p.Ignored(ctx, []string{name}); err != nil || len(own) > 0 {
				return "", err
			}
		}
		return fmt.Sprintf("%s is not part of the release; docker compose would put it over %s: when it belongs to the release, write compose: [%s, %s]", name, p.Compose.First(), p.Compose.First(), name), nil
	}
	return "", nil
}
