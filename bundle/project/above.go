package project

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// aboveDir has, in a bundle, what a release takes from the repository above the
// directory of valise.yaml, by its path from the top of the repository.
const aboveDir = ".repository"

// place is where a project is.
type place struct {
	top   string // without links
	below string // the path of the project's directory from there, "." for the same
	git   bool   // top is that of a repository
}

// top is the directory that nothing of a release lies outside of, without links: the
// top of the repository, or the directory of the project where there is none.
func (p *Project) top() (place, error) {
	if p.where != (place{}) {
		return p.where, nil
	}
	dir, err := filepath.Abs(p.Dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return place{}, err
	}
	p.where = place{dir, ".", false}
	for top := dir; ; top = filepath.Dir(top) {
		if _, err := os.Stat(filepath.Join(top, ".git")); err == nil {
			below, err := filepath.Rel(top, dir)
			p.where = place{top, filepath.ToSlash(below), true}
			return p.where, err
		}
		if filepath.Dir(top) == top {
			return p.where, nil
		}
	}
}

// inBundle is the path in a bundle of a file by its path from the directory of the
// project; ok is false for one outside of the repository.
func (p *Project) inBundle(name string) (at string, ok bool) {
	name = path.Clean(filepath.ToSlash(name))
	first, _, _ := strings.Cut(name, "/")
	if first != ".." && first != aboveDir {
		return name, filepath.IsLocal(name)
	}
	in, err := p.top()
	name = path.Join(in.below, name)
	return path.Join(aboveDir, name), err == nil && first != aboveDir && filepath.IsLocal(name)
}

// Source is the path, from the directory of the project, of a file by its path in a
// bundle, or in aboveDir.
func (p *Project) Source(name string) string {
	rest, above := strings.CutPrefix(name, aboveDir+"/")
	if !above {
		return name
	}
	in, err := p.top()
	if err != nil {
		return name
	}
	rel, err := filepath.Rel(filepath.FromSlash(in.below), filepath.FromSlash(rest))
	if err != nil {
		return name
	}
	return filepath.ToSlash(rel)
}

// outside says of what is not in the repository what to do.
func (p *Project) outside() string {
	if p.within() == repository {
		return "which is above the repository: move it into the repository and name it there"
	}
	return "which is above the directory of " + DefaultFile + ", and there is no git repository: put " + DefaultFile + " into a directory that holds both"
}

const repository = "the repository"

// within says what nothing of a release lies outside of.
func (p *Project) within() string {
	if in, err := p.top(); err == nil && in.git {
		return repository
	}
	return "the directory of " + DefaultFile
}

// onDevice is the path below the app's directory of what a compose file names by a clean
// path: what lies above the compose file is beside it there.
func onDevice(file string) string {
	for strings.HasPrefix(file, "../") {
		file = file[len("../"):]
	}
	return file
}
