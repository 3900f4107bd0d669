package device

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/tree"
)

// treeApp is the runtime of an app that is a file tree. store may be nil where
// nothing is installed.
func (p *Machine) treeApp(app string, store *release.Store, report func(installer.Event)) *tree.App {
	return &tree.App{
		Name: app, Dir: p.AppDir(app), Releases: store, Platform: Platform(), Rand: rand.Reader, Given: p.Given, Boot: p.Boot, Report: report,
		Show: func(key, value string) { p.Secret(key, value, "the environment file") },
	}
}

// platform is what images or trees must be for. engine is nil for a tree.
func (p *Machine) platform(ctx context.Context, engine *docker.Engine) (bundle.Platform, error) {
	if engine == nil {
		return Platform(), nil
	}
	info, err := engine.Info(ctx)
	return info.Platform, err
}

// kindIn is the kind of the app that records are about, empty when they say
// nothing yet.
func kindIn(st installer.State) string {
	for _, r := range []*installer.Release{st.Current, st.Previous} {
		if r != nil && r.Kind == "" {
			return bundle.KindCompose
		}
		if r != nil {
			return r.Kind
		}
	}
	if u := st.Unfinished; u != nil && u.To.Kind != "" {
		return u.To.Kind
	}
	return ""
}

// kindOf is the kind of an installed app.
func (p *Machine) kindOf(ctx context.Context, app string) (string, error) {
	j, st, err := p.ReadState(ctx, app)
	if err != nil {
		return "", err
	}
	defer j.Close()
	if kind := kindIn(st); kind != "" {
		return kind, nil
	}
	// An installation that failed left records and nothing else.
	last, err := j.History(ctx, 1, 0)
	if err != nil || len(last) == 0 || last[0].To.Kind == "" {
		return bundle.KindCompose, err
	}
	return last[0].To.Kind, nil
}

// prepareTree puts in place what belongs to a tree on this machine, the unit
// that undoes at boot what a power cut left unfinished, and returns how many
// releases stay.
func (p *Machine) prepareTree(ctx context.Context, m *bundle.Manifest) (keep int, err error) {
	keep, err = tree.Keep(m)
	if err != nil {
		p.Note("%v", err)
	}
	var units []string
	for _, u := range m.Device.Tree.Units {
		units = append(units, path.Base(u))
	}
	return keep, p.installRecovery(ctx, m.App, units, nil)
}

// askEnv asks a person for the values of required keys, when there is one.
func (p *Machine) askEnv(plan *installer.Plan) (asked bool, err error) {
	if len(plan.EnvMissing) == 0 {
		return false, nil
	}
	person := p.person()
	if person == nil {
		return false, nil
	}
	given := maps.Clone(p.Given)
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
	p.Given = given
	return true, nil
}
