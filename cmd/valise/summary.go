package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

// summary is what build and inspect tell of a bundle. Sizes are bytes.
type summary struct {
	Path           string            `json:"path"`
	Size           int64             `json:"size"`
	Parts          []string          `json:"parts,omitempty"` // paths, of a bundle that is not one file
	App            string            `json:"app"`
	Kind           string            `json:"kind"`
	Version        string            `json:"version"`
	CreatedAt      time.Time         `json:"created_at"`
	ManifestDigest bundle.Digest     `json:"manifest_digest"`
	Signed         bool              `json:"signed"` // carries a signature; not whether it is good
	Source         *bundle.Source    `json:"source,omitempty"`
	Platforms      []bundle.Platform `json:"platforms"`
	Images         []imageSummary    `json:"images,omitempty"`
	Layers         *layerSummary     `json:"layers,omitempty"`
	Trees          []treeSummary     `json:"trees,omitempty"` // in the order of platforms
	Installers     []installerOf     `json:"installers,omitempty"`
	Engines        []engineOf        `json:"engines,omitempty"`
	Environment    []string          `json:"environment,omitempty"`
	Files          []bundle.File     `json:"files"`
	Changelog      string            `json:"changelog,omitempty"`
	Next           string            `json:"next,omitempty"`
}

type imageSummary struct {
	Reference string        `json:"reference"`
	Services  []string      `json:"services"`
	Digest    bundle.Digest `json:"digest"` // of the image index, or of the only image manifest
	Sizes     []int64       `json:"sizes"`  // of the layers, in the order of platforms
}

// installerOf is the installer that a bundle carries for a platform. Only inspect tells
// its version, and a build without one has none.
type installerOf struct {
	Platform bundle.Platform `json:"platform"`
	Version  string          `json:"version,omitempty"`
}

// treeSummary is the file tree of one platform.
type treeSummary struct {
	Platform bundle.Platform `json:"platform"`
	Files    int             `json:"files"`
	Size     int64           `json:"size"`
}

// layerSummary counts each layer once; Saved is what it would cost to hold the
// shared ones once for every image that has them.
type layerSummary struct {
	Count  int   `json:"count"`
	Size   int64 `json:"size"`
	Shared int   `json:"shared"`
	Saved  int64 `json:"saved"`
}

func summarize(f *parts.File, m *bundle.Manifest, raw []byte, signed bool) *summary {
	s := &summary{Path: f.Name, Size: f.Size(), App: m.App, Kind: m.Kind, Version: m.Version, CreatedAt: m.CreatedAt, ManifestDigest: bundle.DigestOf(raw),
		Signed: signed, Source: m.Source, Platforms: m.Platforms, Files: m.Files, Changelog: m.Changelog, Environment: m.Device.RequiredEnv}
	for _, p := range m.Platforms {
		if slices.ContainsFunc(m.Files, func(f bundle.File) bool { return f.Path == bundle.InstallerPath(p) }) {
			s.Installers = append(s.Installers, installerOf{Platform: p})
		}
		of := engineOf{Platform: p}
		for _, f := range m.Files {
			if strings.HasPrefix(f.Path, bundle.EnginePath(p)) && m.Kind == bundle.KindCompose {
				of.Files, of.Size = of.Files+1, of.Size+f.Size
			}
		}
		if of.Files > 0 {
			s.Engines = append(s.Engines, of)
		}
	}
	if f.PartSize() > 0 {
		s.Parts = f.Paths
	}
	if m.Kind == bundle.KindTree {
		for _, p := range m.Platforms {
			t := treeSummary{Platform: p}
			for _, f := range m.TreeFiles(p) {
				t.Files++
				t.Size += f.Size
			}
			s.Trees = append(s.Trees, t)
		}
		return s
	}
	s.Layers = new(layerSummary)
	uses := map[bundle.Digest]int{}
	for _, c := range m.Components {
		i := imageSummary{Reference: c.Reference, Services: c.Services, Digest: c.Images[0].Manifest.Digest}
		if c.Index != nil {
			i.Digest = c.Index.Digest
		}
		for _, img := range c.Images {
			var n int64
			for _, l := range img.Layers {
				n += l.Size
				uses[l.Digest]++
				switch uses[l.Digest] {
				case 1:
					s.Layers.Count++
					s.Layers.Size += l.Size
					continue
				case 2:
					s.Layers.Shared++
				}
				s.Layers.Saved += l.Size
			}
			i.Sizes = append(i.Sizes, n)
		}
		s.Images = append(s.Images, i)
	}
	return s
}

// writeHead writes the lines that build and inspect have in common.
func (s *summary) writeHead(w io.Writer) {
	signed := "no"
	if s.Signed {
		signed = "yes (not checked here)"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) { fmt.Fprintf(t, key+"\t"+format+"\n", args...) }
	row("bundle", "%s (%s)", s.Path, ui.Bytes(s.Size))
	if len(s.Parts) > 0 {
		row("parts", "%d, %s to %s", len(s.Parts), s.Parts[0], filepath.Base(s.Parts[len(s.Parts)-1]))
	}
	row("app", "%s %s", s.App, s.Version)
	row("created", "%s", s.CreatedAt.Format(time.RFC3339))
	if s.Source != nil {
		row("source", "%s", strings.Join(strings.Fields(s.Source.Repository+" "+s.Source.Commit+" "+s.Source.Ref), " "))
	}
	row("signed", "%s", signed)
	row("manifest", "%s", s.ManifestDigest)
	row("platforms", "%s", joinPlatforms(s.Platforms))
	row("installer", "%s", s.installer())
	if s.Kind == bundle.KindTree {
		for _, tree := range s.Trees {
			row("tree", "%d files, %s for %s", tree.Files, ui.Bytes(tree.Size), tree.Platform)
		}
		t.Flush()
		return
	}
	if len(s.Engines) > 0 {
		var all []string
		for _, e := range s.Engines {
			all = append(all, fmt.Sprintf("%s for %s", ui.Bytes(e.Size), e.Platform))
		}
		row("engine", "%s", strings.Join(all, ", "))
	}
	row("images", "%d", len(s.Images))
	row("layers", "%d, %s; %d of them shared, which saves %s", s.Layers.Count, ui.Bytes(s.Layers.Size), s.Layers.Shared, ui.Bytes(s.Layers.Saved))
	t.Flush()
}

// installer says for which platforms the bundle installs itself.
func (s *summary) installer() string {
	if len(s.Installers) == 0 {
		return "none"
	}
	var all []string
	for _, i := range s.Installers {
		all = append(all, strings.TrimSpace(i.Version+" "+string(i.Platform)))
	}
	return strings.Join(all, ", ")
}

func joinPlatforms(platforms []bundle.Platform) string {
	var s []string
	for _, p := range platforms {
		s = append(s, string(p))
	}
	return strings.Join(s, ", ")
}
