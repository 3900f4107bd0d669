package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

func inspectCommand(a *app) *cobra.Command {
	var from []string
	c := &cobra.Command{
		Use:   "inspect BUNDLE",
		Short: "Show what is in a bundle",
		Long: "inspect shows what the manifest of a bundle lists: images, layers and which images share\n" +
			"them, files, packages, where it was built, and the signer according to the signature. It\n" +
			"checks the form of the manifest, but neither signature nor content: use valise verify for\n" +
			"that.\n\n" +
			"--from compares with older releases: sizes, and what devices that run them must download.\n" +
			"--output markdown prints what the Action shows in the summary of its run.",
		Example: "  valise inspect dist/shop-1.2.3.tar.gz\n  valise inspect --output json dist/shop-1.2.3.tar.gz\n" +
			"  valise inspect --output markdown --from shop-1.2.2.manifest.json dist/shop-1.2.3.tar.gz",
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{cli.Forms: "markdown"},
		RunE:        func(cmd *cobra.Command, args []string) error { return a.inspect(cmd.Context(), args[0], from) },
	}
	c.Flags().StringSliceVar(&from, "from", nil, "bundle or manifest.json of an older release to compare with, newest first (repeatable)")
	return c
}

// inspection is the result of inspect.
type inspection struct {
	*summary
	Signer     string        `json:"signer,omitempty"` // who the signature says it is from; never checked here
	Provenance *origin       `json:"provenance,omitempty"`
	SBOMs      []sbomSummary `json:"sboms,omitempty"`
	LayerUses  []layerUse    `json:"layer_uses,omitempty"`    // in the order of the bundle
	Missing    []string      `json:"missing_files,omitempty"` // of a thin bundle
	Before     []comparison  `json:"before,omitempty"`        // to older releases, in the order that they were named
}

// layerUse is a layer and the images it is part of.
type layerUse struct {
	Digest  bundle.Digest `json:"digest"`
	Size    int64         `json:"size"`
	Images  []string      `json:"images"`  // reference and platform
	Present bool          `json:"present"` // a thin bundle lacks some
}

func (a *app) inspect(ctx context.Context, path string, from []string) error {
	r, f, err := parts.OpenBundle(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := locate(ctx, r); err != nil {
		return err
	}
	m := r.Manifest()
	s := inspection{summary: summarize(f, m, r.ManifestBytes(), r.Signature() != nil), LayerUses: layerUses(r)}
	if s.Signed {
		s.Signer = claimedSigner(r.Signature())
	}
	s.readInstallers(r)
	if s.Provenance, err = originOf(r); err != nil {
		a.Note("%v", err)
	}
	if s.SBOMs, err = sbomsOf(r); err != nil {
		a.Note("%v", err)
	}
	for _, f := range m.Files {
		if !r.HasFile(f.Path) {
			s.Missing = append(s.Missing, f.Path)
		}
	}
	for _, path := range from {
		old, err := readManifest(path)
		if err != nil {
			return err
		}
		if old.App != m.App {
			return fmt.Errorf("inspect: %s is a release of %q, and this one of %q", path, old.App, m.App)
		}
		s.Before = append(s.Before, compareWith(old, m))
	}
	return a.Result(s, func(w io.Writer) {
		if a.Output() == "markdown" {
			s.writeMarkdown(w)
			return
		}
		s.writeHead(w)
		s.writeOrigin(w)
		if s.Kind == bundle.KindCompose {
			s.writeImages(w)
			s.writeLayers(w)
		}
		for i, key := range s.Environment {
			if i == 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "environment  %s must have a value on the device\n", key)
		}
		s.writeFiles(w)
		for _, c := range s.Before {
			for _, p := range s.Platforms {
				fmt.Fprintf(w, "\na device on %s needs %s for %s", c.From, ui.Bytes(c.NeedBytes[p]), p)
			}
			fmt.Fprintln(w)
		}
		if s.Changelog != "" {
			fmt.Fprintf(w, "\nchangelog\n  %s\n", strings.ReplaceAll(s.Changelog, "\n", "\n  "))
		}
	})
}

// writeMarkdown writes what the page of a run of the Action shows.
func (s *inspection) writeMarkdown(w io.Writer) {
	fmt.Fprintf(w, "## %s %s\n\n%s", mdText(s.App), s.Version, s.markdown(filepath.Base(s.Path), s.Before)+downloads(s.Before))
	next := "valise sign " + s.Path
	if s.Signed {
		fmt.Fprintf(w, "Signed by %s, as the signature says; not checked here.\n\n", mdCode(s.Signer))
		next = "valise verify " + s.Path
	}
	fmt.Fprintf(w, "Next: %s\n%s", mdCode(next), qrMarkdown(s.releasePage()))
}

