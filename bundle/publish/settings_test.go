package publish

import "testing"

func TestAllows(t *testing.T) {
	const uses = "valise-ota/valise@cd1bc87bc834dab6116e354243e139cb0936ea15"
	for _, tc := range []struct {
		actions, pattern string
		want             bool
	}{
		{"all", "", true},
		{"", "", true}, // of an organisation that says nothing
		{"local_only", "", false},
		{"selected", "docker/*", false},
		{"selected", "valise-ota/*", true},
		{"selected", "Valise-OTA/valise@*", true},
		{"selected", "valise-ota/valise@v1", false},
		{"selected", "valise-ota/val", false},
		{"selected", "*/*", true},
	} {
		if got := (&Allowed{Actions: tc.actions, Patterns: []string{tc.pattern}}).Allows(uses); got != tc.want {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, tc := range []struct {
		include, exclude, tag string
		want                  bool
	}{
		{"~ALL", "", "v1.2.3", true},
		{"refs/tags/v*", "", "v1.2.3", true},
		{"refs/tags/v*", "refs/tags/v*-rc*", "v1.2.3-rc.1", false},
		{"refs/tags/v*", "", "app/v1.2.3", false},
		{"refs/tags/**/*", "", "app/v1.2.3", true},
		{"refs/tags/**/*", "", "v1.2.3", true},
		{"refs/heads/*", "", "v1.2.3", false},
		{"refs/tags/v?.*", "", "v1.2.3", true},
	} {
		rules := TagRules{Include: []string{tc.include}}
		if tc.exclude != "" {
			rules.Exclude = []string{tc.exclude}
		}
		if got := rules.Covers(tc.tag); got != tc.want {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}
