package project

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestDraftPrograms drafts apps without containers from what builds of others leave, and
// reads what it drafted.
func TestDraftPrograms(t *testing.T) {
	const amd64, arm64, arm = "\x3e", "\xb7", "\x28"
	program := func(machine string) string { // the beginning of an ELF file
		return "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x03\x00" + machine + "\x00" + strings.Repeat("\x00", 44)
	}
	unit := func(exec string) string { return "[Service]\nExecStartPre=-/bin/true\nExecStart=" + exec + " serve\n" }
	for name, tc := range map[string]struct {
		files     map[string]string
		want      []string // of the project
		platforms string
		notes     []string
		unit      string // that is drafted
	}{
		"goreleaser": {
			map[string]string{"dist/agent_linux_amd64_v1/agent": program(amd64), "dist/agent_linux_arm64_v8.0/agent": program(arm64), "dist/artifacts.json": "{}"},
			[]string{`- {from: "dist/agent_linux_{{.Arch}}/agent", to: bin/agent}`, "arch: {linux/amd64: amd64_v1, linux/arm64: arm64_v8.0}", "units: [packaging/agent.service]", "required: [bin/agent]"},
			"linux/amd64, linux/arm64", []string{"packaging/agent.service is drafted"}, "packaging/agent.service",
		},
		"cargo": {
			map[string]string{"target/x86_64-unknown-linux-musl/release/agent": program(amd64), "target/x86_64-unknown-linux-musl/release/deps/agent-1f": program(amd64),
				"target/aarch64-unknown-linux-musl/release/agent": program(arm64), "target/debug/agent": program(amd64), "deploy/agent.service": unit("/usr/local/bin/agent")},
			[]string{`- {from: "target/{{.Arch}}/release/agent", to: bin/agent}`, "arch: {linux/amd64: x86_64-unknown-linux-musl, linux/arm64: aarch64-unknown-linux-musl}", "units: [deploy/agent.service]"},
			"linux/amd64, linux/arm64", []string{"deploy/agent.service starts /usr/local/bin/agent; a release is in /opt/agent/current, so write /opt/agent/current/bin/agent there"}, "",
		},
		"make": {
			map[string]string{"build/agent-linux-amd64": program(amd64), "build/agent-linux-arm64": program(arm64), "build/agent-linux-arm-v7": program(arm), "build/agent-darwin-arm64": "\xcf\xfa\xed\xfe",
				"build/only-linux-amd64": program(amd64), "agent.service": unit("/opt/agent/current/bin/agent")},
			[]string{`- {from: "build/agent-linux-{{.Arch}}", to: bin/agent}`, "arch: {linux/arm/v7: arm-v7}", "units: [agent.service]", "required: [bin/agent]"},
			"linux/amd64, linux/arm/v7, linux/arm64", []string{"build/only-linux-{{.Arch}} is left out: it is not built for linux/arm/v7, linux/arm64"}, "",
		},
		"one machine": {
			map[string]string{"agent": program(amd64), "run.sh": "#!/bin/sh\n", "lib/libx.so.1": program(amd64)},
			[]string{"- {from: agent, to: bin/agent}"}, "linux/amd64", nil, "packaging/agent.service",
		},
		"not built": {
			map[string]string{"packaging/agent.service": unit("/opt/agent/current/bin/agent"), "packaging/other.service": unit("/usr/bin/other"), "packaging/x.service": unit("/usr/bin/python3")},
			[]string{`- {from: "dist/{{.OS}}-{{.Arch}}", to: bin}`, "required: [bin/agent]"}, "linux/amd64, linux/arm64", []string{"is an example", "packaging/other.service starts /usr/bin/other, which is not in the release: put it into the tree"}, "",
		},
		"hostile": {
			map[string]string{"a{{.X}}\n": program(amd64), "b\n- evil": program(amd64), "node_modules/x/y": program(amd64), "c": program("\xff"), "short": "\x7fELF"},
			nil, "", nil, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "agent")
			for file, text := range tc.files {
				write(t, filepath.Join(dir, file), text)
				if strings.HasPrefix(text, "\x7fELF") || strings.HasPrefix(text, "#!") {
					if err := os.Chmod(filepath.Join(dir, file), 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			d, err := NewTreeDraft(dir)
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == nil {
				if d != nil {
					t.Errorf("drafted %s", d.YAML)
				}
				return
			}
			for _, want := range append(tc.want, "platforms: ["+tc.platforms+"]") {
				if !strings.Contains(string(d.YAML), want) {
					t.Errorf("no %q in\n%s", want, d.YAML)
				}
			}
			for _, want := range tc.notes {
				if !strings.Contains(strings.Join(d.Notes, "\n"), want) {
					t.Errorf("no note %q: %q", want, d.Notes)
				}
			}
			if (d.Files[tc.unit] != nil) != (tc.unit != "") || len(d.Files) > 1 {
				t.Errorf("files %v", d.Files)
			}
			for file, text := range d.Files {
				write(t, filepath.Join(dir, file), string(text))
			}
			if name == "not built" {
				return
			}
			write(t, filepath.Join(dir, DefaultFile), string(d.YAML))
			p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Release(t.Context(), "1.2.3", p.Platforms); err != nil {
				t.Error(err)
			}
			if p.App != "agent" || !bundle.ValidApp(p.App) {
				t.Error(p.App)
			}
		})
	}
}
