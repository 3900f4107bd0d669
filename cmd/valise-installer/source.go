package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

// opened is a bundle that is open, and not verified.
type opened struct {
	*bundle.Reader
	file    io.Closer
	remote  *source.File // nil for a file on this device
	version string       // which one it must be; empty: any
	thin    bool
	// whole fetches a remote bundle as a whole.
	whole func(context.Context) (*opened, error)
}

// newestError says that the source has nothing newer.
type newestError struct{ app, runs, offered, source string }

func (e *newestError) Error() string {
	return fmt.Sprintf("%s runs; the newest in %s is %s", e.runs, e.source, e.offered)
}

// open opens what a command was given: a file, an address, a version that the
// source has, or, when it is empty, the newest one.
func (p *program) open(ctx context.Context, what string, o applyOptions) (*opened, error) {
	version, isVersion := asVersion(what)
	switch {
	case strings.HasPrefix(what, "https://"), strings.HasPrefix(what, "http://"):
		src, b, err := source.Direct(what, p.sourceOptions(""))
		if err != nil {
			return nil, cli.Usagef("%v", err)
		}
		return p.openRemote(ctx, src, b, nil, "")
	case what != "" && !isVersion:
		r, f, err := cli.OpenBundle(what)
		if err != nil {
			return nil, err
		}
		return &opened{Reader: r, file: f}, nil
	}
	src, app, err := p.sourceOf(o)
	if err != nil {
		return nil, err
	}
	st, err := p.stateOf(ctx, app)
	if err != nil {
		return nil, err
	}
	rel, err := p.choose(ctx, src, app, version, st, o)
	if err != nil {
		return nil, err
	}
	full, thin := rel.For(thisPlatform())[0], []source.Bundle(nil)
	if st.Current != nil && !o.whole {
		thin = rel.Thin(thisPlatform(), st.Current.Version)
	}
	if full.Remote() {
		return p.openRemote(ctx, src, full, thin, rel.Version)
	}
	f, err := full.OpenLocal()
	if err != nil {
		return nil, err
	}
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", full.Name, err)
	}
	return &opened{Reader: r, file: f, version: rel.Version}, nil
}

// choose asks the source for a version, or for the newest one.
func (p *program) choose(ctx context.Context, src *source.Source, app, version string, st installer.State, o applyOptions) (source.Release, error) {
	q := source.Query{Platform: thisPlatform()}
	if version != "" {
		return src.Exactly(ctx, version, q)
	}
	if !o.forced {
		q.Bad = st.Bad
	}
	rel, err := src.Latest(ctx, q)
	if err == nil && st.Current != nil && !o.first && !bundle.Newer(rel.Version, st.Current.Version) {
		err = &newestError{app, st.Current.Version, rel.Version, src.String()}
	}
	return rel, err
}

// openRemote begins to read a bundle on a server. thin are bundles that cost less
// where the server only gives whole files: in parts, they are no smaller than the
// complete one.
func (p *program) openRemote(ctx context.Context, src *source.Source, full source.Bundle, thin []source.Bundle, version string) (*opened, error) {
	whole := func(ctx context.Context) (*opened, error) {
		b := full
		if len(thin) > 0 && (full.Size < 0 || thin[0].Size < full.Size) {
			b = thin[0]
		}
		r, f, err := p.download(ctx, src, b)
		if err != nil {
			return nil, err
		}
		return &opened{Reader: r, file: f, version: version, thin: b.From != ""}, nil
	}
	f, err := src.Open(ctx, full)
	if errors.Is(err, source.ErrNoRanges) {
		return whole(ctx)
	}
	if err != nil {
		return nil, err
	}
	r, err := bundle.Open(f, f.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", full.Name, err)
	}
	return &opened{Reader: r, file: f, remote: f, version: version, whole: whole}, nil
}

