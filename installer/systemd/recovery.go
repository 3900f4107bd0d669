package systemd

import (
	"fmt"
	"strings"
)

// RecoveryName is the unit that recovers an app when the machine starts.
func RecoveryName(app string) string { return "valise-recover-" + app + ".service" }

// RecoveryUnit is the text of that unit. It comes before the units that run the
// app, so that nothing that was not committed runs again after a power cut; after
// is what recovery itself needs, and may be empty. program is the path of
// valise-installer.
func RecoveryUnit(app, program string, before, after []string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by valise-installer.\n[Unit]\nDescription=Undo an update of %s that a power cut left unfinished\n", app)
	fmt.Fprintf(&b, "RequiresMountsFor=/var/lib/valise/%s /opt/%s\n", app, app)
	if len(after) > 0 {
		fmt.Fprintf(&b, "After=%s\n", strings.Join(after, " "))
	}
	if len(before) > 0 {
		fmt.Fprintf(&b, "Before=%s\n", strings.Join(before, " "))
	}
	fmt.Fprintf(&b, "ConditionPathExists=/var/lib/valise/%s/state.db\n", app)
	fmt.Fprintf(&b, "\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=%s --app %s --progress plain recover --boot\nTimeoutStartSec=15min\n", program, app)
	b.WriteString("\n[Install]\nWantedBy=multi-user.target\n")
	return []byte(b.String())
}
