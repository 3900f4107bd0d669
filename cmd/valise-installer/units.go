package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/release"
)

// units are the services of serve and page. @PROGRAM@ is this program.
//
//go:embed units
var units embed.FS

// installUnits writes the units and makes the group that may use the daemon's
// socket. Below another --root it only writes them.
func (p *program) installUnits(ctx context.Context) error {
	live := p.root == "/"
	if live && !there("/run/systemd/system") {
		p.Note("systemd does not run here: start \"valise-installer serve\" as root and \"valise-installer page\" as a user of group %s yourself", socketGroup)
		return nil
	}
	if _, err := user.LookupGroup(socketGroup); err != nil && live {
		if err := command(ctx, "groupadd", "--system", socketGroup); err != nil {
			return cli.WithHint(err, "make the group %s by hand and repeat", socketGroup)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := openDir(filepath.Join(p.root, "etc/systemd/system"), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range []string{"valise.service", "valise-page.service"} {
		b, err := units.ReadFile("units/" + name)
		if err != nil {
			return err
		}
		if err := release.WriteFile(dir, name, bytes.ReplaceAll(b, []byte("@PROGRAM@"), []byte(self)), 0o644); err != nil {
			return err
		}
	}
	if !live {
		return nil
	}
	return command(ctx, "systemctl", "daemon-reload")
}

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, cli.OneLine(string(out)))
	}
	return nil
}
