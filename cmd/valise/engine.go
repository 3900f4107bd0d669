package main

import (
	"archive/tar"
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

// Where the parts of an engine come from unless engine.mirrors says otherwise.
const (
	dockerURL   = "https://download.docker.com/linux/static/stable"
	composeURL  = "https://github.com/docker/compose/releases/download"
	debianURL   = "https://deb.debian.org/debian"
	securityURL = "https://deb.debian.org/debian-security"
)

const (
	maxEngineFile = 512 << 20 // bytes of an archive or program that is downloaded
	maxListing    = 8 << 20   // bytes of a list of versions, or of digests
	maxPrograms   = 2 << 30   // bytes that an archive unpacks to
)

// engineArchs are the names of machines: those of Docker's archives, docker compose, Debian.
var engineArchs = map[bundle.Platform]struct{ docker, compose, debian string }{
	"linux/amd64":   {"x86_64", "x86_64", "amd64"},
	"linux/arm64":   {"aarch64", "aarch64", "arm64"},
	"linux/arm/v7":  {"armhf", "armv7", "armhf"},
	"linux/arm/v6":  {"armel", "armv6", "armel"},
	"linux/ppc64le": {"ppc64le", "ppc64le", "ppc64el"},
	"linux/s390x":   {"s390x", "s390x", "s390x"},
	"linux/riscv64": {"", "riscv64", "riscv64"},
}

type engineFlags struct {
	project, docker, compose, debian string
	update                           bool
}

func engineCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "engine", Short: "Manage the engine in a bundle, for devices without one"}
	var f engineFlags
	fetch := &cobra.Command{
		Use:   "fetch",
		Short: "Download an engine for the project's platforms",
		Long: "fetch downloads what a device without Docker needs, for every platform of valise.yaml, into\n" +
			"the directory that its key engine names (dist/engine). It installs nothing. It downloads\n" +
			"Docker's static archive, or with --debian the packages of a Debian release, by apt; and\n" +
			"docker compose in both cases.\n\n" +
			"The first time, it writes versions and SHA-256 digests into valise.yaml. From then on it\n" +
			"downloads exactly these files, as valise build does for missing ones. --update, or another\n" +
			"version, selects new files. With engine: {compose: true}, it downloads docker compose only,\n" +
			"for devices whose engine lacks it, such as Debian 12.",
		Example: "  valise engine fetch\n  valise engine fetch --debian bookworm\n  valise engine fetch --docker 29.1.3 --compose 2.40.3",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.engineFetch(cmd.Context(), f) },
	}
	fetch.Flags().StringVar(&f.project, "project", project.DefaultFile, "project file")
	fetch.Flags().StringVar(&f.docker, "docker", "", "version of Docker's static archive (default, the newest)")
	fetch.Flags().StringVar(&f.debian, "debian", "", "packages of this Debian release, such as bookworm, instead of the archive")
	fetch.Flags().StringVar(&f.compose, "compose", "", "version of docker compose (default, the newest)")
	fetch.Flags().BoolVar(&f.update, "update", false, "take the newest versions, whatever valise.yaml says")
	c.AddCommand(fetch)
	return c
}

// engineResult is the result of engine fetch.
type engineResult struct {
	Dir       string     `json:"dir"`
	Docker    string     `json:"docker,omitempty"`
	Debian    string     `json:"debian,omitempty"`
	Compose   string     `json:"compose"`
	Platforms []engineOf `json:"platforms"`
	Pinned    bool       `json:"pinned"` // valise.yaml was changed
}

// engineOf is what a bundle carries of an engine for a platform.
type engineOf struct {
	Platform bundle.Platform `json:"platform"`
	Files    int             `json:"files"`
	Size     int64           `json:"size"`
}

