package bundle

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Tree is what a device does with a release that is a file tree.
type Tree struct {
	// Units are paths in the tree of unit files of systemd: units, templates of
	// units, and drop-ins of both. UnitFile is where each belongs.
	Units []string `json:"units"`
	// Instances are names of units that are made from templates in Units.
	Instances []string   `json:"instances,omitempty"`
	EnvFile   string     `json:"env_file"`             // the environment file on the device
	KeepEnv   string     `json:"keep_env,omitempty"`   // key of the environment file that replaces Keep.Releases
	SignerEnv string     `json:"signer_env,omitempty"` // key with the signer's identity that installations older than Valise trust
	Templates []Template `json:"templates,omitempty"`  // configuration files
	Required  []string   `json:"required,omitempty"`   // paths without which a tree is not complete, sorted
}

// Template is a configuration file that is made from a file of the tree and the
// environment file. Mode is 384 (0600), 416 (0640) or 420 (0644).
type Template struct {
	From string `json:"from"` // path in the tree
	To   string `json:"to"`   // path on the device; below /opt/APP/current in the release itself
	Mode uint32 `json:"mode"`
	// Validate is a command that must accept the file before it gets its name;
	// {} stands for the file.
	Validate []string `json:"validate,omitempty"`
}

// InRelease is the path that the file has in the tree of an app, where it is part of
// each release.
func (t Template) InRelease(app string) (string, bool) {
	return strings.CutPrefix(t.To, "/opt/"+app+"/current/")
}

// TemplatesDir is where a release on a device has the files of its tree in whose places
// are templates, as the bundle has them.
const TemplatesDir = ".valise"

// StagedAs is the path that a file of a tree has in a release on a device.
func (m *Manifest) StagedAs(name string) string {
	if m.Device.Tree != nil && slices.ContainsFunc(m.Device.Tree.Templates, func(t Template) bool {
		rel, in := t.InRelease(m.App)
		return in && rel == name
	}) {
		return path.Join(TemplatesDir, name)
	}
	return name
}

// TreeFile is a file with its path in the tree of one platform. Path of File is
// that in the bundle.
type TreeFile struct {
	TreePath string
	File
}

// Names in a bundle of kind tree.
const (
	TreeAll     = "all" // directory of files that all platforms have
	VersionName = "VERSION"
)

// TreeFiles returns the tree of one platform, sorted by path. In a bundle of
// several platforms it lies in TreeAll and in the platform's own directory.
func (m *Manifest) TreeFiles(p Platform) []TreeFile {
	var list []TreeFile
	for _, f := range m.Files {
		if isInstaller(f.Path) {
			continue
		}
		if len(m.Platforms) == 1 {
			list = append(list, TreeFile{f.Path, f})
			continue
		}
		top, rest, _ := strings.Cut(f.Path, "/")
		if rest != "" && (top == TreeAll || top == p.Dashed()) {
			list = append(list, TreeFile{rest, f})
		}
	}
	slices.SortStableFunc(list, func(a, b TreeFile) int { return strings.Compare(a.TreePath, b.TreePath) })
	return list
}

// isInstaller reports whether a file is an installer that the bundle carries: it
// is for the device, not part of the app.
func isInstaller(p string) bool {
	return strings.HasPrefix(p, InstallerDir) && path.Base(p) == InstallerName && strings.Count(p, "/") == 2
}

// UnitFile is where a path of Units belongs, below the directory of units: its last
// part, which is the name of a unit or template; or, of a drop-in, the last two,
// UNIT.d/NAME.conf.
func UnitFile(p string) string {
	if dir := path.Base(path.Dir(p)); strings.HasSuffix(dir, ".d") && strings.HasSuffix(p, ".conf") {
		return path.Join(dir, path.Base(p))
	}
	return path.Base(p)
}

// ValidUnit reports whether a release may have a unit, or a template, of that name.
func ValidUnit(name string) bool { return unitPattern.MatchString(name) }

// TemplateOf is the template that a unit is an instance of, empty when it is none.
func TemplateOf(unit string) string {
	if m := instancePattern.FindStringSubmatch(unit); m != nil {
		return m[1] + m[2]
	}
	return ""
}

// UnitNames are the units of a tree, instances last. Templates are none.
func (t *Tree) UnitNames() (names []string) {
	for _, u := range t.Units {
		if name := UnitFile(u); !strings.Contains(name, "/") && !strings.Contains(name, "@.") {
			names = append(names, name)
		}
	}
	return append(names, t.Instances...)
}

// entryName is the name in the tar of an entry that the format calls name.
func (m *Manifest) entryName(name string) string { return path.Join(m.Prefix, name) }

