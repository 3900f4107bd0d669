package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
)

// appUpdateRoot is the program under the name APP-update.
func (p *program) appUpdateRoot(app string) *cobra.Command {
	p.Machine.App = app
	name := app + device.UpdateSuffix
	var o applyOptions
	var back, check bool
	var file string
	c := &cobra.Command{
		Use:   name + " [VERSION]",
		Short: "Update " + app + "; roll back if it fails",
		Long: name + " updates this device to the newest stable release of " + app + ", or to VERSION. It\n" +
			"verifies the signer, downloads what is missing, backs up the data, switches and checks health.\n" +
			"If anything fails, the previous release runs again (exit code 3).\n\n" + exitCodes,
		Example: "  " + name + "\n  " + name + " v1.2.3\n  " + name + " --check\n  " + name + " --rollback\n  " + name + " --bundle /media/usb/" + app + "-1.2.3.tar.gz",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := first(args)
			given := 0
			for _, g := range []bool{what != "", back, check, file != ""} {
				if g {
					given++
				}
			}
			if given > 1 || (back || check) && (o.Forced || o.DryRun || len(o.set) > 0) {
				return cli.Usagef("a version, --bundle, --check and --rollback exclude each other, and the last two take no other flag")
			}
			if _, ok := device.AsVersion(what); what != "" && !ok {
				return cli.Usagef("%q is not a version like v1.2.3; a file is named with --bundle", what)
			}
			switch {
			case back:
				return p.rollback(cmd.Context(), false, false)
			case check:
				return p.check(cmd.Context())
			case file != "":
				what = file
				if _, ok := device.AsVersion(what); ok {
					what = "./" + what
				}
			}
			return p.apply(cmd.Context(), what, o)
		},
	}
	c.Flags().BoolVar(&back, "rollback", false, "return to the previous release; needs no network")
	c.Flags().BoolVar(&check, "check", false, "say whether there is a newer release, and stop")
	c.Flags().StringVar(&file, "bundle", "", "use this file (or address) instead of the source")
	c.Flags().BoolVar(&o.Forced, "force", false, "accept an older version, one that failed here before, or another release of an installed version")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "print the plan and stop")
	registerSet(c, &o)
	return c
}

func checkCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:     "check",
		Short:   "Check whether the source has a newer release",
		Long:    "check asks the source in /etc/valise/APP.yaml. It changes nothing and downloads no bundle.",
		Example: "  valise-installer check\n  valise-installer check --output json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.check(cmd.Context()) },
	}
}

func (p *program) check(ctx context.Context) error {
	o, err := p.Look(ctx)
	if err != nil {
		return err
	}
	return p.Result(o, func(w io.Writer) {
		switch {
		case o.Latest == "" && o.Held == "":
			fmt.Fprintf(w, "%s runs; there is no release in %s\n", o.Current, o.Source)
		case !o.Available && o.Held != "":
			fmt.Fprintf(w, "%s runs; %s\n", o.Current, o.Held)
		case !o.Available:
			fmt.Fprintf(w, "%s runs; the newest in %s is %s\n", o.Current, o.Source, o.Latest)
		default:
			fmt.Fprintf(w, "%s is available, %s runs\n  from  %s\n", o.Latest, o.Current, o.Source)
			if o.Size > 0 {
				fmt.Fprintf(w, "  size  %s; %q says what of it is fetched\n", ui.Bytes(o.Size), "valise-installer plan v"+o.Latest)
			}
			if o.Held != "" {
				fmt.Fprintf(w, "  held  %s\n", o.Held)
			}
		}
	})
}

// heldBack prints that what is newer is held back: that is no failure, its turn comes.
func (p *program) heldBack(ctx context.Context, held *installer.HeldError) error {
	app, err := p.TheApp()
	if err != nil {
		return err
	}
	st, err := p.State(ctx, app)
	if err != nil {
		return err
	}
	s := summary{Outcome: installer.NothingToDo, App: app, Held: held.Error()}
	if st.Current != nil {
		s.From, s.To = st.Current.Version, st.Current.Version
	}
	return p.Result(s, func(w io.Writer) { fmt.Fprintf(w, "%s runs; %s\n", s.To, s.Held) })
}

// nothingNew prints that the newest release runs, or a newer one.
func (p *program) nothingNew(e *device.NewestError) error {
	s := summary{Outcome: installer.NothingToDo, App: e.App, From: e.Runs, To: e.Runs}
	return p.Result(s, func(w io.Writer) {
		fmt.Fprintf(w, "%s runs, nothing to do: the newest in %s is %s\n", e.Runs, e.Source, e.Offered)
	})
}
