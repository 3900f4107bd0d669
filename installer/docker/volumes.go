package docker

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// ErrNoContainer says that a service has no container, running or not.
var ErrNoContainer = errors.New("the service has no container")

// HostPath is where on this device a path in a volume of a service is: the
// engine keeps its volumes here. The service needs a container, which need not
// run.
func (c *Compose) HostPath(ctx context.Context, service, file string) (string, error) {
	list, err := c.Engine.client.ContainerList(ctx, client.ContainerListOptions{
		All: true,
		Filters: client.Filters{}.Add("label", "com.docker.compose.project="+c.Project, "com.docker.compose.service="+service,
			"com.docker.compose.oneoff=False"),
	})
	if err != nil {
		return "", fmt.Errorf("find %s of service %s: %w", file, service, err)
	}
	if len(list.Items) == 0 {
		return "", fmt.Errorf("find %s of service %s: %w", file, service, ErrNoContainer)
	}
	var at, source string
	for _, m := range list.Items[0].Mounts {
		d := path.Clean(m.Destination)
		if (file == d || strings.HasPrefix(file, d+"/")) && len(d) > len(at) {
			at, source = d, m.Source
		}
	}
	if source == "" {
		return "", fmt.Errorf("find %s of service %s: it is in no volume, and so is gone with the container", file, service)
	}
	return filepath.Join(source, strings.TrimPrefix(file, at)), nil
}

// Volumes are the names of the volumes of a compose project, whether anything
// uses them or not.
func (e *Engine) Volumes(ctx context.Context, project string) (names []string, err error) {
	list, err := e.client.VolumeList(ctx, client.VolumeListOptions{Filters: client.Filters{}.Add("label", "com.docker.compose.project="+project)})
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
	for _, id := range running {
		if _, err := e.client.ContainerPause(ctx, id, client.ContainerPauseOptions{}); err != nil {
			return nil, errors.Join(fmt.Errorf("pause container %s: %w", id, err), e.Resume(context.WithoutCancel(ctx), dir))
		}
	}
	return func() error { return e.Resume(context.WithoutCancel(ctx), dir) }, nil
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
	list, err := e.client.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("status", string(state))})
	if err != nil {
		return nil, fmt.Errorf("list containers that use %s: %w", dir, err)
	}
	for _, c := range list.Items {
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
