package compose

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
)

// unset stands for required keys without a value when docker compose reads the
// files all the same: what else a device lacks is to be said at once. It passes as
// text, a number, a size and a port, and no device is called like that.
const unset = "61357"

// lacks says what a release needs of this device, does not bring, and would fail
// for in the middle of a switch. dir is where relative paths in model begin.
func (a *App) lacks(ctx context.Context, m *bundle.Manifest, model *docker.Model, dir string, platform bundle.Platform) (unmet []installer.Note, err error) {
	say := func(format string, args ...any) {
		n := installer.Notef(format, args...)
		if !strings.Contains(n.Text, unset) && !slices.ContainsFunc(unmet, func(o installer.Note) bool { return o.Text == n.Text }) {
			unmet = append(unmet, n)
		}
	}
	if err := a.lacksNamed(ctx, m, model, dir, say); err != nil {
		return nil, err
	}
	can, err := a.Engine.Abilities(ctx, a.Env)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(model.Services)) {
		if !model.Runs(name) {
			continue
		}
		s := model.Services[name]
		if p := s.Platform; p != "" && !runsOn(p, platform) {
			say("service %s has platform: %s, and this device is %s: leave platform out, the release has an image for it", name, p, platform)
		}
		if s.Runtime != "" && !slices.Contains(can.Runtimes, s.Runtime) {
			say("service %s has runtime: %s, and the engine has %s: install it and restart docker.service", name, s.Runtime, strings.Join(slices.Sorted(slices.Values(can.Runtimes)), ", "))
		}
		if s.GPU() && !can.GPU {
			say("service %s asks for a GPU, and the engine knows none: install the driver and its container toolkit, and restart docker.service", name)
		}
		for _, d := range s.Devices {
			if path.IsAbs(string(d)) && !there(string(d)) {
				say("service %s uses device %s, which is not there: plug it in, or load its driver", name, d)
			}
		}
		for _, f := range s.EnvFile {
			if (f.Required == nil || *f.Required) && !there(f.Path) && !comes(m, dir, f.Path) {
				say("service %s has env_file: %s, which is not there", name, f.Path)
			}
		}
		lacksMounts(m, dir, name, s, say)
		if err := a.lacksContainers(ctx, name, s, say); err != nil {
			return nil, err
		}
		lacksKernel(name, s, can, say)
	}
	return unmet, nil
}

// lacksNamed looks for networks and volumes that others make.
func (a *App) lacksNamed(ctx context.Context, m *bundle.Manifest, model *docker.Model, at string, say func(string, ...any)) error {
	var create bundle.Create
	if c := m.Device.Create; c != nil {
		create = *c
	}
	for _, kind := range []struct {
		what  string
		named map[string]docker.Named
		made  []string
		has   func(context.Context, string) (bool, error)
	}{
		{"network", model.Networks, create.Networks, a.Engine.HasNetwork},
		{"volume", model.Volumes, create.Volumes, a.Engine.HasVolume},
	} {
		for _, key := range slices.Sorted(maps.Keys(kind.named)) {
			n := kind.named[key]
			if dir := n.Directory(); dir != "" && !there(dir) {
				if rel, err := filepath.Rel(at, dir); err != nil || !filepath.IsLocal(rel) {
					say("volume %s is directory %s, which is not there: mkdir -p %s", key, dir, dir)
				}
			}
			if !bool(n.External) || slices.Contains(kind.made, key) {
				continue
			}
			ok, err := kind.has(ctx, n.Name)
			if err != nil {
				return err
			}
			if !ok {
				say("%s %s is external and does not exist: docker %s create %s", kind.what, n.Name, kind.what, n.Name)
			}
		}
	}
	return nil
}

