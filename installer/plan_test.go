package installer

import (
	"slices"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

func TestRequires(t *testing.T) {
	for _, tt := range []struct {
		from, current, engine, have string
		ok                          bool
	}{
		{"", "1.0.0", "", "20.10.5", true},
		{"2.9.0", "2.10.0", "", "", true},
		{"2.10.0", "2.9.0", "", "", false},
		{"2.0.0", "2.0.0-rc.1", "", "", false},
		{"2.0.0", "", "", "", true}, // a first installation
		{"", "1.0.0", "23.0", "23.0.1-ce", true},
		{"", "1.0.0", "23.0", "20.10.24+dfsg1", false},
		{"", "1.0.0", "9.1", "29.0-beta.24", true},
		{"", "1.0.0", "29.1", "29.0-beta.24", false},
		{"", "", "23.0", "", true}, // no engine is needed yet, or known
	} {
		m := &bundle.Manifest{Version: "3.0.0", Requires: &bundle.Requires{From: tt.from, Engine: tt.engine}}
		st := State{}
		if tt.current != "" {
			st.Current = &Release{Version: tt.current}
		}
		if err := checkRequires(st, m, tt.have); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	for version, want := range map[string][]int{"20.10.24+dfsg1": {20, 10, 24}, "29.0-beta.24": {29, 0}, "dev": nil, "": nil, "1.x": {1}} {
		if got := numbers(version); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", version, got, want)
		}
	}
}
