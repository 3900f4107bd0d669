package main

import (
	"testing"

	"github.com/valise-ota/valise/cmd/internal/starttest"
)

// TestStart holds what every command does before its first line: this program is
// started for each build step, and on a device for each thing that is asked.
func TestStart(t *testing.T) {
	starttest.Check(t, map[string]string{
		"github.com/distribution/reference":  "Docker's client names images by it",
		"github.com/asaskevich/govalidator":  "sigstore-go verifies Rekor entries with go-openapi/strfmt, which compiles its expressions",
		"github.com/yuin/goldmark/extension": "its expression of links; notes are Markdown",
	})
}
