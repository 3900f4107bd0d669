// Package compose is the installer.Runtime of apps that are a set of images and
// a compose file.
//
// On disk, below the app's directory (/opt/APP):
//
//	.env                      the environment file; belongs to the device
//	<compose file>            link into current, so that docker compose works by hand
//	compose.override.yaml     the operator's, respected when it is there
//	current                   link to releases/<name>
//	releases/<name>/          manifest.json, its signature, the small files of the
//	                          bundle, and compose.valise.yaml, which pins every
//	                          image to its ID
//	releases/.mounts/         what compose files mount of releases, see mounts.go
//	updates/backups/          data saved before a switch
//
// Releases run from their own directory, never through current: what runs does
// not depend on when a link was switched.
package compose

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/health"
	"github.com/valise-ota/valise/installer/release"
)

// BackupsDir is where data saved before a switch are, below the app's directory.
const BackupsDir = "updates/backups"

const (
	envName      = ".env"
	pinsName     = "compose.valise.yaml"
	overrideName = "compose.override.yaml" // of bundle.ComposeOverrides, the one that people are told to write
	// loadMarker lies in the app's directory while the engine may hold images
	// that a crash left incomplete, and has their tags.
	loadMarker = ".valise-load-unfinished"
	// nextEnvName is the environment file as the next release would get it,
	// while docker compose checks that.
	nextEnvName = ".valise-env-next"
)

// App is one installed app. Its methods are called by one process at a time,
// which holds the app's lock.
type App struct {
	Name     string
	Dir      string         // absolute path of Releases
	Releases *release.Store // the app's directory
	Engine   *docker.Engine
	Program  docker.Program // may be empty for what only looks
	Env      docker.Env
	Rand     io.Reader
	Given    map[string]string // values for the environment file, from the operator
	Now      func() time.Time
	Report   func(installer.Event)   // may be nil
	Show     func(key, value string) // told of a generated secret that is shown once; may be nil
	// RestartEngine restarts an engine that holds what is gone; nil where it is not ours to.
	RestartEngine func(context.Context) error
	// SkipServices has Inspect not ask docker compose what becomes of services.
	SkipServices bool
	// Retained opens a bundle of release r that is still on this device, located
	// but not verified, or returns nil; may be nil itself.
	Retained func(r installer.Release) (*Retained, error)

	read      docker.Read
	generated map[string]string // values of secrets
}

var _ installer.Runtime = (*App)(nil)

// Probe asks the release's own health checks.
func (a *App) Probe(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	env, err := environ.Compose.Load(a.envPath())
	if err != nil {
		return err
	}
	h := m.Device.Health
	checks, err := health.ChecksOf(h, m.Version, a.releaseDir(r), env.Expand)
	if err != nil {
		return err
	}
	c := a.running(m, r)
	if checks.Services, checks.Ends, err = expected(ctx, c, h.Compose); err != nil {
		return a.classify(ctx, err)
	}
	if h.Command != nil {
		checks.Command = func(ctx context.Context) error {
			return c.Exec(ctx, h.Command.Service, h.Command.Run, nil, io.Discard)
		}
	}
	err = health.Probe(ctx, checks, health.Deps{Ps: func(ctx context.Context) ([]health.Container, error) {
		list, err := c.Ps(ctx)
		out := make([]health.Container, len(list))
		for i, s := range list {
			out[i] = health.Container(s)
		}
		return out, err
	}})
	if err != nil {
		return a.classify(ctx, err)
	}
	return a.hook(ctx, m, r, "post-probe")
}

// expected are those of services that this device runs, in the profiles that are on
// here, and the services of the project that may end, with whether they must.
func expected(ctx context.Context, c *docker.Compose, services []string) (run []string, ends map[string]bool, err error) {
	model, err := c.Model(ctx)
	if err != nil {
		return nil, nil, err
	}
	ends = map[string]bool{}
	for name := range model.Services {
		if may, must := model.Ends(name); may && model.Runs(name) {
			ends[name] = must
		}
	}
	return slices.DeleteFunc(slices.Clone(services), func(name string) bool { return !model.Runs(name) }), ends, nil
}

