// Package systemd tells the machine's service manager what to do, and asks it
// what runs. It runs systemctl: what an administrator would type, and it prints
// why something failed.
package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// UnitDir is where an administrator's units are.
const UnitDir = "/etc/systemd/system"

// Unit is the state of one unit.
type Unit struct {
	Name     string
	Loaded   bool   // systemd knows it
	Active   string // active, activating, inactive, failed, ...
	Sub      string // running, exited, auto-restart, dead, ...
	Result   string // why it is not active: success, exit-code, ...
	Restarts int    // by itself since it was started
	Enabled  bool   // starts at boot
	Changed  bool   // its file is newer than what systemd has read
	Started  string // identifies the run: another one has another value
}

// Running reports whether the unit does what it is for.
func (u Unit) Running() bool {
	return u.Active == "active" && u.Sub != "dead"
}

// Available says why there is no systemd to talk to.
func Available(ctx context.Context) error {
	out, err := command(ctx, "show", "--property=Version")
	if err == nil && !strings.Contains(out, "Version=") {
		err = errors.New("it does not answer")
	}
	if err != nil {
		return fmt.Errorf("systemd does not run here: %w", err)
	}
	return nil
}

// Show returns the state of a unit; one that systemd does not know is not Loaded.
func Show(ctx context.Context, name string) (Unit, error) {
	u := Unit{Name: name}
	out, err := command(ctx, "show", "--property=LoadState,ActiveState,SubState,Result,NRestarts,NeedDaemonReload,UnitFileState,InvocationID,ActiveEnterTimestampMonotonic", "--", name)
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadState":
			u.Loaded = value == "loaded"
		case "ActiveState":
			u.Active = value
		case "SubState":
			u.Sub = value
		case "Result":
			u.Result = value
		case "NRestarts":
			u.Restarts, _ = strconv.Atoi(value) // sockets and timers have none
		case "UnitFileState":
			u.Enabled = value == "enabled"
		case "NeedDaemonReload":
			u.Changed = value == "yes"
		case "InvocationID":
			u.Started = value + u.Started
		case "ActiveEnterTimestampMonotonic":
			u.Started += "@" + value
		}
	}
	return u, nil
}

// DaemonReload makes systemd read unit files again.
func DaemonReload(ctx context.Context) error { return run(ctx, "daemon-reload") }

// Enable makes a unit start at boot, if it says so itself.
func Enable(ctx context.Context, name string) error { return run(ctx, "enable", "--", name) }

// Disable takes a unit out of the boot.
func Disable(ctx context.Context, name string) error { return run(ctx, "disable", "--", name) }

// Start starts a unit and waits until it has.
func Start(ctx context.Context, name string) error { return run(ctx, "start", "--", name) }

// Stop stops a unit and waits until it has.
func Stop(ctx context.Context, name string) error { return run(ctx, "stop", "--", name) }

// Restart stops and starts a unit. What failed too often before is forgotten.
func Restart(ctx context.Context, name string) error {
	// Without this a unit that a release before failed to start a few times is
	// refused by its start limit.
	_ = run(ctx, "reset-failed", "--", name) // fails when there is nothing to forget
	return run(ctx, "restart", "--", name)
}

// TryRestart restarts a unit that runs, and does not wait for it.
func TryRestart(ctx context.Context, name string) error {
	return run(ctx, "try-restart", "--no-block", "--", name)
}

// ReloadOrRestart lets a unit that can reload do so, and restarts others.
func ReloadOrRestart(ctx context.Context, name string) error {
	_ = run(ctx, "reset-failed", "--", name)
	return run(ctx, "reload-or-restart", "--", name)
}

// Log returns the last lines a unit wrote, for the reason why it failed.
func Log(ctx context.Context, name string, lines int) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "journalctl", "--unit="+name, "--lines="+strconv.Itoa(4*lines), "--no-pager", "--output=cat", "--quiet").Output()
	if err != nil {
		return "" // there need not be a journal
	}
	last := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(out)), "\n"), func(l string) bool {
		// In a container systemd says this of each start that failed, and the unit's own words get lost.
		return strings.HasPrefix(l, name+": Failed to kill control group")
	})
	return strings.Join(last[max(0, len(last)-lines):], "\n")
}

// waitDelay is how long the pipes of a systemctl that was killed may stay open.
const waitDelay = 5 * time.Second

func run(ctx context.Context, args ...string) error {
	_, err := command(ctx, args...)
	return err
}

func command(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "systemctl", args...)
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	c.WaitDelay = waitDelay
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("systemctl %s: %w", strings.Join(args, " "), context.Cause(ctx))
		}
		if text := strings.TrimSpace(errs.String()); text != "" {
			err = errors.New(text)
		}
		return "", fmt.Errorf("systemctl %s: %w", strings.Join(args, " "), err)
	}
	return out.String(), nil
}

// EnvironmentFile is the first environment file of a unit, empty when it has
// none.
func EnvironmentFile(ctx context.Context, name string) (string, error) {
	out, err := command(ctx, "show", "--property=EnvironmentFiles", "--", name)
	if err != nil {
		return "", err
	}
	// EnvironmentFiles=/etc/app/app.env (ignore_errors=no)
	value := strings.TrimPrefix(strings.TrimSpace(out), "EnvironmentFiles=")
	value, _, _ = strings.Cut(value, " (ignore_errors")
	return value, nil
}
