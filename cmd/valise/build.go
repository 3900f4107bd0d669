package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/image"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

type buildFlags struct {
	project     string
	platforms   []string
	split       bool
	splitSize   string
	file        string
	compression string
	from        string
	sbom        bool
	set         []string
	args        []string
	buildkit    image.BuildKit
	tag         string // of git, when the version was named by it
}

func buildCommand(a *app) *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use:   "build VERSION",
		Short: "Pack a release into one bundle",
		Long: "build reads valise.yaml and its compose file, collects every image for every platform, and\n" +
			"writes one bundle. The same inputs give the same bytes: the creation time is\n" +
			"SOURCE_DATE_EPOCH, else the time of the last commit, else now.\n\n" +
			"Images come from registries, OCI image layouts, docker save archives or the engine of\n" +
			"DOCKER_HOST, or are made from Go packages, files on a base, or Dockerfiles. Dockerfiles are\n" +
			"built by the buildkitd of BUILDKIT_HOST with buildctl, or by docker buildx. VALISE_MIRRORS\n" +
			"names mirrors to try before a registry:\n" +
			"docker.io=mirror.gcr.io,ghcr.io=cache.example.com/ghcr. Interrupted downloads resume. What a\n" +
			"bundle in the output directory has, or that of --from, is not downloaded again.\n\n" +
			"--compression selects gzip, zstd or none; the default follows the file name. Layers are\n" +
			"already compressed and stay unchanged, so this matters only for other files, such as the\n" +
			"installer.\n\n" +
			"The bundle contains valise-installer for its platforms, and install.sh. The installer is the\n" +
			"one beside this program, else that of the matching release, which is downloaded once\n" +
			"(VALISE_RELEASES names another server) and must have the SHA-256 that is built into this\n" +
			"program. installer in valise.yaml names another one, or none.\n\n" +
			"--split-size is for places that do not accept large files, such as GitHub (2 GiB) and FAT32\n" +
			"(4 GiB). Every command reads the parts as one file: pass BUNDLE or BUNDLE.001.\n\n" +
			"VERSION is a SemVer 2 version, or a git tag that ends in one: 1.2.3, v1.2.3, shop-v1.2.3,\n" +
			"shop@1.2.3. build does not sign the bundle.",
		Example: "  valise build 1.2.3\n" +
			"  valise build 1.2.3 --from dist/shop-1.2.2.tar.gz\n" +
			"  valise build 1.2.3 --split-size 2000MiB\n" +
			"  valise build v1.2.3 --platform linux/arm64 -o /media/usb/\n" +
			"  SOURCE_DATE_EPOCH=1767225600 valise build 1.2.3 --output json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.build(cmd.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.project, "project", project.DefaultFile, "project file")
	c.Flags().StringSliceVar(&f.platforms, "platform", nil, "build for these platforms instead of the project's (repeatable)")
	c.Flags().BoolVar(&f.split, "split-platforms", false, "write one bundle for each platform (the default if output contains the platform)")
	c.Flags().StringVar(&f.splitSize, "split-size", "", "split a larger bundle into BUNDLE.001, BUNDLE.002, ... of this size: bytes, or for example 2000MiB")
	c.Flags().StringVar(&f.from, "from", "", "leave out what an older release has: a bundle, manifest.json or directory (see valise thin)")
	c.Flags().BoolVar(&f.sbom, "sbom", false, "list the packages of every image, as SPDX 2.3 and CycloneDX")
	c.Flags().StringArrayVar(&f.set, "set", nil, "KEY=VALUE, or KEY for its value in the environment: a variable that decides an image of the compose file (repeatable)")
	c.Flags().StringArrayVar(&f.args, "build-arg", nil, "KEY=VALUE, or KEY for its value in the environment: an argument of Dockerfiles (repeatable)")
	c.Flags().StringArrayVar(&f.buildkit.Secrets, "secret", nil, "id=ID,env=NAME or id=ID,src=FILE, or id=ID for the variable of that name: a secret for RUN --mount=type=secret,id=ID (repeatable)")
	c.Flags().StringArrayVar(&f.buildkit.CacheFrom, "cache-from", nil, "cache that BuildKit reads, for example type=registry,ref=NAME (repeatable)")
	c.Flags().StringArrayVar(&f.buildkit.CacheTo, "cache-to", nil, "cache that BuildKit writes (repeatable)")
	c.Flags().StringVar(&f.buildkit.Builder, "builder", "", "builder of docker buildx (default: the one in use)")
	c.Flags().StringVarP(&f.file, "file", "o", "", "bundle to write, or an existing directory for it (default dist/NAME)")
	c.Flags().StringVar(&f.compression, "compression", "", "gzip, zstd or none (default: according to the file name, else gzip)")
	return c
}

