package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

func installCommand(p *program) *cobra.Command {
	o := applyOptions{first: true}
	c := &cobra.Command{
		Use:   "install [BUNDLE|ADDRESS|VERSION]",
		Short: "Install an app for the first time",
		Long: "install verifies BUNDLE, remembers whose releases this device accepts, generates the\n" +
			"app's secrets, starts it and checks its health. When that fails its containers, images and\n" +
			"files are removed again; what stays is the environment file, the data volumes, the records\n" +
			"and the trust policy. Repeat it when the cause is gone.\n\n" +
			"From a source, no BUNDLE means its newest stable release. The source stays in\n" +
			"/etc/valise/APP.yaml; without --source it is the GitHub repository that the release names.\n" +
			"The command APP-update is put into /usr/local/bin.",
		Example: "  valise-installer install /media/usb/shop-1.0.0.tar.gz --key cosign.pub\n" +
			"  valise-installer install shop-1.0.0.tar.gz --identity-regexp 'https://github.com/acme/shop/\\.github/workflows/release\\.yml@refs/tags/v.*'\n" +
			"  valise-installer install --source github:acme/shop v1.0.0 --key cosign.pub",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.apply(cmd.Context(), first(args), o) },
	}
	c.Flags().StringVar(&o.source, "source", "", "where releases come from: github:OWNER/REPOSITORY, https://HOST/DIRECTORY/ or /DIRECTORY")
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
		Short: "Update an installed app, or go back by itself",
		Long: "update verifies BUNDLE, loads the layers that are missing, saves the data, switches and\n" +
			"checks health. When anything fails the release that ran before runs again (exit code 3).\n" +
			"With the bundle of the release that runs it puts back what is missing or damaged.\n\n" +
			"Without BUNDLE it takes the newest stable release of the app's source, with VERSION that\n" +
			"one. Of a bundle on a server only what this device lacks is fetched.",
		Example: "  valise-installer update /media/usb/shop-1.1.0.tar.gz\n  valise-installer update shop-1.1.0.tar.gz --dry-run\n  valise-installer update\n  valise-installer update v1.1.0",
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return p.apply(cmd.Context(), first(args), o) },
	}
	c.Flags().BoolVar(&o.forced, "force", false, "accept an older version, one that failed here before, or another release of a version that is here")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the plan and stop")
	registerSet(c, &o)
	return c
}

func planCommand(p *program) *cobra.Command {
	o := applyOptions{dryRun: true}
	var remote string
	c := &cobra.Command{
		Use:     "plan [BUNDLE|ADDRESS|VERSION]",
		Short:   "Show what an update would do, and change nothing",
		Long:    "plan says what an update would fetch, load, save and need. See update for what may be planned.",
		Example: "  valise-installer plan shop-1.1.0.tar.gz\n  valise-installer plan shop-1.1.0.tar.gz --output json\n  valise-installer plan v1.1.0",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := first(args)
			if remote != "" {
				if _, ok := asVersion(remote); !ok || what != "" {
					return cli.Usagef("--remote takes the place of the argument and is a version, like v1.2.3")
				}
				what = remote
			}
			return p.apply(cmd.Context(), what, o)
		},
	}
	c.Flags().StringVar(&remote, "remote", "", "version at the app's source to plan: says what an update would fetch")
	c.Flags().BoolVar(&o.forced, "force", false, "accept an older version, one that failed here before, or another release of a version that is here")
	return c
}

// first is the argument, or nothing.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

type applyOptions struct {
	trust  cli.Trust
	first  bool   // install
	source string // --source of install
	forced bool
	dryRun bool
	whole  bool // no thin bundle
	set    []string
	// instead is the candidate that the bundle is taken in place of; whom the
	// operator trusts is decided.
	instead *candidate
}

// apply is install, update and plan as commands.
func (p *program) apply(ctx context.Context, path string, o applyOptions) error {
	if err := p.parseGiven(o.set); err != nil {
		return err
	}
	c, err := p.verified(ctx, path, o)
	if newest := new(newestError); errors.As(err, &newest) {
		return p.nothingNew(newest)
	}
	if err != nil {
		return err
	}
	defer func() { c.close() }() // c may become another bundle
	if err := p.consider(ctx, c, o); err != nil {
		return err
	}
	if o.dryRun {
		if err := p.Result(c.plan, func(w io.Writer) { printPlan(w, c.plan) }); err != nil {
			return err
		}
		return p.planError(c.plan)
	}
	res, err := p.carryOut(ctx, c, o)
	if err != nil {
		return err
	}
	err = p.end(res, c)
	if res.Outcome == installer.Done {
		p.followRelease(ctx, c)
	}
	return err
}

