package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/image"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// collect finds or makes every image of a release.
func (a *app) collect(ctx context.Context, p *project.Project, r *project.Release, platforms []bundle.Platform, created time.Time, buildkit image.BuildKit, h *held) (*image.Collection, error) {
	mirrors, err := parseMirrors(a.Getenv("VALISE_MIRRORS"))
	if err != nil {
		return nil, err
	}
	var plain []string
	for _, host := range slices.Sorted(maps.Keys(p.Registries)) {
		registry, err := name.NewRegistry(host)
		if err != nil {
			return nil, fmt.Errorf("registries: %w", err)
		}
		r := p.Registries[host]
		mirrors[registry.RegistryStr()] = append(mirrors[registry.RegistryStr()], r.Mirrors...)
		if r.HTTP {
			plain = append(plain, registry.RegistryStr())
		}
	}
	o := image.Options{
		Mirrors:   mirrors,
		Plain:     plain,
		Roots:     func(host string) (*x509.CertPool, error) { return roots(p, host) },
		Platforms: platforms,
		CreatedAt: created,
		Dir:       p.Dir,
		CacheDir:  a.layerCache(),
		Held:      h.blob,
		Keychain:  &logins{a: a, noted: map[string]bool{}},

		DockerHost:   a.Getenv("DOCKER_HOST"),
		BuildKitHost: a.Getenv("BUILDKIT_HOST"),
		BuildKit:     buildkit,
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
	if errors.As(err, new(*image.BuilderError)) {
		return nil, cli.WithHint(err, "%s", a.onGitHub("add docker/setup-buildx-action", "docker buildx create --use, or turn on the containerd image store of docker"))
	}
	if err != nil && strings.Contains(err.Error(), "exec format error") {
		return nil, cli.WithHint(err, "programs of another platform need emulation: %s; or write FROM --platform=$BUILDPLATFORM in the Dockerfile and cross-compile",
			a.onGitHub("add docker/setup-qemu-action before docker/setup-buildx-action", "docker run --privileged --rm tonistiigi/binfmt --install all"))
	}
	var status *transport.Error
	var busy *image.BusyError
	switch {
	case errors.As(err, &busy), errors.As(err, &status) && status.StatusCode == http.StatusTooManyRequests:
		return nil, cli.WithHint(err, "wait and build again; docker login gives most registries higher limits, and a mirror has none (VALISE_MIRRORS, or registries in %s)", p.File)
	case errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return nil, cli.WithHint(err, "log in: docker login %s (its credential helpers count); a registry says the same of an image that is not there", registryOf(status))
	case err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return nil, cli.WithHint(err, "when that registry has no HTTPS, write registries: {HOST: {http: true}} in %s", p.File)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return nil, cli.WithHint(err, "when its certificate is of your own authority, write registries: {HOST: {ca: FILE}} in %s, or put it into %s/HOST/ca.crt", p.File, certsDir)
	}
	if missing := new(image.PlatformError); errors.As(err, &missing) {
		return nil, cli.WithHint(err, "provide the image for %s, or leave that platform out with --platform", missing.Want)
	}
	return c, err
}

// logins are those of docker login. One that cannot be read, such as by a credential
// helper of another machine, is none, as it is to docker: most images are for everybody.
type logins struct {
	a     *app
	mu    sync.Mutex // of noted
	noted map[string]bool
}

func (l *logins) Resolve(r authn.Resource) (authn.Authenticator, error) {
	auth, err := authn.DefaultKeychain.Resolve(r)
	if err == nil {
		return auth, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if host := r.RegistryStr(); !l.noted[host] {
		l.noted[host] = true
		l.a.Note("no login for %s: %s", strings.TrimPrefix(host, "index."), cli.OneLine(err.Error()))
	}
	return authn.Anonymous, nil
}

// onGitHub is what to do in a job of GitHub Actions, or else.
func (a *app) onGitHub(there, here string) string {
	if a.Getenv("GITHUB_ACTIONS") != "" {
		return there
	}
	return here
}

// certsDir is where docker has certificates for registries, by their host.
const certsDir = "/etc/docker/certs.d"

// roots are the authorities that may certify a registry besides those of this system.
func roots(p *project.Project, host string) (*x509.CertPool, error) {
	files, err := filepath.Glob(filepath.Join(certsDir, strings.NewReplacer("*", "", "?", "", "[", "").Replace(host), "*.crt"))
	if err != nil {
		return nil, err
	}
	if r := p.Registries[host]; r.CA != "" {
		files = append(files, p.Path(r.CA))
	}
	if len(files) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", file)
		}
	}
	return pool, nil
}

// registryOf is the host that an error is of.
func registryOf(err *transport.Error) string {
	if err.Request == nil {
		return "HOST"
	}
	return strings.TrimPrefix(err.Request.URL.Host, "index.")
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
		s.Dockerfile = &image.Dockerfile{Context: img.Context, File: img.Dockerfile, Target: img.Target, Args: img.Args, Labels: img.Labels,
			Contexts: img.Build.Contexts, Secrets: img.Build.Secrets, CacheFrom: img.Build.CacheFrom, CacheTo: img.Build.CacheTo, Pull: img.Build.Pull, NoCache: img.Build.NoCache}
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
func (a *app) layerCache() string { return filepath.Join(a.cacheDir(), "layers") }

// cacheDir is what may be removed at any time.
func (a *app) cacheDir() string {
	dir := a.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(dir) { // the specification says to ignore others
		dir = filepath.Join(a.Getenv("HOME"), ".cache")
	}
	return filepath.Join(dir, "valise")
}
