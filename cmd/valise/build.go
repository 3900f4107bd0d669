package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/image"
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
}

func buildCommand(a *app) *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use:   "build VERSION",
		Short: "Pack a release into one bundle",
		Long: "build reads valise.yaml and the compose file it names, collects every image for every\n" +
			"platform, and writes one bundle. The same inputs give the same bytes: the creation time\n" +
			"is SOURCE_DATE_EPOCH, else the time of the last commit, else now.\n\n" +
			"Images come from registries, OCI image layouts, docker save, the engine of DOCKER_HOST, Go\n" +
			"packages, files on a base, and Dockerfiles: those are built by the buildkitd of BUILDKIT_HOST\n" +
			"with buildctl, or by docker buildx. VALISE_MIRRORS names mirrors that are asked before a\n" +
			"registry: docker.io=mirror.gcr.io,ghcr.io=cache.example.com/ghcr. A download that breaks off\n" +
			"goes on where it was.\n\n" +
			"The bundle is a tar that gzip or zstd reads, or a bare one: --compression, else what the name\n" +
			"of the file ends in. Layers are compressed already and stay as they are, so the difference\n" +
			"is in other files, such as the installer.\n\n" +
			"--split-size is for places that take no large files, such as GitHub (2 GiB) and FAT32 (4 GiB).\n" +
			"Every command reads the parts as the one file: name BUNDLE, or BUNDLE.001.\n\n" +
			"VERSION is SemVer 2, with or without a leading v. The bundle is not signed yet.",
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
	c.Flags().BoolVar(&f.split, "split-platforms", false, "write one bundle for each platform; so it is anyway when output names the platform")
	c.Flags().StringVar(&f.splitSize, "split-size", "", "write BUNDLE.001, BUNDLE.002, ... of this size when it is larger: bytes, or such as 2000MiB")
	c.Flags().StringVar(&f.from, "from", "", "leave out what this bundle, manifest.json or directory of an older release has (see valise thin)")
	c.Flags().BoolVar(&f.sbom, "sbom", false, "list the packages of every image, as SPDX 2.3 and CycloneDX")
	c.Flags().StringVarP(&f.file, "file", "o", "", "bundle to write, or an existing directory for it (default dist/NAME)")
	c.Flags().StringVar(&f.compression, "compression", "", "gzip, zstd or none (default: by the name of the bundle, else gzip)")
	return c
}

func (a *app) build(ctx context.Context, version string, f buildFlags) error {
	version = strings.TrimPrefix(version, "v")
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
	groups, err := platformGroups(p, f)
	if err != nil {
		return err
	}
	if info, err := os.Stat(f.file); len(groups) > 1 && f.file != "" && (err != nil || !info.IsDir()) {
		return cli.Usagef("--file is %s, want an existing directory for %d bundles", f.file, len(groups))
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
	one := bundle.Platform("")
	if f.split || p.NamesPlatform() {
		one = platforms[0]
	}
	name, err := p.OutputName(version, one)
	if err != nil {
		return nil, err
	}
	name, compression := compressed(name, f)
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
		name = thinName(name, base)
	}
	path := f.file
	if path == "" {
		path = filepath.Join("dist", name)
	} else if isDir(path) {
		path = filepath.Join(path, name)
	}
	if err := a.writeBundle(ctx, newBundle(path, partSize), compression, m, content, omit); err != nil {
		return nil, err
	}
	return summarizeFile(path, m)
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

// prepare makes the manifest of the release that the bundle called name holds,
// complete but for the digest of images.tar, and says where its content is.
func (a *app) prepare(ctx context.Context, p *project.Project, version string, platforms []bundle.Platform, name string, f buildFlags, first bool) (*bundle.Manifest, *content, error) {
	r, err := p.Release(ctx, version, platforms)
	if err != nil {
		return nil, nil, err
	}
	c := &content{Collection: new(image.Collection), release: r, files: map[string]string{}, made: map[string][]byte{}}
	m, err := a.manifest(ctx, p, r, c, platforms, name, f, first)
	if err != nil {
		return nil, nil, errors.Join(notRefused(err), c.Close())
	}
	return m, c, nil
}

func (a *app) manifest(ctx context.Context, p *project.Project, r *project.Release, c *content, platforms []bundle.Platform, name string, f buildFlags, first bool) (*bundle.Manifest, error) {
	note := func(format string, args ...any) {
		if first {
			a.Note(format, args...)
		}
	}
	for _, n := range r.Notes {
		note("%s", n)
	}
	git := readGit(ctx, p.Dir, r.Version)
	created, err := a.createdAt(git)
	if err != nil {
		return nil, err
	}
	changelog, err := a.changelog(ctx, p.Dir, r.Version)
	if err != nil {
		return nil, err
	}
	m := &bundle.Manifest{
		App: p.App, Kind: bundle.KindCompose, Version: r.Version, CreatedAt: created, Changelog: changelog, Platforms: platforms, Requires: p.Requires,
		Device: bundle.Device{VersionEnv: p.VersionEnv, RequiredEnv: r.RequiredEnv, Env: r.Env,
			Health: p.Health, Hooks: p.Hooks, Backup: p.Backup, Migration: p.Migration, Rollback: p.Rollback, Secrets: p.Secrets, Keep: p.Keep},
		Trust: r.Trust,
	}
	if git != nil && git.dirty {
		note("files differ from commit %.12s: the bundle does not name a commit", git.source.Commit)
	} else if git != nil {
		m.Source = &git.source
	}
	for _, source := range r.Files {
		file, err := hashFile(ctx, source)
		if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, file)
		c.files[source.Path] = source.Source
	}
	if p.Tree != nil {
		m.Kind, m.Prefix, m.Device.Tree = bundle.KindTree, project.Prefix(name), p.Tree.Bundle()
		err = c.addTree(ctx, m, r)
	} else {
		m.Device.Compose, m.Device.Project = r.Compose, p.Project
		collected, err := a.collect(ctx, p, r, platforms, created)
		if err != nil {
			return nil, err
		}
		c.Collection, m.Components = collected, collected.Components
	}
	if err == nil && f.sbom {
		err = a.addSBOMs(ctx, m, c)
	}
	if err == nil {
		err = addInstallScript(m, c, name)
	}
	if err == nil {
		err = a.addProvenance(m, c, p, git)
	}
	if err == nil {
		err = m.Finish()
	}
	return m, err
}

