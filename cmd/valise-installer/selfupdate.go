package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/host"
)

func selfUpdateCommand(p *program) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "self-update BUNDLE|ADDRESS|VERSION",
		Short: "Take the newer valise-installer that a release carries",
		Long: "self-update verifies a release of an installed app and puts the valise-installer it carries in the\n" +
			"place of this one, if that is newer and works: it is started, and must read the records and the\n" +
			"trust policy of every app here. The old one stays beside it as valise-installer.old, and comes\n" +
			"back by itself when the new one does not work in its place. It waits for no transaction: while one\n" +
			"runs, or is unfinished, nothing is changed.\n\n" +
			"An update does the same by itself when it is through.",
		Example: "  valise-installer self-update v1.4.0\n  valise-installer self-update /media/usb/shop-1.4.0.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.selfUpdate(cmd.Context(), args[0], force)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "take an older one too")
	return c
}

// selfCheckCommand is what a new installer is asked before it gets its name.
func selfCheckCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use: "self-check", Hidden: true,
		Short: "Say whether this program can take over this device",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.SelfCheck(cmd.Context()); err != nil {
				return err
			}
			return p.Result(device.Identity{Version: p.Version, Platform: host.Platform()}, func(w io.Writer) {
				fmt.Fprintf(w, "%s for %s reads the records of every app here\n", p.Version, host.Platform())
			})
		},
	}
}

func (p *program) selfUpdate(ctx context.Context, what string, force bool) error {
	result, err := p.SelfUpdate(ctx, what, force)
	if err != nil {
		return err
	}
	return p.Result(result, func(w io.Writer) {
		if result.Replaced {
			fmt.Fprintf(w, "valise-installer is %s from now on (before: %s)\n", result.Carried, result.Before)
		} else {
			fmt.Fprintf(w, "nothing to do: %s\n", result.Stays)
		}
	})
}
