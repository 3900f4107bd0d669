// Package publishtest is the part of GitHub that publishing and fetching
// releases needs, on loopback: the REST API with its shapes, statuses and
// sentences, the upload host, and the place where files are stored, which wants
// no token. It keeps files in a directory and everything else in memory. What it
// does not know it answers with 501, so that a new request is noticed.
//
// Shapes and statuses are those of GitHub's OpenAPI description (npm package
// @octokit/openapi 23.0.2, api.github.com). What that does not say is from GitHub's
// documentation or from what people saw, and not checked here against GitHub itself:
//
//   - the sentences of errors, and 403 in place of 404 where a token may not write;
//   - that an upload which broke off leaves an asset in state "starter": the description
//     knows "uploaded" and "open", and all but "uploaded" counts as broken;
//   - immutable releases: that nothing can be added or removed, and that the tag of one
//     that was deleted cannot be used again;
//   - headers of the primary and the secondary rate limit;
//   - which characters in names of files are replaced, and by what;
//   - that a draft is at untagged-..., that its files need a token, and that the storage
//     refuses a request with one.
//
// Not there at all: concurrency, approvals of environments, artifacts and which event
// starts a workflow are GitHub's own, so no test of ours sees them. "Latest" is the newest
// release here; publishing only says which one should be.
package publishtest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	pathpkg "path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Tokens, and what they may do. Any other is a bad credential.
const (
	Admin = "ghp_admin" // everything, as a person who owns the repository has it
	Write = "ghs_write" // contents: write
	Read  = "ghs_read"  // contents: read, as a job of a forked pull request has it
)

// Fault is how a request fails.
type Fault int

const (
	None   Fault = iota
	Before       // 502, and nothing happened
	After        // it happened, then 502
	Cut          // of an upload: the connection ends in the middle, a starter asset stays
	Busy         // 403 of the secondary rate limit, Retry-After 0
	Spent        // 403 of the primary rate limit, until 2100
)

// Server is the double. Set its fields before the first request; it is an
// http.Handler for any number of addresses.
type Server struct {
	Repository string // OWNER/NAME
	Dir        string // files are kept here
	Immutable  bool   // the repository's setting: published releases cannot be changed
	NoDigest   bool   // an old GitHub Enterprise Server computes none
	// Answers are settings that are only read, by their path behind the repository's:
	// "rulesets/7", or "" for the repository itself.
	Answers map[string]json.RawMessage
	// Fail, which may be nil, is asked about every request.
	Fail func(r *http.Request) Fault
	// Corrupt, which may be nil, is asked whether a stored file is served changed.
	Corrupt func(name string) bool

	mu       sync.Mutex
	next     int64
	releases []*release
	tags     map[string]string // name -> commit
	burnt    map[string]bool
	commits  []string // messages, oldest first
	requests []string
}

type release struct {
	id, created                int64
	tag, name, body, commitish string
	draft, prerelease          bool
	immutable                  bool
	latest                     string
	assets                     []*asset
}

type asset struct {
	id     int64
	name   string
	size   int64
	state  string
	digest string
}

// Tag makes a tag.
func (s *Server) Tag(name, commit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tags == nil {
		s.tags = map[string]string{}
	}
	s.tags[name] = commit
}

// Commit adds a commit message to what compare answers.
func (s *Server) Commit(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits = append(s.commits, message)
}

// Requests returns what was asked, as "METHOD path".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Seen is a release as everybody can see it.
type Seen struct {
	Tag, Name, Notes, Latest string
	Draft, Prerelease        bool
	Assets                   map[string]string // name -> digest of what is complete
	Broken                   []string          // names of what is not
}

// Releases returns what there is, oldest first.
func (s *Server) Releases() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Seen
	for _, r := range s.releases {
		seen := Seen{Tag: r.tag, Name: r.name, Notes: r.body, Draft: r.draft, Prerelease: r.prerelease, Latest: r.latest, Assets: map[string]string{}}
		for _, a := range r.assets {
			if a.state == "uploaded" {
				seen.Assets[a.name] = a.digest
			} else {
				seen.Broken = append(seen.Broken, a.name)
			}
		}
		all = append(all, seen)
	}
	return all
}

