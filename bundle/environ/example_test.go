package environ

import (
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestBegin has the environment file of a new device: the example, without values that
// are the device's own.
func TestBegin(t *testing.T) {
	m := &bundle.Manifest{Device: bundle.Device{RequiredEnv: []string{"URL"}, Secrets: map[string]bundle.Secret{"KEY": {Hex: 16}}}}
	example := "# how\nURL=https://example.org\r\nPORT=80\nKEY=changeme\nEMPTY=\nNOTE= # optional\nREF=x-${KEY}\nCOMPOSE_FILE=dev.yaml\nexport COMPOSE_PROJECT_NAME=dev\nCOMPOSE_PROFILES=web\nDOCKER_HOST=tcp://x\n#HINT=1\n"
	for name, c := range map[string]struct {
		grammar *Grammar
		want    string
	}{
		"compose": {Compose, "# how\nURL=''\r\nPORT=80\nKEY=''\nEMPTY=\nNOTE= ''\nREF=x-${KEY}\n# COMPOSE_FILE=dev.yaml\n# export COMPOSE_PROJECT_NAME=dev\nCOMPOSE_PROFILES=web\n# DOCKER_HOST=tcp://x\n#HINT=1\n"},
		"systemd": {Systemd, "# how\nURL=''\r\nPORT=80\nKEY=''\nEMPTY=\nNOTE= ''\nREF=x-${KEY}\nCOMPOSE_FILE=dev.yaml\nexport COMPOSE_PROJECT_NAME=dev\nCOMPOSE_PROFILES=web\nDOCKER_HOST=tcp://x\n#HINT=1\n"},
	} {
		f, err := c.grammar.Begin([]byte(example), m)
		if err != nil {
			t.Fatal(name, err)
		}
		if got := string(f.Bytes()); got != c.want {
			t.Errorf("%s: got\n%q, want\n%q", name, got, c.want)
		}
		if missing := f.Missing(m.Device.RequiredEnv); len(missing) != 1 {
			t.Errorf("%s: missing %q", name, missing)
		}
	}
	if _, err := Compose.Begin([]byte("A=\"x"), m); err == nil {
		t.Error("an example that cannot be read is none")
	}
}
