package tree

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
)

// ownedName is where the digests of files that we wrote are: another content is
// somebody else's.
const ownedName = ".valise-files.json"

// validateTimeout is what one validator may take.
const validateTimeout = time.Minute

// file is a file of the device that a release decides about.
type file struct {
	path string
	data []byte
	mode fs.FileMode // of a new one
	unit string      // name below the directory of units; empty for any other file
}

// files are the units and configuration files of a release that is on disk.
func (a *App) files(m *bundle.Manifest, r installer.Release, env *environ.File) ([]file, error) {
	var list []file
	more := map[string]string{"VALISE_APP": m.App, "VALISE_VERSION": m.Version, "VALISE_CURRENT": filepath.Join(a.Dir, "current")}
	for _, t := range m.Device.Tree.Templates {
		b, err := a.readTree(m, r, t.From)
		if err != nil {
			return nil, err
		}
		text, err := env.Render(string(b), more)
		if err != nil {
			return nil, fmt.Errorf("render %s of release %s: %w", t.From, r.Version, err)
		}
		to := t.To
		if rel, in := t.InRelease(m.App); in {
			to = filepath.Join(a.releaseDir(r), rel)
		}
		list = append(list, file{path: to, data: []byte(text), mode: fs.FileMode(t.Mode)})
	}
	for _, u := range m.Device.Tree.Units {
		b, err := a.readTree(m, r, u)
		if err != nil {
			return nil, err
		}
		list = append(list, file{path: unitPath(bundle.UnitFile(u)), data: b, mode: 0o644, unit: bundle.UnitFile(u)})
	}
	if r.Signer != installer.Adopted {
		return list, nil
	}
	configs, err := a.adoptedConfigs(r)
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		list = append(list, file{path: name, data: configs[name], mode: 0o644})
	}
	return list, err
}

// validate lets the release's own validators read the configuration files as
// they would be.
func (a *App) validate(ctx context.Context, m *bundle.Manifest, r installer.Release, files []file) error {
	for i, t := range m.Device.Tree.Templates {
		if len(t.Validate) == 0 {
			continue
		}
		if err := a.validateFile(ctx, r, files[i], t.Validate); err != nil {
			return fmt.Errorf("validate %s of release %s: %w", t.To, r.Version, err)
		}
	}
	return nil
}

func (a *App) validateFile(ctx context.Context, r installer.Release, f file, argv []string) error {
	// Beside the file, which may include others by a relative path, and with
	// its extension, by which some programs go.
	candidate := filepath.Join(filepath.Dir(f.path), ".valise-check-"+filepath.Base(f.path))
	if err := writeFile(candidate, f.data, f.mode); err != nil {
		return err
	}
	defer removeFile(candidate)
	args := make([]string, len(argv))
	for i, arg := range argv {
		args[i] = strings.ReplaceAll(arg, "{}", candidate)
	}
	if strings.Contains(args[0], "/") && !filepath.IsAbs(args[0]) {
		args[0] = filepath.Join(a.releaseDir(r), args[0])
	}
	ctx, cancel := context.WithTimeout(ctx, validateTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir = a.releaseDir(r)
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	c.WaitDelay = time.Second
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := trace.Run(ctx, args[0], c)
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", args[0], ctx.Err())
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) { // a child of its may have our pipe
		return fmt.Errorf("%s: %w: %.600s", args[0], err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// put writes what differs and returns which unit files that were. A file that we
// did not write, or that somebody changed since, is kept under another name first.
func (a *App) put(files []file) (units []string, err error) {
	owned, err := a.owned()
	if err != nil {
		return nil, err
	}
	// Those of releases that were pruned are no more.
	maps.DeleteFunc(owned, func(name string, _ bundle.Digest) bool {
		return strings.HasPrefix(name, filepath.Join(a.Dir, "releases")+"/") && !release.Exists(name)
	})
	for _, f := range files {
		have, err := readFile(f.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return units, fmt.Errorf("read %s: %w", f.path, err)
		}
		if err == nil && bytes.Equal(have, f.data) {
			continue
		}
		if digest := bundle.DigestOf(have); err == nil && owned[f.path] != digest {
			old := f.path + ".valise-old-" + digest.Hex()[:8]
			a.note("edited", "%s was changed here; its content is kept in %s", f.path, old)
			if err := writeFile(old, have, 0o600); err != nil {
				return units, err
			}
		}
		owned[f.path] = bundle.DigestOf(f.data)
		if err := a.setOwned(owned); err != nil {
			return units, err
		}
		if err := writeFile(f.path, f.data, f.mode); err != nil {
			return units, err
		}
		if f.unit != "" {
			units = append(units, f.unit)
		}
	}
	return units, nil
}

func (a *App) owned() (map[string]bundle.Digest, error) {
	owned := map[string]bundle.Digest{}
	b, err := os.ReadFile(filepath.Join(a.Dir, ownedName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", ownedName, err)
	}
	if err := json.Unmarshal(b, &owned); err != nil {
		return map[string]bundle.Digest{}, nil // then every file is somebody's, and kept
	}
	return owned, nil
}

func (a *App) setOwned(owned map[string]bundle.Digest) error {
	b, err := json.Marshal(owned)
	if err != nil {
		return err
	}
	return release.WriteFile(a.Releases.Root(), ownedName, b, 0o600)
}

// readFile reads a file of the device. Its directory may be the service's own, which
// may put links and pipes there; that of units is root's alone.
func readFile(name string) ([]byte, error) {
	if strings.HasPrefix(name, systemd.UnitDir+"/") {
		return os.ReadFile(name)
	}
	return foreign.ReadFile(name, maxConfigs)
}

// loadEnv reads an environment file. A missing one is empty.
func loadEnv(name string) (*environ.File, error) {
	data, err := readFile(name)
	return environ.Systemd.Loaded(name, data, err)
}

// writeFile writes a file of the device, durably; an existing one keeps mode and
// owner. Its directory is made when it is missing.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	root, err := foreign.OpenDir(filepath.Dir(name), 0o755)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer root.Close()
	base := filepath.Base(name)
	// "systemctl link", and scripts, make a unit a link into the release.
	if info, err := root.Lstat(base); err == nil && info.Mode().Type() == fs.ModeSymlink && strings.HasPrefix(name, systemd.UnitDir+"/") {
		return release.ReplaceLink(root, base, data, 0o644)
	}
	return release.ReplaceFile(root, base, data, mode)
}

// removeFile removes a file of the device; a missing one is fine.
func removeFile(name string) error {
	root, err := foreign.OpenDir(filepath.Dir(name), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	defer root.Close()
	if err := release.RemoveAll(root, filepath.Base(name)); err != nil {
		return err
	}
	if dir := filepath.Dir(name); filepath.Dir(dir) == systemd.UnitDir && strings.HasSuffix(dir, ".d") {
		_ = os.Remove(dir) // of drop-ins, if it is empty
	}
	return nil
}
