package main

import (
	"fmt"
	"path/filepath"
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
	case p == nil && s.pushed != nil:
		line("Built, signed and pushed.\n")
	case p == nil:
		line("Built and signed, not published.\n")
	case p.Draft:
		line("Uploaded and checked as a [draft](%s): publish it there.\n", p.URL)
	case p.Existed:
		line("Was [published](%s) before; what is there is this release.\n", p.URL)
	default:
		line("[Published](%s), after everything was downloaded again and verified.\n", p.URL)
	}
	for _, r := range s.pushed {
		line("In a registry as `%s`.\n", r.Reference)
	}
	var before []comparison
	if p != nil {
		before = p.Before
	}
	for i, m := range s.built {
		line("%s", m.markdown(filepath.Base(s.bundles[i]), before))
	}
	line("%s", downloads(before))
	if p == nil {
		return b.String()
	}
	line("Signed by `%s`.\n", p.Signer)
	for _, t := range p.Thin {
		line("- thin bundle for %s: `%s`, %s of %s", t.From, filepath.Base(t.Bundle), ui.Bytes(t.Size), ui.Bytes(t.Full))
	}
	if d := p.Diff; d != nil {
		line("\n### What changes for a device on %s\n\n| | | |\n|---|---|---|", d.From)
		for i, c := range d.Changes {
			if i == maxChanges {
				line("| | | and %d more |", len(d.Changes)-i)
				break
			}
			line("| %s | %s | `%s` |", c.verb(), c.Kind, strings.ReplaceAll(c.Name, "|", `\|`))
		}
	}
	line("\n### On the device\n\n```sh\nvalise-installer plan %[1]s\nvalise-installer update %[1]s\n```\n\nThe first installation, with nothing but the file; more is in the [notes of the release](%[2]s):\n\n```sh\n%[3]s\n```", filepath.Base(s.bundles[0]), p.URL, p.Install)
	if !p.Draft { // which only people who may write can see
		line("%s", qrMarkdown(p.URL))
	}
	return b.String()
}
