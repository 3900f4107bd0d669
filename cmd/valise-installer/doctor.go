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
		Short: "Check everything that an update and a way back depend on",
		Long: "doctor looks at free space, the clock, the engine and docker compose where an app needs them, the\n" +
			"services of serve and page, and for every app (or --app) at the trust policy, the records, the\n" +
			"environment file, recovery at boot, the units of a file tree, the drop folder, whether the source\n" +
			"answers, and whether the files and images of the current and the previous release are whole.\n" +
			"It changes nothing without --repair, which gives apps whose records are torn or gone records again:\n" +
			"from the copy of the last commit, else from the releases that are here. The exit code is 1 when a check failed; warnings do not change it.",
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
		from := "the releases that are here; what failed and who signed is forgotten"
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
