// Package push copies a release into a registry, from where devices fetch what they lack
// and anything else that knows registries can pull its images.
//
// A tag is a version, and names an image index. Its first entry is a manifest whose layers
// are the manifest of the release, its signature, its files, and the manifests of its
// images; the others are the images, as they are. So all of it is reachable from the tag,
// which is what registries keep, and nothing needs more than the OCI specifications say.
// The tag comes last: half a release is never visible.
package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/valise-ota/valise/bundle"
)

// Media types of what a release has.
const (
	typeManifest  = "application/vnd.valise.manifest.v1+json"
	typeSignature = "application/vnd.dev.sigstore.bundle.v0.3+json"
	typeFile      = "application/octet-stream"
	typeEmpty     = "application/vnd.oci.empty.v1+json"
)

// maxManifest is how many bytes registries take for a manifest.
const maxManifest = 4 << 20

// parallel is how many blobs are sent at once.
const parallel = 4

// Bundle is a bundle that was checked.
type Bundle interface {
	Manifest() *bundle.Manifest
	ManifestBytes() []byte
	Signature() []byte
	OpenFile(path string) (io.ReadCloser, error)
	OpenBlob(d bundle.Digest) (io.ReadCloser, error)
	HasFile(path string) bool
	HasBlob(d bundle.Digest) bool
}

// Request says what to push where.
type Request struct {
	Bundle     Bundle
	Repository name.Repository
	Platform   bundle.Platform // of a bundle beside others of its version; empty otherwise
	Options    []remote.Option
	Progress   func(done, total int64) // may be nil
}

// Result says what there is now.
type Result struct {
	Reference string        `json:"reference"` // HOST/REPOSITORY:TAG
	Digest    bundle.Digest `json:"digest"`    // of what the tag names
	Existed   bool          `json:"existed"`
	Sent      int64         `json:"sent"` // bytes of content
	Images    []Image       `json:"images"`
}

// Image is one of the release, by what docker pull takes.
type Image struct {
	Name      string          `json:"name"`
	Platform  bundle.Platform `json:"platform"`
	Reference string          `json:"reference"`
}

// TakenError means that the tag names something else.
type TakenError struct {
	Reference string
	Image     bool // and that no release
}

func (e *TakenError) Error() string {
	if e.Image {
		return e.Reference + " is an image or something else that valise did not push, and is left as it is"
	}
	return e.Reference + " is another release already, and what is published never changes"
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *TakenError) Kind() string { return "published" }

// LackingError means that a thin bundle leaves out what the registry does not have.
type LackingError struct {
	Digest     bundle.Digest
	Repository string
}

func (e *LackingError) Error() string {
	return fmt.Sprintf("the bundle is thin, and %s does not have the %s that it leaves out", e.Repository, e.Digest)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *LackingError) Kind() string { return "thin" }

