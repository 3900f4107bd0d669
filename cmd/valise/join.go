package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/image"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/provenance"
	"github.com/valise-ota/valise/bundle/sbom"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

func joinCommand(a *app) *cobra.Command {
	var file, splitSize string
	c := &cobra.Command{
		Use:   "join BUNDLE BUNDLE...",
		Short: "Combine bundles of single platforms",
		Long: "join combines bundles that machines of different platforms built with valise build VERSION\n" +
			"--platform PLATFORM. The result is identical to a bundle that one machine built, if you pass\n" +
			"the bundles in the order of platforms in valise.yaml (that of legacy first).\n\n" +
			"Version, commit, time, compose file, settings and files must be the same in all of them. The\n" +
			"result is not signed, and is compressed according to its name.",
		Example: "  valise join amd64/shop-1.2.3.tar.gz arm64/shop-1.2.3.tar.gz",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := parsePartSize(splitSize)
			if err != nil {
				return err
			}
			return a.join(cmd.Context(), args, file, size)
		},
	}
	c.Flags().StringVarP(&file, "file", "o", "", "bundle to write, or an existing directory for it (default dist/NAME)")
	c.Flags().StringVar(&splitSize, "split-size", "", "split a larger bundle into BUNDLE.001, BUNDLE.002, ... of this size: bytes, or for example 2000MiB")
	return c
}

// share is a bundle of some platforms of a release.
type share struct {
	*bundle.Reader
	path      string
	name      string // of the bundle in its install.sh; "" without one of ours
	statement *provenance.Statement
}

// joined is where bundle.Write finds what the manifest of all shares lists.
type joined struct {
	*content // what is made
	shares   []*share
	opens    map[string]func() (io.ReadCloser, error) // files of shares, by path in the manifest of all
	blobs    map[bundle.Digest][]byte                 // image indexes over all shares
}

func (j *joined) OpenFile(path string) (io.ReadCloser, error) {
	if open, ok := j.opens[path]; ok {
		return open()
	}
	return j.content.OpenFile(path)
}

func (j *joined) OpenBlob(d bundle.Digest) (io.ReadCloser, error) {
	if b, ok := j.blobs[d]; ok {
		return io.NopCloser(strings.NewReader(string(b))), nil
	}
	i := slices.IndexFunc(j.shares, func(s *share) bool { return s.HasBlob(d) })
	if i < 0 {
		return nil, fmt.Errorf("open blob %s: no bundle has it", d)
	}
	return j.shares[i].OpenBlob(d)
}

// joinHint is said where shares differ.
const joinHint = "build each with --platform, and all with the same commit, valise.yaml, options and version of valise; without git also with the same SOURCE_DATE_EPOCH"

func (a *app) join(ctx context.Context, paths []string, file string, partSize int64) error {
	j := &joined{content: &content{made: map[string][]byte{}}, opens: map[string]func() (io.ReadCloser, error){}, blobs: map[bundle.Digest][]byte{}}
	for _, path := range paths {
		r, in, err := parts.OpenBundle(path)
		if err != nil {
			return err
		}
		defer in.Close()
		update, finish := a.UI.Track("check " + path)
		err = r.Check(ctx, update)
		finish(err)
		if err != nil {
			return fmt.Errorf("join %s: %w", path, err)
		}
		s := &share{Reader: r, path: in.Name}
		if err := s.read(); err != nil {
			return fmt.Errorf("join %s: %w", path, err)
		}
		if r.Signature() != nil {
			a.Note("%s is signed, what comes out is not: it is another bundle", path)
		}
		j.shares = append(j.shares, s)
	}
	name := cmp.Or(j.shares[0].name, filepath.Base(j.shares[0].path))
	if file == "" {
		file = filepath.Join("dist", name)
	} else if isDir(file) {
		file = filepath.Join(file, name)
	}
	for _, s := range j.shares {
		if sameFile(s.path, file) {
			return cli.Usagef("%s would be replaced by what it is joined to: name another file with -o", s.path)
		}
	}
	m, err := j.manifest(cmp.Or(j.shares[0].name, filepath.Base(file)))
	if err != nil {
		return cli.WithHint(fmt.Errorf("join: %w", notRefused(err)), joinHint)
	}
	if m.Kind == bundle.KindCompose && legacyName(m.App, file) {
		a.Note("updaters older than Valise take the images of %s from %s: name the bundle of another platform first to change that", m.Platforms[0], file)
	}
	if err := a.writeBundle(ctx, newBundle(file, partSize), compressionOf(file), m, j, func(bundle.Digest) bool { return false }); err != nil {
		return err
	}
	s, err := summarizeFile(file, m)
	if err != nil {
		return err
	}
	return a.Result(s, func(w io.Writer) {
		s.writeHead(w)
		fmt.Fprintf(w, "\nnext: %s\n", s.Next)
	})
}

