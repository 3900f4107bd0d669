package main

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
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/release"
)

func envCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:   "env",
		Short: "Compare an app's environment file with a release",
		Long: "env shows what a release needs in the environment file. It changes nothing, and prints no\n" +
			"values of the file.",
	}
	c.AddCommand(&cobra.Command{
		Use:   "diff BUNDLE|ADDRESS|VERSION",
		Short: "Show which keys a release adds and removes",
		Long: "diff compares the keys of a release with those of the environment file. Added keys are\n" +
			"missing in the file; diff says what an update does about each. Removed keys were used by the\n" +
			"running release but not by the new one; an update leaves them as they are.",
		Example: "  valise-installer env diff /media/usb/shop-1.1.0.tar.gz\n  valise-installer env diff v1.1.0 --output json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return p.envDiff(cmd.Context(), args[0]) },
	})
	return c
}

// envDifference is what a release changes about the keys of an environment file.
type envDifference struct {
	App     string     `json:"app"`
	From    string     `json:"from"`
	To      string     `json:"to"`
	File    string     `json:"file"`
	Added   []addedKey `json:"added"`
	Removed []string   `json:"removed"`
}

// addedKey is a key that the file lacks.
type addedKey struct {
	Key string `json:"key"`
	// Value is where its value comes from: required (from you), default,
	// generated, or optional.
	Value string `json:"value"`
	// Example is the value that a new device begins with.
	Example string `json:"example,omitempty"`
	Help    string `json:"help,omitempty"`
}

func (p *program) envDiff(ctx context.Context, what string) error {
	c, err := p.Verify(ctx, what, device.Options{Forced: true})
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := p.State(ctx, c.App)
	if err != nil {
		return err
	}
	if st.Current == nil {
		return p.NotInstalled(c.App, c.Path)
	}
	m := c.Manifest()
	knows, err := releaseKeys(m, c.Open)
	if err != nil {
		return err
	}
	knew, err := p.keysHere(c.App, *st.Current)
	if err != nil {
		return err
	}
	d := envDifference{App: c.App, From: st.Current.Version, To: m.Version, File: filepath.Join(p.AppDir(c.App), ".env"), Added: []addedKey{}, Removed: []string{}}
	if m.Device.Tree != nil {
		d.File = m.Device.Tree.EnvFile
	}
	env, err := environ.GrammarOf(m.Kind).Load(d.File)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(knows)) {
		if _, set := env.Lookup(key); !set && key != m.Device.VersionEnv {
			d.Added = append(d.Added, knows[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(knew)) {
		if _, set := env.Lookup(key); set && knows[key].Key == "" {
			d.Removed = append(d.Removed, key)
		}
	}
	return p.Result(d, func(w io.Writer) { printEnvDifference(w, d) })
}

// envKeys are the keys that a release knows, by name.
type envKeys map[string]addedKey

// releaseKeys collects what the manifest and .env.example say.
func releaseKeys(m *bundle.Manifest, open func(name string) (io.ReadCloser, error)) (envKeys, error) {
	keys := envKeys{}
	example, err := environ.ReadExample(open)
	if err != nil {
		return nil, err
	}
	f, err := environ.GrammarOf(m.Kind).Begin(example, m)
	if err != nil {
		return nil, err
	}
	comments := f.Comments()
	for _, key := range f.Keys() {
		value, _ := f.Lookup(key)
		keys[key] = addedKey{key, "optional", value, comments[key]}
	}
	set := func(key, value string) {
		keys[key] = addedKey{key, value, keys[key].Example, keys[key].Help}
	}
	for key, e := range m.Device.Env {
		keys[key] = addedKey{key, "optional", cmp.Or(keys[key].Example, e.Initial), cmp.Or(e.Help, keys[key].Help)}
		if e.Default != "" {
			set(key, "default")
		}
	}
	for _, key := range m.Device.RequiredEnv {
		if keys[key].Value != "default" {
			set(key, "required")
		}
	}
	for key := range m.Device.Secrets {
		set(key, "generated")
	}
	if key := m.Device.VersionEnv; key != "" {
		set(key, "default")
	}
	return keys, nil
}

// keysHere are the keys that an installed release knows.
func (p *program) keysHere(app string, r installer.Release) (envKeys, error) {
	store, err := release.Open(p.AppDir(app))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	m, err := store.Manifest(r.Dir, r.Manifest)
	if err != nil {
		return nil, err
	}
	keys, err := releaseKeys(m, func(name string) (io.ReadCloser, error) { return store.OpenFile(r.Dir, name) })
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return keys, err
}

func printEnvDifference(w io.Writer, d envDifference) {
	fmt.Fprintf(w, "%s %s -> %s, %s\n", d.App, d.From, d.To, d.File)
	if len(d.Added)+len(d.Removed) == 0 {
		fmt.Fprintln(w, "  no key is added or removed")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range d.Added {
		what := map[string]string{
			"required": "needs a value from you", "default": "gets a default", "generated": "is generated", "optional": "optional",
		}[k.Value]
		if k.Example != "" && k.Value == "optional" {
			what += ", a new device starts with " + cli.OneLine(k.Example)
		}
		fmt.Fprintf(t, "  + %s\t%s\t%s\n", k.Key, what, cli.OneLine(k.Help))
	}
	for _, key := range d.Removed {
		fmt.Fprintf(t, "  - %s\tno longer used; it stays\t\n", key)
	}
	t.Flush()
}
