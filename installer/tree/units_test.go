package tree

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer/systemd"
)

// TestWanted: what runs when an app does, of units as strangers have them.
func TestWanted(t *testing.T) {
	unit := func(name, flags string, wants ...string) systemd.Unit {
		return systemd.Unit{Name: name, Installable: strings.Contains(flags, "i"), Oneshot: strings.Contains(flags, "1"), Wants: wants}
	}
	trigger := func(name, what string) systemd.Unit {
		return systemd.Unit{Name: name, Installable: true, Triggers: []string{what}}
	}
	for _, tc := range []struct {
		name, want string
		list       []systemd.Unit
		mine       string // an instance that the release does not name
	}{
		{"a socket and its service", "a.socket", []systemd.Unit{trigger("a.socket", "a.service"), unit("a.service", "")}, ""},
		{"both start at boot", "a.service a.socket", []systemd.Unit{trigger("a.socket", "a.service"), unit("a.service", "i")}, ""},
		{"a timer and its job", "j.timer", []systemd.Unit{unit("j.service", "1i"), trigger("j.timer", "j.service")}, ""},
		{"a job of its own", "j.service", []systemd.Unit{unit("j.service", "1i")}, ""},
		{"a target and what it wants", "a.service a.target b.service", []systemd.Unit{unit("b.service", ""), unit("a.service", "", "b.service", "network.target"), unit("a.target", "i", "a.service")}, ""},
		{"a handler of failures", "a.service", []systemd.Unit{unit("a.service", "i"), unit("alarm.service", "")}, ""},
		{"nothing starts at boot", "a.service b.service", []systemd.Unit{unit("a.service", ""), unit("b.service", "")}, ""},
		{"a person's instance", "w@1.service", []systemd.Unit{unit("w@1.service", "i"), unit("w@mine.service", "i")}, "w@mine.service"},
	} {
		var named []string
		for _, u := range tc.list {
			if u.Name != tc.mine {
				named = append(named, u.Name)
			}
		}
		got := wanted(tc.list, named)
		maps.DeleteFunc(got, func(_ string, want bool) bool { return !want })
		if text := strings.Join(slices.Sorted(maps.Keys(got)), " "); text != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, text, tc.want)
		}
	}
}

func TestConcerns(t *testing.T) {
	for _, tc := range []struct {
		file, unit string
		want       bool
	}{
		{"a.service", "a.service", true}, {"a.service.d/x.conf", "a.service", true}, {"a.service", "b.service", false},
		{"w@.service", "w@1.service", true}, {"w@.service.d/x.conf", "w@1.service", true}, {"w@1.service.d/x.conf", "w@2.service", false},
	} {
		if got := concerns(tc.file, tc.unit); got != tc.want {
			t.Errorf("%s and %s: %v", tc.file, tc.unit, got)
		}
	}
}
