package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// Uninstall removes the app and returns what it removed: with purge the environment
// file, changed configuration files and the trust policy too. It asks agree first,
// with all that would go.
func (m *Machine) Uninstall(ctx context.Context, purge bool, agree func(list []string) error) (list []string, err error) {
	err = m.onApp(ctx, "uninstall", func(ctx context.Context, a *lockedApp) error {
		list, err = m.uninstall(ctx, a, purge, agree)
		return err
	})
	return list, err
}

func (m *Machine) uninstall(ctx context.Context, a *lockedApp, purge bool, agree func(list []string) error) (list []string, err error) {
	app, err := m.TheApp()
	if err != nil {
		return nil, err
	}
	if err := m.recoverFirst(ctx, a); err != nil {
		return nil, err
	}
	st, err := a.journal.Load(ctx)
	if err != nil {
		return nil, err
	}
	runtime, ok := a.Runtime.(remover)
	if !ok {
		return nil, fmt.Errorf("uninstall %s: its runtime cannot be removed", app)
	}
	list, err = runtime.Removes(st.Current, purge)
	if err != nil {
		return nil, err
	}
	list = append(list, m.stateDir(app))
	managed := m.Root == "/" && release.Exists(filepath.Join(systemd.UnitDir, systemd.RecoveryName(app)))
	if managed {
		list = append(list, filepath.Join(systemd.UnitDir, systemd.RecoveryName(app)))
	}
	if purge {
		list = append(list, m.ConfigPath(app))
	}
	if err := agree(list); err != nil {
		return nil, err
	}
	if err := runtime.Remove(ctx, st.Current, purge); err != nil {
		return nil, err
	}
	if managed {
		if err := removeRecovery(ctx, app); err != nil {
			return nil, err
		}
	}
	if purge {
		if err := m.removePolicy(app); err != nil {
			return nil, fmt.Errorf("uninstall %s: %w", app, err)
		}
	}
	command := filepath.Join(m.binDir(), app+UpdateSuffix)
	if to, err := os.Readlink(command); err == nil && to == programName {
		if err := os.Remove(command); err != nil {
			return nil, fmt.Errorf("uninstall %s: %w", app, err)
		}
	}
	_ = os.Remove(m.statePath(app))
	for _, dir := range []string{"updates/applied", "updates/failed", "updates", ""} { // of the daemon; none in which anything is
		_ = syscall.Rmdir(filepath.Join(m.AppDir(app), dir))
	}
	// The records go last: until then this can be repeated.
	if err := os.RemoveAll(m.stateDir(app)); err != nil {
		return nil, fmt.Errorf("uninstall %s: %w", app, err)
	}
	return list, nil
}
