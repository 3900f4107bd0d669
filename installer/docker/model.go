package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/order"
)

// Model is what docker compose makes of the files of a project on this device, as
// far as that is about the device and about which services run. Services of
// profiles that are off are not in it.
type Model struct {
	Services map[string]Service `json:"services"`
	Networks map[string]Named   `json:"networks"`
	Volumes  map[string]Named   `json:"volumes"`
	Configs  map[string]Inlined `json:"configs"`
	Secrets  map[string]Inlined `json:"secrets"`

	unread bool // it names files that Up reads, such as environment files
}

// Inlined is a config or a secret, with its content or the variable that has it.
type Inlined struct {
	Content     string `json:"content"`
	Environment string `json:"environment"`
}

// Used is a config or a secret that a service has.
type Used struct {
	Source string `json:"source"`
}

// Named is a network or a volume.
type Named struct {
	Name     string   `json:"name"` // the engine's name for it
	External external `json:"external"`
	Options  struct {
		How    string `json:"o"`
		Device string `json:"device"`
	} `json:"driver_opts"` // of a volume
}

// Directory is that of this device which a volume stands for, or "".
func (n Named) Directory() string {
	if bool(n.External) || !path.IsAbs(n.Options.Device) || !slices.Contains(strings.Split(n.Options.How, ","), "bind") {
		return ""
	}
	return n.Options.Device
}

// external is true, or what docker compose before 2.6 writes in its place.
type external bool

func (e *external) UnmarshalJSON(b []byte) error {
	*e = string(b) != "false" && string(b) != "null"
	return nil
}

// Service is a service of a Model.
type Service struct {
	Image    string   `json:"image"`
	Restart  string   `json:"restart"`
	Platform string   `json:"platform"`
	Runtime  string   `json:"runtime"`
	Devices  []Device `json:"devices"`
	GPUs     []any    `json:"gpus"`
	EnvFile  []EnvFile
	Labels   map[string]string `json:"labels"`
	Sysctls  map[string]any    `json:"sysctls"`
	Ports    []struct {
		HostIP    string `json:"host_ip"`
		Published string `json:"published"`
		Protocol  string `json:"protocol"`
	} `json:"ports"`
	Volumes []struct {
		Type   string `json:"type"`
		Source string `json:"source"`
		Target string `json:"target"`
		Bind   struct {
			CreateHostPath *bool `json:"create_host_path"`
		} `json:"bind"`
	} `json:"volumes"`
	Configs     []Used `json:"configs"`
	Secrets     []Used `json:"secrets"`
	HealthCheck *struct {
		Test    []string `json:"test"`
		Disable bool     `json:"disable"`
	} `json:"healthcheck"`
	DependsOn map[string]struct {
		Condition string `json:"condition"`
	} `json:"depends_on"`
	NetworkMode   string   `json:"network_mode"`
	PID           string   `json:"pid"`
	IPC           string   `json:"ipc"`
	VolumesFrom   []string `json:"volumes_from"`
	ExternalLinks []string `json:"external_links"`
	CPUs          any      `json:"cpus"`
	CPUSet        string   `json:"cpuset"`
	MemLimit      any      `json:"mem_limit"`
	PidsLimit     any      `json:"pids_limit"`
	Scale         *int     `json:"scale"`
	Deploy        struct {
		Replicas  *int `json:"replicas"`
		Resources struct {
			Limits struct {
				CPUs   any `json:"cpus"`
				Memory any `json:"memory"`
				Pids   any `json:"pids"`
			} `json:"limits"`
			Reservations struct {
				Devices []struct {
					Capabilities []string `json:"capabilities"`
				} `json:"devices"`
			} `json:"reservations"`
		} `json:"resources"`
	} `json:"deploy"`
}

// Joins are the services whose network, processes or volumes s shares: Up recreates s
// with one of them.
func (s Service) Joins() (names []string) {
	for _, mode := range []string{s.NetworkMode, s.PID, s.IPC} {
		if name, ok := strings.CutPrefix(mode, "service:"); ok {
			names = append(names, name)
		}
	}
	for _, from := range s.VolumesFrom {
		if name, _, _ := strings.Cut(from, ":"); name != "container" {
			names = append(names, name)
		}
	}
	return names
}

// EnvFile is a file that a service takes its environment from.
type EnvFile struct {
	Path     string `json:"path"`
	Required *bool  `json:"required"`
}

// UnmarshalJSON reads a service; env_file is a list of paths or of objects.
func (s *Service) UnmarshalJSON(b []byte) error {
	type plain Service
	var files struct {
		EnvFile []json.RawMessage `json:"env_file"`
	}
	if err := json.Unmarshal(b, (*plain)(s)); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &files); err != nil {
		return nil // one path as text: of a docker compose that has read it
	}
	for _, raw := range files.EnvFile {
		var f EnvFile
		if json.Unmarshal(raw, &f.Path) != nil {
			if err := json.Unmarshal(raw, &f); err != nil {
				return err
			}
		}
		s.EnvFile = append(s.EnvFile, f)
	}
	return nil
}

