package main

import (
	"flag"
	"slices"
	"testing"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/manpage"
	"github.com/valise-ota/valise/installer/device"
)

var update = flag.Bool("update", false, "write docs/reference/valise-installer.md again")

// TestReference: docs/reference/valise-installer.md has all commands and flags,
// also those of APP-update.
func TestReference(t *testing.T) {
	var page string
	before := slices.Clone(commands)
	defer func() { commands = before }()
	commands = append(commands, func(*program) *cobra.Command {
		return &cobra.Command{Use: "reference", Hidden: true, RunE: func(c *cobra.Command, _ []string) error {
			page = manpage.Markdown(c.Root())
			return nil
		}}
	})
	env := cli.Env{Program: "valise-installer", Args: []string{"reference"}, Stdout: t.Output(), Stderr: t.Output(), Getenv: func(string) string { return "" }}
	if code := run(t.Context(), env); code != cli.ExitDone {
		t.Fatalf("exit code %d", code)
	}
	p := &program{Machine: new(device.Machine)}
	bundletest.Page(t, "../..", "valise-installer.md", page+"\n#"+manpage.Markdown(p.appUpdateRoot("shop")), *update)
}
