package device

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/yamledit"
	"github.com/valise-ota/valise/verify"
)

// Device is the daemon.Device: a Machine whose calls come without a terminal.
type Device struct {
	*Machine
	// Explanation is an error in the words of the program, advice included.
	Explanation func(error) string
	// Remedy is what can be done, in the words of the program.
	Remedy func(Remedy) string
}

// with is a Machine for one call about app.
func (d *Device) with(app, record string, report func(installer.Event)) *Machine {
	m := *d.Machine
	m.App, m.Record = app, record
	m.Step, m.Planned = func(string, string) {}, nil
	m.Report = func(e installer.Event) {
		if e.Step == "verify" || e.Step == "download" {
			e.Detail = "" // the record names it
		}
		if note := e.Note(); note != "" { // who did not watch finds it in the journal
			m.Note("%s: %s", app, oneLine(note))
		}
		report(e)
	}
	m.Secret = func(key, _, file string) { // what a service prints is a log
		m.Note("%s was generated; it is kept in %s", key, file)
	}
	return &m
}

func (d *Device) Apps() ([]string, error) { return d.Machine.Installed() }

func (d *Device) Config(app string) (daemon.Config, error) {
	c, err := d.Machine.ReadConfig(app)
	if errors.Is(err, fs.ErrNotExist) {
		return daemon.Config{}, d.Machine.NotInstalled(app, "BUNDLE")
	}
	u := c.Updates
	u.Drop = cmp.Or(u.Drop, filepath.Join(d.Machine.AppDir(app), "updates"))
	u.DropMode, u.Upload, u.Auto = cmp.Or(u.DropMode, daemon.Apply), cmp.Or(u.Upload, daemon.Stage), cmp.Or(u.Auto, daemon.Off)
	u.Inbox = filepath.Join(d.Machine.stateDir(app), "inbox")
	if !c.Source.IsZero() {
		u.Source, u.Channel = c.Source.String(), c.Source.Channel
	}
	for _, signer := range c.Trust.Signers {
		u.Signers = append(u.Signers, signer.String())
	}
	if u.Fleet = c.Fleet; err == nil && !c.Fleet.IsZero() {
		u.Fleet.ID, err = d.Machine.fleetID(app, c.Fleet)
		u.Facts = map[string]string{"valise.platform": string(host.Platform())}
	}
	return u, err
}

// Configure writes settings of the page into /etc/valise/APP.yaml, under the lock
// of the app: a release may rotate whom the same file trusts.
func (d *Device) Configure(ctx context.Context, app string, to daemon.Settings) error {
	unlock, err := d.Machine.lock(ctx, app, "serve: settings")
	if err != nil {
		return busy(err)
	}
	defer unlock()
	want, err := d.Machine.ReadConfig(app)
	if err != nil {
		return err
	}
	want.Updates.Settings, want.Source.Channel = to, to.Channel
	want.Updates.Channel = ""
	raw, err := os.ReadFile(d.Machine.ConfigPath(app))
	if err != nil {
		return err
	}
	text, got, err := editYAML(raw, func(top *yaml.Node) error {
		updates := yamledit.Member(top, "updates")
		if updates == nil || updates.Kind != yaml.MappingNode {
			updates = &yaml.Node{Kind: yaml.MappingNode}
			yamledit.Set(top, "updates", updates)
		}
		setText(updates, "check", to.Check.String())
		setText(updates, "auto", string(to.Auto))
		setText(updates, "window", to.Window)
		if len(updates.Content) == 0 {
			yamledit.Set(top, "updates", nil)
		}
		if from := yamledit.Member(top, "source"); from != nil {
			setText(from, "channel", to.Channel)
		}
		return nil
	})
	if err == nil && !reflect.DeepEqual(got, want) {
		err = errRoundTrip
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.Machine.ConfigPath(app), err)
	}
	dir, err := release.OpenDir(filepath.Dir(d.Machine.ConfigPath(app)), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	return release.ReplaceFile(dir, app+".yaml", text, 0o644)
}