// notRefused keeps a mistake in what we pack from looking like a bundle that
// somebody gave us: exit code 4 is for those.
func notRefused(err error) error {
	var format *bundle.FormatError
	if !errors.As(err, &format) {
		return err
	}
	return fmt.Errorf("pack %s: %s (rule %s of the bundle format)", format.Path, format.Detail, format.Rule)
}

func (a *app) createdAt(git *gitInfo) (time.Time, error) {
	if s := a.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return time.Time{}, cli.Usagef("SOURCE_DATE_EPOCH is %q, want seconds since 1970", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	if git != nil {
		return git.time, nil
	}
	return a.Now().UTC().Truncate(time.Second), nil
}

func (a *app) collect(ctx context.Context, p *project.Project, r *project.Release, platforms []bundle.Platform, created time.Time) (*image.Collection, error) {
	mirrors, err := parseMirrors(a.Getenv("VALISE_MIRRORS"))
	if err != nil {
		return nil, err
	}
	o := image.Options{
		Mirrors:   mirrors,
		Platforms: platforms,
		CreatedAt: created,
		Dir:       p.Dir,
		CacheDir:  a.layerCache(),
		Keychain:  authn.DefaultKeychain,

		DockerHost:   a.Getenv("DOCKER_HOST"),
		BuildKitHost: a.Getenv("BUILDKIT_HOST"),
		Progress: func(e image.Event) {
			detail := e.Reference
			if e.Platform != "" {
				detail += " " + string(e.Platform)
			}
			a.UI.Step(fmt.Sprintf("%-8s", e.Action), detail+" "+e.Detail)
		},
	}
	for _, img := range r.Images {
		s, err := spec(p, img, platforms, r.Version)
		if err != nil {
			return nil, err
		}
		o.Images = append(o.Images, s)
	}
	log.SetOutput(io.Discard) // ko tells every step there
	c, err := image.Collect(ctx, o)
	var unreachable *image.UnreachableError
	var noBuildKit *image.BuildKitError
	switch {
	case errors.As(err, &unreachable):
		return nil, cli.WithHint(err, "start Docker, or point DOCKER_HOST to an engine that this user may use")
	case errors.As(err, &noBuildKit):
		return nil, cli.WithHint(err, "install docker buildx, or set BUILDKIT_HOST and put buildctl into PATH")
	}
	if missing := new(image.PlatformError); errors.As(err, &missing) {
		return nil, cli.WithHint(err, "provide the image for %s, or leave that platform out with --platform", missing.Want)
	}
	return c, err
}

// parseMirrors reads REGISTRY=HOST[/PATH],...; a registry may have several.
func parseMirrors(text string) (map[string][]string, error) {
	mirrors := map[string][]string{}
	for _, item := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		from, to, _ := strings.Cut(item, "=")
		host, _, _ := strings.Cut(to, "/")
		registry, err := name.NewRegistry(from)
		// What has no dot or port is no host to this library, but a name on Docker Hub.
		if repository, err2 := name.NewRepository(to + "/x"); from == "" || strings.Contains(to, ":/") || err != nil || err2 != nil || repository.RegistryStr() != host {
			return nil, cli.Usagef("VALISE_MIRRORS has %q, want REGISTRY=HOST or REGISTRY=HOST/PATH", item)
		}
		mirrors[registry.RegistryStr()] = append(mirrors[registry.RegistryStr()], to)
	}
	return mirrors, nil
}

