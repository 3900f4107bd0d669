package tree

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

func unitPath(name string) string { return filepath.Join(systemd.UnitDir, name) }

// unitFiles are the names of a release's unit files below the directory of units.
func unitFiles(m *bundle.Manifest) (names []string) {
	for _, u := range m.Device.Tree.Units {
		names = append(names, bundle.UnitFile(u))
	}
	return names
}

func isTemplate(name string) bool {
	return strings.Contains(name, "@.") && !strings.Contains(name, "/")
}

// units are the units of a release that systemd can be asked about: its own, and
// instances of its templates that are there, whoever made them.
func units(ctx context.Context, m *bundle.Manifest) ([]string, error) {
	names := m.Device.Tree.UnitNames()
	for _, name := range unitFiles(m) {
		if !isTemplate(name) {
			continue
		}
		instances, err := systemd.Instances(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, i := range instances {
			if !slices.Contains(names, i) {
				names = append(names, i)
			}
		}
	}
	return names, nil
}

// concerns reports whether a unit file is that of a unit, of its template, or a
// drop-in of either.
func concerns(file, unit string) bool {
	of, _, _ := strings.Cut(file, ".d/")
	return of == unit || of == bundle.TemplateOf(unit)
}

// wanted are the units that run when the app does: those with an [Install] section,
// as at boot, and what they want. What a socket, a timer or a path starts is
// theirs to start; a job that one of them starts does not run at boot either.
// An instance that the release does not name is a person's: it runs on when it runs.
func wanted(list []systemd.Unit, named []string) map[string]bool {
	want := map[string]bool{}
	triggered := func(u systemd.Unit) bool {
		return slices.ContainsFunc(list, func(by systemd.Unit) bool { return slices.Contains(by.Triggers, u.Name) })
	}
	for _, u := range list {
		want[u.Name] = u.Installable && !(u.Oneshot && triggered(u)) && slices.Contains(named, u.Name)
	}
	// Where nothing says that it starts at boot, what nothing else starts is meant.
	if !slices.ContainsFunc(list, func(u systemd.Unit) bool { return want[u.Name] }) {
		for _, u := range list {
			want[u.Name] = !triggered(u) && slices.Contains(named, u.Name)
		}
	}
	for more := true; more; {
		more = false
		for _, by := range list {
			for _, name := range by.Wants {
				if want[by.Name] && !want[name] && slices.ContainsFunc(list, func(u systemd.Unit) bool { return u.Name == name }) {
					want[name], more = true, true
				}
			}
		}
	}
	return want
}

func isSocket(name string) bool { return strings.HasSuffix(name, ".socket") }

// isConnection reports whether a unit was started for one connection of a socket of
// list, which has Accept=yes then.
func isConnection(list []systemd.Unit, name string) bool {
	socket := strings.TrimSuffix(bundle.TemplateOf(name), "@.service") + ".socket"
	return slices.ContainsFunc(list, func(u systemd.Unit) bool { return u.Name == socket })
}

// ask returns the units of a release and which of them are wanted.
func ask(ctx context.Context, m *bundle.Manifest) ([]systemd.Unit, map[string]bool, error) {
	names, err := units(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	list, err := systemd.ShowAll(ctx, names)
	return list, wanted(list, m.Device.Tree.UnitNames()), err
}

// ill says what is wrong with a unit, and is empty when nothing is.
func ill(u systemd.Unit, want bool) string {
	if want && !u.Well() || u.Active == "failed" {
		return u.String()
	}
	return ""
}

// start enables and starts the units of a release, after systemd has read their
// files. changed are the unit files that are new; nil means that any may be. With
// reload a service that can reload does so: a process that has other rules or
// another environment is a new one. A socket, a timer or a mount goes on when
// nothing of it changed: connections wait in it, and its time runs on.
func (a *App) start(ctx context.Context, m *bundle.Manifest, files []file, changed []string, reload bool) error {
	list, want, err := ask(ctx, m)
	if err != nil {
		return err
	}
	isNew := func(name string) bool {
		return changed == nil || slices.ContainsFunc(changed, func(file string) bool { return concerns(file, name) })
	}
	current := []byte(filepath.Join(a.Dir, "current"))
	moved := func(name string) bool { // what it watches or mounts is another file now
		return slices.ContainsFunc(files, func(f file) bool { return f.unit != "" && concerns(f.unit, name) && bytes.Contains(f.data, current) })
	}
	named := m.Device.Tree.UnitNames()
	var enable, reenable, stop, reloaded, later []string
	var begin, restart [2][]string // what is no service, then services: they may need the others
	for _, u := range list {
		switch {
		case !want[u.Name] || !u.Installable || !slices.Contains(named, u.Name):
		case isNew(u.Name):
			reenable = append(reenable, u.Name)
		default:
			enable = append(enable, u.Name)
		}
		kind := 0
		if strings.HasSuffix(u.Name, ".service") {
			kind = 1
		}
		switch {
		case a.Boot && !u.Running(): // systemd starts it when we are through, if it was to start at this boot
			if want[u.Name] && !u.Queued {
				later = append(later, u.Name)
			}
			continue
		case !want[u.Name] && (!u.Running() || u.Oneshot || isConnection(list, u.Name)): // a job goes on, and so does a connection
			continue
		case !u.Running():
			begin[kind] = append(begin[kind], u.Name)
		case kind == 1 && reload:
			reloaded = append(reloaded, u.Name)
			continue
		case kind == 1 || isNew(u.Name) || moved(u.Name):
			restart[kind] = append(restart[kind], u.Name)
		default:
			continue
		}
		// A socket does not start while its service runs, and systemd does not wait for
		// that by itself when it restarts both.
		if isSocket(u.Name) {
			stop = append(append(stop, u.Name), u.Triggers...)
		}
	}
	if err := systemd.Reenable(ctx, reenable...); err != nil {
		return err
	}
	if err := systemd.Enable(ctx, enable...); err != nil {
		return err
	}
	err = systemd.Stop(ctx, stop...)
	for kind := range begin {
		if err == nil {
			err = systemd.Start(ctx, begin[kind]...)
		}
		if err == nil {
			err = systemd.Restart(ctx, restart[kind]...)
		}
	}
	if err == nil {
		err = systemd.ReloadOrRestart(ctx, reloaded...)
	}
	if err == nil {
		err = systemd.StartLater(ctx, later...)
	}
	if err != nil {
		return a.withLog(ctx, err, m)
	}
	return nil
}

// dropUnits stops units, takes them out of the boot, and removes unit files.
func dropUnits(ctx context.Context, names, files []string) error {
	list, err := systemd.ShowAll(ctx, names)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(u systemd.Unit) bool { return !u.Loaded })
	var loaded, disable []string
	for _, u := range list {
		loaded = append(loaded, u.Name)
		if u.Installable {
			disable = append(disable, u.Name)
		}
	}
	for _, name := range files {
		if isTemplate(name) && release.Exists(unitPath(name)) {
			disable = append(disable, name)
		}
	}
	if err := systemd.Stop(ctx, loaded...); err != nil {
		return err
	}
	if err := systemd.Disable(ctx, disable...); err != nil {
		return err
	}
	for _, name := range files {
		if err := removeFile(unitPath(name)); err != nil {
			return err
		}
	}
	return nil
}

// without are those of a list that are not in another.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}
