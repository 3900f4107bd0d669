package project

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
)

// DefaultEngineDir is Engine.Dir when it is not given.
const DefaultEngineDir = "dist/engine"

// AnyVersion is the version of docker compose in engine: {compose: true}.
const AnyVersion = "true"

// EngineCompose is docker compose in the directory of a platform.
const EngineCompose = "docker-compose"

// Engine is what a release carries for machines without Docker, or without docker
// compose: files in Dir/<os>-<arch>[-<variant>]. All but Dir is for valise engine fetch.
type Engine struct {
	Dir     string            `yaml:"dir"`
	Docker  string            `yaml:"docker"`  // version of Docker's static archive
	Debian  string            `yaml:"debian"`  // or the suite of Debian whose packages it is
	Compose string            `yaml:"compose"` // version of docker compose, or AnyVersion; without docker and debian it is carried alone
	Mirrors EngineMirrors     `yaml:"mirrors"`
	SHA256  map[string]string `yaml:"sha256"` // hex, by path below Dir: these files are carried, and no others
}

// EngineMirrors are where the parts of an engine are downloaded; empty means from those
// who make them.
type EngineMirrors struct {
	Docker   string `yaml:"docker"`   // has ARCH/docker-VERSION.tgz
	Compose  string `yaml:"compose"`  // has vVERSION/docker-compose-linux-ARCH and the same .sha256
	Debian   string `yaml:"debian"`   // has dists/SUITE and dists/SUITE-updates
	Security string `yaml:"security"` // has dists/SUITE-security
	Keyring  string `yaml:"keyring"`  // file of who signs them
}

// UnmarshalYAML reads "engine: DIR" and "engine: {...}".
func (e *Engine) UnmarshalYAML(n *yaml.Node) error {
	type plain Engine
	if n.Kind != yaml.MappingNode {
		return n.Decode(&e.Dir)
	}
	if err := n.Decode((*plain)(e)); err != nil {
		return err
	}
	e.Dir = cmp.Or(e.Dir, DefaultEngineDir)
	return nil
}

// OnlyCompose reports whether docker compose is carried without an engine.
func (e *Engine) OnlyCompose() bool { return e.Compose != "" && e.Docker == "" && e.Debian == "" }

// Patterns of Engine. A version is one of Docker's releases; a digest is hex.
const (
	engineVersionPattern = `^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z0-9.]{1,20})?$`
	suitePattern         = `^[a-z][a-z0-9-]{0,40}$`
	engineFilePattern    = `^[a-z0-9-]{1,60}/[A-Za-z0-9][A-Za-z0-9.+_~-]{0,200}$`
	sha256Pattern        = `^[0-9a-f]{64}$`
	mirrorURLPattern     = `^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$`
)

func (p *Project) checkEngine() error {
	e := p.Engine
	if e == nil {
		return nil
	}
	at := func(keys ...any) []any { return append([]any{"engine"}, keys...) }
	matches := func(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }
	switch {
	case e.Dir == "":
		return p.at(at(), "engine is empty, want a directory, or what valise engine fetch downloads: {docker: VERSION}, {debian: bookworm} or {compose: true}")
	case e.Docker != "" && e.Debian != "":
		return p.at(at("debian"), "want docker, the static archive, or debian, packages")
	case e.Docker != "" && !matches(engineVersionPattern, e.Docker):
		return p.at(at("docker"), "docker is %q, want a version such as 29.1.3", e.Docker)
	case e.Debian != "" && !matches(suitePattern, e.Debian):
		return p.at(at("debian"), "debian is %q, want the name of a release, such as bookworm", e.Debian)
	case e.Compose != "" && e.Compose != AnyVersion && !matches(engineVersionPattern, e.Compose):
		return p.at(at("compose"), "compose is %q, want a version such as 2.40.3, or true", e.Compose)
	}
	for name, mirror := range map[string]string{"docker": e.Mirrors.Docker, "compose": e.Mirrors.Compose, "debian": e.Mirrors.Debian, "security": e.Mirrors.Security} {
		if mirror != "" && !matches(mirrorURLPattern, mirror) {
			return p.at(at("mirrors", name), "mirror %q, want https://HOST/PATH", mirror)
		}
	}
	for _, name := range sortedKeys(e.SHA256) {
		if !matches(engineFilePattern, name) || !matches(sha256Pattern, e.SHA256[name]) {
			return p.at(at("sha256", name), "want PLATFORM/FILE and its SHA-256, as valise engine fetch writes it")
		}
	}
	return nil
}

// Pinned are the files that the engine of a platform has, and their SHA-256, nil where
// nothing says.
func (e *Engine) Pinned(platform bundle.Platform) map[string]string {
	var files map[string]string
	for name, sum := range e.SHA256 {
		if file, ok := strings.CutPrefix(name, platform.Dashed()+"/"); ok {
			if files == nil {
				files = map[string]string{}
			}
			files[file] = sum
		}
	}
	return files
}

