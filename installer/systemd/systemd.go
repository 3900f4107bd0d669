// Package systemd tells the machine's service manager what to do, and asks it
// what runs. It runs systemctl: what an administrator would type, and it prints
// why something failed.
package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer"
)

// UnitDir is where an administrator's units are.
const UnitDir = "/etc/systemd/system"

// Unit is the state of one unit.
type Unit struct {
	Name        string
	Loaded      bool      // systemd knows it
	Active      string    // active, activating, inactive, failed, ...
	Sub         string    // running, exited, auto-restart, dead, ...
	Result      string    // why it is not active: success, exit-code, ...
	Restarts    int       // by itself since it was started
	Installable bool      // it has an [Install] section
	Enabled     bool      // starts at boot
	Changed     bool      // its file is newer than what systemd has read
	Since       time.Time // when it was active last, zero for never
	Started     string    // identifies the run: another one has another value
	Oneshot     bool      // a service that does something and ends
	Skipped     bool      // its conditions did not hold, so systemd did not start it
	Queued      bool      // systemd is about to start or stop it
	Triggers    []string  // what it starts when its time, file or connection comes
	Wants       []string  // what is started with it
}

// Running reports whether the unit does what it is for.
func (u Unit) Running() bool {
	return u.Active == "active" && u.Sub != "dead"
}

// Well reports whether the unit, after it was started, is as systemd means it: it
// runs, has done what it was to do, or was not to run under these conditions. Of a
// job that ended well systemd may forget that it ever ran.
func (u Unit) Well() bool {
	return u.Running() || u.Active == "inactive" && (u.Skipped || u.Oneshot)
}

func (u Unit) String() string { return fmt.Sprintf("%s (%s, %s)", u.Active, u.Sub, u.Result) }

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
	list, err := ShowAll(ctx, []string{name})
	if err != nil {
		return Unit{Name: name}, err
	}
	return list[0], nil
}

// ShowAll returns the states of units, in their order.
func ShowAll(ctx context.Context, names []string) ([]Unit, error) {
	if len(names) == 0 {
		return nil, nil
	}
	out, err := command(ctx, append([]string{"show", "--property=LoadState,ActiveState,SubState,Result,NRestarts,NeedDaemonReload,UnitFileState,InvocationID,ActiveEnterTimestamp,ActiveEnterTimestampMonotonic," +
		"Type,Job,ConditionResult,ConditionTimestampMonotonic,Triggers,Wants,Requires,BindsTo,Upholds", "--"}, names...)...)
	if err != nil {
		return nil, err
	}
	blocks := strings.Split(strings.TrimSpace(out), "\n\n")
	if len(blocks) != len(names) {
		return nil, fmt.Errorf("systemctl show: %d answers about %d units", len(blocks), len(names))
	}
	list := make([]Unit, len(names))
	for i, block := range blocks {
		list[i] = parseUnit(names[i], block)
	}
	return list, nil
}

func parseUnit(name, text string) Unit {
	u, checked := Unit{Name: name}, false
	for line := range strings.Lines(text) {
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
			u.Installable = value != "" && value != "static"
			u.Enabled = value == "enabled" || value == "indirect"
		case "NeedDaemonReload":
			u.Changed = value == "yes"
		case "InvocationID":
			u.Started = value + u.Started
		case "ActiveEnterTimestamp":
			u.Since, _ = time.Parse("Mon 2006-01-02 15:04:05 MST", value)
		case "ActiveEnterTimestampMonotonic":
			u.Started += "@" + value
		case "Type":
			u.Oneshot = value == "oneshot"
		case "ConditionResult":
			u.Skipped = value == "no"
		case "ConditionTimestampMonotonic":
			checked = value != "" && value != "0"
		case "Job":
			u.Queued = value != "" && value != "0"
		case "Triggers":
			u.Triggers = strings.Fields(value)
		case "Wants", "Requires", "BindsTo", "Upholds":
			u.Wants = append(u.Wants, strings.Fields(value)...)
		}
	}
	u.Skipped = u.Skipped && checked
	return u
}

// Instances are the instances of a template that systemd knows of.
func Instances(ctx context.Context, template string) (names []string, err error) {
	prefix, kind, _ := strings.Cut(template, "@.")
	out, err := command(ctx, "list-units", "--all", "--plain", "--no-legend", "--full", "--", prefix+"@*."+kind)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 0 {
			names = append(names, fields[0])
		}
	}
	return names, nil
}

