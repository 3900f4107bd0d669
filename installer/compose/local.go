package compose

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer/release"
)

// Files that a release does not carry and that its services read: secrets that
// are generated here, and what an operator puts there.

// localMissing says which files of a release are not there and are not generated
// either. A directory in the place of one is what an engine makes of a missing file.
func (a *App) localMissing(m *bundle.Manifest) (missing []string) {
	for _, p := range m.Device.Local {
		if generates(m, p) {
			continue
		}
		at := filepath.Join(a.Dir, filepath.FromSlash(p))
		info, err := os.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, at)
		case err != nil:
			missing = append(missing, fmt.Sprintf("%s (%v)", at, err))
		case info.IsDir():
			missing = append(missing, at+" (a directory is there: remove it)")
		}
	}
	return missing
}

func generates(m *bundle.Manifest, p string) bool {
	for _, s := range m.Device.Secrets {
		if s.File == p {
			return true
		}
	}
	return false
}

// hasValue reports whether a secret has its value.
func (a *App) hasValue(env *environ.File, key string, s bundle.Secret) bool {
	if s.File == "" {
		return len(env.Missing([]string{key})) == 0
	}
	info, err := os.Stat(a.secretPlace(s))
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// secretPlace is where a person finds the value of a secret.
func (a *App) secretPlace(s bundle.Secret) string {
	if s.File == "" {
		return a.envPath()
	}
	return filepath.Join(a.Dir, filepath.FromSlash(s.File))
}

// writeSecretFiles generates the secrets that are files and have no value, and
// returns their keys and values. Like those of the environment file they survive an undo.
func (a *App) writeSecretFiles(m *bundle.Manifest) (map[string]string, error) {
	made := map[string]string{}
	root := a.Releases.Root()
	for key, s := range m.Device.Secrets {
		if s.File == "" {
			continue
		}
		if !a.hasValue(nil, key, s) {
			value := a.Given[key]
			if value == "" {
				var err error
				if value, err = environ.Generate(s, a.Rand); err != nil {
					return nil, err
				}
			}
			if err := mkdirs(a, path.Dir(s.File), 0o711); err != nil {
				return nil, err
			}
			if err := release.WriteFile(root, s.File, []byte(value), 0o600); err != nil {
				return nil, err
			}
			made[key] = value
		}
		if s.User > 0 {
			if err := root.Lchown(s.File, s.User, s.User); err != nil {
				return nil, fmt.Errorf("give %s to user %d: %w", s.File, s.User, err)
			}
		}
	}
	return made, nil
}

// mkdirs makes a directory below the app's, and its parents.
func mkdirs(a *App, dir string, mode fs.FileMode) error {
	if dir == "." {
		return nil
	}
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		if _, err := a.Releases.Root().Stat(at); err == nil {
			continue
		}
		if err := release.Mkdir(a.Releases.Root(), at, mode); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) checkLocal(m *bundle.Manifest) error {
	var wrong []error
	for _, p := range a.localMissing(m) {
		wrong = append(wrong, fmt.Errorf("file %s is missing", p))
	}
	for key, s := range m.Device.Secrets {
		if slices.Contains(m.Device.Local, s.File) && !a.hasValue(nil, key, s) {
			wrong = append(wrong, fmt.Errorf("file %s is missing", a.secretPlace(s)))
		}
	}
	return errors.Join(wrong...)
}
