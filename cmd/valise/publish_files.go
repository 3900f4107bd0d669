package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/publish"
	"github.com/valise-ota/valise/verify"
)

// open verifies a bundle. The caller closes the file.
func (p *publishing) open(ctx context.Context, path string, want verify.Want) (*verify.Release, *parts.File, error) {
	r, f, err := parts.OpenBundle(path)
	if err != nil {
		return nil, nil, err
	}
	update, finish := p.UI.Track("verify " + filepath.Base(path))
	rel, err := p.verifier.Release(ctx, r, want, update)
	finish(err)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return rel, f, nil
}

// same returns the check of a downloaded bundle: what a device does, and that it
// is the release of here.
func (p *publishing) same(as *verify.Release) func(context.Context, string) error {
	return func(ctx context.Context, path string) error {
		m := as.Manifest()
		rel, f, err := p.open(ctx, path, verify.Want{App: m.App, Version: m.Version})
		if err != nil {
			return err
		}
		defer f.Close()
		if rel.Digest() != as.Digest() {
			return fmt.Errorf("it has manifest %s, this one has %s", rel.Digest(), as.Digest())
		}
		return nil
	}
}

// sameParts returns the check of a downloaded part of f: it is kept, and with the
// last one the whole is checked.
func (p *publishing) sameParts(as *verify.Release, f *parts.File) func(name string) func(context.Context, string) error {
	dir, missing := "", len(f.Paths)
	return func(name string) func(context.Context, string) error {
		return func(ctx context.Context, path string) error {
			var err error
			if dir == "" {
				dir, err = os.MkdirTemp(p.dir, "parts-")
			}
			if err == nil {
				err = os.Rename(path, filepath.Join(dir, name))
			}
			if missing--; err != nil || missing > 0 {
				return err
			}
			return p.same(as)(ctx, filepath.Join(dir, filepath.Base(f.Name)))
		}
	}
}

// checksumsName is the list of checksums of the Action; goreleaser may have one of the
// same name.
const checksumsName = "CHECKSUMS.txt"

// files are all files of the release: bundles, what stands beside them under
// their name, their manifests, thin bundles, and what was named.
func (p *publishing) files(thin []thinResult) ([]publish.File, error) {
	var files []publish.File
	add := func(path string, check func(context.Context, string) error) {
		path = filepath.Clean(path)
		if !slices.ContainsFunc(files, func(f publish.File) bool { return f.Path == path }) {
			f := publish.File{Name: filepath.Base(path), Path: path, Check: check}
			if name := filepath.Base(path); check == nil && strings.HasPrefix(name, checksumsName) {
				f.Else = filepath.Base(stem(p.paths[0])) + "." + name // of the first bundle
			}
			files = append(files, f)
		}
	}
	addBundle := func(f *parts.File, rel *verify.Release) {
		if f.PartSize() == 0 {
			add(f.Paths[0], p.same(rel))
			return
		}
		check := p.sameParts(rel, f)
		for _, part := range f.Paths {
			add(part, check(filepath.Base(part)))
		}
	}
	for i, path := range p.paths {
		rel := p.releases[i]
		addBundle(p.bundles[i], rel)
		base := stem(path) + manifestSuffix
		for name, data := range map[string][]byte{base: rel.ManifestBytes(), base + ".sigstore.json": rel.Signature()} {
			if err := writeFile(name, data); err != nil {
				return nil, err
			}
		}
		add(base, nil)
		add(base+".sigstore.json", nil)
		beside, err := filepath.Glob(globLiteral(path) + ".*")
		if err != nil {
			return nil, err
		}
		for _, file := range beside {
			add(file, nil)
		}
	}
	for _, t := range thin {
		i := slices.IndexFunc(p.paths, func(path string) bool {
			return strings.HasPrefix(t.Bundle, plainName(p.manifest().App, stem(path))+"-from-")
		})
		if i < 0 {
			return nil, fmt.Errorf("thin bundle %s belongs to no bundle", t.Bundle)
		}
		f, err := parts.Open(t.Bundle)
		if err != nil {
			return nil, err
		}
		f.Close()
		addBundle(f, p.releases[i])
	}
	for _, path := range append(p.trusted(), p.attach...) {
		add(path, nil)
		for _, suffix := range []string{".sigstore.json", ".sig", ".cert", ".sha256"} {
			if _, err := os.Stat(path + suffix); err == nil {
				add(path+suffix, nil)
			}
		}
	}
	return files, nil
}

// trusted are the files that a device needs to know the signer.
func (p *publishing) trusted() []string {
	return slices.DeleteFunc([]string{p.trust.Key, p.trust.TrustedRoot}, func(path string) bool { return path == "" })
}

// globLiteral writes a path as a pattern that matches it alone.
func globLiteral(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
