package project

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/bundle/unpack"
)

// Tree is an app that is a file tree run by systemd units.
type Tree struct {
	Files     []Part     `yaml:"files"`
	Units     []string   `yaml:"units"`
	Instances []string   `yaml:"instances"`
	EnvFile   string     `yaml:"env_file"`
	KeepEnv   string     `yaml:"keep_env"`
	SignerEnv string     `yaml:"signer_env"`
	Templates []Template `yaml:"templates"`
	Required  []string   `yaml:"required"`
}

// Part is a part of the tree: a file, a directory with all it holds, or what is
// in an archive. From and Unpack are templates over Vars; one of them is set.
type Part struct {
	From   string `yaml:"from"`
	Unpack string `yaml:"unpack"`
	To     string `yaml:"to"` // path in the tree; "." is the top
}

// Template is a configuration file of the device.
type Template struct {
	From     string   `yaml:"from"` // path in the tree
	To       string   `yaml:"to"`   // path on the device
	Mode     string   `yaml:"mode"` // octal; empty means 0644
	Validate []string `yaml:"validate"`
}

// EnvKey is what a project says of a key of the environment file.
type EnvKey struct {
	Required *bool  `yaml:"required"` // empty: what the compose file demands
	Default  string `yaml:"default"`
	Initial  string `yaml:"initial"`
	Help     string `yaml:"help"` // empty: the comment in .env.example
}

// Bundle is the tree as the manifest has it.
func (t *Tree) Bundle() *bundle.Tree {
	out := &bundle.Tree{Units: t.Units, Instances: t.Instances, EnvFile: t.EnvFile, KeepEnv: t.KeepEnv, SignerEnv: t.SignerEnv, Required: slices.Sorted(slices.Values(t.Required))}
	for _, f := range t.Templates {
		mode, _ := strconv.ParseUint(cmp.Or(f.Mode, "0644"), 8, 32) // was checked
		out.Templates = append(out.Templates, bundle.Template{From: f.From, To: f.To, Mode: uint32(mode), Validate: f.Validate})
	}
	return out
}

func (p *Project) checkTree() error {
	t := p.Tree
	if t == nil {
		return nil
	}
	for _, key := range []string{"backup", "hooks", "migration", "rollback"} {
		if _, value := child(p.doc.root, key); value != nil {
			return p.at([]any{key}, "%s is about data in containers, and this app is a tree: an update and a rollback leave alone what its units write; let ExecStartPre= of the unit save or migrate it, so that the release before can still run", key)
		}
	}
	for _, key := range []string{"compose", "profiles", "images", "registries", "networks", "volumes", "project", "engine", "legacy"} {
		if _, value := child(p.doc.root, key); value != nil {
			return p.at([]any{key}, "%s belongs to a compose app, and this one is a tree", key)
		}
	}
	if len(p.Health.Compose) > 0 || p.Health.Command != nil {
		return p.at([]any{"health", "compose"}, "compose belongs to a compose app, and this one is a tree: its units must run in any case")
	}
	if len(t.Files) == 0 {
		return p.at([]any{"tree"}, "files is missing, want for example [{from: \"dist/{{.OS}}-{{.Arch}}\", to: .}]")
	}
	for i, f := range t.Files {
		at := []any{"tree", "files", i}
		if (f.From == "") == (f.Unpack == "") || f.To == "" {
			return p.at(at, "want from or unpack, and to")
		}
		if _, err := render("from", cmp.Or(f.From, f.Unpack), p.Vars("linux/amd64", "0.0.0")); err != nil {
			return p.at(at, "%v", err)
		}
		if f.To != "." && !localPath(f.To) {
			return p.at(append(at, "to"), "to is %q, want a clean path below the top of the tree, or .", f.To)
		}
	}
	if len(t.Units) == 0 {
		return p.at([]any{"tree"}, "units is missing, want for example [packaging/%s.service]", p.App)
	}
	for key, list := range map[string][]string{"units": t.Units, "required": t.Required} {
		for i, name := range list {
			if !localPath(name) || slices.Contains(list[:i], name) {
				return p.at([]any{"tree", key, i}, "%q is listed twice or is not a clean path in the tree", name)
			}
		}
	}
	for i, f := range t.Templates {
		at := []any{"tree", "templates", i}
		if !localPath(f.From) || f.To == "" {
			return p.at(at, "want from, a clean path in the tree, and to, a path on the device")
		}
		if !slices.Contains([]string{"", "0600", "0640", "0644"}, f.Mode) {
			return p.at(append(at, "mode"), "mode is %q, want \"0600\", \"0640\" or \"0644\" in quotes", f.Mode)
		}
	}
	return nil
}