func (d *Device) Records(ctx context.Context, app string) (daemon.Records, error) {
	return d.Machine.openRecords(ctx, app)
}

// Ready says why nothing can be done for an app now: its engine does not answer.
func (d *Device) Ready(ctx context.Context, app string) error {
	if kind, err := d.Machine.kindOf(ctx, app); err != nil || !d.Machine.dockers(kind) {
		return err
	}
	e, err := d.Machine.connect(ctx)
	if err != nil {
		return err
	}
	return e.Close()
}

func (d *Device) Plan(ctx context.Context, app, path string, forced bool, report func(installer.Event)) (offer daemon.Offer, err error) {
	m, o := d.with(app, "", report), Options{Forced: forced, DryRun: true, exact: true}
	c, err := m.Verify(ctx, path, o)
	if err != nil {
		return offer, err
	}
	defer c.Close()
	manifest := c.rel.Manifest()
	offer.Version, offer.Changelog = manifest.Version, manifest.Changelog
	err = m.Plan(ctx, c, o)
	offer.Plan = c.Plan
	return offer, err
}

// Way is the way to a version over bundles that are here, files, or else over those
// that the source has.
func (d *Device) Way(ctx context.Context, app, version string, files []string, costs bool) ([]daemon.Hop, error) {
	st, err := d.State(ctx, app)
	if err != nil || st.Current == nil || !bundle.Newer(version, st.Current.Version) {
		return nil, err
	}
	r, here := d.Machine.router(st.Current.Version), map[string]string{}
	for _, file := range files {
		b, f, err := parts.OpenBundle(file)
		if err != nil {
			continue // whoever uses it says so
		}
		manifest := b.Manifest()
		f.Close()
		if manifest.App == app && (manifest.Version == version || !slices.Contains(st.Bad, manifest.Version)) {
			r.addFile(ctx, manifest)
			here[manifest.Version] = file
		}
	}
	var hops []hop
	if err = error(&installer.NoWayError{}); here[version] != "" {
		hops, err = r.to(ctx, version, nil)
	}
	if errors.As(err, new(*installer.NoWayError)) {
		src, serr := d.sourceOf(app)
		q := source.Query{Platform: host.Platform(), Bad: st.Bad}
		if serr == nil && here[version] == "" {
			var rel source.Release
			rel, serr = src.Exactly(ctx, version, source.Query{Platform: q.Platform})
			r.add(src, []source.Release{rel})
		}
		switch {
		case errors.Is(serr, daemon.ErrNoSource) && here[version] != "": // err says it
		case serr != nil:
			return nil, serr
		default:
			hops, err = r.to(ctx, version, func() error {
				all, err := src.Releases(ctx, q)
				r.add(src, all)
				return err
			})
		}
	}
	if err != nil {
		return nil, err
	}
	var way []daemon.Hop
	var manifests []*bundle.Manifest
	for _, h := range hops {
		way = append(way, daemon.Hop{Hop: installer.Hop{Version: h.Version}, File: here[h.Version]})
		if !costs {
			continue
		}
		var manifest *bundle.Manifest
		if h.src != nil {
			if manifest, err = h.src.Head(ctx, h.bundle()); err != nil {
				return nil, err
			}
		} else {
			b, f, err := parts.OpenBundle(here[h.Version])
			if err != nil {
				return nil, err
			}
			manifest = b.Manifest()
			f.Close()
		}
		manifests = append(manifests, manifest)
	}
	for i, cost := range d.Machine.costs(ctx, app, manifests) {
		way[i].Hop = cost
	}
	return way, nil
}

