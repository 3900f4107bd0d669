package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/environ"
)

// ExampleName is the file that an environment file begins as.
const ExampleName = ".env.example"

// Example reads the .env.example of a release; none is empty.
func Example(open func(name string) (io.ReadCloser, error)) ([]byte, error) {
	rc, err := open(ExampleName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, bundle.MaxConfigFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ExampleName, err)
	}
	return b, nil
}

// nextEnv is the environment file as the release needs it, and the keys of
// secrets that were generated for it. A new one begins as the example, in which
// the values of required keys are only examples.
func (a *App) nextEnv(m *bundle.Manifest, example []byte, first bool) (*environ.File, []string, error) {
	env, err := environ.Load(m.Device.Tree.EnvFile)
	if err != nil {
		return nil, nil, err
	}
	if !exists(m.Device.Tree.EnvFile) {
		if env, err = environ.Parse(example); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", ExampleName, err)
		}
		for _, key := range env.Keys() {
			if _, secret := m.Device.Secrets[key]; secret || slices.Contains(m.Device.RequiredEnv, key) {
				if err := env.Set(key, ""); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	set := func(key, value string) error {
		if have, _ := env.Lookup(key); value == "" || have != "" {
			return nil
		}
		return env.Set(key, value)
	}
	for _, key := range slices.Sorted(maps.Keys(a.Given)) {
		if have, _ := env.Lookup(key); m.Device.Secrets[key].Immutable && have != "" && have != a.Given[key] {
			return nil, nil, fmt.Errorf("set %s: existing data depends on the value it has in %s", key, m.Device.Tree.EnvFile)
		}
		if err := env.Set(key, a.Given[key]); err != nil {
			return nil, nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.Device.Env)) {
		e := m.Device.Env[key]
		if err := set(key, e.Default); err != nil {
			return nil, nil, err
		}
		if first {
			if err := set(key, e.Initial); err != nil {
				return nil, nil, err
			}
		}
	}
	var generated []string
	for _, key := range slices.Sorted(maps.Keys(m.Device.Secrets)) {
		if len(env.Missing([]string{key})) == 0 {
			continue
		}
		value, err := environ.Generate(m.Device.Secrets[key], a.Rand)
		if err != nil {
			return nil, nil, err
		}
		if err := env.Set(key, value); err != nil {
			return nil, nil, err
		}
		generated = append(generated, key)
	}
	if key := m.Device.VersionEnv; key != "" {
		if err := env.Set(key, m.Version); err != nil {
			return nil, nil, err
		}
	}
	return env, generated, nil
}