// DaemonReload makes systemd read unit files again.
func DaemonReload(ctx context.Context) error { return run(ctx, "daemon-reload") }

// Enable makes units start at boot, where they say so themselves.
func Enable(ctx context.Context, names ...string) error { return each(ctx, names, "enable") }

// Reenable does the same for units whose file changed: what it said before is gone.
func Reenable(ctx context.Context, names ...string) error { return each(ctx, names, "reenable") }

// Disable takes units out of the boot. A template stands for all its instances.
func Disable(ctx context.Context, names ...string) error { return each(ctx, names, "disable") }

// Start starts units and waits until they have. What failed too often before is
// forgotten.
func Start(ctx context.Context, names ...string) error { return afresh(ctx, names, "start") }

// StartLater has systemd start units, and does not wait for it.
func StartLater(ctx context.Context, names ...string) error {
	return each(ctx, names, "start", "--no-block")
}

// Stop stops units and waits until they have.
func Stop(ctx context.Context, names ...string) error { return each(ctx, names, "stop") }

// Restart is Start for units that run, each for itself.
func Restart(ctx context.Context, names ...string) error { return afresh(ctx, names, "restart") }

// ReloadOrRestart lets units that can reload do so, and restarts others.
func ReloadOrRestart(ctx context.Context, names ...string) error {
	return afresh(ctx, names, "reload-or-restart")
}

func afresh(ctx context.Context, names []string, verb string) error {
	// Without this a unit that a release before failed to start a few times is
	// refused by its start limit.
	_ = each(ctx, names, "reset-failed") // fails when there is nothing to forget
	return each(ctx, names, verb)
}

func each(ctx context.Context, names []string, verb ...string) error {
	if len(names) == 0 {
		return nil
	}
	return run(ctx, slices.Concat(verb, []string{"--"}, names)...)
}

// TryRestart restarts a unit that runs, and does not wait for it.
func TryRestart(ctx context.Context, name string) error {
	return run(ctx, "try-restart", "--no-block", "--", name)
}

// Log returns the last lines a unit wrote, for the reason why it failed.
func Log(ctx context.Context, name string, lines int) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "journalctl", "--unit="+name, "--lines="+strconv.Itoa(4*lines), "--no-pager", "--output=cat", "--quiet")
	var out bytes.Buffer
	c.Stdout = &out
	if err := trace.Run(ctx, "journalctl", c); err != nil {
		return "" // there need not be a journal
	}
	last := slices.DeleteFunc(strings.Split(strings.TrimSpace(out.String()), "\n"), func(l string) bool {
		// In a container systemd says this of each start that failed, and the unit's own words get lost.
		return strings.HasPrefix(l, name+": Failed to kill control group")
	})
	return strings.Join(last[max(0, len(last)-lines):], "\n")
}

// Follow writes the last lines of units to out, and with follow what comes until ctx
// ends.
func Follow(ctx context.Context, units []string, lines int, follow bool, out io.Writer) error {
	args := []string{"--lines=" + strconv.Itoa(lines), "--no-pager", "--output=short-iso", "--quiet"}
	for _, name := range units {
		args = append(args, "--unit="+name)
	}
	if follow {
		args = append(args, "--follow")
	}
	c := exec.CommandContext(ctx, "journalctl", args...)
	c.WaitDelay = waitDelay
	var errs bytes.Buffer
	c.Stdout, c.Stderr = out, &errs
	err := c.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("read the journal: %w: %s", err, strings.TrimSpace(errs.String()))
}

// waitDelay is how long the pipes of a systemctl that was killed may stay open.
const waitDelay = 5 * time.Second

func run(ctx context.Context, args ...string) error {
	_, err := command(ctx, args...)
	return err
}

func command(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "systemctl", args...)
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	c.WaitDelay = waitDelay
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := trace.Run(ctx, strings.Join(append([]string{"systemctl"}, args...), " "), c); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("systemctl %s: %w", strings.Join(args, " "), context.Cause(ctx))
		}
		if text := strings.TrimSpace(errs.String()); text != "" {
			err = errors.New(text)
		}
		if errors.Is(err, exec.ErrNotFound) { // as when a disk fails: no release can help that
			err = &installer.DeviceError{Err: err}
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
