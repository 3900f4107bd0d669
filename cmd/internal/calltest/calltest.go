// Package calltest is for tests: it compares the calls of a program in the documents with
// its commands and flags.
package calltest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

var shell = regexp.MustCompile("(?ms)^( *)```sh\n(.*?)^ *```$")

// Check reports each call of program in the documents below top that has a command, flag or
// arguments which do not exist, and returns how many calls there are. build makes the root
// command again for each, since flags keep their values.
func Check(t *testing.T, top, program string, build func() *cobra.Command) (calls int) {
	t.Helper()
	for name, words := range documented(t, top, program) {
		calls++
		if err := parse(build(), words[1:]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	return calls
}

func parse(root *cobra.Command, args []string) error {
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if help, _ := c.Flags().GetBool("help"); help {
		return nil
	}
	return errors.Join(c.ValidateArgs(c.Flags().Args()), c.ValidateRequiredFlags(), c.ValidateFlagGroups())
}

// documented are the calls of a program in the shell blocks of all documents below top, by
// "FILE: the words of a call": bash itself splits them into words. Nothing else of a
// block is run, and the calls are not carried out.
func documented(t *testing.T, top, program string) map[string][]string {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	files, err := filepath.Glob(filepath.Join(top, "*.md"))
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md", "examples/*/*.md"} {
		some, err2 := filepath.Glob(filepath.Join(top, pattern))
		if err2 != nil {
			t.Fatal(err2)
		}
		files = append(files, some...)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Other commands are not found, since PATH is empty, and do nothing.
	const noted = `command_not_found_handle() { :; }
sudo() { while [ "${1#-}" != "$1" ]; do shift; done; "$@"; }
exec() { "$@"; }; cd() { :; }; read() { :; }; exit() { :; }
`
	functions := noted + fmt.Sprintf("%s() { printf '%%s\\0' %s \"$@\" >&3; printf '\\n\\0' >&3; }\n", program, program)
	path := regexp.MustCompile(`(^|[\s(])(?:\./|dist/|/usr/local/bin/)(` + program + `)\s`)
	all := map[string][]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range shell.FindAllSubmatch(text, -1) {
			if bytes.Contains(m[2], []byte(" [flags]\n")) { // how it is used, not an example
				continue
			}
			block := path.ReplaceAllString(string(m[2]), "$1$2 ")
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan []byte)
			go func() { b, _ := io.ReadAll(r); done <- b }()
			cmd := exec.Command(bash, "-c", functions+block)
			cmd.Dir, cmd.Env, cmd.ExtraFiles = t.TempDir(), []string{"PATH="}, []*os.File{w}
			out, err := cmd.CombinedOutput()
			w.Close()
			called := <-done
			if bytes.Contains(out, []byte("syntax error")) || !utf8.Valid(called) {
				t.Errorf("%s: bash cannot read this (%v): %s\n%s", file, err, out, block)
			}
			for call := range strings.SplitSeq(string(called), "\x00\n\x00") {
				if words := strings.Split(call, "\x00"); call != "" {
					all[filepath.Base(file)+": "+strings.Join(words, " ")] = words
				}
			}
		}
	}
	return all
}
