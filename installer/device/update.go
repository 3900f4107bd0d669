package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/tree"
	"github.com/valise-ota/valise/verify"
)

// Options say how a bundle is to be taken.
type Options struct {
	Trust  Trust           // at a first installation
	First  bool            // it is one
	Source string          // where later releases come from, and this one unless a bundle is named
	Forced bool            // an older version, one that failed here, another release of a version
	DryRun bool            // nothing is carried out
	Path   *installer.Path // where on the way to a release it is; found out when it is nil
	whole  bool            // no thin bundle
	dir    string          // in place of the source of the app
	exact  bool            // this bundle, whatever has to come first
	// instead is the candidate that the bundle is taken in place of; whom the
	// operator trusts is decided.
	instead *Candidate
}

// Candidate is a verified release and what it would do here.
type Candidate struct {
	App    string
	Path   string // where it is from, for people
	rel    *verify.Release
	Plan   *installer.Plan // nil until it is planned
	policy verify.Policy
	pin    bool // write the policy when the release is installed
	source source.Config
	from   *opened
	asked  string // for which bundle
	turns  *turns
}

// Manifest is that of the release.
func (c *Candidate) Manifest() *bundle.Manifest { return c.rel.Manifest() }

// Open opens a file of the release: of the tree of one that is a tree. The error is
// fs.ErrNotExist when there is none.
func (c *Candidate) Open(name string) (io.ReadCloser, error) {
	if c.rel.Manifest().Device.Tree == nil {
		return compose.Open(c.rel, name)
	}
	return tree.Open(c.rel, host.Platform(), name)
}

// Traffic is what was fetched of a bundle on a server; nil of one that is here.
func (c *Candidate) Traffic() *source.Traffic {
	if c.from.remote == nil {
		return nil
	}
	t := c.from.remote.Traffic()
	return &t
}

// Next is what to take when this release runs: one that could not be reached at once.
// It is empty when there is none.
func (c *Candidate) Next() string {
	if len(c.from.route.hops) < 2 {
		return ""
	}
	if _, version := AsVersion(c.asked); version || c.asked == "" {
		return "v" + c.from.route.target()
	}
	return c.asked // the file, or its directory
}

// Beyond is why this release does not lead to the newest one; nil when it does.
func (c *Candidate) Beyond() error { return c.from.route.beyond }

// file is where the bundle lies that was named; empty when it is from a source.
func (c *Candidate) file() string {
	if _, version := AsVersion(c.asked); version || c.from.remote != nil {
		return ""
	}
	return c.asked
}

// Close closes the bundle.
func (c *Candidate) Close() error { return c.from.file.Close() }

// Verify opens and verifies a bundle. Nothing on the device changes, and one
// that is refused leaves no trace.
func (m *Machine) Verify(ctx context.Context, path string, o Options) (_ *Candidate, err error) {
	ctx, span := trace.Begin(ctx, trace.Step, "open "+filepath.Base(path))
	defer func() { span.End(err) }()
	b, err := m.open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.file.Close()
		}
	}()
	asked := path
	if b.version != "" {
		path = "v" + b.version
	}
	// The name is only the bundle's claim until it is verified; it decides
	// which policy that happens against.
	app := b.Manifest().App
	if m.App != "" && m.App != app {
		return nil, &verify.Error{Check: verify.CheckApp, Reason: fmt.Sprintf("it says it is a release of %q, not of %q, and its signature was not checked: get a release of %q", app, m.App, m.App)}
	}
	policy, pin, err := m.policyFor(ctx, b.Reader, o)
	if !o.First && (errors.Is(err, fs.ErrNotExist) || !m.hasRecords(app)) {
		return nil, m.NotInstalled(app, path)
	}
	if err != nil {
		return nil, err
	}
	verifier, err := verify.New(policy)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.ConfigPath(app), err)
	}
	rel, err := m.verifyOpened(ctx, verifier, b, app)
	if err != nil {
		return nil, err
	}
	from, err := m.sourceToPin(rel, o)
	if err != nil {
		return nil, err
	}
	c := &Candidate{app, path, rel, nil, policy, pin, from, b, asked, nil}
	var src *source.Source
	if len(b.route.hops) > 0 {
		src = b.route.hops[0].src
	}
	c.turns, err = m.turnsOf(ctx, app, policy, src, c.file())
	return c, err
}

