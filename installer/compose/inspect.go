package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify"
)

// Inspect asks the engine and the environment file what planning needs.
func (a *App) Inspect(ctx context.Context, rel *verify.Release, st installer.State) (installer.Facts, error) {
	info, err := a.Engine.Info(ctx)
	if err != nil {
		return installer.Facts{}, err
	}
	if err := a.envIsFile(); err != nil {
		return installer.Facts{}, fmt.Errorf("inspect: %w", err)
	}
	m := rel.Manifest()
	f := installer.Facts{Platform: info.Platform, Engine: info.Version}
	a.Releases.Remember(rel.Digest(), m)
	if st.Current != nil {
		old, err := a.manifest(*st.Current)
		if err != nil {
			return f, err
		}
		f.RunsSince = old.CreatedAt
		if st.Current.Manifest == rel.Digest() {
			f.Damage = a.Intact(ctx, *st.Current)
		} else {
			for _, err := range a.edited(old) {
				f.Edited = append(f.Edited, err.Error())
			}
		}
		if old.Device.Project != m.Device.Project {
			return f, fmt.Errorf("inspect: the release runs as compose project %q, %q is installed: it would start on new, empty volumes", m.Device.Project, old.Device.Project)
		}
	}
	if st.Current == nil && st.Unfinished == nil {
		if err := a.stranger(ctx, m); err != nil {
			return f, err
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
	if f.Free, err = installer.FreeBytes(info.Root); err != nil {
		return f, err
	}
	before, err := environ.Compose.Load(a.envPath())
	if err != nil {
		return f, err
	}
	if err := a.lostSecrets(ctx, m, before, st.Current); err != nil {
		return f, err
	}
	env, generated, err := a.nextEnv(m, func(name string) (io.ReadCloser, error) { return Open(rel, name) })
	if err != nil {
		return f, err
	}
	f.EnvNew, f.EnvChanged = generated, env.Changed(before, generated)
	text, err := smallFile(rel, m.Device.Compose)
	if err != nil {
		return f, err
	}
	f.EnvMissing = env.Missing(required(m, text))
	f.LocalMissing = a.localMissing(m)
	if err := a.inspectDisk(ctx, &f, m, st); err != nil {
		return f, err
	}
	if a.Program.Command != nil {
		// Without docker compose, or when it cannot read the files, no change
		// of services is known: staging says what is wrong with them.
		if err := a.inspectServices(ctx, &f, rel, m, text, env, images, info.Store, st.Current); err != nil {
			a.report(installer.Event{Step: "plan", Detail: "the change of services is unknown: " + err.Error()})
		}
	}
	return f, nil
}

// stranger refuses a first installation where containers of that project are here
// already: docker compose would take them for old ones of ours, and nothing could
// bring them back.
func (a *App) stranger(ctx context.Context, m *bundle.Manifest) error {
	list, err := a.compose(m).Ps(ctx)
	if err != nil || len(list) == 0 {
		return err
	}
	e := &installer.TakenError{Project: m.Device.Project}
	for _, c := range list {
		e.Services = append(e.Services, c.Service+" ("+c.State+")")
	}
	slices.Sort(e.Services)
	return e
}

// lostSecrets refuses to make a value anew while there may be data that depend on
// it: of the release that runs, or of one that is long gone and left its volumes.
func (a *App) lostSecrets(ctx context.Context, m *bundle.Manifest, env *environ.File, current *installer.Release) error {
	for _, key := range slices.Sorted(maps.Keys(m.Device.Secrets)) {
		place := a.secretPlace(m.Device.Secrets[key])
		switch {
		case a.hasValue(env, key, m.Device.Secrets[key]):
		case !m.Device.Secrets[key].Immutable || a.Given[key] != "":
		case current == nil || current.Signer == installer.Adopted:
			volumes, err := a.Engine.Volumes(ctx, m.Device.Project)
			if err != nil {
				return err
			}
			if len(volumes) > 0 {
				return fmt.Errorf("%s would be generated, but volume %s of an earlier installation may depend on the old one: put that into %s, or remove the volumes", key, strings.Join(volumes, ", "), place)
			}
		case hasSecret(a, *current, key):
			return fmt.Errorf("inspect: %s lost %s, which existing data depends on: restore the old value (with a new one, the data cannot be read)", place, key)
		}
	}
	return nil
}

func hasSecret(a *App, r installer.Release, key string) bool {
	m, err := a.manifest(r)
	if err != nil {
		return true
	}
	_, ok := m.Device.Secrets[key]
	return ok
}

// smallFile is the content of a file of the release that docker compose reads.
func smallFile(rel *verify.Release, name string) ([]byte, error) {
	f, err := rel.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, bundle.MaxManifestSize))
}

