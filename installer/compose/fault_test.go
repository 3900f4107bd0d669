package compose

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer"
)

// TestFault: what engines of 20.10 and later say.
func TestFault(t *testing.T) {
	for text, device := range map[string]bool{
		"Error response from daemon: driver failed programming external connectivity on endpoint a-web-1 (4f): Bind for 127.0.0.1:18099 failed: port is already allocated":                                                    true,
		"Error response from daemon: failed to set up container networking: driver failed programming external connectivity on endpoint a: failed to bind host port for 0.0.0.0:80:172.18.0.2:80/tcp: address already in use": true,
		`Error response from daemon: Conflict. The container name "/shop-db" is already in use by container "12". You have to remove (or rename) that container to be able to reuse that name.`:                               true,
		"Error response from daemon: mkdir /var/lib/docker/overlay2/x: no space left on device":                                                                                                                               true,
		"dependency failed to start: container a-db-1 exited (1)":          false,
		"Error response from daemon: No such image: sha256:12":             true,
		`service "web" has neither an image nor a build context specified`: false,
	} {
		err := faultOf(errors.New("compose up of project a: exit status 1: " + text))
		if got := errors.As(err, new(*installer.DeviceError)); got != device {
			t.Errorf("%s: of the device: %v", text, got)
		}
	}
	if faultOf(nil) != nil {
		t.Error("nothing is a fault")
	}
}

func TestEnvIsFile(t *testing.T) {
	a := &App{Dir: t.TempDir()}
	if err := a.envIsFile(); err != nil {
		t.Error(err)
	}
	env := filepath.Join(a.Dir, ".env")
	for want, put := range map[string]func() error{
		"":              func() error { return os.WriteFile(env, nil, 0o600) },
		"symbolic link": func() error { return os.Symlink("/etc/passwd", env) },
		"not a file":    func() error { return os.Mkdir(env, 0o700) },
	} {
		if err := errors.Join(os.RemoveAll(env), put()); err != nil {
			t.Fatal(err)
		}
		if err := a.envIsFile(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