// makeNeeded makes the external networks and volumes that a release says are to
// be made, and the directories of the app that volumes stand for. They belong to
// nobody: no undo and no removal takes them away.
func (a *App) makeNeeded(ctx context.Context, m *bundle.Manifest, c *docker.Compose) error {
	create := m.Device.Create
	texts, err := c.Texts()
	if err != nil {
		return err
	}
	bound := slices.ContainsFunc(texts, func(b []byte) bool { return bytes.Contains(b, []byte("driver_opts")) })
	if create == nil && !bound {
		return nil
	}
	model, err := c.Model(ctx)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(model.Volumes)) {
		if rel, err := filepath.Rel(a.Dir, model.Volumes[key].Directory()); err == nil && bundle.LocalPath(filepath.ToSlash(rel)) {
			if err := mkdirs(a, filepath.ToSlash(rel), 0o755); err != nil {
				return fmt.Errorf("make the directory of volume %s: %w", key, err)
			}
		}
	}
	if create == nil {
		return nil
	}
	for _, key := range create.Networks {
		if n, ok := model.Networks[key]; ok && bool(n.External) {
			if err := a.Engine.MakeNetwork(ctx, n.Name); err != nil {
				return err
			}
		}
	}
	for _, key := range create.Volumes {
		if n, ok := model.Volumes[key]; ok && bool(n.External) {
			if err := a.Engine.MakeVolume(ctx, n.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// lacksMounts finds what an engine would refuse to mount, and files in whose place
// it would make an empty directory.
func lacksMounts(m *bundle.Manifest, dir, name string, s docker.Service, say func(string, ...any)) {
	for _, v := range s.Volumes {
		if v.Type != "bind" || there(v.Source) || comes(m, dir, v.Source) {
			continue
		}
		made := v.Bind.CreateHostPath != nil && !*v.Bind.CreateHostPath
		if made || fileName.MatchString(v.Source) && fileName.MatchString(v.Target) {
			say("service %s mounts %s, which is not there", name, v.Source)
		}
	}
}

// fileName are paths that would be files, by their names: not directories like
// conf.d or v1.2.
var fileName = lazyregexp.New(`[^/]\.(?:[A-Za-z][A-Za-z0-9]+|[abce-z])$|^/etc/(?:localtime|timezone|passwd|group|hosts|machine-id)$`)

// comes reports whether a path is one of what a release mounts of itself, or of the
// files that are asked for and generated.
func comes(m *bundle.Manifest, dir, p string) bool {
	rel, err := filepath.Rel(dir, p)
	if err != nil || !filepath.IsLocal(rel) {
		return strings.HasPrefix(p, "/proc/") // in memory, while the release is planned
	}
	rel = filepath.ToSlash(rel)
	return strings.HasPrefix(rel, bundle.MountDir+"/") || strings.HasPrefix(p, "/proc/") || slices.Contains(m.Device.Local, rel)
}

// there reports whether a path of this device exists, as far as that can be known: a
// service of systemd may have a /dev and a /tmp of its own, and then the first
// process is asked.
func there(p string) bool {
	gone := func(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) }
	_, err := os.Stat(p)
	if gone(err) && hidden(p) {
		_, err = os.Stat("/proc/1/root" + p)
	}
	return !gone(err)
}

// hidden reports whether a path is below a directory that this process sees another
// one in the place of.
func hidden(p string) bool {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		_, kind, _ := strings.Cut(line, " - ")
		if len(f) > 4 && strings.HasPrefix(p, f[4]+"/") && (f[4] == "/dev" && !strings.HasPrefix(kind, "devtmpfs ") || strings.Contains(f[3], "/systemd-private-")) {
			return true
		}
	}
	return false
}

// lacksContainers looks for containers of others that a service joins.
func (a *App) lacksContainers(ctx context.Context, name string, s docker.Service, say func(string, ...any)) error {
	joined := slices.Clone(s.ExternalLinks)
	for _, text := range append([]string{s.NetworkMode, s.PID, s.IPC}, s.VolumesFrom...) {
		if other, ok := strings.CutPrefix(text, "container:"); ok {
			joined = append(joined, other)
		}
	}
	for _, other := range joined {
		other, _, _ = strings.Cut(other, ":")
		ok, err := a.Engine.HasContainer(ctx, other)
		if err != nil {
			return err
		}
		if !ok {
			say("service %s joins container %s, which does not exist", name, other)
		}
	}
	return nil
}

// lacksKernel finds what needs a feature of the kernel that is not there.
func lacksKernel(name string, s docker.Service, can docker.Abilities, say func(string, ...any)) {
	for _, key := range slices.Sorted(maps.Keys(s.Sysctls)) {
		if strings.Contains(key, "..") || !there("/proc/sys/"+strings.ReplaceAll(key, ".", "/")) && !there("/proc/sys/"+key) {
			say("service %s sets %s, which this kernel does not have", name, key)
		}
	}
	limits := s.Deploy.Resources.Limits
	for _, limit := range []struct {
		what  string
		asked bool
		can   bool
	}{
		{"cpus", s.CPUs != nil || limits.CPUs != nil, can.CPUs},
		{"cpuset", s.CPUSet != "", can.CPUSet},
		{"memory", s.MemLimit != nil || limits.Memory != nil, can.Memory},
		{"processes", s.PidsLimit != nil || limits.Pids != nil, can.Pids},
	} {
		if limit.asked && !limit.can {
			say("service %s limits its %s, which this kernel cannot do: turn the control group on (on a Raspberry Pi cgroup_enable=memory in cmdline.txt)", name, limit.what)
		}
	}
}

// runsOn reports whether an image for a platform that a compose file names is one
// for this device.
func runsOn(named string, device bundle.Platform) bool {
	p, err := bundle.ParsePlatform(named)
	if err != nil {
		return false
	}
	return p.OS() == device.OS() && p.Arch() == device.Arch() && (p.Variant() == "" || device.Variant() == "" || p.Variant() <= device.Variant())
}

// portsTaken are the ports of a release that something else on this device has,
// and what.
func (a *App) portsTaken(ctx context.Context, project string, ports []docker.Port) (list []string, err error) {
	published, err := a.Engine.Published(ctx, project)
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		by, ours := "", false
		for has, container := range published {
			if has.Number == p.Number && has.Protocol == p.Protocol && (has.IP == "" || p.IP == "" || has.IP == p.IP || p.IP == "0.0.0.0" || p.IP == "::") {
				by, ours = container, ours || container == ""
			}
		}
		address := net.JoinHostPort(p.IP, strconv.Itoa(p.Number))
		if ours {
			continue
		}
		if by == "" {
			has := sockets(p)
			if len(has) == 0 {
				continue
			}
			by = owner(has)
		}
		text := fmt.Sprintf("%s/%s (service %s)", address, p.Protocol, p.Service)
		if by != "" {
			text += " by " + by
		}
		list = append(list, text)
	}
	return list, nil
}

