package tree

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// Adoption is what was found of an app that something else installed.
type Adoption struct {
	App      string   `json:"app"`
	Unit     string   `json:"unit"`  // the one with the environment file
	Units    []string `json:"units"` // all of them, and templates
	EnvFile  string   `json:"env_file"`
	Releases []Found  `json:"releases"` // oldest first, by when they were unpacked
	Current  string   `json:"current"`  // name of a directory
	Previous string   `json:"previous,omitempty"`
	Link     string   `json:"link"`               // where current leads today
	Skipped  []string `json:"skipped,omitempty"`  // what is not taken over, and why
	Updaters []string `json:"updaters,omitempty"` // units that are not taken over: they look like what updates the app
	health   string

	instances []string
}

// Found is one release that is there.
type Found struct {
	Dir     string    `json:"dir"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"` // modification time of the directory
	version *semver.Version
}

// AdoptOptions say what cannot be found out.
type AdoptOptions struct {
	Units    []string // names; none are those that belong to the app by name, or name its directory
	EnvFile  string   // empty is that of the unit
	Health   string   // URL; may be empty
	Previous string   // version; empty is the stable one below the current one that was unpacked last
}

// adoptedDir is where an adopted release gets the unit it runs with, when its
// own tree does not have the same.
const adoptedDir = "adopted"

// maxVersionFile is more than any VERSION file has, in bytes.
const maxVersionFile = 1 << 10

// Find reads what is there. It changes nothing and runs nothing of the app's.
func (a *App) Find(ctx context.Context, o AdoptOptions) (*Adoption, error) {
	f := &Adoption{App: a.Name, Units: o.Units, EnvFile: o.EnvFile, health: o.Health}
	if len(f.Units) == 0 {
		if err := a.findUnits(f); err != nil {
			return nil, err
		}
	}
	for _, name := range f.Units {
		if !release.Exists(unitPath(name)) {
			return nil, fmt.Errorf("find unit %s: there is no %s: name the units that run the app", name, unitPath(name))
		}
		if isTemplate(name) {
			all, err := systemd.Instances(ctx, name)
			if err != nil {
				return nil, err
			}
			f.instances = append(f.instances, all...)
		}
	}
	asked := slices.Concat(slices.DeleteFunc(slices.Clone(f.Units), isTemplate), f.instances)
	if len(asked) == 0 {
		return nil, fmt.Errorf("find units: %s are templates, and none of them runs", strings.Join(f.Units, ", "))
	}
	list, err := systemd.ShowAll(ctx, asked)
	if err != nil {
		return nil, err
	}
	for _, u := range list {
		if !u.Loaded {
			return nil, fmt.Errorf("find unit %s: systemd cannot load it: see systemctl status %s", u.Name, u.Name)
		}
		if f.Unit != "" || !strings.HasSuffix(u.Name, ".service") {
			continue
		}
		file, err := systemd.EnvironmentFile(ctx, u.Name)
		if err != nil {
			return nil, err
		}
		if file != "" {
			f.Unit, f.EnvFile = u.Name, cmp.Or(f.EnvFile, file)
		}
	}
	f.Unit = cmp.Or(f.Unit, asked[0])
	if f.EnvFile == "" {
		return nil, fmt.Errorf("find environment file: none of %s has an EnvironmentFile: name the file", strings.Join(f.Units, ", "))
	}
	if _, err := os.Stat(f.EnvFile); err != nil {
		return nil, fmt.Errorf("find environment file: %w", err)
	}
	if f.Link, err = os.Readlink(filepath.Join(a.Dir, "current")); err != nil {
		return nil, fmt.Errorf("find current release: %w", err)
	}
	f.Current = filepath.Base(f.Link)
	if dir := filepath.Dir(f.Link); dir != "releases" && dir != filepath.Join(a.Dir, "releases") {
		return nil, fmt.Errorf("find current release: current leads to %q, want a directory of %s/releases", f.Link, a.Dir)
	}
	if err := a.findReleases(f); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(f.Releases, func(r Found) bool { return r.Dir == f.Current })
	if i < 0 {
		return nil, fmt.Errorf("find current release: %s is not a release: %s", f.Current, strings.Join(f.Skipped, "; "))
	}
	return f, f.findPrevious(f.Releases[i].version, strings.TrimPrefix(o.Previous, "v"))
}

