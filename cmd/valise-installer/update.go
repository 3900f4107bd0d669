package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

func installCommand(p *program) *cobra.Command {
	o := applyOptions{Options: device.Options{First: true}}
	c := &cobra.Command{
		Use:   "install [BUNDLE|ADDRESS|VERSION]",
		Short: "Install an app for the first time",
		Long: "install verifies BUNDLE, records the trusted signers, generates the app's secrets, starts\n" +
			"the app and checks its health. If that fails, its containers, images and files are removed\n" +
			"again; the environment file, data volumes, records and trust policy stay. Fix the cause and\n" +
			"repeat the command.\n\n" +
			"With a source, the default BUNDLE is its newest stable release. The source is stored in\n" +
			"/etc/valise/APP.yaml; without --source, it is the GitHub repository that the release names.\n" +
			"install puts the command APP-update into /usr/local/bin.",
		Example: "  valise-installer install /media/usb/shop-1.0.0.tar.gz --key cosign.pub\n" +
			"  valise-installer install shop-1.0.0.tar.gz --identity-regexp 'https://github.com/acme/shop/\\.github/workflows/release\\.yml@refs/tags/v.*'\n" +
			"  valise-installer install --source github:acme/shop v1.0.0 --key cosign.pub",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.apply(cmd.Context(), first(args), o) },
	}
	c.Flags().StringVar(&o.Source, "source", "", "where releases come from: github:OWNER/REPOSITORY, oci://HOST/REPOSITORY, https://HOST/DIRECTORY/ or /DIRECTORY")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "print the plan and stop")
	o.trust.Register(c.Flags())
	registerSet(c, &o)
	return c
}

func registerSet(c *cobra.Command, o *applyOptions) {
	c.Flags().StringArrayVar(&o.set, "set", nil, "KEY=VALUE for the environment file of the app (repeatable)")
}

func updateCommand(p *program) *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use:   "update [BUNDLE|ADDRESS|VERSION]",
		Short: "Update an installed app; roll back if it fails",
		Long: "update verifies BUNDLE, loads the missing layers, backs up the data, switches and checks\n" +
			"health. If anything fails, the previous release runs again (exit code 3). With the bundle of\n" +
			"the running release, it repairs what is missing or damaged.\n\n" +
			"Without BUNDLE, it takes the newest stable release of the app's source; with VERSION, that\n" +
			"version; with a directory, the newest release in it. From a server, it downloads only what\n" +
			"this device lacks. Required releases are installed first, one after the other.",
		Example: "  valise-installer update /media/usb/shop-1.1.0.tar.gz\n  valise-installer update shop-1.1.0.tar.gz --dry-run\n  valise-installer update\n  valise-installer update v1.1.0",
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return p.apply(cmd.Context(), first(args), o) },
	}
	c.Flags().BoolVar(&o.Forced, "force", false, "accept an older version, one that failed here before, or another release of an installed version")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "print the plan and stop")
	registerSet(c, &o)
	return c
}

func planCommand(p *program) *cobra.Command {
	o := applyOptions{Options: device.Options{DryRun: true}}
	var remote string
	c := &cobra.Command{
		Use:   "plan [BUNDLE|ADDRESS|VERSION]",
		Short: "Show what an update would do, and change nothing",
		Long: "plan says what an update would download, load, back up and need. For the possible arguments,\n" +
			"see update.",
		Example: "  valise-installer plan shop-1.1.0.tar.gz\n  valise-installer plan shop-1.1.0.tar.gz --output json\n  valise-installer plan v1.1.0",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := first(args)
			if remote != "" {
				if _, ok := device.AsVersion(remote); !ok || what != "" {
					return cli.Usagef("--remote replaces the argument and must be a version, like v1.2.3")
				}
				what = remote
			}
			return p.apply(cmd.Context(), what, o)
		},
	}
	c.Flags().StringVar(&remote, "remote", "", "version in the app's source to plan: shows what an update would download")
	c.Flags().BoolVar(&o.Forced, "force", false, "accept an older version, one that failed here before, or another release of an installed version")
	return c
}

