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
		Short: "Return to the release that ran before",
		Long: "rollback starts the release that was running and committed before the current one, and\n" +
			"checks its health. It needs no bundle and no network. Whether the data saved before the\n" +
			"update are restored with it, the current release says (rollback: restore_data); the flags\n" +
			"overrule it. Data that are replaced are saved first.",
		Example: "  valise-installer rollback\n  valise-installer rollback --restore-data",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.rollback(cmd.Context(), restore, keep) },
	}
	c.Flags().BoolVar(&restore, "restore-data", false, "restore the data saved before the current release came")
	c.Flags().BoolVar(&keep, "keep-data", false, "keep the data as they are now")
	return c
}

func (p *program) rollback(ctx context.Context, restore, keep bool) error {
	if restore && keep {
		return cli.Usagef("--restore-data and --keep-data say the opposite")
	}
	res, err := p.Rollback(ctx, restore, keep)
	if err != nil {
		return err
	}
	return p.end(res, nil)
}

func recoverCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:     "recover",
		Short:   "Undo what a power cut left unfinished",
		Long:    "recover brings a device back to its committed release after an update was interrupted. It runs\nat boot; by hand it does no harm.",
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
	c.Flags().BoolVar(&p.Boot, "boot", false, "the machine starts: units that do not run yet are started by systemd afterwards")
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