// findUnits finds the units of the app: by their names, APP.service, APP-web.socket,
// APP@.service, or because they name its directory; APP.service first.
func (a *App) findUnits(f *Adoption) error {
	entries, err := os.ReadDir(systemd.UnitDir)
	if err != nil {
		return fmt.Errorf("find units: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if !bundle.ValidUnit(name) || strings.HasPrefix(name, "valise") {
			continue
		}
		text, err := os.ReadFile(unitPath(name)) // a link leads to the unit
		rest, named := strings.CutPrefix(name, a.Name)
		if named = named && strings.ContainsAny(rest[:1], ".-@"); err != nil || len(text) == 0 || !named && !bytes.Contains(text, []byte(a.Dir+"/")) {
			continue
		}
		if strings.Contains(strings.ToLower(name), "update") {
			f.Updaters = append(f.Updaters, name)
			continue
		}
		f.Units = append(f.Units, name)
	}
	main := a.Name + ".service"
	slices.SortStableFunc(f.Units, func(x, y string) int {
		switch main {
		case x:
			return -1
		case y:
			return 1
		}
		return 0
	})
	if len(f.Units) == 0 {
		return fmt.Errorf("find units: there is no %s, nor any other unit in %s that belongs to %s: name the units that run the app", unitPath(main), systemd.UnitDir, a.Name)
	}
	return nil
}

// findPrevious finds what ran before. A newer one than the current one may be
// there because it failed: it is what ran before only if somebody says so.
func (f *Adoption) findPrevious(current *semver.Version, want string) error {
	for _, r := range f.Releases { // the last one that fits
		if r.Dir != f.Current && (want == r.Version || want == "" && r.version.LessThan(current) && r.version.Prerelease() == "") {
			f.Previous = r.Dir
		}
	}
	if want != "" && f.Previous == "" {
		return fmt.Errorf("find previous release: %s is not here", want)
	}
	f.Releases = slices.DeleteFunc(f.Releases, func(r Found) bool {
		newer := r.Dir != f.Previous && r.version.GreaterThan(current)
		if newer {
			f.Skipped = append(f.Skipped, r.Dir+" is newer than what runs, so it may have failed")
		}
		return newer
	})
	return nil
}

func (a *App) findReleases(f *Adoption) error {
	entries, err := os.ReadDir(filepath.Join(a.Dir, "releases"))
	if err != nil {
		return fmt.Errorf("find releases: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("find releases: %w", err)
		}
		version := strings.TrimPrefix(e.Name(), "v")
		parsed, err := bundle.ParseVersion(version)
		switch {
		case !e.IsDir():
			f.Skipped = append(f.Skipped, e.Name()+" is not a directory")
			continue
		case err != nil || !release.ValidName(e.Name()):
			f.Skipped = append(f.Skipped, e.Name()+" is not called after a version")
			continue
		}
		b, err := a.Releases.ReadFile(e.Name(), bundle.VersionName, maxVersionFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if got := strings.TrimPrefix(strings.TrimSpace(string(b)), "v"); err == nil && got != version {
			f.Skipped = append(f.Skipped, fmt.Sprintf("%s holds the version %.40q", e.Name(), got))
			continue
		}
		f.Releases = append(f.Releases, Found{e.Name(), version, info.ModTime().UTC().Truncate(time.Second), parsed})
	}
	order.By(f.Releases, func(x, y Found) int { return cmp.Or(x.Since.Compare(y.Since), x.version.Compare(y.version)) })
	return nil
}

// Adopt gives every release that was found a manifest, unless it has one, and
// current the form it has here. It returns the releases in the order in which
// they are to be committed: the previous one and the current one last. It may be
// called again, with those that are known from the last time.
func (a *App) Adopt(ctx context.Context, f *Adoption, known []installer.Release) ([]installer.Release, error) {
	units := map[string][]byte{}
	for _, name := range f.Units {
		text, err := os.ReadFile(unitPath(name))
		if err != nil {
			return nil, fmt.Errorf("read unit: %w", err)
		}
		units[name] = text
	}
	var others, last []installer.Release
	for _, r := range f.Releases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		digest, err := a.adoptRelease(f, r, units, slices.ContainsFunc(known, func(k installer.Release) bool { return k.Dir == r.Dir }))
		if err != nil {
			return nil, fmt.Errorf("adopt release %s: %w", r.Dir, err)
		}
		rel := installer.Release{Version: r.Version, Dir: r.Dir, Manifest: digest, Signer: installer.Adopted, Kind: bundle.KindTree}
		switch r.Dir {
		case f.Current:
			last = append(last, rel)
		case f.Previous:
			last = append([]installer.Release{rel}, last...)
		default:
			others = append(others, rel)
		}
	}
	owned, err := a.owned()
	if err != nil {
		return nil, err
	}
	for name, text := range units {
		owned[unitPath(name)] = bundle.DigestOf(text)
	}
	if err := a.setOwned(owned); err != nil {
		return nil, err
	}
	return append(others, last...), a.Releases.SetCurrent(f.Current)
}

