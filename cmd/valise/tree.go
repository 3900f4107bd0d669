package main

import (
	"cmp"
	"context"
	"path"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/project"
)

// addTree puts the trees of a release into its manifest. In a bundle of several
// platforms, a file that is the same for all is there once. A tree without
// VERSION gets one.
func (c *content) addTree(ctx context.Context, m *bundle.Manifest, r *project.Release) error {
	version := []byte("v" + m.Version + "\n")
	hashed := map[project.ReleaseFile]bundle.File{}
	trees := map[string]map[bundle.Platform]bundle.File{} // by path in the tree
	for _, p := range m.Platforms {
		files := r.Trees[p]
		if !slices.ContainsFunc(files, func(f project.ReleaseFile) bool { return f.Path == bundle.VersionName }) {
			files = append(slices.Clip(files), project.ReleaseFile{Path: bundle.VersionName})
		}
		for _, f := range files {
			file, ok := hashed[f]
			if !ok {
				var err error
				if file, err = c.hashTreeFile(ctx, f, version); err != nil {
					return err
				}
				hashed[f] = file
			}
			dir := ""
			if len(m.Platforms) > 1 {
				dir = p.Dashed()
			}
			file.Path = path.Join(dir, f.Path)
			c.files[file.Path] = f.Source
			if trees[f.Path] == nil {
				trees[f.Path] = map[bundle.Platform]bundle.File{}
			}
			trees[f.Path][p] = file
		}
	}
	for name, each := range trees {
		files := treeFiles(m.Platforms, name, each)
		m.Files = append(m.Files, files...)
		if all := files[0].Path; c.files[all] == "" {
			c.files[all] = c.files[each[m.Platforms[0]].Path]
		}
	}
	for i, f := range m.Files {
		if c.files[f.Path] == "" {
			c.made[m.Files[i].Path] = version
		}
	}
	slices.SortFunc(m.Files, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	return nil
}

// hashTreeFile is hashFile for a file of a tree; one without a source is VERSION.
func (c *content) hashTreeFile(ctx context.Context, f project.ReleaseFile, version []byte) (bundle.File, error) {
	if f.Source == "" {
		return bundle.File{Size: int64(len(version)), Mode: 0o644, Digest: bundle.DigestOf(version)}, nil
	}
	return hashFile(ctx, f)
}

// treeFiles returns the files of the bundle that are name in the trees of platforms.
func treeFiles(platforms []bundle.Platform, name string, each map[bundle.Platform]bundle.File) []bundle.File {
	var list []bundle.File
	for _, p := range platforms {
		f, ok := each[p]
		if !ok {
			continue
		}
		f.Path = name
		if len(platforms) > 1 {
			f.Path = path.Join(p.Dashed(), name)
		}
		list = append(list, f)
	}
	same := len(platforms) > 1 && len(list) == len(platforms)
	for _, f := range list {
		same = same && f.Digest == list[0].Digest && f.Mode == list[0].Mode
	}
	if !same {
		return list
	}
	list[0].Path = path.Join(bundle.TreeAll, name)
	return list[:1]
}
