package compose

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
)

func TestRunsOn(t *testing.T) {
	for _, tt := range []struct {
		named, device string
		want          bool
	}{
		{"linux/amd64", "linux/amd64", true},
		{"linux/amd64", "linux/arm64", false},
		{"linux/arm64/v8", "linux/arm64", true},
		{"linux/arm/v6", "linux/arm/v7", true},
		{"linux/arm/v7", "linux/arm/v6", false},
		{"linux/386", "linux/amd64", false},
		{"amd64", "linux/amd64", false}, // docker compose reads it as an operating system
	} {
		if got := runsOn(tt.named, bundle.Platform(tt.device)); got != tt.want {
			t.Errorf("%s on %s: %v", tt.named, tt.device, got)
		}
	}
}

func TestFileName(t *testing.T) {
	for name, want := range map[string]bool{
		"/etc/app.conf": true, "/etc/localtime": true, "/run/docker.sock": true, "/x/init.sql": true,
		"/srv/media": false, "/etc/nginx/conf.d": false, "/opt/v1.2": false, "/home/a/.config": false, "/data.1": false,
	} {
		if got := fileName.MatchString(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSockets(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", ":0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			if strings.HasPrefix(address, "[") {
				continue // no IPv6 here
			}
			t.Fatal(err)
		}
		defer l.Close()
		at := l.Addr().(*net.TCPAddr)
		for ip, want := range map[string]bool{"": true, "0.0.0.0": true, "127.0.0.1": !at.IP.Equal(net.IPv6loopback), "192.0.2.7": at.IP.IsUnspecified()} {
			found := sockets(docker.Port{IP: ip, Number: at.Port, Protocol: "tcp"})
			if (len(found) > 0) != want {
				t.Errorf("%s listens, %q: %v", at, ip, found)
			}
			if want && !strings.Contains(owner(found), "compose.test") {
				t.Errorf("%s: who listens is %q", at, owner(found))
			}
		}
		if found := sockets(docker.Port{Number: at.Port, Protocol: "udp"}); len(found) > 0 {
			t.Errorf("%s: %v for udp", at, found)
		}
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if found := sockets(docker.Port{Number: c.LocalAddr().(*net.UDPAddr).Port, Protocol: "udp"}); len(found) == 0 {
		t.Error("a socket for udp is not found")
	}
}

func TestKernel(t *testing.T) {
	var said []string
	lacksKernel("a", docker.Service{Sysctls: map[string]any{"net.core.somaxconn": "1", "net.ipv4.nothing_like_that": "1", "../../etc/passwd": "1"}, CPUSet: "0", MemLimit: "1"}, docker.Abilities{Memory: true},
		func(format string, args ...any) { said = append(said, args[1].(string)) })
	if want := []string{"../../etc/passwd", "net.ipv4.nothing_like_that", "cpuset"}; !slices.Equal(said, want) {
		t.Errorf("got %q, want %q", said, want)
	}
}

// TestLacksMounts: what comes with the release, or is asked for otherwise, is not
// missing, also while the app has no directory and paths begin at /.
func TestLacksMounts(t *testing.T) {
	m := &bundle.Manifest{Device: bundle.Device{Local: []string{"tls/site.key"}}}
	for _, dir := range []string{"/", "/opt/not-there"} {
		var s docker.Service
		text := strings.ReplaceAll(`{"volumes": [
			{"type": "bind", "source": "DIR/releases/.mounts/app.conf-00", "target": "/etc/app.conf", "bind": {"create_host_path": false}},
			{"type": "bind", "source": "DIR/tls/site.key", "target": "/site.key"},
			{"type": "bind", "source": "DIR/uploads", "target": "/uploads"},
			{"type": "bind", "source": "/etc/no-such.conf", "target": "/app.conf"},
			{"type": "bind", "source": "/srv/no-such", "target": "/srv", "bind": {"create_host_path": false}},
			{"type": "volume", "source": "data.db", "target": "/data.db"}]}`, "DIR", strings.TrimSuffix(dir, "/"))
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		var said []string
		lacksMounts(m, dir, "a", s, func(format string, args ...any) { said = append(said, args[1].(string)) })
		if want := []string{"/etc/no-such.conf", "/srv/no-such"}; !slices.Equal(said, want) {
			t.Errorf("below %s: %q, want %q", dir, said, want)
		}
	}
}

// TestWithDependents: what joins a service that is made anew, however far, is too, and
// with some versions of compose what depends on one.
func TestWithDependents(t *testing.T) {
	var model docker.Model
	if err := json.Unmarshal([]byte(`{"services": {"db": {}, "app": {"depends_on": {"db": {}}}, "web": {"depends_on": {"app": {}}},
		"side": {"network_mode": "service:db"}, "copy": {"volumes_from": ["side:ro"]}, "other": {"network_mode": "host", "volumes_from": ["container:db"]}}}`), &model); err != nil {
		t.Fatal(err)
	}
	for depend, want := range map[bool]string{false: "copy db side", true: "app copy db side web"} {
		var list []installer.ServiceChange
		for name := range model.Services {
			list = append(list, installer.ServiceChange{Service: name, Change: installer.KeptAsIs})
		}
		slices.SortFunc(list, func(x, y installer.ServiceChange) int { return strings.Compare(y.Service, x.Service) })
		list[slices.IndexFunc(list, func(s installer.ServiceChange) bool { return s.Service == "db" })].Change = installer.Recreated
		withDependents(&model, list, depend)
		var anew []string
		for _, s := range list {
			if s.Change == installer.Recreated {
				anew = append(anew, s.Service)
			}
		}
		slices.Sort(anew)
		if got := strings.Join(anew, " "); got != want {
			t.Errorf("dependents too: %v: got %s, want %s", depend, got, want)
		}
	}
	for version, want := range map[string]bool{"2.26.1-4": true, "2.29.2": true, "2.29.3": false, "2.30.0-desktop.1": false, "5.5.1": false} {
		if got := (docker.Program{Version: version}).RecreatesDependents(); got != want {
			t.Errorf("%s: got %v", version, got)
		}
	}
}

// TestTorn: a note that a disk did not keep says that a load was interrupted, and no more.
func TestTorn(t *testing.T) {
	store, err := release.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := &App{Name: "shop", Releases: store}
	if torn, err := a.torn(); torn != nil || err != nil {
		t.Errorf("no note: %q, %v", torn, err)
	}
	for text, want := range map[string][]string{"": {}, "\x00\x00\x00": {}, "valise/shop:1\nvalise/shop:2": {"valise/shop:1", "valise/shop:2"}, "valise/other:1": {}} {
		if err := store.Root().WriteFile(loadMarker, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if torn, err := a.torn(); torn == nil || err != nil || !slices.Equal(torn, want) {
			t.Errorf("%q: %q, %v; want %q", text, torn, err, want)
		}
	}
}