// spec says to package image what the project says of an image.
func spec(p *project.Project, r project.ReleaseImage, platforms []bundle.Platform, version string) (image.Spec, error) {
	img := r.Image
	s := image.Spec{Reference: r.Reference, Services: r.Services, From: img.From.Source, FromEach: img.From.Each, Base: img.Base, Files: map[bundle.Platform][]image.Copy{},
		Config: image.Config{Entrypoint: img.Entrypoint, Cmd: img.Cmd, Env: img.Env, User: img.User, Workdir: img.Workdir,
			Labels: img.Labels, Expose: img.Expose, StopSignal: img.StopSignal}}
	if g := img.Go; g != nil {
		s.Base, s.Go = g.Base, &image.Go{Package: g.Package, Env: g.Env}
		if g.Ldflags != "" {
			s.Go.Ldflags = []string{g.Ldflags}
		}
	}
	if img.Dockerfile != "" {
		s.Dockerfile = &image.Dockerfile{Context: img.Context, File: img.Dockerfile, Target: img.Target, Args: img.Args, Labels: img.Labels}
	}
	for _, platform := range platforms {
		for _, f := range img.Files {
			from, err := f.Render(p.Vars(platform, version))
			if err != nil {
				return s, fmt.Errorf("image %s: %w", r.Reference, err)
			}
			mode, err := f.FileMode()
			if err != nil {
				return s, fmt.Errorf("image %s: mode %q: %w", r.Reference, f.Mode, err)
			}
			s.Files[platform] = append(s.Files[platform], image.Copy{From: from, To: f.To, Mode: mode})
		}
	}
	return s, nil
}

// layerCache is where compressed layers are kept from build to build.
func (a *app) layerCache() string {
	dir := a.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(dir) { // the specification says to ignore others
		dir = filepath.Join(a.Getenv("HOME"), ".cache")
	}
	return filepath.Join(dir, "valise", "layers")
}

// content is where bundle.Write finds what the manifest lists.
type content struct {
	*image.Collection
	release *project.Release
	files   map[string]string // path in the bundle -> path here
	made    map[string][]byte // path in the bundle -> what this program wrote
}

func (c *content) Close() error { return errors.Join(c.Collection.Close(), c.release.Close()) }

func (c *content) OpenFile(path string) (io.ReadCloser, error) {
	if b, ok := c.made[path]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return os.Open(c.files[path])
}

// add puts a file that this program wrote into the release.
func (c *content) add(m *bundle.Manifest, path string, b []byte) error {
	at, found := slices.BinarySearchFunc(m.Files, path, func(f bundle.File, p string) int { return strings.Compare(f.Path, p) })
	if found {
		return fmt.Errorf("%s is written by valise: leave it out of files", path)
	}
	m.Files = slices.Insert(m.Files, at, bundle.File{Path: path, Size: int64(len(b)), Mode: 0o644, Digest: bundle.DigestOf(b)})
	c.made[path] = b
	return nil
}

func hashFile(ctx context.Context, f project.ReleaseFile) (bundle.File, error) {
	if err := ctx.Err(); err != nil {
		return bundle.File{}, err
	}
	file, err := os.Open(f.Source)
	if err != nil {
		return bundle.File{}, err
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, file)
	if err != nil {
		return bundle.File{}, err
	}
	out := bundle.File{Path: f.Path, Size: n, Mode: 0o644, Digest: bundle.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))}
	if f.Executable {
		out.Mode = 0o755
	}
	return out, nil
}

// writeBundle writes the bundle under another name, syncs it and renames it, so
// that it never is half there.
func (a *app) writeBundle(ctx context.Context, f *pendingBundle, compression bundle.Compression, m *bundle.Manifest, c *content, omit func(bundle.Digest) bool) (err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	defer f.Cleanup()
	progress, finish := a.UI.Track("write " + f.path)
	err = bundle.WriteThin(ctx, f, compression, m, c, omit, progress)
	finish(err)
	if err != nil {
		return fmt.Errorf("write bundle: %w", notRefused(err))
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
