package bundle

import (
	"testing"
	"time"
)

// TestTimeLimits: what the device says goes before what the release says, and hooks
// and checks have as long as they were promised.
func TestTimeLimits(t *testing.T) {
	d := &Device{
		Health: Health{Retries: 10, Interval: Duration(time.Minute), StableFor: Duration(time.Minute)},
		Hooks:  map[string]Hook{"migrate": {Timeout: Duration(3 * time.Hour)}, "post-backup": {Timeout: Duration(time.Minute)}},
		Limits: Limits{Undo: Duration(time.Second), Stage: Duration(time.Minute)},
	}
	want := Limits{Stage: Duration(time.Hour), Backup: Duration(6*time.Hour + time.Minute), Activate: Duration(3*time.Hour + 30*time.Minute), Probe: Duration(32 * time.Minute), Undo: Duration(time.Second)}
	if got := d.TimeLimits(Limits{Stage: Duration(time.Hour)}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for l, ok := range map[Limits]bool{{}: true, want: true, {Probe: -1}: false, {Backup: Duration(longestPart + 1)}: false} {
		if err := l.Check(); (err == nil) != ok {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
