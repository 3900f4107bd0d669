// Package publish puts a release on GitHub as a whole: half of it is never visible.
//
// Everything is uploaded to a draft, which only people who may write can see.
// When GitHub has every file, the files are downloaded again and checked, the
// bundles with package verify, as a device will do it. Then the draft is
// published, in one request. Whatever stops that leaves a draft, and the next
// run goes on with it: a file is known by name and digest, and what an
// interrupted upload left behind is removed.
//
// What is published is never changed. GitHub can be told to guarantee that
// ("immutable releases"), and a tag that such a release had is used up for ever,
// even when the release is deleted; that is why checking comes first.
package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/cenkalti/backoff/v5"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// parallel is how many files are sent at once. More of them makes GitHub's
// secondary rate limit likely and nothing faster.
const parallel = 3

// File is something to attach to a release.
type File struct {
	Name string // as people see it
	Path string // here
	// Else is its name where another program's file has Name; empty: then nothing is
	// published. Files with one are renamed together.
	Else string
	// Check is given the file as GitHub has it, under another name, and says
	// whether it is the release that it should be. It may take the file away. Nil for files that prove
	// nothing by themselves: those must have the bytes of Path.
	Check func(ctx context.Context, downloaded string) error
}

// Request is a release to publish.
type Request struct {
	Tag        string
	Commit     string // that Tag must be, or will be; empty when it is not known
	Title      string
	Notes      string // Markdown; of a release that has some already they stay
	Prerelease bool
	Draft      bool // stop before publishing
	Files      []File
	// Beside is asked about each file that the release has already and that is none of
	// Files; its error ends the run before anything is changed. May be nil.
	Beside  func(name string) error
	TempDir string // where copies to check are kept for a moment; empty means the system's
	// Progress, which may be nil, shows work counted in bytes.
	Progress func(label string) (update func(done, total int64), finish func(error))
	// Note is told what people should know and what changes no result.
	Note func(format string, args ...any)
}

// Result is what became of a Request.
type Result struct {
	URL       string `json:"url"`
	Tag       string `json:"tag"`
	Draft     bool   `json:"draft"`
	Immutable bool   `json:"immutable"`
	Existed   bool   `json:"existed"`  // it was published before this run
	Uploaded  int    `json:"uploaded"` // files sent by this run

	Names []string `json:"-"` // of the files of this run, in their order
}

// ConflictError means that a release which another program or a person made has another
// file of the same name. Nothing was changed.
type ConflictError struct{ Tag, URL, Name string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("release %s (%s) was made by another program or a person and has another file called %s: nothing was changed", e.Tag, e.URL, e.Name)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *ConflictError) Kind() string { return "published" }

