package installer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/verify/verifytest"
)

// talking is a runtime whose release 1.1.0 is sick, and prints much.
type talking struct {
	installer.Runtime
	say func(w io.Writer) error
}

func (r talking) Probe(ctx context.Context, to installer.Release) error {
	if to.Version == "1.1.0" {
		return errors.New("not healthy")
	}
	return r.Runtime.Probe(ctx, to)
}

func (r talking) LastWords(_ context.Context, to installer.Release, lines int, w io.Writer) error {
	if _, err := fmt.Fprintf(w, "of %s, %d lines\n", to.Version, lines); err != nil {
		return err
	}
	return r.say(w)
}

// TestLastWords keeps what failed services printed with the record: the end of it, in
// text, and no more than fits. What cannot be had keeps nobody from the way back.
func TestLastWords(t *testing.T) {
	for name, c := range map[string]struct {
		say   func(w io.Writer) error
		check func(log string) bool
	}{
		"plain":      {func(io.Writer) error { return nil }, func(log string) bool { return log == "of 1.1.0, 200 lines\n" }},
		"escapes":    {func(w io.Writer) error { _, err := io.WriteString(w, "a\x1b[2Jb\xff\n"); return err }, func(log string) bool { return strings.HasSuffix(log, `a\x1b[2Jb\xff`+"\n") }},
		"many lines": {func(w io.Writer) error { _, err := io.WriteString(w, strings.Repeat("x\n", 1000)+"end\n"); return err }, func(log string) bool { return strings.Count(log, "\n") == 200 && strings.HasSuffix(log, "end\n") }},
		"without end": {func(w io.Writer) error {
			for range 100 {
				_, _ = w.Write(make([]byte, 1<<20))
			}
			return nil
		}, func(log string) bool { return len(log) <= 32<<10 && log != "" }},
		"engine hangs": {func(io.Writer) error { return errors.New("no answer") }, func(log string) bool { return strings.HasPrefix(log, "of 1.1.0") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := verifytest.NewSigner(t)
			d := newDevice(nil)
			d.boot().Update(t.Context(), s.Release(t, bundletest.Spec{Version: "1.0.0"}), 2)
			d.mutant = func(j installer.Journal, r installer.Runtime) (installer.Journal, installer.Runtime) {
				return j, talking{r, c.say}
			}
			res := d.boot().Update(t.Context(), s.Release(t, bundletest.Spec{Version: "1.1.0"}), 2)
			list, err := d.journal.History(t.Context(), 1, 0)
			if err != nil || res.Outcome != installer.Reverted {
				t.Fatal(res, err)
			}
			if log := list[0].Log; !c.check(log) {
				t.Errorf("%d bytes: %.200q", len(log), log)
			}
			if ok, _ := d.journal.History(t.Context(), 2, 1); len(ok) == 0 || ok[0].Log != "" {
				t.Errorf("the record before has %v", ok)
			}
		})
	}
}
