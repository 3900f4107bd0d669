package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Limits of what a registry answers.
const (
	maxImageManifest = 4 << 20 // bytes of an index or a manifest, as registries have it
	maxTagPages      = 100     // of the list of tags
	maxImages        = 32      // with newer versions than the newest release
)

// Media types of what a registry is asked for.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
)

// registry is a repository of a registry, and those with the same content. A tag is a
// release: an index of a manifest whose layers are the manifest of the release, its
// signature, its files, and the manifests of its images; and of the images. Content
// comes from whoever has the right bytes, so mirrors are asked first for that; which
// release a tag means is the word of the repository itself, unless it cannot be reached.
// A client library for all that registries can do has 0.5 MB.
type registry struct {
	app     string
	main    *repository
	mirrors []*repository
}

// repository is one place.
type repository struct {
	base     *url.URL // ends in /
	client   *client
	attempts int // to get a list or manifest
}

var validRepository = lazyregexp.New(`^[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*)*$`)

// repositoryURL reads HOST/REPOSITORY, or http://HOST/REPOSITORY, and returns where its
// API is.
func repositoryURL(s string) (*url.URL, error) {
	scheme, rest := "https", s
	for _, prefix := range []string{"https", "http"} {
		if r, ok := strings.CutPrefix(s, prefix+"://"); ok {
			scheme, rest = prefix, r
		}
	}
	host, repository, _ := strings.Cut(rest, "/")
	u, err := url.Parse(scheme + "://" + host)
	switch {
	case err != nil, u.Host != host, host == "", repository == "", !strings.ContainsAny(host, ".:") && host != "localhost":
		return nil, fmt.Errorf("source: oci is %q, want HOST/REPOSITORY, such as ghcr.io/acme/shop", s)
	case !validRepository.MatchString(repository) || len(repository) > 255:
		return nil, fmt.Errorf("source: oci is %q: want a repository in lower case without a tag; tags are versions", s)
	}
	if host == "docker.io" {
		u.Host = "registry-1.docker.io"
		if !strings.Contains(repository, "/") {
			repository = "library/" + repository
		}
	}
	u.Path = "/v2/" + repository + "/"
	return u, nil
}

func repositoryOf(base *url.URL) string {
	return strings.TrimSuffix(strings.TrimPrefix(base.Path, "/v2/"), "/")
}

func newRegistry(app string, c Config, secret string, plainClient *client) (*registry, error) {
	r := &registry{app: app}
	logins, err := readLogins(secret)
	if err != nil {
		return nil, err
	}
	for i, s := range append([]string{c.OCI}, c.Mirrors...) {
		base, err := repositoryURL(s)
		if err != nil {
			return nil, err
		}
		at := &repository{base, plainClient.withLogin(base, logins.of(base.Host, i == 0)), mirrorAttempts}
		if len(c.Mirrors) > 0 { // whoever waits for a dead one does not get to the others
			at.attempts = 1
		}
		if base.Scheme == "http" && i == 0 && secret != "" {
			return nil, fmt.Errorf("source: a token would go to %s unencrypted: use https, or ask without a token", base.Host)
		}
		if i == 0 {
			at.client.over, r.main = nil, at
		} else {
			at.client.attempts = mirrorAttempts
			r.mirrors = append(r.mirrors, at)
		}
	}
	return r, nil
}

// mirrorAttempts is how often a mirror is asked in vain for a blob before the next place
// is, and how often lists and manifests are asked for where there is none.
const mirrorAttempts = 2

// get reads a small answer, again where it is cut off.
func (at *repository) get(ctx context.Context, path, accept string, limit int64) (b []byte, header http.Header, err error) {
	return part{client: at.client, accept: accept, url: at.base.String() + path}.read(ctx, at.attempts, limit)
}

// failed remembers that a registry failed, and tells of a mirror.
func (c *client) failed(err error) {
	if s := new(StatusError); errors.As(err, &s) && s.Code == http.StatusNotFound {
		return // it may have others
	}
	if !c.bad.Swap(true) && c.over != nil {
		c.over(err)
	}
}