// Device is the path of a device node, or the name of one that the engine knows
// (vendor.com/class=name).
type Device string

func (d *Device) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err == nil {
		text, _, _ = strings.Cut(text, ":")
		*d = Device(text)
		return nil
	}
	var long struct {
		Source string `json:"source"`
	}
	err := json.Unmarshal(b, &long)
	*d = Device(long.Source)
	return err
}

// Model reads the files of the project as docker compose does.
func (c *Compose) Model(ctx context.Context) (*Model, error) {
	key := c.content()
	if m := c.Read.answer(key); m != nil {
		return m, nil
	}
	// Environment files are named, not read: one that is missing is for the caller to say.
	asked, args := c, []string{"config", "--format", "json", "--no-env-resolution"}
	old := c.before(2, 28)
	if old { // it does not know that option
		named, done, err := c.namedEnvFiles()
		if err != nil {
			return nil, err
		}
		defer done()
		asked, args = named, args[:3]
	}
	out, err := asked.output(ctx, args...)
	if err != nil {
		return nil, err
	}
	m := &Model{unread: unread.MatchString(out)}
	if err := json.Unmarshal([]byte(out), m); err != nil {
		return nil, fmt.Errorf("read compose config of project %s: %w", c.Project, err)
	}
	if old {
		for name, s := range m.Services {
			s.EnvFile = s.envFiles(c.Dir)
			m.Services[name] = s
		}
	}
	c.Read.remember(key, m)
	return m, nil
}

// unread finds what names a file that docker compose need not have read for its answer;
// envFileLabel is one.
var unread = lazyregexp.New(`(env|label)_file`)

// Runs reports whether there are containers of a service.
func (m *Model) Runs(service string) bool {
	s, ok := m.Services[service]
	return ok && (s.Scale == nil || *s.Scale > 0) && (s.Deploy.Replicas == nil || *s.Deploy.Replicas > 0)
}

// Ends reports whether a service may end: it is never started again, or only when
// it failed, and nothing asks it anything; and whether it must: others wait for
// that.
func (m *Model) Ends(service string) (may, must bool) {
	for _, other := range m.Services {
		if other.DependsOn[service].Condition == "service_completed_successfully" {
			return true, true
		}
	}
	s := m.Services[service]
	checked := s.HealthCheck != nil && !s.HealthCheck.Disable && !slices.Equal(s.HealthCheck.Test, []string{"NONE"})
	once := s.Restart == "no" || strings.HasPrefix(s.Restart, "on-failure")
	return once && !checked && len(s.Ports) == 0, false
}

// Ports returns the ports that services publish, without those that the engine
// chooses.
func (m *Model) Ports() (ports []Port) {
	for service, s := range m.Services {
		for _, p := range s.Ports {
			if n, err := strconv.Atoi(p.Published); err == nil && n > 0 && m.Runs(service) {
				ports = append(ports, Port{service, p.HostIP, n, p.Protocol})
			}
		}
	}
	order.By(ports, func(x, y Port) int { return x.Number - y.Number })
	return ports
}

// GPU reports whether a service asks for one.
func (s *Service) GPU() bool {
	for _, d := range s.Deploy.Resources.Reservations.Devices {
		if slices.Contains(d.Capabilities, "gpu") {
			return true
		}
	}
	return len(s.GPUs) > 0
}

// Abilities is what an engine and its kernel can do.
type Abilities struct {
	Runtimes []string
	GPU      bool // the engine can give one to a container
	Memory   bool // limits, as the others
	CPUs     bool
	CPUSet   bool
	Pids     bool
}

// Abilities asks the engine what it and its kernel can do.
func (e *Engine) Abilities(ctx context.Context, env Env) (Abilities, error) {
	res, err := e.client.Info(ctx, client.InfoOptions{})
	if err != nil {
		return Abilities{}, fmt.Errorf("ask container engine for its state: %w", err)
	}
	i := res.Info
	a := Abilities{Memory: i.MemoryLimit, CPUs: i.CPUCfsQuota, CPUSet: i.CPUSet, Pids: i.PidsLimit, GPU: len(i.DiscoveredDevices) > 0}
	for name := range i.Runtimes {
		a.Runtimes = append(a.Runtimes, name)
		a.GPU = a.GPU || name == "nvidia"
	}
	// What the engine itself looks for when a container asks for a GPU.
	_, hook := env.look("nvidia-container-runtime-hook")
	a.GPU = a.GPU || hook
	return a, nil
}

// HasNetwork reports whether the engine has a network of that name.
func (e *Engine) HasNetwork(ctx context.Context, name string) (bool, error) {
	_, err := e.client.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
	return has(err, "network "+name)
}

