package main

import (
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestTagPattern(t *testing.T) {
	for _, tc := range []struct {
		pattern, tag string
		want         bool
	}{
		{"v*", "v1.2.3", true},
		{"v*", "app/v1.2.3", false},
		{"v*", "v1/2", false},
		{"**", "app/v1.2.3", true},
		{"**/v*", "app/v1.2.3", true},
		{"[0-9]*", "2026.11.29", true},
		{"[0-9]*", "v1", false},
		{"v[0-9]+.[0-9]+.[0-9]+", "v10.2.33", true},
		{"v[0-9]+.[0-9]+.[0-9]+", "v1.2.3-rc.1", false},
		{"v1.?", "v1.", true}, // GitHub's ? follows what may be there
		{"shop@*", "shop@1.2.3", true},
		{`v1\*`, "v1*", true},
		{"v(1)*", "v(1)2", true},
		{"[", "[", false},
	} {
		on := triggers{tags: []string{tc.pattern}}
		if got := on.startsFor(tc.tag); got != tc.want {
			t.Errorf("%s, %s: got %v", tc.pattern, tc.tag, got)
		}
	}
	on := triggers{tags: []string{"v*", "!v*-rc*", "v2*"}}
	for tag, want := range map[string]bool{"v1.0.0": true, "v1.0.0-rc.1": false, "v2.0.0-rc.1": true} {
		if got := on.startsFor(tag); got != want {
			t.Errorf("%s: got %v", tag, got)
		}
	}
}

func TestTriggers(t *testing.T) {
	for text, want := range map[string]struct {
		any    bool
		tags   int
		branch string
	}{
		"push":                                  {true, 0, ""},
		"[push, workflow_dispatch]":             {true, 0, ""},
		"{push: }":                              {true, 0, ""},
		"{push: {branches: [main]}}":            {false, 0, "main"},
		"{push: {branches: ['release/**']}}":    {false, 0, ""},
		"{push: {tags: 'v*', branches: main}}":  {false, 1, ""},
		"{push: {tags-ignore: ['x*']}}":         {false, 1, ""},
		"{workflow_dispatch: , pull_request: }": {false, 0, ""},
	} {
		var w hubWorkflow
		if err := yaml.Load([]byte("on: "+text+"\n"), &w); err != nil {
			t.Fatal(err)
		}
		if got := triggersOf(w.On); got.any != want.any || len(got.tags) != want.tags || got.branch != want.branch {
			t.Errorf("%s: got %+v", text, got)
		}
	}
}

func TestLevels(t *testing.T) {
	for _, tc := range []struct{ job, workflow, want, token string }{
		{"", "", levelDefault, levelNone},
		{"{contents: write}", "{}", levelWrite, levelNone},
		{"", "{contents: write, id-token: write}", levelWrite, levelWrite},
		{"{contents: read}", "write-all", "read", levelNone},
		{"write-all", "{}", levelWrite, levelWrite},
		{"", "read-all", "read", "read"},
		{"{}", "write-all", levelNone, levelNone},
	} {
		var j hubJob
		var w hubWorkflow
		for text, into := range map[string]any{tc.job: &j, tc.workflow: &w} {
			if err := yaml.Load([]byte("permissions: "+text+"\n"), into); err != nil {
				t.Fatal(err)
			}
		}
		if tc.job == "" {
			j = hubJob{}
		}
		if tc.workflow == "" {
			w = hubWorkflow{}
		}
		if got := levelOf(j.Permissions, w.Permissions, "contents", levelDefault); got != tc.want {
			t.Errorf("%+v: contents is %s", tc, got)
		}
		if got := levelOf(j.Permissions, w.Permissions, "id-token", levelNone); got != tc.token {
			t.Errorf("%+v: id-token is %s", tc, got)
		}
	}
}