// Delete removes a release as a person would on the page. The tag of an
// immutable one stays burnt.
func (s *Server) Delete(tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releases = slices.DeleteFunc(s.releases, func(r *release) bool {
		if r.tag != tag {
			return false
		}
		if r.immutable {
			if s.burnt == nil {
				s.burnt = map[string]bool{}
			}
			s.burnt[tag] = true
		}
		return true
	})
}

// Asset adds a file to a release as a person would, or removes it when data is
// nil.
func (s *Server) Asset(tag, name string, data []byte) error {
	return s.AssetOf(func(r Seen) bool { return r.Tag == tag }, name, data)
}

// AssetOf is Asset for the first release that is meant.
func (s *Server) AssetOf(is func(Seen) bool, name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.releases {
		if !is(Seen{Tag: r.tag, Name: r.name, Draft: r.draft}) {
			continue
		}
		r.assets = slices.DeleteFunc(r.assets, func(a *asset) bool { return a.name == name })
		if data == nil {
			return nil
		}
		s.next++
		sum := sha256.Sum256(data)
		r.assets = append(r.assets, &asset{s.next, name, int64(len(data)), "uploaded", "sha256:" + hex.EncodeToString(sum[:])})
		return os.WriteFile(s.file(s.next), data, 0o600)
	}
	return fmt.Errorf("no release for %s", name)
}

func (s *Server) file(id int64) string { return filepath.Join(s.Dir, strconv.FormatInt(id, 10)) }

// ServeHTTP answers for api.github.com at /, for a GitHub Enterprise Server at
// /api/v3, for uploads.github.com at /uploads, for github.com at
// /OWNER/NAME/releases/download, and for the storage at /storage.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/api/v3")
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+path)
	s.mu.Unlock()
	fault := None
	if s.Fail != nil {
		fault = s.Fail(r)
	}
	switch fault {
	case Before:
		s.refuse(w, http.StatusBadGateway, "Server Error")
		return
	case Busy:
		w.Header().Set("Retry-After", "0")
		writeJSON(w, http.StatusForbidden, map[string]any{"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
			"documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"})
		return
	case Spent:
		w.Header().Set("X-RateLimit-Limit", "1000")
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset", "4102444800")
		s.refuse(w, http.StatusForbidden, "API rate limit exceeded for installation.")
		return
	case After:
		s.route(discard{http.Header{}}, r, path, false)
		s.refuse(w, http.StatusBadGateway, "Server Error")
		return
	}
	s.route(w, r, path, fault == Cut)
}

