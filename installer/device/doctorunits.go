package device

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// live reports whether p changes this machine, and systemd runs it.
func (m *Machine) live() bool { return m.Root == "/" && release.Exists("/run/systemd/system") }

// examineBoot asks whether the engine, and with it what runs on it, comes back
// after a reboot. An engine that is no unit is somebody else's to start.
func (m *Machine) examineBoot(ctx context.Context, f *findings) {
	if !m.live() || m.Getenv("DOCKER_HOST") != "" {
		return
	}
	service, err := systemd.Show(ctx, "docker.service")
	if err != nil || !service.Loaded {
		return
	}
	if socket, err := systemd.Show(ctx, "docker.socket"); !service.Enabled && (err != nil || !socket.Enabled) {
		f.add("", "engine at boot", FindingFailed, do(EnableEngine), "docker.service does not start at boot, nor does anything that runs on it")
		return
	}
	f.add("", "engine at boot", FindingOK, do(""), "docker.service starts at boot")
}

// examineRecovery asks whether a power cut in an update is undone at boot. after
// is what recovery waits for.
func (m *Machine) examineRecovery(ctx context.Context, f *findings, app string, after []string) {
	const check = "recovery"
	name, self := systemd.RecoveryName(app), filepath.Join(m.binDir(), programName)
	if u, err := systemd.Show(ctx, name); err != nil || !u.Enabled {
		f.add(app, check, FindingFailed, do(EnableRecovery, name), "%s does not run at boot: a power cut in an update would not be undone", name)
		return
	}
	if !release.Exists(self) {
		f.add(app, check, FindingFailed, do(PutInstaller), "%s runs %s, which does not exist: a power cut in an update would not be undone", name, self)
		return
	}
	have, err := os.ReadFile(filepath.Join(systemd.UnitDir, name))
	if err != nil || !bytes.Equal(withoutBefore(have), systemd.RecoveryUnit(app, self, nil, after)) {
		f.add(app, check, FindingWarning, do(RecoveryAnew, name), "%s is from another valise-installer, or was changed here", name)
		return
	}
	f.add(app, check, FindingOK, do(""), "%s undoes interrupted updates at boot", name)
}

// withoutBefore is a unit without the units it comes before: those of a release,
// and not of every one.
func withoutBefore(unit []byte) []byte {
	var out []byte
	for line := range bytes.Lines(unit) {
		if !bytes.HasPrefix(line, []byte("Before=")) {
			out = append(out, line...)
		}
	}
	return out
}

// examineServices checks the services of serve, page and usb, where somebody set
// them up or an app has settings for them. A page that is off is nobody's trouble.
func (m *Machine) examineServices(ctx context.Context, f *findings, apps []string) {
	files, err := units.ReadDir("units")
	if err != nil {
		return
	}
	wanted := slices.ContainsFunc(apps, func(app string) bool {
		c, err := m.ReadConfig(app)
		on := func(mode daemon.Mode) bool { return mode != "" && mode != daemon.Off }
		return err == nil && (c.Updates.Check != 0 || on(c.Updates.DropMode) || on(c.Updates.USB))
	})
	for _, file := range files {
		wanted = wanted || release.Exists(m.unitPath(file.Name()))
	}
	if !wanted {
		return
	}
	for _, file := range files {
		name := file.Name()
		switch have, err := os.ReadFile(m.unitPath(name)); {
		case err != nil && name == "valise-page.service":
		case err != nil:
			f.add("", name, FindingFailed, do(SetUpAgain), "%v: drop folders, sticks and schedules are not processed", err)
		case !isUnit(name, have):
			f.add("", name, FindingWarning, do(SetUpUnit, name), "%s is from another valise-installer, or was changed here", m.unitPath(name))
		case m.live() && strings.HasPrefix(name, "valise") && !strings.Contains(name, "@"): // those that run all the time
			m.examineService(ctx, f, name)
		default:
			f.add("", name, FindingOK, do(""), "%s", m.unitPath(name))
		}
	}
}

func (m *Machine) examineService(ctx context.Context, f *findings, name string) {
	u, err := systemd.Show(ctx, name)
	switch {
	case err != nil:
		f.add("", name, FindingFailed, do(SeeUnit, name), "%v", err)
	case !u.Enabled && !u.Running() && name == "valise-page.service":
		f.add("", name, FindingOK, do(""), "the page is off")
	case !u.Enabled:
		f.add("", name, FindingWarning, do(EnableUnit, name), "it does not start at boot")
	case !u.Running():
		f.add("", name, FindingFailed, do(RestartUnit, name, name), "it is %s (%s)", u.Active, u.Result)
	default:
		f.add("", name, FindingOK, do(""), "it runs and starts at boot")
	}
}

// isUnit reports whether b is one of ours, whatever program it starts.
func isUnit(name string, b []byte) bool {
	text, err := units.ReadFile("units/" + name)
	before, after, program := bytes.Cut(text, []byte("@PROGRAM@"))
	if !program {
		return err == nil && bytes.Equal(b, text)
	}
	b, ok := bytes.CutPrefix(b, before)
	b, ok2 := bytes.CutSuffix(b, after)
	return err == nil && ok && ok2 && release.Exists(string(b))
}