// Plan plans a candidate. Only a first installation, where there is no
// engine, changes something: it brings one.
func (m *Machine) Plan(ctx context.Context, c *Candidate, o Options) (err error) {
	ctx, span := trace.Begin(ctx, trace.Step, "plan")
	defer func() { span.End(err) }()
	if o.First && !o.DryRun && m.dockers(c.rel.Manifest().Kind) {
		if err := m.ensureEngine(ctx, c.rel); err != nil {
			return err
		}
	}
	c.Plan, err = m.preview(ctx, c.rel, c.Path, o)
	if errors.As(err, new(*installer.LackingError)) && c.from.thin {
		m.Note("%v", err)
		o.whole, o.instead = true, c
		what := c.Path
		if c.Next() != "" {
			what = c.asked
		}
		full, err := m.Verify(ctx, what, o)
		if err != nil {
			return err
		}
		c.Close()
		*c = *full
		return m.Plan(ctx, c, o)
	}
	if err != nil {
		return err
	}
	if err := c.halted(o); err != nil {
		return err
	}
	c.noteTurn()
	_, c.Plan.FetchBytes = source.Join(fetches(c.from, c.Plan))
	if o.DryRun && c.Next() != "" {
		c.Plan.Way, err = m.hops(ctx, c)
	}
	return err
}

// sourceToPin is where later releases will come from: what the operator says at
// the first installation, else the repository that the signed release names.
func (m *Machine) sourceToPin(rel *verify.Release, o Options) (source.Config, error) {
	if o.Source != "" {
		return source.Parse(o.Source)
	}
	if s := rel.Manifest().Source; s != nil {
		return source.FromRepository(s.Repository), nil
	}
	return source.Config{}, nil
}

// Apply runs the transaction. The error is why it never began.
func (m *Machine) Apply(ctx context.Context, c *Candidate, o Options) (_ installer.Result, err error) {
	var none installer.Result
	ctx, span := trace.Begin(ctx, trace.Step, "apply "+c.App+" "+c.Plan.To)
	defer func() { span.End(err) }()
	if asked, err := m.askEnv(c.Plan); err != nil {
		return none, err
	} else if asked {
		if c.Plan, err = m.preview(ctx, c.rel, c.Path, o); err != nil {
			return none, err
		}
	}
	if err := m.Check(c.Plan); err != nil {
		return none, err
	}
	manifest := c.rel.Manifest()
	a, err := m.lockApp(ctx, c.App, manifest.Kind, fmt.Sprintf("%s to %s from %s", cmp.Or(c.Plan.Action, installer.ActionUpdate), manifest.Version, c.Path))
	if err != nil {
		return none, err
	}
	defer a.close()
	a.store.Remember(c.rel.Digest(), manifest)
	if err := m.recoverFirst(ctx, a); err != nil {
		return none, err
	}
	st, err := a.journal.Load(ctx)
	if err != nil {
		return none, err
	}
	if app, ok := a.Runtime.(*compose.App); ok {
		app.SkipServices = !o.First
	}
	// Somebody else may have been here since the preview.
	if c.Plan, err = m.evaluate(ctx, a.Runtime, a.engine, c.rel, st, c.Path, o); err != nil {
		return none, err
	}
	if err := cmp.Or(m.Check(c.Plan), c.halted(o)); err != nil {
		return none, err
	}
	c.noteTurn()
	_, c.Plan.FetchBytes = source.Join(fetches(c.from, c.Plan))
	if c.pin {
		if err := m.writePolicy(c.App, c.policy, c.source); err != nil {
			return none, err
		}
	} else if now, err := m.Policy(ctx, c.App); err != nil || !now.Same(c.policy) {
		return none, advise(errors.Join(fmt.Errorf("whom this device trusts changed while %s was verified", c.Path), err), Again)
	}
	for _, n := range c.Plan.Notes {
		m.Note("%s", n.Text)
	}
	if err := m.fetchAhead(c); err != nil {
		return none, err
	}
	if m.Planned != nil {
		m.Planned(c.Plan)
	}
	keep := manifest.Device.Keep.Releases
	switch {
	case manifest.Kind == bundle.KindTree:
		if keep, err = m.prepareTree(ctx, manifest); err != nil {
			return none, err
		}
	case m.Root == "/" && release.Exists("/run/systemd/system"):
		// The engine starts what ran when the power went; recovery comes after it.
		if err := m.installRecovery(ctx, c.App, nil, []string{"docker.service"}); err != nil {
			return none, err
		}
	}
	a.Limits, a.Path = c.Plan.Limits, o.Path
	a.Gate = func(ctx context.Context) (err error) { // what was fetched for hours may be halted now
		if c.turns, err = m.turnsOf(ctx, c.App, c.policy, nil, c.file()); err == nil {
			err = c.halted(o)
		}
		return err
	}
	if left := len(c.from.route.hops); left > 0 && a.Path == nil {
		if p := st.PathTo(c.from.route.target(), left); p.Hops > 1 {
			a.Path = p
		}
	}
	res := a.Update(ctx, c.rel, keep)
	m.spoolEnd(c, res)
	if o.First && res.Outcome == installer.Done {
		if err := m.installCommands(ctx, c.App); err != nil {
			m.Note("%v", err)
		}
	}
	return res, nil
}

