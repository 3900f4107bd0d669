package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// Uninstall removes the app and returns what it removed: with purge the environment
// file, changed configuration files and the trust policy too. It asks agree first,
// with all that would go.
func (p *Machine) Uninstall(ctx context.Context, purge bool, agree func(list []string) error) (list []string, err error) {
	err = p.onDevice(ctx, "uninstall", func(ctx context.Context, d *device) error {
		list, err = p.uninstall(ctx, d, purge, agree)
		return err
	})
	return list, err
}

func (p *Machine) uninstall(ctx context.Context, d *device, purge bool, agree func(list []string) error) (list []string, err error) {
	app, err := p.TheApp()
	if err != nil {
		return nil, err
	}
	if err := p.recoverFirst(ctx, d); err != nil {
		return nil, err
	}
	st, err := d.journal.Load(ctx)
	if err != nil {
		return nil, err
	}
	var runtime interface {
		Remove(ctx context.Context, current *installer.Release, purge bool) error
		Removes(current *installer.Release, purge bool) ([]string, error)
	} = d.app
	if d.tree != nil {
		runtime = d.tree
	}
	list, err = runtime.Removes(st.Current, purge)
	if err != nil {
		return nil, err
	}
	list = append(list, p.stateDir(app))
	managed := p.Root == "/" && release.Exists(filepath.Join(systemd.UnitDir, systemd.RecoveryName(app)))
	if managed {
		list = append(list, filepath.Join(systemd.UnitDir, systemd.RecoveryName(app)))
	}
	if purge {
		list = append(list, p.ConfigPath(app))
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
		if err := p.removePolicy(app); err != nil {
			return nil, fmt.Errorf("uninstall %s: %w", app, err)
		}
	}
	command := filepath.Join(p.binDir(), app+UpdateSuffix)
	if to, err := os.Readlink(command); err == nil && to == programName {
		if err := os.Remove(command); err != nil {
			return nil, fmt.Errorf("uninstall %s: %w", app, err)
		}
	}
	_ = os.Remove(p.statePath(app))
	_ = os.Remove(p.AppDir(app)) // when nothing of others is in it
	// The records go last: until then this can be repeated.
	if err := os.RemoveAll(p.stateDir(app)); err != nil {
		return nil, fmt.Errorf("uninstall %s: %w", app, err)
	}
	return list, nil
}
