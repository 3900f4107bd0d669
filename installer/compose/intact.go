package compose

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
)

// Intact is Verified of the current release, which also runs as it is configured now.
func (a *App) Intact(ctx context.Context, r installer.Release) error {
	if err := a.Verified(ctx, r); err != nil {
		return err
	}
	return a.AsConfigured(ctx, r)
}

// AsConfigured returns nil when the services of release r, which is current, run as
// its compose file, the environment file and the operator's override say; else an
// *installer.ConfigError. Without docker compose it cannot tell.
func (a *App) AsConfigured(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil || a.Program.Command == nil {
		return err
	}
	c := a.running(m, r)
	running, err := c.Ps(ctx)
	if err != nil {
		return err
	}
	hashes, err := c.Hashes(ctx, running)
	if err != nil {
		return err
	}
	now, err := inlinedNow(ctx, c)
	if err != nil {
		return err
	}
	if err := a.markOutdated(hashes, now, running); err != nil {
		return err
	}
	if r.Signer == installer.Adopted {
		if err := a.asAdopted(r, hashes, running); err != nil {
			return err
		}
	}
	list := slices.DeleteFunc(changes(hashes, running), func(s installer.ServiceChange) bool {
		return s.Change == installer.KeptAsIs || s.Change == installer.Started && slices.ContainsFunc(running, func(c docker.Container) bool {
			return c.Service == s.Service && (c.Ended || c.State == "restarting") // the engine starts that again by itself
		})
	})
	if len(list) == 0 {
		return nil
	}
	model, err := c.Model(ctx)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(s installer.ServiceChange) bool {
		if s.Change == installer.Started {
			return !model.Runs(s.Service) // some versions name those too
		}
		return c.RecreatesDependents() && s.Change == installer.Recreated && len(model.Services[s.Service].VolumesFrom) > 0 // which no question to them tells
	})
	if len(list) == 0 {
		return nil
	}
	return &installer.ConfigError{Services: list}
}

// Verified returns nil when everything that release r runs from is here and is what
// was verified: its files and its images. The error says all that is wrong; it is
// an EditedError when that is nothing but mounted files.
func (a *App) Verified(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	wrong := []error{a.Releases.Check(r.Dir, bundle.ManifestName, bundle.MaxManifestSize, r.Manifest)}
	for _, f := range m.Files {
		if Staged(f.Path) {
			wrong = append(wrong, a.Releases.Check(r.Dir, f.Path, f.Size, f.Digest))
		}
	}
	wrong = append(wrong, a.checkLocal(m), a.checkImages(ctx, m))
	edited := a.edited(m)
	if err := errors.Join(wrong...); err != nil || len(edited) == 0 {
		return errors.Join(append(edited, err)...)
	}
	return &EditedError{edited}
}

// Staged reports whether a file of a bundle is kept with the release. What
// installs the installer and the engine is not.
func Staged(path string) bool {
	return path != pinsName && path != linkedName && !strings.HasPrefix(path, bundle.InstallerDir) && !strings.HasPrefix(path, bundle.EngineDir)
}