func localPath(s string) bool {
	return filepath.IsLocal(s) && path.Clean(s) == s && s != "." && !strings.Contains(s, `\`)
}

func (p *Project) checkEnv() error {
	for _, key := range sortedKeys(p.Env) {
		e := p.Env[key]
		if !bundle.ValidEnvKey(key) {
			return p.at([]any{"env", key}, "%q is not the name of a variable", key)
		}
		if e.Default != "" && e.Initial != "" {
			return p.at([]any{"env", key}, "want default, for every update, or initial, for the first installation")
		}
		if _, ok := p.Secrets[key]; ok && (e.Default != "" || e.Initial != "") {
			return p.at([]any{"env", key}, "%s is generated by secrets, and so cannot have a default", key)
		}
	}
	return nil
}

// trees lists the files of the tree of every platform, sorted by path.
func (p *Project) trees(ctx context.Context, r *Release, platforms []bundle.Platform) error {
	r.Trees = map[bundle.Platform][]ReleaseFile{}
	for _, platform := range platforms {
		t := treeFiles{p: p, files: map[string]ReleaseFile{}}
		for i, part := range p.Tree.Files {
			if err := t.part(ctx, r, platform, part, []any{"tree", "files", i}); err != nil {
				return err
			}
		}
		if err := p.carryTree(ctx, r, &t); err != nil {
			return err
		}
		if _, err := os.Stat(p.Path(EnvExample)); err == nil && t.files[EnvExample].Source == "" {
			if err := t.add(EnvExample, p.Path(EnvExample), nil); err != nil {
				return err
			}
		}
		for _, name := range sortedKeys(t.files) {
			r.Trees[platform] = append(r.Trees[platform], t.files[name])
		}
	}
	return nil
}

// carryTree adds what files names to a tree.
func (p *Project) carryTree(ctx context.Context, r *Release, t *treeFiles) error {
	c, err := p.carrier(ctx)
	if err != nil {
		return err
	}
	for i, item := range p.Files {
		if err := c.item(item, "files", i); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(c.files) {
		if err := t.add(name, c.files[name].Source, []any{"files"}); err != nil {
			return err
		}
	}
	if r.Notes == nil { // they are the same for every platform
		r.Notes = c.notes
	}
	return nil
}

type treeFiles struct {
	p     *Project
	files map[string]ReleaseFile
}

func (t *treeFiles) part(ctx context.Context, r *Release, platform bundle.Platform, part Part, at []any) error {
	source, err := render("from", cmp.Or(part.From, part.Unpack), t.p.Vars(platform, r.Version))
	if err != nil {
		return t.p.at(at, "%v", err)
	}
	source = t.p.Path(source)
	if part.Unpack != "" {
		if source, err = r.unpack(ctx, source); err != nil {
			return t.p.at(at, "%v", err)
		}
	}
	info, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return t.p.at(at, "there is nothing at %s: build the app before, or write where its build puts it", source)
	}
	if err != nil {
		return t.p.at(at, "%v", err)
	}
	if !info.IsDir() {
		return t.add(part.To, source, at)
	}
	return filepath.WalkDir(source, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return t.p.at(at, "%v", err)
		}
		if d.IsDir() {
			return ctx.Err()
		}
		rel, err := filepath.Rel(source, name)
		if err != nil {
			return err
		}
		return t.add(path.Join(part.To, filepath.ToSlash(rel)), name, at)
	})
}

func (t *treeFiles) add(name, source string, at []any) error {
	info, err := os.Lstat(source)
	if err != nil {
		return t.p.at(at, "%v", err)
	}
	if !info.Mode().IsRegular() {
		return t.p.at(at, "%s is a symbolic link or a special file: a tree holds files only", source)
	}
	if other, ok := t.files[name]; ok && other.Source != source {
		return t.p.at(at, "%s and %s would both be %s in the tree", other.Source, source, name)
	}
	t.files[name] = ReleaseFile{Path: name, Source: source, Executable: info.Mode()&0o100 != 0}
	return nil
}

// addEnv says which keys a device must have and what else is known of keys. A key that
// the example gives a value is none of them, unless valise.yaml says so; one that is
// empty there must be decided.
func (p *Project) addEnv(r *Release, files []ReleaseFile) error {
	var example []byte
	name := EnvExample
	if i := slices.IndexFunc(files, func(f ReleaseFile) bool { return f.Path == EnvExample }); i >= 0 {
		var err error
		if example, err = readLimited(files[i].Source, MaxProjectSize); err != nil {
			return err
		}
		name = filepath.Base(files[i].Source)
	}
	f, err := p.grammar().Parse(example)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, remark := range f.Remarks() {
		r.Notes = append(r.Notes, name+": "+remark)
	}
	need := map[string]bool{}
	for _, key := range r.RequiredEnv {
		need[key] = true
	}
	known, comments := map[string]bundle.EnvKey{}, f.Comments()
	for key, e := range p.Env {
		if e.Required != nil {
			need[key] = need[key] && p.Tree == nil || *e.Required
		}
		known[key] = bundle.EnvKey{Help: cmp.Or(e.Help, comments[key]), Default: e.Default, Initial: e.Initial}
	}
	if err := p.decided(r, f, name, need); err != nil {
		return err
	}
	r.RequiredEnv = nil
	for _, key := range sortedKeys(need) {
		if !need[key] {
			continue
		}
		r.RequiredEnv = append(r.RequiredEnv, key)
		if _, ok := known[key]; !ok && comments[key] != "" {
			known[key] = bundle.EnvKey{Help: comments[key]}
		}
	}
	if len(known) > 0 {
		r.Env = known
	}
	return nil
}

// decided refuses keys that are empty in the example f as long as nothing says whether
// a device needs them, and notes secrets that every device would share.
func (p *Project) decided(r *Release, f *environ.File, name string, need map[string]bool) error {
	var undecided, secrets, public []string
	open := r.compose.open()
	for _, key := range f.Keys() {
		_, decided := need[key]
		_, secret := p.Secrets[key]
		e := p.Env[key]
		if decided || secret || e.Default != "" || e.Initial != "" || e.Required != nil || p.ownKey(key) || !bundle.ValidEnvKey(key) || !open(key) {
			continue
		}
		hint := f.Hint(key)
		switch likeSecret := readsLikeSecret(key, hint); {
		case !f.Blank(key) && likeSecret:
			public = append(public, key)
		case !f.Blank(key):
		case likeSecret:
			secrets = append(secrets, fmt.Sprintf("%s: {%s}", key, secretSize(hint)))
			fallthrough
		default:
			undecided = append(undecided, key+": {required: false}")
		}
	}
	if len(public) > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%s: new devices begin with the value that everybody can read there of %s: secrets: {%s: {hex: 32}} in %s makes one for each", name, strings.Join(public, ", "), public[0], DefaultFile))
	}
	if undecided == nil {
		return nil
	}
	lines := fmt.Sprintf("env: {%s}, with true where a device cannot do without", strings.Join(undecided, ", "))
	if secrets != nil {
		lines += fmt.Sprintf("; or, where the device is to generate it, secrets: {%s}", strings.Join(secrets, ", "))
	}
	return p.at([]any{"env"}, "%s leaves %d keys empty, and nothing says whether a device needs them: write %s", name, len(undecided), lines)
}

// ownKey reports whether a key is for Valise or docker compose, not for the app.
func (p *Project) ownKey(key string) bool {
	return key == p.VersionEnv || strings.HasPrefix(key, "COMPOSE_") || p.Tree != nil && (key == p.Tree.KeepEnv || key == p.Tree.SignerEnv)
}

func (p *Project) grammar() *environ.Grammar {
	if p.Tree != nil {
		return environ.Systemd
	}
	return environ.Compose
}

// unpack puts the content of an archive into a directory that Close removes.
func (r *Release) unpack(ctx context.Context, file string) (string, error) {
	dir, err := os.MkdirTemp("", "valise-unpack-")
	if err != nil {
		return "", err
	}
	r.temp = append(r.temp, dir)
	return dir, unpack.Archive(ctx, file, dir)
}

// Close removes what was unpacked.
func (r *Release) Close() error {
	var errs []error
	for _, dir := range r.temp {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
