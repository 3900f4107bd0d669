package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/installer/device"
)

func doctorCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that an update and a way back depend on",
		Long: "doctor looks at free space, the clock, the engine and docker compose where an app needs them, the\n" +
			"services of serve and page, and for every app (or --app) at the trust policy, the records, the\n" +
			"environment file, recovery at boot, the units of a file tree, the drop folder, whether the source\n" +
			"answers, and whether the files and images of the current and the previous release are whole.\n" +
			"It changes nothing. The exit code is 1 when a check failed; warnings do not change it.",
		Example: "  valise-installer doctor\n  valise-installer doctor --output json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.doctor(cmd.Context()) },
	}
}

func (p *program) doctor(ctx context.Context) error {
	apps, err := p.Installed()
	if err != nil {
		return err
	}
	if p.Machine.App != "" {
		app, err := p.TheApp()
		if err != nil {
			return err
		}
		apps = []string{app}
	}
	all := p.Examine(ctx, apps)
	bad := 0
	for _, f := range all {
		if f.Status == device.FindingFailed {
			bad++
		}
	}
	said := []finding{}
	for _, f := range all {
		said = append(said, finding{f.App, f.Check, f.Status, f.Detail(), remedy(f.Remedy)})
	}
	if err := p.Result(said, func(w io.Writer) { printFindings(w, said) }); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d checks failed", bad, len(all))
	}
	return nil
}

// finding is a device.Finding in words.
type finding struct {
	App    string `json:"app,omitempty"`
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

func printFindings(w io.Writer, all []finding) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range all {
		name := f.Check
		if f.App != "" {
			name = f.App + ": " + name
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Status, name, f.Detail)
		if f.Remedy != "" {
			fmt.Fprintf(t, "\t\t-> %s\n", f.Remedy)
		}
	}
	t.Flush()
}
