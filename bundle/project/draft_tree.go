package project

import (
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
)

// unitDepth is how many directories deep units are looked for.
const unitDepth = 3

// NewTreeDraft writes a project file for an app that has no compose file and whose
// directory holds units of systemd; the draft is nil when there are none.
func NewTreeDraft(dir string) (*Draft, error) {
	units, err := findUnits(dir)
	if err != nil || len(units) == 0 {
		return nil, err
	}
	p := &Project{Dir: dir, File: filepath.Join(dir, DefaultFile), Tree: &Tree{}, App: draftApp(dir, "")}
	d := &drafter{p: p}
	var unread error
	if d.template, unread, err = p.template(); err != nil {
		return nil, err
	}
	d.unread(unread)
	d.comment("What the releases of this app are made of; valise build VERSION reads it. Check every line.")
	d.line("\napp: %s", "name of bundles and of the directory on the device", p.App)
	d.line("platforms: [linux/amd64, linux/arm64]", "one tree for each")
	d.text.WriteString("tree:\n  files:\n")
	d.line("  - {from: \"dist/{{.OS}}-{{.Arch}}\", to: bin}", "what your build makes for each platform")
	var tops []string
	for _, unit := range units {
		if top := path.Dir(unit); top != "." && !slices.ContainsFunc(tops, func(t string) bool { return top == t || strings.HasPrefix(top, t+"/") }) {
			tops = append(tops, top)
			d.text.WriteString(fmt.Sprintf("  - {from: %s, to: %s}\n", quote(top), quote(top)))
		} else if top == "." {
			d.text.WriteString(fmt.Sprintf("  - {from: %s, to: %s}\n", quote(unit), quote(unit)))
		}
	}
	d.line("  units: [%s]", "paths in the tree", strings.Join(quoteAll(units), ", "))
	d.section("When a release counts as running. Without it, its units must run.")
	d.comment("health: {http: \"http://127.0.0.1:8080/health\", version: version}")
	d.treeEnv()
	d.note("tree: dist/{{.OS}}-{{.Arch}} is an example: write where your build puts the files of each platform")
	out := []byte(d.text.String())
	if _, err := parse(p.File, out); err != nil {
		return nil, fmt.Errorf("write a project for %s: %w", dir, err)
	}
	return &Draft{out, d.notes}, nil
}

// treeEnv writes what .env.example says of keys: each that is empty there is decided.
func (d *drafter) treeEnv() {
	var secrets, decisions, guessed []string
	for _, key := range d.template.Keys() {
		hint := d.template.Hint(key)
		switch {
		case !bundle.ValidEnvKey(key):
		case readsLikeSecret(key, hint):
			secrets = append(secrets, fmt.Sprintf("  %s: {%s} # immutable: true when data depends on it\n", key, secretSize(hint)))
		case d.template.Blank(key):
			decisions = append(decisions, decision(key, hint, EnvExample)+"\n")
			guessed = append(guessed, key)
		}
	}
	if secrets != nil {
		d.section("What is generated on the device at the first installation.")
		d.text.WriteString("secrets:\n" + strings.Join(secrets, ""))
	}
	if decisions != nil {
		d.section("Keys that %s leaves empty. Those with a value there are optional.", EnvExample)
		d.text.WriteString("env:\n" + strings.Join(decisions, ""))
		d.note("check env: %s leaves these keys empty, and whether a device needs them is guessed: %s", EnvExample, strings.Join(guessed, ", "))
	}
}

// findUnits are the files below dir that systemd runs, by their paths.
func findUnits(dir string) (units []string, err error) {
	err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if e.IsDir() && rel != "." {
			if strings.HasPrefix(e.Name(), ".") || slices.Contains([]string{"node_modules", "vendor", "testdata", "target"}, e.Name()) || strings.Count(rel, "/") >= unitDepth {
				return fs.SkipDir
			}
		}
		if e.Type().IsRegular() && slices.Contains([]string{".service", ".socket", ".timer"}, path.Ext(rel)) && localPath(rel) {
			units = append(units, rel)
		}
		return nil
	})
	return units, err
}
