package project

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExternal(t *testing.T) {
	const head = "app: a\ncompose: compose.yaml\nplatforms: [linux/amd64]\nhealth: {compose: [web]}\n"
	const web = "services: {web: {image: \"x:1\", restart: always, networks: [proxy], volumes: [\"media:/m\"]}}\n"
	for _, tt := range []struct{ name, more, compose, want string }{
		{"made", "networks: {proxy: {create: true}}\nvolumes: {media: {create: true}}\n", web + "networks: {proxy: {external: true}}\nvolumes: {media: {external: true}}\n", ""},
		{"not external", "networks: {proxy: {create: true}}\n", web + "networks: {proxy: {}}\nvolumes: {media: {}}\n", "compose.yaml has no network proxy with external: true"},
		{"not there", "volumes: {other: {create: true}}\n", web + "networks: {proxy: {}}\nvolumes: {media: {}}\n", "compose.yaml has no volume other with external: true"},
		{"swarm", "", web + "networks: {proxy: {}}\nvolumes: {media: {}}\nsecrets: {pw: {external: true}}\n", "secret pw is external: docker compose has none, only a swarm does"},
		{"swarm", "", web + "networks: {proxy: {}}\nvolumes: {media: {}}\nconfigs: {c: {external: true}}\n", "config c is external"},
		{"no replicas", "", "services: {web: {image: \"x:1\", deploy: {replicas: 0}}}\n", "service web is to have no containers (replicas: 0)"},
		{"scale", "", "services: {web: {image: \"x:1\", scale: 0}}\n", "service web is to have no containers (replicas: 0)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, _, err := release(t, map[string]string{DefaultFile: head + tt.more, "compose.yaml": tt.compose})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if err == nil && (r.Create == nil || !slices.Equal(r.Create.Networks, []string{"proxy"}) || !slices.Equal(r.Create.Volumes, []string{"media"})) {
				t.Errorf("a device makes %+v", r.Create)
			}
		})
	}
}

// TestOnceOnly: what people write for jobs, and what only looks like one.
func TestOnceOnly(t *testing.T) {
	for service, want := range map[string]bool{
		`{restart: "no"}`:                         true,
		`{restart: on-failure}`:                   true,
		`{restart: "on-failure:5"}`:               true,
		`{}`:                                      false,
		`{restart: unless-stopped}`:               false,
		`{restart: always, scale: 0}`:             true,
		`{restart: on-failure, ports: ["80:80"]}`: false,
		`{restart: on-failure, healthcheck: {test: [CMD, x]}}`:       false,
		`{restart: on-failure, healthcheck: {disable: true}}`:        true,
		`{restart: always, labels: {a: b}}`:                          false,
		`{deploy: {replicas: 0, restart_policy: {condition: none}}}`: true,
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "compose.yaml"), "services:\n  s: "+strings.Replace(service, "{", "{image: \"x:1\", ", 1)+"\n")
		p := &Project{App: "a", Project: "a", VersionEnv: "V", Compose: ComposeFiles{"compose.yaml"}, Dir: dir, File: filepath.Join(dir, DefaultFile)}
		c, err := p.loadCompose(t.Context(), "1.0.0")
		if err != nil {
			t.Fatal(service, err)
		}
		if got := c.onceOnly()["s"]; got != want {
			t.Errorf("%s: %v", service, got)
		}
	}
}