// NotInstalled is the error about an app that is not here, for a bundle of it in
// path.
func (m *Machine) NotInstalled(app, path string) error {
	return advise(fmt.Errorf("app %s is not installed here", app), InstallFirst, path)
}

// preview plans without the app's lock and without changing anything: records
// and releases are only read.
func (m *Machine) preview(ctx context.Context, rel *verify.Release, path string, o Options) (*installer.Plan, error) {
	app := rel.Manifest().App
	var engine *docker.Engine
	if m.dockers(rel.Manifest().Kind) {
		var err error
		if engine, err = m.connect(ctx); err != nil {
			return nil, err
		}
		defer engine.Close()
	}
	var st installer.State
	var store *release.Store
	if m.hasRecords(app) {
		j, read, err := m.ReadState(ctx, app)
		if err != nil {
			return nil, err
		}
		st = read
		if err := j.Close(); err != nil {
			return nil, err
		}
		if store, err = release.Open(m.AppDir(app)); err != nil {
			return nil, err
		}
		defer store.Close()
	}
	if o.DryRun && st.Unfinished != nil {
		m.Note("an earlier %s to %s did not finish; an update undoes it first", st.Unfinished.Action, st.Unfinished.To.Version)
	}
	switch {
	case m.Runtime != nil:
		return m.evaluate(ctx, m.Runtime(app), nil, rel, st, path, o)
	case engine == nil:
		return m.evaluate(ctx, m.treeApp(app, store, nil), nil, rel, st, path, o)
	}
	var program docker.Program // without it a plan does not say what becomes of services, which only a reader wants to know
	if o.DryRun || o.First {
		var err error
		if program, err = docker.FindCompose(ctx, m.dockerEnv()); err != nil {
			program = docker.Program{} // lockApp says so
		}
	}
	return m.evaluate(ctx, m.runtime(app, store, engine, program), engine, rel, st, path, o)
}