// needed finds ${KEY:?why} and ${KEY?why}.
var needed = lazyregexp.New(`\$\{([A-Za-z_][A-Za-z0-9_]*):?\?`)

// required are the keys that must have a value: those the manifest names, and
// those the compose file does not do without, which is the same unless somebody
// wrote the manifest by hand.
func required(m *bundle.Manifest, compose []byte) []string {
	keys := slices.Clone(m.Device.RequiredEnv)
	for _, found := range needed.FindAllStringSubmatch(strings.ReplaceAll(string(compose), "$$", ""), -1) {
		keys = append(keys, found[1])
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// measureTime is how long planning looks at the files that would be saved.
const measureTime = 30 * time.Second

// inspectDisk measures what the app's own file system has and needs: the
// release's files, and a backup.
func (a *App) inspectDisk(ctx context.Context, f *installer.Facts, m *bundle.Manifest, st installer.State) error {
	for _, file := range m.Files {
		f.Files += file.Size
	}
	for _, x := range mounts(m) {
		for _, file := range x.files {
			f.Files += file.Size
		}
	}
	var err error
	if f.FilesFree, err = installer.FreeBytesFor(a.Dir); err != nil {
		return err
	}
	if st.Current == nil || a.Releases == nil {
		return nil
	}
	sets, err := a.Backups()
	if err != nil {
		return err
	}
	var last backup.Set
	if len(sets) > 0 {
		last = sets[len(sets)-1]
	}
	old, err := a.manifest(*st.Current)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	declared := old.Device.Backup
	if st.Current.Signer == installer.Adopted {
		declared = m.Device.Backup
	}
	f.Backup = backup.Estimate(ctx, a.backupDeps(a.running(old, *st.Current)), declared, last)
	return nil
}

// inspectServices asks docker compose what the services need of this device, and
// what it would do with those that run. The files it reads are in memory: planning
// writes nothing.
func (a *App) inspectServices(ctx context.Context, f *installer.Facts, rel *verify.Release, m *bundle.Manifest, text []byte, env *environ.File, images []docker.TaggedImage, store docker.Store, current *installer.Release) error {
	first := current == nil
	pinned, err := pins(m, images, store)
	if err != nil {
		return err
	}
	var open []*os.File
	defer func() {
		for _, file := range open {
			file.Close()
		}
	}()
	memory := func(b []byte) (string, error) {
		file, name, err := docker.InMemory(b)
		if err == nil {
			open = append(open, file)
		}
		return name, err
	}
	text, err = planned(text, m, func(name string) (string, error) {
		b, err := smallFile(rel, name)
		if err != nil {
			return "", err
		}
		return memory(b)
	})
	if err != nil {
		return err
	}
	var paths []string
	for _, b := range [][]byte{text, pinned, withUnset(env, f.EnvMissing)} {
		file, err := memory(b)
		if err != nil {
			return err
		}
		paths = append(paths, file)
	}
	files := []string{paths[0]}
	if operator := a.operatorFiles(m); len(operator) > 0 {
		files = append(files, operator[0])
	}
	c := a.compose(m, append(files, paths[1])...)
	c.EnvFile = paths[2]
	if !release.IsDir(a.Dir) {
		c.Dir = "/" // there is nothing yet that a relative path could mean
	}
	model, err := c.Model(ctx)
	if err != nil {
		return err
	}
	if f.Unmet, err = a.lacks(ctx, m, model, c.Dir, f.Platform); err != nil {
		return err
	}
	ours := m.Device.Project
	if first {
		ours = "" // what runs under its name is not the release's
	}
	if f.PortsTaken, err = a.portsTaken(ctx, ours, model.Ports()); err != nil {
		return err
	}
	for _, name := range model.Updaters() {
		f.Notes = append(f.Notes, installer.Notef("service %s has the engine's socket and looks like an updater of this app: what it pulls is not verified. To drop it here, write \"services: {%s: !reset null}\" into %s (docker compose 2.24), and ask the maker for a release without it", name, name, filepath.Join(a.Dir, overrideName)))
	}
	if !first && current.Manifest != rel.Digest() {
		v, err := a.volumes(ctx, m, model, func() (*docker.Model, error) { return a.modelOf(ctx, *current) })
		if err != nil {
			return err
		}
		f.DataLeft, f.Notes = v.left, append(f.Notes, v.notes()...)
		if current.Signer == installer.Adopted {
			before, err := a.modelOf(ctx, *current)
			if err != nil {
				return err
			}
			left, err := a.strayed(ctx, m, c.Dir, before, model)
			if err != nil {
				return err
			}
			f.DataLeft = append(f.DataLeft, left...)
		}
	}
	if first || a.SkipServices || len(f.EnvMissing)+len(f.LocalMissing)+len(f.Unmet) > 0 {
		return nil
	}
	running, err := c.Ps(ctx)
	if err != nil {
		return err
	}
	hashes, err := c.Hashes(ctx, running)
	if err != nil {
		return err
	}
	var replaced []string
	for _, x := range mounts(m) {
		if err := a.Releases.CheckMount(x.name, x.files); err != nil && !errors.Is(err, fs.ErrNotExist) {
			replaced = append(replaced, a.mountPath(x.name))
		}
	}
	stale, err := c.Mounting(ctx, replaced)
	if err != nil {
		return err
	}
	for _, ctr := range running {
		if slices.Contains(stale, ctr.ID) && hashes[ctr.Service] != "" {
			hashes[ctr.Service] = "its mounted files were changed"
		}
	}
	if err := a.markOutdated(hashes, inlined(model, env), running); err != nil {
		return err
	}
	maps.DeleteFunc(hashes, func(name, _ string) bool { return !model.Runs(name) })
	f.Services = changes(hashes, running)
	withDependents(model, f.Services, c.RecreatesDependents())
	return nil
}

// withDependents marks the services that join one that is made anew, or, where compose
// does that, depend on it.
func withDependents(model *docker.Model, list []installer.ServiceChange, depend bool) {
	anew := map[string]bool{}
	for _, s := range list {
		anew[s.Service] = s.Change == installer.Recreated
	}
	for again := true; again; {
		again = false
		for i, s := range list {
			if anew[s.Service] || s.Change != installer.KeptAsIs {
				continue
			}
			service := model.Services[s.Service]
			on := service.Joins()
			if depend {
				on = slices.AppendSeq(on, maps.Keys(service.DependsOn))
			}
			if slices.ContainsFunc(on, func(name string) bool { return anew[name] }) {
				list[i].Change, anew[s.Service], again = installer.Recreated, true, true
			}
		}
	}
}

// changes compares the services of a release with the containers that are there.
func changes(hashes map[string]string, running []docker.Container) (list []installer.ServiceChange) {
	now := map[string]installer.Change{}
	for _, c := range running {
		hash, ok := hashes[c.Service]
		switch {
		case !ok:
			now[c.Service] = installer.Removed
		case hash != c.ConfigHash:
			now[c.Service] = installer.Recreated
		case c.State != "running" && now[c.Service] == "":
			now[c.Service] = installer.Started
		case now[c.Service] == "":
			now[c.Service] = installer.KeptAsIs
		}
	}
	for service := range hashes {
		if now[service] == "" {
			now[service] = installer.Started
		}
	}
	for service, change := range now {
		list = append(list, installer.ServiceChange{Service: service, Change: change})
	}
	order.By(list, func(x, y installer.ServiceChange) int { return strings.Compare(x.Service, y.Service) })
	return list
}
