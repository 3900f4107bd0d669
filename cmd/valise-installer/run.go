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
		Short:   "Start the app, as its environment file says now",
		Long: "apply has the installed release run as it is configured: after an edit of the environment file\n" +
			"or of compose.override.yaml, after a stop, or when containers were removed. Services\n" +
			"that run so already are left alone; the units of a file tree are restarted. Then it checks the\n" +
			"app's health. There is no way back: what was edited before is not kept. It is the same command\n" +
			"as start, which leaves a file tree that runs alone.",
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
		Use:     "stop",
		Short:   "Stop the app until start or an update",
		Long:    "stop stops the services of the app. Containers that restart unless stopped stay stopped after a\nboot; units that are enabled start again.",
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
		Short:   "Show what the app printed last",
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
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	return c
}