// sockets are those on this device that stand in the way of a port.
func sockets(p docker.Port) map[string]bool {
	found := map[string]bool{}
	state := "0A" // listening
	if p.Protocol == "udp" {
		state = "07"
	}
	want := net.ParseIP(p.IP)
	for _, table := range []string{p.Protocol, p.Protocol + "6"} {
		b, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != state {
				continue
			}
			at, port, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseInt(port, 16, 32); err != nil || int(n) != p.Number {
				continue
			}
			if ip := kernelIP(at); want == nil || want.IsUnspecified() || ip.IsUnspecified() || ip.Equal(want) {
				found["socket:["+f[9]+"]"] = true
			}
		}
	}
	return found
}

// kernelIP reads an address as /proc/net has it: words of four bytes, each backwards.
func kernelIP(s string) net.IP {
	ip, err := hex.DecodeString(s)
	if err != nil {
		return net.IPv4zero
	}
	for w := range slices.Chunk(ip, 4) {
		slices.Reverse(w)
	}
	return ip
}

// owner is the process that has one of sockets, or "": its name is for people only.
func owner(sockets map[string]bool) string {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || !sockets[to] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err == nil {
			return fmt.Sprintf("%.64q (process %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

// Lacks says what the release that runs needs of this device and does not find.
func (a *App) Lacks(ctx context.Context, r installer.Release) (unmet []installer.Note, err error) {
	m, err := a.manifest(r)
	if err != nil {
		return nil, err
	}
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return nil, err
	}
	model, err := a.running(m, r).Model(ctx)
	if err != nil {
		return nil, err
	}
	if unmet, err = a.lacks(ctx, m, model, a.Dir, info.Platform); err != nil {
		return nil, err
	}
	taken, err := a.portsTaken(ctx, m.Device.Project, model.Ports())
	for _, p := range taken {
		unmet = append(unmet, installer.Notef("port is taken: %s", p))
	}
	return unmet, err
}

// withUnset is an environment file that has something for every key.
func withUnset(env *environ.File, missing []string) []byte {
	b := slices.Clone(env.Bytes())
	for _, key := range missing {
		b = fmt.Appendf(b, "\n%s=%s\n", key, unset)
	}
	return b
}
