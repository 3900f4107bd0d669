package main

import (
	"io"
	"testing"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/calltest"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/device"
)

// TestDocumented: each call of valise-installer and APP-update in the documents has a
// command, flags and arguments that there are.
func TestDocumented(t *testing.T) {
	for name, want := range map[string]int{"valise-installer": 80, "shop-update": 3} {
		n := calltest.Check(t, "../..", name, func() *cobra.Command {
			p := &program{App: cli.App{Env: cli.Env{Args: []string{"--version"}, Stdout: io.Discard, Stderr: io.Discard}}, Machine: new(device.Machine)}
			root := p.newRoot(name)
			if err := p.Execute(t.Context(), root); err != nil { // registers what every command has
				t.Fatal(err)
			}
			return root
		})
		if n < want {
			t.Errorf("found only %d calls of %s", n, name)
		}
	}
}
