package bundle

import "testing"

func TestUpdatesItself(t *testing.T) {
	for service, want := range map[string]bool{
		"watchtower": true, "updater": true, "auto-updater": true, "webmacs-ota": true, "app_updater": true, "self-update": true, "upgrade": true,
		"traefik": false, "portainer": false, "quota": false, "rotate": false, "backend": false, "updates-api": false, "total": false,
	} {
		if got := UpdatesItself(service, ""); got != want {
			t.Errorf("service %s: %v", service, got)
		}
	}
	if !UpdatesItself("w", "docker.io/containrrr/watchtower:1.7") || UpdatesItself("proxy", "ghcr.io/updater/proxy:2") {
		t.Error("images")
	}
	if !EngineSocket("/var/run/docker.sock") || EngineSocket("/run/other.sock") {
		t.Error("sockets")
	}
}
