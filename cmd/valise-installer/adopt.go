package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/systemd"
)

type adoptFlags struct {
	root  string
	o     device.AdoptOptions
	trust cli.Trust
	yes   bool

	health, envFile string
}

func adoptCommand(p *program) *cobra.Command {
	var f adoptFlags
	c := &cobra.Command{
		Use:   "adopt",
		Short: "Take over an app that scripts installed",
		Long: "adopt takes over a file tree that scripts installed, with its releases, units and\n" +
			"environment file, or a running compose project, with its files, images and environment file.\n" +
			"It says what it will do, asks, and records them. From then on valise-installer updates the\n" +
			"app and can roll it back. adopt does not touch anything that runs.\n\n" +
			"The signers to trust come from TRUSTED_SIGNER_IDENTITY of the environment file, which is\n" +
			"parsed and never run, or from --key, --identity or --identity-regexp.",
		Example: "  valise-installer adopt --root /opt/wattcloud --health http://127.0.0.1:8080/health --yes\n  valise-installer adopt --root /opt/shop --project shop --key cosign.pub",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.adopt(cmd.Context(), f) },
	}
	c.Flags().StringVar(&f.root, "root", "", "directory of the app, /opt/APP")
	c.Flags().StringArrayVar(&f.o.Tree.Units, "unit", nil, "unit of a file tree (repeatable; default: those named after APP, and those that mention /opt/APP)")
	c.Flags().StringVar(&f.envFile, "env-file", "", "environment file (default: that of the unit or the containers, else .env)")
	c.Flags().StringVar(&f.health, "health", "", "URL that answers 200 if the app is healthy")
	c.Flags().StringVar(&f.o.Tree.Previous, "previous", "", "previous version of a file tree (default: of the older stable versions, the one unpacked last)")
	c.Flags().StringVar(&f.o.Compose.Project, "project", "", "compose project (default APP)")
	c.Flags().StringArrayVar(&f.o.Compose.Files, "file", nil, "compose file of the project (repeatable; default: those that its containers name)")
	c.Flags().StringVar(&f.o.Compose.Version, "version", "", "version that the compose project runs (default: that of the environment file, or "+compose.UnknownVersion+")")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	f.trust.Register(c.Flags())
	c.MarkFlagRequired("root")
	return c
}

func printAdoption(w io.Writer, a *device.Adoption) {
	if a.Compose == nil {
		fmt.Fprintf(w, "app          %s\nunits        %s\nenvironment  %s\n", a.App, strings.Join(a.Units, ", "), a.EnvFile)
	} else {
		printProject(w, a)
	}
	for _, s := range a.Signers {
		fmt.Fprintf(w, "accepts      releases signed by %s\n", s)
	}
	if a.Compose != nil {
		if !a.Adopted {
			fmt.Fprintf(w, "writes       the release %s, %s, records in /var/lib/valise/%s\n", a.Compose.Version, "/etc/valise/"+a.App+".yaml", a.App)
		}
		return
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
	for _, u := range a.Updaters {
		fmt.Fprintf(w, "not taken    %s looks like what updates the app: disable it, or name all units with --unit\n", u)
	}
	if a.Link != "releases/"+a.Current {
		fmt.Fprintf(w, "current      leads to %s and will lead to releases/%s, which is the same\n", a.Link, a.Current)
	}
	if !a.Adopted {
		fmt.Fprintf(w, "writes       a manifest.json into each release, %s, records in /var/lib/valise/%s, %s\n", "/etc/valise/"+a.App+".yaml", a.App, systemd.RecoveryName(a.App))
	}
}

func printProject(w io.Writer, a *device.Adoption) {
	c := a.Compose
	fmt.Fprintf(w, "app          %s, version %s\nproject      %s of %s\nfiles        %s\n", a.App, c.Version, c.Project, c.Dir, strings.Join(c.Files, ", "))
	if len(c.EnvFrom) > 0 {
		fmt.Fprintf(w, "environment  %s, from now on %s\n", strings.Join(c.EnvFrom, ", "), a.EnvFile)
	}
	for _, s := range c.Services {
		fmt.Fprintf(w, "service      %s of %s, %s\n", s.Name, s.Image, s.State)
	}
	for _, n := range c.Notes {
		fmt.Fprintf(w, "note         %s\n", cli.OneLine(n))
	}
}

func (p *program) adopt(ctx context.Context, f adoptFlags) error {
	root, err := filepath.Abs(f.root)
	if err != nil {
		return err
	}
	if opt := filepath.Dir(root); filepath.Base(opt) == "opt" {
		p.Root = filepath.Dir(opt)
	}
	f.o.Tree.EnvFile, f.o.Tree.Health = f.envFile, f.health
	f.o.Compose.EnvFile, f.o.Compose.Health = f.envFile, f.health
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
