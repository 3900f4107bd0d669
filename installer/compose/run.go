package compose

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
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

// Restless are the services of release r that the engine started again by itself not
// long before now, with how often and when the last time.
func (a *App) Restless(ctx context.Context, r installer.Release, now time.Time) (list []docker.Container, err error) {
	m, err := a.manifest(r)
	if err != nil {
		return nil, err
	}
	all, err := a.compose(m).Ps(ctx)
	return slices.DeleteFunc(all, func(c docker.Container) bool {
		return c.RestartCount == 0 || c.State == "running" && now.Sub(c.StartedAt) > restless
	}), err
}

// restless is how long a container runs until that it was started again is no news.
const restless = 10 * time.Minute

// LastWords implements installer.Witness.
func (a *App) LastWords(ctx context.Context, r installer.Release, lines int, out io.Writer) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	c := a.running(m, r)
	list, err := c.Ps(ctx)
	if err != nil {
		return err
	}
	var failed []string
	for _, x := range list {
		ended := x.State == "exited" && x.ExitCode == 0
		if !ended && (x.State != "running" || x.RestartCount > 0 || x.Health != "" && x.Health != "healthy") && !slices.Contains(failed, x.Service) {
			failed = append(failed, x.Service)
		}
	}
	return c.Logs(ctx, lines, false, out, failed...)
}
