package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
)

// keepReleases is how many releases a rollback leaves on disk: it removes
// nothing that an update would have kept.
const keepReleases = 100

func rollbackCommand(p *program) *cobra.Command {
	var restore, keep bool
	c := &cobra.Command{
		Use:   "rollback",
		Short: "Return to the release that ran before",
		Long: "rollback starts the release that was running and committed before the current one, and\n" +
			"checks its health. It needs no bundle and no network. Whether the data saved before the\n" +
			"update come back with it, the current release says (rollback: restore_data); the flags\n" +
			"overrule it. Data that are replaced are saved first.",
		Example: "  valise-installer rollback\n  valise-installer rollback --restore-data",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.rollback(cmd.Context(), restore, keep) },
	}
	c.Flags().BoolVar(&restore, "restore-data", false, "bring back the data saved before the current release came")
	c.Flags().BoolVar(&keep, "keep-data", false, "keep the data as they are now")
	return c
}

// rollbackData decides which data a rollback brings back and says what is lost.
func (p *program) rollbackData(ctx context.Context, d *device, restore, keep bool) (installer.Data, error) {
	if d.app == nil {
		return installer.Data{}, nil // a tree has no data of its own
	}
	st, err := d.journal.Load(ctx)
	if err != nil || st.Current == nil || st.Previous == nil || keep {
		return installer.Data{}, err
	}
	policy, err := d.app.RestorePolicy(*st.Current)
	if err != nil {
		return installer.Data{}, err
	}
	if policy == bundle.RestoreNever && !restore {
		return installer.Data{}, nil
	}
	set, err := d.savedBefore(ctx, *st.Current)
	if err != nil {
		return installer.Data{}, err
	}
	switch {
	case set == nil:
		return installer.Data{}, cli.WithHint(fmt.Errorf("the data saved before %s came are not here any more", st.Current.Version),
			"%q goes back with the data as they are now; %q shows what else was saved", "valise-installer rollback --keep-data", "valise-installer restore --list")
	case policy == bundle.RestoreAsk && !restore:
		return installer.Data{}, cli.WithHint(cli.Usagef("%s leaves it to you whether the data saved before it come back: they are of %s, and what was written since would be replaced", st.Current.Version, p.since(set.Created)),
			"say --restore-data or --keep-data")
	}
	p.noteReplaced(*set)
	return installer.Data{Record: set.Record}, nil
}

// savedBefore is what was saved when release r came, or nil.
func (d *device) savedBefore(ctx context.Context, r installer.Release) (*backup.Set, error) {
	records, err := d.journal.History(ctx, -1, 0)
	if err != nil {
		return nil, err
	}
	sets, err := d.app.Backups()
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		if rec.To.Dir != r.Dir || rec.Action == installer.ActionRollback || rec.Repairs() || rec.Status != installer.Completed && rec.Status != installer.RolledBack {
			continue
		}
		for _, s := range sets {
			if s.Record == rec.ID {
				return &s, nil
			}
		}
		break
	}
	return nil, nil
}

func (p *program) noteReplaced(s backup.Set) {
	p.Note("the data come back as they were with %s, %s; what was written since is saved first and then replaced", s.Version, p.since(s.Created))
}

// since says a time and how long ago that is, unless the clock is wrong.
func (p *program) since(t time.Time) string {
	if p.Now().Before(t) {
		return stamp(t)
	}
	return fmt.Sprintf("%s (%s ago)", stamp(t), p.Now().Sub(t).Round(time.Second))
}

func (p *program) rollback(ctx context.Context, restore, keep bool) error {
	if restore && keep {
		return cli.Usagef("--restore-data and --keep-data say the opposite")
	}
	return p.onDevice(ctx, "rollback", func(ctx context.Context, d *device) error {
		if err := p.recoverFirst(ctx, d); err != nil {
			return err
		}
		data, err := p.rollbackData(ctx, d, restore, keep)
		if err != nil {
			return err
		}
		return p.end(d.Rollback(ctx, keepReleases, data), nil)
	})
}

func recoverCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:     "recover",
		Short:   "Undo what a power cut left unfinished",
		Long:    "recover brings a device back to its committed release after an update was cut off. It runs\nat boot; by hand it does no harm.",
		Example: "  valise-installer recover",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			recover := func() error { return p.onDevice(cmd.Context(), "recover", p.recover) }
			if p.boot {
				return p.untilBooted(cmd.Context(), bootPause, recover)
			}
			return recover()
		},
	}
	c.Flags().BoolVar(&p.boot, "boot", false, "the machine starts: units that do not run yet are started by systemd afterwards")
	return c
}

// recover undoes what is unfinished on an open device.
func (p *program) recover(ctx context.Context, d *device) error {
	res, err := d.Recover(ctx)
	if err != nil {
		return err
	}
	switch res.Outcome {
	case installer.NeedsAttention:
		return p.end(res, nil)
	case installer.NothingToDo:
		p.UI.Step("recover", "nothing was unfinished")
		return d.resume(ctx)
	}
	p.UI.Step("recover", "undone: "+res.Record.Error)
	return nil
}

// How often and how long apart recovery is tried at boot; all of it within
// TimeoutStartSec of its unit.
const (
	bootTries = 5
	bootPause = 10 * time.Second
)

// untilBooted tries again what fails while everything else on the machine starts
// too: an engine that is not there yet, a database that replays its log for
// longer than those that wait for it allow. Nobody else would do it.
func (p *program) untilBooted(ctx context.Context, pause time.Duration, recover func() error) error {
	for try := 1; ; try++ {
		err := recover()
		if err == nil || try == bootTries || ctx.Err() != nil {
			return err
		}
		p.Note("%v; this was try %d of %d", err, try, bootTries)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// onDevice opens the installed app for a command that takes no bundle.
func (p *program) onDevice(ctx context.Context, what string, do func(context.Context, *device) error) error {
	app, err := p.theApp()
	if err != nil {
		return err
	}
	kind, err := p.kindOf(ctx, app)
	if err != nil {
		return err
	}
	d, err := p.openDevice(ctx, app, kind, what)
	if err != nil {
		return cli.WithHint(err, "%q shows the state without the engine", "valise-installer status")
	}
	defer d.close()
	return do(ctx, d)
}
