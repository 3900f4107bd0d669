package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/publish"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/verify"
)

// Updaters older than Valise take the first file of a release, or of their drop folder,
// whose name has APP-update and ends in .tar.gz, and load its images by their plain
// names. So one file of a release may be called so: a complete one, and where it has
// several platforms, somebody chose whose images have those names.

// legacyName reports whether such an updater would take a file of that name.
func legacyName(app, file string) bool {
	file = filepath.Base(file)
	return strings.Contains(file, app+"-update") && strings.HasSuffix(file, bundle.Gzip.Suffix())
}

// plainName is a name of a file that is not for such updaters.
func plainName(app, path string) string {
	dir, file := filepath.Split(path)
	return dir + strings.ReplaceAll(file, app+"-update", app)
}

// checkLegacy refuses bundles that such an updater would take by mistake: names has
// theirs, and platforms those of each.
func checkLegacy(p *project.Project, names []string, platforms [][]bundle.Platform) error {
	if p.Tree != nil || len(names) == 0 || !legacyName(p.App, names[0]) {
		return nil
	}
	hint := func(err error) error {
		return cli.WithHint(err, "write legacy: %s in %s to give them the images of that platform, whose devices alone may take it so; or, where no such updater is left, output: %s", platforms[0][0], p.File, project.DefaultOutput)
	}
	switch {
	case len(names) > 1:
		return hint(fmt.Errorf("%s: updaters older than Valise take the first file that is called %s-update*.tar.gz, for whatever platform it is: want one bundle for all platforms", strings.Join(names, " and "), p.App))
	case len(platforms[0]) > 1 && p.Legacy == "":
		return hint(fmt.Errorf("%s: updaters older than Valise take the images of one platform from it, and nothing says of which", names[0]))
	case len(platforms[0]) > 1 && !slices.Contains(platforms[0], p.Legacy):
		return hint(fmt.Errorf("%s: updaters older than Valise take the images of %s from it, which it does not have", names[0], p.Legacy))
	}
	return nil
}

// checkLegacy refuses files of which such an updater would take the wrong one, and
// returns what refuses one that the release has already.
func (p *publishing) checkLegacy(files []publish.File) (beside func(name string) error, err error) {
	m := p.manifest()
	var taken []string
	refuse := func() error {
		return cli.WithHint(fmt.Errorf("publish %s: updaters older than Valise take the first file that is called %s-update*.tar.gz: want one, a complete bundle", strings.Join(taken, " and "), m.App),
			"give the others names without %s-update: valise thin does so, and --split-platforms without output", m.App)
	}
	for _, f := range files {
		if m.Kind == bundle.KindTree || !legacyName(m.App, f.Name) {
			continue
		}
		taken = append(taken, f.Name)
		i := slices.IndexFunc(p.bundles, func(b *parts.File) bool { return filepath.Clean(b.Name) == f.Path })
		if i < 0 || !complete(p.releases[i]) || len(taken) > 1 {
			return nil, refuse()
		}
	}
	return func(name string) error {
		if len(taken) == 0 || !legacyName(m.App, name) {
			return nil
		}
		taken = append(taken, name)
		return refuse()
	}, nil
}

// complete reports whether a bundle has every layer of its release.
func complete(r *verify.Release) bool {
	for d := range layersOf(r.Manifest()) {
		if !r.HasBlob(d) {
			return false
		}
	}
	return true
}

// legacyFirst puts the platform first whose images have the plain names.
func legacyFirst(platforms []bundle.Platform, legacy bundle.Platform) []bundle.Platform {
	i := slices.Index(platforms, legacy)
	if i < 1 {
		return platforms
	}
	return append([]bundle.Platform{legacy}, slices.Delete(slices.Clone(platforms), i, i+1)...)
}