func (a *app) build(ctx context.Context, version string, f buildFlags) error {
	if _, v, ok := bundle.SplitTag(version); ok && v != version {
		f.tag, version = version, v
	}
	if _, err := bundle.ParseVersion(version); err != nil {
		return cli.Usagef("%w", err)
	}
	partSize, err := parsePartSize(f.splitSize)
	if err != nil {
		return err
	}
	if f.compression != "" {
		if _, err := bundle.ParseCompression(f.compression); err != nil {
			return cli.Usagef("--%w", err)
		}
	}
	p, err := project.Load(ctx, f.project)
	if errors.Is(err, fs.ErrNotExist) {
		return cli.WithHint(err, "run valise where %s is, or name it with --project", project.DefaultFile)
	}
	if err != nil {
		return err
	}
	p.Ignored, p.Installers = ignoredBelow(p.Dir), a.findInstaller
	if p.Set, err = a.setFlags("--set", f.set); err != nil {
		return err
	}
	if f.buildkit.Args, err = a.setFlags("--build-arg", f.args); err != nil {
		return err
	}
	if err := checkSecrets(f.buildkit.Secrets); err != nil {
		return err
	}
	if !f.buildkit.Empty() {
		if dockerfiles, _, err := p.Builds(ctx); err != nil {
			return err
		} else if !dockerfiles {
			return cli.Usagef("--build-arg, --secret, --cache-from, --cache-to and --builder are for Dockerfiles, and %s has none", p.App)
		}
	}
	if f.buildkit.Builder != "" && a.Getenv("BUILDKIT_HOST") != "" {
		return cli.Usagef("--builder is for docker buildx, and BUILDKIT_HOST names a buildkitd")
	}
	if len(p.Set) > 0 && p.Tree != nil {
		return cli.Usagef("--set decides images of a compose file, and %s is a tree", p.App)
	}
	groups, err := platformGroups(p, f)
	if err != nil {
		return err
	}
	if p.Engine != nil {
		if err := a.pinnedEngine(ctx, p, slices.Concat(groups...)); err != nil {
			return err
		}
	}
	if info, err := os.Stat(f.file); len(groups) > 1 && f.file != "" && (err != nil || !info.IsDir()) {
		return cli.Usagef("--file is %s, want an existing directory for %d bundles", f.file, len(groups))
	}
	var names []string
	for i := range groups {
		groups[i] = legacyFirst(groups[i], p.Legacy)
		name, _, err := bundleName(p, version, groups[i], f)
		if err != nil {
			return err
		}
		if f.file != "" && !isDir(f.file) {
			name = f.file
		}
		names = append(names, name)
	}
	if f.from == "" { // a thin bundle is not called so
		if err := checkLegacy(p, names, groups); err != nil {
			return err
		}
	}
	var built []*summary
	for i, platforms := range groups {
		s, err := a.buildOne(ctx, p, version, platforms, f, partSize, i == 0)
		if err != nil {
			return err
		}
		built = append(built, s)
	}
	text := func(w io.Writer) {
		for i, s := range built {
			if i > 0 {
				fmt.Fprintln(w)
			}
			s.writeHead(w)
			fmt.Fprintf(w, "\nnext: %s\n", s.Next)
		}
	}
	if len(built) == 1 {
		return a.Result(built[0], text)
	}
	return a.Result(built, text)
}

// setFlags reads KEY=VALUE, and KEY, whose value is in the environment.
func (a *app) setFlags(flag string, items []string) (map[string]string, error) {
	values := map[string]string{}
	for _, item := range items {
		key, value, ok := strings.Cut(item, "=")
		if !bundle.ValidEnvKey(key) {
			return nil, cli.Usagef("%s %s: want KEY=VALUE", flag, item)
		}
		if !ok {
			if value = a.Getenv(key); value == "" {
				return nil, cli.Usagef("%s %s: the environment has no %s", flag, key, key)
			}
		}
		values[key] = value
	}
	return values, nil
}

// secretPattern is a secret of a build, by where it is and never by its value, which
// the command line and the log would show.
var secretPattern = lazyregexp.New(`^(type=(env|file),)?id=[A-Za-z0-9_.-]+(,(env=[A-Za-z_][A-Za-z0-9_]*|(src|source)=[^,"]+))?$`)

func checkSecrets(secrets []string) error {
	for _, s := range secrets {
		if !secretPattern.MatchString(s) {
			return cli.Usagef("--secret: want id=ID,env=NAME or id=ID,src=FILE")
		}
	}
	return nil
}