var (
	unitPattern = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9:_.-]{0,100}@?\.(service|socket|timer|path|mount|automount|swap|target|slice)$`)
	// instancePattern is that of an instance: the name of its template without the
	// type, what it is an instance for, the type.
	instancePattern = lazyregexp.New(`^([A-Za-z0-9][A-Za-z0-9:_.-]{0,100}@)[A-Za-z0-9:_.\\-]{1,100}(\.[a-z]+)$`)
	dropInPattern   = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,100}\.conf$`)
	prefixPattern   = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,99}$`)
)

func (m *Manifest) checkTree() error {
	if m.Images != nil || m.ImagesSHA256 != "" || m.Archive != nil || m.Components != nil || m.Device.Compose != "" || m.Device.Project != "" || m.Device.Tree == nil {
		return formatErr("kind", ManifestName, "a release of kind %q has device.tree and nothing of images and compose", m.Kind)
	}
	if !prefixPattern.MatchString(m.Prefix) {
		return formatErr("prefix", ManifestName, "prefix is %.120q, want %s", m.Prefix, prefixPattern)
	}
	for _, f := range m.Files {
		if _, err := tarHeader(m.entryName(f.Path), 0, 0, 0); err != nil {
			return formatErr("path", f.Path, "%v", err)
		}
	}
	for _, p := range m.Platforms {
		if err := m.checkTreeOf(p); err != nil {
			return err
		}
	}
	return nil
}

// checkTreeOf checks the tree of one platform as it will lie on a device.
func (m *Manifest) checkTreeOf(p Platform) error {
	tree := m.TreeFiles(p)
	list := make([]File, len(tree))
	for i, f := range tree {
		list[i] = f.File
		list[i].Path = f.TreePath
		if f.TreePath == VersionName && !isVersionFile(f.Digest, m.Version) {
			return formatErr("tree-version", f.Path, "does not hold the version %s", m.Version)
		}
	}
	if err := checkFileList(list, ManifestName, SignatureName, ImagesName, TOCName); err != nil {
		return err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(list, func(f File) bool { return f.Path == name || strings.HasPrefix(f.Path, name+"/") })
	}
	for i, name := range m.Device.Tree.Required {
		if checkPath(name) != nil || i > 0 && m.Device.Tree.Required[i-1] >= name || len(m.Device.Tree.Required) > MaxRequired {
			return formatErr("tree-required", ManifestName, "required path %.80q is malformed, repeated or out of order, or there are more than %d", name, MaxRequired)
		}
		if !has(name) {
			return formatErr("tree-required", fmt.Sprintf("%.80q", name), "required, but not in the tree of %s", p)
		}
	}
	return nil
}

// isVersionFile reports whether d is the digest of a VERSION file of a version:
// with or without v, with or without a line feed.
func isVersionFile(d Digest, version string) bool {
	for _, text := range []string{version, "v" + version, version + "\n", "v" + version + "\n"} {
		if DigestOf([]byte(text)) == d {
			return true
		}
	}
	return false
}

// checkTreeDevice checks what a device does with a tree.
func (m *Manifest) checkTreeDevice() error {
	bad := func(field, format string, args ...any) error {
		return formatErr("device", ManifestName, "device.%s: %s", field, fmt.Sprintf(format, args...))
	}
	d, t := &m.Device, m.Device.Tree
	if len(d.Health.Compose) > 0 || d.Health.Command != nil {
		return bad("health", "compose services in a release of kind %q", m.Kind)
	}
	if len(d.Mounts)+len(d.Local)+len(d.Volumes) > 0 || d.Create != nil {
		return bad("mounts", "mounts, local or create, of a compose file, in a release of kind %q", m.Kind)
	}
	for key, s := range d.Secrets {
		if s.File != "" {
			return bad("secrets", "%s: a file of compose services, in a release of kind %q", key, m.Kind)
		}
	}
	if len(d.Hooks) > 0 || d.Migration != "" || d.Rollback != nil {
		return bad("hooks", "hooks, migration or rollback in a release of kind %q", m.Kind)
	}
	if d.VersionEnv != "" && !ValidEnvKey(d.VersionEnv) {
		return bad("version_env", "%.80q is not an environment key", d.VersionEnv)
	}
	if len(d.Backup) > 0 {
		return bad("backup", "a database in a compose service, in a release of kind %q", m.Kind)
	}
	inTree := func(name string) bool {
		return !slices.ContainsFunc(m.Platforms, func(p Platform) bool {
			return !slices.ContainsFunc(m.TreeFiles(p), func(f TreeFile) bool { return f.TreePath == name && f.Size <= MaxConfigFile })
		})
	}
	if len(t.Units) < 1 || len(t.Units) > MaxUnits || len(t.Instances) > MaxUnits {
		return bad("tree", "%d units and %d instances, want 1 to %d and at most %d", len(t.Units), len(t.Instances), MaxUnits, MaxUnits)
	}
	units := map[string]bool{}
	for _, u := range t.Units {
		name := UnitFile(u)
		if units[name] || !inTree(u) || !unitPattern.MatchString(name) && !strings.Contains(name, "/") {
			return bad("tree", "unit %.120q is repeated, has no name of a unit, is not in the tree of every platform or has more than %d bytes", u, MaxConfigFile)
		}
		units[name] = true
	}
	for _, name := range t.Instances {
		if !units[TemplateOf(name)] || units[name] {
			return bad("tree", "instance %.120q is repeated or is not an instance of a template in units, such as worker@1.service of worker@.service", name)
		}
		units[name] = true
	}
	for _, u := range t.Units {
		if of, name, dropIn := strings.Cut(UnitFile(u), ".d/"); dropIn && (!units[of] || !dropInPattern.MatchString(name)) {
			return bad("tree", "unit %.120q is a drop-in of %.120q, which is not a unit of this release, or has no name of one", u, of)
		}
	}
	if len(t.UnitNames()) == 0 {
		return bad("tree", "units has templates only, and instances names no instance of one")
	}
	if !m.devicePath(t.EnvFile) {
		return bad("tree", "env_file is %.120q, want a file below /etc/DIRECTORY or /opt/%s", t.EnvFile, m.App)
	}
	for _, key := range []string{t.KeepEnv, t.SignerEnv} {
		if key != "" && !ValidEnvKey(key) {
			return bad("tree", "%.80q is not an environment key", key)
		}
	}
	if len(t.Templates) > MaxUnits {
		return bad("tree", "%d templates, limit %d", len(t.Templates), MaxUnits)
	}
	written := map[string]bool{fold(t.EnvFile): true}
	for _, f := range t.Templates {
		if !inTree(f.From) {
			return bad("tree", "template %.120q is not in the tree of every platform or has more than %d bytes", f.From, MaxConfigFile)
		}
		rel, in := f.InRelease(m.App)
		if in && !m.mayTemplate(rel) {
			return bad("tree", "template to %.120q: want a file that is neither a directory, a program, a unit nor one of %s, %s and %s, and no %s/ in the tree", f.To, ManifestName, VersionName, envExampleName, TemplatesDir)
		}
		if !in && !m.devicePath(f.To) || written[fold(f.To)] {
			return bad("tree", "template to %.120q: want a file of its own below /etc/DIRECTORY, /opt/%s or /opt/%s/current", f.To, m.App, m.App)
		}
		written[fold(f.To)] = true
		if f.Mode != 0o600 && f.Mode != 0o640 && f.Mode != 0o644 {
			return bad("tree", "mode of %s is %o, want 600, 640 or 644", f.To, f.Mode)
		}
		if f.Validate != nil && (len(f.Validate) == 0 || f.Validate[0] == "" || len(f.Validate) > 64) {
			return bad("tree", "validate of %s is not a command", f.To)
		}
		for _, arg := range f.Validate {
			if len(arg) > MaxStringLength || !plainText(arg) {
				return bad("tree", "validate of %s has an argument with control characters or more than %d bytes", f.To, MaxStringLength)
			}
		}
	}
	return nil
}

// envExampleName is the file that the environment file of a new device begins as.
const envExampleName = ".env.example"

// mayTemplate reports whether a file that is made on the device may have a place in the
// tree of every platform.
func (m *Manifest) mayTemplate(rel string) bool {
	first, _, _ := strings.Cut(rel, "/")
	if checkPath(rel) != nil || slices.Contains([]string{ManifestName, SignatureName, ImagesName, TOCName, VersionName, envExampleName}, rel) || slices.Contains(m.Device.Tree.Units, rel) ||
		slices.Contains([]string{TemplatesDir, strings.TrimSuffix(InstallerDir, "/")}, first) {
		return false
	}
	others := slices.Clone(m.Device.Tree.Templates)
	for _, p := range m.Platforms {
		for _, f := range m.TreeFiles(p) {
			if f.TreePath == rel && f.Mode != 0o644 || strings.HasPrefix(f.TreePath, TemplatesDir+"/") {
				return false
			}
			others = append(others, Template{To: "/opt/" + m.App + "/current/" + f.TreePath})
		}
	}
	return !slices.ContainsFunc(others, func(t Template) bool {
		other, in := t.InRelease(m.App)
		return in && (other != rel && fold(other) == fold(rel) || strings.HasPrefix(fold(other), fold(rel)+"/") || strings.HasPrefix(fold(rel), fold(other)+"/"))
	})
}

// devicePath reports whether a release may write the file p on a device: below a
// directory of /etc or the app's own. Trust and units are not a release's to
// write, and what lies beside releases is the installer's.
func (m *Manifest) devicePath(p string) bool {
	if !strings.HasPrefix(p, "/") || checkPath(p[1:]) != nil {
		return false
	}
	parts := strings.Split(p[1:], "/")
	switch parts[0] {
	case "etc":
		return len(parts) >= 3 && !slices.Contains([]string{"valise", "systemd"}, parts[1])
	case "opt":
		return len(parts) >= 3 && parts[1] == m.App && !slices.Contains([]string{"releases", "current", "failed"}, parts[2])
	}
	return false
}
