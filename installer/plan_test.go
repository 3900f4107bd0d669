package installer

import (
	"errors"
	"slices"
	"strings"
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
		if got := bundle.VersionNumbers(version); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", version, got, want)
		}
	}
}

// TestCheckSaysAll: who mends one thing after the other is told all of them at once.
func TestCheckSaysAll(t *testing.T) {
	p := &Plan{EnvMissing: []string{"KEY"}, FilesMissing: []string{"/opt/a/f"}, Unmet: []Note{Notef("network %s", "proxy")}, PortsTaken: []string{":80/tcp"}, NeedBytes: 1, FilesNeed: 1}
	err := p.Check()
	if !errors.As(err, new(*MissingEnvError)) || !errors.As(err, new(*MissingFilesError)) || !errors.As(err, new(*LacksError)) || !errors.As(err, new(*PortsError)) {
		t.Error(err)
	}
	for _, want := range []string{"KEY", "/opt/a/f", "network proxy", ":80/tcp", "for the engine", "for the app's files"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if err := (&Plan{}).Check(); err != nil {
		t.Error(err)
	}
}