func sameFile(a, b string) bool {
	a, errA := filepath.Abs(a)
	b, errB := filepath.Abs(b)
	return errA == nil && errB == nil && a == b
}

// read reads what a share says of itself besides its manifest, and refuses one that is
// not whole.
func (s *share) read() error {
	m := s.Manifest()
	const thin = "it is a thin bundle, without %s: join the full ones, then make thin ones of the result with valise thin"
	for d := range layersOf(m) {
		if !s.HasBlob(d) {
			return fmt.Errorf(thin, "layer "+string(d))
		}
	}
	for _, f := range m.Files {
		if !s.HasFile(f.Path) {
			return fmt.Errorf(thin, f.Path)
		}
		if f.Path != installScriptName && f.Path != provenance.Name {
			continue
		}
		b, err := readFile(s.Reader, f)
		if err != nil {
			return err
		}
		if f.Path == installScriptName {
			s.name = scriptFor(m, b)
		} else if s.statement, err = provenance.Parse(b); err == nil {
			err = s.statement.About(m)
		}
		if err != nil {
			return err
		}
	}
	if s.statement == nil {
		return fmt.Errorf("it has no %s: valise build did not make it", provenance.Name)
	}
	return nil
}

// manifest makes the manifest of all shares together, complete but for the digest of
// images.tar. name is that of the bundle.
func (j *joined) manifest(name string) (*bundle.Manifest, error) {
	first := j.shares[0]
	m := *first.Manifest()
	m.Platforms, m.Files, m.Components = nil, nil, nil
	for _, s := range j.shares {
		for _, p := range s.Manifest().Platforms {
			if slices.Contains(m.Platforms, p) {
				return nil, fmt.Errorf("%s has %s, and so has another one", s.path, p)
			}
			m.Platforms = append(m.Platforms, p)
		}
		if err := differ(first, s); err != nil {
			return nil, err
		}
	}
	if err := j.joinFiles(&m); err != nil {
		return nil, err
	}
	for i := range first.Manifest().Components {
		c, err := j.component(i)
		if err != nil {
			return nil, err
		}
		m.Components = append(m.Components, *c)
	}
	if err := addInstallScript(&m, j.content, name); err != nil {
		return nil, err
	}
	if err := j.addProvenance(&m); err != nil {
		return nil, err
	}
	return &m, m.Finish()
}

// facts is what all shares of a release have in common, by its name in the manifest.
func (s *share) facts() (map[string]any, error) {
	m := *s.Manifest()
	components := m.Components
	m.Platforms, m.Files, m.Archive, m.Components, m.ImagesSHA256 = nil, nil, nil, nil, ""
	raw, err := m.Encode()
	if err != nil {
		return nil, err
	}
	all := map[string]any{}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	if device, ok := all["device"].(map[string]any); ok {
		delete(all, "device")
		for key, value := range device {
			all["device."+key] = value
		}
	}
	for _, c := range components {
		all["services of "+c.Reference] = c.Services
	}
	all["the bundle's name in "+installScriptName] = s.name
	return all, nil
}

