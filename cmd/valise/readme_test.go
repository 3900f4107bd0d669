package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadme types what the README says under "Try it in a minute", in an empty
// directory. What it would download and compile is here already.
func TestReadme(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash")
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Try it in a minute\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) != 2 {
		t.Fatalf("found %d blocks of commands, want 2", len(blocks))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The test's own program is valise when it is called so: see TestMain.
	bash := func(in, script string) (string, error) {
		cmd := exec.Command("bash", "-euc", script)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "HOME="+dir, "COSIGN_PASSWORD=example", "REPOSITORY="+repository, "SELF="+self)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := bash(dir, `git() { mkdir valise && cp -r "$REPOSITORY/examples" valise/; }
go() { [ "$*" = "build ./cmd/valise" ] && ln -s "$SELF" valise; }
`+blocks[0])
	if err != nil || !strings.Contains(out, "ok: hello 1.0.0, signed by key sha256:") {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err = bash(filepath.Join(dir, "valise"), blocks[1])
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 4 || !strings.Contains(out, "valise: not an acceptable bundle: ") {
		t.Errorf("%v, want exit code 4\n%s", err, out)
	}
}