var githubRepository = lazyregexp.New(`^https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+$`)

// releasePage is where a bundle that was built for a tag is published, "" for another.
func (s *inspection) releasePage() string {
	if s.Source == nil || !githubRepository.MatchString(s.Source.Repository) {
		return ""
	}
	tag, ok := strings.CutPrefix(s.Source.Ref, "refs/tags/")
	if !ok {
		return ""
	}
	return s.Source.Repository + "/releases/tag/" + url.PathEscape(tag)
}

// readInstallers reads what the installers say they are; one that a thin bundle leaves
// out says nothing.
func (s *inspection) readInstallers(r *bundle.Reader) {
	for i := range s.Installers {
		if f, err := r.OpenFile(bundle.InstallerPath(s.Installers[i].Platform)); err == nil {
			head := make([]byte, 64<<10)
			n, _ := io.ReadFull(f, head)
			f.Close()
			s.Installers[i].Version = installerVersion(head[:n])
		}
	}
}

// layerUses lists every layer once.
func layerUses(r *bundle.Reader) []layerUse {
	var list []layerUse
	at := map[bundle.Digest]int{}
	m := r.Manifest()
	for i, p := range m.Platforms {
		for _, c := range m.Components {
			for _, l := range c.Images[i].Layers {
				n, ok := at[l.Digest]
				if !ok {
					n = len(list)
					at[l.Digest] = n
					list = append(list, layerUse{Digest: l.Digest, Size: l.Size, Present: r.HasBlob(l.Digest)})
				}
				if name := c.Reference + " " + string(p); !slices.Contains(list[n].Images, name) {
					list[n].Images = append(list[n].Images, name)
				}
			}
		}
	}
	return list
}

func (s *inspection) writeOrigin(w io.Writer) {
	if s.Signed {
		fmt.Fprintf(w, "\nsigned by  %s, as the signature says: NOT CHECKED, run valise verify\n", s.Signer)
	}
	if p := s.Provenance; p != nil {
		fmt.Fprintf(w, "\nbuilt by   %s\n", printable(p.Builder))
		if p.Workflow != nil {
			fmt.Fprintf(w, "           %s\n", printable(p.Workflow.Repository+"/"+p.Workflow.Path+"@"+p.Workflow.Ref))
		}
		if p.Run != "" {
			fmt.Fprintf(w, "           %s\n", printable(p.Run))
		}
	}
}

func (s *inspection) writeImages(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nIMAGE\tSERVICES")
	for _, p := range s.Platforms {
		fmt.Fprintf(t, "\t%s\tPACKAGES", p)
	}
	fmt.Fprintln(t)
	for _, i := range s.Images {
		fmt.Fprintf(t, "%s\t%s", i.Reference, strings.Join(i.Services, ", "))
		for j, n := range i.Sizes {
			fmt.Fprintf(t, "\t%s\t%s", ui.Bytes(n), s.packages(i, s.Platforms[j]))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	if len(s.Images) > 0 && len(s.Platforms) > 1 {
		fmt.Fprintf(w, "docker load, and updaters older than Valise, take the images of %s by these names: a device of another platform needs a bundle of its own there (valise build --split-platforms)\n", s.Platforms[0])
	}
}

// packages says how many packages the SBOM of an image lists.
func (s *inspection) packages(i imageSummary, p bundle.Platform) string {
	if doc := sbomFor(s.SBOMs, i.Services[0], p); doc != nil {
		return fmt.Sprint(doc.Packages)
	}
	return "-"
}

func (s *inspection) writeLayers(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nLAYER\tSIZE\tOF\n")
	for _, l := range s.LayerUses {
		left := ""
		if !l.Present {
			left = " (left out)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s%s\n", l.Digest.Hex()[:12], ui.Bytes(l.Size), strings.Join(l.Images, ", "), left)
	}
	t.Flush()
}

func (s *inspection) writeFiles(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nFILE\tMODE\tSIZE\n")
	for _, f := range s.Files {
		left := ""
		if slices.Contains(s.Missing, f.Path) {
			left = " (left out)"
		}
		fmt.Fprintf(t, "%s\t%o\t%s%s\n", f.Path, f.Mode, ui.Bytes(f.Size), left)
	}
	t.Flush()
}
