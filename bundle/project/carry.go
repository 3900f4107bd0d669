package project

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
)

// FileItem is a line under files: a file, a directory or a pattern, or with a
// leading ! what is left out.
type FileItem struct {
	Path string `yaml:"path"`
	// Public says that everyone who gets a bundle may read it, although git
	// ignores it or it looks like a secret.
	Public bool `yaml:"public"`
}

// UnmarshalYAML reads "- PATH" and "- {path: PATH, public: true}".
func (f *FileItem) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode {
		type plain FileItem
		return n.Decode((*plain)(f))
	}
	return n.Decode(&f.Path)
}

func (f FileItem) excludes() bool { return strings.HasPrefix(f.Path, "!") }
func (f FileItem) pattern() bool  { return strings.ContainsAny(f.Path, `*?[`) }

// lists reports whether an item may give the file name; what there is is not
// looked at.
func (p *Project) lists(name string) bool {
	return slices.ContainsFunc(p.Files, func(f FileItem) bool {
		return f.Path == name || !f.excludes() && (f.pattern() || strings.HasPrefix(name, f.Path+"/"))
	})
}

// Public reports whether a line under files allows everybody to read a file, as
// far as its name tells.
func (p *Project) Public(name string) bool {
	return slices.ContainsFunc(p.Files, func(f FileItem) bool {
		if !f.Public || f.excludes() {
			return false
		}
		m, err := patternmatcher.New([]string{f.Path})
		if err != nil {
			return false
		}
		matched, err := m.MatchesOrParentMatches(filepath.FromSlash(name))
		return err == nil && matched
	})
}

// carrier collects the files of a repository that travel with a release.
type carrier struct {
	p   *Project
	ctx context.Context
	place
	leave *patternmatcher.PatternMatcher
	files map[string]ReleaseFile // by path in the bundle, as everywhere here
	// public are the files that a line allows to be read by anybody.
	public map[string]bool
	// local are files that do not travel and that the device must have, by their path
	// there.
	local map[string]reference
	notes []string
}

func (p *Project) carrier(ctx context.Context) (*carrier, error) {
	c := &carrier{p: p, ctx: ctx, files: map[string]ReleaseFile{}, public: map[string]bool{}, local: map[string]reference{}}
	var leave []string
	for _, item := range p.Files {
		if item.excludes() {
			leave = append(leave, item.Path[1:])
		}
	}
	var err error
	if c.leave, err = patternmatcher.New(leave); err != nil {
		return nil, p.at([]any{"files"}, "%v", err)
	}
	c.place, err = p.top()
	return c, err
}

func (c *carrier) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// left reports whether a line under files leaves name out.
func (c *carrier) left(name string) bool {
	matched, err := c.leave.MatchesOrParentMatches(filepath.FromSlash(name))
	return err == nil && matched
}

// source is where a file of the bundle is on this machine.
func (c *carrier) source(name string) string {
	return c.p.Path(filepath.FromSlash(c.p.Source(name)))
}

// ignored returns those of names that git ignores.
func (c *carrier) ignored(names ...string) (skip map[string]bool, err error) {
	if c.p.Ignored == nil || len(names) == 0 {
		return nil, nil
	}
	skip = map[string]bool{}
	sources := map[string]string{}
	var list []string
	for _, name := range names {
		source := c.p.Source(name)
		sources[source] = name
		list = append(list, source)
	}
	found, err := c.p.Ignored(c.ctx, list)
	for _, source := range found {
		skip[sources[source]] = true
	}
	return skip, err
}

// add puts a file into the release.
func (c *carrier) add(name string, at ...any) error {
	source := c.source(name)
	info, err := os.Stat(source)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.p.at(at, "file %s does not exist", source)
	case err != nil:
		return c.p.at(at, "%v", err)
	case !info.Mode().IsRegular():
		return c.p.at(at, "%s is %s, not a file: leave it out with files: [\"!%s\"]", source, kindOf(info.Mode()), name)
	}
	real, err := filepath.EvalSymlinks(source)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return c.p.at(at, "%v", err)
	}
	rel, err := filepath.Rel(c.top, real)
	if err != nil || !filepath.IsLocal(rel) {
		return c.p.at(at, "%s is a link to %s, which is outside %s", source, real, c.p.within())
	}
	rel = filepath.ToSlash(rel)
	if slices.Contains(strings.Split(rel, "/"), ".git") && !c.public[name] {
		return c.p.at(at, "%s belongs to git, which may keep a token there, as actions/checkout has it do: write {path: %s, public: true} when everybody may read it, or \"!%s\"", name, name, name)
	}
	if rel != path.Join(c.place.below, c.p.Source(name)) && !c.public[name] {
		// What a link leads to has the rules of a file that is named.
		target := path.Join(aboveDir, rel)
		skip, err := c.ignored(target)
		if err != nil {
			return c.p.at(at, "%v", err)
		}
		if skip[target] || holdsValues(target) {
			return c.p.at(at, "%s is a link to %s, which git ignores or which holds values: write {path: %s, public: true} when everybody may read it, or \"!%s\"", source, rel, name, name)
		}
	}
	if _, again := c.files[name]; !again && windowsScript(source) {
		c.note("%s is a script with Windows line endings: Linux looks for an interpreter whose name ends in a carriage return, and does not start it. Write \"%s text eol=lf\" into .gitattributes and check it out again", name, path.Base(name))
	}
	c.files[name] = ReleaseFile{Path: name, Source: source, Executable: info.Mode()&0o100 != 0}
	return nil
}

