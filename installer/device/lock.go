package device

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer/release"
)

// lockTimeout is how long the lock of an app is waited for.
const lockTimeout = 10 * time.Second

// lock takes the lock of an app, for what. It waits for one that is held for a moment: an
// update is completed before it has cleaned up. Not while a transaction goes on.
func (m *Machine) lock(ctx context.Context, app, what string) (unlock func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		unlock, err = release.Lock(filepath.Join(m.stateDir(app), "lock"), "valise-installer "+what, m.Now())
		if err == nil || !errors.As(err, new(*release.LockedError)) {
			return unlock, err
		}
		if st, serr := m.State(ctx, app); serr != nil || st.Unfinished != nil {
			return nil, advise(err, Wait)
		}
		if trace.Sleep(ctx, "for the lock of "+app, 100*time.Millisecond) != nil {
			return nil, advise(err, Wait)
		}
	}
}
