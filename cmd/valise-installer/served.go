package main

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
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

// served is the daemon.Device: the commands' code, called without a terminal.
type served struct{ p *program }

// with is a program for one call about app.
func (s *served) with(app, record string, report func(installer.Event)) *program {
	p := *s.p
	p.name, p.record, p.observe = app, record, report
	p.UI, _ = ui.New(io.Discard, ui.None, p.Getenv, p.Now)
	return &p
}

func (s *served) Apps() ([]string, error) { return s.p.installed() }

func (s *served) Config(app string) (daemon.Config, error) {
	c, err := s.p.readConfig(app)
	if errors.Is(err, fs.ErrNotExist) {
		return daemon.Config{}, s.p.notInstalled(app, "BUNDLE")
	}
	u := c.Updates
	u.Drop = cmp.Or(u.Drop, filepath.Join(s.p.appDir(app), "updates"))
	u.DropMode, u.Auto = cmp.Or(u.DropMode, daemon.Apply), cmp.Or(u.Auto, daemon.Off)
	u.Inbox = filepath.Join(s.p.stateDir(app), "inbox")
	if c.Source != (source.Config{}) {
		u.Source, u.Channel = c.Source.String(), c.Source.Channel
	}
	for _, signer := range c.Trust.Signers {
		u.Signers = append(u.Signers, signer.String())
	}
	return u, err
}