// Tag is the tag of a version; a + cannot be in one.
func Tag(version string, p bundle.Platform) string {
	tag := strings.ReplaceAll(version, "+", "_")
	if p != "" {
		tag += "-" + p.Dashed()
	}
	return tag
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       bundle.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	Platform     *v1.Platform      `json:"platform,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// blob is content on its way. It is a v1.Layer.
type blob struct {
	descriptor
	open func() (io.ReadCloser, error) // nil: the bundle does not have it
	sent func(n int64)
}

func (b *blob) Digest() (v1.Hash, error) { return v1.NewHash(string(b.descriptor.Digest)) }
func (b *blob) DiffID() (v1.Hash, error) { return b.Digest() }
func (b *blob) Size() (int64, error)     { return b.descriptor.Size, nil }
func (b *blob) MediaType() (types.MediaType, error) {
	return types.MediaType(b.descriptor.MediaType), nil
}
func (b *blob) Uncompressed() (io.ReadCloser, error) { return b.Compressed() }

func (b *blob) Compressed() (io.ReadCloser, error) {
	rc, err := b.open()
	if err != nil {
		return nil, err
	}
	return &counted{rc, b.sent}, nil
}

type counted struct {
	io.ReadCloser
	sent func(n int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.sent(int64(n))
	return n, err
}

// document is an image manifest or index on its way. It is a remote.Taggable.
type document struct {
	descriptor
	raw []byte
}

func (d *document) RawManifest() ([]byte, error) { return d.raw, nil }
func (d *document) MediaType() (types.MediaType, error) {
	return types.MediaType(d.descriptor.MediaType), nil
}

func inMemory(mediaType string, b []byte) (descriptor, func() (io.ReadCloser, error)) {
	return descriptor{MediaType: mediaType, Digest: bundle.DigestOf(b), Size: int64(len(b))}, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// release is what a bundle becomes.
type release struct {
	blobs     []*blob
	documents []*document // in the order in which they are sent
	index     *document
	images    []Image
}

// plan makes the documents of a release. They are the same each time.
func plan(r Bundle) (*release, error) {
	m, rel := r.Manifest(), &release{}
	if r.Signature() == nil {
		return nil, errors.New("the bundle is not signed")
	}
	seen := map[bundle.Digest]bool{}
	add := func(d descriptor, open func() (io.ReadCloser, error)) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			rel.blobs = append(rel.blobs, &blob{descriptor: d, open: open})
		}
	}
	artifact := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		ArtifactType  string       `json:"artifactType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{2, string(types.OCIManifestSchema1), bundle.MediaType, descriptor{}, nil}
	index := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []descriptor      `json:"manifests"`
		Annotations   map[string]string `json:"annotations"`
	}{2, string(types.OCIImageIndex), nil, map[string]string{"org.opencontainers.image.title": m.App, "org.opencontainers.image.version": m.Version}}
	if s := m.Source; s != nil && s.Repository != "" { // by which GitHub joins package and repository
		index.Annotations["org.opencontainers.image.source"] = s.Repository
	}
	empty, open := inMemory(typeEmpty, []byte("{}"))
	artifact.Config = empty
	add(empty, open)
	layer := func(d descriptor, open func() (io.ReadCloser, error)) {
		if d.Size > 0 && !slices.ContainsFunc(artifact.Layers, func(l descriptor) bool { return l.Digest == d.Digest }) {
			artifact.Layers = append(artifact.Layers, d)
			add(d, open)
		}
	}
	for _, head := range []struct {
		name, mediaType string
		b               []byte
	}{{bundle.ManifestName, typeManifest, r.ManifestBytes()}, {bundle.SignatureName, typeSignature, r.Signature()}} {
		d, open := inMemory(head.mediaType, head.b)
		d.Annotations = map[string]string{"org.opencontainers.image.title": head.name}
		layer(d, open)
	}
	for _, f := range m.Files {
		open := func() (io.ReadCloser, error) { return r.OpenFile(f.Path) }
		if !r.HasFile(f.Path) {
			open = nil
		}
		layer(descriptor{MediaType: typeFile, Digest: f.Digest, Size: f.Size}, open)
	}
	image := func(d bundle.Descriptor) (*document, error) {
		rc, err := r.OpenBlob(d.Digest)
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		b, err := io.ReadAll(rc)
		if err != nil {
			return nil, err
		}
		doc := &document{descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, b}
		_, open := inMemory("", b)
		layer(descriptor{MediaType: typeFile, Digest: d.Digest, Size: d.Size}, open)
		if !slices.ContainsFunc(rel.documents, func(o *document) bool { return o.descriptor.Digest == d.Digest }) {
			rel.documents = append(rel.documents, doc)
		}
		return doc, nil
	}
	var images []descriptor
	for _, c := range m.Components {
		var own []descriptor
		for _, i := range c.Images {
			doc, err := image(i.Manifest)
			if err != nil {
				return nil, err
			}
			for _, d := range contents(i) {
				open := func() (io.ReadCloser, error) { return r.OpenBlob(d.Digest) }
				if !r.HasBlob(d.Digest) {
					open = nil
				}
				add(descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, open)
			}
			entry := doc.descriptor
			entry.Platform = &v1.Platform{OS: i.Platform.OS(), Architecture: i.Platform.Arch(), Variant: i.Platform.Variant()}
			own = append(own, entry)
			rel.images = append(rel.images, Image{Name: c.Reference, Platform: i.Platform, Reference: string(i.Manifest.Digest)})
		}
		if c.Index != nil {
			before := len(rel.documents)
			doc, err := image(*c.Index)
			if err != nil {
				return nil, err
			}
			// Registries refuse an index that names images they do not have.
			if complete(doc.raw, m) {
				own = []descriptor{doc.descriptor}
			} else {
				rel.documents = rel.documents[:before]
			}
		}
		for _, d := range own {
			if !slices.ContainsFunc(images, func(o descriptor) bool { return o.Digest == d.Digest }) {
				images = append(images, d)
			}
		}
	}
	own, err := encode(artifact.MediaType, artifact)
	if err != nil {
		return nil, err
	}
	own.ArtifactType, own.Platform = bundle.MediaType, &v1.Platform{OS: "unknown", Architecture: "unknown"}
	rel.documents = append(rel.documents, own)
	index.Manifests = append([]descriptor{own.descriptor}, images...)
	rel.index, err = encode(index.MediaType, index)
	return rel, err
}