// discard is a response that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func (s *Server) route(w http.ResponseWriter, r *http.Request, path string, cut bool) {
	if id, ok := strings.CutPrefix(path, "/storage/"); ok {
		s.storage(w, r, id)
		return
	}
	if rest, ok := strings.CutPrefix(path, "/"+s.Repository+"/releases/download/"); ok {
		s.public(w, r, pathpkg.Dir(rest), pathpkg.Base(rest)) // tags may have slashes
		return
	}
	may, ok := s.authorise(w, r)
	if !ok {
		return
	}
	upload := strings.HasPrefix(path, "/uploads/")
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "/uploads")+"/", "/repos/"+s.Repository+"/")
	rest = strings.TrimSuffix(rest, "/")
	if !ok {
		s.refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	if r.Method != http.MethodGet && may != Write && may != Admin {
		s.refuse(w, http.StatusForbidden, "Resource not accessible by integration")
		return
	}
	parts := strings.Split(rest, "/")
	id := func(i int) int64 {
		n, _ := strconv.ParseInt(parts[i], 10, 64)
		return n
	}
	switch {
	case r.Method == http.MethodGet && setting(rest):
		s.settings(w, rest, may)
	case upload && r.Method == http.MethodPost && len(parts) == 3 && parts[2] == "assets":
		s.upload(w, r, id(1), cut)
	case rest == "releases" && r.Method == http.MethodGet:
		s.list(w, r, may)
	case rest == "releases" && r.Method == http.MethodPost:
		s.create(w, r)
	case strings.HasPrefix(rest, "releases/tags/") && r.Method == http.MethodGet:
		s.one(w, r, func(rel *release) bool { return !rel.draft && rel.tag == strings.TrimPrefix(rest, "releases/tags/") })
	case rest == "releases/latest" && r.Method == http.MethodGet:
		s.one(w, r, func(rel *release) bool { return !rel.draft && !rel.prerelease })
	case len(parts) == 3 && parts[0] == "releases" && parts[1] == "assets" && r.Method == http.MethodGet:
		s.asset(w, r, id(2), may)
	case len(parts) == 3 && parts[0] == "releases" && parts[1] == "assets" && r.Method == http.MethodDelete:
		s.deleteAsset(w, id(2))
	case len(parts) == 3 && parts[0] == "releases" && parts[2] == "assets" && r.Method == http.MethodGet:
		s.assets(w, r, id(1))
	case len(parts) == 2 && parts[0] == "releases" && r.Method == http.MethodPatch:
		s.edit(w, r, id(1))
	case len(parts) == 2 && parts[0] == "releases" && r.Method == http.MethodDelete:
		s.delete(w, id(1))
	case len(parts) == 2 && parts[0] == "releases" && r.Method == http.MethodGet:
		s.one(w, r, func(rel *release) bool { return rel.id == id(1) })
	case strings.HasPrefix(rest, "commits/tags/") && r.Method == http.MethodGet:
		s.commit(w, strings.TrimPrefix(rest, "commits/tags/"))
	case strings.HasPrefix(rest, "compare/") && r.Method == http.MethodGet:
		s.compare(w)
	default:
		s.refuse(w, http.StatusNotImplemented, "the double does not know "+r.Method+" "+path)
	}
}

// ownerOnly are settings that only an owner may read.
var ownerOnly = []string{"immutable-releases", "actions/permissions", "actions/permissions/workflow", "actions/permissions/selected-actions"}

func setting(rest string) bool {
	return rest == "" || rest == "rulesets" || strings.HasPrefix(rest, "rulesets/") || strings.HasPrefix(rest, "environments/") || slices.Contains(ownerOnly, rest)
}

// settings answers as the repository is set up, and as a new one when Answers do not say.
func (s *Server) settings(w http.ResponseWriter, rest, may string) {
	answer, ok := s.Answers[rest]
	switch {
	case slices.Contains(ownerOnly, rest) && may == "":
		s.refuse(w, http.StatusUnauthorized, "Requires authentication")
	case slices.Contains(ownerOnly, rest) && may != Admin:
		s.refuse(w, http.StatusForbidden, "Resource not accessible by integration")
	case ok:
		writeJSON(w, http.StatusOK, answer)
	case rest == "":
		writeJSON(w, http.StatusOK, map[string]any{"id": 1, "full_name": s.Repository, "private": false, "archived": false, "default_branch": "main",
			"permissions": map[string]bool{"admin": may == Admin, "push": may == Admin || may == Write, "pull": true}})
	case rest == "rulesets":
		writeJSON(w, http.StatusOK, []any{})
	case rest == "actions/permissions":
		writeJSON(w, http.StatusOK, map[string]any{"enabled": true, "allowed_actions": "all", "sha_pinning_required": false})
	case rest == "actions/permissions/workflow":
		writeJSON(w, http.StatusOK, map[string]any{"default_workflow_permissions": "read", "can_approve_pull_request_reviews": false})
	default: // immutable releases that are off, an environment that is not there
		s.refuse(w, http.StatusNotFound, "Not Found")
	}
}

// authorise returns what the request may do.
func (s *Server) authorise(w http.ResponseWriter, r *http.Request) (string, bool) {
	switch token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); token {
	case Admin, Write, Read:
		return token, true
	case "":
		if r.Method == http.MethodGet {
			return "", true
		}
		s.refuse(w, http.StatusUnauthorized, "Requires authentication")
	default:
		s.refuse(w, http.StatusUnauthorized, "Bad credentials")
	}
	return "", false
}