// SizeError means that a file is larger than GitHub takes.
type SizeError struct {
	Name string
	Size int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s has %d bytes; GitHub takes files below %d", e.Name, e.Size, MaxAsset)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *SizeError) Kind() string { return "too-large" }

// PublishedError means that a release with the tag is public and is not this one.
type PublishedError struct {
	Tag, URL  string
	Immutable bool
	Foreign   bool // it has no file of this release: another program or a person made it
	Reason    string
}

func (e *PublishedError) Error() string {
	kind := "published"
	if e.Immutable {
		kind = "published and immutable"
	}
	return fmt.Sprintf("release %s is %s already (%s): %s", e.Tag, kind, e.URL, e.Reason)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *PublishedError) Kind() string { return "published" }

// BurntError means that a tag belonged to an immutable release that was deleted.
type BurntError struct{ Tag string }

func (e *BurntError) Error() string {
	return fmt.Sprintf("tag %s belonged to an immutable release, and GitHub never lets such a tag be used again, even though that release is deleted", e.Tag)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *BurntError) Kind() string { return "published" }

// assetName has the characters that GitHub keeps as they are.
var assetName = lazyregexp.New(`^[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]*$`)

// local is a File whose bytes are known.
type local struct {
	File
	size   int64
	digest string // sha256:…
}

// Publish makes the release that q describes, or finds that it is there.
func (r *Repository) Publish(ctx context.Context, q Request) (*Result, error) {
	if q.Progress == nil {
		q.Progress = func(string) (func(int64, int64), func(error)) { return func(int64, int64) {}, func(error) {} }
	}
	if q.Note == nil {
		q.Note = func(string, ...any) {}
	}
	files, err := prepare(q.Files)
	if err != nil {
		return nil, err
	}
	if err := r.checkTag(ctx, q); err != nil {
		return nil, err
	}
	rel, err := r.find(ctx, q.Tag)
	if err != nil {
		return nil, err
	}
	j := &job{Repository: r, Request: q, files: files}
	if rel != nil {
		if err := j.besideOthers(ctx, rel); err != nil {
			return nil, err
		}
	}
	result, err := j.publish(ctx, rel)
	if isTaken(err) {
		result, err = j.joinOther(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		result.Names = append(result.Names, f.Name)
	}
	return result, nil
}

// publish makes a release, or goes on with rel, which may be nil.
func (j *job) publish(ctx context.Context, rel *Release) (*Result, error) {
	r, q, files := j.Repository, j.Request, j.files
	if rel != nil && !rel.Draft {
		return j.complete(ctx, rel)
	}
	var err error
	if rel == nil {
		if rel, err = r.create(ctx, q); err != nil {
			return nil, err
		}
	}
	n, err := j.fill(ctx, rel, files)
	if err != nil {
		return nil, err
	}
	if err := j.checkAll(ctx, rel, files); err != nil {
		return nil, err
	}
	change := map[string]any{"prerelease": q.Prerelease}
	if rel.Notes == "" {
		change["body"] = q.Notes
	}
	if q.Commit != "" {
		change["target_commitish"] = q.Commit
	}
	if !q.Draft {
		change["draft"] = false
		change["make_latest"] = "legacy" // the highest version; a pre-release never is
		if q.Prerelease {
			change["make_latest"] = "false"
		}
	}
	done := new(Release)
	j.draft = rel.ID
	if err := r.do(ctx, "publish release "+q.Tag, http.MethodPatch, fmt.Sprintf("%s/releases/%d", r.path, rel.ID), change, done); err != nil {
		return nil, burnt(err, q.Tag)
	}
	if done.Draft != q.Draft || done.Tag != q.Tag {
		return nil, fmt.Errorf("publish release %s: GitHub answers with release %s, draft %v", q.Tag, done.Tag, done.Draft)
	}
	return &Result{URL: done.URL, Tag: done.Tag, Draft: done.Draft, Immutable: done.Immutable, Uploaded: n}, nil
}

// job is one run of Publish.
type job struct {
	*Repository
	Request
	files []local
	draft int64 // of the draft that this run completed
}

// isTaken recognises that another release has the tag since this run began.
func isTaken(err error) bool {
	no := new(refusal)
	return errors.As(err, &no) && strings.Contains(no.text, "tag_name already_exists")
}

// joinOther adds the files to the release that another run or program published while
// this one filled a draft, and removes the draft.
func (j *job) joinOther(ctx context.Context, taken error) (*Result, error) {
	rel, err := j.find(ctx, j.Tag)
	if err != nil || rel == nil || rel.Draft {
		return nil, errors.Join(taken, err)
	}
	j.Note("release %s was published by another run or program meanwhile (%s): the files are added to it", rel.Tag, rel.URL)
	if err := j.besideOthers(ctx, rel); err != nil {
		return nil, err
	}
	result, err := j.complete(ctx, rel)
	if err != nil {
		return nil, err
	}
	if err := j.do(ctx, "delete the draft of this run", http.MethodDelete, fmt.Sprintf("%s/releases/%d", j.path, j.draft), nil, nil); err != nil && !errors.Is(err, errNotFound) {
		j.Note("a draft of release %s is left, delete it: %v", rel.Tag, err)
	}
	return result, nil
}

// maxList is how many bytes of a list of checksums are looked through for our names.
const maxList = 1 << 20

// besideOthers finds names for our files in a release that may be another program's,
// such as one that made it together with the tag. No file of others is replaced.
func (j *job) besideOthers(ctx context.Context, rel *Release) error {
	assets, err := j.Assets(ctx, rel.ID)
	if err != nil {
		return err
	}
	for _, a := range assets {
		if j.Beside == nil || slices.ContainsFunc(j.files, func(f local) bool { return f.Name == a.Name }) {
			continue
		}
		if err := j.Beside(a.Name); err != nil {
			return err
		}
	}
	has := func(name string) int {
		return slices.IndexFunc(assets, func(a Asset) bool { return a.Name == name })
	}
	ours := rel.Title == j.Title || slices.ContainsFunc(j.files, func(f local) bool { return f.Check != nil && has(f.Name) >= 0 })
	rename := false
	for _, f := range j.files {
		i := has(f.Name)
		if i < 0 || f.Check != nil || assets[i].State != stateUploaded || f.is(assets[i]) {
			continue
		}
		theirs := !ours
		if f.Else != "" {
			if theirs, err = j.listsOthers(ctx, assets[i]); err != nil {
				return err
			}
		}
		switch {
		case theirs && f.Else == "":
			return &ConflictError{rel.Tag, rel.URL, f.Name}
		case theirs && !rename:
			j.Note("release %s has a %s of another program: ours is called %s", rel.Tag, f.Name, f.Else)
			rename = true
		}
	}
	for i := range j.files {
		if f := &j.files[i]; rename && f.Else != "" {
			f.Name = f.Else
		}
	}
	return nil
}

// listsOthers reports whether a list of checksums is about other files than our
// bundles. What signs it, and names no file, is as the list.
func (j *job) listsOthers(ctx context.Context, a Asset) (bool, error) {
	if !strings.HasSuffix(a.Name, ".txt") {
		return false, nil
	}
	if a.Size > maxList {
		return true, nil
	}
	path, _, err := j.fetch(ctx, a)
	if err != nil {
		return false, err
	}
	defer os.Remove(path)
	text, err := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if slices.ContainsFunc(j.files, func(f local) bool {
			return f.Check != nil && (strings.HasSuffix(line, " "+f.Name) || strings.HasSuffix(line, "*"+f.Name))
		}) {
			return false, err
		}
	}
	return true, err
}

// prepare reads what is to be attached.
func prepare(files []File) ([]local, error) {
	var all []local
	seen := map[string]bool{}
	for _, f := range files {
		if !assetName.MatchString(f.Name) {
			return nil, fmt.Errorf("file name %q: GitHub would change it; use letters, digits and . _ - + @", f.Name)
		}
		if seen[f.Name] {
			return nil, fmt.Errorf("two files are called %s", f.Name)
		}
		seen[f.Name] = true
		l := local{File: f}
		info, err := os.Stat(f.Path)
		if err != nil {
			return nil, err
		}
		if l.size = info.Size(); l.size >= MaxAsset {
			return nil, &SizeError{f.Name, l.size}
		}
		if !info.Mode().IsRegular() || l.size == 0 {
			return nil, fmt.Errorf("%s is not a file with content", f.Path)
		}
		if l.digest, err = digestOf(f.Path); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// checkTag refuses to put a release of one commit on the tag of another.
func (r *Repository) checkTag(ctx context.Context, q Request) error {
	if q.Commit == "" {
		return nil
	}
	commit, err := r.Commit(ctx, q.Tag)
	if err != nil {
		return err
	}
	if commit != "" && commit != q.Commit {
		return fmt.Errorf("tag %s is commit %.12s, but the bundle was built from %.12s", q.Tag, commit, q.Commit)
	}
	return nil
}

// find returns the release of a tag, nil when there is none. Drafts are only in
// the list.
func (r *Repository) find(ctx context.Context, tag string) (*Release, error) {
	rel := new(Release)
	err := r.do(ctx, "look for release "+tag, http.MethodGet, r.path+"/releases/tags/"+url.PathEscape(tag), nil, rel)
	if err == nil || !errors.Is(err, errNotFound) {
		return rel, err
	}
	all, err := r.Releases(ctx)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, func(rel Release) bool { return rel.Tag == tag }); i >= 0 {
		return &all[i], nil
	}
	return nil, nil
}

// create makes a draft. A try that seemed to fail may have worked, so every try
// begins by looking.
func (r *Repository) create(ctx context.Context, q Request) (rel *Release, err error) {
	action := "create release " + q.Tag
	body := map[string]any{"tag_name": q.Tag, "name": q.Title, "body": q.Notes, "draft": true, "prerelease": q.Prerelease}
	if q.Commit != "" {
		body["target_commitish"] = q.Commit
	}
	first := true
	err = r.again(ctx, func() error {
		if !first {
			if rel, err = r.find(ctx, q.Tag); err != nil || rel != nil {
				return err
			}
		}
		first = false
		rel = new(Release)
		return r.once(ctx, action, http.MethodPost, r.path+"/releases", body, rel)
	})
	if errors.Is(err, errNotFound) { // what GitHub says of writing to what one may only read
		err = &PermissionError{Action: action, Token: r.token, Message: "Not Found"}
	}
	if err == nil && !rel.Draft {
		err = fmt.Errorf("%s: another run published it meanwhile", action)
	}
	return rel, burnt(err, q.Tag)
}

// burnt recognises the tag of a deleted immutable release.
func burnt(err error, tag string) error {
	if no := new(refusal); errors.As(err, &no) && strings.Contains(no.text, "immutable release") {
		return &BurntError{tag}
	}
	return err
}

// checkAll downloads what was uploaded and compares it with what it should be.
func (j *job) checkAll(ctx context.Context, rel *Release, files []local) error {
	assets, err := j.Assets(ctx, rel.ID)
	if err != nil {
		return err
	}
	for _, f := range files {
		i := slices.IndexFunc(assets, func(a Asset) bool { return a.Name == f.Name })
		if i < 0 || !f.is(assets[i]) {
			return fmt.Errorf("check release %s: GitHub lost %s; run this again", rel.Tag, f.Name)
		}
		if err := j.check(ctx, f, assets[i]); err != nil {
			return fmt.Errorf("check release %s: %w", rel.Tag, err)
		}
	}
	return nil
}

// check downloads an asset and wants it to have f's bytes and pass its check.
func (j *job) check(ctx context.Context, f local, a Asset) error {
	path, digest, err := j.fetch(ctx, a)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	if digest != f.digest {
		return fmt.Errorf("%s was downloaded as %s, and uploaded as %s", f.Name, digest, f.digest)
	}
	if f.Check != nil {
		return f.Check(ctx, path)
	}
	return nil
}

// fetch downloads an asset into a file that the caller removes.
func (j *job) fetch(ctx context.Context, a Asset) (path, digest string, err error) {
	err = j.again(ctx, func() error {
		f, err := os.CreateTemp(j.TempDir, "*.unverified")
		if err != nil {
			return backoff.Permanent(err)
		}
		update, finish := j.Progress("download again " + a.Name)
		sum := sha256.New()
		err = j.Download(ctx, a, io.MultiWriter(f, sum, (&counter{total: a.Size, update: update}).part()))
		finish(err)
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
			return err
		}
		path, digest = f.Name(), "sha256:"+hex.EncodeToString(sum.Sum(nil))
		return nil
	})
	return path, digest, err
}

// complete handles a release that is public. It is this one when the bundles are
// the same bytes, or pass their check: another run of the same job makes other
// signatures. What is there is never replaced, and what is missing is added to
// the very same bundles only, bundles last.
func (j *job) complete(ctx context.Context, rel *Release) (*Result, error) {
	assets, err := j.Assets(ctx, rel.ID)
	if err != nil {
		return nil, err
	}
	foreign := !slices.ContainsFunc(j.files, func(f local) bool {
		return slices.ContainsFunc(assets, func(a Asset) bool { return a.Name == f.Name })
	})
	refuse := func(format string, args ...any) error {
		return &PublishedError{rel.Tag, rel.URL, rel.Immutable, foreign, fmt.Sprintf(format, args...)}
	}
	result := &Result{URL: rel.URL, Tag: rel.Tag, Immutable: rel.Immutable, Existed: true}
	var missing []local
	resigned := false
	for _, f := range j.files {
		i := slices.IndexFunc(assets, func(a Asset) bool { return a.Name == f.Name && a.State == stateUploaded })
		switch {
		case i < 0:
			missing = append(missing, f)
		case f.is(assets[i]) && assets[i].Digest != "":
			if f.Check == nil {
				continue
			}
			if err := j.check(ctx, f, assets[i]); err != nil {
				return nil, refuse("%v", err)
			}
		case f.Check != nil:
			path, _, err := j.fetch(ctx, assets[i])
			if err != nil {
				return nil, err
			}
			err = f.Check(ctx, path)
			os.Remove(path)
			if err != nil {
				return nil, refuse("its %s is not this release: %v", f.Name, err)
			}
			resigned = true
		}
	}
	if resigned {
		if i := slices.IndexFunc(missing, func(f local) bool { return f.Check != nil }); i >= 0 {
			return nil, refuse("it has no %s, and its other files have signatures of an earlier run", missing[i].Name)
		}
		j.Note("release %s is published, with signatures of an earlier run, which stay", rel.Tag)
		return result, nil
	}
	for _, f := range j.files {
		i := slices.IndexFunc(assets, func(a Asset) bool { return a.Name == f.Name && a.State == stateUploaded })
		if i >= 0 && !f.is(assets[i]) {
			return nil, refuse("its %s has other bytes", f.Name)
		}
	}
	if len(missing) == 0 {
		return result, nil
	}
	if rel.Immutable {
		return nil, refuse("it has no %s, and nothing can be added", missing[0].Name)
	}
	for _, checked := range []bool{false, true} {
		some := slices.DeleteFunc(slices.Clone(missing), func(f local) bool { return (f.Check != nil) != checked })
		n, err := j.fill(ctx, rel, some)
		result.Uploaded += n
		if err == nil {
			err = j.checkAll(ctx, rel, some)
		}
		if err != nil {
			return nil, err
		}
	}
	return result, nil
}
