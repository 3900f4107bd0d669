package cli

import (
	"errors"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/verify"
)

// Docs is where the documentation of each release is, below the tag. The site
// has the same text; here it is from the moment of the tag on, even where no
// site is published.
const Docs = "https://github.com/valise-ota/valise/blob/"

// see is the section of the documentation about a refusal, "" of another error.
func see(err error) string {
	ref := "main"
	if version != "" {
		ref = "v" + version
	}
	page := Docs + ref + "/docs/troubleshooting.md#"
	if refused := new(verify.Error); errors.As(err, &refused) {
		return page + "check-" + refused.Check
	}
	if errors.As(err, new(*bundle.FormatError)) {
		return page + "not-an-acceptable-bundle"
	}
	return ""
}
