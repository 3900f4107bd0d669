package main

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

// commands are the subcommands. Each stands in a file of its own.
var commands = []func(*app) *cobra.Command{
	initCommand,
	buildCommand,
	joinCommand,
	keygenCommand,
	signCommand,
	verifyCommand,
	trustCommand,
	inspectCommand,
	diffCommand,
	thinCommand,
	engineCommand,
	receiptsCommand,
	fleetCommand,
	affectedCommand,
	pushCommand,
	publishCommand,
	rolloutCommand,
	doctorCommand,
	actionCommand,
	schemaCommand,
	manCommand,
}

// app is what the subcommands share.
type app struct {
	cli.App
	root func(*app) *cobra.Command // of a command line of this program

	noInstaller bool // was said
}

func run(ctx context.Context, e cli.Env) int {
	a := &app{App: cli.App{Env: e}, root: newRoot}
	return a.Run(ctx, newRoot(a))
}

// call runs another command line of this program, decodes its result into out,
// and leaves what it tells people on stderr.
func (a *app) call(ctx context.Context, out any, args ...string) error {
	var result bytes.Buffer
	e := a.Env
	e.Args, e.Stdout = append(slices.Clone(args), "--output=json", "--progress="+a.UI.Mode()), &result
	other := &app{App: cli.App{Env: e}, root: a.root}
	if err := other.Execute(ctx, a.root(other)); err != nil {
		return err
	}
	return json.Unmarshal(result.Bytes(), out)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "valise",
		Short: "Build, sign, verify and inspect sealed release bundles",
		Long: "valise packs a release (images for every platform, compose file, installer) into one signed\n" +
			"file whose manifest pins every byte. valise-installer installs that file on a device.\n\n" +
			"Results go to stdout, everything else to stderr.\n\n" +
			"Exit codes: 0 done, 1 failed, 4 the bundle was refused, 64 wrong usage.",
		Example: "  valise build 1.2.3\n  valise sign dist/shop-1.2.3.tar.gz --key cosign.key\n  valise verify dist/shop-1.2.3.tar.gz --key cosign.pub",
	}
	for _, c := range commands {
		root.AddCommand(c(a))
	}
	return root
}