// windowsScript reports whether the first line of a file names an interpreter, and ends
// as lines do on Windows.
func windowsScript(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false // who packs it says so
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := io.ReadFull(f, head)
	line, _, whole := bytes.Cut(head[:n], []byte("\n"))
	return whole && bytes.HasPrefix(line, []byte("#!")) && bytes.HasSuffix(line, []byte("\r"))
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	}
	return "something else"
}

// below lists the files at a path or below it that travel, and how many git
// ignores. public takes those too.
func (c *carrier) below(name string, public bool) (files []string, ignored int, err error) {
	from := c.source(name)
	err = filepath.WalkDir(from, func(at string, d fs.DirEntry, err error) error {
		if err == nil {
			err = c.ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, at)
		if err != nil {
			return err
		}
		rel = path.Join(name, filepath.ToSlash(rel))
		switch {
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case d.IsDir() || rel != "." && c.left(rel):
			return nil
		}
		if files = append(files, rel); len(files) > bundle.MaxFiles {
			return fmt.Errorf("%s holds more than %d files: leave out what is not part of a release with files: [\"!PATTERN\"]", name, bundle.MaxFiles)
		}
		return nil
	})
	if err != nil || public {
		return files, 0, err
	}
	skip, err := c.ignored(files...)
	return slices.DeleteFunc(files, func(f string) bool { return skip[f] }), len(skip), err
}

// item adds what a line under files names.
func (c *carrier) item(item FileItem, at ...any) error {
	p := c.p
	if item.excludes() {
		return nil
	}
	name := item.Path
	var files []string
	var ignored int
	var err error
	switch info, serr := os.Stat(c.source(name)); {
	case serr != nil && item.pattern():
		files, ignored, err = c.matching(item)
	case serr == nil && info.IsDir():
		files, ignored, err = c.below(name, item.Public)
	default:
		files = []string{name}
		if serr == nil && !item.Public {
			if skip, err := c.ignored(files...); err != nil {
				return p.at(at, "%v", err)
			} else if len(skip) > 0 {
				return p.at(at, "git ignores %s: everyone who has a bundle can read it; write {path: %s, public: true} when they may read this", name, name)
			}
		}
	}
	switch {
	case err != nil:
		return p.at(at, "%v", err)
	case len(files) == 0:
		return p.at(at, "%s names no file that travels (%d are ignored by git)", name, ignored)
	case ignored > 0:
		c.note("%s: %d files that git ignores are left out", name, ignored)
	}
	for _, f := range files {
		if !item.Public && holdsValues(f) {
			return p.at(at, "%s is an environment file: everyone who has a bundle can read it; write {path: %s, public: true} when they may read this", f, f)
		}
		c.public[f] = c.public[f] || item.Public
		if err := c.add(f, at...); err != nil {
			return err
		}
	}
	return nil
}

// matching lists the files that a pattern gives.
func (c *carrier) matching(item FileItem) ([]string, int, error) {
	m, err := patternmatcher.New([]string{item.Path})
	if err != nil {
		return nil, 0, err
	}
	base := "."
	if i := strings.LastIndexByte(item.Path[:strings.IndexAny(item.Path, `*?[`)], '/'); i > 0 {
		base = item.Path[:i]
	}
	files, ignored, err := c.below(base, item.Public)
	return slices.DeleteFunc(files, func(f string) bool {
		matched, err := m.MatchesOrParentMatches(filepath.FromSlash(f))
		return err != nil || !matched
	}), ignored, err
}

// holdsValues reports whether a file is called as those are that hold the values
// of one installation: .env, .env.production, not .env.example.
func holdsValues(name string) bool {
	base := path.Base(name)
	if base == envName {
		return true
	}
	rest, ok := strings.CutPrefix(base, envName+".")
	return ok && !slices.Contains([]string{"example", "sample", "template", "dist", "tmpl", "defaults"}, rest)
}
