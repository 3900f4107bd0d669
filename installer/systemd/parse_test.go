package systemd

import (
	"testing"
	"time"
)

// TestParseUnit reads what systemctl show prints of a unit.
func TestParseUnit(t *testing.T) {
	u := parseUnit("a.service", "LoadState=loaded\nActiveState=active\nSubState=running\nNRestarts=4\nActiveEnterTimestamp=Mon 2026-11-30 04:18:39 UTC\nActiveEnterTimestampMonotonic=17\nType=simple\n")
	if !u.Running() || u.Restarts != 4 || !u.Since.Equal(time.Date(2026, 11, 30, 4, 18, 39, 0, time.UTC)) {
		t.Errorf("%+v", u)
	}
	if u := parseUnit("a.service", "ActiveState=inactive\nActiveEnterTimestamp=\n"); !u.Since.IsZero() {
		t.Errorf("%+v", u)
	}
}