// build is what all shares of a release have in common of how they were built.
func (s *share) build() provenance.Predicate {
	p := s.statement.Predicate
	p.BuildDefinition.ExternalParameters.Platforms, p.BuildDefinition.ResolvedDependencies = nil, nil
	return p
}

// differ names the first thing in which two shares of a release differ.
func differ(a, b *share) error {
	factsA, err := a.facts()
	if err != nil {
		return err
	}
	factsB, err := b.facts()
	if err != nil {
		return err
	}
	keys := []string{"app", "kind", "version", "source", "created_at"} // the rest often follows from these
	keys = append(keys, slices.Sorted(maps.Keys(factsA))...)
	keys = append(keys, slices.Sorted(maps.Keys(factsB))...)
	for _, key := range keys {
		if err := differIn(a, b, key, factsA[key], factsB[key]); err != nil {
			return err
		}
	}
	return nil
}

func differIn(a, b *share, what string, ofA, ofB any) error {
	if reflect.DeepEqual(ofA, ofB) {
		return nil
	}
	said := ""
	textA, errA := json.Marshal(ofA)
	textB, errB := json.Marshal(ofB)
	if errA == nil && errB == nil && len(textA)+len(textB) < 500 {
		said = fmt.Sprintf(": %s and %s", textA, textB)
	}
	return fmt.Errorf("%s and %s differ in %s%s", a.path, b.path, what, said)
}

