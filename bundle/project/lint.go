package project

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// mount is a file or directory that a compose file names relative to itself.
type mount struct{ user, source string }

// mounts lists what services use of the directory of the compose file. The
// environment file is not the app's but the device's.
func (c *composeFile) mounts() []mount {
	var all []mount
	add := func(source, format string, args ...any) {
		if source != "" && !filepath.IsAbs(source) && !strings.HasPrefix(source, "~") {
			all = append(all, mount{fmt.Sprintf(format, args...), source})
		}
	}
	for _, name := range sortedKeys(c.services) {
		for _, v := range c.services[name].Volumes {
			if v.Type == types.VolumeTypeBind {
				add(v.Source, "service %s", name)
			}
		}
		for _, f := range c.services[name].EnvFiles {
			if filepath.Clean(f.Path) != envName && bool(f.Required) {
				add(f.Path, "service %s", name)
			}
		}
	}
	for _, name := range sortedKeys(c.project.Configs) {
		add(c.project.Configs[name].File, "config %s", name)
	}
	for _, name := range sortedKeys(c.project.Secrets) {
		add(c.project.Secrets[name].File, "secret %s", name)
	}
	return all
}

// checkMounts refuses a service that uses a file of this repository which is not
// in the bundle. On the device Docker would make an empty directory of that
// name, and the service would fail in a way that nobody understands. What does
// not exist here is data of the device.
func (p *Project) checkMounts(c *composeFile) error {
	for _, m := range c.mounts() {
		file := p.beside(m.source)
		info, err := os.Stat(p.Path(file))
		if err != nil || info.IsDir() {
			continue
		}
		switch name := filepath.ToSlash(file); {
		case !filepath.IsLocal(file):
			return p.composeError("%s uses file %s, which is outside the directory of %s", m.user, m.source, DefaultFile)
		case filepath.Dir(p.Compose) != ".":
			return p.composeError("%s uses file %s: want the compose file beside %s, because a bundle has it at its root", m.user, m.source, DefaultFile)
		case name != EnvExample && !slices.Contains(p.Files, name):
			return p.composeError("%s uses file %s, which is not in the bundle: write in %s files: [%s]", m.user, m.source, DefaultFile, name)
		}
	}
	return nil
}

// notes is advice about what works, but not well on a device.
func (p *Project) notes(c *composeFile) []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	once := c.onceOnly()
	for _, name := range sortedKeys(c.services) {
		s := c.services[name]
		if h := s.HealthCheck; h != nil && !h.Disable && h.StartPeriod != nil && *h.StartPeriod > 0 && h.StartInterval == nil {
			note("service %s: healthcheck has start_period and no start_interval: an engine since 25 then looks every 5s while the service starts; with start_interval: 1s an update is done sooner", name)
		}
		switch policy := s.PullPolicy; policy {
		case "", types.PullPolicyMissing, types.PullPolicyIfNotPresent, types.PullPolicyNever:
		default:
			note("service %s: pull_policy: %s needs a registry or the source at every start: leave it out, the bundle has the image", name, policy)
		}
		if (s.Restart == "" || s.Restart == types.RestartPolicyNo) && (s.Deploy == nil || s.Deploy.RestartPolicy == nil) && !once[name] && len(s.Profiles) == 0 {
			note("service %s has no restart policy: it stays down when the device was switched off; write restart: unless-stopped", name)
		}
	}
	for _, m := range c.mounts() {
		file := p.beside(m.source)
		info, err := os.Stat(p.Path(file))
		if err != nil || !info.IsDir() || file == "." {
			continue
		}
		below := filepath.ToSlash(file) + "/"
		if !slices.ContainsFunc(p.Files, func(f string) bool { return strings.HasPrefix(f, below) }) {
			note("%s uses directory %s, and no file of it is in the bundle: right for data of the device, else list its files under files", m.user, m.source)
		}
	}
	return notes
}

// onceOnly are the services that are meant to end: others wait for that.
func (c *composeFile) onceOnly() map[string]bool {
	once := map[string]bool{}
	for _, s := range c.services {
		for name, d := range s.DependsOn {
			if d.Condition == types.ServiceConditionCompletedSuccessfully {
				once[name] = true
			}
		}
	}
	return once
}
