package project

import (
	"strings"
	"testing"
)

// TestUpdaterNote names a service that would update the app behind Valise's back, and no
// other one with the engine's socket.
func TestUpdaterNote(t *testing.T) {
	r, _, err := release(t, map[string]string{"valise.yaml": goodProject, "compose.yaml": `services:
  db: {image: a, restart: always}
  proxy: {image: traefik, restart: always, volumes: ["/var/run/docker.sock:/var/run/docker.sock:ro"]}
  updater: {image: b, restart: always, volumes: ["/var/run/docker.sock:/var/run/docker.sock"]}
  w: {image: "containrrr/watchtower:1", restart: always, volumes: [{type: bind, source: /run/docker.sock, target: /var/run/docker.sock}]}
  upgrade: {image: c, restart: always}
`})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(r.Notes, "\n")
	for name, want := range map[string]bool{"db": false, "proxy": false, "updater": true, "w": true, "upgrade": false} {
		if got := strings.Contains(notes, "service "+name+" mounts the engine's socket"); got != want {
			t.Errorf("%s: %v in\n%s", name, got, notes)
		}
	}
}
