package installer_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer"
)

// TestWay: releases are written VERSION or VERSION<LOWEST, the target last.
func TestWay(t *testing.T) {
	long := make([]string, installer.MaxHops+2)
	for i := range long {
		long[i] = fmt.Sprintf("1.%d.0<1.%d.0", i+1, i)
	}
	for name, tc := range map[string]struct{ current, releases, want string }{
		"at once":                     {"1.0.0", "1.1.0 1.2.0<1.0.0 2.0.0", "2.0.0"},
		"three stops":                 {"1.0.0", "1.1.0 1.2.0<1.1.0 1.3.0<1.2.0", "1.1.0 1.2.0 1.3.0"},
		"the newest that will do":     {"1.0.0", "1.1.0 1.1.9 1.2.0<1.1.0", "1.1.9 1.2.0"},
		"as few as can be":            {"1.0.0", "1.1.0 1.2.0<1.1.0 1.3.0 1.4.0<1.2.0", "1.3.0 1.4.0"},
		"an older one leads there":    {"1.0.0", "1.1.0 1.2.0<1.1.0 1.2.9<1.2.0 2.0.0<1.2.0", "1.1.0 1.2.0 2.0.0"},
		"the stop itself has a patch": {"1.9.0", "2.4.0<1.9.0 2.4.7<1.9.0 2.4.8<2.4.0 3.0.0<2.4.0", "2.4.7 3.0.0"},
		// The stops that Sentry and GitLab publish for people who host them.
		"stops of months":             {"9.1.1", "9.1.2 20.6.0<9.1.2 21.5.0<9.1.2 21.6.3<21.5.0 22.12.0<21.6.3 23.6.2<21.6.3 23.11.0<23.6.2 24.8.0<23.11.0 24.9.0<24.8.0", "9.1.2 21.5.0 21.6.3 23.6.2 23.11.0 24.8.0 24.9.0"},
		"stops of years":              {"14.0.12", "14.3.0 14.3.6 14.9.5<14.3.0 14.10.5<14.9.0 15.0.5<14.10.0 15.1.6<15.0.0 15.4.6<15.1.0 15.11.0<15.4.0 15.11.11<15.4.0 16.1.0<15.11.0", "14.3.6 14.9.5 14.10.5 15.0.5 15.1.6 15.4.6 15.11.11 16.1.0"},
		"one cannot be used":          {"1.0.0", "1.1.0 1.1.1! 1.2.0<1.1.0", "1.1.0 1.2.0"},
		"not in the middle":           {"1.5.0", "1.1.0 1.2.0<1.1.0 1.3.0<1.2.0", "1.3.0"},
		"of build metadata":           {"1.0.0", "1.1.0+a 1.2.0<1.1.0+b", "1.1.0+a 1.2.0"},
		"a stop is missing":           {"1.0.0", "1.1.0 1.3.0<1.2.0", "none: an update to 1.3.0 starts from 1.2.0"},
		"a stop of a stop is missing": {"1.0.0", "1.2.0<1.1.0 1.3.0<1.2.0", "none: an update to 1.2.0 starts from 1.1.0"},
		"round and round":             {"1.0.0", "1.1.0<1.1.0 1.2.0<1.3.0 1.3.0<1.2.0", "none: an update to 1.3.0 starts from 1.2.0"},
		"from later than itself":      {"1.0.0", "1.1.0<9.0.0 1.2.0<1.1.0", "none: an update to 1.2.0 starts from 1.1.0"},
		"too long":                    {"1.0.0", strings.Join(long, " "), "none: no way leads from 1.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			from, usable, target := map[string]string{}, map[string]bool{}, ""
			var between []string
			for _, r := range strings.Fields(tc.releases) {
				v, bad := strings.CutSuffix(r, "!")
				v, f, _ := strings.Cut(v, "<")
				from[v], usable[v], target = f, !bad, v
				between = append(between, v)
			}
			asked := 0
			way, err := installer.Way(tc.current, target, between, func(v string) (string, bool, error) {
				asked++
				return from[v], usable[v], nil
			})
			got := strings.Join(way, " ")
			if no := new(installer.NoWayError); errors.As(err, &no) {
				got = "none: " + err.Error()
			} else if err != nil {
				t.Fatal(err)
			}
			if want, none := strings.CutPrefix(tc.want, "none: "); got != tc.want && !(none && strings.HasPrefix(got, tc.want)) {
				t.Errorf("got %q, want %q", got, want)
			}
			if asked > (len(between)+1)*(len(between)+1) {
				t.Errorf("%d releases were asked for", asked)
			}
		})
	}
	broken := errors.New("no network")
	if _, err := installer.Way("1.0.0", "1.1.0", nil, func(string) (string, bool, error) { return "", true, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// TestPathTo counts on where an earlier update ended.
func TestPathTo(t *testing.T) {
	st := installer.State{Current: &installer.Release{Version: "1.1.0"}}
	was := &installer.Path{Target: "1.3.0", Hop: 1, Hops: 3, Version: "1.1.0"}
	for name, tc := range map[string]struct {
		was    *installer.Path
		target string
		left   int
		want   string
	}{
		"from the start":   {nil, "1.3.0", 2, "1 of 2 to 1.3.0"},
		"on":               {was, "1.3.0", 2, "2 of 3 to 1.3.0"},
		"again":            {&installer.Path{Target: "1.3.0", Hop: 2, Hops: 3, Version: "1.2.0"}, "1.3.0", 2, "2 of 3 to 1.3.0"},
		"somewhere else":   {was, "1.4.0", 2, "1 of 2 to 1.4.0"},
		"a shorter way":    {was, "1.3.0", 1, "2 of 2 to 1.3.0"},
		"nothing else yet": {nil, "1.2.0", 1, "1 of 1 to 1.2.0"},
	} {
		st.Path = tc.was
		if got := st.PathTo(tc.target, tc.left).String(); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