// evaluate checks what this device expects of a verified release and plans it.
func (m *Machine) evaluate(ctx context.Context, rt installer.Runtime, engine *docker.Engine, rel *verify.Release, st installer.State, path string, o Options) (*installer.Plan, error) {
	manifest := rel.Manifest()
	switch {
	case manifest.Kind == bundle.KindTree && m.Root != "/":
		return nil, usagef("below %s: the units of an app that is a file tree run on this machine", m.Root)
	case !o.First && st.Current == nil:
		return nil, m.NotInstalled(manifest.App, path) // it was tried once
	case o.First && st.Current != nil && st.Current.Version != manifest.Version:
		return nil, advise(fmt.Errorf("app %s is installed already, version %s runs", manifest.App, st.Current.Version), UpdateInstead, path)
	}
	platform, err := m.platform(ctx, engine)
	if err != nil {
		return nil, err
	}
	if kind := kindIn(st); kind != "" && kind != manifest.Kind {
		return nil, fmt.Errorf("app %s is installed as a %s app, the release is a %s app: uninstall the one before you install the other", manifest.App, kind, manifest.Kind)
	}
	want := verify.Want{Platform: platform, Floor: st.Floor, Bad: st.Bad, Known: map[string]bundle.Digest{}, Forced: o.Forced}
	if st.Current != nil && st.Current.Manifest == rel.Digest() {
		want.Forced = true // to repair what runs is no downgrade
	}
	for _, k := range st.Kept {
		if k.Signer != installer.Adopted { // nobody signed that: the first bundle of its version is no second release
			want.Known[k.Version] = k.Manifest
		}
	}
	if err := rel.Check(want); err != nil {
		return nil, err
	}
	facts, err := rt.Inspect(ctx, rel, st)
	if taken := new(installer.TakenError); errors.As(err, &taken) {
		if current, ok := m.leftover(manifest.App); ok {
			return nil, advise(fmt.Errorf("release %s of %s is here, and its records are not: %w", current, manifest.App, err), RepairRecords)
		}
		return nil, advise(err, TakeOver, m.AppDir(manifest.App), taken.Project)
	}
	if err != nil {
		return nil, err
	}
	if st.Current != nil && st.Current.Manifest == rel.Digest() {
		for _, key := range facts.EnvChanged {
			if _, given := m.Given[key]; given {
				return nil, advise(fmt.Errorf("%s runs already: no update would write %s", manifest.Version, key), EditEnv)
			}
		}
	}
	limits, err := m.limits(manifest.App, manifest)
	if err != nil {
		return nil, err
	}
	if o.DryRun && facts.Damage == nil && st.Unfinished == nil && st.Current != nil && st.Current.Manifest == rel.Digest() {
		// It looks whole. An update would repair it when it is not healthy, so a plan says that.
		facts.Damage = installer.Within(ctx, "probe", limits.Probe, func(ctx context.Context) error { return rt.Probe(ctx, *st.Current) })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	plan, err := installer.NewPlan(st, rel, facts)
	if errors.As(err, new(*installer.UnmetError)) {
		return nil, advise(err, UnmetCondition)
	}
	if err != nil {
		return nil, err
	}
	plan.Limits = limits
	return plan, nil
}

// Check says what speaks against carrying a plan out.
func (m *Machine) Check(plan *installer.Plan) error {
	err := plan.Check()
	if missing := new(installer.MissingEnvError); errors.As(err, &missing) {
		return &EnvError{err, cmp.Or(plan.EnvFile, filepath.Join(m.AppDir(plan.App), ".env")), missing.Keys, plan.EnvHelp}
	}
	return err
}

// askEnv asks a person for the values of required keys, when there is one.
func (m *Machine) askEnv(plan *installer.Plan) (asked bool, err error) {
	if len(plan.EnvMissing) == 0 {
		return false, nil
	}
	person := m.person()
	if person == nil {
		return false, nil
	}
	given := maps.Clone(m.Given)
	if given == nil {
		given = map[string]string{}
	}
	for _, key := range slices.Sorted(slices.Values(plan.EnvMissing)) {
		value, err := person.Value(key, plan.EnvHelp[key])
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		given[key] = value
	}
	m.Given = given
	return true, nil
}
