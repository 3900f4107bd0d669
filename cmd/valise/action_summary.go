package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/cmd/internal/ui"
)

// maxChanges is how many differences the summary names: GitHub shows 1 MiB.
const maxChanges = 50

// summary is what people see on the page of the run, in Markdown.
func (s *step) summary() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	m, p := s.built[0], s.published
	line("## %s %s\n", m.App, m.Version)
	switch {
	case s.in.dryRun:
		line("Dry run: built, not signed, not published.\n")
	case p == nil && s.in.sign == signNone:
		line("Built, not signed: sign it in a job that runs no build.\n")
	case p == nil:
		line("Built and signed, not published.\n")
	case p.Draft:
		line("Uploaded and checked as a [draft](%s): publish it there.\n", p.URL)
	case p.Existed:
		line("Was [published](%s) before; what is there is this release.\n", p.URL)
	default:
		line("[Published](%s), after everything was downloaded again and verified.\n", p.URL)
	}
	for i, m := range s.built {
		if m.Layers != nil {
			line("| image | services | %s |\n|---|---|---|", joinPlatforms(m.Platforms))
			for _, i := range m.Images {
				var sizes []string
				for _, n := range i.Sizes {
					sizes = append(sizes, ui.Bytes(n))
				}
				line("| `%s` | %s | %s |", i.Reference, strings.Join(i.Services, ", "), strings.Join(sizes, ", "))
			}
			line("| **layers** | %d, %d of them shared, which saves %s | %s |", m.Layers.Count, m.Layers.Shared, ui.Bytes(m.Layers.Saved), ui.Bytes(m.Layers.Size))
		} else {
			line("| tree for | files | size |\n|---|---|---|")
			for _, t := range m.Trees {
				line("| %s | %d | %s |", t.Platform, t.Files, ui.Bytes(t.Size))
			}
		}
		line("| **bundle** | `%s` | %s |\n| **manifest** | `%s` | |\n", filepath.Base(s.bundles[i]), ui.Bytes(m.Size), m.ManifestDigest)
	}
	if p == nil {
		return b.String()
	}
	line("Signed by `%s`.\n", p.Signer)
	for _, t := range p.Thin {
		line("- thin bundle for %s: `%s`, %s of %s", t.From, filepath.Base(t.Bundle), ui.Bytes(t.Size), ui.Bytes(t.Full))
	}
	if d := p.Diff; d != nil {
		line("\n### What changes for a device on %s\n", d.From)
		for _, platform := range slices.Sorted(maps.Keys(d.NeedBytes)) {
			line("- %s: loads %s", platform, ui.Bytes(d.NeedBytes[platform]))
		}
		line("\n| | | |\n|---|---|---|")
		for i, c := range d.Changes {
			if i == maxChanges {
				line("| | | and %d more |", len(d.Changes)-i)
				break
			}
			line("| %s | %s | `%s` |", c.verb(), c.Kind, strings.ReplaceAll(c.Name, "|", `\|`))
		}
	}
	line("\n### On the device\n\n```sh\nvalise-installer plan %[1]s\nvalise-installer update %[1]s\n```\n\nThe first installation, and how to check the file, are in the [notes of the release](%[2]s).", filepath.Base(s.bundles[0]), p.URL)
	return b.String()
}
