// Package manpage writes the manual pages of a program. The installer that
// devices run does not contain it.
package manpage

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Command returns the hidden command that writes the pages, dated as date says.
func Command(date func() (time.Time, error)) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a directory",
		Example: "  valise man ./man && man -l man/valise-build.1",
		Args:    cobra.ExactArgs(1),
		Hidden:  true, // for packagers
		RunE: func(cmd *cobra.Command, args []string) error {
			when, err := date()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // it would name the day of the build
			when = when.UTC()
			return doc.GenManTree(root, &doc.GenManHeader{Title: "VALISE", Section: "1", Source: "valise", Date: &when}, args[0])
		},
	}
}
