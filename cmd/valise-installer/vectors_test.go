package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

// TestVectors runs the format's vectors through the real install: what is refused
// is refused with exit code 4 and one line that names the rule or check, and leaves
// nothing behind. What is good ends later, because there is no engine here.
func TestVectors(t *testing.T) {
	const dir = "../../testdata/vectors"
	files, err := filepath.Glob(filepath.Join(dir, "*.bundle"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, data, _ := strings.Cut(string(b), "\n\n")
		refusedBy := ""
		for line := range strings.Lines(head) {
			switch key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); {
			case key == "expect" && value != "success":
				refusedBy = fmt.Sprintf("(rule %s)", value)
			case key == "verify":
				refusedBy = fmt.Sprintf("check %q", value)
			}
		}
		path := filepath.Join(t.TempDir(), "bundle.tar.gz")
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".bundle"), func(t *testing.T) {
			device := t.TempDir()
			env := map[string]string{"DOCKER_HOST": "unix://" + device + "/no.sock"}
			var stdout, stderr strings.Builder
			got := run(t.Context(), cli.Env{
				Args:   []string{"install", path, "--root", device, "--key", filepath.Join(dir, "signer.pub"), "--progress", "none"},
				Stdin:  strings.NewReader(""),
				Stdout: &stdout, Stderr: &stderr, Getenv: func(key string) string { return env[key] }, Now: time.Now,
			})
			text := stderr.String()
			if refusedBy == "" {
				// A good tree is verified, and then not installed below a directory.
				tree := got == cli.ExitUsage && strings.Contains(text, "the units of an app that is a file tree run on this machine")
				if got == cli.ExitRefused || got == cli.ExitUsage && !tree {
					t.Errorf("exit code %d: %s", got, text)
				}
				return
			}
			if got != cli.ExitRefused {
				t.Errorf("exit code %d, want %d", got, cli.ExitRefused)
			}
			line, rest, _ := strings.Cut(text, "\n")
			if !strings.HasPrefix(line, "valise-installer: ") || !strings.Contains(line, refusedBy) || rest != "" && !strings.HasPrefix(rest, "hint: ") {
				t.Errorf("want one line with %q, got %q", refusedBy, text)
			}
			if stdout.Len() > 0 {
				t.Errorf("prints %q", &stdout)
			}
			if left, err := os.ReadDir(device); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}
