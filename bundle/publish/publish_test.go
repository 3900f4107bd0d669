package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/publish/publishtest"
)

const (
	tag    = "v1.0.0"
	commit = "0123456789abcdef0123456789abcdef01234567"
)

// place is a GitHub with the files of a release beside it.
type place struct {
	*publishtest.Server
	http  *httptest.Server
	url   string
	dir   string
	token string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{Server: &publishtest.Server{Repository: "acme/shop", Dir: t.TempDir()}, dir: t.TempDir(), token: publishtest.Write}
	p.serve()
	t.Cleanup(func() { p.http.Close() })
	p.Tag(tag, commit)
	for _, name := range []string{"shop-1.0.0.tar.gz", "shop-1.0.0.tar.gz.sig", "shop-1.0.0.manifest.json", "extra.pdf"} {
		p.write(t, name, "content of "+name)
	}
	return p
}

func (p *place) serve() {
	p.http = httptest.NewServer(p)
	p.url = p.http.URL
}

func (p *place) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *place) repository(t *testing.T) *Repository {
	t.Helper()
	r, err := Open(Options{API: p.url, Token: p.token, Repository: "acme/shop", UserAgent: "test", Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// request is of all files in p.dir. Those called .tar.gz are bundles: they are
// the release when they begin with "content".
func (p *place) request(t *testing.T) Request {
	t.Helper()
	q := Request{Tag: tag, Commit: commit, Title: "shop 1.0.0", Notes: "notes", TempDir: t.TempDir()}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		f := File{Name: e.Name(), Path: filepath.Join(p.dir, e.Name())}
		if strings.HasSuffix(f.Name, ".tar.gz") {
			f.Check = func(_ context.Context, path string) error {
				b, err := os.ReadFile(path)
				if err == nil && !strings.HasPrefix(string(b), "content") {
					err = errors.New("it is another release")
				}
				return err
			}
		}
		q.Files = append(q.Files, f)
	}
	return q
}

func (p *place) publish(t *testing.T) (*Result, error) {
	t.Helper()
	return p.repository(t).Publish(t.Context(), p.request(t))
}

// mustPublish publishes and looks at what everybody can see then.
func (p *place) mustPublish(t *testing.T) *Result {
	t.Helper()
	result, err := p.publish(t)
	if err != nil {
		t.Fatal(err)
	}
	if what := p.complete(t); what != "" {
		t.Fatal(what)
	}
	return result
}

// complete says what is missing from the one public release that there must be.
func (p *place) complete(t *testing.T) string {
	all := p.Releases()
	if len(all) != 1 || all[0].Draft || all[0].Tag != tag {
		return fmt.Sprintf("want one public release %s, got %+v", tag, all)
	}
	return p.lacks(t, all[0])
}

func (p *place) lacks(t *testing.T, r publishtest.Seen) string {
	for _, f := range p.request(t).Files {
		want, err := digestOf(f.Path)
		if err != nil {
			return err.Error()
		}
		if r.Assets[f.Name] != want {
			return fmt.Sprintf("%s is %s, want %s", f.Name, r.Assets[f.Name], want)
		}
	}
	if len(r.Broken) > 0 {
		return fmt.Sprintf("half there: %v", r.Broken)
	}
	return ""
}

func TestPublish(t *testing.T) {
	p := newPlace(t)
	result := p.mustPublish(t)
	if result.Uploaded != 4 || result.Existed || result.Draft || !strings.HasPrefix(result.URL, p.url+"/acme/shop/releases/tag/v1.0.0") {
		t.Errorf("got %+v", result)
	}
	r := p.Releases()[0]
	if r.Notes != "notes" || r.Name != "shop 1.0.0" || r.Prerelease || r.Latest != "legacy" {
		t.Errorf("got %+v", r)
	}
	// Uploads, then the check, then one request that makes it public.
	requests := p.Requests()
	last := requests[len(requests)-1]
	if !strings.HasPrefix(last, "PATCH ") {
		t.Errorf("the last request is %s", last)
	}
	downloads := 0
	for _, r := range requests {
		if strings.HasPrefix(r, "GET /storage/") {
			downloads++
		}
	}
	if downloads != 4 {
		t.Errorf("%d files were downloaded again, want 4", downloads)
	}

	before := len(requests)
	if result := p.mustPublish(t); !result.Existed || result.Uploaded != 0 {
		t.Errorf("the second run: %+v", result)
	}
	for _, r := range p.Requests()[before:] {
		if !strings.HasPrefix(r, "GET ") {
			t.Errorf("the second run made %s", r)
		}
	}
}

func TestPrereleaseDraft(t *testing.T) {
	p := newPlace(t)
	q := p.request(t)
	q.Prerelease, q.Draft = true, true
	result, err := p.repository(t).Publish(t.Context(), q)
	if err != nil || !result.Draft {
		t.Fatal(result, err)
	}
	if r := p.Releases(); len(r) != 1 || !r[0].Draft || !r[0].Prerelease {
		t.Fatalf("got %+v", r)
	}
	q.Draft = false
	if result, err = p.repository(t).Publish(t.Context(), q); err != nil || result.Uploaded != 0 {
		t.Fatal(result, err)
	}
	if r := p.Releases(); len(r) != 1 || r[0].Draft || r[0].Latest != "false" {
		t.Fatalf("got %+v", r)
	}
}

// TestEveryRequestFailsOnce has each request fail in each way once: the run
// works all the same.
func TestEveryRequestFailsOnce(t *testing.T) {
	for _, fault := range []publishtest.Fault{publishtest.Before, publishtest.After, publishtest.Cut, publishtest.Busy} {
		for n := 0; ; n++ {
			p := newPlace(t)
			var failed string
			at := once(n, func(r *http.Request) bool {
				if fault == publishtest.Cut {
					return strings.HasPrefix(r.URL.Path, "/uploads/")
				}
				return !strings.HasPrefix(r.URL.Path, "/storage/") || fault == publishtest.Before
			})
			p.Fail = func(r *http.Request) publishtest.Fault {
				if !at(r) {
					return publishtest.None
				}
				failed = r.Method + " " + r.URL.Path
				return fault
			}
			_, err := p.publish(t)
			if failed == "" {
				if n < 4 {
					t.Errorf("fault %d: only %d requests failed", fault, n)
				}
				break
			}
			if err != nil {
				t.Errorf("fault %d of %s: %v", fault, failed, err)
			} else if what := p.complete(t); what != "" {
				t.Errorf("fault %d of %s: %s", fault, failed, what)
			}
		}
	}
}

// once is true for the nth request that counts.
func once(n int, counts func(*http.Request) bool) func(*http.Request) bool {
	var mu sync.Mutex
	return func(r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if !counts(r) {
			return false
		}
		n--
		return n == -1
	}
}

// TestInterrupted ends a run at each of its requests, before and after the
// request has its effect, and then runs again. At no moment may anybody see a
// release that is not complete.
func TestInterrupted(t *testing.T) {
	for _, fault := range []publishtest.Fault{publishtest.Before, publishtest.After, publishtest.Cut} {
		for n := 0; ; n++ {
			p := newPlace(t)
			look := func() {
				for _, r := range p.Releases() {
					if what := p.lacks(t, r); !r.Draft && what != "" {
						t.Errorf("fault %d at request %d: public and not complete: %s", fault, n, what)
					}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			at := once(n, func(r *http.Request) bool {
				return fault != publishtest.Cut || strings.HasPrefix(r.URL.Path, "/uploads/")
			})
			p.Fail = func(r *http.Request) publishtest.Fault {
				look()
				if !at(r) {
					return publishtest.None
				}
				cancel()
				return fault
			}
			_, err := p.repository(t).Publish(ctx, p.request(t))
			interrupted := ctx.Err() != nil
			cancel()
			if !interrupted {
				if err != nil {
					t.Error(err)
				}
				break
			}
			p.http.Close() // waits for what the run before left on its way
			p.serve()
			p.Fail = func(*http.Request) publishtest.Fault { look(); return publishtest.None }
			p.mustPublish(t)
		}
	}
}

func TestResumeSendsWhatIsMissing(t *testing.T) {
	p := newPlace(t)
	q := p.request(t)
	q.Draft = true
	if _, err := p.repository(t).Publish(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if err := p.Asset(tag, "extra.pdf", []byte("of an earlier run")); err != nil {
		t.Fatal(err)
	}
	if err := p.Asset(tag, "shop-1.0.0.tar.gz.sig", nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Asset(tag, "by-hand.txt", []byte("somebody's")); err != nil {
		t.Fatal(err)
	}
	var notes []string
	q = p.request(t)
	q.Note = func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	result, err := p.repository(t).Publish(t.Context(), q)
	if err != nil || result.Uploaded != 2 {
		t.Fatal(result, err)
	}
	if what := p.complete(t); what != "" {
		t.Error(what)
	}
	if p.Releases()[0].Assets["by-hand.txt"] == "" || len(notes) != 1 || !strings.Contains(notes[0], "by-hand.txt") {
		t.Errorf("somebody's file: %v", notes)
	}
}

// TestNotPublished: what GitHub has is not what was sent.
func TestNotPublished(t *testing.T) {
	for name, spoil := range map[string]func(*place, *Request){
		"bundle damaged":    func(p *place, _ *Request) { p.Corrupt = func(n string) bool { return n == "shop-1.0.0.tar.gz" } },
		"signature damaged": func(p *place, _ *Request) { p.Corrupt = func(n string) bool { return n == "shop-1.0.0.tar.gz.sig" } },
		"check refuses": func(_ *place, q *Request) {
			for i := range q.Files {
				if q.Files[i].Check != nil {
					q.Files[i].Check = func(context.Context, string) error { return errors.New("nobody trusts it") }
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			q := p.request(t)
			spoil(p, &q)
			if _, err := p.repository(t).Publish(t.Context(), q); err == nil {
				t.Error("it was published")
			}
			if r := p.Releases(); len(r) != 1 || !r[0].Draft {
				t.Errorf("want a draft, got %+v", r)
			}
			if left, _ := os.ReadDir(q.TempDir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestPublishedBefore(t *testing.T) {
	for name, test := range map[string]struct {
		immutable bool
		change    func(*testing.T, *place)
		want      string // part of the error, "" for none
		uploaded  int
	}{
		"other release":     {false, func(t *testing.T, p *place) { p.Asset(tag, "shop-1.0.0.tar.gz", []byte("something else")) }, "its shop-1.0.0.tar.gz is not this release: it is another release", 0},
		"other signature":   {false, func(t *testing.T, p *place) { p.write(t, "shop-1.0.0.tar.gz", "content, signed again") }, "", 0},
		"other extra file":  {false, func(t *testing.T, p *place) { p.write(t, "extra.pdf", "changed") }, "its extra.pdf has other bytes", 0},
		"missing":           {false, func(t *testing.T, p *place) { p.Asset(tag, "extra.pdf", nil) }, "", 1},
		"bundle missing":    {false, func(t *testing.T, p *place) { p.Asset(tag, "shop-1.0.0.tar.gz", nil) }, "", 1},
		"missing immutable": {true, func(t *testing.T, p *place) { p.Asset(tag, "extra.pdf", nil) }, "is published and immutable already", 0},
		"same immutable":    {true, func(*testing.T, *place) {}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.Immutable = test.immutable
			if r := p.mustPublish(t); r.Immutable != test.immutable {
				t.Errorf("immutable %v", r.Immutable)
			}
			test.change(t, p)
			was := p.Releases()[0].Assets
			result, err := p.publish(t)
			if test.want != "" {
				if e := new(PublishedError); !errors.As(err, &e) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			} else if err != nil || !result.Existed || result.Uploaded != test.uploaded {
				t.Errorf("got %+v, %v", result, err)
			}
			for name, digest := range was {
				if p.Releases()[0].Assets[name] != digest {
					t.Errorf("%s was replaced", name)
				}
			}
		})
	}
}

// TestOthersRelease: a release that another program made, with the tag, has our files
// beside its own, which stay as they are.
func TestOthersRelease(t *testing.T) {
	const list, renamed = "CHECKSUMS.txt", "shop-1.0.0.CHECKSUMS.txt"
	for name, test := range map[string]struct {
		title            string
		draft, immutable bool
		assets           map[string]string
		want             string // part of the error
		called           string // our list
	}{
		"release-please":               {"v1.0.0", false, false, nil, "", list},
		"release-please, immutable":    {"v1.0.0", false, true, nil, "published and immutable already", ""},
		"goreleaser":                   {"v1.0.0", false, false, map[string]string{list: "12ab  app_linux_amd64.tar.gz\n", "app_linux_amd64.tar.gz": "x"}, "", renamed},
		"goreleaser, signed, a draft":  {"v1.0.0", true, true, map[string]string{list: "12ab *app_linux_amd64.tar.gz\n", list + ".sigstore.json": "{}"}, "", renamed},
		"another app of ours":          {"api 1.0.0", false, false, map[string]string{list: "12ab  api-1.0.0.tar.gz\n", "api-1.0.0.tar.gz": "x"}, "", renamed},
		"by hand, our title":           {"shop 1.0.0", true, false, map[string]string{list: "12ab  notes.zip\n"}, "", renamed},
		"an earlier run of ours":       {"shop 1.0.0", true, false, map[string]string{list: "12ab  shop-1.0.0.tar.gz\n", list + ".sig": "MEQC", list + ".cert": "LS0t", list + ".sha256": "1f"}, "", list},
		"by hand, an extra file":       {"The first", true, false, map[string]string{"extra.pdf": "another"}, "was made by another program or a person and has another file called extra.pdf: nothing was changed", ""},
		"by hand, the same extra file": {"The first", false, false, map[string]string{"extra.pdf": "content of extra.pdf"}, "", list},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.write(t, list, "34cd  shop-1.0.0.tar.gz\n")
			for _, suffix := range []string{".sigstore.json", ".sig", ".cert", ".sha256"} {
				p.write(t, list+suffix, "ours"+suffix)
			}
			p.Immutable = test.immutable
			made := new(Release)
			body := map[string]any{"tag_name": tag, "name": test.title, "body": "their notes", "draft": test.draft}
			if err := p.repository(t).once(t.Context(), "make", http.MethodPost, "repos/acme/shop/releases", body, made); err != nil {
				t.Fatal(err)
			}
			for name, text := range test.assets {
				if err := p.Asset(tag, name, []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			was := p.Releases()[0].Assets
			for range 2 { // the second run finds what the first one did
				q := p.request(t)
				for i, f := range q.Files {
					if strings.HasPrefix(f.Name, list) {
						q.Files[i].Else = "shop-1.0.0." + f.Name
					}
				}
				result, err := p.repository(t).Publish(t.Context(), q)
				seen := p.Releases()[0]
				if test.want != "" {
					if err == nil || !strings.Contains(err.Error(), test.want) || len(seen.Assets) != len(was) {
						t.Errorf("got %v, %v, want %q", err, seen.Assets, test.want)
					}
					if e := new(PublishedError); errors.As(err, &e) && !e.Foreign {
						t.Error("it is not called another program's")
					}
				} else if err != nil || seen.Draft || !slices.Contains(result.Names, test.called) || seen.Assets[test.called] == "" || seen.Assets["shop-1.0.0.tar.gz"] == "" {
					t.Fatalf("got %+v, %v: %+v", result, err, seen)
				}
				for name, digest := range was {
					if now := seen.Assets[name]; now != digest && !(strings.HasPrefix(name, list) && test.called == list) {
						t.Errorf("%s was replaced", name)
					}
				}
			}
		})
	}
}

// TestTaken: goreleaser, or another run, publishes the release of the tag while this one
// fills its draft.
func TestTaken(t *testing.T) {
	for name, test := range map[string]struct {
		title  string
		assets map[string]string
		want   string // part of the error
		called string
	}{
		"goreleaser":           {"v1.0.0", map[string]string{"CHECKSUMS.txt": "12ab  app_linux_amd64.tar.gz\n"}, "", "shop-1.0.0.CHECKSUMS.txt"},
		"semantic-release":     {"v1.0.0", nil, "", "CHECKSUMS.txt"},
		"another run of ours":  {"shop 1.0.0", map[string]string{"shop-1.0.0.tar.gz": "content of shop-1.0.0.tar.gz"}, "", "CHECKSUMS.txt"},
		"another release":      {"shop 1.0.0", map[string]string{"shop-1.0.0.tar.gz": "other"}, "its shop-1.0.0.tar.gz is not this release", ""},
		"another of that name": {"v1.0.0", map[string]string{"extra.pdf": "theirs"}, "another file called extra.pdf", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.write(t, "CHECKSUMS.txt", "34cd  shop-1.0.0.tar.gz\n")
			made := false
			p.Fail = func(r *http.Request) publishtest.Fault {
				if r.Method != http.MethodPatch || made {
					return publishtest.None
				}
				made = true
				body := map[string]any{"tag_name": tag, "name": test.title, "body": "their notes", "draft": false}
				if err := p.repository(t).once(t.Context(), "make", http.MethodPost, "repos/acme/shop/releases", body, new(Release)); err != nil {
					t.Error(err)
				}
				for name, text := range test.assets { // the newest one of the tag
					if err := p.AssetOf(func(s publishtest.Seen) bool { return !s.Draft }, name, []byte(text)); err != nil {
						t.Error(err)
					}
				}
				return publishtest.None
			}
			q := p.request(t)
			for i, f := range q.Files {
				if f.Name == "CHECKSUMS.txt" {
					q.Files[i].Else = "shop-1.0.0.CHECKSUMS.txt"
				}
			}
			result, err := p.repository(t).Publish(t.Context(), q)
			all := p.Releases()
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || len(all) != 2 {
					t.Errorf("got %v, want %q: %+v", err, test.want, all)
				}
				return
			}
			if err != nil || len(all) != 1 || all[0].Draft || !slices.Contains(result.Names, test.called) || all[0].Assets[test.called] == "" || all[0].Assets["shop-1.0.0.tar.gz"] == "" {
				t.Errorf("got %+v, %v: %+v", result, err, all)
			}
			if all[0].Notes != "their notes" {
				t.Errorf("their notes became %q", all[0].Notes)
			}
		})
	}
}

func TestBurntTag(t *testing.T) {
	p := newPlace(t)
	p.Immutable = true
	p.mustPublish(t)
	p.Delete(tag)
	_, err := p.publish(t)
	if e := new(BurntError); !errors.As(err, &e) || e.Tag != tag {
		t.Errorf("got %v", err)
	}
}

func TestPermissions(t *testing.T) {
	for token, want := range map[string]string{
		publishtest.Read: "create release v1.0.0: the token may not do that (Resource not accessible by integration)",
		"":               "create release v1.0.0: GitHub wants a token for that (Requires authentication)",
		"expired":        "read tag v1.0.0: the token may not do that (Bad credentials)",
	} {
		p := newPlace(t)
		p.token = token
		_, err := p.publish(t)
		if e := new(PermissionError); !errors.As(err, &e) || err.Error() != want {
			t.Errorf("token %q: got %v", token, err)
		}
		if len(p.Releases()) > 0 {
			t.Errorf("token %q made something", token)
		}
	}
}

// TestSpent: a token without requests left is not tried again.
func TestSpent(t *testing.T) {
	p := newPlace(t)
	p.Fail = func(r *http.Request) publishtest.Fault {
		if r.Method == http.MethodPost {
			return publishtest.Spent
		}
		return publishtest.None
	}
	_, err := p.publish(t)
	if want := "create release v1.0.0: the token has no requests left until 2100-01-01T00:00:00Z"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if n := len(slices.DeleteFunc(p.Requests(), func(r string) bool { return !strings.HasPrefix(r, "POST ") })); n != 1 {
		t.Errorf("%d tries", n)
	}
}

// TestNoRepository: GitHub says of a private repository that there is none.
func TestNoRepository(t *testing.T) {
	p := newPlace(t)
	p.Repository = "acme/other"
	_, err := p.publish(t)
	if e := new(PermissionError); !errors.As(err, &e) || err.Error() != "list releases of acme/shop: the token may not do that (no such repository, or a private one)" {
		t.Errorf("got %v", err)
	}
}

func TestRefusedBeforeAnythingIsSent(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*testing.T, *place, *Request)
		want   string
	}{
		"2 GiB": {func(t *testing.T, p *place, q *Request) {
			if err := os.Truncate(q.Files[0].Path, MaxAsset); err != nil {
				t.Fatal(err)
			}
		}, "extra.pdf has 2147483648 bytes; GitHub takes files below 2147483648"},
		"empty":     {func(t *testing.T, p *place, q *Request) { p.write(t, "extra.pdf", "") }, "is not a file with content"},
		"directory": {func(t *testing.T, p *place, q *Request) { q.Files[0].Path = p.dir }, "is not a file with content"},
		"twice":     {func(t *testing.T, p *place, q *Request) { q.Files[0].Name = q.Files[1].Name }, "two files are called"},
		"name":      {func(t *testing.T, p *place, q *Request) { q.Files[0].Name = "a b" }, `file name "a b": GitHub would change it`},
		"tag":       {func(t *testing.T, p *place, q *Request) { q.Commit = strings.Repeat("f", 40) }, "tag v1.0.0 is commit 0123456789ab, but the bundle was built from ffffffffffff"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			q := p.request(t)
			test.change(t, p, &q)
			_, err := p.repository(t).Publish(t.Context(), q)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if slices.ContainsFunc(p.Requests(), func(r string) bool { return !strings.HasPrefix(r, "GET ") }) {
				t.Errorf("it wrote: %v", p.Requests())
			}
		})
	}
}

// TestEnterpriseServer: another base URL, and no digests.
func TestEnterpriseServer(t *testing.T) {
	p := newPlace(t)
	p.NoDigest = true
	p.url += "/api/v3"
	q := p.request(t)
	q.Draft = true
	if _, err := p.repository(t).Publish(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	p.mustPublish(t)
	p.mustPublish(t)
	p.Asset(tag, "shop-1.0.0.tar.gz", []byte("another release"))
	if _, err := p.publish(t); !errors.As(err, new(*PublishedError)) {
		t.Errorf("got %v", err)
	}
}

// TestManyReleases: the draft to go on with is not on the first page.
func TestManyReleases(t *testing.T) {
	p := newPlace(t)
	q := p.request(t)
	q.Draft = true
	r := p.repository(t)
	if _, err := r.Publish(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	for n := range 120 {
		if err := r.once(t.Context(), "make", http.MethodPost, r.path+"/releases", map[string]any{"tag_name": fmt.Sprintf("v0.%d.0", n), "draft": true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	q.Draft = false
	result, err := r.Publish(t.Context(), q)
	if err != nil || result.Uploaded != 0 || len(p.Releases()) != 121 {
		t.Errorf("got %+v, %v, %d releases", result, err, len(p.Releases()))
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, o := range []Options{
		{API: "https://api.github.com", Repository: "shop"},
		{API: "https://api.github.com", Repository: "acme/../x"},
		{API: "https://api.github.com", Repository: "acme/.."},
		{API: "https://api.github.com", Repository: "acme/shop?x"},
		{API: "file:///etc", Repository: "acme/shop"},
	} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
