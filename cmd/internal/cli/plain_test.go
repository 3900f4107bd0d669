package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/ui"
)

// FuzzPrinted: a stranger's text in every place that a command prints to comes out as
// what it is, and JSON means the same.
func FuzzPrinted(f *testing.F) {
	for _, s := range []string{"plain", "\x1b]0;owned\a\x1b[2J", "tar.\u202egnp", "a\u200bb\r", "\xff\x9b", "\u2028\U000e0041", "%s\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, output := range []string{"text", "json"} {
			for _, progress := range []string{ui.Plain, ui.TTY} {
				var stdout, stderr bytes.Buffer
				a := App{Env: Env{Args: []string{"do", "--output", output, "--progress", progress}, Stdout: &stdout, Stderr: &stderr, Now: time.Now, Getenv: func(string) string { return "1" }}}
				root := &cobra.Command{Use: "program"}
				root.AddCommand(&cobra.Command{Use: "do", RunE: func(*cobra.Command, []string) error {
					a.Note("%s", s)
					a.UI.Step(s, s)
					if progress == ui.Plain { // a bar is drawn with escapes of its own
						update, finish := a.UI.Track(s)
						update(1, 2)
						finish(errors.New(s))
					}
					fmt.Fprintln(a.Stderr, s)
					if err := a.Result(map[string]string{"text": s}, func(w io.Writer) { fmt.Fprintf(w, "%s\n", s) }); err != nil {
						return err
					}
					return WithHint(errors.New(s), "%s", s)
				}})
				a.Run(context.Background(), root)
				for _, out := range []string{stdout.String(), stderr.String(), Explain(WithHint(errors.New(s), "%s", s))} {
					if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsGraphic(r) }); i >= 0 {
						t.Fatalf("%s: %q comes out as %q", progress, s, out)
					}
				}
				var want, got map[string]string
				b, _ := json.Marshal(map[string]string{"text": s})
				_ = json.Unmarshal(b, &want)
				if err := json.Unmarshal(stdout.Bytes(), &got); output == "json" && (err != nil || got["text"] != want["text"]) {
					t.Fatalf("%q as JSON is %s (%v)", s, stdout.String(), err)
				}
			}
		}
	})
}
