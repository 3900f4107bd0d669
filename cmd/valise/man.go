package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/manpage"
)

func manCommand(a *app) *cobra.Command {
	return manpage.Command(func() (time.Time, error) { return a.createdAt(nil) })
}
