package cli

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Finding is the result of one check of a doctor.
type Finding struct {
	App    string `json:"app,omitempty"`
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// FindingFailed is the status of a check that fails the command.
const FindingFailed = "failed"

// Findings prints what was found. The error says how many checks failed.
func (a *App) Findings(all []Finding) error {
	bad := 0
	for _, f := range all {
		if f.Status == FindingFailed {
			bad++
		}
	}
	err := a.Result(all, func(w io.Writer) {
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
	})
	if err == nil && bad > 0 {
		err = fmt.Errorf("%d of %d checks failed", bad, len(all))
	}
	return err
}
