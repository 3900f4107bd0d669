package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Labels that say how docker compose was called for a container.
const (
	dirLabel      = "com.docker.compose.project.working_dir"
	filesLabel    = "com.docker.compose.project.config_files"
	envFilesLabel = "com.docker.compose.project.environment_file"
)

// Started says how a container of a compose project was started.
type Started struct {
	ID        string
	Image     string   // the name it was started by, or an ID
	Dir       string   // of the project
	Files     []string // compose files, below Dir unless they are absolute
	EnvFiles  []string
	Anonymous []string // where in the container volumes without a name are
	Env       []string // of the container, KEY=value
}

// Started says how the containers of a project were started, by their labels. Those
// of docker compose run are not among them.
func (c *Compose) Started(ctx context.Context) ([]Started, error) {
	list, err := c.Engine.client.ContainerList(ctx, client.ContainerListOptions{
		All:     true,
		Filters: client.Filters{}.Add("label", projectLabel+"="+c.Project, oneOffLabel+"=False"),
	})
	if err != nil {
		return nil, fmt.Errorf("list containers of project %s: %w", c.Project, err)
	}
	var started []Started
	for _, s := range list.Items {
		one := Started{ID: s.ID, Image: s.Image, Dir: s.Labels[dirLabel],
			Files: below(s.Labels[dirLabel], s.Labels[filesLabel]), EnvFiles: below(s.Labels[dirLabel], s.Labels[envFilesLabel])}
		for _, m := range s.Mounts {
			if m.Type == mount.TypeVolume && anonymous.MatchString(m.Name) {
				one.Anonymous = append(one.Anonymous, m.Destination)
			}
		}
		res, err := c.Engine.client.ContainerInspect(ctx, s.ID, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue // removed since the list was made
		}
		if err != nil {
			return nil, fmt.Errorf("inspect container %s: %w", containerName(s), err)
		}
		if res.Container.Config != nil {
			one.Env = res.Container.Config.Env
		}
		started = append(started, one)
	}
	return started, nil
}

// anonymous are the names that engines give to volumes.
var anonymous = lazyregexp.New(`^[0-9a-f]{64}$`)

// below reads a label with paths. Docker compose 1 wrote them as it was given them.
func below(dir, label string) (files []string) {
	for file := range strings.SplitSeq(label, ",") {
		switch {
		case file == "":
		case filepath.IsAbs(file) || dir == "":
			files = append(files, filepath.Clean(file))
		default:
			files = append(files, filepath.Join(dir, file))
		}
	}
	return files
}

// Projects are the compose projects with containers here: "shop (/home/pi/shop)".
func (e *Engine) Projects(ctx context.Context) ([]string, error) {
	list, err := e.client.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", projectLabel)})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var names []string
	for _, s := range list.Items {
		names = append(names, fmt.Sprintf("%s (%s)", s.Labels[projectLabel], s.Labels[dirLabel]))
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Describe is an image that is here and that no bundle brought, as a manifest names
// one, and when it was made. Its digests are its ID, which says all of it. Those of
// its layers are none that a bundle has: what is compressed is not known.
func (e *Engine) Describe(ctx context.Context, id string, p bundle.Platform) (img bundle.Image, made time.Time, err error) {
	got, err := e.client.ImageInspect(ctx, id)
	if errdefs.IsNotFound(err) {
		return img, made, errors.New("the engine does not have its image any more")
	}
	if err != nil {
		return img, made, fmt.Errorf("inspect image %s: %w", id, err)
	}
	all := bundle.Descriptor{MediaType: "application/vnd.docker.container.image.v1+json", Digest: bundle.Digest(got.ID), Size: 1}
	img = bundle.Image{Platform: p, Manifest: all, Config: all}
	for _, diffID := range got.RootFS.Layers {
		img.Layers = append(img.Layers, bundle.Layer{
			Descriptor: bundle.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: bundle.DigestOf([]byte("layer " + diffID)), Size: 1},
			DiffID:     bundle.Digest(diffID),
		})
	}
	made, _ = time.Parse(time.RFC3339Nano, got.Created) // an image may have none
	return img, made, nil
}

// described reports whether an image is one of Describe.
func described(img bundle.Image) bool { return img.Manifest.Digest == img.Config.Digest }

// unsetVariable is what docker compose says of a variable without a value.
var unsetVariable = lazyregexp.New(`The \\?"([^"\\]+)\\?" variable is not set`)

// AllProfiles has every service be one of the project.
const AllProfiles = "*"

// Rendered is the project in one file without variables, as docker compose prints it,
// and the variables that have no value.
func (c *Compose) Rendered(ctx context.Context) (text []byte, unset []string, err error) {
	out, said, err := c.outputs(ctx, "config")
	for _, m := range unsetVariable.FindAllStringSubmatch(said, -1) {
		if !slices.Contains(unset, m[1]) {
			unset = append(unset, m[1])
		}
	}
	return []byte(out), unset, err
}
