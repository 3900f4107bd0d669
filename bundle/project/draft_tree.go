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
// directory holds units of systemd, or programs for Linux; the draft is nil when there are
// none.
func NewTreeDraft(dir string) (*Draft, error) {
	units, err := findUnits(dir)
	if err != nil {
		return nil, err
	}
	found, arch, err := findPrograms(dir)
	if err != nil || len(units) == 0 && len(found) == 0 {
		return nil, err
	}
	p := &Project{Dir: dir, File: filepath.Join(dir, DefaultFile), Tree: &Tree{}, App: draftApp(dir, "")}
	d := &drafter{p: p}
	var unread error
	if d.template, unread, err = p.template(); err != nil {
		return nil, err
	}
	d.unread(unread)
	// The program that is called as the app comes first: platforms are those that it has.
	slices.SortStableFunc(found, func(a, b programs) int {
		switch {
		case a.name == p.App && b.name != p.App:
			return -1
		case b.name == p.App && a.name != p.App:
			return 1
		}
		return 0
	})
	draft := &Draft{Files: map[string][]byte{}}
	if len(units) == 0 {
		name := unitDir + "/" + p.App + ".service"
		units = []string{name}
		draft.Files[name] = d.unit(found[0].name)
		d.note("%s is drafted: check its user and its settings", name)
	}
	platforms := []bundle.Platform{"linux/amd64", "linux/arm64"}
	if len(found) > 0 {
		platforms = slices.Clone(found[0].platforms)
		slices.Sort(platforms)
	}
	d.comment("Describes the releases of this app for valise build VERSION. Check every line.")
	d.line("\napp: %s", "name of bundles and of the directory on the device", p.App)
	d.line("platforms: [%s]", "one tree for each", joinPlatforms(platforms))
	if len(arch) > 0 {
		var words []string
		for _, platform := range sortedKeys(arch) {
			words = append(words, platform+": "+quote(arch[platform]))
		}
		d.line("arch: {%s}", "what {{.Arch}} is below", strings.Join(words, ", "))
	}
	d.text.WriteString("tree:\n  files:\n")
	var brought []string // paths in the tree
	for _, program := range found {
		if missing := slices.DeleteFunc(slices.Clone(platforms), func(p bundle.Platform) bool { return slices.Contains(program.platforms, p) }); len(missing) > 0 {
			d.note("tree: %s is left out: it is not built for %s", program.from, joinPlatforms(missing))
			continue
		}
		to := "bin/" + program.name
		if slices.Contains(brought, to) {
			d.note("tree: %s is left out: another program is called %s too", program.from, program.name)
			continue
		}
		brought = append(brought, to)
		d.text.WriteString(fmt.Sprintf("  - {from: %s, to: %s}\n", quote(program.from), to))
	}
	if len(found) == 0 {
		d.line("  - {from: \"dist/{{.OS}}-{{.Arch}}\", to: bin}", "what your build makes for each platform")
		d.note("tree: dist/{{.OS}}-{{.Arch}} is an example: write where your build puts the files of each platform")
	}
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
	required := d.starts(dir, units, brought)
	if len(draft.Files) > 0 {
		required = brought[:1]
	}
	if len(required) > 0 {
		d.line("  required: [%s]", "what the units start", strings.Join(quoteAll(required), ", "))
	}
	d.section("When a release counts as healthy. Without this, its units must run.")
	d.comment("health: {http: \"http://127.0.0.1:8080/health\", version: version}")
	d.treeEnv()
	draft.YAML = []byte(d.text.String())
	if _, err := parse(p.File, draft.YAML); err != nil {
		return nil, fmt.Errorf("write a project for %s: %w", dir, err)
	}
	draft.Notes = d.notes
	return draft, nil
}

// unitDir is where a drafted unit is.
const unitDir = "packaging"

// unit is a service that runs a program of the tree.
func (d *drafter) unit(program string) []byte {
	app := d.p.App
	return fmt.Appendf(nil, `[Unit]
Description=%[1]s
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=/opt/%[1]s/current/bin/%[2]s
EnvironmentFile=-/etc/%[1]s/%[1]s.env
Restart=on-failure
DynamicUser=yes
StateDirectory=%[1]s

[Install]
WantedBy=multi-user.target
`, app, program)
}

// starts returns what units start out of the tree, and notes what they start from
// elsewhere though the tree has it. brought are programs of the tree.
func (d *drafter) starts(dir string, units, brought []string) []string {
	var required []string
	current := "/opt/" + d.p.App + "/current/"
	for _, unit := range units {
		for _, file := range started(filepath.Join(dir, filepath.FromSlash(unit))) {
			rel, ok := strings.CutPrefix(file, current)
			switch {
			case ok && localPath(rel) && !slices.Contains(required, rel):
				required = append(required, rel)
			case ok:
			case slices.Contains(brought, "bin/"+path.Base(file)):
				d.note("%s starts %s; a release is in %s, so write %sbin/%s there", unit, file, strings.TrimSuffix(current, "/"), current, path.Base(file))
			case strings.HasPrefix(file, "/opt/") || strings.HasPrefix(file, "/usr/local/"), path.Base(file) == strings.TrimSuffix(path.Base(unit), path.Ext(unit)):
				d.note("%s starts %s, which is not in the release: put it into the tree and write its path in %s, if it is yours", unit, file, current)
			}
		}
	}
	return required
}

func joinPlatforms(all []bundle.Platform) string {
	var words []string
	for _, p := range all {
		words = append(words, string(p))
	}
	return strings.Join(words, ", ")
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
		d.section("Generated on the device at the first installation.")
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