// download fetches a whole bundle into a file that has no name: nobody can take
// it for a verified one, and it is gone whatever happens.
func (p *program) download(ctx context.Context, src *source.Source, b source.Bundle) (*bundle.Reader, *os.File, error) {
	dir := filepath.Join(p.root, "var/tmp")
	if _, err := os.Stat(dir); err != nil {
		dir = os.TempDir()
	}
	f, err := os.CreateTemp(dir, "valise-*.unverified")
	if err != nil {
		return nil, nil, fmt.Errorf("download %s: %w", b.Name, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("download %s: %w", b.Name, err)
	}
	update, finish := p.track("download", "download "+b.Name)
	err = src.Download(ctx, b, f, func(size int64) error { return installer.Room(f, size) }, update)
	finish(err)
	var r *bundle.Reader
	if err == nil {
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			r, err = bundle.Open(f, info.Size())
		}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return r, f, nil
}

// verifyOpened makes the trust decision. A remote bundle that cannot be read in
// parts is fetched first, and b becomes that file.
func (p *program) verifyOpened(ctx context.Context, v *verify.Verifier, b *opened, app string) (*verify.Release, error) {
	want := verify.Want{App: app, Version: b.version}
	if b.remote != nil {
		rel, err := v.Remote(b.Reader, want)
		if !errors.Is(err, bundle.ErrTOC) {
			return rel, err
		}
		p.Note("%v; the whole file is fetched", err)
		w, err := b.whole(ctx)
		if err != nil {
			return nil, err
		}
		b.file.Close()
		*b = *w
	}
	update, finish := p.track("verify", "verify "+app+" "+b.Manifest().Version)
	rel, err := v.Release(ctx, b.Reader, want, update)
	finish(err)
	return rel, err
}

// spoolFrom is how many bytes are worth keeping through a power cut.
const spoolFrom = 8 << 20

func (p *program) spoolDir(app string) string { return filepath.Join(p.stateDir(app), "spool") }

// fetches says what a plan will read of a remote bundle.
func fetches(b *opened, plan *installer.Plan) []bundle.Range {
	if b.remote == nil || plan.Action == "" {
		return nil
	}
	m := b.Manifest()
	files := stagedFiles(m, plan.Platform)
	if m.Kind == bundle.KindTree {
		return b.Ranges(files, nil)
	}
	blobs := plan.Missing
	for _, c := range m.Components {
		for _, i := range c.Images {
			if i.Platform == plan.Platform {
				blobs = append(blobs, i.Manifest.Digest, i.Config.Digest)
			}
		}
	}
	return b.Ranges(files, blobs)
}

// stagedFiles are the files of a bundle that a device keeps.
func stagedFiles(m *bundle.Manifest, p bundle.Platform) (files []string) {
	if m.Kind == bundle.KindTree {
		for _, f := range m.TreeFiles(p) {
			files = append(files, f.Path)
		}
		return files
	}
	for _, f := range m.Files {
		if compose.Staged(f.Path) {
			files = append(files, f.Path)
		}
	}
	return files
}

// fetchAhead prepares for the transaction to read what the plan says.
func (p *program) fetchAhead(c *candidate) error {
	if c.from.remote == nil {
		return nil
	}
	if free, err := installer.FreeBytes(p.stateDir(c.app)); c.plan.FetchBytes >= spoolFrom && err == nil && free >= c.plan.NeedBytes+c.plan.FetchBytes+installer.Spare {
		if err := c.from.remote.Spool(p.spoolDir(c.app), c.rel.Digest()); err != nil {
			return err
		}
	}
	c.from.remote.Expect(fetches(c.from, c.plan))
	return nil
}

// spoolEnd removes the spool unless the next attempt can use it: when a transfer
// or this program was cut off.
func (p *program) spoolEnd(c *candidate, res installer.Result) {
	if res.Outcome == installer.Done || errors.As(res.Err, new(*bundle.FormatError)) {
		_ = os.RemoveAll(p.spoolDir(c.app)) // a cache
	}
}

// sourceOf returns the source to ask, and whose releases: what the operator names
// at a first installation, else what the device's configuration says.
func (p *program) sourceOf(o applyOptions) (*source.Source, string, error) {
	if o.first {
		if o.source == "" {
			return nil, "", cli.Usagef("name a bundle, or --source")
		}
		c, err := source.Parse(o.source)
		if err != nil {
			return nil, "", cli.Usagef("%v", err)
		}
		app := p.name
		if app == "" && c.GitHub != "" {
			app = strings.ToLower(path.Base(c.GitHub))
		}
		if !bundle.ValidApp(app) {
			return nil, "", cli.Usagef("name the app with --app")
		}
		src, err := source.New(app, c, p.sourceOptions(""))
		return src, app, err
	}
	app, err := p.theApp()
	if err != nil {
		return nil, "", err
	}
	c, err := p.readConfig(app)
	if err != nil {
		return nil, "", err
	}
	if c.Source == (source.Config{}) {
		return nil, "", cli.WithHint(fmt.Errorf("%s does not say where releases of %s come from", p.configPath(app), app),
			"add \"source: {github: OWNER/REPOSITORY}\" or \"source: {url: https://HOST/DIRECTORY/}\" to it, or name a bundle")
	}
	src, err := source.New(app, c.Source, p.sourceOptions(app))
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", p.configPath(app), err)
	}
	return src, app, nil
}

func (p *program) sourceOptions(app string) source.Options {
	o := source.Options{Proxy: http.ProxyFromEnvironment, Token: p.Getenv("VALISE_SOURCE_TOKEN"), Agent: "valise-installer/" + cli.Version()}
	if app != "" {
		o.Cache = filepath.Join(p.stateDir(app), "cache")
	}
	return o
}

// stateOf is what the records say of an app, nothing when there are none.
func (p *program) stateOf(ctx context.Context, app string) (installer.State, error) {
	if !p.hasRecords(app) {
		return installer.State{}, nil
	}
	j, st, err := p.readState(ctx, app)
	if err != nil {
		return st, err
	}
	return st, j.Close()
}

// asVersion reads v1.2.3 or 1.2.3. By its form 1.2.3-rc.1.tar.gz is a version too,
// but it is the name of a file.
func asVersion(s string) (string, bool) {
	v := strings.TrimPrefix(s, "v")
	_, err := bundle.ParseVersion(v)
	name, _ := parts.Split(s)
	return v, err == nil && !parts.NamesBundle(name)
}

// thisPlatform is what this program was built for: the engine may say more later.
func thisPlatform() bundle.Platform {
	switch runtime.GOARCH {
	case "arm":
		return "linux/arm/v7"
	}
	return bundle.Platform("linux/" + runtime.GOARCH)
}
