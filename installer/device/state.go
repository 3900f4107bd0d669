package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/installer/release"
)

// statePath is the file that says how an app's newest record stands, for lamps,
// displays and scripts: whoever watches it can neither delay nor fail an update.
func (m *Machine) statePath(app string) string { return filepath.Join(m.RunDir(), app+".state") }

// openRecords opens an app's records for changes. The state file shows how the
// newest one stands, now and after each of them.
func (m *Machine) openRecords(ctx context.Context, app string) (*record.Store, error) {
	j, err := record.Open(ctx, m.journalPath(app), app)
	if err != nil {
		return nil, err
	}
	j.Changed = func(ctx context.Context) {
		newest, err := j.History(context.WithoutCancel(ctx), 1, 0)
		if err != nil || len(newest) == 0 {
			return
		}
		if newest[0].Status == installer.Completed {
			_ = j.Copy(context.WithoutCancel(ctx)) // where it cannot be written the one before stays
		}
		word := string(newest[0].Status)
		if newest[0].Attention != "" {
			word = "attention"
		}
		m.showState(app, fmt.Sprintf("%s %s\n", word, newest[0].To.Version))
	}
	j.Changed(ctx)
	return j, nil
}

// showState replaces the file, so that readers see the old line or the new one.
// Where it cannot be written the records count all the same.
func (m *Machine) showState(app, text string) {
	if have, err := os.ReadFile(m.statePath(app)); err == nil && string(have) == text {
		return
	}
	dir, err := release.OpenDir(m.RunDir(), 0o755)
	if err != nil {
		return
	}
	defer dir.Close()
	_ = release.WriteFile(dir, filepath.Base(m.statePath(app)), []byte(text), 0o644)
}
