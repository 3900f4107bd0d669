package device

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// units are the services of serve, page and usb, and the rule that starts the last.
// @PROGRAM@ is this program.
//
//go:embed units
var units embed.FS

// InstallUnits writes the units and makes the group that may use the daemon's
// socket. Below another --root it only writes them.
func (m *Machine) InstallUnits(ctx context.Context) error {
	live := m.Root == "/"
	if live && !release.Exists("/run/systemd/system") {
		m.Note("systemd does not run here: start \"valise-installer serve\" as root and \"valise-installer page\" as a user of group %s yourself", SocketGroup)
		return nil
	}
	if _, err := user.LookupGroup(SocketGroup); err != nil && live {
		if err := command(ctx, "groupadd", "--system", SocketGroup); err != nil {
			return advise(err, MakeGroup, SocketGroup)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	files, err := units.ReadDir("units")
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := m.installUnit(f.Name(), self); err != nil {
			return err
		}
	}
	if !live {
		return nil
	}
	if err := systemd.DaemonReload(ctx); err != nil {
		return err
	}
	if !release.Exists("/run/udev/control") { // a container: no sticks
		return nil
	}
	return command(ctx, "udevadm", "control", "--reload")
}

// installUnit writes a unit or a rule of udev.
func (m *Machine) installUnit(name, self string) error {
	b, err := units.ReadFile("units/" + name)
	if err != nil {
		return err
	}
	dir, err := release.OpenDir(filepath.Dir(m.unitPath(name)), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if have, err := os.ReadFile(m.unitPath(name)); err == nil && !isUnit(name, have) {
		if err := m.keepEdit(dir, m.unitPath(name), have); err != nil {
			return err
		}
	}
	return release.WriteFile(dir, name, bytes.ReplaceAll(b, []byte("@PROGRAM@"), []byte(self)), 0o644)
}

// keepEdit keeps what a file of ours, in dir, was changed to, before it is written
// anew. Neither systemd nor udev reads a file of that name.
func (m *Machine) keepEdit(dir *os.Root, file string, have []byte) error {
	old := filepath.Base(file) + ".valise-old-" + bundle.DigestOf(have).Hex()[:8]
	m.Note("%s was changed here; its content is kept in %s", file, filepath.Join(filepath.Dir(file), old))
	return release.WriteFile(dir, old, have, 0o644)
}

// unitPath is where a unit or a rule of udev belongs.
func (m *Machine) unitPath(name string) string {
	if filepath.Ext(name) == ".rules" {
		return filepath.Join(m.Root, "etc/udev/rules.d", name)
	}
	return filepath.Join(m.Root, "etc/systemd/system", name)
}

func command(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := trace.Run(ctx, strings.Join(append([]string{name}, args...), " "), c); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(out.String()))
	}
	return nil
}