// first calls do for one place after the other until one has what is wanted. Those that
// failed come last: to wait for each again would take long.
func first(ctx context.Context, places []*repository, do func(*repository) error) error {
	var errs []error
	bad := func(at *repository) bool { return at.client.bad.Load() }
	places = slices.Concat(slices.DeleteFunc(slices.Clone(places), bad), slices.DeleteFunc(slices.Clone(places), func(at *repository) bool { return !bad(at) }))
	for _, at := range places {
		err := do(at)
		if err == nil || ctx.Err() != nil {
			return err
		}
		at.client.failed(err)
		if !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			errs = append(errs, err)
		}
	}
	return oneLine(errs)
}

// oneLine is errors.Join on one line.
func oneLine(errs []error) error {
	if len(errs) == 0 {
		return errors.New("no place is left to ask")
	}
	err := errs[0]
	for _, next := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, next)
	}
	return err
}

// byWord are the places for what is a repository's word, byDigest those for content.
func (r *registry) byWord() []*repository   { return append([]*repository{r.main}, r.mirrors...) }
func (r *registry) byDigest() []*repository { return append(slices.Clone(r.mirrors), r.main) }

var nextPage = lazyregexp.New(`<[^>?]*\?([^>]*)>\s*;\s*rel="?next`)

// tags lists them. What a link leads to is another part of the same list, whatever
// host it names: a registry behind a proxy does not know its own.
func (at *repository) tags(ctx context.Context) (all []string, err error) {
	query, left := "n=1000", int64(maxListing)
	for range maxTagPages {
		b, header, err := at.get(ctx, "tags/list?"+query, "application/json", left)
		if err != nil {
			return nil, err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			return nil, fmt.Errorf("%s answers with something else than a list of tags", at.base.Host)
		}
		all, left = append(all, page.Tags...), left-int64(len(b))
		next := nextPage.FindStringSubmatch(strings.Join(header.Values("Link"), ","))
		if next == nil {
			return all, nil
		}
		query = next[1]
	}
	return nil, fmt.Errorf("the list of tags of %s has more than %d pages", at.base.Host, maxTagPages)
}

