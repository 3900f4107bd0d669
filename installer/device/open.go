package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/host"
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
	route   route            // of which this is the first hop; empty when it is all
	last    *bundle.Manifest // of the file that route leads to, when it is one
	// whole fetches a remote bundle as a whole.
	whole func(context.Context) (*opened, error)
}

// NewestError says that the source has nothing newer.
type NewestError struct{ App, Runs, Offered, Source string }

func (e *NewestError) Error() string {
	return fmt.Sprintf("%s runs; the newest in %s is %s", e.Runs, e.Source, e.Offered)
}

// open opens what a command was given: a file, an address, a version that the
// source has, or, when it is empty, the newest one that can be reached. Where others
// come first, it is the first of them.
func (m *Machine) open(ctx context.Context, what string, o Options) (*opened, error) {
	version, isVersion := AsVersion(what)
	switch {
	case strings.HasPrefix(what, "https://"), strings.HasPrefix(what, "http://"):
		src, b, err := source.Direct(what, m.sourceOptions(""))
		if err != nil {
			return nil, usagef("%v", err)
		}
		return m.openRemote(ctx, src, b, nil, "")
	case what != "" && !isVersion && (o.First || !isDir(what)):
		r, f, err := parts.OpenBundle(what)
		if err != nil {
			return nil, err
		}
		if way, err := m.around(ctx, what, r.Manifest(), o); err != nil || len(way.hops) > 0 {
			f.Close()
			if err != nil {
				return nil, err
			}
			b, err := m.openHop(ctx, way, installer.State{}, o)
			if err == nil {
				b.last = r.Manifest()
			}
			return b, err
		}
		return &opened{Reader: r, file: f}, nil
	}
	if what != "" && !isVersion {
		dir, err := filepath.Abs(what)
		if err != nil {
			return nil, err
		}
		o.dir, version = dir, ""
	}
	src, app, err := m.sourceOf(o)
	if err != nil {
		return nil, err
	}
	st, err := m.State(ctx, app)
	if err != nil {
		return nil, err
	}
	// On the way already, heads are read first; else most releases need no other, and
	// looking would cost a request more.
	look := st.Path != nil
	for {
		way, err := m.choose(ctx, src, app, version, st, o, look)
		if err != nil {
			return nil, err
		}
		b, err := m.openHop(ctx, way, st, o)
		if err != nil {
			return nil, err
		}
		need := b.Manifest().Requires
		if look || o.First || st.Current == nil || need == nil || need.Engine == "" && !bundle.Newer(need.From, st.Current.Version) {
			return b, nil
		}
		b.file.Close()
		look = true
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// openRemote begins to read a bundle on a server. thin are bundles that cost less
// where the server only gives whole files: in parts, they are no smaller than the
// complete one.
func (m *Machine) openRemote(ctx context.Context, src *source.Source, full source.Bundle, thin []source.Bundle, version string) (*opened, error) {
	whole := func(ctx context.Context) (*opened, error) {
		b := full
		if len(thin) > 0 && (full.Size < 0 || thin[0].Size < full.Size) {
			b = thin[0]
		}
		r, f, err := m.download(ctx, src, b)
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

// nameless is a file that has no name: nobody can take it for a verified one, and it is
// gone whatever happens.
func (m *Machine) nameless() (*os.File, error) {
	dir := filepath.Join(m.Root, "var/tmp")
	if _, err := os.Stat(dir); err != nil {
		dir = os.TempDir()
	}
	f, err := os.CreateTemp(dir, "valise-*.unverified")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// hold gives files for content, and leaves room for need bytes.
func (m *Machine) hold(need int64) func(size int64) (*os.File, error) {
	return func(size int64) (*os.File, error) {
		f, err := m.nameless()
		if err == nil {
			if err = installer.Room(f, size+need); err != nil {
				f.Close()
			}
		}
		return f, err
	}
}

// download fetches a whole bundle into a file without a name.
func (m *Machine) download(ctx context.Context, src *source.Source, b source.Bundle) (*bundle.Reader, *os.File, error) {
	f, err := m.nameless()
	if err != nil {
		return nil, nil, fmt.Errorf("download %s: %w", b.Name, err)
	}
	ctx, update, finish := m.track(ctx, "download", b.Name)
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
func (m *Machine) verifyOpened(ctx context.Context, v *verify.Verifier, b *opened, app string) (*verify.Release, error) {
	want := verify.Want{App: app, Version: b.version}
	if b.remote != nil {
		rel, err := v.Remote(b.Reader, want)
		if !errors.Is(err, bundle.ErrTOC) {
			return rel, err
		}
		m.Note("%v; the whole file is downloaded", err)
		w, err := b.whole(ctx)
		if err != nil {
			return nil, err
		}
		b.file.Close()
		w.route, w.last = b.route, b.last
		*b = *w
	}
	ctx, update, finish := m.track(ctx, "verify", app+" "+b.Manifest().Version)
	rel, err := v.Release(ctx, b.Reader, want, update)
	finish(err)
	return rel, err
}

// spoolFrom is how many bytes are worth keeping through a power cut.
const spoolFrom = 8 << 20

func (m *Machine) spoolDir(app string) string { return filepath.Join(m.stateDir(app), "spool") }

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
func (m *Machine) fetchAhead(c *Candidate) error {
	if c.from.remote == nil {
		return nil
	}
	if free, err := installer.FreeBytes(m.stateDir(c.App)); c.Plan.FetchBytes >= spoolFrom && err == nil && free >= c.Plan.NeedBytes+c.Plan.FetchBytes+installer.Spare {
		if err := c.from.remote.Spool(m.spoolDir(c.App), c.rel.Digest()); err != nil {
			return err
		}
	}
	c.from.remote.Hold(m.hold(c.Plan.NeedBytes))
	c.from.remote.Expect(fetches(c.from, c.Plan))
	return nil
}

// spoolEnd removes the spool unless the next attempt can use it: when a transfer
// or this program was cut off.
func (m *Machine) spoolEnd(c *Candidate, res installer.Result) {
	if res.Outcome == installer.Done || errors.As(res.Err, new(*bundle.FormatError)) {
		_ = os.RemoveAll(m.spoolDir(c.App)) // a cache
	}
}

// sourceOf returns the source to ask, and whose releases: what the operator names
// at a first installation, else what the device's configuration says.
func (m *Machine) sourceOf(o Options) (*source.Source, string, error) {
	if o.First {
		if o.Source == "" {
			return nil, "", advise(usagef("there is neither a bundle nor a source"), NameBundle)
		}
		c, err := source.Parse(o.Source)
		if err != nil {
			return nil, "", usagef("%v", err)
		}
		app := m.App
		if app == "" && c.GitHub+c.OCI != "" {
			app = strings.ToLower(path.Base(c.GitHub + c.OCI))
		}
		if !bundle.ValidApp(app) {
			return nil, "", advise(usagef("the source does not say which app"), NameNewApp)
		}
		src, err := source.New(app, c, m.sourceOptions(""))
		return src, app, err
	}
	app, err := m.TheApp()
	if err != nil {
		return nil, "", err
	}
	c, err := m.ReadConfig(app)
	if err != nil {
		return nil, "", err
	}
	if o.dir != "" {
		c.Source = source.Config{Path: o.dir, Channel: c.Source.Channel}
	}
	if c.Source.IsZero() {
		return nil, "", advise(fmt.Errorf("%s names no source for releases of %s", m.ConfigPath(app), app), NameSource)
	}
	src, err := source.New(app, c.Source, m.sourceOptions(app))
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", m.ConfigPath(app), err)
	}
	return src, app, nil
}

func (m *Machine) sourceOptions(app string) source.Options {
	o := source.Options{Proxy: m.Proxy, Token: m.Getenv("VALISE_SOURCE_TOKEN"), Agent: "valise-installer/" + m.Version}
	o.PassedOver = func(err error) { m.Note("a mirror was skipped: %v", err) }
	if app != "" {
		o.Cache = filepath.Join(m.stateDir(app), "cache")
	}
	return o
}

// State is what the records say of an app, nothing when there are none.
func (m *Machine) State(ctx context.Context, app string) (installer.State, error) {
	if !m.hasRecords(app) {
		return installer.State{}, nil
	}
	j, st, err := m.ReadState(ctx, app)
	if err != nil {
		return st, err
	}
	return st, j.Close()
}

// AsVersion reads v1.2.3 or 1.2.3. By its form 1.2.3-rc.1.tar.gz is a version too,
// but it is the name of a file.
func AsVersion(s string) (string, bool) {
	v := strings.TrimPrefix(s, "v")
	_, err := bundle.ParseVersion(v)
	name, _ := parts.Split(s)
	return v, err == nil && !parts.NamesBundle(name)
}

// Offer is what a source has for this device.
type Offer struct {
	App       string    `json:"app"`
	Current   string    `json:"current"`
	Latest    string    `json:"latest,omitempty"`
	Available bool      `json:"update_available"`
	Source    string    `json:"source"`
	Page      string    `json:"page,omitempty"`
	Notes     string    `json:"notes,omitempty"`
	Date      time.Time `json:"date,omitzero"`
	Size      int64     `json:"size,omitempty"` // of the complete bundle; -1: unknown
	Held      string    `json:"held,omitempty"` // why a newer one is held back
}

// Look asks the source of an app for the newest release.
func (m *Machine) Look(ctx context.Context) (Offer, error) {
	src, app, err := m.sourceOf(Options{})
	if err != nil {
		return Offer{}, err
	}
	st, err := m.State(ctx, app)
	if err != nil {
		return Offer{}, err
	}
	o := Offer{App: app, Source: src.String()}
	if st.Current != nil {
		o.Current = st.Current.Version
	}
	all, err := src.Releases(ctx, source.Query{Platform: host.Platform(), Bad: st.Bad})
	if errors.Is(err, source.ErrNoRelease) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	policy, err := m.Policy(ctx, app)
	if err != nil {
		return o, err
	}
	t, err := m.turns(ctx, app, policy, src)
	if err != nil {
		return o, err
	}
	rel := all[0]
	if left, held := t.split(all, o.Current, false); held != nil {
		if o.Held = held.Error(); len(left) > 0 {
			rel = left[0]
		} else {
			return o, nil
		}
	}
	o.Latest, o.Page, o.Notes, o.Date, o.Size = rel.Version, rel.Page, rel.Notes, rel.Date, rel.For(host.Platform())[0].Size
	o.Available = o.Current == "" || bundle.Newer(o.Latest, o.Current)
	return o, nil
}
