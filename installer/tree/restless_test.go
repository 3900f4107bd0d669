package tree

import (
	"testing"
	"time"

	"github.com/valise-ota/valise/installer/systemd"
)

// TestRestless: what was started again long ago is no news, and what waits to be is.
func TestRestless(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	unit := func(name string, restarts int, active, sub string, ago time.Duration) systemd.Unit {
		return systemd.Unit{Name: name, Restarts: restarts, Active: active, Sub: sub, Since: now.Add(-ago)}
	}
	got := restlessOf([]systemd.Unit{
		unit("calm", 0, "active", "running", time.Second),
		unit("crashes", 40, "active", "running", 25*time.Second),
		unit("long ago", 3, "active", "running", time.Hour),
		unit("waits", 40, "activating", "auto-restart", time.Hour),
	}, now)
	if len(got) != 2 || got[0].Name != "crashes" || got[1].Name != "waits" {
		t.Errorf("%+v", got)
	}
}
