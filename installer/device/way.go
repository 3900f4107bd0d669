package device

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/source"
)

// A release may require that another one ran before. Then what is asked for is
// reached in several updates, each verified and carried out as if it were alone. The
// heads of bundles say which: they are read before anything is verified, so what
// they say decides what is fetched, and nothing else.

// maxHeads is how many releases are looked at for one way.
const maxHeads = 64

// hop is a release that a source has.
type hop struct {
	source.Release
	src *source.Source
}

func (h hop) bundle() source.Bundle { return h.For(host.Platform())[0] }

// route is what to install, one after the other.
type route struct {
	hops   []hop
	beyond error // why it does not lead to a newer one
}

func (r route) target() string { return r.hops[len(r.hops)-1].Version }

// router finds the way from the release that runs.
type router struct {
	m       *Machine
	current string
	byName  map[string]hop
	read    map[string]head
	looked  int     // heads that a source gave
	engine  *string // its version, once that was asked for
}

// head is what the bundle of a release says of itself.
type head struct {
	from string
	err  error // why it cannot be used
}

func (m *Machine) router(current string) *router {
	return &router{m: m, current: current, byName: map[string]hop{}, read: map[string]head{}}
}

// add makes releases known. Those that are known already stay: what is here is not
// fetched.
func (r *router) add(src *source.Source, list []source.Release) {
	for _, rel := range list {
		if _, known := r.byName[rel.Version]; !known && len(rel.For(host.Platform())) > 0 {
			r.byName[rel.Version] = hop{rel, src}
		}
	}
}

// look reads the head of a release. The error is that of a network.
func (r *router) look(ctx context.Context, version string) (head, error) {
	if h, ok := r.read[version]; ok {
		return h, nil
	}
	if r.looked++; r.looked > maxHeads {
		return head{}, fmt.Errorf("%d releases were looked at, and none leads on from %s: name the next one", maxHeads, r.current)
	}
	at := r.byName[version]
	manifest, err := at.src.Head(ctx, at.bundle())
	h := head{err: err}
	switch {
	case ctx.Err() != nil:
		return h, context.Cause(ctx)
	case err != nil && at.bundle().Remote() && !errors.As(err, new(*bundle.FormatError)):
		return h, err
	case err == nil:
		h = r.judge(ctx, manifest)
	}
	r.read[version] = h
	return h, nil
}

// judge says what a head tells.
func (r *router) judge(ctx context.Context, manifest *bundle.Manifest) (h head) {
	if need := manifest.Requires; need != nil {
		h.from = need.From
		if need.Engine != "" {
			h.err = installer.CheckEngine(manifest, r.engineVersion(ctx))
		}
	}
	return h
}

// addFile makes the release of a bundle known that is here.
func (r *router) addFile(ctx context.Context, manifest *bundle.Manifest) {
	r.byName[manifest.Version] = hop{Release: source.Release{Version: manifest.Version}}
	r.read[manifest.Version] = r.judge(ctx, manifest)
}

// engineVersion is empty when no engine answers: what needs one says so.
func (r *router) engineVersion(ctx context.Context) string {
	if r.engine == nil {
		r.engine = new(string)
		if e, err := r.m.connect(ctx); err == nil {
			defer e.Close()
			if info, err := e.Info(ctx); err == nil {
				*r.engine = info.Version
			}
		}
	}
	return *r.engine
}

// to is the way to a release. more, which may be nil, makes those known that may come
// first, when some are needed.
func (r *router) to(ctx context.Context, target string, more func() error) ([]hop, error) {
	h, err := r.look(ctx, target)
	switch {
	case err != nil:
		return nil, err
	case errors.As(h.err, new(*installer.UnmetError)):
		return nil, advise(h.err, UnmetCondition)
	case h.err != nil, h.from == "", !bundle.Newer(h.from, r.current):
		return []hop{r.byName[target]}, nil // whoever opens it says what is wrong
	}
	if more != nil {
		if err := more(); err != nil {
			return nil, err
		}
	}
	var between []string
	for v := range r.byName {
		between = append(between, v)
	}
	way, err := installer.Way(r.current, target, between, func(v string) (string, bool, error) {
		h, err := r.look(ctx, v)
		return h.from, h.err == nil, err
	})
	if errors.As(err, new(*installer.NoWayError)) {
		return nil, advise(err, UnmetCondition)
	}
	if err != nil {
		return nil, fmt.Errorf("find the way from %s to %s: %w", r.current, target, err)
	}
	var hops []hop
	for _, v := range way {
		hops = append(hops, r.byName[v])
	}
	return hops, nil
}