func (a *app) engineFetch(ctx context.Context, f engineFlags) error {
	p, err := project.Load(ctx, f.project)
	if err != nil {
		return err
	}
	switch {
	case p.Tree != nil:
		return cli.Usagef("%s is a tree: its devices need no container engine", p.App)
	case f.docker != "" && f.debian != "":
		return cli.Usagef("want --docker or --debian")
	}
	want, static, renew := f.engine(p.Engine)
	if _, err := p.WithEngine(want); err != nil { // before minutes of downloading
		return err
	}
	pinned := len(want.SHA256)
	if err := a.fetchEngine(ctx, p, want, static, p.Platforms); err != nil {
		return err
	}
	result := engineResult{Dir: want.Dir, Docker: want.Docker, Debian: want.Debian, Compose: want.Compose, Pinned: renew || len(want.SHA256) > pinned}
	if result.Pinned {
		text, err := p.WithEngine(want)
		if err == nil {
			err = writeFile(p.File, text)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", p.File, err)
		}
	}
	p.Engine = want
	for _, platform := range p.Platforms {
		of := engineOf{Platform: platform}
		for name := range want.Pinned(platform) {
			info, err := os.Stat(filepath.Join(p.EngineDir(platform), name))
			if err != nil {
				return err
			}
			of.Files, of.Size = of.Files+1, of.Size+info.Size()
		}
		result.Platforms = append(result.Platforms, of)
	}
	return a.Result(result, func(w io.Writer) {
		what := "docker compose " + want.Compose
		if engine := cmp.Or(want.Docker, want.Debian); engine != "" {
			what = "Docker of " + engine + " and " + what
		}
		fmt.Fprintf(w, "%s in %s\n", what, want.Dir)
		for _, of := range result.Platforms {
			fmt.Fprintf(w, "  %s for %s, in %d files\n", ui.Bytes(of.Size), of.Platform, of.Files)
		}
		if result.Pinned {
			fmt.Fprintf(w, "%s has their versions and digests: commit it\n", p.File)
		}
	})
}

// engine is what to fetch where a project has old, which may be nil; whether Docker's
// static archive is part of it, and whether it is something new.
func (f engineFlags) engine(old *project.Engine) (want *project.Engine, static, renew bool) {
	e := project.Engine{Dir: project.DefaultEngineDir}
	if old != nil {
		e = *old
	}
	was, only := e, e.OnlyCompose() && f.docker == "" && f.debian == ""
	if f.update {
		e.Docker, e.Compose = "", ""
	}
	if f.docker != "" {
		e.Docker, e.Debian = strings.TrimPrefix(f.docker, "v"), ""
	}
	if f.debian != "" {
		e.Docker, e.Debian = "", f.debian
	}
	e.Compose = strings.TrimPrefix(cmp.Or(f.compose, e.Compose), "v")
	renew = f.update || len(e.SHA256) == 0 || e.Docker != was.Docker || e.Debian != was.Debian || e.Compose != was.Compose
	e.SHA256 = map[string]string{}
	if !renew {
		maps.Copy(e.SHA256, was.SHA256)
	}
	return &e, !only && e.Debian == "", renew
}

// fetchEngine downloads what e says into its directory, for platforms. What e has no
// digest of is added to it.
func (a *app) fetchEngine(ctx context.Context, p *project.Project, e *project.Engine, static bool, platforms []bundle.Platform) (err error) {
	for _, platform := range platforms {
		arch := engineArchs[platform]
		if arch.compose == "" || static && arch.docker == "" {
			return fmt.Errorf("there is no engine for %s to download", platform)
		}
		mirror := func(given, usual string) string { return strings.TrimSuffix(cmp.Or(given, usual), "/") }
		if base := mirror(e.Mirrors.Docker, dockerURL) + "/" + arch.docker + "/"; static {
			if e.Docker == "" {
				if e.Docker, err = newestDocker(ctx, base); err != nil {
					return cli.WithHint(fmt.Errorf("find the newest Docker: %s: %w", base, err), "name a version: --docker 29.1.3")
				}
			}
			name := "docker-" + e.Docker + ".tgz"
			if err := a.fetchPart(ctx, p, e, platform, name, base+name, "", checkArchive); err != nil {
				return err
			}
		}
		if e.Debian != "" {
			if err := a.fetchDebian(ctx, p, e, platform, arch.debian); err != nil {
				return err
			}
		}
		base := mirror(e.Mirrors.Compose, composeURL)
		if e.Compose == "" || e.Compose == project.AnyVersion {
			if e.Compose, err = newestCompose(ctx, base); err != nil {
				return cli.WithHint(fmt.Errorf("find the newest docker compose: %s: %w", base, err), "name a version: --compose 2.40.3")
			}
		}
		url := base + "/v" + e.Compose + "/docker-compose-linux-" + arch.compose
		want := e.Pinned(platform)[project.EngineCompose]
		if want == "" {
			if want, err = publishedSum(ctx, url+".sha256"); err != nil {
				return fmt.Errorf("download %s.sha256: %w", url, err)
			}
		}
		if err := a.fetchPart(ctx, p, e, platform, project.EngineCompose, url, want, checkProgram); err != nil {
			return err
		}
	}
	return nil
}

