package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer/release"
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
	env, err := loadEnv(m.Device.Tree.EnvFile)
	if err != nil {
		return nil, nil, err
	}
	if !release.Exists(m.Device.Tree.EnvFile) {
		if env, err = environ.Systemd.Parse(example); err != nil {
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
	generated, err := env.Next(m, a.Given, first, a.Rand)
	return env, generated, err
}
