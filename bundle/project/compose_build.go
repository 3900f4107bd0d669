package project

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// ofBuilds are the secrets that builds read and no service does: no device has them.
func (c *composeFile) ofBuilds() (names []string) {
	used := map[string]bool{}
	for _, s := range c.services {
		for _, secret := range s.Secrets {
			used[secret.Source] = true
		}
	}
	for _, name := range sortedKeys(c.services) {
		if b := c.services[name].Build; b != nil {
			for _, secret := range b.Secrets {
				if !used[secret.Source] && !slices.Contains(names, secret.Source) {
					names = append(names, secret.Source)
				}
			}
		}
	}
	return names
}

// composeBuild is the image that BuildKit makes of the build section of a
// service. What would make another image than docker compose makes is refused.
func (p *Project) composeBuild(c *composeFile, name string, platforms []bundle.Platform) (Image, error) {
	b := c.services[name].Build
	refuse := func(key, why string) (Image, error) {
		return Image{}, p.composeError("service %s: build.%s %s: build the image before, and write in %s images: {%s: {from: ...}}",
			name, key, why, DefaultFile, nameOf(c.services[name].Image))
	}
	for _, other := range []struct {
		key string
		set bool
	}{
		{"dockerfile_inline", b.DockerfileInline != ""}, {"ssh", len(b.SSH) > 0}, {"network", b.Network != ""}, {"extra_hosts", len(b.ExtraHosts) > 0},
		{"entitlements", len(b.Entitlements) > 0}, {"privileged", b.Privileged}, {"isolation", b.Isolation != ""},
		{"shm_size", b.ShmSize != 0}, {"ulimits", len(b.Ulimits) > 0}, {"no_cache_filter", len(b.NoCacheFilter) > 0},
	} {
		if other.set {
			return refuse(other.key, "is not supported")
		}
	}
	for _, platform := range platforms {
		if len(b.Platforms) > 0 && !slices.ContainsFunc(b.Platforms, func(s string) bool { q, err := bundle.ParsePlatform(s); return err == nil && q == platform }) {
			return refuse("platforms", "has no "+string(platform)+", for which the release is")
		}
	}
	if v := c.deviceVariable(c.attributes(name)["build"]); v != "" {
		return Image{}, p.composeError("service %s: build depends on %s, which has no value: %s", name, v, p.advice(v, ""))
	}
	if strings.Contains(b.Context, "://") || strings.HasPrefix(b.Context, "git@") {
		return Image{}, p.composeError("service %s: build context %s is not on this machine: write in %s images: {%s: {dockerfile: ..., context: ...}}, or {from: ...} for an image that is built",
			name, b.Context, DefaultFile, nameOf(c.services[name].Image))
	}
	img := Image{Context: p.beside(cmp.Or(b.Context, ".")), Target: b.Target, Labels: maps.Clone(b.Labels),
		Build: Build{CacheFrom: caches(b.CacheFrom), CacheTo: caches(b.CacheTo), Pull: b.Pull, NoCache: b.NoCache}}
	if img.Dockerfile = cmp.Or(b.Dockerfile, "Dockerfile"); !filepath.IsAbs(img.Dockerfile) {
		img.Dockerfile = filepath.Join(img.Context, img.Dockerfile)
	}
	outside := func(name string) bool {
		_, inside := p.inBundle(name)
		return !inside && !filepath.IsAbs(name)
	}
	for _, of := range []struct{ key, name string }{{"context", img.Context}, {"dockerfile", img.Dockerfile}} {
		if outside(of.name) {
			return Image{}, p.composeError("service %s: build.%s is %s, %s", name, of.key, of.name, p.outside())
		}
	}
	for key, value := range b.Args {
		if value == nil {
			continue // it would be the value of whoever builds: a note says so
		}
		if img.Args == nil {
			img.Args = map[string]string{}
		}
		img.Args[key] = *value
	}
	for key, value := range b.AdditionalContexts {
		kind, _, other := strings.Cut(value, ":")
		switch {
		case !contextPattern.MatchString(key):
			return refuse("additional_contexts", "has the name "+key)
		case strings.HasPrefix(value, "docker-image://"):
		case other && !filepath.IsAbs(value) || strings.HasPrefix(value, "git@"):
			return refuse("additional_contexts", "has "+key+" of kind "+kind+", which is neither a directory nor docker-image://")
		default:
			if value = p.beside(value); outside(value) {
				return Image{}, p.composeError("service %s: build.additional_contexts has %s, %s", name, value, p.outside())
			}
		}
		if img.Build.Contexts == nil {
			img.Build.Contexts = map[string]string{}
		}
		img.Build.Contexts[key] = value
	}
	for _, secret := range b.Secrets {
		from, id := c.secrets[secret.Source], cmp.Or(secret.Target, secret.Source)
		flag := "id=" + id
		switch {
		case from.Environment != "":
			flag += ",env=" + from.Environment
		case from.File != "" && outside(p.beside(from.File)):
			return Image{}, p.composeError("service %s: build.secrets has %s, %s", name, from.File, p.outside())
		case from.File != "":
			flag += ",src=" + p.Path(p.beside(from.File))
		default:
			return refuse("secrets", "has "+secret.Source+", which has neither environment nor file")
		}
		if !buildSecretPattern.MatchString(flag) {
			return refuse("secrets", "has "+secret.Source+", whose name or file has other characters than letters, digits, ., _ and -")
		}
		img.Build.Secrets = append(img.Build.Secrets, flag)
	}
	return img, nil
}

var (
	contextPattern     = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,100}$`)
	buildSecretPattern = lazyregexp.New(`^id=[A-Za-z0-9_.-]+,(env=[A-Za-z_][A-Za-z0-9_]*|src=[^,"\n]+)$`)
)

// caches writes the short form of a cache, the name of an image, in the long one.
func caches(list types.StringList) (all []string) {
	for _, s := range list {
		if !strings.Contains(s, "=") {
			s = "type=registry,ref=" + s
		}
		all = append(all, s)
	}
	return all
}

// buildNotes says what of the build section of a service has no meaning for a release.
func (p *Project) buildNotes(c *composeFile, name string, note func(format string, args ...any)) {
	b := c.services[name].Build
	if _, given := p.Images[nameOf(c.services[name].Image)]; b == nil || given {
		return
	}
	written, _ := c.attributes(name)["build"].(map[string]any)
	var bare []string // arguments without a value; in the model, these are written in either form
	switch args := written["args"].(type) {
	case map[string]any:
		for _, key := range sortedKeys(args) {
			if args[key] == nil {
				bare = append(bare, key)
			}
		}
	case []any:
		for _, arg := range args {
			if s, _ := arg.(string); s != "" && !strings.Contains(s, "=") {
				bare = append(bare, s)
			}
		}
	}
	for _, key := range bare {
		if _, known := c.values[key]; !known {
			note("service %s: build argument %s has no value in %s: without --build-arg %s the default of the Dockerfile counts", name, key, p.Compose, key)
		}
	}
	for _, other := range []struct {
		key string
		set bool
	}{{"tags", len(b.Tags) > 0}, {"provenance", b.Provenance != ""}, {"sbom", b.SBOM != ""}} {
		if other.set {
			note("service %s: build.%s is for registries: a bundle has the name that image says, and a provenance and lists of packages of its own", name, other.key)
		}
	}
}
