package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/go-github/v60/github"

	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/web"
)

// Limits of what is sent to and taken from GitHub.
const (
	// MaxAsset is the first size in bytes that GitHub refuses for one file.
	MaxAsset int64 = 2 << 30
	// maxTries is how often a request that failed for a passing reason is made.
	maxTries = 5
	// maxReleases is how many releases are looked at, newest first.
	maxReleases = 1000
	// maxWait is the longest pause that GitHub may ask for.
	maxWait  = 5 * time.Minute
	pageSize = 100
	// maxAnswer is how many bytes an answer has that is not a file: a hundred releases
	// with notes of 125,000 characters.
	maxAnswer = 64 << 20
	// maxAssets is how many files of a release are looked at.
	maxAssets = 1000
	// stall is how long an answer may be silent.
	stall = time.Minute
)

// Options say which repository, and as whom.
type Options struct {
	API        string        // base URL of the REST API: https://api.github.com, or https://HOST/api/v3
	Token      string        // empty reads what is public
	Repository string        // OWNER/NAME
	UserAgent  string        // who asks
	Pause      time.Duration // before the second try; it doubles. 0 means a second
}

// Repository is a repository on GitHub or on a GitHub Enterprise Server. It may
// be used concurrently.
type Repository struct {
	client *github.Client
	files  *http.Client // follows to where files are stored, without the token
	path   string       // repos/OWNER/NAME
	token  bool
	pause  time.Duration
}

