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
		Short: "Install the newer valise-installer of a release",
		Long: "self-update verifies a release of an installed app and replaces this program with the\n" +
			"valise-installer in it, if that one is newer and works: it is started, and must read the\n" +
			"records and the trust policy of every app on the device. The old program stays beside it as\n" +
			"valise-installer.old, and replaces the new one again if that does not work in its place.\n" +
			"While an update runs or is unfinished, self-update changes nothing.\n\n" +
			"A successful update does the same by itself.",
		Example: "  valise-installer self-update v1.4.0\n  valise-installer self-update /media/usb/shop-1.4.0.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.selfUpdate(cmd.Context(), args[0], force)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also install an older one")
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