// contents are the config and layers of an image.
func contents(i bundle.Image) []bundle.Descriptor {
	all := []bundle.Descriptor{i.Config}
	for _, l := range i.Layers {
		all = append(all, l.Descriptor)
	}
	return all
}

func encode(mediaType string, v any) (*document, error) {
	b, err := json.Marshal(v)
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("its list of content has %d bytes, and registries take %d: it has too many files", len(b), maxManifest)
	}
	d, _ := inMemory(mediaType, b)
	return &document{d, b}, err
}

// complete reports whether a release has all images that an index names.
func complete(raw []byte, m *bundle.Manifest) bool {
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	if json.Unmarshal(raw, &index) != nil {
		return false
	}
	return !slices.ContainsFunc(index.Manifests, func(d descriptor) bool {
		return !slices.ContainsFunc(m.Components, func(c bundle.Component) bool {
			return slices.ContainsFunc(c.Images, func(i bundle.Image) bool { return i.Manifest.Digest == d.Digest })
		})
	})
}

// Push copies a release. What the registry has already is not sent again.
func Push(ctx context.Context, q Request) (*Result, error) {
	rel, err := plan(q.Bundle)
	if err != nil {
		return nil, err
	}
	tag := q.Repository.Tag(Tag(q.Bundle.Manifest().Version, q.Platform))
	result := &Result{Reference: tag.Name(), Digest: rel.index.descriptor.Digest, Images: rel.images}
	for i := range result.Images {
		result.Images[i].Reference = q.Repository.Name() + "@" + result.Images[i].Reference
	}
	options := append(slices.Clone(q.Options), remote.WithContext(ctx))
	result.Existed, err = there(tag, bundle.DigestOf(q.Bundle.ManifestBytes()), options)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", q.Repository, err)
	}
	if result.Existed {
		return result, nil
	}
	pusher, err := remote.NewPusher(options...)
	if err != nil {
		return nil, err
	}
	if err := send(ctx, q, pusher, options, rel.blobs, result); err != nil {
		return nil, fmt.Errorf("push %s: %w", result.Reference, err)
	}
	for _, d := range rel.documents {
		if err := pusher.Put(ctx, q.Repository.Digest(string(d.descriptor.Digest)), d); err != nil {
			return nil, fmt.Errorf("push %s: %w", result.Reference, err)
		}
	}
	if err := pusher.Put(ctx, tag, rel.index); err != nil {
		return nil, fmt.Errorf("push %s: %w", result.Reference, err)
	}
	return result, nil
}

func notFound(err error) bool {
	status := new(transport.Error)
	return errors.As(err, &status) && status.StatusCode == http.StatusNotFound
}

// there reports whether a tag names the release with that manifest, whoever signed it
// when: another run of the same job makes other signatures.
func there(tag name.Tag, manifest bundle.Digest, options []remote.Option) (bool, error) {
	got, err := remote.Get(tag, options...)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	var artifact struct {
		Layers []descriptor `json:"layers"`
	}
	release := json.Unmarshal(got.Manifest, &index) == nil && len(index.Manifests) > 0 && index.Manifests[0].ArtifactType == bundle.MediaType
	if release {
		if got, err = remote.Get(tag.Digest(string(index.Manifests[0].Digest)), options...); err != nil {
			return false, err
		}
		if json.Unmarshal(got.Manifest, &artifact) == nil && len(artifact.Layers) > 0 && artifact.Layers[0].Digest == manifest {
			return true, nil
		}
	}
	return false, &TakenError{tag.Name(), !release}
}

// send sends blobs.
func send(ctx context.Context, q Request, pusher *remote.Pusher, options []remote.Option, blobs []*blob, result *Result) error {
	var sent, done, total int64
	for _, b := range blobs {
		total += b.descriptor.Size
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(parallel)
	for _, b := range blobs {
		b.sent = func(n int64) { atomic.AddInt64(&sent, n) }
		all.Go(func() error {
			if b.open == nil {
				there, err := remote.Layer(q.Repository.Digest(string(b.descriptor.Digest)), options...)
				if err != nil {
					return err
				}
				if ok, err := partial.Exists(there); err != nil || !ok {
					return errors.Join(err, &LackingError{b.descriptor.Digest, q.Repository.Name()})
				}
			} else if err := pusher.Upload(ctx, q.Repository, b); err != nil {
				return err
			}
			if now := atomic.AddInt64(&done, b.descriptor.Size); q.Progress != nil {
				q.Progress(now, total)
			}
			return nil
		})
	}
	err := all.Wait()
	result.Sent = atomic.LoadInt64(&sent)
	return err
}
