package device

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// installRecovery puts this program where it stays, and the unit that recovers
// an app at boot, before some units start and after others. It is there before
// the first step of a transaction.
func (m *Machine) installRecovery(ctx context.Context, app string, before, after []string) error {
	if err := m.installSelf(ctx, app); err != nil {
		return err
	}
	name := systemd.RecoveryName(app)
	text := systemd.RecoveryUnit(app, filepath.Join(m.binDir(), programName), before, after)
	file := filepath.Join(systemd.UnitDir, name)
	have, err := os.ReadFile(file)
	if err == nil && bytes.Equal(have, text) {
		if u, err := systemd.Show(ctx, name); err == nil && u.Enabled {
			return nil
		}
		return systemd.Enable(ctx, name)
	}
	dir, openErr := release.OpenDir(systemd.UnitDir, 0o755)
	if openErr != nil {
		return openErr
	}
	defer dir.Close()
	if err == nil && !bytes.Equal(withoutBefore(have), withoutBefore(text)) {
		if err := m.keepEdit(dir, file, have); err != nil {
			return err
		}
	}
	if err := release.WriteFile(dir, name, text, 0o644); err != nil {
		return err
	}
	if err := systemd.DaemonReload(ctx); err != nil {
		return err
	}
	return systemd.Enable(ctx, name)
}

// removeRecovery takes the unit away again.
func removeRecovery(ctx context.Context, app string) error {
	name := systemd.RecoveryName(app)
	if _, err := os.Lstat(filepath.Join(systemd.UnitDir, name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := systemd.Disable(ctx, name); err != nil {
		return err
	}
	dir, err := release.OpenDir(systemd.UnitDir, 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := release.RemoveAll(dir, name); err != nil {
		return err
	}
	return systemd.DaemonReload(ctx)
}
