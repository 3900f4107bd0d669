package cli

import (
	"errors"
	"strings"
)

// Docs is where the documentation of each release is, below the tag. The site
// has the same text; here it is from the moment of the tag on, even where no
// site is published.
const Docs = "https://github.com/valise-ota/valise/blob/"

// see is the section of the documentation about a refusal, "" of another error.
func see(err error) string {
	kind := ""
	if refused := interface {
		error
		Kind() string
	}(nil); errors.As(err, &refused) {
		kind = refused.Kind()
	}
	section := ""
	switch {
	case strings.HasPrefix(kind, "check."):
		section = strings.Replace(kind, ".", "-", 1)
	case kind == "format":
		section = "not-an-acceptable-bundle"
	case explained(kind):
		section = "refusal-" + kind
	case exitCode(err) == ExitAttention:
		section = "exit-code-5"
	default:
		return ""
	}
	ref := "main"
	if version != "" {
		ref = "v" + version
	}
	return Docs + ref + "/docs/troubleshooting.md#" + section
}

// explained reports whether a kind of refusal has a section of its own.
func explained(kind string) bool {
	switch kind {
	case "busy", "data", "engine", "environment", "files", "fleet", "halted", "held", "lacks", "ports", "requirement", "source", "space", "taken", "thin", "time", // by a device
		"image-platform", "permission", "published", "registry-busy", "too-large": // where a release is made
		return true
	}
	return false
}