func (d *Device) Update(ctx context.Context, app, path, record string, forced bool, on *installer.Path, report func(installer.Event)) (res installer.Result, err error) {
	ctx, span := trace.Begin(ctx, trace.Step, "update "+app)
	defer func() { span.End(cmp.Or(err, res.Err)) }()
	m, o := d.with(app, record, report), Options{Forced: forced, Path: on, exact: true}
	c, err := m.Verify(ctx, path, o)
	if err != nil {
		return installer.Result{}, err
	}
	defer c.Close()
	if err := m.Plan(ctx, c, o); err != nil {
		return installer.Result{}, err
	}
	res, err = m.Apply(ctx, c, o)
	if err == nil && res.Outcome == installer.Done {
		m.FollowRelease(ctx, c)
	}
	return res, busy(err)
}

// Replaced reports whether another program is where this one was started from.
func (d *Device) Replaced() bool {
	file, err := os.Executable()
	return err == nil && release.Exists(file) && !d.Machine.isSelf(file)
}

func (d *Device) Rollback(ctx context.Context, app, record, choice string, report func(installer.Event)) (installer.Result, error) {
	return d.change(ctx, app, record, report, func(ctx context.Context, m *Machine, a *lockedApp) (installer.Result, error) {
		data, err := m.rollbackData(ctx, a, choice == daemon.RestoreData, choice == daemon.KeepData)
		if err != nil {
			return installer.Result{}, err
		}
		return a.Rollback(ctx, keepReleases, data), nil
	})
}

func (d *Device) Restore(ctx context.Context, app, record, id string, discard bool, report func(installer.Event)) (installer.Result, error) {
	m := d.with(app, record, report)
	done, err := m.Restore(ctx, id, discard)
	return done.Result, busy(err)
}

func (d *Device) Start(ctx context.Context, app string, always bool, report func(installer.Event)) (installer.Result, error) {
	res, err := d.with(app, "", report).Start(ctx, always)
	return res, busy(err)
}

func (d *Device) Stop(ctx context.Context, app string, report func(installer.Event)) error {
	return busy(d.with(app, "", report).Stop(ctx))
}

func (d *Device) Save(ctx context.Context, app string, report func(installer.Event)) (daemon.Backup, error) {
	set, err := d.with(app, "", report).Backup(ctx)
	if errors.Is(err, errNoBackup) || errors.Is(err, errNoData) {
		err = errors.Join(daemon.ErrNoData, err)
	}
	return saved(set), busy(err)
}

func (d *Device) Logs(ctx context.Context, app string, lines int, to io.Writer) error {
	return d.with(app, "", func(installer.Event) {}).Logs(ctx, lines, false, to)
}

func (d *Device) Repair(ctx context.Context) (names []string, err error) {
	all, err := d.Machine.MendRecords(ctx)
	for _, one := range all {
		names = append(names, one.App)
	}
	return names, busy(err)
}

// change opens an app, ends what is unfinished, and does something.
func (d *Device) change(ctx context.Context, app, record string, report func(installer.Event), do func(context.Context, *Machine, *lockedApp) (installer.Result, error)) (res installer.Result, err error) {
	m := d.with(app, record, report)
	err = m.onApp(ctx, "change", func(ctx context.Context, a *lockedApp) (err error) {
		if err = m.recoverFirst(ctx, a); err == nil {
			res, err = do(ctx, m, a)
		}
		return err
	})
	return res, busy(err)
}

func (d *Device) Recover(ctx context.Context, app string, report func(installer.Event)) error {
	j, st, err := d.Machine.ReadState(ctx, app)
	if err != nil {
		return err
	}
	if err := j.Close(); err != nil || st.Unfinished == nil {
		return err
	}
	m := d.with(app, "", report)
	return busy(m.onApp(ctx, "recover", func(ctx context.Context, a *lockedApp) error {
		report(installer.Event{Step: "undo", Detail: cmp.Or(st.Unfinished.Error, "it was interrupted")})
		return m.recoverFirst(ctx, a)
	}))
}

// busy marks an error that time heals.
func busy(err error) error {
	if locked := new(release.LockedError); errors.As(err, &locked) {
		return errors.Join(daemon.ErrBusy, err)
	}
	return err
}

