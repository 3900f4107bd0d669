package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
)

func rollbackCommand(p *program) *cobra.Command {
	var restore, keep bool
	c := &cobra.Command{
		Use:   "rollback",
		Short: "Return to the previous release",
		Long: "rollback starts the previous release and checks its health. It needs no bundle and no\n" +
			"network. Whether the data saved before the update is restored depends on the current release\n" +
			"(rollback: restore_data); the flags override it. Data that would be replaced is backed up\n" +
			"first.",
		Example: "  valise-installer rollback\n  valise-installer rollback --restore-data",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.rollback(cmd.Context(), restore, keep) },
	}
	c.Flags().BoolVar(&restore, "restore-data", false, "restore the data saved before the current release was installed")
	c.Flags().BoolVar(&keep, "keep-data", false, "keep the current data")
	return c
}

func (p *program) rollback(ctx context.Context, restore, keep bool) error {
	if restore && keep {
		return cli.Usagef("--restore-data and --keep-data exclude each other")
	}
	res, err := p.Rollback(ctx, restore, keep)
	if err != nil {
		return err
	}
	return p.end(res, nil)
}

func recoverCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:   "recover",
		Short: "Undo an update that a power cut interrupted",
		Long: "recover returns the device to its committed release after an interrupted update. It runs at\n" +
			"boot; running it by hand does no harm.",
		Example: "  valise-installer recover",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			recover := func() error { return p.recover(cmd.Context()) }
			if p.Boot {
				p.StopWithin = time.Minute // systemd waits no longer for a unit that is to stop
				return p.UntilBooted(cmd.Context(), device.BootPause, recover)
			}
			return recover()
		},
	}
	c.Flags().BoolVar(&p.Boot, "boot", false, "for use at boot: leave it to systemd to start units")
	return c
}

// recover undoes what is unfinished.
func (p *program) recover(ctx context.Context) error {
	res, err := p.Recover(ctx)
	switch {
	case err != nil:
		return err
	case res.Outcome == installer.NeedsAttention:
		return p.end(res, nil)
	case res.Outcome == installer.NothingToDo:
		p.UI.Step("recover", "nothing was unfinished")
	default:
		p.UI.Step("recover", "undone: "+res.Record.Error)
	}
	return nil
}
