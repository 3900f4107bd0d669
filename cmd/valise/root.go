package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

// commands are the subcommands. Each stands in a file of its own.
var commands = []func(*app) *cobra.Command{
	initCommand,
	buildCommand,
	keygenCommand,
	signCommand,
	verifyCommand,
	inspectCommand,
	diffCommand,
	thinCommand,
	receiptsCommand,
	receiptsCommand,
	schemaCommand,
	manCommand,
}

// app is what the subcommands share.
type app struct{ cli.App }

func run(ctx context.Context, e cli.Env) int {
	a := &app{cli.App{Env: e}}
	root := &cobra.Command{
		Use:   "valise",
		Short: "Build, sign, verify and inspect sealed release bundles",
		Long: "valise packs a release (images for every platform, compose file, installer) into one\n" +
			"file whose manifest pins every byte. valise-installer carries that file onto a device.\n\n" +
			"Results go to stdout, everything else to stderr.\n\n" +
			"Exit codes: 0 done, 1 failed, 4 the bundle is refused, 64 wrong usage.",
		Example: "  valise build 1.2.3\n  valise sign dist/shop-1.2.3.tar.gz --key cosign.key\n  valise verify dist/shop-1.2.3.tar.gz --key cosign.pub",
	}
	for _, c := range commands {
		root.AddCommand(c(a))
	}
	return a.Run(ctx, root)
}
