package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/provenance"
	"github.com/valise-ota/valise/bundle/sbom"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

func diffCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Show what changes between two releases",
		Long: "diff compares the manifests of two bundles (or two manifest.json files): images, layers,\n" +
			"files, services, volumes, environment keys, packages of their SBOMs, and the bytes that a\n" +
			"device with A must load for B. It checks neither signatures nor content.",
		Example: "  valise diff dist/shop-1.0.0.tar.gz dist/shop-1.1.0.tar.gz",
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.diff(cmd.Context(), args[0], args[1]) },
	}
}

// change is one difference: Old or New is empty when there is no such thing on
// that side.
type change struct {
	Kind string `json:"kind"` // image, layer, file, service, environment, package, platform, volume
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// verb says what happened to the thing.
func (c change) verb() string {
	switch {
	case c.Old == "":
		return "new"
	case c.New == "":
		return "gone"
	}
	return "changed"
}

type difference struct {
	App     string   `json:"app"`
	From    string   `json:"from"`
	To      string   `json:"to"`
	Changes []change `json:"changes"`
	// NeedBytes are the compressed layers, or the files of the tree, by platform,
	// that a device on From has to load for To.
	NeedBytes map[bundle.Platform]int64 `json:"need_bytes"`
	// Notes say what becomes of data.
	Notes []string `json:"notes,omitempty"`
}

// with adds what changes in another bundle of the same release; d may be nil.
func (d *difference) with(other difference) *difference {
	if d == nil {
		return &other
	}
	for _, c := range other.Changes {
		if !slices.Contains(d.Changes, c) {
			d.Changes = append(d.Changes, c)
		}
	}
	maps.Copy(d.NeedBytes, other.NeedBytes)
	return d
}

func (a *app) diff(ctx context.Context, pathA, pathB string) error {
	from, err := readManifest(pathA)
	if err != nil {
		return err
	}
	to, err := readManifest(pathB)
	if err != nil {
		return err
	}
	if from.App != to.App {
		return fmt.Errorf("diff: %s is a release of %q, %s one of %q", pathA, from.App, pathB, to.App)
	}
	d := difference{App: to.App, From: from.Version, To: to.Version, Changes: []change{}, NeedBytes: map[bundle.Platform]int64{}}
	old, now := facts(from), facts(to)
	both := func(of func(context.Context, string) (map[string]string, error)) (a, b map[string]string, err error) {
		if a, err = of(ctx, pathA); err == nil {
			b, err = of(ctx, pathB)
		}
		if a != nil && b != nil {
			maps.Copy(old, a)
			maps.Copy(now, b)
		}
		return a, b, err
	}
	packagesA, packagesB, err := both(packageFacts)
	if err != nil {
		return err
	}
	if (packagesA == nil) != (packagesB == nil) {
		a.Note("packages are not compared: only one of the two has SBOMs to read (valise build --sbom)")
	}
	volumesA, volumesB, err := both(volumeFacts)
	if err != nil {
		return err
	}
	if volumesA != nil && volumesB != nil {
		d.Notes = volumeNotes(to, slices.Sorted(maps.Keys(volumesA)), slices.Sorted(maps.Keys(volumesB)))
	}
	all := maps.Clone(old)
	maps.Copy(all, now)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if old[key] != now[key] {
			kind, name, _ := strings.Cut(key, " ")
			d.Changes = append(d.Changes, change{kind, name, old[key], now[key]})
		}
	}
	for i, p := range to.Platforms {
		d.NeedBytes[p] = needBytes(from, to, i)
	}
	return a.Result(d, func(w io.Writer) { printDifference(w, d, to.Platforms) })
}

// needBytes is what a device that runs from has to load for platform i of to:
// layers it lacks, or the whole tree.
func needBytes(from, to *bundle.Manifest, i int) int64 {
	var n int64
	if to.Kind == bundle.KindTree {
		for _, f := range to.TreeFiles(to.Platforms[i]) {
			n += f.Size
		}
		return n
	}
	seen := layersOf(from)
	for _, c := range to.Components {
		for _, l := range c.Images[i].Layers {
			if _, ok := seen[l.Digest]; !ok {
				seen[l.Digest] = l
				n += l.Size
			}
		}
	}
	return n
}

// alone reports whether path names a manifest without its bundle.
func alone(path string) bool { return isDir(path) || strings.HasSuffix(path, ".json") }

