package source

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/web"
)

// maxPages bounds how many releases are looked at: 100 on a page.
const maxPages = 10

// gitHub is a repository whose releases carry bundles. Two calls of its API are all
// that a device needs; a client library for all of it has 0.7 MB.
type gitHub struct {
	app         string
	owner, repo string
	pattern     string // of tags; "" is every one that ends in a version
	api         *url.URL
	agent       string
	http        *http.Client
	private     bool    // a token is there: assets come through the API
	assets      *client // with the token
}

// gitHubRelease is what is read of a release.
type gitHubRelease struct {
	Tag        string    `json:"tag_name"`
	Name       string    `json:"name"`
	Body       string    `json:"body"`
	Page       string    `json:"html_url"`
	Draft      bool      `json:"draft"`
	Prerelease bool      `json:"prerelease"`
	Published  time.Time `json:"published_at"`
	Assets     []struct {
		Name     string `json:"name"`
		State    string `json:"state"`
		Size     int64  `json:"size"`
		API      string `json:"url"`
		Download string `json:"browser_download_url"`
	} `json:"assets"`
}

// gitHubError is an answer that is no success.
type gitHubError struct {
	status  int
	header  http.Header
	message string
}

func (e *gitHubError) Kind() string  { return "source" }
func (e *gitHubError) Error() string { return fmt.Sprintf("%d: %s", e.status, e.message) }

// ask decodes what GitHub says of the repository's releases, and whether there is
// another page.
func (g *gitHub) ask(ctx context.Context, path string, query url.Values, out any) (more bool, err error) {
	u := g.api.JoinPath("repos", g.owner, g.repo, "releases", path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	req.Header.Set("User-Agent", g.agent)
	res, err := g.http.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	body := json.NewDecoder(res.Body) // a Guard limits it
	if res.StatusCode != http.StatusOK {
		var said struct {
			Message string `json:"message"`
		}
		_ = body.Decode(&said) // a proxy may answer anything
		return false, &gitHubError{res.StatusCode, res.Header, said.Message}
	}
	return strings.Contains(res.Header.Get("Link"), `rel="next"`), body.Decode(out)
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
	g := &gitHub{app: app, pattern: c.Tags, api: u, agent: o.Agent, private: token != "", assets: assets}
	g.owner, g.repo, _ = strings.Cut(c.GitHub, "/")
	h := *g.assets.http
	h.Timeout = 2 * headerTimeout
	h.Transport = &web.Guard{Next: h.Transport, Limit: maxListing}
	if o.Cache != "" {
		h.Transport = &cached{h.Transport, o.Cache}
	}
	g.http = &h
	return g, nil
}

func (g *gitHub) list(ctx context.Context) (*listing, error) {
	all := &listing{}
	for page := 1; page <= maxPages; page++ {
		var list []gitHubRelease
		more, err := g.ask(ctx, "", url.Values{"per_page": {"100"}, "page": {strconv.Itoa(page)}}, &list)
		if err != nil {
			return nil, g.explain(err)
		}
		for _, r := range list {
			if rel, ok := g.release(r); ok {
				all.releases = append(all.releases, rel)
			}
			if !r.Draft {
				all.rollouts = append(all.rollouts, rollouts(g.app, g.files(r))...)
			}
		}
		if !more {
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
		var r gitHubRelease
		_, err := g.ask(ctx, "tags/"+tag, nil, &r)
		if e := new(gitHubError); errors.As(err, &e) && e.status == http.StatusNotFound {
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
	if err != nil {
		return Release{}, err
	}
	all.releases = slices.DeleteFunc(all.releases, func(r Release) bool { return len(r.Bundles) == 0 })
	return all.find(version)
}

var yanked = lazyregexp.New(`(?i)\[yanked\]`)

// tags reports whether a tag is one of those that the device follows.
func (g *gitHub) tags(tag string) bool {
	ok, err := path.Match(cmp.Or(g.pattern, tag), tag)
	return ok && err == nil
}

// release is what a GitHub release says. A draft is none, and neither is one of
// another app in the same repository, whose tags are written in another way. One whose title has
// [yanked] was withdrawn, and one that is called a pre-release although its
// version is none is meant as one: both are only for those who ask for them.
func (g *gitHub) release(r gitHubRelease) (Release, bool) {
	prefix, version, _ := bundle.SplitTag(r.Tag)
	v, err := bundle.ParseVersion(version)
	if err != nil || r.Draft || !g.tags(r.Tag) {
		return Release{}, false
	}
	rel := Release{Version: version, Bundles: []Bundle{}}
	for _, x := range group(g.app, g.files(r)) {
		if x.Version == version {
			rel = x
		}
	}
	if len(rel.Bundles) == 0 && g.pattern == "" && prefix != "" && prefix != "v" {
		return Release{}, false
	}
	rel.hidden = yanked.MatchString(r.Name) || r.Prerelease && v.Prerelease() == ""
	rel.Tag, rel.Page, rel.Notes, rel.Date = r.Tag, webPage(r.Page), r.Body, r.Published
	return rel, true
}

// files are those of a release.
func (g *gitHub) files(r gitHubRelease) (files []found) {
	for _, a := range r.Assets {
		if a.State != "uploaded" {
			continue
		}
		p := part{url: a.Download, client: g.assets}
		if g.private {
			p.url, p.accept = a.API, "application/octet-stream"
		}
		files = append(files, found{a.Name, a.Size, p})
	}
	return files
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
	e := new(gitHubError)
	if !errors.As(err, &e) {
		return fmt.Errorf("ask GitHub for releases of %s: %w", where, plain(err))
	}
	slow := e.status == http.StatusForbidden || e.status == http.StatusTooManyRequests
	switch {
	case slow && e.header.Get("X-RateLimit-Remaining") == "0":
		more := ""
		if !g.private {
			more = "; a token in token_file raises the limit"
		}
		until, _ := strconv.ParseInt(e.header.Get("X-RateLimit-Reset"), 10, 64)
		return fmt.Errorf("ask GitHub for releases of %s: its limit of %.10s requests an hour is used up until %s%s", where, e.header.Get("X-RateLimit-Limit"), time.Unix(until, 0).UTC().Format("15:04 UTC"), more)
	case slow && (e.header.Get("Retry-After") != "" || e.status == http.StatusTooManyRequests):
		seconds, _ := strconv.Atoi(e.header.Get("Retry-After"))
		return fmt.Errorf("ask GitHub for releases of %s: it wants us to wait %s", where, time.Duration(cmp.Or(seconds, 60))*time.Second)
	case e.status == http.StatusNotFound && g.private:
		return fmt.Errorf("ask GitHub for releases of %s: there is no such repository, or the token may not read it", where)
	case e.status == http.StatusNotFound:
		return fmt.Errorf("ask GitHub for releases of %s: there is no such repository, or it is private and needs a token in token_file", where)
	case e.status == http.StatusUnauthorized:
		return fmt.Errorf("ask GitHub for releases of %s: it does not accept the token", where)
	}
	return fmt.Errorf("ask GitHub for releases of %s: it answered %d: %.300s", where, e.status, e.message)
}