// first is the argument, or nothing.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// applyOptions are the flags of commands that take a bundle.
type applyOptions struct {
	device.Options
	trust cli.Trust
	set   []string
}

// trusted is what flags say of whom to trust; policy reads it when that is asked.
func trusted(t cli.Trust, policy func() (verify.Policy, error)) device.Trust {
	trust := device.Trust{Issuer: t.Issuer, TrustedRoot: t.TrustedRoot}
	if t.Given() {
		trust.Policy = policy
	}
	return trust
}

// checkedPolicy is the policy of the flags, looked at before anything depends on
// it.
func (o *applyOptions) checkedPolicy() (verify.Policy, error) {
	policy, err := o.trust.Policy()
	if err != nil {
		return policy, err
	}
	if _, err := verify.New(policy); err != nil {
		files := slices.DeleteFunc([]string{o.trust.Key, o.trust.TrustedRoot}, func(s string) bool { return s == "" })
		return policy, fmt.Errorf("read %s: %w", strings.Join(files, " or "), err)
	}
	return policy, nil
}

// apply is install, update and plan as commands.
func (p *program) apply(ctx context.Context, path string, o applyOptions) error {
	if err := p.parseGiven(o.set); err != nil {
		return err
	}
	o.Trust = trusted(o.trust, o.checkedPolicy)
	// Where others have to come first, one after the other: each is an update as if it
	// were alone, and one that fails ends it.
	for over := []string(nil); path != "" || over == nil; {
		next, version, err := p.applyOne(ctx, path, over, o)
		if err != nil {
			return err
		}
		path, over = next, append(over, version)
	}
	return nil
}

// applyOne carries out one update of those that path leads to, after those to over. It
// returns what to take then, and the version that runs.
func (p *program) applyOne(ctx context.Context, path string, over []string, o applyOptions) (next, version string, err error) {
	c, err := p.Verify(ctx, path, o.Options)
	if newest := new(device.NewestError); errors.As(err, &newest) {
		return "", newest.Runs, p.nothingNew(newest)
	}
	if held := new(installer.HeldError); path == "" && errors.As(err, &held) {
		return "", "", p.heldBack(ctx, held)
	}
	if err != nil {
		return "", "", err
	}
	defer func() { c.Close() }() // c may become another bundle
	if err := p.Plan(ctx, c, o.Options); err != nil {
		return "", "", err
	}
	if err := c.Beyond(); err != nil && over == nil {
		p.Note("%v", err)
	}
	if o.DryRun {
		if err := p.Result(c.Plan, func(w io.Writer) { printPlan(w, c.Plan) }); err != nil {
			return "", "", err
		}
		return "", c.Plan.To, p.Check(c.Plan)
	}
	res, err := p.Apply(ctx, c, o.Options)
	if err != nil {
		return "", "", err
	}
	if res.Outcome == installer.Done {
		next = c.Next()
	}
	if next == "" {
		err = p.end(res, c, over...)
	} else {
		p.UI.Step("path", res.Record.Path.String()+": "+c.Plan.To+" runs and is healthy")
	}
	if res.Outcome == installer.Done {
		p.FollowRelease(ctx, c)
	}
	return next, c.Plan.To, err
}

// summary is the result of a command that changes what runs.
type summary struct {
	Outcome     installer.Outcome `json:"outcome"`
	App         string            `json:"app"`
	Record      string            `json:"record,omitempty"`
	From        string            `json:"from,omitempty"`
	To          string            `json:"to"`
	Over        []string          `json:"over,omitempty"` // installed before, on the way
	Repaired    bool              `json:"repaired,omitempty"`
	Error       string            `json:"error,omitempty"`
	LoadedBytes int64             `json:"loaded_bytes,omitempty"`
	TotalBytes  int64             `json:"total_bytes,omitempty"`
	Fetched     *source.Traffic   `json:"fetched,omitempty"` // of a remote bundle
	Held        string            `json:"held,omitempty"`    // why a newer release is held back
}

