package device

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEngineHost: our client and docker compose speak to the same engine, whatever
// docker's own configuration says.
func TestEngineHost(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := func(text string) {
		if err := os.WriteFile(filepath.Join(home, ".docker/config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ config, host, context, want, refused string }{
		{`{}`, "", "", "unix:///var/run/docker.sock", ""},
		{`no JSON`, "", "", "unix:///var/run/docker.sock", ""},
		{`{"currentContext": "default"}`, "", "", "unix:///var/run/docker.sock", ""},
		{`{"currentContext": "rootless"}`, "", "", "", `docker context "rootless" is selected by ` + home},
		{`{"currentContext": "rootless"}`, "unix:///x.sock", "", "unix:///x.sock", ""},
		{`{"currentContext": "rootless"}`, "", "default", "unix:///var/run/docker.sock", ""},
		{`{}`, "", "remote", "", `docker context "remote" is selected by DOCKER_CONTEXT`},
	} {
		config(tt.config)
		m := newcomer(t)
		m.Getenv = func(key string) string {
			return map[string]string{"HOME": home, "DOCKER_HOST": tt.host, "DOCKER_CONTEXT": tt.context}[key]
		}
		host, err := m.engineHost()
		if host != tt.want || (err != nil) != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%+v: %q, %v", tt, host, err)
		}
		if err == nil && m.dockerEnv().Host != host {
			t.Errorf("%+v: docker compose goes to %q", tt, m.dockerEnv().Host)
		}
	}
}
