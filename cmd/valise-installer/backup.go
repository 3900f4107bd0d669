package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
)

func backupCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "backup",
		Short: "Save the app's data now",
		Long: "backup saves what the running release names under backup, as an update does before it\n" +
			"switches. Of all that was saved the newest are kept, as many as the release says.",
		Example: "  valise-installer backup\n  valise-installer restore --list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.onDevice(cmd.Context(), "backup", func(ctx context.Context, d *device) error {
				if d.app == nil {
					return errNoData
				}
				if err := p.recoverFirst(ctx, d); err != nil {
					return err
				}
				st, err := d.journal.Load(ctx)
				if err != nil {
					return err
				}
				if st.Current == nil {
					return errors.New("nothing is installed that has data")
				}
				set, err := d.app.Save(ctx, *st.Current, d.NewID())
				d.Report(installer.Event{Step: "backup", Ended: true, Err: err})
				if err != nil {
					return err
				}
				if len(set.Items) == 0 {
					return fmt.Errorf("release %s does not say what to save: its valise.yaml has no backup", st.Current.Version)
				}
				if err := d.app.PruneBackups(*st.Current); err != nil {
					return err
				}
				return p.Result(set, func(w io.Writer) { printSets(w, []backup.Set{set}) })
			})
		},
	}
}

func restoreCommand(p *program) *cobra.Command {
	var list, discard bool
	c := &cobra.Command{
		Use:   "restore [BACKUP]",
		Short: "Bring back saved data",
		Long: "restore stops the app, brings back the data of BACKUP, starts the current release with them\n" +
			"and checks its health. BACKUP is the ID that --list shows; without it the newest. Today's\n" +
			"data are saved first, and come back when anything fails.\n\n" +
			"After an update whose way back failed (exit code 5), restore gives the release before its\n" +
			"data and ends the way back.",
		Example: "  valise-installer restore --list\n  valise-installer restore GQ2TMNZV",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return p.listBackups()
			}
			return p.onDevice(cmd.Context(), "restore", func(ctx context.Context, d *device) error {
				if d.app == nil {
					return errNoData
				}
				set, err := d.findBackup(args)
				if err != nil {
					return err
				}
				return p.restore(ctx, d, set, discard)
			})
		},
	}
	c.Flags().BoolVar(&list, "list", false, "show what was saved, and change nothing")
	c.Flags().BoolVar(&discard, "discard", false, "do not save today's data first: for data that cannot be read any more")
	return c
}

func (p *program) restore(ctx context.Context, d *device, set backup.Set, discard bool) error {
	st, err := d.journal.Load(ctx)
	if err != nil {
		return err
	}
	if u := st.Unfinished; u != nil && u.From != nil && u.Attention != "" {
		// The release before does not get healthy, perhaps for want of its data.
		if err := d.app.RestoreData(ctx, *u.From, set.Record); err != nil {
			return attentionError(installer.Result{Record: *u, Err: err})
		}
	}
	if err := p.recoverFirst(ctx, d); err != nil {
		return err
	}
	if st.Unfinished != nil && st.Unfinished.Attention != "" {
		return p.Result(set, func(w io.Writer) { fmt.Fprintf(w, "%s runs again, with its data\n", st.Unfinished.From.Version) })
	}
	if !discard {
		p.noteReplaced(set)
	}
	return p.end(d.RestoreData(ctx, keepReleases, installer.Data{Record: set.Record, Discard: discard}), nil)
}

// findBackup is the set that args name, or the newest.
func (d *device) findBackup(args []string) (backup.Set, error) {
	sets, err := d.app.Backups()
	if err != nil {
		return backup.Set{}, err
	}
	for i := len(sets) - 1; i >= 0; i-- {
		if len(args) == 0 || sets[i].Record == args[0] {
			return sets[i], nil
		}
	}
	if len(args) == 0 {
		return backup.Set{}, errors.New("no data were saved here")
	}
	return backup.Set{}, cli.WithHint(fmt.Errorf("there is no backup %.80q", args[0]), "%q shows what was saved", "valise-installer restore --list")
}

// listBackups works without engine and lock.
func (p *program) listBackups() error {
	app, err := p.theApp()
	if err != nil {
		return err
	}
	sets, err := p.savedSets(app)
	if err != nil {
		return err
	}
	return p.Result(sets, func(w io.Writer) { printSets(w, sets) })
}

func printSets(w io.Writer, sets []backup.Set) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BACKUP\tSAVED\tOF VERSION\tSIZE\tWHAT")
	for _, s := range sets {
		for i, item := range s.Items {
			id, saved, version := s.Record, stamp(s.Created), s.Version
			if i > 0 {
				id, saved, version = "", "", ""
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", id, saved, version, ui.Bytes(item.Size), backup.Describe(item.Backup))
		}
	}
	t.Flush()
}
