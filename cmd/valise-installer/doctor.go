package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

func doctorCommand(p *program) *cobra.Command {
	var repair bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether the device is ready for the next update",
		Long: "doctor checks free space, the clock, the engine and docker compose if an app needs them, and\n" +
			"the services of serve and page. For every app (or --app) it checks the trust policy, the\n" +
			"records, the environment file, recovery at boot, the units of a file tree, the drop folder,\n" +
			"whether the source answers, and whether files and images of the current and previous release\n" +
			"are intact. It changes nothing without --repair, which recreates damaged or missing records:\n" +
			"from the copy of the last commit, else from the releases on disk. The exit code is 1 if a\n" +
			"check failed; warnings do not change it.",
		Example: "  valise-installer doctor\n  valise-installer doctor --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if repair {
				if err := p.mendRecords(cmd.Context()); err != nil {
					return err
				}
			}
			return p.doctor(cmd.Context())
		},
	}
	c.Flags().BoolVar(&repair, "repair", false, "rebuild damaged or missing records")
	return c
}

func (p *program) mendRecords(ctx context.Context) error {
	all, err := p.MendRecords(ctx)
	for _, d := range all {
		from := "the releases on this device; which versions failed and who signed them is lost"
		if d.Copy {
			from = "their copy of the last commit"
		}
		p.Note("the records of %s were recreated from %s: %s is current", d.App, from, d.Current)
		if d.Aside != "" {
			p.Note("the damaged ones are kept as %s", d.Aside)
		}
	}
	return err
}

func (p *program) doctor(ctx context.Context) error {
	apps, err := p.Installed()
	if err != nil {
		return err
	}
	if p.Machine.App != "" {
		app, err := p.TheApp()
		if err != nil {
			return err
		}
		apps = []string{app}
	}
	said := []cli.Finding{}
	for _, f := range p.Examine(ctx, apps) {
		said = append(said, cli.Finding{App: f.App, Check: f.Check, Status: f.Status, Detail: f.Detail(), Remedy: remedy(f.Remedy)})
	}
	return p.Findings(said)
}
