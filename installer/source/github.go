package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-github/v60/github"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/web"
)

// maxPages bounds how many releases are looked at: 100 on a page.
const maxPages = 10

// gitHub is a repository whose releases carry bundles.
type gitHub struct {
	app         string
	owner, repo string
	pattern     string // of tags; "" is every one that ends in a version
	releases    releaseLister
	private     bool    // a token is there: assets come through the API
	assets      *client // with the token
}

// releaseLister is what is used of the GitHub API.
type releaseLister interface {
	ListReleases(ctx context.Context, owner, repo string, opts *github.ListOptions) ([]*github.RepositoryRelease, *github.Response, error)
	GetReleaseByTag(ctx context.Context, owner, repo, tag string) (*github.RepositoryRelease, *github.Response, error)
}

func newGitHub(app string, c Config, token string, o Options, plainClient *client) (*gitHub, error) {
	base := c.API
	if base == "" {
		base = "https://api.github.com/"
	}
	u, err := url.Parse(strings.TrimSuffix(base, "/") + "/")
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	assets, err := plainClient.withToken(u, token)
	if err != nil {
		return nil, err
	}
	g := &gitHub{app: app, pattern: c.Tags, private: token != "", assets: assets}
	g.owner, g.repo, _ = strings.Cut(c.GitHub, "/")
	h := *g.assets.http
	h.Timeout = 2 * headerTimeout
	h.Transport = &web.Guard{Next: h.Transport, Limit: maxListing}
	if o.Cache != "" {
		h.Transport = &cached{h.Transport, o.Cache}
	}
	api := github.NewClient(&h)
	api.BaseURL, api.UserAgent = u, o.Agent
	g.releases = api.Repositories
	return g, nil
}

func (g *gitHub) list(ctx context.Context) ([]Release, error) {
	var all []Release
	opts := &github.ListOptions{PerPage: 100}
	for range maxPages {
		page, res, err := g.releases.ListReleases(ctx, g.owner, g.repo, opts)
		if err != nil {
			return nil, g.explain(err)
		}
		for _, r := range page {
			if rel, ok := g.release(r); ok {
				all = append(all, rel)
			}
		}
		if opts.Page = res.NextPage; opts.Page == 0 {
			break
		}
	}
	return all, nil
}

func (g *gitHub) find(ctx context.Context, version string) (Release, error) {
	for _, tag := range []string{"v" + version, version} {
		if !g.tags(tag) {
			continue
		}
		r, _, err := g.releases.GetReleaseByTag(ctx, g.owner, g.repo, tag)
		if e := new(github.ErrorResponse); errors.As(err, &e) && e.Response.StatusCode == http.StatusNotFound {
			continue
		}
		if err != nil {
			return Release{}, g.explain(err)
		}
		if rel, ok := g.release(r); ok {
			return rel, nil
		}
	}
	all, err := g.list(ctx) // tags as shop-v1.2.3
	for _, rel := range all {
		if rel.Version == version && len(rel.Bundles) > 0 {
			return rel, nil
		}
	}
	return Release{}, cmp.Or(err, fs.ErrNotExist)
}

var yanked = regexp.MustCompile(`(?i)\[yanked\]`)

// tags reports whether a tag is one of those that the device follows.
func (g *gitHub) tags(tag string) bool {
	ok, err := path.Match(cmp.Or(g.pattern, tag), tag)
	return ok && err == nil
}

// release is what a GitHub release says. A draft is none, and neither is one of
// another app in the same repository, whose tags are written in another way. One whose title has
// [yanked] was withdrawn, and one that is called a pre-release although its
// version is none is meant as one: both are only for those who ask for them.
func (g *gitHub) release(r *github.RepositoryRelease) (Release, bool) {
	prefix, version, _ := bundle.SplitTag(r.GetTagName())
	v, err := bundle.ParseVersion(version)
	if err != nil || r.GetDraft() || !g.tags(r.GetTagName()) {
		return Release{}, false
	}
	var files []found
	for _, a := range r.Assets {
		if a.GetState() != "uploaded" {
			continue
		}
		p := part{url: a.GetBrowserDownloadURL(), client: g.assets}
		if g.private {
			p.url, p.accept = a.GetURL(), "application/octet-stream"
		}
		files = append(files, found{a.GetName(), int64(a.GetSize()), p})
	}
	rel := Release{Version: version, Bundles: []Bundle{}}
	for _, x := range group(g.app, files) {
		if x.Version == version {
			rel = x
		}
	}
	if len(rel.Bundles) == 0 && g.pattern == "" && prefix != "" && prefix != "v" {
		return Release{}, false
	}
	rel.hidden = yanked.MatchString(r.GetName()) || r.GetPrerelease() && v.Prerelease() == ""
	rel.Tag, rel.Page, rel.Notes, rel.Date = r.GetTagName(), webPage(r.GetHTMLURL()), r.GetBody(), r.GetPublishedAt().Time
	return rel, true
}

// webPage is an address that people may follow, or nothing: it is whatever the
// server said.
func webPage(s string) string {
	if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || len(s) > 2<<10 {
		return ""
	}
	return s
}

// explain says what an error of the API means.
func (g *gitHub) explain(err error) error {
	where := g.owner + "/" + g.repo
	limit, abuse, answer := new(github.RateLimitError), new(github.AbuseRateLimitError), new(github.ErrorResponse)
	switch {
	case errors.As(err, &limit):
		more := ""
		if !g.private {
			more = "; a token in token_file raises the limit"
		}
		return fmt.Errorf("ask GitHub for releases of %s: its limit of %d requests an hour is used up until %s%s", where, limit.Rate.Limit, limit.Rate.Reset.UTC().Format("15:04 UTC"), more)
	case errors.As(err, &abuse):
		wait := time.Minute
		if abuse.RetryAfter != nil {
			wait = *abuse.RetryAfter
		}
		return fmt.Errorf("ask GitHub for releases of %s: it wants us to wait %s", where, wait.Round(time.Second))
	case errors.As(err, &answer) && answer.Response.StatusCode == http.StatusNotFound:
		if g.private {
			return fmt.Errorf("ask GitHub for releases of %s: there is no such repository, or the token may not read it", where)
		}
		return fmt.Errorf("ask GitHub for releases of %s: there is no such repository, or it is private and needs a token in token_file", where)
	case errors.As(err, &answer) && answer.Response.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("ask GitHub for releases of %s: it does not accept the token", where)
	case errors.As(err, &answer):
		return fmt.Errorf("ask GitHub for releases of %s: it answered %d: %s", where, answer.Response.StatusCode, answer.Message)
	}
	return fmt.Errorf("ask GitHub for releases of %s: %w", where, plain(err))
}