// EngineDir is where the files for a platform are.
func (p *Project) EngineDir(platform bundle.Platform) string {
	return filepath.Join(p.Path(p.Engine.Dir), platform.Dashed())
}

// engineFiles adds what a machine of one platform gets its engine from.
func (p *Project) engineFiles(platform bundle.Platform, add func(path, source string, at ...any) error) error {
	dir, pinned := p.EngineDir(platform), p.Engine.Pinned(platform)
	const fetch = "valise engine fetch downloads it"
	names := sortedKeys(pinned)
	if p.Engine.SHA256 != nil && pinned == nil {
		return p.at([]any{"engine", "sha256"}, "nothing is for %s: %s", platform, fetch)
	}
	if pinned == nil {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return p.at([]any{"engine"}, "%v: %s", err, fetch)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	var packages, archives, compose int
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, ".deb"):
			packages++
		case strings.HasPrefix(name, "docker-") && strings.HasSuffix(name, ".tgz"):
			archives++
		case name == EngineCompose:
			compose++
		default:
			return p.at([]any{"engine"}, "%s is neither *.deb, docker-*.tgz nor docker-compose", filepath.Join(dir, name))
		}
		source := filepath.Join(dir, name)
		if want := pinned[name]; want != "" {
			if got, err := digestOf(source); err != nil {
				return p.at([]any{"engine", "sha256"}, "%v: %s", err, fetch)
			} else if got.Hex() != want {
				return p.at([]any{"engine", "sha256"}, "%s has SHA-256 %s, want %s: remove it, and %s", source, got.Hex(), want, fetch)
			}
		}
		if err := add(bundle.EnginePath(platform)+name, source, "engine"); err != nil {
			return err
		}
	}
	switch {
	case p.Engine.OnlyCompose() && (packages+archives > 0 || compose == 0):
		return p.at([]any{"engine"}, "%s has %d *.deb, %d docker-*.tgz and %d docker-compose, want docker-compose alone", dir, packages, archives, compose)
	case !p.Engine.OnlyCompose() && ((packages > 0) == (archives > 0) || archives > 1):
		return p.at([]any{"engine"}, "%s has %d *.deb and %d docker-*.tgz, want packages or one archive", dir, packages, archives)
	}
	return nil
}

func digestOf(path string) (bundle.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	d, _, err := bundle.ReadDigest(f)
	return d, err
}

// WithEngine is the text of valise.yaml with another engine. Every other line stays as
// it is.
func (p *Project) WithEngine(e *Engine) ([]byte, error) {
	var block bytes.Buffer
	fmt.Fprintln(&block, "engine:")
	row := func(indent, key, value string) {
		if value != "" {
			fmt.Fprintf(&block, "%s%s: %s\n", indent, key, value)
		}
	}
	if e.Dir != DefaultEngineDir {
		row("  ", "dir", fmt.Sprintf("%q", e.Dir))
	}
	row("  ", "docker", e.Docker)
	row("  ", "debian", e.Debian)
	row("  ", "compose", e.Compose)
	if e.Mirrors != (EngineMirrors{}) {
		fmt.Fprintln(&block, "  mirrors:")
		for _, m := range [][2]string{{"docker", e.Mirrors.Docker}, {"compose", e.Mirrors.Compose}, {"debian", e.Mirrors.Debian}, {"security", e.Mirrors.Security}, {"keyring", e.Mirrors.Keyring}} {
			if m[1] != "" {
				row("    ", m[0], fmt.Sprintf("%q", m[1]))
			}
		}
	}
	if len(e.SHA256) > 0 {
		fmt.Fprintln(&block, "  sha256: # written by valise engine fetch")
		for _, name := range sortedKeys(e.SHA256) {
			fmt.Fprintf(&block, "    %s: %q\n", name, e.SHA256[name])
		}
	}
	lines := bytes.SplitAfter(p.doc.data, []byte("\n"))
	from, to := len(lines), len(lines)
	if p.doc.root.Style&yaml.FlowStyle != 0 {
		return nil, p.at(nil, "it is one {...}: write engine into it by hand")
	}
	for i := 0; i+1 < len(p.doc.root.Content); i += 2 {
		key := p.doc.root.Content[i]
		if from < len(lines) {
			to = key.Line - 1
			break
		}
		if key.Value == "engine" {
			from = key.Line - 1
		}
	}
	for to > from+1 && (len(bytes.TrimSpace(lines[to-1])) == 0 || lines[to-1][0] == '#') { // those belong to what follows
		to--
	}
	text := bytes.Join(lines[:from], nil)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	text = append(text, block.Bytes()...)
	text = append(text, bytes.Join(lines[to:], nil)...)
	_, err := parse(p.File, text)
	return text, err
}