// HasVolume reports whether the engine has a volume of that name.
func (e *Engine) HasVolume(ctx context.Context, name string) (bool, error) {
	_, err := e.client.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	return has(err, "volume "+name)
}

// HasContainer reports whether the engine has a container of that name or ID.
func (e *Engine) HasContainer(ctx context.Context, name string) (bool, error) {
	_, err := e.client.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	return has(err, "container "+name)
}

func has(err error, what string) (bool, error) {
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", what, err)
	}
	return true, nil
}

// MakeNetwork makes a network as "docker network create NAME" does, unless there
// is one.
func (e *Engine) MakeNetwork(ctx context.Context, name string) error {
	if ok, err := e.HasNetwork(ctx, name); ok || err != nil {
		return err
	}
	if _, err := e.client.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge"}); err != nil {
		return fmt.Errorf("make network %s: %w", name, err)
	}
	return nil
}

// MakeVolume makes a volume as "docker volume create NAME" does, unless there is
// one.
func (e *Engine) MakeVolume(ctx context.Context, name string) error {
	if _, err := e.client.VolumeCreate(ctx, client.VolumeCreateOptions{Name: name}); err != nil {
		return fmt.Errorf("make volume %s: %w", name, err)
	}
	return nil
}

// Published says which running containers have a port of this device; those of
// project are "".
func (e *Engine) Published(ctx context.Context, project string) (map[Port]string, error) {
	list, err := e.client.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("status", string(container.StateRunning))})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	ports := map[Port]string{}
	for _, s := range list.Items {
		by := "container " + containerName(s)
		if other := s.Labels[projectLabel]; other != "" && other == project {
			by = ""
		} else if other != "" {
			by += " of compose project " + other
		}
		for _, p := range s.Ports {
			if p.PublicPort > 0 {
				ip := ""
				if p.IP.IsValid() && !p.IP.IsUnspecified() {
					ip = p.IP.String()
				}
				ports[Port{IP: ip, Number: int(p.PublicPort), Protocol: p.Type}] = by
			}
		}
	}
	return ports, nil
}

// HoldsPort reports whether err, of Up, is about a port that the engine holds for a
// container that is gone. Docker 20.10 does when power was lost while it started one, until
// it is restarted.
func (e *Engine) HoldsPort(ctx context.Context, err error) bool {
	held := heldPort.FindStringSubmatch(err.Error())
	if held == nil {
		return false
	}
	published, err := e.Published(ctx, "")
	for p := range published {
		if strconv.Itoa(p.Number) == held[1] {
			return false
		}
	}
	return err == nil
}

var heldPort = lazyregexp.New(`Bind for [0-9a-f.:\[\]]*:([0-9]+) failed: port is already allocated`)

// Use is how a project uses a volume of its own.
type Use struct {
	Key    string   // in the compose file
	places []string // service and path in it
}

// Updaters are services that look like updaters of the app: they have the engine's socket.
func (m *Model) Updaters() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(m.Services)) {
		for _, v := range m.Services[name].Volumes {
			if (bundle.EngineSocket(v.Source) || bundle.EngineSocket(v.Target)) && bundle.UpdatesItself(name, m.Services[name].Image) {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// Uses are the volumes that services use, by the engine's names; not those of others.
func (m *Model) Uses() map[string]Use {
	uses := map[string]Use{}
	for _, service := range slices.Sorted(maps.Keys(m.Services)) {
		for _, v := range m.Services[service].Volumes {
			named, ok := m.Volumes[v.Source]
			if v.Type != "volume" || !ok || bool(named.External) {
				continue
			}
			use := uses[named.Name]
			use.Key, use.places = v.Source, append(use.places, service+" "+v.Target)
			uses[named.Name] = use
		}
	}
	return uses
}

// Like says how much one volume looks like another: 2 when a service has both at the
// same path, 1 when a service has both.
func (u Use) Like(other Use) (like int) {
	for _, x := range u.places {
		for _, y := range other.places {
			serviceX, _, _ := strings.Cut(x, " ")
			serviceY, _, _ := strings.Cut(y, " ")
			switch {
			case x == y:
				return 2
			case serviceX == serviceY:
				like = 1
			}
		}
	}
	return like
}

// VolumeAt is where a volume lies on a disk of this device, "" when that is not known,
// and whether there is one of that name.
func (e *Engine) VolumeAt(ctx context.Context, name string) (at string, exists bool, err error) {
	res, err := e.client.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	if exists, err = has(err, "volume "+name); err != nil || !exists {
		return "", exists, err
	}
	source, why := volumeSource(res.Volume.Driver, res.Volume.Options)
	if why == "" {
		at = cmp.Or(source, res.Volume.Mountpoint)
	}
	return at, true, nil
}
