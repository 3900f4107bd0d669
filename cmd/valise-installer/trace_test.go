package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/trace/tracetest"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// TestTraceFile: a trace is written into a file of its own and into nothing else, and what is
// wrong with that is said once and fails no command.
func TestTraceFile(t *testing.T) {
	root := t.TempDir()
	command := func(file string) (stderr string) {
		t.Helper()
		var out, errs strings.Builder
		env := cli.Env{Program: "valise-installer", Args: []string{"--root", root, "--trace", file, "receipts", t.TempDir()}, Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }, Now: time.Now}
		if code := run(t.Context(), env); code != cli.ExitDone {
			t.Fatalf("exit code %d: %s", code, errs.String())
		}
		return errs.String()
	}
	file := filepath.Join(t.TempDir(), "trace.json")
	for range 2 { // the second one takes the place of the first
		if errs := command(file); strings.Contains(errs, "trace") {
			t.Error(errs)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if spans := tracetest.Spans(t, b); len(spans) != 1 || !strings.HasPrefix(spans[0], "valise-installer receipts ") {
			t.Errorf("got %q", spans)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	dir := t.TempDir()
	victim := filepath.Join(dir, "victim.json")
	write := func(name string) string {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(`["mine"]`), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	write(victim)
	link, loose := filepath.Join(dir, "link.json"), filepath.Join(dir, "loose.json")
	for name, to := range map[string]string{link: file, loose: filepath.Join(dir, "nowhere.json")} {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(file), filepath.Join(dir, "way")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"opt/shop/x", "etc/valise/x", "var/lib/valise/shop/x", "run/valise/x"} {
		write(filepath.Join(root, name))
	}
	for name, want := range map[string]string{
		victim:                                "is there already and is not a trace",
		link:                                  "is there already and is not a trace",
		loose:                                 "is there already and is not a trace",
		filepath.Join(dir, "way/other.json"):  "is a link that user",
		filepath.Join(dir, "trace"):           "does not end in .json",
		filepath.Join(dir, "none/trace.json"): "no such file",
		filepath.Join(root, "opt/shop/compose.override.json"): "below /opt, where apps have their files",
		filepath.Join(root, "etc/valise/t.json"):              "below /etc, where apps have their files",
		filepath.Join(root, "var/lib/valise/shop/t.json"):     "below /var/lib, where apps have their files",
		filepath.Join(root, "run/valise/t.json"):              "below /run, where apps have their files",
		filepath.Join(root, "etc/../opt/shop/t.json"):         "below /opt, where apps have their files",
		"/dev/null/trace.json":                                "not a directory",
	} {
		if errs := command(name); strings.Count(errs, "note: no trace is written: ") != 1 || !strings.Contains(errs, want) {
			t.Errorf("%s: got %q, want %q", name, errs, want)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	env := cli.Env{Program: "valise-installer", Args: []string{"--root", root, "--trace", file, "page"}, Stdout: t.Output(), Stderr: t.Output(), Getenv: func(string) string { return "" }, Now: time.Now}
	if code := run(t.Context(), env); code != cli.ExitUsage { // it does nothing by itself
		t.Errorf("page: exit code %d", code)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != `["mine"]` {
		t.Errorf("another file is %q now (%v)", b, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nowhere.json")); err == nil {
		t.Error("a link led to a new file")
	}
}
