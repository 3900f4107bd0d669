package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func uninstallCommand(p *program) *cobra.Command {
	var purge, yes bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove an app",
		Long: "uninstall says what it would remove, and then stops the app and removes its containers and images,\n" +
			"or its units and configuration files, and releases and records. The environment file and the trust\n" +
			"policy stay for the next installation, and so do configuration files that were changed here, unless\n" +
			"--purge removes them too. What the app itself wrote (volumes, StateDirectory) and what was saved of\n" +
			"it is never removed.",
		Example: "  valise-installer uninstall\n  valise-installer uninstall --purge --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			app, err := p.TheApp()
			if err != nil {
				return err
			}
			list, err := p.Uninstall(cmd.Context(), purge, func(list []string) error {
				if yes {
					return nil
				}
				for _, name := range list {
					fmt.Fprintln(p.Stderr, "removes", name)
				}
				return p.confirm("Remove " + app + "?")
			})
			if err != nil {
				return err
			}
			result := struct {
				App     string   `json:"app"`
				Removed []string `json:"removed"`
			}{app, list}
			return p.Result(result, func(w io.Writer) { fmt.Fprintf(w, "%s is removed\n", app) })
		},
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove the environment file, changed configuration files and the trust policy too")
	c.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	return c
}
