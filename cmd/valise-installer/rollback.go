package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
)

// keepReleases is how many releases a rollback leaves on disk: it removes
// nothing that an update would have kept.
const keepReleases = 100

func rollbackCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback",
		Short: "Return to the release that ran before",
		Long: "rollback starts the release that was running and committed before the current one, and\n" +
			"checks its health. It needs no bundle and no network. Data stays as it is.",
		Example: "  valise-installer rollback",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.onDevice(cmd.Context(), "rollback", func(ctx context.Context, d *device) error {
				if err := p.recoverFirst(ctx, d); err != nil {
					return err
				}
				return p.end(d.Rollback(ctx, keepReleases), nil)
			})
		},
	}
}

func recoverCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "recover",
		Short:   "Undo what a power cut left unfinished",
		Long:    "recover brings a device back to its committed release after an update was cut off. It runs\nat boot; by hand it does no harm.",
		Example: "  valise-installer recover",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.onDevice(cmd.Context(), "recover", func(ctx context.Context, d *device) error {
				res, err := d.Recover(ctx)
				if err != nil {
					return err
				}
				if res.Outcome == installer.NeedsAttention {
					return p.end(res, nil)
				}
				if res.Outcome == installer.NothingToDo {
					p.UI.Step("recover", "nothing was unfinished")
					return nil
				}
				p.UI.Step("recover", "undone: "+res.Record.Error)
				return nil
			})
		},
	}
}

// onDevice opens the installed app for a command that takes no bundle.
func (p *program) onDevice(ctx context.Context, what string, do func(context.Context, *device) error) error {
	app, err := p.theApp()
	if err != nil {
		return err
	}
	d, err := p.openDevice(ctx, app, what)
	if err != nil {
		return cli.WithHint(err, "%q shows the state without the engine", "valise-installer status")
	}
	defer d.close()
	return do(ctx, d)
}