// candidate is a verified release and what it would do here.
type candidate struct {
	app    string
	path   string
	rel    *verify.Release
	plan   *installer.Plan
	policy verify.Policy
	pin    bool // write the policy when the release is installed
	source source.Config
	from   *opened
}

func (c *candidate) close() error { return c.from.file.Close() }

// verified opens and verifies a bundle. Nothing on the device changes, and one
// that is refused leaves no trace.
func (p *program) verified(ctx context.Context, path string, o applyOptions) (_ *candidate, err error) {
	b, err := p.open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.file.Close()
		}
	}()
	if b.version != "" {
		path = "v" + b.version
	}
	// The name is only the bundle's claim until it is verified; it decides
	// which policy that happens against.
	app := b.Manifest().App
	if p.name != "" && p.name != app {
		return nil, &verify.Error{Check: verify.CheckApp, Reason: fmt.Sprintf("it says it is a release of %q, not of %q, which is wanted: the file is of another app, and nobody looked at who signed it; get a release of %q from its maker", app, p.name, p.name)}
	}
	policy, pin, err := p.policyFor(ctx, b.Reader, o)
	if !o.first && (errors.Is(err, fs.ErrNotExist) || !p.hasRecords(app)) {
		return nil, p.notInstalled(app, path)
	}
	if err != nil {
		return nil, err
	}
	verifier, err := verify.New(policy)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p.configPath(app), err)
	}
	rel, err := p.verifyOpened(ctx, verifier, b, app)
	if err != nil {
		return nil, err
	}
	from, err := p.sourceToPin(rel, o)
	if err != nil {
		return nil, err
	}
	return &candidate{app, path, rel, nil, policy, pin, from, b}, nil
}

// consider plans a candidate. Only a first installation, where there is no
// engine, changes something: it brings one.
func (p *program) consider(ctx context.Context, c *candidate, o applyOptions) (err error) {
	if o.first && c.rel.Manifest().Kind == bundle.KindCompose {
		if err := p.ensureEngine(ctx, c.rel); err != nil {
			return err
		}
	}
	c.plan, err = p.preview(ctx, c.rel, c.path, o)
	if errors.As(err, new(*installer.LackingError)) && c.from.thin {
		p.Note("%v", err)
		o.whole, o.instead = true, c
		full, err := p.verified(ctx, c.path, o)
		if err != nil {
			return err
		}
		c.close()
		*c = *full
		return p.consider(ctx, c, o)
	}
	if err != nil {
		return err
	}
	_, c.plan.FetchBytes = source.Join(fetches(c.from, c.plan))
	return nil
}

// sourceToPin is where later releases will come from: what the operator says at
// the first installation, else the repository that the signed release names.
func (p *program) sourceToPin(rel *verify.Release, o applyOptions) (source.Config, error) {
	if o.source != "" {
		return source.Parse(o.source)
	}
	if s := rel.Manifest().Source; s != nil {
		return source.FromRepository(s.Repository), nil
	}
	return source.Config{}, nil
}

// carryOut runs the transaction. The error is why it never began.
func (p *program) carryOut(ctx context.Context, c *candidate, o applyOptions) (installer.Result, error) {
	var none installer.Result
	if asked, err := p.askEnv(c.plan); err != nil {
		return none, err
	} else if asked {
		if c.plan, err = p.preview(ctx, c.rel, c.path, o); err != nil {
			return none, err
		}
	}
	if err := p.planError(c.plan); err != nil {
		return none, err
	}
	m := c.rel.Manifest()
	d, err := p.openDevice(ctx, c.app, m.Kind, fmt.Sprintf("%s to %s from %s", cmp.Or(c.plan.Action, installer.ActionUpdate), m.Version, c.path))
	if err != nil {
		return none, err
	}
	defer d.close()
	d.store.Know(c.rel.Digest(), m)
	if err := p.recoverFirst(ctx, d); err != nil {
		return none, err
	}
	st, err := d.journal.Load(ctx)
	if err != nil {
		return none, err
	}
	if d.app != nil {
		d.app.Hurry = !o.first
	}
	// Somebody else may have been here since the preview.
	if c.plan, err = p.plan(ctx, d.Runtime, d.engine, c.rel, st, c.path, o); err != nil {
		return none, err
	}
	if err := p.planError(c.plan); err != nil {
		return none, err
	}
	_, c.plan.FetchBytes = source.Join(fetches(c.from, c.plan))
	if c.pin {
		if err := p.writePolicy(c.app, c.policy, c.source); err != nil {
			return none, err
		}
	} else if now, err := p.readPolicy(ctx, c.app); err != nil || !now.Same(c.policy) {
		return none, cli.WithHint(errors.Join(fmt.Errorf("whom this device trusts changed while %s was verified", c.path), err), "try again")
	}
	for _, n := range c.plan.Notes {
		p.Note("%s", n)
	}
	if err := p.fetchAhead(c); err != nil {
		return none, err
	}
	p.UI.Step("plan", planLine(c.plan))
	keep := m.Device.Keep.Releases
	switch {
	case m.Kind == bundle.KindTree:
		if keep, err = p.prepareTree(ctx, m); err != nil {
			return none, err
		}
	case p.root == "/" && there("/run/systemd/system"):
		// The engine starts what ran when the power went; recovery comes after it.
		if err := p.installRecovery(ctx, c.app, nil, []string{"docker.service"}); err != nil {
			return none, err
		}
	}
	res := d.Update(ctx, c.rel, keep)
	p.spoolEnd(c, res)
	if o.first && res.Outcome == installer.Done {
		if err := p.installCommands(ctx, c.app); err != nil {
			p.Note("%v", err)
		}
	}
	return res, nil
}

