package compose

import (
	"context"
	"io"

	"github.com/valise-ota/valise/installer"
)

// Stop stops the services of release r. They stay stopped when the machine starts, if
// they are to restart unless they were stopped.
func (a *App) Stop(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	return a.running(m, r).Stop(ctx)
}

// Logs writes the last lines of each service of release r to out, and with follow what
// comes until ctx ends.
func (a *App) Logs(ctx context.Context, r installer.Release, lines int, follow bool, out io.Writer) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	return a.running(m, r).Logs(ctx, lines, follow, out)
}
