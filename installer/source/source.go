// Package source finds the releases of an app and reads their bundles: on GitHub,
// in a registry, in a directory on a web server, or on this device.
//
// Nothing it finds is trusted. A list of releases says what to ask for, and what
// is fetched is a stranger's file until package verify has decided: so a server,
// a proxy or a mirror can withhold a release, and that is all. Bundles on servers
// are read in parts (File), so that a device fetches only what it lacks.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
)

// Config says where the releases of one app come from. One of GitHub, OCI, URL and
// Path is set.
type Config struct {
	GitHub string `yaml:"github,omitempty"` // OWNER/REPOSITORY
	// Tags is a pattern of the tags to follow where a repository has several apps: shop-v*.
	Tags string `yaml:"tags,omitempty"`
	API  string `yaml:"api,omitempty"` // of a GitHub Enterprise Server: https://HOST/api/v3
	// OCI is a repository of a registry, filled by valise push: HOST/REPOSITORY, or
	// http://HOST/REPOSITORY without TLS.
	OCI string `yaml:"oci,omitempty"`
	// Mirrors are repositories with the same content, asked first for content, and for
	// the list of releases where OCI cannot be reached.
	Mirrors []string `yaml:"mirrors,omitempty"`
	URL     string   `yaml:"url,omitempty"`  // directory on a web server
	Path    string   `yaml:"path,omitempty"` // directory on this device, absolute
	// Channel admits pre-releases of that name too: with "beta", 1.2.0-beta.1.
	Channel string `yaml:"channel,omitempty"`
	// TokenFile holds a token for GitHub, a bearer token for URL, or for OCI USER:PASSWORD,
	// a token, or what docker login wrote.
	TokenFile string `yaml:"token_file,omitempty"`
}

// IsZero reports whether there is no source.
func (c Config) IsZero() bool { return reflect.ValueOf(c).IsZero() }

// Parse reads a source from one word: github:OWNER/REPOSITORY, oci:HOST/REPOSITORY, an
// address, or an absolute path.
func Parse(s string) (Config, error) {
	var c Config
	switch {
	case strings.HasPrefix(s, "github:"):
		c.GitHub = strings.TrimPrefix(s, "github:")
	case strings.HasPrefix(s, "oci:"):
		c.OCI = strings.TrimPrefix(strings.TrimPrefix(s, "oci:"), "//")
	case strings.HasPrefix(s, "https://"), strings.HasPrefix(s, "http://"):
		c.URL = s
	case filepath.IsAbs(s):
		c.Path = s
	default:
		return c, fmt.Errorf("source %q: want github:OWNER/REPOSITORY, oci:HOST/REPOSITORY, an address that begins with https://, or an absolute path", s)
	}
	return c, c.check()
}

// FromRepository is the source that a release of that repository most likely
// has. It is zero when the repository is not on GitHub.
func FromRepository(repository string) Config {
	repo, ok := strings.CutPrefix(repository, "https://github.com/")
	c := Config{GitHub: strings.TrimSuffix(repo, ".git")}
	if !ok || c.check() != nil {
		return Config{}
	}
	return c
}

func (c Config) check() error {
	set := 0
	for _, s := range []string{c.GitHub, c.OCI, c.URL, c.Path} {
		if s != "" {
			set++
		}
	}
	switch {
	case set != 1:
		return errors.New("source: set one of github, oci, url and path")
	case c.GitHub != "":
		owner, repo, _ := strings.Cut(c.GitHub, "/")
		if !validRepo(owner) || !validRepo(repo) {
			return fmt.Errorf("source: github is %q, want OWNER/REPOSITORY", c.GitHub)
		}
	case c.Path != "" && !filepath.IsAbs(c.Path):
		return fmt.Errorf("source: path %q is not absolute", c.Path)
	}
	if len(c.Mirrors) > 0 && c.OCI == "" {
		return errors.New("source: mirrors goes with oci")
	}
	if c.OCI != "" {
		for i, s := range append([]string{c.OCI}, c.Mirrors...) {
			u, err := repositoryURL(s)
			if err != nil {
				return err
			}
			if i == 0 && u.Scheme == "http" && c.TokenFile != "" {
				return fmt.Errorf("source: a token would go to %s unencrypted: use https", u.Host)
			}
		}
	}
	if c.API != "" && c.GitHub == "" {
		return errors.New("source: api goes with github")
	}
	if _, err := path.Match(c.Tags, ""); err != nil || c.Tags != "" && c.GitHub == "" {
		return fmt.Errorf("source: tags is %q, want a pattern such as shop-v*, beside github", c.Tags)
	}
	for _, s := range []string{c.URL, c.API} {
		if s == "" {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("source: %q is not an address like https://HOST/PATH", s)
		}
		// What is fetched is verified however it comes; a secret is not sent
		// in the open.
		if u.Scheme == "http" && c.TokenFile != "" {
			return fmt.Errorf("source: a token would go to %s unencrypted: use https", u.Host)
		}
	}
	return nil
}

