package compose

import (
	"context"
	"errors"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
)

// Intact returns nil when everything that release r runs from is here and is what
// was verified: its files and its images. The error says all that is wrong; it is
// an EditedError when that is nothing but mounted files.
func (a *App) Intact(ctx context.Context, r installer.Release) error {
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
	return path != pinsName && !strings.HasPrefix(path, bundle.InstallerDir) && !strings.HasPrefix(path, bundle.EngineDir)
}
