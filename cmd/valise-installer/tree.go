package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/tree"
)

// treeApp is the runtime of an app that is a file tree. store may be nil where
// nothing is installed.
func (p *program) treeApp(app string, store *release.Store, report func(installer.Event)) *tree.App {
	return &tree.App{
		Name: app, Dir: p.appDir(app), Releases: store, Platform: machine(), Rand: rand.Reader, Given: p.given, Boot: p.boot, Report: report,
		Show: func(key, value string) {
			if p.observe != nil { // stderr is a log then
				p.Note("%s was generated; it is kept in the environment file", key)
				return
			}
			p.Note("%s is %s (shown once; it is kept in the environment file)", key, value)
		},
	}
}

// machine is the platform of this machine, as far as this program can tell: it
// is built for it.
func machine() bundle.Platform {
	platform := bundle.Platform(runtime.GOOS + "/" + runtime.GOARCH)
	if runtime.GOARCH == "arm" {
		platform += "/v7"
	}
	return platform
}

// platform is what images or trees must be for. engine is nil for a tree.
func (p *program) platform(ctx context.Context, engine *docker.Engine) (bundle.Platform, error) {
	if engine == nil {
		return machine(), nil
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
func (p *program) kindOf(ctx context.Context, app string) (string, error) {
	j, st, err := p.readState(ctx, app)
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
func (p *program) prepareTree(ctx context.Context, m *bundle.Manifest) (keep int, err error) {
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

// parseGiven reads --set KEY=VALUE.
func (p *program) parseGiven(list []string) error {
	p.given = map[string]string{}
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		if !ok || !bundle.ValidEnvKey(key) {
			return cli.Usagef("--set %q: want KEY=VALUE", s)
		}
		p.given[key] = value
	}
	return nil
}

// askEnv asks a person for the values of required keys, when there is one.
func (p *program) askEnv(plan *installer.Plan) (asked bool, err error) {
	person := p.person()
	if person == nil || len(plan.EnvMissing) == 0 {
		return false, nil
	}
	for _, key := range slices.Sorted(slices.Values(plan.EnvMissing)) {
		if help := plan.EnvHelp[key]; help != "" {
			fmt.Fprintln(p.Stderr, help)
		}
		fmt.Fprintf(p.Stderr, "%s = ", key)
		line, err := person.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		p.given[key] = strings.TrimSpace(line)
	}
	return true, nil
}