// packageFacts maps the packages of every service to their versions; nil for a
// bundle without SBOMs and for a manifest alone.
func packageFacts(ctx context.Context, path string) (map[string]string, error) {
	if alone(path) {
		return nil, nil
	}
	r, f, err := parts.OpenBundle(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := locate(ctx, r); err != nil {
		return nil, err
	}
	docs, err := sbomsOf(r)
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	versions := map[string][]string{}
	for _, c := range r.Manifest().Components {
		for _, p := range r.Manifest().Platforms {
			doc := sbomFor(docs, c.Services[0], p)
			if doc == nil {
				continue
			}
			for _, pkg := range doc.list {
				key := "package " + c.Services[0] + " " + printable(pkg.Name)
				if v := printable(cmp.Or(pkg.Version, "(no version)")); !slices.Contains(versions[key], v) {
					versions[key] = append(versions[key], v)
				}
			}
		}
	}
	facts := map[string]string{}
	for key, list := range versions {
		slices.Sort(list)
		facts[key] = strings.Join(list, ", ")
	}
	return facts, nil
}

// volumeFacts are the volumes of the compose file; nil for a file tree and for a
// manifest alone.
func volumeFacts(ctx context.Context, path string) (map[string]string, error) {
	if alone(path) {
		return nil, nil
	}
	r, f, err := parts.OpenBundle(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	name := r.Manifest().Device.Compose
	if name == "" {
		return nil, nil
	}
	if err := locate(ctx, r); err != nil {
		return nil, err
	}
	rc, err := r.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	text, err := io.ReadAll(io.LimitReader(rc, project.MaxComposeSize))
	if err != nil {
		return nil, err
	}
	facts := map[string]string{}
	for _, key := range project.OwnVolumes(text) {
		facts["volume "+printable(key)] = "used"
	}
	return facts, nil
}

// volumeNotes say of each new volume where its data come from, and of those that go what
// becomes of theirs.
func volumeNotes(to *bundle.Manifest, old, now []string) (notes []string) {
	gone := slices.DeleteFunc(slices.Clone(old), func(fact string) bool { return slices.Contains(now, fact) })
	for _, fact := range now {
		key := strings.TrimPrefix(fact, "volume ")
		switch origin := to.Device.Volumes[key]; {
		case slices.Contains(old, fact):
		case origin.From != "":
			notes = append(notes, fmt.Sprintf("volume %s gets a copy of what %s holds", key, origin.From))
		case origin.Empty || len(gone) == 0:
			notes = append(notes, fmt.Sprintf("volume %s is new and starts empty", key))
		default:
			other := strings.TrimPrefix(gone[0], "volume ")
			notes = append(notes, fmt.Sprintf("%s uses an empty volume %s; %s was not moved, and devices with data in it refuse the update: declare volumes: {%s: {from: %s}} in valise.yaml, or {empty: true}", to.Version, key, other, key, other))
		}
	}
	return notes
}

// facts maps what a release consists of, each thing called by kind and name, to
// what identifies it.
func facts(m *bundle.Manifest) map[string]string {
	f := map[string]string{}
	for _, c := range m.Components {
		name, _, _ := strings.Cut(c.Reference, "@")
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			name = name[:i]
		}
		for _, img := range c.Images {
			f["image "+name+" "+string(img.Platform)] = string(img.Manifest.Digest)
			for _, l := range img.Layers {
				f["layer "+l.Digest.Hex()[:12]] = ui.Bytes(l.Size)
			}
		}
		for _, s := range c.Services {
			f["service "+s] = name
		}
	}
	for _, file := range m.Files {
		if strings.HasPrefix(file.Path, sbom.Dir) || file.Path == provenance.Name {
			continue // made of the rest
		}
		f["file "+file.Path] = string(file.Digest)
	}
	for _, key := range m.Device.RequiredEnv {
		f["environment "+key] = "required"
	}
	for key := range m.Device.Secrets {
		f["environment "+key] = "made on the device"
	}
	for _, p := range m.Platforms {
		f["platform "+string(p)] = "yes"
	}
	return f
}

// versions says what is worth to be read of a change: digests are not.
func (c change) versions() string {
	switch {
	case c.Kind != "package" && c.Kind != "layer":
		return ""
	case c.Old != "" && c.New != "":
		return " " + c.Old + " -> " + c.New
	}
	return " " + c.Old + c.New
}

func printDifference(w io.Writer, d difference, platforms []bundle.Platform) {
	fmt.Fprintf(w, "%s %s -> %s\n", d.App, d.From, d.To)
	for _, c := range d.Changes {
		sign := "~"
		switch {
		case c.Old == "":
			sign = "+"
		case c.New == "":
			sign = "-"
		}
		fmt.Fprintf(w, "  %s %-11s %s%s\n", sign, c.Kind, c.Name, c.versions())
	}
	for _, note := range d.Notes {
		fmt.Fprintf(w, "  ! %s\n", note)
	}
	if len(d.Changes) == 0 {
		fmt.Fprintln(w, "  nothing changes")
	}
	for _, p := range platforms {
		fmt.Fprintf(w, "a device on %s needs %s for %s\n", d.From, ui.Bytes(d.NeedBytes[p]), p)
	}
}
