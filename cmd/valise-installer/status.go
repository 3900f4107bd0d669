package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/fleet"
)

func statusCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what is installed and whether anything is unfinished",
		Long: "status reads the records, so it works without the engine and during an update. If the engine\n" +
			"or systemd answers, it also shows which parts of the current and previous release are\n" +
			"missing, what does not run, and what restarts again and again.",
		Example: "  valise-installer status\n  valise-installer status --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			app, err := p.TheApp()
			if err != nil {
				return err
			}
			j, st, err := p.ReadState(cmd.Context(), app)
			if err != nil {
				return err
			}
			defer j.Close()
			lost := p.Lost(cmd.Context(), st)
			server, err := p.Fleet(cmd.Context(), app, j)
			if err != nil {
				return err
			}
			held, err := p.Held(cmd.Context(), app)
			if err != nil {
				held = err.Error()
			}
			shown := struct {
				installer.State
				Held  string      `json:"held,omitempty"`
				Lost  []string    `json:"lost,omitempty"`
				Fleet *fleet.Seen `json:"fleet,omitempty"`
			}{st, held, lost, server}
			if err := p.Result(shown, func(w io.Writer) {
				printState(w, st)
				printFleet(w, server)
				if held != "" {
					fmt.Fprintf(w, "%-11s %s\n", "held back", held)
				}
				for _, l := range lost {
					fmt.Fprintf(w, "%-11s %s\n", "lost", l)
				}
			}); err != nil {
				return err
			}
			if u := st.Unfinished; u != nil && u.Attention != "" {
				return cli.WithCode(cli.WithHint(fmt.Errorf("needs attention: %s", u.Attention), "fix the cause and run %q", "valise-installer recover"), cli.ExitAttention)
			}
			return nil
		},
	}
}

func printState(w io.Writer, st installer.State) {
	line := func(label string, r *installer.Release) {
		if r == nil {
			fmt.Fprintf(w, "%-11s none\n", label)
			return
		}
		fmt.Fprintf(w, "%-11s %s, since %s, signed by %s\n", label, r.Version, device.Stamp(r.CommittedAt), r.Signer)
	}
	fmt.Fprintf(w, "%-11s %s\n", "app", st.App)
	line("current", st.Current)
	line("previous", st.Previous)
	for _, v := range st.Bad {
		fmt.Fprintf(w, "%-11s %s\n", "failed", v)
	}
	if st.Path != nil {
		fmt.Fprintf(w, "%-11s %s; \"valise-installer update v%s\" goes on\n", "path", st.Path, st.Path.Target)
	}
	if u := st.Unfinished; u != nil {
		fmt.Fprintf(w, "%-11s %s to %s, begun %s\n", "unfinished", u.Action, u.To.Version, device.Stamp(u.Created))
	}
}

// printFleet says what the server wants that steers the app, and what it could want.
func printFleet(w io.Writer, s *fleet.Seen) {
	if s == nil {
		return
	}
	wants := "nothing"
	if s.Wants != "" {
		wants = fmt.Sprintf("%s (action %s)", s.Wants, s.Action)
	}
	fmt.Fprintf(w, "%-11s %s wants %s of %s\n", "fleet", s.Server, wants, s.ID)
	if s.Newest != "" {
		fmt.Fprintf(w, "%-11s the source has %s, seen first %s\n", "", s.Newest, s.Since)
	}
	if s.Trouble != "" {
		fmt.Fprintf(w, "%-11s it cannot be asked: %s\n", "", cli.OneLine(s.Trouble))
	}
}

func historyCommand(p *program) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:     "history",
		Short:   "Show every install, update and rollback, newest first",
		Example: "  valise-installer history\n  valise-installer history --limit 5 --output json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.history(cmd.Context(), limit) },
	}
	c.Flags().IntVar(&limit, "limit", 50, "maximum number of records")
	return c
}

func (p *program) history(ctx context.Context, limit int) error {
	if limit < 1 {
		return cli.Usagef("--limit is %d, want at least 1", limit)
	}
	app, err := p.TheApp()
	if err != nil {
		return err
	}
	j, _, err := p.ReadState(ctx, app)
	if err != nil {
		return err
	}
	defer j.Close()
	records, err := j.History(ctx, limit, 0)
	if err != nil {
		return err
	}
	return p.Result(records, func(w io.Writer) {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "WHEN\tACTION\tFROM\tTO\tSTATUS\tTOOK\tREASON")
		for _, r := range records {
			from, took := "-", "-"
			if r.From != nil {
				from = r.From.Version
			}
			if !r.Started.IsZero() && r.Ended.After(r.Started) { // the clock may have gone back meanwhile
				took = r.Ended.Sub(r.Started).Round(100 * time.Millisecond).String()
			}
			to := r.To.Version
			if r.Path != nil && r.Path.Hops > 1 {
				to += fmt.Sprintf(" (%s)", r.Path)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", device.Stamp(r.Created), r.Action, from, to, r.Status, took, cli.OneLine(r.Error))
		}
		t.Flush()
		if i := slices.IndexFunc(records, func(r installer.Record) bool { return r.Log != "" }); i >= 0 {
			lines := strings.SplitAfter(strings.TrimRight(records[i].Log, "\n"), "\n")
			more := ""
			if len(lines) > shownLines {
				more = fmt.Sprintf(" (--output json has %d lines)", len(lines))
			}
			fmt.Fprintf(w, "\nlast output of the services of %s, %s%s:\n", records[i].To.Version, device.Stamp(records[i].Created), more)
			for _, line := range lines[max(0, len(lines)-shownLines):] {
				fmt.Fprintf(w, "  %s", line)
			}
			fmt.Fprintln(w)
		}
	})
}

// shownLines are those of a log that history prints beside its table.
const shownLines = 20