func (p *program) notInstalled(app, path string) error {
	return cli.WithHint(fmt.Errorf("app %s is not installed here", app), "install it first: %q", "valise-installer install "+path+" --key FILE")
}

// preview plans without the app's lock and without changing anything: records
// and releases are only read.
func (p *program) preview(ctx context.Context, rel *verify.Release, path string, o applyOptions) (*installer.Plan, error) {
	app := rel.Manifest().App
	var engine *docker.Engine
	if rel.Manifest().Kind == bundle.KindCompose {
		var err error
		if engine, err = p.connect(ctx); err != nil {
			return nil, err
		}
		defer engine.Close()
	}
	var st installer.State
	var store *release.Store
	if p.hasRecords(app) {
		j, read, err := p.readState(ctx, app)
		if err != nil {
			return nil, err
		}
		st = read
		if err := j.Close(); err != nil {
			return nil, err
		}
		if store, err = release.Open(p.appDir(app)); err != nil {
			return nil, err
		}
		defer store.Close()
	}
	if o.dryRun && st.Unfinished != nil {
		p.Note("an earlier %s to %s did not finish; an update undoes it first", st.Unfinished.Action, st.Unfinished.To.Version)
	}
	if engine == nil {
		return p.plan(ctx, p.treeApp(app, store, nil), nil, rel, st, path, o)
	}
	var command []string // without it a plan does not say what becomes of services, which only a reader wants to know
	if o.dryRun || o.first {
		var err error
		if command, _, err = docker.FindCompose(ctx, p.dockerEnv()); err != nil {
			command = nil // openDevice says so
		}
	}
	return p.plan(ctx, p.runtime(app, store, engine, command), engine, rel, st, path, o)
}

// plan checks what this device expects of a verified release and plans it.
func (p *program) plan(ctx context.Context, rt installer.Runtime, engine *docker.Engine, rel *verify.Release, st installer.State, path string, o applyOptions) (*installer.Plan, error) {
	m := rel.Manifest()
	switch {
	case m.Kind == bundle.KindTree && p.root != "/":
		return nil, cli.Usagef("--root %s: the units of an app that is a file tree run on this machine", p.root)
	case !o.first && st.Current == nil:
		return nil, p.notInstalled(m.App, path) // it was tried once
	case o.first && st.Current != nil && st.Current.Version != m.Version:
		return nil, cli.WithHint(fmt.Errorf("app %s is installed already, version %s runs", m.App, st.Current.Version), "use %q", "valise-installer update "+path)
	}
	platform, err := p.platform(ctx, engine)
	if err != nil {
		return nil, err
	}
	if kind := kindIn(st); kind != "" && kind != m.Kind {
		return nil, fmt.Errorf("app %s is installed as a %s app, the release is a %s app: uninstall the one before you install the other", m.App, kind, m.Kind)
	}
	want := verify.Want{Platform: platform, Floor: st.Floor, Bad: st.Bad, Known: map[string]bundle.Digest{}, Forced: o.forced}
	if st.Current != nil && st.Current.Manifest == rel.Digest() {
		want.Forced = true // to repair what runs is no downgrade
	}
	for _, k := range st.Kept {
		want.Known[k.Version] = k.Manifest
	}
	if err := rel.Meets(want); err != nil {
		return nil, err
	}
	facts, err := rt.Inspect(ctx, rel, st)
	if err != nil {
		return nil, err
	}
	if st.Current != nil && st.Current.Manifest == rel.Digest() {
		for _, key := range facts.EnvChanged {
			if _, given := p.given[key]; given {
				return nil, cli.WithHint(fmt.Errorf("%s runs already: no update would write %s", m.Version, key), "change it in the environment file and start the app again")
			}
		}
	}
	plan, err := installer.NewPlan(st, rel, facts)
	if errors.As(err, new(*installer.UnmetError)) {
		return nil, cli.WithCode(err, cli.ExitRefused)
	}
	return plan, err
}

