package bundle_test

import (
	"testing"

	"github.com/valise-ota/valise/bundle"
)

func TestSplitTag(t *testing.T) {
	for tag, want := range map[string][2]string{
		"1.2.3":                    {"", "1.2.3"},
		"v1.2.3":                   {"v", "1.2.3"},
		"V1.2.3":                   {"V", "1.2.3"},
		"2026.11.29":               {"", "2026.11.29"},
		"v1.2.3-rc.1":              {"v", "1.2.3-rc.1"},
		"v1.2.3+exp.4":             {"v", "1.2.3+exp.4"},
		"app/v1.2.3":               {"app/v", "1.2.3"},
		"shop-v1.2.3":              {"shop-v", "1.2.3"},
		"shop-1.2.3-beta.11":       {"shop-", "1.2.3-beta.11"},
		"shop@1.2.3":               {"shop@", "1.2.3"},
		"@acme/shop@1.2.3":         {"@acme/shop@", "1.2.3"},
		"release/1.2.3":            {"release/", "1.2.3"},
		"release-2026-1.2.3":       {"release-2026-", "1.2.3"},
		"shop2-v1.2.3":             {"shop2-v", "1.2.3"},
		"ver1.2.3":                 {"ver", "1.2.3"},
		"v1.2.3-2.0.0":             {"v", "1.2.3-2.0.0"},
		"apps/web3/v10.20.30-rc.1": {"apps/web3/v", "10.20.30-rc.1"},
	} {
		prefix, version, ok := bundle.SplitTag(tag)
		if !ok || prefix != want[0] || version != want[1] {
			t.Errorf("%s: %q %q %t", tag, prefix, version, ok)
		}
	}
	for _, tag := range []string{"", "v1", "v1.2", "v1.2.3.4", "2026.01.05", "latest", "v1.2.3 ", "1.2.3-", "v01.2.3", "main", "v1.2.3/x"} {
		if prefix, version, ok := bundle.SplitTag(tag); ok {
			t.Errorf("%q: %q %q", tag, prefix, version)
		}
	}
}
