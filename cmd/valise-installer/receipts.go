package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/installer/device"
)

func receiptsCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "receipts DIR",
		Short: "Write receipts and the inventory to a stick",
		Long: "receipts writes to DIR/valise/DEVICE/APP/ what the stick does not have yet: a receipt for\n" +
			"every install, update and rollback, signed with this device's own key and chained, and\n" +
			"inventory.json, from which \"valise thin --have\" makes the smallest possible next bundle.\n" +
			"\"valise receipts\" checks them.",
		Example: "  valise-installer receipts /media/usb",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stick, err := os.OpenRoot(args[0])
			if err != nil {
				return fmt.Errorf("write receipts: %w", err)
			}
			defer stick.Close()
			apps, err := p.Installed()
			if err != nil {
				return err
			}
			var all []device.Written
			for _, app := range apps {
				w, err := p.WriteReceipts(cmd.Context(), app, stick)
				if err != nil {
					return err
				}
				all = append(all, w)
			}
			return p.Result(all, func(out io.Writer) {
				for _, w := range all {
					fmt.Fprintf(out, "%s: %d new receipts in %s, key %s\n", w.App, w.Receipts, w.Dir, w.Key)
				}
			})
		},
	}
}