func (d *Device) Explain(err error) (text, check string) {
	if refused := new(verify.Error); errors.As(err, &refused) {
		check = refused.Check
	}
	if format := new(bundle.FormatError); errors.As(err, &format) {
		check = format.Rule
	}
	return d.Explanation(err), check
}

// sourceOf is where the releases of app come from.
func (d *Device) sourceOf(app string) (*source.Source, error) {
	c, err := d.Machine.ReadConfig(app)
	if err != nil {
		return nil, err
	}
	if c.Source.IsZero() {
		return nil, daemon.ErrNoSource
	}
	return source.New(app, c.Source, d.Machine.sourceOptions(app))
}

func (d *Device) Latest(ctx context.Context, app string) (daemon.Latest, error) {
	src, err := d.sourceOf(app)
	if err != nil {
		return daemon.Latest{}, err
	}
	st, err := d.State(ctx, app)
	if err != nil {
		return daemon.Latest{}, err
	}
	way, err := d.Machine.choose(ctx, src, app, "", st, Options{}, true)
	if errors.Is(err, source.ErrNoRelease) {
		return daemon.Latest{}, nil
	}
	l := daemon.Latest{}
	for _, h := range way.hops {
		l.Way = append(l.Way, h.Version)
	}
	switch beyond := cmp.Or(way.beyond, err); {
	case installer.Obstacle(beyond):
		l.Blocked = &installer.Failure{Reason: installer.ReasonOf(beyond), Err: errors.New(d.Explanation(beyond))}
		if err != nil {
			l.Way = nil
		}
	case err != nil && !errors.As(err, new(*NewestError)):
		return l, err
	}
	rel := way.hops[len(way.hops)-1]
	b := rel.bundle()
	l.Version, l.DownloadURL, l.ReleaseURL, l.Notes, l.Published, l.Size = rel.Version, b.URL(), rel.Page, plain.Text(rel.Notes), rel.Date, max(0, b.Size)
	return l, nil
}

// Fetch downloads the whole bundle: it waits for a person to apply it, who may
// have no network then.
func (d *Device) Fetch(ctx context.Context, app, version string, dst *os.File, report func(installer.Event)) error {
	src, err := d.sourceOf(app)
	if err != nil {
		return err
	}
	rel, err := src.Exactly(ctx, version, source.Query{Platform: host.Platform()})
	if err != nil {
		return err
	}
	b := rel.For(host.Platform())[0]
	if b.Remote() {
		err := d.fetchMissing(ctx, app, src, b, version, dst, report)
		if !errors.Is(err, source.ErrNoRanges) && !errors.Is(err, bundle.ErrTOC) {
			return err
		}
		return src.Download(ctx, b, dst, func(size int64) error { return installer.Room(dst, size) }, func(done, total int64) { report(installer.Event{Step: "download", Done: done, Total: max(0, total)}) })
	}
	f, err := b.OpenLocal()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := installer.Room(dst, f.Size()); err != nil {
		return err
	}
	_, err = io.Copy(dst, io.NewSectionReader(f, 0, f.Size()))
	return err
}

