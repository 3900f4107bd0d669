package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/device"
)

func backupCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "backup",
		Short: "Back up the app's data now",
		Long: "backup saves what the running release lists under backup, as an update does before it\n" +
			"switches. The newest backups are kept, as many as the release says.",
		Example: "  valise-installer backup\n  valise-installer restore --list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := p.Backup(cmd.Context())
			if err != nil {
				return err
			}
			return p.Result(set, func(w io.Writer) { printSets(w, []backup.Set{set}) })
		},
	}
}

func restoreCommand(p *program) *cobra.Command {
	var list, discard bool
	c := &cobra.Command{
		Use:   "restore [BACKUP]",
		Short: "Restore a backup",
		Long: "restore stops the app, restores the data of BACKUP, starts the current release and checks\n" +
			"its health. BACKUP is an ID that --list shows; the default is the newest. restore backs up\n" +
			"the current data first, and restores it if anything fails.\n\n" +
			"If an update and its rollback failed (exit code 5), restore gives the previous release its\n" +
			"data and completes the rollback.",
		Example: "  valise-installer restore --list\n  valise-installer restore GQ2TMNZV",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return p.listBackups()
			}
			done, err := p.Restore(cmd.Context(), first(args), discard)
			switch {
			case err != nil:
				return err
			case done.RunsAgain != "":
				return p.Result(done.Set, func(w io.Writer) { fmt.Fprintf(w, "%s runs again, with its data\n", done.RunsAgain) })
			}
			return p.end(done.Result, nil)
		},
	}
	c.Flags().BoolVar(&list, "list", false, "list the backups, and change nothing")
	c.Flags().BoolVar(&discard, "discard", false, "do not back up the current data first: for data that can no longer be read")
	return c
}

// listBackups works without engine and lock.
func (p *program) listBackups() error {
	app, err := p.TheApp()
	if err != nil {
		return err
	}
	sets, err := p.Backups(app)
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
			id, saved, version := s.Record, device.Stamp(s.Created), s.Version
			if i > 0 {
				id, saved, version = "", "", ""
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", id, saved, version, ui.Bytes(item.Size), item.Backup.String())
		}
	}
	t.Flush()
}
