package tree

import (
	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer/release"
)

// nextEnv is the environment file as the release needs it, and the keys of
// secrets that were generated for it. A new one begins as the example.
func (a *App) nextEnv(m *bundle.Manifest, example []byte, first bool) (*environ.File, []string, error) {
	env, err := loadEnv(m.Device.Tree.EnvFile)
	if err == nil && !release.Exists(m.Device.Tree.EnvFile) {
		env, err = environ.Systemd.Begin(example, m)
	}
	if err != nil {
		return nil, nil, err
	}
	generated, err := env.Next(m, a.Given, first, func(_ string, s bundle.Secret) (string, error) { return environ.Generate(s, a.Rand) })
	return env, generated, err
}
