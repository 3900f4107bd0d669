package main

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
)

// TestSentences: whatever the library advises, the program has a sentence for it,
// with as many arguments as the library gives.
func TestSentences(t *testing.T) {
	text, err := os.ReadFile("../../installer/device/errors.go")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^\t\w+ +Advice = "([^"]+)" +// *(.*)$`).FindAllStringSubmatch(string(text), -1)
	if len(all) < 20 {
		t.Fatalf("found %d advices: fix the expression", len(all))
	}
	p := &program{App: cli.App{Env: cli.Env{Stderr: new(strings.Builder)}}}
	for _, a := range all {
		if sentence, ok := remedies[device.Advice(a[1])]; ok {
			given := 0
			if a[2] != "" {
				given = 1 + strings.Count(a[2], ",")
			}
			if strings.Count(sentence, "%") != given {
				t.Errorf("%q: %s, and the library gives %q", a[1], sentence, a[2])
			}
			continue
		}
		advised := &device.Error{Err: errors.New("why"), Advice: device.Advice(a[1])}
		if a[2] != "" && !strings.Contains(a[2], "wrong usage") && !strings.Contains(a[2], "refused") && !strings.Contains(a[2], "adopted") {
			advised.Args = []any{"ARGUMENT"}
			if advised.Advice == device.TakeOver {
				advised.Args = append(advised.Args, "PROJECT")
			}
		}
		err := p.explained(advised)
		hint := cli.Hint(err)
		switch {
		case advised.Advice == device.UnmetCondition:
		case hint == "" && err.Error() == "why":
			t.Errorf("%q has no sentence", a[1])
		case strings.Contains(hint, "%!") || advised.Args != nil && !strings.Contains(hint, "ARGUMENT"):
			t.Errorf("%q: %s", a[1], hint)
		}
	}
}

// TestHaltedMidway: a release that was halted while it was fetched is refused with the exit
// code of one that was halted before.
func TestHaltedMidway(t *testing.T) {
	for from, said := range map[string]string{
		"1.0.0": "valise-installer: 1.1.0 was halted; this device is unchanged\n",
		"":      "valise-installer: 1.1.0 was halted; what it had started is removed again\n",
	} {
		r := installer.Record{ID: "r1", To: installer.Release{Version: "1.1.0"}, Reason: "halted"}
		if from != "" {
			r.From = &installer.Release{Version: from, Dir: from}
		}
		var stderr strings.Builder
		p := &program{App: cli.App{Env: cli.Env{Stdout: new(strings.Builder), Stderr: &stderr, Getenv: os.Getenv}}}
		p.Args = []string{}
		root := &cobra.Command{Use: "valise-installer", RunE: func(*cobra.Command, []string) error {
			return p.end(installer.Result{Outcome: installer.Unchanged, Record: r, Err: errors.New("1.1.0 was halted")}, nil)
		}}
		p.explain(root)
		if code := p.Run(t.Context(), root); code != cli.ExitRefused || stderr.String() != said {
			t.Errorf("exit code %d, %q", code, stderr.String())
		}
	}
}
