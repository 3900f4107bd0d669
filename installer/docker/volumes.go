package docker

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle/trace"
)

// ErrNoContainer says that a service has no container, running or not.
var ErrNoContainer = errors.New("the service has no container")

// HostPath is where on this device a path in a volume of a service is. source is
// a directory that no container can put anything else in place of: none may
// write to what is above it. Of what is below, a container may have made what it
// likes. The service needs a container, which need not run.
func (c *Compose) HostPath(ctx context.Context, service, file string) (source, below string, err error) {
	source, below, err = c.hostPath(ctx, service, path.Clean(file))
	if err != nil {
		return "", "", fmt.Errorf("find %s of service %s: %w", file, service, err)
	}
	return source, below, nil
}

func (c *Compose) hostPath(ctx context.Context, service, file string) (source, below string, err error) {
	all, elsewhere, err := c.Engine.mounted(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return "", "", err
	}
	i := slices.IndexFunc(all, func(s container.Summary) bool {
		return s.Labels[projectLabel] == c.Project && s.Labels[serviceLabel] == service &&
			s.Labels[oneOffLabel] == "False"
	})
	if i < 0 {
		return "", "", ErrNoContainer
	}
	var at container.MountPoint
	for _, m := range all[i].Mounts {
		if d := path.Clean(m.Destination); within(file, d) && len(d) > len(at.Destination) {
			at, at.Destination = m, d
		}
	}
	if at.Source == "" {
		return "", "", errors.New("it is in no volume, and so is gone with the container")
	}
	if why := elsewhere[at.Name]; at.Type == mount.TypeVolume && why != "" {
		return "", "", fmt.Errorf("volume %s %s: save it by a command of the service", at.Name, why)
	}
	subpath, err := c.Engine.subpath(ctx, all[i].ID, at)
	if err != nil {
		return "", "", err
	}
	// A container that may write to a directory above decides what lies here.
	source = at.Source
	for _, other := range all {
		for _, m := range other.Mounts {
			if m.RW && m.Source != "" && m.Source != "/" && within(at.Source, m.Source) && len(m.Source) < len(source) {
				source = m.Source
			}
		}
	}
	below = path.Join("/", strings.TrimPrefix(at.Source, source), subpath, strings.TrimPrefix(file, at.Destination))
	return source, below[1:], nil
}

// mounted lists containers. The source of a volume that is a directory elsewhere
// is that directory. Volumes that are not on this device's disk, or only while a
// container runs, are those in elsewhere, with the reason.
func (e *Engine) mounted(ctx context.Context, opts client.ContainerListOptions) (list []container.Summary, elsewhere map[string]string, err error) {
	found, err := e.client.ContainerList(ctx, opts)
	if err != nil {
		return nil, nil, err
	}
	volumes, err := e.client.VolumeList(ctx, client.VolumeListOptions{})
	if err != nil {
		return nil, nil, err
	}
	sources, elsewhere := map[string]string{}, map[string]string{}
	for _, v := range volumes.Items {
		sources[v.Name], elsewhere[v.Name] = volumeSource(v.Driver, v.Options)
	}
	for _, s := range found.Items {
		for i, m := range s.Mounts {
			if source := sources[m.Name]; source != "" && m.Type == mount.TypeVolume {
				s.Mounts[i].Source = source
			}
		}
	}
	return found.Items, elsewhere, nil
}

// volumeSource is the directory that a volume is, when it is one elsewhere on this
// device, or why it is not on its disk, or only while a container runs.
func volumeSource(driver string, options map[string]string) (source, why string) {
	o := options["o"]
	switch {
	case driver != "local":
		return "", "is kept by the volume driver " + driver
	case options["device"] == "" && options["type"] == "":
		return "", ""
	case (options["type"] == "" || options["type"] == "none") && (o == "bind" || o == "rbind"):
		return path.Clean(options["device"]), ""
	}
	return "", fmt.Sprintf("is mounted by the engine (type %q, options %q), and only while a container runs", options["type"], o)
}

// subpath is the directory of a volume that is mounted, when it is not all of it.
func (e *Engine) subpath(ctx context.Context, id string, at container.MountPoint) (string, error) {
	if at.Type != mount.TypeVolume {
		return "", nil
	}
	res, err := e.client.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return "", err
	}
	if res.Container.HostConfig == nil {
		return "", nil
	}
	for _, m := range res.Container.HostConfig.Mounts {
		if path.Clean(m.Target) == at.Destination && m.VolumeOptions != nil {
			return m.VolumeOptions.Subpath, nil
		}
	}
	return "", nil
}

// Volumes are the names of the volumes of a compose project, whether anything
// uses them or not.
func (e *Engine) Volumes(ctx context.Context, project string) (names []string, err error) {
	list, err := e.client.VolumeList(ctx, client.VolumeListOptions{Filters: client.Filters{}.Add("label", projectLabel+"="+project)})
	if err != nil {
		return nil, fmt.Errorf("list volumes of compose project %s: %w", project, err)
	}
	for _, v := range list.Items {
		names = append(names, v.Name)
	}
	return names, nil
}

// Pause stops the containers that use a directory of this device in the middle
// of what they do, until resume.
func (e *Engine) Pause(ctx context.Context, dir string) (resume func() error, err error) {
	running, err := e.users(ctx, dir, container.StateRunning)
	if err != nil {
		return nil, err
	}
	resume = func() error {
		ctx, cancel := tidying(ctx)
		defer cancel()
		return e.Resume(ctx, dir)
	}
	for _, id := range running {
		if err := e.pause(ctx, id); err != nil {
			return nil, errors.Join(fmt.Errorf("pause container %s: %w", id, err), resume())
		}
	}
	return resume, nil
}

// freezeTries is how often a container is asked to stand still: on a busy machine
// the freezer of cgroup v1 gives up while a process is between two states.
const freezeTries = 5

func (e *Engine) pause(ctx context.Context, id string) error {
	for try := 1; ; try++ {
		_, err := e.client.ContainerPause(ctx, id, client.ContainerPauseOptions{})
		if err == nil || try == freezeTries || !strings.Contains(err.Error(), "unable to freeze") {
			return err
		}
		if err := trace.Sleep(ctx, "until the container can be paused", 50*time.Millisecond<<try); err != nil { // 1.5 s in all
			return err
		}
	}
}

// Resume lets all containers that use dir go on. Those that run are asked too: a
// process that was killed may have left a request to pause, and the engine takes
// one after the other.
func (e *Engine) Resume(ctx context.Context, dir string) error {
	for _, state := range []container.ContainerState{container.StateRunning, container.StatePaused} {
		ids, err := e.users(ctx, dir, state)
		if err != nil {
			return err
		}
		for _, id := range ids {
			_, err := e.client.ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{})
			if err != nil && !errdefs.IsNotFound(err) && !strings.Contains(err.Error(), "is not paused") {
				return fmt.Errorf("resume container %s: %w", id, err)
			}
		}
	}
	return nil
}

// users are the containers in a state that have dir, or something below or above
// it, as a volume they may write to.
func (e *Engine) users(ctx context.Context, dir string, state container.ContainerState) (ids []string, err error) {
	list, _, err := e.mounted(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("status", string(state))})
	if err != nil {
		return nil, fmt.Errorf("list containers that use %s: %w", dir, err)
	}
	for _, c := range list {
		for _, m := range c.Mounts {
			if m.RW && m.Source != "" && (within(m.Source, dir) || within(dir, m.Source)) {
				ids = append(ids, c.ID)
				break
			}
		}
	}
	return ids, nil
}

// within reports whether p is dir or below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
