package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/systemd"
)

// Intact returns nil when the tree of release r, which is current, is here and is
// what was verified, and runs: links, units and configuration files are those of
// the release. The error says all that is wrong.
func (a *App) Intact(ctx context.Context, r installer.Release) error {
	if err := a.Verified(ctx, r); err != nil {
		return err // units and templates come from there
	}
	var wrong []error
	if name, _, err := a.Releases.Current(); err != nil || name != r.Dir {
		wrong = append(wrong, fmt.Errorf("current does not lead to %s", r.Dir), err)
	}
	return errors.Join(append(wrong, a.UnitsRun(ctx, r), a.Configured(r))...)
}

// Verified returns nil when the tree of release r is here and is what was
// verified. The error says all that is wrong.
func (a *App) Verified(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	wrong := []error{a.Releases.Check(r.Dir, bundle.ManifestName, bundle.MaxManifestSize, r.Manifest)}
	for _, f := range m.TreeFiles(a.Platform) {
		if err := ctx.Err(); err != nil {
			return err
		}
		wrong = append(wrong, a.Releases.Check(r.Dir, m.StagedAs(f.TreePath), f.Size, f.Digest))
	}
	return errors.Join(wrong...)
}

// EnvFile is the environment file that release r reads.
func (a *App) EnvFile(r installer.Release) (string, error) {
	m, err := a.manifest(r)
	if err != nil {
		return "", err
	}
	return m.Device.Tree.EnvFile, nil
}

// UnitsRun returns nil when the units of release r, which is current, run, start
// at boot, and are those of the release. The error says all that is wrong.
func (a *App) UnitsRun(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	var wrong []error
	for _, p := range m.Device.Tree.Units {
		want, err := a.readTree(m, r, p)
		if err != nil {
			return err
		}
		name := unitPath(bundle.UnitFile(p))
		if have, err := os.ReadFile(name); err != nil {
			wrong = append(wrong, err)
		} else if !bytes.Equal(have, want) {
			wrong = append(wrong, fmt.Errorf("%s is not that of the release", name))
		}
	}
	list, want, err := ask(ctx, m)
	if err != nil {
		return err
	}
	for _, u := range list {
		if why := ill(u, want[u.Name]); why != "" {
			wrong = append(wrong, fmt.Errorf("%s is %s", u.Name, why))
		}
		if want[u.Name] && u.Installable && !u.Enabled && slices.Contains(m.Device.Tree.UnitNames(), u.Name) {
			wrong = append(wrong, fmt.Errorf("%s does not start at boot", u.Name))
		}
	}
	return errors.Join(wrong...)
}

// Restless are the units of release r that systemd started again by itself not long
// before now.
func (a *App) Restless(ctx context.Context, r installer.Release, now time.Time) ([]systemd.Unit, error) {
	m, err := a.manifest(r)
	if err != nil {
		return nil, err
	}
	list, _, err := ask(ctx, m)
	return restlessOf(list, now), err
}

// restless is how long a unit runs until that it was started again is no news.
const restless = 10 * time.Minute

func restlessOf(list []systemd.Unit, now time.Time) []systemd.Unit {
	return slices.DeleteFunc(list, func(u systemd.Unit) bool {
		return u.Restarts == 0 || u.Running() && now.Sub(u.Since) > restless
	})
}

// Configured returns nil when the configuration files are what release r, which is
// current, makes of the environment file. The error names all that are not.
func (a *App) Configured(r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	env, err := loadEnv(m.Device.Tree.EnvFile)
	if err != nil {
		return err
	}
	files, err := a.files(m, r, env)
	if err != nil {
		return err
	}
	var wrong []error
	for _, f := range files {
		if f.unit != "" {
			continue
		}
		if have, err := readFile(f.path); err != nil {
			wrong = append(wrong, err)
		} else if !bytes.Equal(have, f.data) {
			wrong = append(wrong, fmt.Errorf("%s is not what the release makes of the environment file", f.path))
		}
	}
	return errors.Join(wrong...)
}
