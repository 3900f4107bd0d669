package systemd

import (
	"errors"
	"testing"

	"github.com/valise-ota/valise/installer"
)

// TestNoProgram: that this machine has no systemctl is no fault of a release.
func TestNoProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := EnvironmentFile(t.Context(), "shop.service"); !errors.As(err, new(*installer.DeviceError)) {
		t.Error(err)
	}
}
