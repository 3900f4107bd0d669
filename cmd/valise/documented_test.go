package main

import (
	"io"
	"testing"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/calltest"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// TestDocumented: each call of valise in the documents has a command, flags and arguments
// that there are.
func TestDocumented(t *testing.T) {
	n := calltest.Check(t, "../..", "valise", func() *cobra.Command {
		a := &app{App: cli.App{Env: cli.Env{Args: []string{"--version"}, Stdout: io.Discard, Stderr: io.Discard}}}
		root := newRoot(a)
		if err := a.Execute(t.Context(), root); err != nil { // registers what every command has
			t.Fatal(err)
		}
		return root
	})
	if n < 60 {
		t.Errorf("found only %d calls", n)
	}
}
