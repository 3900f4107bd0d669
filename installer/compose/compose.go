// Package compose is the installer.Runtime of apps that are a set of images and
// a compose file.
//
// On disk, below the app's directory (/opt/APP):
//
//	.env                      the environment file; belongs to the device
//	<compose file>            link into current, so that docker compose works by hand
//	docker-compose.override.yml  the operator's, respected when it is there
//	current                   link to releases/<name>
//	releases/<name>/          manifest.json, its signature, the small files of the
//	                          bundle, and compose.valise.yaml, which pins every
//	                          image to its ID
//	updates/backups/          data saved before a switch
//
// Releases run from their own directory, never through current: what runs does
// not depend on when a link was switched.
package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/environ"
	"github.com/valise-ota/valise/installer/health"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify"
)

const (
	envName      = ".env"
	pinsName     = "compose.valise.yaml"
	operatorName = "docker-compose.override.yml"
	backupsDir   = "updates/backups"
	// loadMarker lies in the app's directory while the engine may hold images
	// that a crash left incomplete.
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
	Command  []string // how to call docker compose
	Env      docker.Env
	Rand     io.Reader
	Report   func(installer.Event)   // may be nil
	Show     func(key, value string) // told of a generated secret that is shown once; may be nil
}

var _ installer.Runtime = (*App)(nil)

// Inspect asks the engine and the environment file what planning needs.
func (a *App) Inspect(ctx context.Context, rel *verify.Release, st installer.State) (installer.Facts, error) {
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return installer.Facts{}, err
	}
	m := rel.Manifest()
	f := installer.Facts{Platform: info.Platform}
	if st.Current != nil {
		old, err := a.manifest(*st.Current)
		if err != nil {
			return f, err
		}
		if old.Device.Project != m.Device.Project {
			return f, fmt.Errorf("inspect: the release runs as compose project %q, %q is installed: it would start on new, empty volumes", m.Device.Project, old.Device.Project)
		}
	}
	images, err := a.images(m, info.Platform)
	if err != nil {
		return f, err
	}
	known, err := a.known(st.Kept, info.Platform)
	if err != nil {
		return f, err
	}
	if f.Missing, err = a.Engine.Missing(ctx, plain(images), plain(known)); err != nil {
		return f, err
	}
	if f.Free, err = docker.FreeBytes(info.Root); err != nil {
		return f, err
	}
	env, err := environ.Load(a.envPath())
	if err != nil {
		return f, err
	}
	for _, key := range env.Missing(m.Device.RequiredEnv) {
		if _, generated := m.Device.Secrets[key]; !generated && key != m.Device.VersionEnv {
			f.EnvMissing = append(f.EnvMissing, key)
		}
	}
	for key, secret := range m.Device.Secrets {
		if len(env.Missing([]string{key})) == 0 {
			continue
		}
		if secret.Immutable && st.Current != nil && hasSecret(a, *st.Current, key) {
			return f, fmt.Errorf("inspect: %s lost %s, which existing data depends on: put the old value back (a new one would lock the data out)", a.envPath(), key)
		}
		f.EnvNew = append(f.EnvNew, key)
	}
	slices.Sort(f.EnvNew)
	return f, nil
}

func hasSecret(a *App, r installer.Release, key string) bool {
	m, err := a.manifest(r)
	if err != nil {
		return true
	}
	_, ok := m.Device.Secrets[key]
	return ok
}