func (a *App) adoptRelease(f *Adoption, r Found, units map[string][]byte, known bool) (bundle.Digest, error) {
	dir := path.Join("releases", r.Dir)
	root := a.Releases.Root()
	if b, err := root.ReadFile(path.Join(dir, bundle.ManifestName)); err == nil {
		if m, err := bundle.ParseManifest(b); err == nil && m.App == a.Name && m.Kind == bundle.KindTree && m.Version == r.Version && slices.Contains(m.Platforms, a.Platform) {
			if known || len(m.Platforms) > 1 {
				return bundle.DigestOf(b), nil
			}
			return a.adoptBundle(m, r, b, r.Dir == f.Current) // ours, unpacked by something else
		}
		return "", fmt.Errorf("it has a %s that is not that of a release of %s %s for %s", bundle.ManifestName, a.Name, r.Version, a.Platform)
	}
	m := &bundle.Manifest{
		App: a.Name, Kind: bundle.KindTree, Version: r.Version, CreatedAt: r.Since, Platforms: []bundle.Platform{a.Platform}, Prefix: a.Name + "-v" + r.Version,
		Device: bundle.Device{
			Tree:   &bundle.Tree{EnvFile: f.EnvFile, Instances: f.instances},
			Health: bundle.Health{HTTP: f.health, Retries: 10, Interval: bundle.Duration(3 * time.Second)},
			Keep:   bundle.Keep{Releases: 3, Backups: 5},
		},
	}
	// The current release runs with the units that are installed; one from before
	// may have brought others.
	for _, unit := range f.Units {
		text := units[unit]
		name := path.Join("packaging", unit)
		own, err := root.ReadFile(path.Join(dir, name))
		if err != nil || r.Dir == f.Current && !bytes.Equal(own, text) {
			name, own = path.Join(adoptedDir, unit), text
			if err := release.Mkdir(root, path.Join(dir, adoptedDir), 0o755); err != nil {
				return "", err
			}
			if err := release.WriteFile(root, path.Join(dir, name), own, 0o644); err != nil {
				return "", err
			}
		}
		m.Device.Tree.Units = append(m.Device.Tree.Units, name)
		m.Files = append(m.Files, bundle.File{Path: name, Size: int64(len(own)), Mode: 0o644, Digest: bundle.DigestOf(own)})
	}
	sort.Slice(m.Files, func(i, j int) bool { return m.Files[i].Path < m.Files[j].Path })
	if err := m.Finish(); err != nil {
		return "", err
	}
	b, err := m.Encode()
	if err != nil {
		return "", err
	}
	return bundle.DigestOf(b), release.WriteFile(root, path.Join(dir, bundle.ManifestName), b, 0o644)
}

// adoptedManifest is that of the bundle which an adopted release was unpacked from, and
// which is not what lies there.
var adoptedManifest = path.Join(adoptedDir, bundle.ManifestName)

// adoptBundle adopts a release that was unpacked from a bundle of ours, raw having its
// manifest. What unpacked it may have changed it since: units, or files that it fills
// in. Then the release gets a manifest of what lies there and, of the one that runs,
// of the units that do, so that the way back leads to exactly that.
func (a *App) adoptBundle(m *bundle.Manifest, r Found, raw []byte, current bool) (bundle.Digest, error) {
	root, dir := a.Releases.Root(), path.Join("releases", r.Dir)
	own, asBuilt := map[string][]byte{}, true
	for i, u := range m.Device.Tree.Units {
		b, err := root.ReadFile(path.Join(dir, u))
		if installed, e := os.ReadFile(unitPath(bundle.UnitFile(u))); e == nil && (err != nil || current && !bytes.Equal(b, installed)) {
			name := path.Join(adoptedDir, bundle.UnitFile(u))
			own[name], m.Device.Tree.Units[i], asBuilt, err = installed, name, false, nil
		}
		if err != nil {
			return "", err
		}
	}
	var files []bundle.File
	for _, f := range m.Files {
		there, err := a.fileAsIs(r.Dir, f)
		if err != nil {
			return "", err
		}
		if there == nil || there.Digest != f.Digest {
			asBuilt = false
		}
		if there != nil {
			files = append(files, *there)
		}
	}
	if asBuilt && len(m.Device.Tree.Templates) == 0 {
		return bundle.DigestOf(raw), nil
	}
	for name, b := range own {
		if err := release.Mkdir(root, path.Join(dir, adoptedDir), 0o755); err != nil {
			return "", err
		}
		if err := release.Mkdir(root, path.Join(dir, path.Dir(name)), 0o755); err != nil {
			return "", err
		}
		if err := release.WriteFile(root, path.Join(dir, name), b, 0o644); err != nil {
			return "", err
		}
		files = append(files, bundle.File{Path: name, Size: int64(len(b)), Mode: 0o644, Digest: bundle.DigestOf(b)})
	}
	sort.Slice(files, func(i, j int) bool { return files[i].Path < files[j].Path })
	m.Files, m.Device.Tree.Required, m.Device.Tree.Templates = files, nil, nil // configuration files are as they are
	if err := m.Finish(); err != nil {
		return "", err
	}
	b, err := m.Encode()
	if err != nil {
		return "", err
	}
	if err := release.Mkdir(root, path.Join(dir, adoptedDir), 0o755); err != nil {
		return "", err
	}
	if err := release.WriteFile(root, path.Join(dir, adoptedManifest), raw, 0o644); err != nil {
		return "", err
	}
	return bundle.DigestOf(b), release.WriteFile(root, path.Join(dir, bundle.ManifestName), b, 0o644)
}

