package docker

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
)

// TestModel reads what several versions of docker compose print for one file.
func TestModel(t *testing.T) {
	for name, text := range map[string]string{
		"5.5": `{"networks":{"proxy":{"name":"traefik","ipam":{},"external":true},"own":{"name":"x_own","ipam":{}}},"services":{
			"a":{"devices":[{"source":"/dev/tty0","target":"/dev/tty0","permissions":"rwm"},{"source":"vendor.com/gpu=all","target":"vendor.com/gpu=all"}],
			"env_file":[{"path":"/etc/a.env"},{"path":"/b.env","required":false}],"ports":[{"target":80,"published":"8080","protocol":"tcp"},{"target":81,"protocol":"tcp"},{"target":82,"published":"9000-9010"}],"gpus":[{"count":-1}]}}}`,
		"2.3": `{"networks":{"proxy":{"name":"traefik","external":{"name":"traefik"}},"own":{"name":"x_own"}},"services":{
			"a":{"devices":["/dev/tty0:/dev/tty0:rwm","vendor.com/gpu=all"],"env_file":["/etc/a.env","/b.env"],"ports":[{"target":80,"published":"8080","protocol":"tcp"}],
			"deploy":{"resources":{"reservations":{"devices":[{"capabilities":["gpu"]}]}},"placement":{}}}}}`,
	} {
		var m Model
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a := m.Services["a"]
		if !bool(m.Networks["proxy"].External) || bool(m.Networks["own"].External) || m.Networks["proxy"].Name != "traefik" || !a.GPU() {
			t.Errorf("%s: %+v", name, m)
		}
		if len(a.Devices) != 2 || a.Devices[0] != "/dev/tty0" || a.Devices[1] != "vendor.com/gpu=all" {
			t.Errorf("%s: devices %q", name, a.Devices)
		}
		if len(a.EnvFile) != 2 || a.EnvFile[0].Path != "/etc/a.env" || a.EnvFile[1].Path != "/b.env" {
			t.Errorf("%s: env_file %v", name, a.EnvFile)
		}
		if got := m.Ports(); !slices.Equal(got, []Port{{"a", "", 8080, "tcp"}}) {
			t.Errorf("%s: ports %v", name, got)
		}
	}
}

func TestEnds(t *testing.T) {
	var m Model
	if err := json.Unmarshal([]byte(`{"services":{
		"web":{"restart":"always","depends_on":{"migrate":{"condition":"service_completed_successfully"},"db":{"condition":"service_started"}}},
		"db":{}, "migrate":{"restart":"always"}, "job":{"restart":"no"}, "seed":{"restart":"on-failure:3"},
		"asked":{"restart":"on-failure","ports":[{"published":"80"}]}, "checked":{"restart":"no","healthcheck":{"test":["CMD","x"]}}, "unchecked":{"restart":"no","healthcheck":{"test":["NONE"]}},
		"none":{"restart":"no","deploy":{"replicas":0}}, "scaled":{"scale":0}}}`), &m); err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string][3]bool{ // may end, must end, has containers
		"web": {false, false, true}, "db": {false, false, true}, "migrate": {true, true, true}, "job": {true, false, true}, "seed": {true, false, true},
		"asked": {false, false, true}, "checked": {false, false, true}, "unchecked": {true, false, true}, "none": {true, false, false}, "scaled": {false, false, false},
		"of a profile that is off": {false, false, false},
	} {
		may, must := m.Ends(service)
		if got := [3]bool{may, must, m.Runs(service)}; got != want {
			t.Errorf("%s: %v, want %v", service, got, want)
		}
	}
}

// TestHoldsPort: a port of a container that is gone is told from one that another has.
func TestHoldsPort(t *testing.T) {
	held := errors.New(`Error response from daemon: driver failed programming external connectivity on endpoint shop-app-1 (x): Bind for 127.0.0.1:8080 failed: port is already allocated`)
	for _, tt := range []struct {
		name, containers string
		err              error
		want             bool
	}{
		{"gone", `[{"Id":"a","Names":["/a"],"Ports":[{"PrivatePort":80,"PublicPort":9090,"Type":"tcp"}]}]`, held, true},
		{"IPv6", `[]`, errors.New(`Bind for [::1]:8080 failed: port is already allocated`), true},
		{"of another", `[{"Id":"a","Names":["/a"],"Ports":[{"PrivatePort":80,"PublicPort":8080,"Type":"tcp"}]}]`, held, false},
		{"of a program", `[]`, errors.New("listen tcp4 127.0.0.1:8080: bind: address already in use"), false},
		{"the engine does not say", `{`, held, false},
	} {
		e := fakeEngine{"GET /containers/json": answer(tt.containers)}.start(t)
		if got := e.HoldsPort(t.Context(), tt.err); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