// Stage writes the release directory and loads the layers the engine lacks. The
// directory gets its name last, when everything in it is durable and every image
// was found in the engine as the manifest says.
func (a *App) Stage(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	m := rel.Manifest()
	if err := a.Releases.Clean(); err != nil {
		return err
	}
	if slices.ContainsFunc(kept, func(k installer.Release) bool { return k.Dir == to.Dir }) {
		return a.stageKept(ctx, rel, to, kept)
	}
	// A directory nobody committed proves nothing about its content.
	if err := a.Releases.Remove(to.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := a.Releases.Stage(to.Dir)
	if err != nil {
		return err
	}
	defer dir.Abort()
	if err := a.writeFiles(dir, rel); err != nil {
		return err
	}
	if err := a.checkCompose(ctx, m, a.files(m, filepath.Join(a.Dir, dir.Path()))); err != nil {
		return err
	}
	pins, err := a.load(ctx, rel, kept)
	if err != nil {
		return err
	}
	if err := dir.WriteFile(pinsName, 0o644, bytes.NewReader(pins)); err != nil {
		return err
	}
	return dir.Commit()
}

// stageKept makes sure that a release that is still on disk can run.
func (a *App) stageKept(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	m, err := a.manifest(to)
	if err != nil {
		return err
	}
	if err := a.checkCompose(ctx, m, a.running(m, to).Files); err != nil {
		return err
	}
	_, err = a.load(ctx, rel, kept)
	return err
}

func (a *App) writeFiles(dir *release.Staged, rel *verify.Release) error {
	write := func(name string, mode fs.FileMode, r io.Reader) error { return dir.WriteFile(name, mode, r) }
	if err := write(bundle.ManifestName, 0o644, bytes.NewReader(rel.ManifestBytes())); err != nil {
		return err
	}
	if err := write(bundle.SignatureName, 0o644, bytes.NewReader(rel.Signature())); err != nil {
		return err
	}
	for _, f := range rel.Manifest().Files {
		if strings.HasPrefix(f.Path, "installer/") || f.Path == pinsName {
			continue
		}
		rc, err := rel.OpenFile(f.Path)
		if err != nil {
			return err
		}
		err = write(f.Path, fs.FileMode(f.Mode), rc)
		rc.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkCompose lets docker compose read files with the environment that the
// release would get: what it cannot read is found before anything is touched.
func (a *App) checkCompose(ctx context.Context, m *bundle.Manifest, files []string) error {
	env, _, err := a.nextEnv(m)
	if err != nil {
		return err
	}
	root := a.Releases.Root()
	if err := release.WriteFile(root, nextEnvName, env.Bytes(), 0o600); err != nil {
		return err
	}
	c := a.compose(m, files...)
	c.EnvFile = filepath.Join(a.Dir, nextEnvName)
	err = c.Config(ctx)
	if rerr := release.RemoveAll(root, nextEnvName); err == nil {
		err = rerr
	}
	return err
}

// load brings every image of the release into the engine, checks and keeps it,
// and returns the compose override that pins them.
func (a *App) load(ctx context.Context, rel *verify.Release, kept []installer.Release) ([]byte, error) {
	m := rel.Manifest()
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return nil, err
	}
	images, err := a.images(m, info.Platform)
	if err != nil {
		return nil, err
	}
	known, err := a.known(kept, info.Platform)
	if err != nil {
		return nil, err
	}
	// An image of ours that no committed release needs may be torn; the engine
	// would say it is there.
	if err := a.removeImages(ctx, known); err != nil {
		return nil, err
	}
	ids, err := a.Engine.Check(ctx, images)
	if err != nil {
		if ids, err = a.loadMissing(ctx, rel, images, known); err != nil {
			return nil, err
		}
	}
	for _, img := range images {
		if err := a.Engine.Keep(ctx, a.Name, img.Tag); err != nil {
			return nil, err
		}
	}
	if err := a.Engine.Sync(ctx); err != nil {
		return nil, err
	}
	if err := release.RemoveAll(a.Releases.Root(), loadMarker); err != nil {
		return nil, err
	}
	return pins(m, images, ids)
}

func (a *App) loadMissing(ctx context.Context, rel *verify.Release, images, known []docker.TaggedImage) (map[string]string, error) {
	root := a.Releases.Root()
	_, err := root.Lstat(loadMarker)
	torn := err == nil
	if err := release.WriteFile(root, loadMarker, nil, 0o600); err != nil {
		return nil, err
	}
	open := func(d bundle.Descriptor) (io.ReadCloser, error) { return rel.OpenBlob(d.Digest) }
	load := func() (map[string]string, error) {
		skip, err := a.present(ctx, images, known)
		if err != nil {
			return nil, err
		}
		err = a.Engine.Load(ctx, images, skip, open, a.progress("stage"))
		if err != nil && ctx.Err() == nil {
			// Somebody may have removed the image that a skipped layer was in.
			if now, perr := a.present(ctx, images, known); perr == nil && !maps.Equal(now, skip) {
				err = a.Engine.Load(ctx, images, now, open, a.progress("stage"))
			}
		}
		if err != nil {
			return nil, err
		}
		return a.Engine.Check(ctx, images)
	}
	if torn {
		// A crash in an earlier load may have left layers without content,
		// which the engine keeps using: it drops them with their images.
		if _, err := load(); err != nil {
			return nil, err
		}
		if err := a.removeImages(ctx, known); err != nil {
			return nil, err
		}
	}
	return load()
}

// present returns the layers of images that the engine has.
func (a *App) present(ctx context.Context, images, known []docker.TaggedImage) (map[bundle.Digest]bool, error) {
	missing, err := a.Engine.Missing(ctx, plain(images), plain(known))
	if err != nil {
		return nil, err
	}
	have := map[bundle.Digest]bool{}
	for _, img := range images {
		for _, l := range img.Image.Layers {
			if !missing[l.Digest] {
				have[l.Digest] = true
			}
		}
	}
	return have, nil
}

// Backup saves the data of the release that runs.
func (a *App) Backup(ctx context.Context, from installer.Release, recordID string) error {
	m, err := a.manifest(from)
	if err != nil {
		return err
	}
	if len(m.Device.Backup) == 0 {
		return nil
	}
	dir, err := a.openBackups()
	if err != nil {
		return err
	}
	defer dir.Close()
	c := a.running(m, from)
	for _, b := range m.Device.Backup {
		name, err := backup.Name(dir, recordID, from.Version, b.Postgres.Service)
		if err != nil {
			return err
		}
		if _, err := backup.Dump(ctx, c, *b.Postgres, dir, name, func(done int64) { a.progress("backup")(done, 0) }); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) openBackups() (*os.Root, error) {
	root := a.Releases.Root()
	for _, dir := range []string{path.Dir(backupsDir), backupsDir} {
		if err := release.Mkdir(root, dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return root.OpenRoot(backupsDir)
}

// snapshot is what Restore goes back to.
type snapshot struct {
	Env     []byte `json:"env"`     // the environment file, nil when there was none
	Current string `json:"current"` // name of the release, empty when there was none
	Project string `json:"project"`
	Compose string `json:"compose"` // name of the compose file that Activate links
}

// Snapshot reads the environment file and the current link. It fails when docker
// compose could not run the release: then there is nothing to undo.
func (a *App) Snapshot(ctx context.Context, to installer.Release) (json.RawMessage, error) {
	m, err := a.manifest(to)
	if err != nil {
		return nil, err
	}
	if err := a.checkCompose(ctx, m, a.running(m, to).Files); err != nil {
		return nil, err
	}
	s := snapshot{Project: m.Device.Project, Compose: m.Device.Compose}
	if s.Env, err = os.ReadFile(a.envPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read environment file: %w", err)
	}
	if s.Current, _, err = a.Releases.Current(); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Activate writes the environment file, switches current and starts the
// services.
func (a *App) Activate(ctx context.Context, to installer.Release) error {
	m, err := a.manifest(to)
	if err != nil {
		return err
	}
	env, generated, err := a.nextEnv(m)
	if err != nil {
		return err
	}
	if err := release.ReplaceFile(a.Releases.Root(), envName, env.Bytes(), 0o600); err != nil {
		return err
	}
	for _, key := range generated {
		if value, _ := env.Lookup(key); m.Device.Secrets[key].Show != "" && a.Show != nil {
			a.Show(key, value)
		}
	}
	if err := a.Releases.SetCurrent(to.Dir); err != nil {
		return err
	}
	if err := a.linkCompose(m); err != nil {
		return err
	}
	return a.running(m, to).Up(ctx)
}

// linkCompose leads the compose file's usual place to the current release. A
// file somebody put there stays.
func (a *App) linkCompose(m *bundle.Manifest) error {
	root, target := a.Releases.Root(), path.Join("current", m.Device.Compose)
	if fi, err := root.Lstat(m.Device.Compose); err == nil && fi.Mode().Type() != fs.ModeSymlink {
		return nil
	}
	if to, err := root.Readlink(m.Device.Compose); err == nil && to == target {
		return nil
	}
	return release.Symlink(root, target, m.Device.Compose)
}

// unlinkCompose removes the link that linkCompose made.
func (a *App) unlinkCompose(name string) error {
	root := a.Releases.Root()
	if to, err := root.Readlink(name); err != nil || to != path.Join("current", name) {
		return nil
	}
	return release.RemoveAll(root, name)
}

// Restore brings back the environment file, the current link and what ran. Keys
// that Activate generated stay in the file: a volume may hold data that needs
// them. What is as it was is not written again, so that a full disk, which may
// be why Activate failed, does not stop the way back.
func (a *App) Restore(ctx context.Context, raw json.RawMessage, from *installer.Release) error {
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil || s.Project == "" {
		return fmt.Errorf("restore: damaged snapshot: %v", err)
	}
	if s.Env != nil {
		if err := a.restoreEnv(s.Env); err != nil {
			return err
		}
	}
	switch current, ok, err := a.Releases.Current(); {
	case err != nil:
		return err
	case ok && s.Current == "":
		if err := a.Releases.ClearCurrent(); err != nil {
			return err
		}
	case s.Current != "" && current != s.Current:
		if err := a.Releases.SetCurrent(s.Current); err != nil {
			return err
		}
	}
	if from == nil {
		if s.Compose != "" {
			if err := a.unlinkCompose(s.Compose); err != nil {
				return err
			}
		}
		return (&docker.Compose{Command: a.Command, Env: a.Env, Engine: a.Engine, Project: s.Project, Dir: a.Dir}).Down(ctx)
	}
	m, err := a.manifest(*from)
	if err != nil {
		return err
	}
	if s.Compose != "" && s.Compose != m.Device.Compose {
		if err := a.unlinkCompose(s.Compose); err != nil {
			return err
		}
	}
	if err := a.linkCompose(m); err != nil {
		return err
	}
	return a.running(m, *from).Up(ctx)
}

func (a *App) restoreEnv(old []byte) error {
	now, err := environ.Load(a.envPath())
	if err != nil {
		return err
	}
	env, err := environ.Parse(old)
	if err != nil {
		return err
	}
	for _, key := range now.Keys() {
		if _, ok := env.Lookup(key); ok {
			continue
		}
		value, _ := now.Lookup(key)
		if err := env.Set(key, value); err != nil {
			return err
		}
	}
	if bytes.Equal(env.Bytes(), now.Bytes()) {
		return nil
	}
	return release.ReplaceFile(a.Releases.Root(), envName, env.Bytes(), 0o600)
}

// Probe asks the release's own health checks.
func (a *App) Probe(ctx context.Context, r installer.Release) error {
	m, err := a.manifest(r)
	if err != nil {
		return err
	}
	env, err := environ.Load(a.envPath())
	if err != nil {
		return err
	}
	h := m.Device.Health
	url, err := env.Expand(h.HTTP)
	if err != nil {
		return fmt.Errorf("health check URL: %w", err)
	}
	c := a.running(m, r)
	return health.Probe(ctx, health.Checks{
		Services: h.Compose, URL: url, Member: h.Version, Version: m.Version, Retries: h.Retries, Interval: time.Duration(h.Interval),
	}, health.Deps{Ps: func(ctx context.Context) ([]health.Container, error) {
		list, err := c.Ps(ctx)
		out := make([]health.Container, len(list))
		for i, s := range list {
			out[i] = health.Container(s)
		}
		return out, err
	}})
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
	if err := a.removeImages(ctx, known); err != nil {
		return err
	}
	if len(kept) == 0 {
		return nil
	}
	m, err := a.manifest(kept[0])
	if err != nil {
		return err
	}
	dir, err := a.openBackups()
	if err != nil {
		return err
	}
	defer dir.Close()
	_, err = backup.Prune(dir, m.Device.Keep.Backups)
	return err
}

// removeImages removes the images of this app that are not in known. One that a
// container still uses stays and goes with a later prune.
func (a *App) removeImages(ctx context.Context, known []docker.TaggedImage) error {
	tags, err := a.Engine.List(ctx, a.Name)
	if err != nil {
		return err
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool {
		return slices.ContainsFunc(known, func(k docker.TaggedImage) bool { return k.Tag == tag })
	})
	_, err = a.Engine.Remove(ctx, a.Name, tags)
	return err
}

// manifest reads the manifest of a release on disk and compares it with what
// was verified when it came.
func (a *App) manifest(r installer.Release) (*bundle.Manifest, error) {
	f, err := a.Releases.OpenFile(r.Dir, bundle.ManifestName)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", r.Version, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, bundle.MaxManifestSize+1))
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", r.Version, err)
	}
	if got := bundle.DigestOf(b); got != r.Manifest {
		return nil, fmt.Errorf("read release %s: its manifest on disk is %s, %s was verified: the directory was changed", r.Version, got, r.Manifest)
	}
	return bundle.ParseManifest(b)
}

// images returns the images of a manifest for one platform, with our tags.
func (a *App) images(m *bundle.Manifest, p bundle.Platform) ([]docker.TaggedImage, error) {
	i := slices.Index(m.Platforms, p)
	if i < 0 {
		return nil, fmt.Errorf("release %s has no images for %s", m.Version, p)
	}
	var list []docker.TaggedImage
	for _, c := range m.Components {
		img := docker.TaggedImage{Tag: docker.Tag(a.Name, c.Images[i]), Image: c.Images[i]}
		if !slices.ContainsFunc(list, func(t docker.TaggedImage) bool { return t.Tag == img.Tag }) {
			list = append(list, img)
		}
	}
	return list, nil
}

// known returns the images of committed releases.
func (a *App) known(kept []installer.Release, p bundle.Platform) ([]docker.TaggedImage, error) {
	var list []docker.TaggedImage
	for _, k := range kept {
		m, err := a.manifest(k)
		if err != nil {
			return nil, err
		}
		images, err := a.images(m, p)
		if err != nil {
			return nil, err
		}
		list = append(list, images...)
	}
	return list, nil
}

func plain(list []docker.TaggedImage) []bundle.Image {
	var out []bundle.Image
	for _, t := range list {
		out = append(out, t.Image)
	}
	return out
}

// pins is the compose override that pins every service to the ID of its image:
// whatever becomes of tags, what runs is what was verified. YAML holds JSON.
func pins(m *bundle.Manifest, images []docker.TaggedImage, ids map[string]string) ([]byte, error) {
	type service struct {
		Image      string `json:"image"`
		PullPolicy string `json:"pull_policy"`
	}
	services := map[string]service{}
	for _, c := range m.Components {
		for _, img := range images {
			if slices.ContainsFunc(c.Images, func(i bundle.Image) bool { return i.Manifest.Digest == img.Image.Manifest.Digest }) {
				for _, name := range c.Services {
					services[name] = service{ids[img.Tag], "never"}
				}
			}
		}
	}
	return json.MarshalIndent(map[string]any{"services": services}, "", "  ")
}

// nextEnv is the environment file as the release needs it, and the keys of
// secrets that were generated for it.
func (a *App) nextEnv(m *bundle.Manifest) (*environ.File, []string, error) {
	env, err := environ.Load(a.envPath())
	if err != nil {
		return nil, nil, err
	}
	var generated []string
	for key, secret := range m.Device.Secrets {
		if len(env.Missing([]string{key})) == 0 {
			continue
		}
		value, err := environ.Generate(secret, a.Rand)
		if err != nil {
			return nil, nil, err
		}
		if err := env.Set(key, value); err != nil {
			return nil, nil, err
		}
		generated = append(generated, key)
	}
	slices.Sort(generated)
	return env, generated, env.Set(m.Device.VersionEnv, m.Version)
}

func (a *App) envPath() string { return filepath.Join(a.Dir, envName) }

// running is the compose project as release r runs it.
func (a *App) running(m *bundle.Manifest, r installer.Release) *docker.Compose {
	dir := filepath.Join(a.Dir, "releases", r.Dir)
	c := a.compose(m, append(a.files(m, dir), filepath.Join(dir, pinsName))...)
	c.EnvFile = a.envPath()
	return c
}

// files are the compose file in dir and what the operator put beside it.
func (a *App) files(m *bundle.Manifest, dir string) []string {
	files := []string{filepath.Join(dir, m.Device.Compose)}
	if operator := filepath.Join(a.Dir, operatorName); isFile(operator) {
		files = append(files, operator)
	}
	return files
}

func (a *App) compose(m *bundle.Manifest, files ...string) *docker.Compose {
	return &docker.Compose{Command: a.Command, Env: a.Env, Engine: a.Engine, Project: m.Device.Project, Dir: a.Dir, Files: files}
}

func isFile(p string) bool {
	fi, err := os.Lstat(p)
	return err == nil && fi.Mode().IsRegular()
}

func (a *App) progress(step string) func(done, total int64) {
	return func(done, total int64) {
		if a.Report != nil {
			a.Report(installer.Event{Step: step, Done: done, Total: total})
		}
	}
}
