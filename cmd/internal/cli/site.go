package cli

import (
	"errors"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/verify"
)

// Site is where the documentation of every release is, each in a directory.
const Site = "https://valise-ota.github.io/valise/"

// see is the section of the site about a refusal, "" of another error.
func see(err error) string {
	page := Site + "main/"
	if version != "" {
		page = Site + "v" + version + "/"
	}
	page += "troubleshooting#"
	if refused := new(verify.Error); errors.As(err, &refused) {
		return page + "check-" + refused.Check
	}
	if errors.As(err, new(*bundle.FormatError)) {
		return page + "not-an-acceptable-bundle"
	}
	return ""
}