// joinFiles puts the files of all shares into m.
func (j *joined) joinFiles(m *bundle.Manifest) error {
	trees := map[string]map[bundle.Platform]bundle.File{} // by path in the tree
	files := map[string]bundle.File{}
	has := map[string][]*share{} // by path
	opens := map[bundle.Digest]func() (io.ReadCloser, error){}
	for _, s := range j.shares {
		inTree := s.tree(trees)
		for _, f := range s.Manifest().Files {
			open := func() (io.ReadCloser, error) { return s.OpenFile(f.Path) }
			switch {
			case f.Path == provenance.Name, f.Path == installScriptName && s.name != "":
				continue
			case inTree[f.Path]:
				opens[f.Digest] = open
				continue
			}
			if other, ok := files[f.Path]; ok && other != f {
				return fmt.Errorf("%s and %s differ in %s", has[f.Path][0].path, s.path, f.Path)
			}
			files[f.Path], opens[f.Digest] = f, open
			has[f.Path] = append(has[f.Path], s)
		}
	}
	// What is of a platform, only the share of that platform has; and then each has its own.
	kinds := map[string]map[bundle.Platform]bool{}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, files[path])
		kind, p := ofPlatform(m, path)
		if p != "" && slices.Contains(has[path][0].Manifest().Platforms, p) {
			if kinds[kind] == nil {
				kinds[kind] = map[bundle.Platform]bool{}
			}
			kinds[kind][p] = true
		} else if len(has[path]) < len(j.shares) {
			i := slices.IndexFunc(j.shares, func(s *share) bool { return !slices.Contains(has[path], s) })
			return fmt.Errorf("%s has %s, and %s has not", has[path][0].path, path, j.shares[i].path)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		for _, p := range m.Platforms {
			if !kinds[kind][p] && !(kind == bundle.InstallerDir && !installerPlatforms[p.Dashed()]) {
				return fmt.Errorf("there is %s for other platforms, and none for %s", kind, p)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		m.Files = append(m.Files, treeFiles(m.Platforms, name, trees[name])...)
	}
	slices.SortFunc(m.Files, func(a, b bundle.File) int { return cmp.Compare(a.Path, b.Path) })
	for _, f := range m.Files {
		j.opens[f.Path] = opens[f.Digest]
	}
	return nil
}

// tree adds the trees of a share, and returns the paths of their files in its bundle.
func (s *share) tree(trees map[string]map[bundle.Platform]bundle.File) map[string]bool {
	m := s.Manifest()
	if m.Kind != bundle.KindTree {
		return nil
	}
	in := map[string]bool{}
	for _, p := range m.Platforms {
		for _, f := range m.TreeFiles(p) {
			// In a bundle of one platform, these lie among the files of its tree.
			if f.Path == provenance.Name || f.Path == installScriptName && s.name != "" || m.Trust != nil && f.Path == m.Trust.TrustedRoot {
				continue
			}
			if trees[f.TreePath] == nil {
				trees[f.TreePath] = map[bundle.Platform]bundle.File{}
			}
			trees[f.TreePath][p], in[f.Path] = f.File, true
		}
	}
	return in
}

// ofPlatform says of which platform a file of a bundle is, if it is of one, and its
// directory.
func ofPlatform(m *bundle.Manifest, path string) (kind string, p bundle.Platform) {
	for _, p := range m.Platforms {
		switch {
		case path == bundle.InstallerPath(p):
			return bundle.InstallerDir, p
		case m.Kind == bundle.KindTree:
		case strings.HasPrefix(path, bundle.EnginePath(p)):
			return bundle.EngineDir, p
		case strings.HasPrefix(path, sbom.Dir) && (strings.HasSuffix(path, "-"+p.Dashed()+sbom.SuffixSPDX) || strings.HasSuffix(path, "-"+p.Dashed()+sbom.SuffixCycloneDX)):
			return sbom.Dir, p
		}
	}
	return "", ""
}

// component joins an image of all shares. Its index is that of where it comes from,
// which all have, or one over all platforms.
func (j *joined) component(i int) (*bundle.Component, error) {
	c := j.shares[0].Manifest().Components[i]
	index := c.Index
	c.Images = nil
	same, ours := true, true
	for _, s := range j.shares {
		of := s.Manifest().Components[i] // differ has compared the list
		c.Images = append(c.Images, of.Images...)
		same = same && reflect.DeepEqual(of.Index, index)
		if of.Index != nil {
			d, _, err := image.IndexOver(of.Images)
			if err != nil {
				return nil, err
			}
			ours = ours && bundle.Digest(d.Digest.String()) == of.Index.Digest
		}
	}
	switch {
	case ours:
		d, raw, err := image.IndexOver(c.Images)
		if err != nil {
			return nil, err
		}
		c.Index = &bundle.Descriptor{MediaType: string(d.MediaType), Digest: bundle.Digest(d.Digest.String()), Size: d.Size}
		j.blobs[c.Index.Digest] = raw
	case !same:
		return nil, fmt.Errorf("image %s has another image index for each platform: its tag was moved between the builds, or it comes from different places", c.Reference)
	}
	return &c, nil
}

// addProvenance makes the one statement of all shares, which differ in what they are
// made from only.
func (j *joined) addProvenance(m *bundle.Manifest) error {
	var from []provenance.Resource
	for _, s := range j.shares {
		one, other := j.shares[0].build(), s.build()
		if err := cmp.Or(differIn(j.shares[0], s, "the builder, in "+provenance.Name, one.RunDetails, other.RunDetails),
			differIn(j.shares[0], s, "the build, in "+provenance.Name, one.BuildDefinition, other.BuildDefinition)); err != nil {
			return err
		}
		for _, r := range s.statement.Predicate.BuildDefinition.ResolvedDependencies {
			if r.Digest["gitCommit"] == "" { // that one follows from m
				from = append(from, r)
			}
		}
	}
	slices.SortFunc(from, func(a, b provenance.Resource) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Digest["sha256"], b.Digest["sha256"]))
	})
	from = slices.CompactFunc(from, func(a, b provenance.Resource) bool { return reflect.DeepEqual(a, b) })
	s := j.shares[0].statement.Predicate
	b, err := provenance.New(m, s.BuildDefinition.ExternalParameters, from, s.RunDetails, s.BuildDefinition.InternalParameters).Encode()
	return errors.Join(err, j.add(m, provenance.Name, b))
}