// Prune removes release directories, images and backups that no kept release
// needs.
func (a *App) Prune(ctx context.Context, kept []installer.Release) error {
	if err := a.Releases.Clean(); err != nil {
		return err
	}
	if err := release.RemoveAll(a.Releases.Root(), nextEnvName); err != nil {
		return err
	}
	if err := a.pruneMounts(kept); err != nil {
		return err
	}
	names, err := a.Releases.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.ContainsFunc(kept, func(k installer.Release) bool { return k.Dir == name }) {
			if err := a.Releases.Remove(name); err != nil {
				return err
			}
		}
	}
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return err
	}
	known, err := a.known(kept, info.Platform)
	if err != nil {
		return err
	}
	left, err := a.removeImages(ctx, known)
	for _, l := range left {
		a.report(installer.Event{Step: "prune", Detail: fmt.Sprintf("image %s is not needed any more and stays: containers use it (%s)", l.Tag, strings.Join(l.Users, ", "))})
	}
	if err != nil {
		return err
	}
	if len(kept) == 0 {
		return nil
	}
	return a.PruneBackups(kept[0])
}

// PruneBackups removes old backups, as many as release r lets stay.
func (a *App) PruneBackups(r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	dir, err := a.openBackups()
	if err != nil {
		return err
	}
	defer dir.Close()
	_, err = backup.Prune(dir, m.Device.Keep.Backups, r.Version)
	return err
}

// RestorePolicy is what going back from release r does to the data.
func (a *App) RestorePolicy(r installer.Release) (bundle.RestoreData, error) {
	m, err := a.manifest(r)
	if err != nil {
		return "", err
	}
	return m.Device.RestoreData(), nil
}

// manifest is that of release r, as it was verified when it came.
func (a *App) manifest(r installer.Release) (*bundle.Manifest, error) {
	return a.Releases.Manifest(r.Dir, r.Manifest)
}

func (a *App) releaseDir(r installer.Release) string { return filepath.Join(a.Dir, "releases", r.Dir) }
func (a *App) envPath() string                       { return filepath.Join(a.Dir, envName) }

// running is the compose project as release r runs it.
func (a *App) running(m *bundle.Manifest, r installer.Release) *docker.Compose {
	dir := a.releaseDir(r)
	files := a.files(m, dir)
	if r.Signer == installer.Adopted {
		files = files[:1] // it has the operator's override of its time in it
	}
	c := a.compose(m, append(files, filepath.Join(dir, pinsName))...)
	c.EnvFile = a.envPath()
	return c
}

// files are the compose file in dir and what the operator put beside it.
func (a *App) files(m *bundle.Manifest, dir string) []string {
	files := []string{filepath.Join(dir, m.Device.Compose)}
	if operator := a.operatorFiles(m); len(operator) > 0 {
		files = append(files, operator[0])
	}
	return files
}

// operatorFiles are the operator's own overrides. Docker compose takes the first; one
// that is a link to nothing is an error there.
func (a *App) operatorFiles(m *bundle.Manifest) (files []string) {
	for _, name := range bundle.ComposeOverrides {
		p := filepath.Join(a.Dir, name)
		if _, err := os.Lstat(p); err == nil && name != m.Device.Compose {
			files = append(files, p)
		}
	}
	return files
}

func (a *App) compose(m *bundle.Manifest, files ...string) *docker.Compose {
	return &docker.Compose{Program: a.Program, Env: a.Env, Engine: a.Engine, Project: m.Device.Project, Dir: a.Dir, Files: files, Read: &a.read}
}

func (a *App) progress(step string) func(done, total int64) {
	return func(done, total int64) { a.report(installer.Event{Step: step, Done: done, Total: total}) }
}

func (a *App) report(e installer.Event) {
	if a.Report != nil {
		a.Report(e)
	}
}