func validRepo(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 100 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// String names the source as messages do.
func (c Config) String() string {
	switch {
	case c.GitHub != "":
		return "GitHub releases of " + c.GitHub
	case c.OCI != "":
		return c.OCI
	case c.URL != "":
		return c.URL
	}
	return c.Path
}

// Options is what a source needs of the world.
type Options struct {
	Proxy func(*http.Request) (*url.URL, error) // may be nil
	// Cache is a directory for answers of the GitHub API, so that asking again
	// costs nothing; none when it is empty.
	Cache string
	// Retry is told why a transfer stopped that is tried again. It may be nil,
	// and is called from several goroutines.
	Retry func(error)
	// PassedOver is told why a mirror was. It is called like Retry.
	PassedOver func(error)
	// Token is used where Config has no TokenFile. Like that one it goes to the host
	// of the source only, and not without TLS.
	Token string
	// Agent is the User-Agent.
	Agent string
}

// Source is where the releases of one app come from. Its methods may be called
// by several goroutines.
type Source struct {
	app    string
	config Config
	client *client
	lister

	mu     sync.Mutex
	listed *listing
}

// lister is one kind of source. GitHub can find one release without a list.
type lister interface {
	list(ctx context.Context) (*listing, error)
}

type finder interface {
	find(ctx context.Context, version string) (Release, error)
}

// listing is what a source has, in any order.
type listing struct {
	releases []Release
	rollouts []found // rollout files, and signatures of such
}

// New returns the source of app.
func New(app string, c Config, o Options) (*Source, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	token := o.Token
	if c.TokenFile != "" {
		b, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read token: %w", err)
		}
		token = strings.TrimSpace(string(b))
	}
	s := &Source{app: app, config: c, client: newClient(o)}
	var err error
	switch {
	case c.GitHub != "":
		s.lister, err = newGitHub(app, c, token, o, s.client)
	case c.OCI != "":
		s.lister, err = newRegistry(app, c, token, s.client)
	case c.URL != "":
		s.lister, err = newWeb(app, c.URL, token, s.client)
	default:
		s.lister = local{app, c.Path}
	}
	return s, err
}

// Direct is a bundle at an address.
func Direct(address string, o Options) (*Source, Bundle, error) {
	c := Config{URL: address}
	if err := c.check(); err != nil {
		return nil, Bundle{}, err
	}
	s := &Source{config: c, client: newClient(o)}
	u, err := url.Parse(address)
	if err != nil {
		return nil, Bundle{}, err
	}
	return s, Bundle{name: name{Name: path.Base(u.Path)}, Size: -1, parts: []part{{url: address, size: -1, client: s.client}}}, nil
}

func (s *Source) String() string { return s.config.String() }

// Release is a release as its source tells of it: claims, until its bundle is
// verified.
type Release struct {
	Version string    `json:"version"`
	Tag     string    `json:"tag,omitempty"`
	Page    string    `json:"page,omitempty"` // for people: https, or empty
	Notes   string    `json:"notes,omitempty"`
	Date    time.Time `json:"date,omitzero"`
	Bundles []Bundle  `json:"bundles"`
	hidden  bool      // only for those who ask for it by version
}

