package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/systemd"
	"github.com/valise-ota/valise/installer/tree"
)

type adoptFlags struct {
	root  string
	o     tree.AdoptOptions
	trust cli.Trust
	yes   bool
}

func adoptCommand(p *program) *cobra.Command {
	var f adoptFlags
	c := &cobra.Command{
		Use:   "adopt",
		Short: "Take over an app that scripts installed",
		Long: "adopt finds the releases, the unit and the environment file of an app that is a file tree,\n" +
			"says what it would do, and records them: from then on valise-installer updates the app and\n" +
			"goes back. Nothing that runs is touched.\n\n" +
			"Whose releases are accepted is read from TRUSTED_SIGNER_IDENTITY of the environment file, which\n" +
			"is parsed and never run, or passed with --key, --identity or --identity-regexp.",
		Example: "  valise-installer adopt --root /opt/wattcloud\n  valise-installer adopt --root /opt/wattcloud --health http://127.0.0.1:8080/health --yes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.adopt(cmd.Context(), f) },
	}
	c.Flags().StringVar(&f.root, "root", "", "directory of the app, /opt/APP")
	c.Flags().StringVar(&f.o.Unit, "unit", "", "unit that runs it (default APP.service)")
	c.Flags().StringVar(&f.o.EnvFile, "env-file", "", "environment file (default the unit's)")
	c.Flags().StringVar(&f.o.Health, "health", "", "URL that answers 200 when it is healthy")
	c.Flags().StringVar(&f.o.Previous, "previous", "", "version that ran before (default the stable one below the current one that was unpacked last)")
	c.Flags().BoolVar(&f.yes, "yes", false, "do it without asking")
	f.trust.Register(c.Flags())
	c.MarkFlagRequired("root")
	return c
}

func printAdoption(w io.Writer, a *device.Adoption) {
	fmt.Fprintf(w, "app          %s\nunit         %s\nenvironment  %s\n", a.App, a.Unit, a.EnvFile)
	for _, s := range a.Signers {
		fmt.Fprintf(w, "accepts      releases signed by %s\n", s)
	}
	for _, r := range a.Releases {
		note := ""
		switch r.Dir {
		case a.Current:
			note = "  current"
		case a.Previous:
			note = "  previous: what a rollback returns to"
		}
		fmt.Fprintf(w, "release      %s, of %s%s\n", r.Dir, device.Stamp(r.Since), note)
	}
	for _, s := range a.Skipped {
		fmt.Fprintf(w, "not taken    %s: the next update removes it from releases\n", s)
	}
	if a.Link != "releases/"+a.Current {
		fmt.Fprintf(w, "current      leads to %s and will lead to releases/%s, which is the same\n", a.Link, a.Current)
	}
	if !a.Adopted {
		fmt.Fprintf(w, "writes       a manifest.json into each release, %s, records in /var/lib/valise/%s, %s\n", "/etc/valise/"+a.App+".yaml", a.App, systemd.RecoveryName(a.App))
	}
}

func (p *program) adopt(ctx context.Context, f adoptFlags) error {
	root, err := filepath.Abs(f.root)
	if err != nil {
		return err
	}
	found, err := p.FindAdoption(ctx, root, f.o, trusted(f.trust, f.trust.Policy))
	if err != nil {
		return err
	}
	if !f.yes {
		printAdoption(p.Stderr, found)
		if err := p.confirm("Take it over?"); err != nil {
			return err
		}
	}
	if err := p.Adopt(ctx, found); err != nil {
		return err
	}
	return p.Result(found, func(w io.Writer) {
		printAdoption(w, found)
		fmt.Fprintf(w, "next: valise-installer update BUNDLE\n")
	})
}