// planError says what speaks against a plan.
func (p *program) planError(plan *installer.Plan) error {
	err := plan.Check()
	if missing := new(installer.MissingEnvError); errors.As(err, &missing) {
		for _, key := range missing.Keys {
			if help := plan.EnvHelp[key]; help != "" {
				p.Note("%s: %s", key, cli.OneLine(help))
			}
		}
		file := plan.EnvFile
		if file == "" {
			file = filepath.Join(p.appDir(plan.App), ".env")
		}
		return cli.WithCode(cli.WithHint(err, "give them a value in %s or with --set KEY=VALUE and repeat; nothing was changed", file), cli.ExitEnv)
	}
	if errors.As(err, new(*installer.MissingFilesError)) {
		return cli.WithCode(cli.WithHint(err, "put them there and repeat; nothing was changed"), cli.ExitEnv)
	}
	return err
}

// summary is the result of a command that changes what runs.
type summary struct {
	Outcome     installer.Outcome `json:"outcome"`
	App         string            `json:"app"`
	Record      string            `json:"record,omitempty"`
	From        string            `json:"from,omitempty"`
	To          string            `json:"to"`
	Repaired    bool              `json:"repaired,omitempty"`
	Error       string            `json:"error,omitempty"`
	LoadedBytes int64             `json:"loaded_bytes,omitempty"`
	TotalBytes  int64             `json:"total_bytes,omitempty"`
	Fetched     *source.Traffic   `json:"fetched,omitempty"` // of a remote bundle
}

// end prints how a transaction ended and returns the error that carries the exit
// code. c may be nil.
func (p *program) end(res installer.Result, c *candidate) error {
	s := summary{Outcome: res.Outcome, Record: res.Record.ID, To: res.Record.To.Version}
	if res.Record.From != nil {
		s.From, s.Repaired = res.Record.From.Version, res.Outcome == installer.Done && res.Record.Repairs()
	}
	if c != nil {
		s.App = c.app
		if res.Outcome == installer.Done {
			s.LoadedBytes, s.TotalBytes = c.plan.LoadBytes, c.plan.TotalBytes
		}
		if c.from.remote != nil {
			t := c.from.remote.Traffic()
			s.Fetched = &t
		}
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
		return attentionError(res)
	}
	if s.From == "" && res.Record.ID != "" {
		return fmt.Errorf("%w; what it had started is removed again", res.Err)
	}
	if res.Record.Repairs() && res.Record.ID != "" {
		return cli.WithHint(res.Err, "%s is still the current release; \"valise-installer doctor\" says what it lacks", s.To)
	}
	return fmt.Errorf("%w; this device is unchanged", res.Err)
}

func attentionError(res installer.Result) error {
	return cli.WithCode(cli.WithHint(fmt.Errorf("the rollback failed too: %w", res.Err),
		"mend the cause and run %q; it tries again", "valise-installer recover"), cli.ExitAttention)
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
		fmt.Fprintf(w, "  stands still  %s\n", standsStill[p.Downtime])
	}
	for _, port := range p.PortsTaken {
		fmt.Fprintf(w, "  port          %s is taken\n", port)
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
		fmt.Fprintf(w, "  saved first   %s\n", b)
	}
	if p.BackupSize > 0 {
		fmt.Fprintf(w, "                about %s\n", ui.Bytes(p.BackupSize))
	}
	if p.Migration != "" {
		fmt.Fprintf(w, "  migration     %s\n", p.Migration)
	}
	for _, s := range p.Signers {
		fmt.Fprintf(w, "  trusted after %s\n", s)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "  note          %s\n", n)
	}
	if p.RollbackTo != "" {
		fmt.Fprintf(w, "  goes back to  %s when it fails%s\n", p.RollbackTo, map[bundle.RestoreData]string{
			bundle.RestoreAlways: ", with the data saved before", bundle.RestoreAsk: "; its data stay",
		}[p.RestoreData])
	}
}

var standsStill = map[installer.Downtime]string{
	installer.DowntimeUnknown: "not known", installer.DowntimeNone: "nothing", installer.DowntimePart: "the services that change", installer.DowntimeAll: "all of it, for the time its services take to start",
}
