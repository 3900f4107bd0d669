package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

func inspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect BUNDLE",
		Short: "Show what is in a bundle",
		Long: "inspect reads the manifest of a bundle and shows what it lists. It checks the form of the\n" +
			"manifest, neither the signature nor the content.",
		Example: "  valise inspect dist/shop-1.2.3.tar.gz\n  valise inspect --output json dist/shop-1.2.3.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.inspect(cmd.Context(), args[0]) },
	}
}

func (a *app) inspect(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, f, err := cli.OpenBundle(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := summarize(path, r.Size(), r.Manifest(), r.ManifestBytes(), r.Signature() != nil)
	return a.Result(s, func(w io.Writer) {
		s.writeHead(w)
		if s.Kind == bundle.KindCompose {
			s.writeImages(w)
		}
		for i, key := range s.Environment {
			if i == 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "environment  %s must have a value on the device\n", key)
		}
		s.writeFiles(w)
		if s.Changelog != "" {
			fmt.Fprintf(w, "\nchangelog\n  %s\n", strings.ReplaceAll(s.Changelog, "\n", "\n  "))
		}
	})
}

func (s *summary) writeImages(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nIMAGE\tSERVICES")
	for _, p := range s.Platforms {
		fmt.Fprintf(t, "\t%s", p)
	}
	fmt.Fprintln(t)
	for _, i := range s.Images {
		fmt.Fprintf(t, "%s\t%s", i.Reference, strings.Join(i.Services, ", "))
		for _, n := range i.Sizes {
			fmt.Fprintf(t, "\t%s", ui.Bytes(n))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

func (s *summary) writeFiles(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nFILE\tMODE\tSIZE\n")
	for _, f := range s.Files {
		fmt.Fprintf(t, "%s\t%o\t%s\n", f.Path, f.Mode, ui.Bytes(f.Size))
	}
	t.Flush()
}