// Configure writes settings of the page into /etc/valise/APP.yaml, under the lock
// of the app: a release may rotate whom the same file trusts.
func (s *served) Configure(app string, to daemon.Settings) error {
	unlock, err := release.Lock(filepath.Join(s.p.stateDir(app), "lock"), "valise-installer serve: settings", s.p.Now())
	if err != nil {
		return busy(err)
	}
	defer unlock()
	want, err := s.p.readConfig(app)
	if err != nil {
		return err
	}
	want.Updates.Settings, want.Source.Channel = to, to.Channel
	want.Updates.Channel = ""
	raw, err := os.ReadFile(s.p.configPath(app))
	if err != nil {
		return err
	}
	text, got, err := editYAML(raw, func(top *yaml.Node) error {
		updates := member(top, "updates")
		if updates == nil || updates.Kind != yaml.MappingNode {
			updates = &yaml.Node{Kind: yaml.MappingNode}
			setMember(top, "updates", updates)
		}
		setText(updates, "check", to.Check.String())
		setText(updates, "auto", string(to.Auto))
		setText(updates, "window", to.Window)
		if len(updates.Content) == 0 {
			setMember(top, "updates", nil)
		}
		if from := member(top, "source"); from != nil {
			setText(from, "channel", to.Channel)
		}
		return nil
	})
	if err == nil && !reflect.DeepEqual(got, want) {
		err = errUnlike
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", s.p.configPath(app), err)
	}
	dir, err := openDir(filepath.Dir(s.p.configPath(app)), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	return release.ReplaceFile(dir, app+".yaml", text, 0o644)
}

func (s *served) Records(ctx context.Context, app string) (daemon.Records, error) {
	return s.p.openRecords(ctx, app)
}

// Ready says why nothing can be done for an app now: its engine does not answer.
func (s *served) Ready(ctx context.Context, app string) error {
	if kind, err := s.p.kindOf(ctx, app); err != nil || kind == bundle.KindTree {
		return err
	}
	e, err := s.p.connect(ctx)
	if err != nil {
		return err
	}
	return e.Close()
}

func (s *served) Plan(ctx context.Context, app, path string, forced bool, report func(installer.Event)) (offer daemon.Offer, err error) {
	p, o := s.with(app, "", report), applyOptions{forced: forced, dryRun: true}
	c, err := p.verified(ctx, path, o)
	if err != nil {
		return offer, err
	}
	defer c.close()
	m := c.rel.Manifest()
	offer.Version, offer.Changelog = m.Version, m.Changelog
	err = p.consider(ctx, c, o)
	offer.Plan = c.plan
	return offer, err
}

func (s *served) Update(ctx context.Context, app, path, record string, forced bool, report func(installer.Event)) (installer.Result, error) {
	p, o := s.with(app, record, report), applyOptions{forced: forced}
	c, err := p.verified(ctx, path, o)
	if err != nil {
		return installer.Result{}, err
	}
	defer c.close()
	if err := p.consider(ctx, c, o); err != nil {
		return installer.Result{}, err
	}
	res, err := p.carryOut(ctx, c, o)
	if err == nil && res.Outcome == installer.Done {
		p.followRelease(ctx, c)
	}
	return res, busy(err)
}

// Replaced reports whether another program is where this one was started from.
func (s *served) Replaced() bool {
	file, err := os.Executable()
	return err == nil && there(file) && !s.p.isSelf(file)
}

func (s *served) Rollback(ctx context.Context, app, record, choice string, report func(installer.Event)) (installer.Result, error) {
	return s.change(ctx, app, record, report, func(ctx context.Context, p *program, d *device) (installer.Result, error) {
		data, err := p.rollbackData(ctx, d, choice == daemon.RestoreData, choice == daemon.KeepData)
		if err != nil {
			return installer.Result{}, err
		}
		return d.Rollback(ctx, keepReleases, data), nil
	})
}

func (s *served) Restore(ctx context.Context, app, record, id string, report func(installer.Event)) (installer.Result, error) {
	return s.change(ctx, app, record, report, func(ctx context.Context, p *program, d *device) (installer.Result, error) {
		set, err := d.findBackup([]string{id})
		if err != nil {
			return installer.Result{}, err
		}
		return d.RestoreData(ctx, keepReleases, installer.Data{Record: set.Record}), nil
	})
}

// change opens an app, ends what is unfinished, and does something.
func (s *served) change(ctx context.Context, app, record string, report func(installer.Event), do func(context.Context, *program, *device) (installer.Result, error)) (res installer.Result, err error) {
	p := s.with(app, record, report)
	err = p.onDevice(ctx, "change "+app, func(ctx context.Context, d *device) (err error) {
		if err = p.recoverFirst(ctx, d); err == nil {
			res, err = do(ctx, p, d)
		}
		return err
	})
	return res, busy(err)
}

func (s *served) Recover(ctx context.Context, app string, report func(installer.Event)) error {
	j, st, err := s.p.readState(ctx, app)
	if err != nil {
		return err
	}
	if err := j.Close(); err != nil || st.Unfinished == nil {
		return err
	}
	p := s.with(app, "", report)
	return busy(p.onDevice(ctx, "recover", func(ctx context.Context, d *device) error {
		report(installer.Event{Step: "undo", Detail: cmp.Or(st.Unfinished.Error, "it was interrupted")})
		return p.recoverFirst(ctx, d)
	}))
}

// busy marks an error that time heals.
func busy(err error) error {
	if locked := new(release.LockedError); errors.As(err, &locked) {
		return errors.Join(daemon.ErrBusy, err)
	}
	return err
}

func (s *served) Explain(err error) (text, check string) {
	if refused := new(verify.Error); errors.As(err, &refused) {
		check = refused.Check
	}
	if format := new(bundle.FormatError); errors.As(err, &format) {
		check = format.Rule
	}
	return cli.Explain(err), check
}

// sourceOf is where the releases of app come from.
func (s *served) sourceOf(app string) (*source.Source, error) {
	c, err := s.p.readConfig(app)
	if err != nil {
		return nil, err
	}
	if c.Source == (source.Config{}) {
		return nil, daemon.ErrNoSource
	}
	return source.New(app, c.Source, s.p.sourceOptions(app))
}

func (s *served) Latest(ctx context.Context, app string) (daemon.Latest, error) {
	src, err := s.sourceOf(app)
	if err != nil {
		return daemon.Latest{}, err
	}
	rel, err := src.Latest(ctx, source.Query{Platform: thisPlatform()})
	if errors.Is(err, source.ErrNoRelease) {
		return daemon.Latest{}, nil
	}
	if err != nil {
		return daemon.Latest{}, err
	}
	b := rel.For(thisPlatform())[0]
	return daemon.Latest{Version: rel.Version, DownloadURL: b.URL(), ReleaseURL: rel.Page, Notes: plain.Text(rel.Notes), Published: rel.Date, Size: max(0, b.Size)}, nil
}

// Fetch downloads the whole bundle: it waits for somebody to apply it, who may
// have no network then.
func (s *served) Fetch(ctx context.Context, app, version string, dst *os.File, report func(installer.Event)) error {
	src, err := s.sourceOf(app)
	if err != nil {
		return err
	}
	rel, err := src.Exactly(ctx, version, source.Query{Platform: thisPlatform()})
	if err != nil {
		return err
	}
	b := rel.For(thisPlatform())[0]
	if b.Remote() {
		err := s.fetchMissing(ctx, app, src, b, version, dst, report)
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
func (s *served) fetchMissing(ctx context.Context, app string, src *source.Source, b source.Bundle, version string, dst *os.File, report func(installer.Event)) error {
	f, err := src.Open(ctx, b)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		return fmt.Errorf("read %s: %w", b.Name, err)
	}
	m := r.Manifest()
	if m.Kind != bundle.KindCompose {
		return source.ErrNoRanges // a file tree is for one platform, and needed whole
	}
	policy, err := s.p.readPolicy(ctx, app)
	if err != nil {
		return err
	}
	verifier, err := verify.New(policy)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.p.configPath(app), err)
	}
	if _, err := verifier.Remote(r, verify.Want{App: app, Version: version}); err != nil {
		return err
	}
	have, err := s.p.inventory(ctx, app)
	if err != nil {
		return err
	}
	if i, ok := carriedInstaller(m); ok && !s.p.wantsInstaller(i.Digest) {
		have.Installer = i.Digest
	}
	omit, err := have.Omit(m)
	if err != nil {
		return err
	}
	var blobs []bundle.Digest
	for _, c := range m.Components {
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
	ranges := r.Ranges(stagedFiles(m, have.Platform), blobs)
	_, size := source.Join(ranges)
	if err := installer.Room(dst, size); err != nil {
		return err
	}
	f.Expect(ranges)
	return bundle.Thin(ctx, dst, r, omit, func(done, total int64) {
		report(installer.Event{Step: "download", Done: done, Total: total})
	})
}

// Doctor is the command of that name.
func (s *served) Doctor(ctx context.Context, app string) []daemon.Finding {
	all := []daemon.Finding{}
	for _, f := range s.p.examine(ctx, []string{app}) {
		all = append(all, daemon.Finding{Name: f.Check, OK: f.Status == findingOK, Text: f.Detail, Remedy: f.Remedy})
	}
	return all
}

// Backups lists what was saved, newest first.
func (s *served) Backups(app string) ([]daemon.Backup, error) {
	sets, err := s.p.savedSets(app)
	if err != nil {
		return nil, err
	}
	var all []daemon.Backup
	for _, set := range slices.Backward(sets) {
		b := daemon.Backup{ID: set.Record, Created: set.Created, Version: set.Version, Size: set.Size()}
		for _, i := range set.Items {
			b.Files = append(b.Files, daemon.BackupFile{Name: i.Name, Size: i.Size, What: backup.Describe(i.Backup)})
		}
		all = append(all, b)
	}
	return all, nil
}

// OpenBackup opens a file that Backups named.
func (s *served) OpenBackup(app, _, file string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(filepath.Join(s.p.appDir(app), "updates/backups"))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Open(file)
}

func (s *served) OnRollback(app string, r installer.Release) (string, error) {
	if r.Kind == bundle.KindTree {
		return string(bundle.RestoreNever), nil // a tree has no data of its own
	}
	store, err := release.Open(s.p.appDir(app))
	if err != nil {
		return "", err
	}
	defer store.Close()
	policy, err := s.p.runtime(app, store, nil, nil).RestorePolicy(r)
	return string(policy), err
}
