// Package sbom finds the packages in an image and writes them down as SPDX 2.3 and
// CycloneDX 1.6. The finding is done by the extractors of google/osv-scalibr. Each
// layer is read once, as a stream; a file that an extractor wants is held in memory
// when it is small and in a temporary file otherwise.
//
// A document is a function of the image and of this program: times and identifiers
// in it come from the image.
package sbom

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/purl"
	"github.com/package-url/packageurl-go"

	"github.com/valise-ota/valise/bundle"
)

// Dir is where the documents of a bundle are: Dir/SERVICE-PLATFORM plus one of the
// suffixes, the platform with dashes, SERVICE the first service that runs the image.
const Dir = "sbom/"

// Finder names what finds packages: a list of them that was kept is good for the
// same one only. A test compares it with go.mod.
const Finder = "osv-scalibr-v0.5.3-1"

// Suffixes of the two kinds of documents.
const (
	SuffixSPDX      = ".spdx.json"
	SuffixCycloneDX = ".cdx.json"
)

// Path is where a bundle has the document of a component for a platform.
func Path(c *bundle.Component, p bundle.Platform, suffix string) string {
	return Dir + c.Services[0] + "-" + p.Dashed() + suffix
}

// Image is what a document is about.
type Image struct {
	Name     string // reference
	Platform bundle.Platform
	Digest   bundle.Digest // of the image manifest
	Created  time.Time     // as its config says
	Layers   []func() (io.ReadCloser, error)
	Tool     string // version of the program that writes the document
}

// Package is one package of an image.
type Package struct {
	Name          string   `json:"name"`
	Version       string   `json:"version,omitempty"`
	PURL          string   `json:"purl,omitempty"`
	Licenses      []string `json:"licenses,omitempty"`
	Path          string   `json:"path,omitempty"`   // of the file that tells of it, the first by name
	Source        string   `json:"source,omitempty"` // what a distribution built it from, as documents say; SourceVersion empty: Version
	SourceVersion string   `json:"source_version,omitempty"`
}

// Packages reads the layers of img. problems are files that an extractor could not
// read: their packages are missing. Temporary files are made in dir.
func Packages(ctx context.Context, img Image, dir string) (packages []Package, problems []string, err error) {
	temp, err := os.MkdirTemp(dir, ".sbom-*")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(temp)
	s, err := newScanner(temp)
	if err != nil {
		return nil, nil, err
	}
	defer s.root.Close()
	for i, open := range img.Layers {
		if err := s.layer(ctx, open); err != nil {
			return nil, nil, fmt.Errorf("read layer %d of %s for %s: %w", i, img.Name, img.Platform, err)
		}
	}
	if err := s.databases(ctx); err != nil {
		return nil, nil, err
	}
	byID := map[string]Package{}
	for _, path := range slices.Sorted(maps.Keys(s.found)) {
		for _, p := range s.found[path].packages {
			next := convert(p, path)
			id := next.id()
			if _, ok := byID[id]; !ok && next.Name != "" {
				byID[id] = next
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		packages = append(packages, byID[id])
	}
	slices.Sort(s.problems)
	return packages, s.problems, nil
}

// id is equal for two finds of the same package.
func (p Package) id() string {
	if p.PURL != "" {
		return p.PURL
	}
	return p.Name + " " + p.Version
}

func convert(p *extractor.Package, path string) Package {
	// Words that only this library has for what others call otherwise.
	if p.PURLType == purl.TypeGolang && p.Name == "go" {
		p.Name = "stdlib"
	}
	if p.Version == "(devel)" {
		p.Version = ""
	}
	out := Package{Name: p.Name, Version: p.Version, Path: path}
	for _, l := range p.Licenses {
		if l = strings.TrimSpace(l); l != "" {
			out.Licenses = append(out.Licenses, l)
		}
	}
	if u := p.PURL(); u != nil {
		u.Qualifiers = slices.DeleteFunc(u.Qualifiers, func(q packageurl.Qualifier) bool { return q.Value == "UNKNOWN" })
		out.PURL = u.String()
	}
	return out
}
