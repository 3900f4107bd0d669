package device

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
)

// TestLock: whoever saw an update completed may go on at once, although it cleans up; who
// comes in the middle of one is sent away at once.
func TestLock(t *testing.T) {
	s := installed(t)
	hold := func() (unlock func() error) {
		unlock, err := release.Lock(filepath.Join(s.stateDir("shop"), "lock"), "update to 1.1.0", s.Now())
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
	ask := func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		unlock, err := s.lock(ctx, "shop", "uninstall")
		if err == nil {
			unlock()
		}
		return time.Since(began), err
	}
	synctest.Test(t, func(t *testing.T) {
		unlock := hold()
		time.AfterFunc(5*time.Second, func() { unlock() })
		if waited, err := ask(t.Context()); err != nil || waited < 5*time.Second {
			t.Errorf("after %s: %v", waited, err)
		}

		defer hold()()
		waited, err := ask(t.Context())
		if waited != lockTimeout || !errors.As(err, new(*release.LockedError)) || !strings.Contains(err.Error(), "held by update to 1.1.0") {
			t.Errorf("after %s: %v", waited, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := ask(ctx); !errors.As(err, new(*release.LockedError)) {
			t.Error(err)
		}
	})

	j, err := s.openRecords(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	st, err := j.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Begin(t.Context(), installer.Record{ID: "R", Action: installer.ActionUpdate, From: st.Current, To: installer.Release{Version: "1.1.0", Dir: "1.1.0"}, Status: installer.Applying}); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		defer hold()()
		if waited, err := ask(t.Context()); waited != 0 || !errors.As(err, new(*release.LockedError)) {
			t.Errorf("after %s: %v", waited, err)
		}
	})
}
