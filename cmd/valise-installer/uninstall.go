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
		Long: "uninstall says what it will remove, and asks. It stops the app and removes its containers\n" +
			"and images, or its units and configuration files, and its releases and records. The\n" +
			"environment file, the trust policy and changed configuration files stay for the next\n" +
			"installation, unless you pass --purge. What the app itself wrote (volumes, StateDirectory)\n" +
			"and its backups are never removed.",
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
	c.Flags().BoolVar(&purge, "purge", false, "also remove the environment file, changed configuration files and the trust policy")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