// end prints how a transaction ended and returns the error that carries the exit
// code. c may be nil; over are versions that were installed before.
func (p *program) end(res installer.Result, c *device.Candidate, over ...string) error {
	s := summary{Outcome: res.Outcome, Record: res.Record.ID, To: res.Record.To.Version, Over: over}
	if res.Record.From != nil {
		s.From, s.Repaired = res.Record.From.Version, res.Outcome == installer.Done && res.Record.Repairs()
	}
	if c != nil {
		s.App = c.App
		if res.Outcome == installer.Done {
			s.LoadedBytes, s.TotalBytes = c.Plan.LoadBytes, c.Plan.TotalBytes
		}
		s.Fetched = c.Traffic()
	}
	if res.Err != nil {
		s.Error = res.Err.Error()
	}
	if err := p.Result(s, func(w io.Writer) { printSummary(w, s) }); err != nil {
		return err
	}
	switch res.Outcome {
	case installer.Done, installer.NothingToDo:
		return nil
	case installer.Reverted:
		return cli.WithCode(cli.WithHint(fmt.Errorf("%s was not accepted by this device: %w", s.To, res.Err),
			"%s runs again; \"valise-installer history\" keeps the reason", s.From), cli.ExitReverted)
	case installer.NeedsAttention:
		return &device.AttentionError{Err: res.Err}
	}
	if res.Record.Repairs() && res.Record.ID != "" {
		return cli.WithHint(res.Err, "%s is still the current release; \"valise-installer doctor\" says what it lacks", s.To)
	}
	after := "this device is unchanged"
	if s.From == "" && res.Record.ID != "" {
		after = "what it had started is removed again"
	}
	err := fmt.Errorf("%w; %s", res.Err, after)
	if res.Record.Reason == "halted" { // while it was fetched
		return cli.WithCode(err, cli.ExitRefused)
	}
	return err
}

func printSummary(w io.Writer, s summary) {
	switch s.Outcome {
	case installer.NothingToDo:
		fmt.Fprintf(w, "%s runs already, nothing to do\n", s.To)
	case installer.Done:
		fmt.Fprintf(w, "%s runs and is healthy", s.To)
		if s.Repaired {
			fmt.Fprint(w, " again")
		} else if s.From != "" {
			fmt.Fprintf(w, " (before: %s)", s.From)
		}
		if len(s.Over) > 0 {
			fmt.Fprintf(w, ", over %s", strings.Join(s.Over, ", "))
		}
		fmt.Fprintln(w)
		if s.TotalBytes > 0 {
			fmt.Fprintf(w, "loaded: %s of %s\n", ui.Bytes(s.LoadedBytes), ui.Bytes(s.TotalBytes))
		}
		if f := s.Fetched; f != nil {
			fmt.Fprintf(w, "fetched: %s in %d requests\n", ui.Bytes(f.Bytes), f.Requests)
		}
	case installer.Reverted:
		fmt.Fprintf(w, "rolled back: %s runs again\n", s.From)
	case installer.Unchanged:
		fmt.Fprintln(w, "unchanged")
	case installer.NeedsAttention:
		fmt.Fprintln(w, "needs attention")
	}
}

func planLine(p *installer.Plan) string {
	if p.Action == "" {
		return "nothing to do"
	}
	if p.Repair != "" {
		return fmt.Sprintf("repair %s: load %s of %s; %s", p.To, ui.Bytes(p.LoadBytes), ui.Bytes(p.TotalBytes), cli.OneLine(p.Repair))
	}
	from := ""
	if p.From != "" {
		from = p.From + " -> "
	}
	return fmt.Sprintf("%s %s%s: load %s of %s", p.Action, from, p.To, ui.Bytes(p.LoadBytes), ui.Bytes(p.TotalBytes))
}