// fileAsIs is a file of a release as it lies there, nil when it does not.
func (a *App) fileAsIs(dir string, f bundle.File) (*bundle.File, error) {
	file, err := a.Releases.OpenFile(dir, f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if f.Digest, f.Size, err = bundle.ReadDigest(file); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Path, err)
	}
	return &f, nil
}

// Changed are the files and units of an adopted release that are not those of the bundle
// which it was unpacked from, if it was. The error says that rolling back to the release would not
// restore its units.
func (a *App) Changed(ctx context.Context, r installer.Release) (paths []string, err error) {
	m, err := a.manifest(r)
	if err != nil {
		return nil, err
	}
	env, err := loadEnv(m.Device.Tree.EnvFile)
	if err == nil {
		_, err = a.files(m, r, env)
	}
	if err != nil {
		return nil, err
	}
	if b, err := a.Releases.ReadFile(r.Dir, adoptedManifest, bundle.MaxManifestSize); err == nil {
		if built, err := bundle.ParseManifest(b); err == nil {
			for _, u := range m.Device.Tree.Units {
				if strings.HasPrefix(u, adoptedDir+"/") {
					paths = append(paths, bundle.UnitFile(u))
				}
			}
			m = built
		}
	}
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if a.Releases.Check(r.Dir, f.Path, f.Size, f.Digest) != nil {
			paths = append(paths, f.Path)
		}
	}
	return paths, nil
}

// configsName is where an adopted release keeps the configuration files that were
// there with it, and that a later release replaced.
var configsName = path.Join(adoptedDir, "configs.json")

// maxConfigs is more than configuration files have, in bytes, written as JSON.
const maxConfigs = 32 * bundle.MaxConfigFile

// adoptedConfigs are the contents of the configuration files that belong to an
// adopted release, by path.
func (a *App) adoptedConfigs(r installer.Release) (map[string][]byte, error) {
	b, err := a.Releases.ReadFile(r.Dir, configsName, maxConfigs)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string][]byte{}, nil
	}
	if err != nil {
		return nil, err
	}
	configs := map[string][]byte{}
	if err := json.Unmarshal(b, &configs); err != nil {
		return nil, fmt.Errorf("read release %s: %s: %w", r.Version, configsName, err)
	}
	return configs, nil
}

// keepConfigs is told which files are about to be replaced. An adopted release
// says nothing about its configuration, so what is there goes with it, and comes
// back with it. What we wrote ourselves is no part of it.
func (a *App) keepConfigs(from *installer.Release, files []file) error {
	if from == nil || from.Signer != installer.Adopted {
		return nil
	}
	configs, err := a.adoptedConfigs(*from)
	if err != nil {
		return err
	}
	owned, err := a.owned()
	if err != nil {
		return err
	}
	found := false
	for _, f := range files {
		b, err := readFile(f.path)
		if errors.Is(err, fs.ErrNotExist) || f.unit != "" || err == nil && owned[f.path] == bundle.DigestOf(b) {
			continue
		}
		if err != nil {
			return fmt.Errorf("keep configuration of release %s: %w", from.Version, err)
		}
		configs[f.path], found = b, true
	}
	if !found {
		return nil
	}
	b, err := json.Marshal(configs)
	if err != nil {
		return err
	}
	dir := path.Join("releases", from.Dir)
	if err := release.Mkdir(a.Releases.Root(), path.Join(dir, adoptedDir), 0o755); err != nil {
		return err
	}
	return release.WriteFile(a.Releases.Root(), path.Join(dir, configsName), b, 0o600)
}