func (s *Server) refuse(w http.ResponseWriter, status int, message string, details ...map[string]string) {
	body := map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)}
	if details != nil {
		body["errors"] = details
	}
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // a reader that went away needs no answer
}

// base is where the request was sent to.
func base(r *http.Request) string { return "http://" + r.Host }

// bot is who a job of GitHub Actions is.
var bot = map[string]any{"login": "github-actions[bot]", "id": 41898282, "type": "Bot", "site_admin": false}

func (s *Server) releaseJSON(r *http.Request, rel *release) map[string]any {
	assets := []map[string]any{}
	for _, a := range rel.assets {
		assets = append(assets, s.assetJSON(r, rel, a))
	}
	api := base(r) + "/repos/" + s.Repository
	url := base(r) + "/" + s.Repository + "/releases/tag/" + rel.tag
	var published any
	if rel.draft {
		url = base(r) + "/" + s.Repository + "/releases/tag/untagged-" + strconv.FormatInt(rel.id, 16)
	} else {
		published = time.Unix(rel.created, 0).UTC()
	}
	return map[string]any{
		"url": fmt.Sprintf("%s/releases/%d", api, rel.id), "html_url": url,
		"assets_url": fmt.Sprintf("%s/releases/%d/assets", api, rel.id),
		"upload_url": fmt.Sprintf("%s/uploads/repos/%s/releases/%d/assets{?name,label}", base(r), s.Repository, rel.id),
		"id":         rel.id, "tag_name": rel.tag, "target_commitish": rel.commitish, "name": rel.name, "body": rel.body,
		"draft": rel.draft, "prerelease": rel.prerelease, "immutable": rel.immutable,
		"created_at": time.Unix(rel.created, 0).UTC(), "published_at": published, "assets": assets,
		"tarball_url": api + "/tarball/" + rel.tag, "zipball_url": api + "/zipball/" + rel.tag,
		"node_id": fmt.Sprintf("RE_%d", rel.id), "author": bot,
	}
}

func (s *Server) assetJSON(r *http.Request, rel *release, a *asset) map[string]any {
	var digest any
	if a.digest != "" && !s.NoDigest {
		digest = a.digest
	}
	return map[string]any{
		"url": fmt.Sprintf("%s/repos/%s/releases/assets/%d", base(r), s.Repository, a.id), "id": a.id, "name": a.name, "label": "",
		"state": a.state, "content_type": "application/octet-stream", "size": a.size, "digest": digest, "download_count": 0,
		"browser_download_url": fmt.Sprintf("%s/%s/releases/download/%s/%s", base(r), s.Repository, rel.tag, a.name),
		"node_id":              fmt.Sprintf("RA_%d", a.id), "uploader": bot,
		"created_at": time.Unix(rel.created, 0).UTC(), "updated_at": time.Unix(rel.created, 0).UTC(),
	}
}

// page cuts a list as per_page and page say.
func page[T any](r *http.Request, all []T) []T {
	size, number := 30, 1
	if n, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil && n > 0 {
		size = min(n, 100)
	}
	if n, err := strconv.Atoi(r.URL.Query().Get("page")); err == nil && n > 0 {
		number = n
	}
	return all[min(len(all), (number-1)*size):min(len(all), number*size)]
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, may string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []map[string]any{}
	for _, rel := range slices.Backward(s.releases) {
		if !rel.draft || (may == Write || may == Admin) {
			all = append(all, s.releaseJSON(r, rel))
		}
	}
	writeJSON(w, http.StatusOK, page(r, all))
}

func (s *Server) one(w http.ResponseWriter, r *http.Request, is func(*release) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rel := range slices.Backward(s.releases) {
		if is(rel) {
			writeJSON(w, http.StatusOK, s.releaseJSON(r, rel))
			return
		}
	}
	s.refuse(w, http.StatusNotFound, "Not Found")
}

