package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
)

// Configs and secrets whose content stands in the compose file or in a variable are copied
// by docker compose into a container when it makes that, and never looked at again: with
// other content the container would stay. So the app's directory has the digests of what
// its containers got, and those that got something else are made anew.

// inlinedName is where these digests are, by container.
const inlinedName = ".valise-inlined"

// inlined are the digests of what the services of a model get that way.
func inlined(m *docker.Model, env *environ.File) map[string]bundle.Digest {
	all := map[string]bundle.Digest{}
	for name, s := range m.Services {
		var text strings.Builder
		add := func(used []docker.Used, defined map[string]docker.Inlined) {
			for _, u := range used {
				content := defined[u.Source].Content
				if key := defined[u.Source].Environment; key != "" && content == "" {
					content, _ = env.Lookup(key)
				}
				if content != "" {
					fmt.Fprintf(&text, "%q %q\n", u.Source, content)
				}
			}
		}
		add(s.Configs, m.Configs)
		add(s.Secrets, m.Secrets)
		if text.Len() > 0 {
			all[name] = bundle.DigestOf([]byte(text.String()))
		}
	}
	return all
}

// inlines reports whether one of the compose files, or what it has of others, may have
// content inline.
func inlines(texts ...[]byte) bool {
	for _, text := range texts {
		var file struct{ Configs, Secrets map[string]docker.Inlined }
		if err := yaml.Load(text, &file); err != nil {
			return true // docker compose knows more of YAML
		}
		for _, defined := range []map[string]docker.Inlined{file.Configs, file.Secrets} {
			for _, d := range defined {
				if d != (docker.Inlined{}) {
					return true
				}
			}
		}
	}
	return false
}

// inlinedNow are the digests of what services would get now, nothing when no file of c
// has any.
func inlinedNow(ctx context.Context, c *docker.Compose) (map[string]bundle.Digest, error) {
	texts, err := c.Texts()
	if err != nil || !inlines(texts...) {
		return nil, err
	}
	model, err := c.Model(ctx)
	if err != nil {
		return nil, err
	}
	env, err := environ.Compose.Load(c.EnvFile)
	if err != nil {
		return nil, err
	}
	return inlined(model, env), nil
}

// outdated are the services whose containers got something else than now.
func (a *App) outdated(now map[string]bundle.Digest, running []docker.Container) (services []string, err error) {
	if len(now) == 0 {
		return nil, nil
	}
	got, err := a.gotInlined()
	for _, c := range running {
		if had, ok := got[c.ID]; ok && had != now[c.Service] {
			services = append(services, c.Service)
		}
	}
	return services, err
}

// markOutdated gives outdated services a hash that no container has.
func (a *App) markOutdated(hashes map[string]string, now map[string]bundle.Digest, running []docker.Container) error {
	services, err := a.outdated(now, running)
	for _, s := range services {
		if hashes[s] != "" {
			hashes[s] = "the content of its configs is another one"
		}
	}
	return err
}

// gotInlined is what containers got. Of one that is not in it nothing is known.
func (a *App) gotInlined() (got map[string]bundle.Digest, err error) {
	b, err := a.Releases.Root().ReadFile(inlinedName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && json.Unmarshal(b, &got) != nil {
		got = nil // torn by hand: as if it was not there
	}
	return got, err
}

// keepInlined writes down what the containers that run have got.
func (a *App) keepInlined(now map[string]bundle.Digest, running []docker.Container) error {
	got := map[string]bundle.Digest{}
	for _, c := range running {
		if d, ok := now[c.Service]; ok {
			got[c.ID] = d
		}
	}
	if len(got) == 0 {
		return release.RemoveAll(a.Releases.Root(), inlinedName)
	}
	b, err := json.Marshal(got)
	if err != nil {
		return err
	}
	return release.WriteFile(a.Releases.Root(), inlinedName, b, 0o600)
}
