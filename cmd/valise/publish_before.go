package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/provenance"
	"github.com/valise-ota/valise/bundle/publish"
	"github.com/valise-ota/valise/bundle/sbom"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// earlier is a release that is public already.
type earlier struct {
	publish.Release
	version *semver.Version
}

// before returns the published releases with lower versions whose tags are written
// as tag is, newest first. Pre-releases count for a pre-release only.
func (p *publishing) before(ctx context.Context, version *semver.Version, tag string) ([]earlier, error) {
	all, err := p.repo.Releases(ctx)
	if err != nil {
		return nil, err
	}
	own, _, _ := bundle.SplitTag(tag)
	var before []earlier
	for _, rel := range all {
		prefix, text, _ := bundle.SplitTag(rel.Tag)
		v, err := bundle.ParseVersion(text)
		if err != nil || rel.Draft || tagFamily(prefix) != tagFamily(own) || !v.LessThan(version) || v.Prerelease() != "" && version.Prerelease() == "" {
			continue
		}
		before = append(before, earlier{rel, v})
	}
	slices.SortFunc(before, func(a, b earlier) int { return b.version.Compare(a.version) })
	return before, nil
}

// checkPrivate refuses files that git ignores in the repository of the app: what is
// published is read by everybody, and such a file is often a secret. valise build leaves
// them out; a bundle that was built without git, or by another program, may have them.
func (p *publishing) checkPrivate(ctx context.Context) error {
	app, err := project.Load(ctx, p.project)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for i, r := range p.releases {
		m := r.Manifest()
		if m.App != app.App || m.Kind == bundle.KindTree { // what a tree is made of is built, and so ignored
			continue
		}
		var names []string
		for _, f := range m.Files {
			name := strings.TrimPrefix(f.Path, project.SourceDir+"/")
			if name != provenance.Name && !strings.HasPrefix(name, sbom.Dir) && !strings.HasPrefix(name, bundle.InstallerDir) && !strings.HasPrefix(name, bundle.EngineDir) && !app.Public(name) {
				names = append(names, app.Source(name))
			}
		}
		ignored, err := ignoredBelow(app.Dir)(ctx, names)
		if err != nil {
			return err
		}
		if len(ignored) > 0 {
			return cli.WithHint(fmt.Errorf("publish %s: it holds %s, which git ignores and everybody could read", p.paths[i], strings.Join(ignored, ", ")),
				"build it again; when everybody may read it, write files: [{path: %s, public: true}] in %s", ignored[0], p.project)
		}
	}
	return nil
}

// comparedReleases is how many releases before are compared with.
const comparedReleases = 3

// compare makes the difference to the release before, and thin bundles. The
// manifests of older releases are nobody's word: with a wrong one a thin bundle
// lacks too much, and a device that needs more refuses it.
func (p *publishing) compare(ctx context.Context, before []earlier, result *publishResult) error {
	for i, rel := range before[:min(len(before), max(p.thinFrom, comparedReleases))] {
		manifests, err := p.manifestsOf(ctx, rel)
		if err != nil {
			return err
		}
		if len(manifests) == 0 {
			p.Note("release %s has no manifest to compare with", rel.Tag)
			continue
		}
		for j, path := range p.paths {
			old := manifestFor(manifests, p.releases[j].Manifest().Platforms)
			if old == "" {
				p.Note("release %s has nothing for the platforms of %s", rel.Tag, filepath.Base(path))
				continue
			}
			if i < comparedReleases {
				m, err := readManifest(old)
				if err != nil {
					return err
				}
				c := compareWith(m, p.releases[j].Manifest())
				if n := len(result.Before); n > 0 && result.Before[n-1].From == c.From { // another bundle of the same releases
					maps.Copy(result.Before[n-1].NeedBytes, c.NeedBytes)
					maps.Copy(result.Before[n-1].Images, c.Images)
				} else {
					result.Before = append(result.Before, c)
				}
			}
			if i == 0 {
				var d difference
				if err := p.call(ctx, &d, "diff", old, path); err != nil {
					return err
				}
				result.Diff = result.Diff.with(d)
			}
			if i >= p.thinFrom || p.manifest().Kind == bundle.KindTree { // a tree is whole
				continue
			}
			var thin thinResult
			if err := p.call(ctx, &thin, "thin", path, "--from", old); err != nil {
				return err
			}
			if slices.ContainsFunc(result.Thin, func(t thinResult) bool { return t.Bundle == thin.Bundle }) {
				return fmt.Errorf("publish: two thin bundles would be %s: give the bundles that they are made from other names", thin.Bundle)
			}
			if thin.Omitted == 0 {
				p.Note("%s has all layers again: no thin bundle for %s", filepath.Base(path), rel.Tag)
				if err := removeBundle(thin.Bundle); err != nil {
					return err
				}
				continue
			}
			result.Thin = append(result.Thin, thin)
		}
	}
	return nil
}

// removeBundle removes a bundle, with all its parts.
func removeBundle(path string) error {
	f, err := parts.Open(path)
	if err != nil {
		return err
	}
	f.Close()
	for _, file := range f.Paths {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// manifestFile is a manifest that was downloaded.
type manifestFile struct {
	path      string
	platforms []bundle.Platform
}

// manifestFor returns the manifest that has the first of the platforms, "" when
// none has.
func manifestFor(all []manifestFile, platforms []bundle.Platform) string {
	for _, m := range all {
		if slices.Contains(m.platforms, platforms[0]) {
			return m.path
		}
	}
	return ""
}

// manifestsOf downloads the manifests of an older release of the same app: one
// for each of its bundles.
func (p *publishing) manifestsOf(ctx context.Context, rel earlier) ([]manifestFile, error) {
	assets, err := p.repo.Assets(ctx, rel.ID)
	if err != nil {
		return nil, err
	}
	var manifests []manifestFile
	for _, asset := range assets {
		if !strings.HasSuffix(asset.Name, manifestSuffix) || asset.Size > bundle.MaxManifestSize {
			continue
		}
		f, err := os.CreateTemp(p.dir, "*"+manifestSuffix)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(p.repo.Download(ctx, asset, f), f.Close()); err != nil {
			return nil, err
		}
		m, err := readManifest(f.Name())
		if err != nil || m.App != p.manifest().App || m.Version != rel.version.Original() {
			p.Note("%s of release %s is not a manifest of %s %s", asset.Name, rel.Tag, p.manifest().App, rel.version)
			continue
		}
		manifests = append(manifests, manifestFile{f.Name(), m.Platforms})
	}
	return manifests, nil
}