func (s *Server) byID(id int64) *release {
	for _, rel := range s.releases {
		if rel.id == id {
			return rel
		}
	}
	return nil
}

// fields is the body of create and edit.
type fields struct {
	Tag        *string `json:"tag_name"`
	Commitish  *string `json:"target_commitish"`
	Name       *string `json:"name"`
	Body       *string `json:"body"`
	Draft      *bool   `json:"draft"`
	Prerelease *bool   `json:"prerelease"`
	Latest     *string `json:"make_latest"`
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var f fields
	if err := json.NewDecoder(r.Body).Decode(&f); err != nil || f.Tag == nil {
		s.refuse(w, http.StatusBadRequest, "Problems parsing JSON")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	rel := &release{id: s.next, created: 1767225600 + s.next, draft: false}
	s.apply(w, r, rel, f, http.StatusCreated, func() { s.releases = append(s.releases, rel) })
}

func (s *Server) edit(w http.ResponseWriter, r *http.Request, id int64) {
	var f fields
	if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
		s.refuse(w, http.StatusBadRequest, "Problems parsing JSON")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rel := s.byID(id)
	if rel == nil {
		s.refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	s.apply(w, r, rel, f, http.StatusOK, func() {})
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request, rel *release, f fields, status int, keep func()) {
	draft := rel.draft
	set(&rel.tag, f.Tag)
	set(&rel.commitish, f.Commitish)
	set(&rel.name, f.Name)
	set(&rel.body, f.Body)
	set(&rel.draft, f.Draft)
	set(&rel.prerelease, f.Prerelease)
	set(&rel.latest, f.Latest)
	if !rel.draft {
		reason := map[string]string(nil)
		switch {
		case s.burnt[rel.tag]:
			reason = map[string]string{"resource": "Release", "code": "custom", "field": "tag_name", "message": "tag_name was used by an immutable release"}
		case slices.ContainsFunc(s.releases, func(other *release) bool { return other != rel && !other.draft && other.tag == rel.tag }):
			reason = map[string]string{"resource": "Release", "code": "already_exists", "field": "tag_name"}
		}
		if reason != nil {
			rel.draft = draft
			s.refuse(w, http.StatusUnprocessableEntity, "Validation Failed", reason)
			return
		}
		rel.immutable = rel.immutable || s.Immutable
		if s.tags == nil {
			s.tags = map[string]string{}
		}
		if s.tags[rel.tag] == "" {
			s.tags[rel.tag] = rel.commitish
		}
	}
	keep()
	writeJSON(w, status, s.releaseJSON(r, rel))
}

func (s *Server) delete(w http.ResponseWriter, id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID(id) == nil {
		s.refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	s.releases = slices.DeleteFunc(s.releases, func(r *release) bool { return r.id == id })
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) assets(w http.ResponseWriter, r *http.Request, id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rel := s.byID(id)
	if rel == nil {
		s.refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	all := []map[string]any{}
	for _, a := range rel.assets {
		all = append(all, s.assetJSON(r, rel, a))
	}
	writeJSON(w, http.StatusOK, page(r, all))
}

func (s *Server) findAsset(id int64) (*release, *asset) {
	for _, rel := range s.releases {
		for _, a := range rel.assets {
			if a.id == id {
				return rel, a
			}
		}
	}
	return nil, nil
}

func (s *Server) asset(w http.ResponseWriter, r *http.Request, id int64, may string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rel, a := s.findAsset(id)
	if a == nil || rel.draft && may != Write && may != Admin {
		s.refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	if r.Header.Get("Accept") != "application/octet-stream" {
		writeJSON(w, http.StatusOK, s.assetJSON(r, rel, a))
		return
	}
	http.Redirect(w, r, fmt.Sprintf("%s/storage/%d?sig=%s", base(r), id, rand.Text()), http.StatusFound)
}

func (s *Server) deleteAsset(w http.ResponseWriter, id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rel, a := s.findAsset(id)
	switch {
	case a == nil:
		s.refuse(w, http.StatusNotFound, "Not Found")
	case rel.immutable:
		s.refuse(w, http.StatusUnprocessableEntity, "Cannot delete asset from an immutable release")
	default:
		rel.assets = slices.DeleteFunc(rel.assets, func(other *asset) bool { return other == a })
		w.WriteHeader(http.StatusNoContent)
	}
}

// unusual is what GitHub replaces in names of files.
var unusual = lazyregexp.New(`[^A-Za-z0-9_.@+-]`)

func (s *Server) upload(w http.ResponseWriter, r *http.Request, id int64, cut bool) {
	name := strings.TrimLeft(unusual.ReplaceAllString(r.URL.Query().Get("name"), "."), ".")
	s.mu.Lock()
	rel := s.byID(id)
	refuse := func(status int, message string, details ...map[string]string) {
		s.mu.Unlock()
		s.refuse(w, status, message, details...)
	}
	switch {
	case rel == nil:
		refuse(http.StatusNotFound, "Not Found")
		return
	case rel.immutable:
		refuse(http.StatusUnprocessableEntity, "Cannot upload assets to an immutable release.")
		return
	case r.ContentLength <= 0:
		refuse(http.StatusBadRequest, "Bad Content-Length: ")
		return
	case slices.ContainsFunc(rel.assets, func(a *asset) bool { return a.name == name }):
		refuse(http.StatusUnprocessableEntity, "Validation Failed", map[string]string{"resource": "ReleaseAsset", "code": "already_exists", "field": "name"})
		return
	}
	s.next++
	a := &asset{id: s.next, name: name, state: "starter"}
	rel.assets = append(rel.assets, a)
	s.mu.Unlock()

	f, err := os.Create(s.file(a.id))
	if err != nil {
		s.refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	defer f.Close()
	sum := sha256.New()
	if cut {
		io.CopyN(f, r.Body, r.ContentLength/2)
		panic(http.ErrAbortHandler)
	}
	n, err := io.Copy(io.MultiWriter(f, sum), r.Body)
	if err != nil || n != r.ContentLength {
		return // the sender went away: a starter asset stays
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.size, a.state, a.digest = n, "uploaded", "sha256:"+hex.EncodeToString(sum.Sum(nil))
	writeJSON(w, http.StatusCreated, s.assetJSON(r, rel, a))
}

// public is github.com's own download address.
func (s *Server) public(w http.ResponseWriter, r *http.Request, tag, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rel := range s.releases {
		for _, a := range rel.assets {
			if !rel.draft && rel.tag == tag && a.name == name && a.state == "uploaded" {
				http.Redirect(w, r, fmt.Sprintf("%s/storage/%d?sig=%s", base(r), a.id, rand.Text()), http.StatusFound)
				return
			}
		}
	}
	http.NotFound(w, r)
}

func (s *Server) storage(w http.ResponseWriter, r *http.Request, id string) {
	if r.Header.Get("Authorization") != "" {
		http.Error(w, "Only one auth mechanism allowed", http.StatusBadRequest)
		return
	}
	n, _ := strconv.ParseInt(id, 10, 64)
	s.mu.Lock()
	_, a := s.findAsset(n)
	s.mu.Unlock()
	if a == nil || r.URL.Query().Get("sig") == "" {
		http.NotFound(w, r)
		return
	}
	f, err := os.Open(s.file(n))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	if s.Corrupt != nil && s.Corrupt(a.name) {
		b, _ := io.ReadAll(f)
		b[len(b)/2] ^= 1
		w.Write(b)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (s *Server) commit(w http.ResponseWriter, tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sha := s.tags[tag]; sha != "" {
		writeJSON(w, http.StatusOK, map[string]any{"sha": sha})
		return
	}
	s.refuse(w, http.StatusUnprocessableEntity, "No commit found for SHA: tags/"+tag)
}

func (s *Server) compare(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	commits := []map[string]any{}
	for _, m := range s.commits {
		commits = append(commits, map[string]any{"commit": map[string]any{"message": m}, "parents": []map[string]any{{}}})
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "ahead", "total_commits": len(commits), "commits": commits})
}
