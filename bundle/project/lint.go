package project

import (
	"fmt"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/valise-ota/valise/bundle"
)

// notes is advice about what works, but not well on a device.
func (p *Project) notes(c *composeFile) []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	once := c.onceOnly()
	for _, name := range sortedKeys(c.services) {
		s := c.services[name]
		p.buildNotes(c, name, note)
		if h := s.HealthCheck; h != nil && !h.Disable && h.StartPeriod != nil && *h.StartPeriod > 0 && h.StartInterval == nil {
			note("service %s: healthcheck has start_period and no start_interval: an engine since 25 then looks every 5s while the service starts; use more retries in place of start_period, or start_interval: 1s when every device has engine 25 or newer", name)
		}
		switch policy := s.PullPolicy; policy {
		case "", types.PullPolicyMissing, types.PullPolicyIfNotPresent, types.PullPolicyNever:
		default:
			note("service %s: pull_policy: %s needs a registry or the source at every start: leave it out, the bundle has the image", name, policy)
		}
		if (s.Restart == "" || s.Restart == types.RestartPolicyNo) && (s.Deploy == nil || s.Deploy.RestartPolicy == nil) && !once[name] && len(s.Profiles) == 0 {
			note("service %s has no restart policy: it does not start again after the device was off; write restart: unless-stopped", name)
		}
	}
	for _, name := range sortedKeys(c.services) {
		s := c.services[name]
		if bundle.UpdatesItself(name, s.Image) && slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
			return bundle.EngineSocket(v.Source) || bundle.EngineSocket(v.Target)
		}) {
			note("service %s mounts the engine's socket and looks like an updater of this app: what it pulls is not verified, and an update of Valise replaces it. Leave it out of the release (take it out of %s, or write \"services: {%s: !reset null}\" in a file that compose: in %s lists after it): valise serve updates the app", name, p.Compose, name, DefaultFile)
		}
	}
	for _, name := range sortedKeys(c.services) {
		for _, v := range c.services[name].Volumes {
			if rest, ok := strings.CutPrefix(v.Source, "~"); ok && v.Type == types.VolumeTypeBind {
				note("service %s mounts %s of the home directory: on a device that is /root%s, because root installs; an absolute path is clearer", name, v.Source, rest)
			}
		}
	}
	for _, profile := range p.Profiles {
		has := func(name string) bool { return slices.Contains(c.services[name].Profiles, profile) }
		if profile != "*" && !slices.ContainsFunc(sortedKeys(c.services), has) {
			note("profiles: no service has the profile %q", profile)
		}
	}
	return notes
}

// none reports whether there are to be no containers of a service.
func none(s types.ServiceConfig) bool {
	return s.Deploy != nil && s.Deploy.Replicas != nil && *s.Deploy.Replicas == 0 || s.Scale != nil && *s.Scale == 0
}

// endsBy reports whether a service with a restart policy may end. A file that says
// nothing of it says nothing of that either.
func endsBy(restart string) bool {
	return restart == types.RestartPolicyNo || strings.HasPrefix(restart, types.RestartPolicyOnFailure)
}

// onceOnly are the services that are meant to end, or not to run at all: others wait
// for the end, they are started again only when they failed, or never, and nobody asks
// them anything, or there are to be none of them. A device decides the same
// (docker.Model).
func (c *composeFile) onceOnly() map[string]bool {
	once := map[string]bool{}
	for name, s := range c.services {
		if asked := len(s.Ports) > 0 || s.HealthCheck != nil && !s.HealthCheck.Disable; none(s) || !asked && endsBy(c.text(name, "restart")) {
			once[name] = true
		}
		for name, d := range s.DependsOn {
			if d.Condition == types.ServiceConditionCompletedSuccessfully {
				once[name] = true
			}
		}
	}
	return once
}
