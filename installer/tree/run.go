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

// LastWords implements installer.Witness.
func (a *App) LastWords(ctx context.Context, r installer.Release, lines int, out io.Writer) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	list, wanted, err := ask(ctx, m)
	if err != nil {
		return err
	}
	var failed, all []string
	for _, u := range list {
		if all = append(all, u.Name); ill(u, wanted[u.Name]) != "" {
			failed = append(failed, u.Name)
		}
	}
	if failed == nil {
		failed = all
	}
	return systemd.Follow(ctx, failed, lines, false, out)
}
