package tree

import (
	"context"
	"io"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/systemd"
)

// Stop stops the units of release r. What starts at boot starts again then.
func (a *App) Stop(ctx context.Context, r installer.Release) error {
	names, err := a.unitsOf(ctx, r)
	if err != nil {
		return err
	}
	return systemd.Stop(ctx, names...)
}

// Logs writes the last lines of the units of release r to out, and with follow what
// comes until ctx ends.
func (a *App) Logs(ctx context.Context, r installer.Release, lines int, follow bool, out io.Writer) error {
	names, err := a.unitsOf(ctx, r)
	if err != nil {
		return err
	}
	return systemd.Follow(ctx, names, lines, follow, out)
}

func (a *App) unitsOf(ctx context.Context, r installer.Release) ([]string, error) {
	m, err := a.manifest(r)
	if err != nil {
		return nil, err
	}
	return units(ctx, m)
}