// platformGroups says for which platforms bundles are made: one for all, or one
// for each.
func platformGroups(p *project.Project, f buildFlags) ([][]bundle.Platform, error) {
	platforms := p.Platforms
	if len(f.platforms) > 0 {
		platforms = nil
	}
	for _, s := range f.platforms {
		platform, err := bundle.ParsePlatform(s)
		if err != nil {
			return nil, cli.Usagef("%w", err)
		}
		platforms = append(platforms, platform)
	}
	if !f.split && !p.NamesPlatform() {
		return [][]bundle.Platform{platforms}, nil
	}
	if !p.NamesPlatform() && p.Output != project.DefaultOutput {
		return nil, cli.WithHint(fmt.Errorf("output %q names every platform's bundle the same", p.Output), "add {{.Arch}} to output in %s", p.File)
	}
	var groups [][]bundle.Platform
	for _, platform := range platforms {
		groups = append(groups, []bundle.Platform{platform})
	}
	return groups, nil
}

// buildOne builds one bundle. What there is to note is the same for all, so it
// is said with the first one.
func (a *app) buildOne(ctx context.Context, p *project.Project, version string, platforms []bundle.Platform, f buildFlags, partSize int64, first bool) (*summary, error) {
	name, compression, err := bundleName(p, version, platforms, f)
	if err != nil {
		return nil, err
	}
	m, content, err := a.prepare(ctx, p, version, platforms, name, f, first)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	omit := func(bundle.Digest) bool { return false }
	if f.from != "" {
		var base string
		if omit, base, err = (thinFlags{from: f.from}).omit(m); err != nil {
			return nil, err
		}
		name = thinName(p.App, name, base)
	}
	path := f.file
	if path == "" || isDir(path) {
		path = filepath.Join(f.directory(), name)
	}
	if err := a.writeBundle(ctx, newBundle(path, partSize), compression, m, content, omit); err != nil {
		return nil, err
	}
	if n := content.held.used(); n > 0 {
		a.UI.Step(fmt.Sprintf("%-8s", image.Reuse), fmt.Sprintf("%d blobs of earlier bundles, which no registry was asked for", n))
	}
	return summarizeFile(path, m)
}

// directory is where bundles are written.
func (f buildFlags) directory() string {
	switch {
	case f.file == "":
		return "dist"
	case isDir(f.file):
		return f.file
	}
	return filepath.Dir(f.file)
}

// bundleName is what a bundle is called, and how it is compressed. A file that was
// named has that name, but what is in it is called as the project says.
func bundleName(p *project.Project, version string, platforms []bundle.Platform, f buildFlags) (string, bundle.Compression, error) {
	one := bundle.Platform("")
	if f.split || p.NamesPlatform() {
		one = platforms[0]
	}
	name, err := p.OutputName(version, one)
	if err != nil {
		return "", "", err
	}
	name, compression := compressed(name, f)
	return name, compression, nil
}

// compressed says how a bundle is compressed, and what it is then called: as the
// flag says, else as the name of the file does.
func compressed(name string, f buildFlags) (string, bundle.Compression) {
	by := compressionOf(name)
	if f.compression != "" {
		c := bundle.Compression(f.compression)
		if base, ok := strings.CutSuffix(name, by.Suffix()); ok {
			name = base + c.Suffix()
		}
		return name, c
	}
	if f.file != "" && !isDir(f.file) {
		by = compressionOf(f.file)
	}
	return name, by
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// compressionOf is what a file name says. Readers go by the content.
func compressionOf(name string) bundle.Compression {
	for _, c := range []bundle.Compression{bundle.Zstd, bundle.None} {
		if strings.HasSuffix(name, c.Suffix()) {
			return c
		}
	}
	return bundle.Gzip
}

// writeBundle writes the bundle under another name, syncs it and renames it, so
// that it never is half there.
func (a *app) writeBundle(ctx context.Context, f *pendingBundle, compression bundle.Compression, m *bundle.Manifest, src bundle.Content, omit func(bundle.Digest) bool) (err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	defer f.Cleanup()
	progress, finish := a.UI.Track("write " + f.path)
	err = bundle.WriteThin(ctx, f, compression, m, src, omit, progress)
	finish(err)
	if err != nil {
		if c, ok := src.(*content); ok && c.changed(ctx, m) != "" {
			return fmt.Errorf("write bundle: %s changed while it was packed: nothing was written; build again when nothing writes to it", c.changed(ctx, m))
		}
		return fmt.Errorf("write bundle: %w", notRefused(err))
	}
	if c, ok := src.(*content); ok {
		c.held.Close() // Windows replaces no file that is open
	}
	if err := f.commit(); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// summarizeFile says what was written.
func summarizeFile(path string, m *bundle.Manifest) (*summary, error) {
	f, err := parts.Open(path)
	if err != nil {
		return nil, err
	}
	f.Close()
	raw, err := m.Encode()
	if err != nil {
		return nil, err
	}
	s := summarize(f, m, raw, false)
	s.Next = "valise sign " + path
	return s, nil
}
