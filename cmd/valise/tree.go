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
		m.Files = append(m.Files, c.merge(m, name, each)...)
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

// merge returns the files of the bundle that are name in the trees of platforms.
func (c *content) merge(m *bundle.Manifest, name string, each map[bundle.Platform]bundle.File) []bundle.File {
	var list []bundle.File
	for _, p := range m.Platforms {
		if f, ok := each[p]; ok {
			list = append(list, f)
		}
	}
	same := len(m.Platforms) > 1 && len(list) == len(m.Platforms)
	for _, f := range list {
		same = same && f.Digest == list[0].Digest && f.Mode == list[0].Mode
	}
	if !same {
		return list
	}
	all := list[0]
	all.Path = path.Join(bundle.TreeAll, name)
	c.files[all.Path] = c.files[list[0].Path]
	return []bundle.File{all}
}