// Bundle is one bundle of a release: one file, or several parts of one.
type Bundle struct {
	name
	Size  int64 `json:"size"` // -1: unknown
	parts []part
}

// ErrNoRelease means that a source has nothing that could be installed.
var ErrNoRelease = errors.New("no release")

// Query says which release is looked for.
type Query struct {
	Platform bundle.Platform
	Bad      []string // versions that are passed over: they failed here
}

// Releases returns those that the channel admits and that have a bundle for the
// platform, the newest first: by SemVer, not by date.
func (s *Source) Releases(ctx context.Context, q Query) ([]Release, error) {
	l, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(slices.Clone(l.releases), func(r Release) bool {
		return r.hidden || !s.admits(r.Version) || slices.Contains(q.Bad, r.Version) || len(r.For(q.Platform)) == 0
	})
	order.By(all, func(a, b Release) int {
		switch {
		case bundle.Newer(a.Version, b.Version):
			return -1
		case bundle.Newer(b.Version, a.Version):
			return 1
		}
		return 0
	})
	if r, ok := s.lister.(*registry); ok {
		if all, err = r.skipImages(ctx, all); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w of %s for %s in %s", ErrNoRelease, s.app, q.Platform, s)
	}
	return all, nil
}

// all lists what the source has, and keeps the list for Rollout.
func (s *Source) all(ctx context.Context) (*listing, error) {
	l, err := s.list(ctx)
	if err == nil {
		s.mu.Lock()
		s.listed = l
		s.mu.Unlock()
	}
	return l, err
}

// find returns the release of a version; the error is fs.ErrNotExist when there is none.
func (s *Source) find(ctx context.Context, version string) (Release, error) {
	if f, ok := s.lister.(finder); ok {
		return f.find(ctx, version)
	}
	l, err := s.all(ctx)
	if err != nil {
		return Release{}, err
	}
	return l.find(version)
}

// find looks for a version.
func (l *listing) find(version string) (Release, error) {
	for _, r := range l.releases {
		if r.Version == version {
			return r, nil
		}
	}
	return Release{}, fs.ErrNotExist
}

// Latest returns the newest of Releases.
func (s *Source) Latest(ctx context.Context, q Query) (Release, error) {
	all, err := s.Releases(ctx, q)
	if err != nil {
		return Release{}, err
	}
	return all[0], nil
}

// Exactly returns the release of a version, whatever its channel.
func (s *Source) Exactly(ctx context.Context, version string, q Query) (Release, error) {
	r, err := s.find(ctx, version)
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%w %s of %s in %s", ErrNoRelease, version, s.app, s)
	}
	if err != nil {
		return r, err
	}
	if len(r.For(q.Platform)) == 0 {
		var names []string
		for _, b := range r.Bundles {
			names = append(names, b.Name)
		}
		return r, fmt.Errorf("%w %s of %s for %s in %s: its bundles are %v", ErrNoRelease, version, s.app, q.Platform, s, names)
	}
	return r, nil
}

// admits reports whether the channel has a version.
func (s *Source) admits(version string) bool {
	v, err := bundle.ParseVersion(version)
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(v.Prerelease(), ".")
	return first == "" || first == s.config.Channel
}

// For returns the complete bundles for a platform, that made for it alone first.
func (r Release) For(p bundle.Platform) []Bundle {
	var list []Bundle
	for _, b := range r.Bundles {
		if b.From == "" && (b.Platform == p || b.Platform == "") {
			list = append(list, b)
		}
	}
	order.By(list, func(a, b Bundle) int { return len(b.Platform) - len(a.Platform) })
	return list
}

// Thin returns the bundles for a platform that leave out what release from has,
// the smallest first.
func (r Release) Thin(p bundle.Platform, from string) []Bundle {
	var list []Bundle
	for _, b := range r.Bundles {
		if b.From == from && from != "" && (b.Platform == p || b.Platform == "") {
			list = append(list, b)
		}
	}
	order.By(list, func(a, b Bundle) int { return int(min(max(a.Size-b.Size, -1), 1)) })
	return list
}

// Remote reports whether a bundle is read over a network.
func (b Bundle) Remote() bool { return len(b.parts) > 0 && b.parts[0].url != "" }