var repositoryName = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$`)

// Open returns the repository that o names. It sends no request yet.
func Open(o Options) (*Repository, error) {
	if !repositoryName.MatchString(o.Repository) || strings.HasSuffix(o.Repository, "/.") || strings.HasSuffix(o.Repository, "/..") {
		return nil, fmt.Errorf("repository %q: want OWNER/NAME", o.Repository)
	}
	base, err := url.Parse(strings.TrimSuffix(o.API, "/") + "/")
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, fmt.Errorf("GitHub API %q: want a URL", o.API)
	}
	// A redirect of the API leads to a stored file or to a renamed repository;
	// the token goes to neither.
	transport := &web.Guard{Next: web.Transport(), Limit: maxAnswer, Whole: isFile, Stall: stall, Loopback: true}
	client := github.NewClient(&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
	if o.Token != "" {
		client = client.WithAuthToken(o.Token)
	}
	client.BaseURL, client.UserAgent = base, o.UserAgent
	r := &Repository{client: client, files: &http.Client{Transport: transport}, path: "repos/" + o.Repository, token: o.Token != "", pause: o.Pause}
	if r.pause == 0 {
		r.pause = time.Second
	}
	return r, nil
}

// isFile reports whether a request is for a file, whose size is known.
func isFile(r *http.Request) bool {
	first := web.First(r)
	return first.Method == http.MethodGet && first.Header.Get("Accept") == "application/octet-stream"
}

// Release is a release on GitHub, with the fields used here.
type Release struct {
	ID         int64  `json:"id"`
	Tag        string `json:"tag_name"`
	Title      string `json:"name"`
	Notes      string `json:"body"`
	Draft      bool   `json:"draft"`
	Prerelease bool   `json:"prerelease"`
	Immutable  bool   `json:"immutable"` // nothing of it can be changed any more
	URL        string `json:"html_url"`
	UploadURL  string `json:"upload_url"` // an RFC 6570 template
}

// Asset is a file of a release.
type Asset struct {
	ID     int64  `json:"id"`
	Name   string `json:"name"`
	Size   int64  `json:"size"`   // bytes
	State  string `json:"state"`  // stateUploaded, or something that an interrupted upload left behind
	Digest string `json:"digest"` // sha256:…, empty on servers that do not compute it
}

const stateUploaded = "uploaded"

// PermissionError means that the token may not do what was asked for.
type PermissionError struct {
	Action  string // what was refused
	Token   bool   // whether there was a token at all
	Message string // GitHub's
}

func (e *PermissionError) Error() string {
	if !e.Token {
		return fmt.Sprintf("%s: GitHub wants a token for that (%s)", e.Action, e.Message)
	}
	return fmt.Sprintf("%s: the token may not do that (%s)", e.Action, e.Message)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *PermissionError) Kind() string { return "permission" }

// errNotFound is GitHub's 404.
var errNotFound = errors.New("not found")

// do makes one request, as often as it fails for a passing reason, and decodes
// the answer into out. action names it in errors. It repeats requests that may
// have worked: use it for those of which two are as good as one.
func (r *Repository) do(ctx context.Context, action, method, path string, in, out any) error {
	return r.again(ctx, func() error { return r.once(ctx, action, method, path, in, out) })
}

// once is do without a second try.
func (r *Repository) once(ctx context.Context, action, method, path string, in, out any) error {
	req, err := r.client.NewRequest(method, path, in)
	if err != nil {
		return backoff.Permanent(fmt.Errorf("%s: %w", action, err))
	}
	_, err = r.client.Do(ctx, req, out)
	return r.wrap(ctx, action, err)
}

// again calls f until it works, fails for good, or has failed maxTries times.
func (r *Repository) again(ctx context.Context, f func() error) error {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = r.pause
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, f() }, backoff.WithBackOff(b), backoff.WithMaxTries(maxTries))
	return unwrapPermanent(err)
}

// unwrapPermanent takes the mark of a last try off.
func unwrapPermanent(err error) error {
	if p := new(backoff.PermanentError); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// wrap says what an error of GitHub means, and marks it as permanent unless
// another try may help.
func (r *Repository) wrap(ctx context.Context, action string, err error) error {
	if err == nil {
		return nil
	}
	var secondary *github.AbuseRateLimitError
	var primary *github.RateLimitError
	var answer *github.ErrorResponse
	switch {
	case ctx.Err() != nil:
		return backoff.Permanent(ctx.Err())
	case errors.As(err, &secondary):
		if wait := secondary.RetryAfter; wait != nil && *wait <= maxWait {
			return fmt.Errorf("%s: GitHub asks to wait: %w", action, &backoff.RetryAfterError{Duration: *wait})
		}
		return fmt.Errorf("%s: GitHub says this is too much at once: %s", action, secondary.Message)
	case errors.As(err, &primary):
		return backoff.Permanent(fmt.Errorf("%s: the token has no requests left until %s", action, primary.Rate.Reset.UTC().Format(time.RFC3339)))
	case !errors.As(err, &answer):
		return fmt.Errorf("%s: %w", action, err) // the network
	}
	text := message(answer)
	switch code := answer.Response.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return backoff.Permanent(&PermissionError{Action: action, Token: r.token, Message: text})
	case code == http.StatusNotFound:
		return backoff.Permanent(fmt.Errorf("%s: %w", action, errNotFound))
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return fmt.Errorf("%s: GitHub answers %d (%s)", action, code, text)
	case code >= 300 && code < 400:
		return backoff.Permanent(fmt.Errorf("%s: GitHub says that the repository is somewhere else: %s", action, answer.Response.Header.Get("Location")))
	}
	return backoff.Permanent(fmt.Errorf("%s: %w", action, &refusal{text}))
}

// refusal is a request that GitHub understood and does not want.
type refusal struct{ text string }

func (e *refusal) Error() string { return "GitHub refuses it: " + e.text }

// message is what GitHub says, in one line.
func message(e *github.ErrorResponse) string {
	text := e.Message
	for _, detail := range e.Errors {
		switch {
		case detail.Message != "":
			text += "; " + detail.Message
		case detail.Field != "":
			text += "; " + detail.Field + " " + detail.Code
		}
	}
	if text == "" {
		text = http.StatusText(e.Response.StatusCode)
	}
	return strings.Join(strings.Fields(text), " ")
}

// Releases returns the newest releases, drafts too if the token may see them.
func (r *Repository) Releases(ctx context.Context) ([]Release, error) {
	var all []Release
	for page := 1; len(all) < maxReleases; page++ {
		var some []Release
		if err := r.do(ctx, "list releases", http.MethodGet, fmt.Sprintf("%s/releases?per_page=%d&page=%d", r.path, pageSize, page), nil, &some); err != nil {
			if errors.Is(err, errNotFound) { // what GitHub says of what one may not even see
				err = &PermissionError{Action: "list releases of " + strings.TrimPrefix(r.path, "repos/"), Token: r.token, Message: "no such repository, or a private one"}
			}
			return nil, err
		}
		all = append(all, some...)
		if len(some) < pageSize {
			break
		}
	}
	return all, nil
}

// Assets returns the files of a release, half-uploaded ones too.
func (r *Repository) Assets(ctx context.Context, id int64) ([]Asset, error) {
	var all []Asset
	for page := 1; len(all) < maxAssets; page++ {
		var some []Asset
		if err := r.do(ctx, "list assets", http.MethodGet, fmt.Sprintf("%s/releases/%d/assets?per_page=%d&page=%d", r.path, id, pageSize, page), nil, &some); err != nil {
			return nil, err
		}
		all = append(all, some...)
		if len(some) < pageSize {
			break
		}
	}
	return all, nil
}

// Commit returns the commit of a tag, "" when there is no such tag.
func (r *Repository) Commit(ctx context.Context, tag string) (string, error) {
	var commit struct {
		SHA string `json:"sha"`
	}
	err := r.do(ctx, "read tag "+tag, http.MethodGet, r.path+"/commits/tags/"+url.PathEscape(tag), nil, &commit)
	if errors.Is(err, errNotFound) || errors.As(err, new(*refusal)) { // 422: no commit of that name
		return "", nil
	}
	return commit.SHA, err
}

// Commits returns the first lines of the messages of the commits that to has and
// from has not, oldest first, merges left out. GitHub gives the first 250.
func (r *Repository) Commits(ctx context.Context, from, to string) ([]string, error) {
	var comparison struct {
		Commits []struct {
			Commit struct {
				Message string `json:"message"`
			} `json:"commit"`
			Parents []struct{} `json:"parents"`
		} `json:"commits"`
	}
	if err := r.do(ctx, "compare commits", http.MethodGet, r.path+"/compare/"+url.PathEscape(from)+"..."+url.PathEscape(to), nil, &comparison); err != nil {
		return nil, err
	}
	var titles []string
	for _, c := range comparison.Commits {
		if title, _, _ := strings.Cut(c.Commit.Message, "\n"); title != "" && len(c.Parents) < 2 {
			titles = append(titles, title)
		}
	}
	return titles, nil
}

// Download writes an asset to w.
func (r *Repository) Download(ctx context.Context, a Asset, w io.Writer) error {
	body, err := r.open(ctx, a)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := io.Copy(w, io.LimitReader(body, a.Size+1))
	if err != nil {
		return fmt.Errorf("download %s: %w", a.Name, err)
	}
	if n != a.Size {
		return fmt.Errorf("download %s: got %d bytes, want %d", a.Name, n, a.Size)
	}
	return nil
}

func (r *Repository) open(ctx context.Context, a Asset) (body io.ReadCloser, err error) {
	action := "download " + a.Name
	err = r.again(ctx, func() error {
		req, err := r.client.NewRequest(http.MethodGet, fmt.Sprintf("%s/releases/assets/%d", r.path, a.ID), nil)
		if err != nil {
			return backoff.Permanent(fmt.Errorf("%s: %w", action, err))
		}
		req.Header.Set("Accept", "application/octet-stream")
		resp, err := r.client.BareDo(ctx, req)
		if resp == nil || resp.StatusCode != http.StatusFound {
			if err == nil {
				body = resp.Body
			}
			return r.wrap(ctx, action, err)
		}
		// The place where files are stored has its own authorisation in the URL.
		stored, err := http.NewRequestWithContext(ctx, http.MethodGet, resp.Header.Get("Location"), nil)
		if err != nil {
			return backoff.Permanent(fmt.Errorf("%s: %w", action, err))
		}
		stored.Header.Set("Accept", "application/octet-stream")
		file, err := r.files.Do(stored)
		if err != nil {
			return fmt.Errorf("%s: %w", action, withoutQuery(err))
		}
		if file.StatusCode != http.StatusOK {
			file.Body.Close()
			return fmt.Errorf("%s: the place where GitHub stores it answers %s", action, file.Status)
		}
		body = file.Body
		return nil
	})
	return body, err
}

// withoutQuery takes the query, which is a secret for some minutes, out of an
// error with a URL.
func withoutQuery(err error) error {
	if e := new(url.Error); errors.As(err, &e) {
		if u, parse := url.Parse(e.URL); parse == nil {
			u.RawQuery = ""
			e.URL = u.String()
		}
	}
	return err
}
