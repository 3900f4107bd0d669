package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestVersion: name and version are printed in place of what the program does, whether or not it does something without a subcommand.
func TestVersion(t *testing.T) {
	for _, runs := range []bool{false, true} {
		name := "x " + Version() + "\n"
		for args, want := range map[string]string{
			"--version": name, "-v": name, "--version --output json": name, "--version=false --help": "Usage:", "-vh": "Usage:", "--help": "-v, --version ",
		} {
			var out bytes.Buffer
			root := &cobra.Command{Use: "x"}
			root.AddCommand(&cobra.Command{Use: "sub", Run: func(*cobra.Command, []string) {}})
			if runs {
				root.Run = func(*cobra.Command, []string) { t.Errorf("%s: it ran", args) }
			}
			a := App{Env: Env{Args: strings.Fields(args), Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }}}
			if code := a.Run(t.Context(), root); code != ExitDone || !strings.Contains(out.String(), want) || strings.HasSuffix(want, "\n") && out.String() != want {
				t.Errorf("%s: %d %q, want %q", args, code, out.String(), want)
			}
		}
	}
}
