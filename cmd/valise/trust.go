package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/verify"
)

func trustCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "trust", Short: "Update the Sigstore trusted root", Args: cobra.NoArgs,
		Long: "trust manages the trusted root, which verifies the certificates of keyless signatures."}
	var f trustFlags
	update := &cobra.Command{
		Use:   "update [FILE]",
		Short: "Get the newest trusted root",
		Long: "update writes the current trusted root of the public Sigstore instance to FILE, default\n" +
			"trusted_root.json. It is verified with TUF, starting from a root that is built in. --from\n" +
			"takes a file that you brought, for machines without a network. A root that is older than the\n" +
			"one in FILE, or the built-in one, is refused.\n\n" +
			"Name FILE in valise.yaml (trust: {trusted_root: FILE}) to add it to every bundle: a device\n" +
			"uses it once it has installed the release.",
		Example: "  valise trust update\n  valise trust update --from /media/usb/trusted_root.json\n" +
			"  valise trust update private.json --mirror https://tuf.example.com --root root.json",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.updateTrust(append(args, "trusted_root.json")[0], f)
		},
	}
	update.Flags().StringVar(&f.from, "from", "", "trusted_root.json to use instead of the network")
	update.Flags().StringVar(&f.mirror, "mirror", sign.PublicMirror, "TUF repository")
	update.Flags().StringVar(&f.root, "root", "", "root.json of another TUF repository, from a source that you trust")
	update.MarkFlagsMutuallyExclusive("from", "mirror")
	update.MarkFlagsMutuallyExclusive("from", "root")
	c.AddCommand(update)
	return c
}

type trustFlags struct{ from, mirror, root string }

func (a *app) updateTrust(path string, f trustFlags) error {
	fresh, err := a.freshRoot(f)
	if err != nil {
		return err
	}
	date, err := verify.RootDate(fresh)
	if err != nil {
		return fmt.Errorf("read trusted root: %w", err)
	}
	// What is there is the measure; else, for the public instance, what is built in.
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		have, err = nil, nil
		if f.mirror == sign.PublicMirror && f.from == "" {
			have = verify.PublicGood
		}
	}
	if err != nil {
		return fmt.Errorf("read trusted root: %w", err)
	}
	if have != nil {
		old, err := verify.RootDate(have)
		if err != nil {
			return fmt.Errorf("read trusted root %s: %w", path, err)
		}
		if date.Before(old) {
			return &verify.Error{Check: verify.CheckTrust, Reason: fmt.Sprintf("the trusted root was last changed %s, the one that is here %s: an old one is handed out", date.Format(time.DateOnly), old.Format(time.DateOnly))}
		}
	}
	result := struct {
		File    string        `json:"file"`
		Digest  bundle.Digest `json:"sha256"`
		Changed time.Time     `json:"changed"` // when it was last changed, as far as it shows
		Updated bool          `json:"updated"`
	}{path, bundle.DigestOf(fresh), date, !bytes.Equal(have, fresh)}
	if err := writeFile(path, fresh); err != nil {
		return fmt.Errorf("write trusted root: %w", err)
	}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s  last changed %s\nnext: trust: {trusted_root: %s} in valise.yaml takes it to devices\n", path, date.Format(time.DateOnly), path)
	})
}

func (a *app) freshRoot(f trustFlags) ([]byte, error) {
	if f.from != "" {
		b, err := os.ReadFile(f.from)
		if err != nil {
			return nil, fmt.Errorf("read trusted root: %w", err)
		}
		return b, nil
	}
	var tufRoot []byte
	if f.root != "" {
		var err error
		if tufRoot, err = os.ReadFile(f.root); err != nil {
			return nil, fmt.Errorf("read TUF root: %w", err)
		}
	} else if f.mirror != sign.PublicMirror {
		return nil, cli.Usagef("--mirror needs --root: nothing else proves what another repository publishes")
	}
	b, err := sign.FetchTrustedRoot(f.mirror, tufRoot)
	if err != nil {
		return nil, cli.WithHint(err, "without a network: --from FILE")
	}
	return b, nil
}
