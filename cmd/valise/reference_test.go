package main

import (
	"testing"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/manpage"
)

// TestReference: docs/reference/valise.md has all commands and flags.
func TestReference(t *testing.T) {
	a := &app{App: cli.App{Env: cli.Env{Args: []string{"--version"}, Stdout: t.Output(), Stderr: t.Output()}}}
	root := newRoot(a)
	if err := a.Execute(t.Context(), root); err != nil { // registers what every command has
		t.Fatal(err)
	}
	bundletest.Page(t, "../..", "valise.md", manpage.Markdown(root), *update)
}