// choose asks the source for a version, or for the newest one that can be reached. With
// a NewestError and an installer.Obstacle comes the newest release all the same. Unless
// look, no head is read, and it is not known whether another has to come first.
func (m *Machine) choose(ctx context.Context, src *source.Source, app, version string, st installer.State, o Options, look bool) (route, error) {
	q := source.Query{Platform: host.Platform()}
	if !o.Forced {
		q.Bad = st.Bad
	}
	if version != "" {
		rel, err := src.Exactly(ctx, version, source.Query{Platform: q.Platform})
		if err != nil || !look || o.First || st.Current == nil || !bundle.Newer(rel.Version, st.Current.Version) {
			return route{hops: []hop{{rel, src}}}, err
		}
		r := m.router(st.Current.Version)
		r.add(src, []source.Release{rel})
		hops, err := r.to(ctx, rel.Version, func() error {
			all, err := src.Releases(ctx, q)
			r.add(src, all)
			return err
		})
		return route{hops: hops}, err
	}
	all, err := src.Releases(ctx, q)
	if err != nil {
		return route{}, err
	}
	if o.First || st.Current == nil {
		return route{hops: []hop{{all[0], src}}}, nil
	}
	newest := route{hops: []hop{{all[0], src}}}
	if !bundle.Newer(all[0].Version, st.Current.Version) {
		return newest, &NewestError{app, st.Current.Version, all[0].Version, src.String()}
	}
	var beyond error
	if !o.Forced {
		policy, err := m.Policy(ctx, app)
		if err != nil {
			return route{}, err
		}
		t, err := m.turns(ctx, app, policy, src)
		if err != nil {
			return route{}, err
		}
		if all, beyond = t.split(all, st.Current.Version, o.dir != ""); len(all) == 0 || !bundle.Newer(all[0].Version, st.Current.Version) {
			return newest, beyond
		}
	}
	if !look {
		return route{[]hop{{all[0], src}}, beyond}, nil
	}
	r := m.router(st.Current.Version)
	r.add(src, all)
	for _, rel := range all {
		if !bundle.Newer(rel.Version, st.Current.Version) {
			break
		}
		hops, err := r.to(ctx, rel.Version, nil)
		if err == nil {
			return route{hops, beyond}, nil
		}
		if !installer.Obstacle(err) {
			return route{}, err
		}
		if beyond == nil {
			beyond = err
		}
	}
	return newest, beyond
}

// around is the way to the release in a file, when it requires another one first: over
// those that lie beside it, or that the source has. There is none when none is needed,
// or found.
func (m *Machine) around(ctx context.Context, file string, manifest *bundle.Manifest, o Options) (route, error) {
	need := manifest.Requires
	if o.First || o.exact || need == nil || need.From == "" {
		return route{}, nil
	}
	st, err := m.State(ctx, manifest.App)
	if err != nil || st.Current == nil || !bundle.Newer(need.From, st.Current.Version) || !bundle.Newer(manifest.Version, st.Current.Version) {
		return route{}, nil // whoever plans it says so
	}
	r := m.router(st.Current.Version)
	r.addFile(ctx, manifest)
	q := source.Query{Platform: host.Platform(), Bad: st.Bad}
	if dir, err := filepath.Abs(filepath.Dir(file)); err == nil {
		if src, err := source.New(manifest.App, source.Config{Path: dir}, source.Options{}); err == nil {
			all, _ := src.Releases(ctx, q)
			r.add(src, all)
		}
	}
	hops, err := r.to(ctx, manifest.Version, nil)
	if errors.As(err, new(*installer.NoWayError)) {
		var src *source.Source
		if src, _, err = m.sourceOf(Options{}); err == nil {
			hops, err = r.to(ctx, manifest.Version, func() error {
				all, err := src.Releases(ctx, q)
				r.add(src, all)
				return err
			})
		}
	}
	if err != nil {
		return route{}, nil
	}
	return route{hops: hops}, nil
}

// openHop opens the first release of a route.
func (m *Machine) openHop(ctx context.Context, r route, st installer.State, o Options) (_ *opened, err error) {
	rel := r.hops[0]
	full, thin := rel.bundle(), []source.Bundle(nil)
	if st.Current != nil && !o.whole {
		thin = rel.Thin(host.Platform(), st.Current.Version)
	}
	var b *opened
	if full.Remote() {
		if b, err = m.openRemote(ctx, rel.src, full, thin, rel.Version); err != nil {
			return nil, err
		}
	} else {
		f, err := full.OpenLocal()
		if err != nil {
			return nil, err
		}
		r, err := bundle.Open(f, f.Size())
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open %s: %w", full.Name, err)
		}
		b = &opened{Reader: r, file: f, version: rel.Version}
	}
	b.route = r
	return b, nil
}

// hops says what each update of a way costs: of the first one its plan, of the others
// what their heads say.
func (m *Machine) hops(ctx context.Context, c *Candidate) ([]installer.Hop, error) {
	manifests := []*bundle.Manifest{c.Manifest()}
	for _, next := range c.from.route.hops[1:] {
		manifest := c.from.last
		if next.src != nil {
			var err error
			if manifest, err = next.src.Head(ctx, next.bundle()); err != nil {
				return nil, err
			}
		}
		manifests = append(manifests, manifest)
	}
	list := m.costs(ctx, c.App, manifests)
	list[0].Bytes, list[0].Downtime = c.Plan.LoadBytes, c.Plan.Downtime
	return list, nil
}

// costs says what it takes to install releases one after the other.
func (m *Machine) costs(ctx context.Context, app string, manifests []*bundle.Manifest) (list []installer.Hop) {
	here, _ := m.inventory(ctx, app) // without it all counts as new
	have := map[bundle.Digest]bool{}
	for _, manifest := range manifests {
		omit := func(bundle.Digest) bool { return false }
		if here != nil {
			if known, err := here.Omit(manifest); err == nil {
				omit = known
			}
		}
		h := installer.Hop{Version: manifest.Version, Downtime: installer.DowntimeAll}
		for _, c := range manifest.Components {
			for _, i := range c.Images {
				if i.Platform != host.Platform() {
					continue
				}
				known := true
				for _, l := range i.Layers {
					if !have[l.Digest] && !omit(l.Digest) {
						have[l.Digest], known = true, false
						h.Bytes += l.Size
					}
				}
				if known { // its service may run on, unless its configuration is another one
					h.Downtime = installer.DowntimeUnknown
				}
			}
		}
		for _, f := range manifest.TreeFiles(host.Platform()) {
			h.Bytes += f.Size
		}
		list = append(list, h)
	}
	return list
}
