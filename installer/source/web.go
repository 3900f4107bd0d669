package source

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// webDir is a directory on a web server. It is listed by what the server shows for
// it: the JSON that nginx (autoindex_format json) and Caddy give, or a page with
// links. An address that ends in .json is that of a list that somebody keeps.
type webDir struct {
	app    string
	base   *url.URL
	client *client
}

func newWeb(app, address, token string, c *client) (*webDir, error) {
	base, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if !strings.HasSuffix(base.Path, "/") && path.Ext(base.Path) != ".json" {
		base.Path += "/"
	}
	if c, err = c.withToken(base, token); err != nil {
		return nil, err
	}
	return &webDir{app, base, c}, nil
}

func (w *webDir) list(ctx context.Context) (*listing, error) {
	ctx, watch := watchStall(ctx, w.client.stall)
	defer watch.stop()
	res, err := part{client: w.client}.get(ctx, w.base.String(), http.Header{"Accept": {"application/json, text/html;q=0.5"}})
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list releases: %w; the server must show a list of the directory, or the address must be that of one", statusError(res))
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxListing+1))
	if err == nil && len(body) > maxListing {
		err = fmt.Errorf("the list has more than %d bytes", maxListing)
	}
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	var files []found
	for _, e := range readListing(body) {
		// Only what lies in the directory itself, by the same scheme.
		u, err := w.base.Parse(e.Name)
		if err != nil || u.Scheme != w.base.Scheme || u.User != nil || u.Host != w.base.Host || path.Dir(u.Path) != path.Dir(w.base.Path) {
			continue
		}
		u.RawQuery, u.Fragment = "", ""
		files = append(files, found{path.Base(u.Path), e.size(), part{url: u.String(), client: w.client}})
	}
	return newListing(w.app, files), nil
}

// listed is one entry of a listing.
type listed struct {
	Name string `json:"name"`
	Size *int64 `json:"size"`
}

func (l listed) size() int64 {
	if l.Size == nil || *l.Size < 0 {
		return -1
	}
	return *l.Size
}

var link = lazyregexp.New(`(?i)<a\s[^>]*href\s*=\s*["']?([^"'\s>]+)`)

func readListing(b []byte) []listed {
	var list []listed
	if json.Unmarshal(b, &list) == nil {
		for i := range list {
			list[i].Name = (&url.URL{Path: "./" + list[i].Name}).EscapedPath()
		}
		return list
	}
	list = nil
	for _, m := range link.FindAllSubmatch(b, -1) {
		list = append(list, listed{Name: html.UnescapeString(string(m[1]))})
	}
	return list
}