// fetchPart downloads one file, unless it is there, and compares it with what e or its
// maker says of it.
func (a *app) fetchPart(ctx context.Context, p *project.Project, e *project.Engine, platform bundle.Platform, name, url, published string, check func(string) error) error {
	key := platform.Dashed() + "/" + name
	path := filepath.Join(p.Path(e.Dir), platform.Dashed(), name)
	want := cmp.Or(e.SHA256[key], published)
	if want != "" {
		if got, err := hashFile(ctx, project.ReleaseFile{Source: path}); err == nil && got.Digest == bundle.Digest("sha256:"+want) {
			e.SHA256[key] = want
			return nil
		}
	}
	a.UI.Step("download", url)
	sum, err := download(ctx, url, want, path, maxEngineFile)
	if err == nil {
		err = check(path)
	}
	if err != nil {
		return fmt.Errorf("download %s: %w", url, err)
	}
	e.SHA256[key] = sum
	return nil
}

var archiveLink = lazyregexp.New(`"docker-([0-9]+\.[0-9]+\.[0-9]+)\.tgz"`)

// newestDocker is the highest version that a directory of archives lists.
func newestDocker(ctx context.Context, url string) (string, error) {
	page, err := document(ctx, url)
	if err != nil {
		return "", err
	}
	var newest *semver.Version
	for _, m := range archiveLink.FindAllSubmatch(page, -1) {
		if v, err := semver.NewVersion(string(m[1])); err == nil && (newest == nil || v.GreaterThan(newest)) {
			newest = v
		}
	}
	if newest == nil {
		return "", errors.New("it lists no docker-VERSION.tgz")
	}
	return newest.String(), nil
}

// newestCompose is the version of the release that GitHub calls the latest: where
// /latest leads to.
func newestCompose(ctx context.Context, base string) (string, error) {
	latest := strings.TrimSuffix(base, "/download") + "/latest"
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, latest, nil)
	if err != nil {
		return "", err
	}
	c := client(maxListing)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := c.Do(req)
	if err != nil {
		return "", errors.Unwrap(err)
	}
	res.Body.Close()
	v, err := semver.StrictNewVersion(strings.TrimPrefix(path.Base(res.Header.Get("Location")), "v"))
	if err != nil {
		return "", fmt.Errorf("%s answers %s, want a redirect to the tag of a release", latest, res.Status)
	}
	return v.String(), nil
}

// publishedSum reads the digest that a file of sha256sum begins with.
func publishedSum(ctx context.Context, url string) (string, error) {
	text, err := document(ctx, url)
	if err != nil {
		return "", err
	}
	sum, _, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	if !bundle.Digest("sha256:" + sum).Valid() {
		return "", errors.New("it does not begin with a SHA-256")
	}
	return sum, nil
}

func document(ctx context.Context, url string) ([]byte, error) {
	body, err := get(ctx, url, maxListing)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

// checkArchive refuses what is no archive of Docker's programs, such as the page of a
// proxy.
func checkArchive(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return fmt.Errorf("it is not an archive: %w", err)
	}
	for t := tar.NewReader(io.LimitReader(z, maxPrograms)); ; {
		h, err := t.Next()
		if err != nil {
			return fmt.Errorf("it is not an archive of Docker, with docker/dockerd: %w", err)
		}
		if h.Name == "docker/dockerd" {
			return nil
		}
	}
}

// checkProgram refuses what is no program of Linux.
func checkProgram(path string) error {
	if head, err := readHead(path, 4); err != nil || string(head) != "\x7fELF" {
		return cmp.Or(err, errors.New("it is not a program"))
	}
	return nil
}

// pinnedEngine downloads what valise.yaml has digests of and its directory lacks.
func (a *app) pinnedEngine(ctx context.Context, p *project.Project, platforms []bundle.Platform) error {
	for _, platform := range platforms {
		missing := func(name string) bool {
			_, err := os.Stat(filepath.Join(p.EngineDir(platform), name))
			return errors.Is(err, os.ErrNotExist)
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(p.Engine.Pinned(platform))), missing) {
			continue
		}
		want, static, _ := engineFlags{}.engine(p.Engine)
		if err := a.fetchEngine(ctx, p, want, static, []bundle.Platform{platform}); err != nil {
			return err
		}
	}
	return nil
}
