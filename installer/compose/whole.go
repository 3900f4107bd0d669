package compose

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
)

// Whole returns nil when everything that release r runs from is here and is what
// was verified: its files and its images. The error says all that is wrong.
func (a *App) Whole(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	var wrong []error
	for _, f := range m.Files {
		if !Staged(f.Path) {
			continue
		}
		if err := a.checkFile(r, f); err != nil {
			wrong = append(wrong, err)
		}
	}
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return errors.Join(append(wrong, err)...)
	}
	images, err := a.images(m, info.Platform)
	if err != nil {
		return err
	}
	if _, err := a.Engine.Check(ctx, images); err != nil {
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

func (a *App) checkFile(r installer.Release, f bundle.File) error {
	file, err := a.Releases.OpenFile(r.Dir, f.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != f.Digest.Hex() {
		return fmt.Errorf("%s of release %s was changed: it is sha256:%s, the release has %s", f.Path, r.Version, got, f.Digest)
	}
	return nil
}

// Staged reports whether a file of a bundle is kept with the release. What
// installs the installer and the engine is not.
func Staged(path string) bool {
	return path != pinsName && !strings.HasPrefix(path, "installer/") && !strings.HasPrefix(path, "engine/")
}