// fetchMissing writes a release to dst without what this device has and what is
// for others: a thin bundle, with the signature of the whole one.
func (d *Device) fetchMissing(ctx context.Context, app string, src *source.Source, b source.Bundle, version string, dst *os.File, report func(installer.Event)) error {
	f, err := src.Open(ctx, b)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		return fmt.Errorf("read %s: %w", b.Name, err)
	}
	manifest := r.Manifest()
	if manifest.Kind != bundle.KindCompose {
		return source.ErrNoRanges // a file tree is for one platform, and needed whole
	}
	policy, err := d.Machine.Policy(ctx, app)
	if err != nil {
		return err
	}
	verifier, err := verify.New(policy)
	if err != nil {
		return fmt.Errorf("read %s: %w", d.Machine.ConfigPath(app), err)
	}
	if _, err := verifier.Remote(r, verify.Want{App: app, Version: version}); err != nil {
		return err
	}
	have, err := d.Machine.inventory(ctx, app)
	if err != nil {
		return err
	}
	if i, ok := carriedInstaller(manifest); ok && !d.Machine.wantsInstaller(i.Digest) {
		have.Installer = i.Digest
	}
	omit, err := have.Omit(manifest)
	if err != nil {
		return err
	}
	var blobs []bundle.Digest
	for _, c := range manifest.Components {
		if c.Index != nil {
			blobs = append(blobs, c.Index.Digest)
		}
		for _, i := range c.Images {
			blobs = append(blobs, i.Manifest.Digest, i.Config.Digest)
			for _, l := range i.Layers {
				if !omit(l.Digest) {
					blobs = append(blobs, l.Digest)
				}
			}
		}
	}
	ranges := r.Ranges(stagedFiles(manifest, have.Platform), blobs)
	_, size := source.Join(ranges)
	if err := installer.Room(dst, size); err != nil {
		return err
	}
	f.Hold(d.Machine.hold(size))
	f.Expect(ranges)
	return bundle.Thin(ctx, dst, r, omit, func(done, total int64) {
		report(installer.Event{Step: "download", Done: done, Total: total})
	})
}

// Doctor is the command of that name.
func (d *Device) Doctor(ctx context.Context, app string) []daemon.Finding {
	all := []daemon.Finding{}
	for _, f := range d.Machine.Examine(ctx, []string{app}) {
		all = append(all, daemon.Finding{
			Name: f.Check, OK: f.Status == FindingOK, Text: f.Detail(), Format: f.Format, Args: words(f.Format, f.Args),
			Remedy: d.Remedy(f.Remedy), Advice: string(f.Remedy.Advice), AdviceArgs: words("", f.Remedy.Args),
		})
	}
	return all
}

var verb = lazyregexp.New(`%[0-9]*[a-z]`)

// words are arguments as format writes them, one by one: those who say it in another
// language put them in as they are.
func words(format string, args []any) (all []string) {
	verbs := verb.FindAllString(format, -1)
	for i, a := range args {
		how := "%v"
		if i < len(verbs) {
			how = verbs[i]
		}
		all = append(all, oneLine(fmt.Sprintf(how, a)))
	}
	return all
}

// Backups lists what was saved, newest first.
func (d *Device) Backups(app string) ([]daemon.Backup, error) {
	sets, err := d.Machine.Backups(app)
	if err != nil {
		return nil, err
	}
	var all []daemon.Backup
	for _, set := range slices.Backward(sets) {
		all = append(all, saved(set))
	}
	return all, nil
}

func saved(set backup.Set) daemon.Backup {
	b := daemon.Backup{ID: set.Record, Created: set.Created, Version: set.Version, Size: set.Size()}
	for _, i := range set.Items {
		what := installer.Saved(i.Backup)
		b.Files = append(b.Files, daemon.BackupFile{Name: i.Name, Size: i.Size, What: what.Text, Format: what.Format, Args: what.Args})
	}
	return b
}

// OpenBackup opens a file that Backups named.
func (d *Device) OpenBackup(app, _, file string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(d.Machine.AppDir(app))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	saved, err := foreign.OpenOwn(root, compose.BackupsDir)
	if err != nil {
		return nil, err
	}
	defer saved.Close()
	return saved.Open(file)
}

func (d *Device) OnRollback(app string, r installer.Release) (string, error) {
	if r.Kind == bundle.KindTree {
		return string(bundle.RestoreNever), nil // a tree has no data of its own
	}
	store, err := release.Open(d.Machine.AppDir(app))
	if err != nil {
		return "", err
	}
	defer store.Close()
	policy, err := d.Machine.runtime(app, store, nil, docker.Program{}).RestorePolicy(r)
	return string(policy), err
}
