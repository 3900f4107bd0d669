package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/receipt"
)

// maxReceipts bounds what one stick may hold: it comes from outside.
const maxReceipts = 100_000

func receiptsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "receipts DIR",
		Short: "Check and list receipts that devices wrote to a stick",
		Long: "receipts reads every receipt below DIR and checks its signature, and that the receipts of\n" +
			"each device are complete: none changed, and none missing between the first and the last. A\n" +
			"receipt proves which key wrote it, not whose key that is: compare the key with the one that\n" +
			"the device showed.\n\n" +
			"DIR is a stick or its directory valise. Receipts are DSSE envelopes, DEVICE/APP/NUMBER.json.\n" +
			"The exit code is 4 if a receipt cannot be trusted.",
		Example: "  valise receipts /media/usb/valise\n  valise receipts /media/usb/valise --output json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.receipts(cmd.Context(), args[0]) },
	}
}

// deviceReceipts are the receipts of one device about one app, oldest first.
type deviceReceipts struct {
	Device   string            `json:"device"`
	App      string            `json:"app"`
	Key      string            `json:"key"`
	Receipts []receipt.Receipt `json:"receipts"`
}

func (a *app) receipts(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	defer root.Close()
	files, err := receiptFiles(root)
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	if len(files) == 0 {
		return fmt.Errorf("read receipts: %s holds none (DEVICE/APP/NUMBER.json)", dir)
	}
	var all []deviceReceipts
	for _, from := range slices.Sorted(maps.Keys(files)) {
		chain, err := receipt.Chain(ctx, files[from])
		if err != nil {
			return cli.WithCode(fmt.Errorf("%s: %w", from, err), cli.ExitRefused)
		}
		all = append(all, deviceReceipts{chain[0].Device, chain[0].App, receipt.Fingerprint(chain[0].Key), chain})
	}
	return a.Result(all, func(w io.Writer) {
		for i, d := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s: app %s, %d receipts, complete from 1 to %d, key %s\n", cli.OneLine(d.Device), d.App, len(d.Receipts), d.Receipts[len(d.Receipts)-1].Sequence, d.Key)
			t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
			for _, r := range d.Receipts {
				fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Sequence, r.Begun.UTC().Format(time.DateTime+"Z"), r.Action, cmp.Or(r.From, "-"), r.To, r.Status, cli.OneLine(r.Reason))
			}
			t.Flush()
		}
	})
}

// receiptFiles reads all receipts of a stick, or of its directory valise, by the
// directory they are in.
func receiptFiles(root *os.Root) (map[string][][]byte, error) {
	var names []string
	for _, pattern := range []string{"valise/*/*/[0-9]*.json", "*/*/[0-9]*.json"} {
		found, err := fs.Glob(root.FS(), pattern)
		if err != nil {
			return nil, err
		}
		names = append(names, found...)
	}
	if len(names) > maxReceipts {
		return nil, fmt.Errorf("%d files, limit %d", len(names), maxReceipts)
	}
	files := map[string][][]byte{}
	for _, name := range names {
		b, err := readRegular(root, name, receipt.MaxSize)
		if err != nil {
			return nil, err
		}
		files[path.Dir(name)] = append(files[path.Dir(name)], b)
	}
	return files, nil
}

// readRegular reads a file of limit bytes at most. A link does not lead out of root, and
// what is not a file, such as a pipe without a writer, is refused before it is opened.
func readRegular(root *os.Root, name string, limit int64) ([]byte, error) {
	if info, err := root.Lstat(name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}