func (r *registry) list(ctx context.Context) (*listing, error) {
	var tags []string
	err := first(ctx, r.byWord(), func(at *repository) (err error) {
		tags, err = at.tags(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	var files []found
	for _, t := range tags {
		// A tag is VERSION[-PLATFORM]; it cannot have the + of a version.
		if n, ok := strings.CutPrefix(t, rolloutTag); ok {
			file := r.app + "-" + rolloutTag + n + ".json"
			files = append(files, found{file, -1, part{tag: &tag{r, t}}})
			continue
		}
		file := r.app + "-" + strings.ReplaceAll(t, "_", "+") + bundle.None.Suffix()
		if n, _, ok := parseName(r.app, file); ok && n.From == "" {
			files = append(files, found{file, -1, part{url: r.main.base.String(), tag: &tag{r, t}}})
		}
	}
	all := newListing(r.app, files)
	for _, rel := range all.releases {
		for i := range rel.Bundles {
			b := &rel.Bundles[i]
			b.Name = r.main.base.Host + "/" + repositoryOf(r.main.base) + ":" + b.parts[0].tag.name
		}
	}
	return all, nil
}

// tag is a release in a registry.
type tag struct {
	in   *registry
	name string
}

// descriptor is OCI's.
type descriptor struct {
	MediaType    string        `json:"mediaType"`
	ArtifactType string        `json:"artifactType"`
	Digest       bundle.Digest `json:"digest"`
	Size         int64         `json:"size"`
}

// blob is content of a bundle in a registry.
type blob struct {
	digest bundle.Digest
	main   *remote
	hosts  []*remote // mirrors first

	lock     chan struct{} // of what follows
	held     *os.File      // all of it, compared with its digest
	served   int64         // bytes of held that were used
	streamed bool          // it is not held
	whole    bool          // the registry gives no parts of it
}

// remote is a blob of a repository.
func (at *repository) remote(d bundle.Digest, size int64, whole bool) *remote {
	p := part{url: at.base.String() + "blobs/" + string(d), size: size, client: at.client}
	return &remote{part: p, location: p.url, whole: whole}
}

func (r *registry) blob(d bundle.Digest, size int64) *remote {
	b := &blob{digest: d, main: r.main.remote(d, size, false), lock: make(chan struct{}, 1)}
	for _, at := range r.byDigest() {
		b.hosts = append(b.hosts, at.remote(d, size, true))
	}
	one := *b.main
	one.blob = b
	return &one
}

// read returns the index or manifest that a digest names.
func (r *registry) read(ctx context.Context, d descriptor) (b []byte, err error) {
	if !d.Digest.Valid() || d.Size > maxImageManifest {
		return nil, fmt.Errorf("a manifest of %d bytes with digest %.80q, limit %d", d.Size, d.Digest, maxImageManifest)
	}
	err = first(ctx, r.byDigest(), func(at *repository) (err error) {
		b, _, err = at.get(ctx, "manifests/"+string(d.Digest), typeManifest, maxImageManifest)
		if err == nil {
			err = rightBytes(at.base.Host, bundle.DigestOf(b), d.Digest)
		}
		return err
	})
	return b, err
}

func rightBytes(host string, got, want bundle.Digest) error {
	if got != want {
		return fmt.Errorf("%s sends other bytes than those of %s: their digest is %s", host, want, got)
	}
	return nil
}

// errNoRelease means that a tag is not what valise push makes.
var errNoRelease = &bundle.FormatError{Rule: "not-a-bundle", Detail: "the tag names something else than a release; valise push makes those"}

// skipImages leaves out releases, the newest first, that are none: images of an app may
// have its versions as tags. Those behind the newest release are told when they are read.
func (r *registry) skipImages(ctx context.Context, all []Release) ([]Release, error) {
	isImage := func(b Bundle) bool {
		_, err := b.parts[0].tag.release(ctx)
		return errors.Is(err, errNoRelease)
	}
	for range maxImages {
		if len(all) == 0 || slices.ContainsFunc(all[0].Bundles, func(b Bundle) bool { return !isImage(b) }) {
			return all, nil
		}
		all = all[1:]
	}
	return nil, fmt.Errorf("the newest %d versions in %s are images; releases need a repository of their own", maxImages, r.main.base.Host)
}

// release is the manifest that a tag names as that of a release.
func (t *tag) release(ctx context.Context) (d descriptor, err error) {
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	err = first(ctx, t.in.byWord(), func(at *repository) error {
		b, _, err := at.get(ctx, "manifests/"+t.name, typeIndex+", "+typeManifest+";q=0.5", maxImageManifest)
		if err == nil {
			err = json.Unmarshal(b, &index)
		}
		return err
	})
	if err != nil {
		return d, err
	}
	i := slices.IndexFunc(index.Manifests, func(d descriptor) bool { return d.ArtifactType == bundle.MediaType })
	if i < 0 {
		return d, errNoRelease
	}
	return index.Manifests[i], nil
}

// open reads what a tag names into f, which fetches the rest.
func (t *tag) open(ctx context.Context, f *File) error {
	d, err := t.release(ctx)
	if err != nil {
		return err
	}
	b, err := t.in.read(ctx, d)
	if err != nil {
		return err
	}
	var artifact struct {
		Layers []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(b, &artifact); err != nil || len(artifact.Layers) < 2 {
		return errors.New("its manifest lists no release and signature")
	}
	var head [2][]byte
	for i, limit := range []int64{bundle.MaxManifestSize, bundle.MaxSignatureSize} {
		d := artifact.Layers[i]
		if !d.Digest.Valid() || d.Size < 1 || d.Size > limit {
			return fmt.Errorf("%d bytes with digest %.80q in place of a release or signature, limit %d", d.Size, d.Digest, limit)
		}
		if head[i], err = f.small(ctx, t.in.blob(d.Digest, d.Size)); err != nil {
			return err
		}
	}
	_, segments, err := bundle.Layout(head[0], head[1])
	if err != nil {
		return err
	}
	for _, s := range segments {
		r := &remote{part: part{size: s.Size}, data: s.Data}
		if s.Data == nil {
			r = t.in.blob(s.Digest, s.Size)
		}
		f.parts = append(f.parts, r)
		f.size += s.Size
		f.ends = append(f.ends, f.size)
	}
	return nil
}
