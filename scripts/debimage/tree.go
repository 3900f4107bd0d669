package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tree is a file tree in memory, by clean relative path, with /bin, /sbin, /lib and /lib64 below usr.
type tree map[string]entry

type entry struct {
	kind     byte // a tar type flag: directory, regular file or symbolic link
	mode     int64
	uid, gid int
	link     string
	data     []byte
}

func (t tree) dir(name string, mode int64, uid, gid int) {
	t[name] = entry{kind: tar.TypeDir, mode: mode, uid: uid, gid: gid}
}

func (t tree) file(name string, mode int64, data string) {
	t[name] = entry{kind: tar.TypeReg, mode: mode, data: []byte(data)}
}

func (t tree) symlink(name, target string) {
	t[name] = entry{kind: tar.TypeSymlink, mode: 0o777, link: target}
}

// readTree reads the files and links of a package. Directories are left out: layer makes those that it needs.
func readTree(r *tar.Reader) (tree, error) {
	t := tree{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		name := usrMerged(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
		case tar.TypeReg:
			data, err := io.ReadAll(r)
			if err != nil {
				return nil, err
			}
			t[name] = entry{kind: tar.TypeReg, mode: h.Mode & 0o755, data: data}
		case tar.TypeSymlink:
			t.symlink(name, h.Linkname)
		case tar.TypeLink:
			target, ok := t[usrMerged(h.Linkname)]
			if !ok {
				return nil, fmt.Errorf("hard link %s to %s, which is not there", h.Name, h.Linkname)
			}
			t[name] = target // a copy is simpler, and nothing large is linked
		default:
			return nil, fmt.Errorf("%s: unexpected type %q", h.Name, h.Typeflag)
		}
	}
}

func usrMerged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	switch top, _, _ := strings.Cut(name, "/"); top {
	case "bin", "lib", "lib64", "sbin":
		return "usr/" + name
	}
	return name
}

// unpack adds the files of packages whose path matches one of the patterns; every pattern must match something,
// except those for a path that only some platforms have (lib64).
func (t tree) unpack(debs *debs, packages, patterns []string) error {
	used := map[string]bool{}
	for _, name := range packages {
		files, err := debs.unpacked(name)
		if err != nil {
			return err
		}
		for file, e := range files {
			for _, pattern := range patterns {
				if ok, err := path.Match(pattern, file); err != nil {
					return err
				} else if ok {
					t[file], used[pattern] = e, true
				}
			}
		}
	}
	for _, pattern := range patterns {
		if !used[pattern] && !strings.Contains(pattern, "/ld-linux") {
			return fmt.Errorf("no package has %s", pattern)
		}
	}
	return nil
}

// addLibraries adds, from packages, the shared libraries that the programs of t load and that below has not.
func (t tree) addLibraries(debs *debs, packages []string, below tree) error {
	found := map[string]string{} // soname -> path
	files := tree{}
	for _, name := range packages {
		unpacked, err := debs.unpacked(name)
		if err != nil {
			return err
		}
		for file, e := range unpacked {
			if isLibrary(file) {
				found[path.Base(file)], files[file] = file, e
			}
		}
	}
	for queue := slices.Collect(maps.Keys(t)); len(queue) > 0; {
		name := queue[0]
		queue = queue[1:]
		needed, _, err := t[name].imports()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if e := t[name]; e.kind == tar.TypeSymlink && isLibrary(name) {
			needed = append(needed, path.Base(e.link))
		}
		for _, soname := range needed {
			file, ok := found[soname]
			if _, done := t[file]; ok && !done {
				t[file] = files[file]
				queue = append(queue, file)
			}
		}
	}
	return nil
}

// isLibrary tells whether the dynamic linker looks in the directory of name without being told.
func isLibrary(name string) bool {
	ok, _ := path.Match("usr/lib/*-linux-gnu/*.so*", name)
	return ok
}

// imports returns the libraries that an ELF file loads, and its machine; nothing for other files.
func (e entry) imports() ([]string, elf.Machine, error) {
	if !bytes.HasPrefix(e.data, []byte(elf.ELFMAG)) {
		return nil, elf.EM_NONE, nil
	}
	file, err := elf.NewFile(bytes.NewReader(e.data))
	if err != nil {
		return nil, elf.EM_NONE, err
	}
	needed, err := file.ImportedLibraries()
	return needed, file.Machine, err
}

// check makes sure that t on top of below is complete: programs of the right machine, each library that they load
// present, and no symbolic link that leads nowhere.
func (t tree) check(machine elf.Machine, below tree) error {
	all := tree{}
	maps.Copy(all, below)
	maps.Copy(all, t)
	sonames, exists := map[string]bool{}, map[string]bool{}
	for name := range all {
		if isLibrary(name) || strings.Contains(name, "/ld-linux") {
			sonames[path.Base(name)] = true
		}
		for ; name != "."; name = path.Dir(name) {
			exists[name] = true
		}
	}
	for name, e := range t {
		needed, got, err := e.imports()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if got != elf.EM_NONE && got != machine {
			return fmt.Errorf("%s: a program for %v, want %v", name, got, machine)
		}
		for _, soname := range needed {
			if !sonames[soname] {
				return fmt.Errorf("%s loads %s, which no package of the list has: add it in contents.go", name, soname)
			}
		}
		if e.kind == tar.TypeSymlink {
			target := e.link
			if !path.IsAbs(target) {
				target = path.Join("/", path.Dir(name), target)
			}
			if !exists[usrMerged(target)] {
				return fmt.Errorf("symbolic link %s leads to %s, which is not there", name, e.link)
			}
		}
	}
	return nil
}

// layer returns t as a gzip-compressed layer whose bytes depend on nothing but t.
func (t tree) layer() (v1.Layer, error) {
	all := maps.Clone(t)
	for name := range t {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all.dir(dir, 0o755, 0, 0)
			}
		}
	}
	var packed bytes.Buffer
	gz, err := gzip.NewWriterLevel(&packed, gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(gz)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		h := &tar.Header{
			Typeflag: e.kind, Name: name, Linkname: e.link, Size: int64(len(e.data)),
			Mode: e.mode, Uid: e.uid, Gid: e.gid, ModTime: epoch,
		}
		if e.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}