// limitsLine says how long the parts of a change may take.
func limitsLine(l bundle.Limits, saves bool) string {
	list := []string{"stage " + brief(l.Stage)}
	if saves {
		list = append(list, "backup "+brief(l.Backup))
	}
	return strings.Join(append(list, "activate "+brief(l.Activate), "probe "+brief(l.Probe), "undo "+brief(l.Undo)), ", ")
}

// brief is 1h30m where Go says 1h30m0s.
func brief(d bundle.Duration) string {
	s := time.Duration(d).String()
	for _, end := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, end) {
			s = s[:len(s)-2]
		}
	}
	return s
}

func printPlan(w io.Writer, p *installer.Plan) {
	fmt.Fprintln(w, planLine(p))
	fmt.Fprintf(w, "  signed by     %s\n  platform      %s\n", p.Signer, p.Platform)
	for _, i := range p.Load {
		fmt.Fprintf(w, "  image         %s: %d of %d layers missing, %s\n", i.Reference, i.Missing, i.Layers, ui.Bytes(i.Bytes))
	}
	if p.FetchBytes > 0 {
		fmt.Fprintf(w, "  fetch         %s\n", ui.Bytes(p.FetchBytes))
	}
	if p.Load != nil {
		fmt.Fprintf(w, "  engine's disk %s needed, %s free\n", ui.Bytes(p.NeedBytes), ui.Bytes(p.FreeBytes))
	}
	fmt.Fprintf(w, "  app's disk    %s needed, %s free\n", ui.Bytes(p.FilesNeed), ui.Bytes(p.FilesFree))
	for _, s := range p.Services {
		fmt.Fprintf(w, "  service       %s: %s\n", s.Service, s.Change)
	}
	if p.Downtime != "" {
		fmt.Fprintf(w, "  downtime      %s\n", downtimes[p.Downtime])
	}
	for _, port := range p.PortsTaken {
		fmt.Fprintf(w, "  port          %s is taken\n", port)
	}
	for _, what := range p.Unmet {
		fmt.Fprintf(w, "  lacking       %s\n", what)
	}
	for _, what := range p.DataLeft {
		fmt.Fprintf(w, "  data          %s\n", what)
	}
	for _, k := range p.EnvChanged {
		fmt.Fprintf(w, "  environment   %s will be changed\n", k)
	}
	for _, k := range p.EnvNew {
		fmt.Fprintf(w, "  environment   %s will be generated\n", k)
	}
	for _, k := range p.EnvMissing {
		fmt.Fprintf(w, "  environment   %s has no value: needed\n", k)
	}
	for _, file := range p.FilesMissing {
		fmt.Fprintf(w, "  file          %s: needed\n", file)
	}
	for _, b := range p.Backup {
		fmt.Fprintf(w, "  backup        %s\n", b)
	}
	if p.BackupSize > 0 {
		fmt.Fprintf(w, "                about %s\n", ui.Bytes(p.BackupSize))
	}
	if p.Action != "" {
		fmt.Fprintf(w, "  limits        %s\n", limitsLine(p.Limits, p.Load != nil))
	}
	if p.Migration != "" {
		fmt.Fprintf(w, "  migration     %s\n", p.Migration)
	}
	for _, s := range p.Signers {
		fmt.Fprintf(w, "  trusted after %s\n", s)
	}
	for i, h := range p.Way {
		fmt.Fprintf(w, "  update %d of %d %s: load %s; downtime: %s\n", i+1, len(p.Way), h.Version, ui.Bytes(h.Bytes), downtimes[h.Downtime])
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "  note          %s\n", n)
	}
	if p.RollbackTo != "" {
		fmt.Fprintf(w, "  on failure    roll back to %s%s\n", p.RollbackTo, map[bundle.RestoreData]string{
			bundle.RestoreAlways: ", with the data saved before", bundle.RestoreAsk: "; its data stay",
		}[p.RestoreData])
	}
}

var downtimes = map[installer.Downtime]string{
	installer.DowntimeUnknown: "not known", installer.DowntimeNone: "nothing", installer.DowntimePart: "services that change", installer.DowntimeAll: "all of it, for the time its services take to start",
}
