//go:build man

package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/manpage"
)

// The program of scripts/release-files.sh has it, that of devices has not.
func init() { commands = append(commands, manCommand) }

func manCommand(p *program) *cobra.Command {
	return manpage.Command(func() (time.Time, error) {
		seconds, err := strconv.ParseInt(p.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: want seconds since 1970: %w", err)
		}
		return time.Unix(seconds, 0), nil
	})
}
