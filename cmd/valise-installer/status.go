package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
)

func statusCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show what is installed and whether anything is unfinished",
		Long:    "status reads the records: it works without the engine and while an update runs. Where the\nengine answers it says too what of the current and the previous release is lost.",
		Example: "  valise-installer status\n  valise-installer status --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			app, err := p.theApp()
			if err != nil {
				return err
			}
			j, st, err := p.readState(cmd.Context(), app)
			if err != nil {
				return err
			}
			defer j.Close()
			lost := p.lost(cmd.Context(), st)
			shown := struct {
				installer.State
				Lost []string `json:"lost,omitempty"`
			}{st, lost}
			if err := p.Result(shown, func(w io.Writer) {
				printState(w, st)
				for _, l := range lost {
					fmt.Fprintf(w, "%-11s %s\n", "lost", l)
				}
			}); err != nil {
				return err
			}
			if u := st.Unfinished; u != nil && u.Attention != "" {
				return cli.WithCode(cli.WithHint(fmt.Errorf("needs attention: %s", u.Attention), "mend the cause and run %q", "valise-installer recover"), cli.ExitAttention)
			}
			return nil
		},
	}
}

// lost says what the current and the previous release of compose apps lack, as
// far as it can be known now: somebody may have pruned their images.
func (p *program) lost(ctx context.Context, st installer.State) (lost []string) {
	if st.Unfinished != nil || kindIn(st) != bundle.KindCompose {
		return nil
	}
	engine, err := p.connect(ctx)
	if err != nil {
		return nil
	}
	defer engine.Close()
	store, err := release.Open(p.appDir(st.App))
	if err != nil {
		return nil
	}
	defer store.Close()
	a := p.runtime(st.App, store, engine, nil)
	for _, r := range []*installer.Release{st.Current, st.Previous} {
		if r == nil {
			continue
		}
		err := a.Whole(ctx, *r)
		if err == nil {
			continue
		}
		remedy := "an update with the bundle of " + r.Version + " brings it back"
		if r == st.Previous {
			remedy = "its bundle is not here: there is no way back to it"
			if b, err := a.Retained(*r); err == nil && b != nil {
				remedy = "a rollback takes its images from " + b.Name
				b.Close()
			}
		}
		lost = append(lost, fmt.Sprintf("%s: %s; %s", r.Version, cli.OneLine(err.Error()), remedy))
	}
	return lost
}

func printState(w io.Writer, st installer.State) {
	line := func(label string, r *installer.Release) {
		if r == nil {
			fmt.Fprintf(w, "%-11s none\n", label)
			return
		}
		fmt.Fprintf(w, "%-11s %s, since %s, signed by %s\n", label, r.Version, stamp(r.CommittedAt), r.Signer)
	}
	fmt.Fprintf(w, "%-11s %s\n", "app", st.App)
	line("current", st.Current)
	line("previous", st.Previous)
	for _, v := range st.Bad {
		fmt.Fprintf(w, "%-11s %s\n", "failed", v)
	}
	if u := st.Unfinished; u != nil {
		fmt.Fprintf(w, "%-11s %s to %s, begun %s\n", "unfinished", u.Action, u.To.Version, stamp(u.Created))
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
	c.Flags().IntVar(&limit, "limit", 50, "records to show at most")
	return c
}

func (p *program) history(ctx context.Context, limit int) error {
	if limit < 1 {
		return cli.Usagef("--limit is %d, want at least 1", limit)
	}
	app, err := p.theApp()
	if err != nil {
		return err
	}
	j, _, err := p.readState(ctx, app)
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
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", stamp(r.Created), r.Action, from, r.To.Version, r.Status, took, cli.OneLine(r.Error))
		}
		t.Flush()
	})
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
