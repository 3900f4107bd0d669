package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

func applyCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "apply",
		Aliases: []string{"start"},
		Short:   "Start the app with its current configuration",
		Long: "apply starts the installed release with its current configuration: after you edit the\n" +
			"environment file or compose.override.yaml, after a stop, or if containers were removed. It\n" +
			"does not touch services that already run that way; it restarts the units of a file tree.\n" +
			"Then it checks the app's health. apply cannot be rolled back: the old content of edited\n" +
			"files is not kept. start does the same, but does not touch a running file tree.",
		Example: "  valise-installer apply\n  valise-installer start",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.start(cmd.Context(), cmd.CalledAs() != "start")
		},
	}
}

func (p *program) start(ctx context.Context, always bool) error {
	res, err := p.Start(ctx, always)
	if err != nil {
		return err
	}
	return p.end(res, nil)
}

func stopCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the app until start or an update",
		Long: "stop stops the services of the app. Containers that restart unless stopped stay stopped\n" +
			"after a reboot; enabled units start again.",
		Example: "  valise-installer stop\n  valise-installer start",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.Stop(cmd.Context()) },
	}
}

func restartCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "restart",
		Short:   "Stop and start the app, and check its health",
		Example: "  valise-installer restart",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.Stop(cmd.Context()); err != nil {
				return err
			}
			return p.start(cmd.Context(), false)
		},
	}
}

func logsCommand(p *program) *cobra.Command {
	var lines int
	var follow bool
	c := &cobra.Command{
		Use:     "logs",
		Short:   "Show the app's last output",
		Example: "  valise-installer logs\n  valise-installer logs --lines 1000\n  valise-installer logs --follow",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 {
				return cli.Usagef("--lines is %d, want at least 0", lines)
			}
			return p.Logs(cmd.Context(), lines, follow, p.Stdout)
		},
	}
	c.Flags().IntVar(&lines, "lines", 100, "lines of each service, at most")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing new output")
	return c
}
