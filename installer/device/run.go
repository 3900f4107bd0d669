package device

import (
	"context"
	"errors"
	"io"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
)

// Start has the current release run as the environment file and an override say now:
// after an edit, a stop, or containers that were removed. A file tree is
// restarted when always says so.
func (m *Machine) Start(ctx context.Context, always bool) (res installer.Result, err error) {
	err = m.onApp(ctx, "apply", func(ctx context.Context, a *lockedApp) error {
		if err := m.recoverFirst(ctx, a); err != nil {
			return err
		}
		res = a.Reapply(ctx, keepReleases, always && a.data == nil)
		return nil
	})
	return res, err
}

// stopper is an app that can be stopped: both kinds can.
type stopper interface {
	Stop(ctx context.Context, r installer.Release) error
}

// Stop stops the app, until Start or an update. Where the app's units start at boot,
// so does a boot.
func (m *Machine) Stop(ctx context.Context) error {
	return m.onApp(ctx, "stop", func(ctx context.Context, a *lockedApp) error {
		if err := m.recoverFirst(ctx, a); err != nil {
			return err
		}
		st, err := a.journal.Load(ctx)
		if err != nil {
			return err
		}
		if st.Current == nil {
			return installer.ErrNothingRuns
		}
		app, ok := a.Runtime.(stopper)
		if !ok {
			return errors.ErrUnsupported
		}
		return installer.Within(ctx, "activate", a.Limits.Activate, func(ctx context.Context) error { return app.Stop(ctx, *st.Current) })
	})
}

// Logs writes the last lines that the app printed to out, and with follow what comes
// until ctx ends. It needs no lock: an update may run.
func (m *Machine) Logs(ctx context.Context, lines int, follow bool, out io.Writer) error {
	app, err := m.TheApp()
	if err != nil {
		return err
	}
	j, st, err := m.ReadState(ctx, app)
	if err != nil {
		return err
	}
	if err := j.Close(); err != nil {
		return err
	}
	if st.Current == nil {
		return installer.ErrNothingRuns
	}
	store, err := release.Open(m.AppDir(app))
	if err != nil {
		return err
	}
	defer store.Close()
	if kindIn(st) == bundle.KindTree {
		return m.treeApp(app, store, nil).Logs(ctx, *st.Current, lines, follow, out)
	}
	program, err := docker.FindCompose(ctx, m.dockerEnv())
	if err != nil {
		return err
	}
	return m.runtime(app, store, nil, program).Logs(ctx, *st.Current, lines, follow, out)
}
