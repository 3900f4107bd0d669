// Package image collects the images of a release: what exists in a registry or an
// OCI image layout is taken verbatim, so that its registry digest, digest pins and
// signatures stay true, and what is made here is files on a base.
//
// Memory use does not depend on the size of an image: layers are never held, and
// blobs are opened where they are when the bundle is written.
package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/valise-ota/valise/bundle"
)

// Scratch is the base of an image that holds only its own files.
const Scratch = "scratch"

// layoutPrefix marks the directory of an OCI image layout among references.
const layoutPrefix = "oci:"

// Options says what Collect collects.
type Options struct {
	Images    []Spec
	Platforms []bundle.Platform
	// CreatedAt is recorded in images made here. Nothing else depends on when a
	// release is built; files in layers have the same time in every release.
	CreatedAt time.Time
	// Dir is where relative directories of layouts and files start.
	Dir string
	// CacheDir keeps the layers made here, compressed. It is created when
	// needed and may be deleted at any time when nobody builds.
	CacheDir string
	// Keychain has the credentials for registries; nil means none.
	Keychain authn.Keychain
	// Transport reaches registries; nil means the default one of the library.
	Transport http.RoundTripper
	// Progress, if not nil, is told what begins.
	Progress func(Event)
}

// Event is one step of Collect.
type Event struct {
	Reference string
	Platform  bundle.Platform
	Action    Action
	Detail    string // for people: the source, or the path in the image
}

// Action says what an Event is about.
type Action string

// What Collect does.
const (
	Resolve  Action = "resolve"  // a source is asked which images it has
	Compress Action = "compress" // a layer is made
	Reuse    Action = "reuse"    // a layer is in the cache
)

// Spec is one image of the release. Either From is set or Base.
type Spec struct {
	Reference string   // name in the release, recorded as it is
	Services  []string // compose services that run it
	From      string   // taken as it is from: oci:DIR or a registry reference
	Base      string   // made from: oci:DIR, a registry reference or Scratch
	// Files are the layers put on Base, one layer for each Copy, so that a
	// change of one leaves the others as a device has them.
	Files  map[bundle.Platform][]Copy
	Config Config
}

// Copy puts a file, or a directory with all it holds, into an image as user and
// group 0. A directory above To that the base has as a symbolic link (Debian's
// /bin) becomes a real directory: write /usr/bin.
type Copy struct {
	From string // on this machine, relative to Options.Dir
	To   string // clean absolute path in the image
	Mode uint32 // of every file; 0 means 0755 for executable files and 0644 for others
}

// Config changes how the image is run. What is empty stays as the base has it.
type Config struct {
	Entrypoint []string // also empties the base's Cmd
	Cmd        []string
	Env        map[string]string // replaces or adds
	User       string
	Workdir    string
	Labels     map[string]string // replaces or adds
	Expose     []string          // adds; PORT or PORT/PROTOCOL
	StopSignal string
}

// Collection is the images of a release and where their blobs are.
type Collection struct {
	Components []bundle.Component // sorted by reference

	blobs map[bundle.Digest]opener
}

type opener func() (io.ReadCloser, error)

// OpenBlob opens a blob of Components for reading. Reads from a registry end with
// the context of Collect. The bytes are not checked against d here; bundle.Write
// does that.
func (c *Collection) OpenBlob(d bundle.Digest) (io.ReadCloser, error) {
	open, ok := c.blobs[d]
	if !ok {
		return nil, fmt.Errorf("open blob %s: not part of any image", d)
	}
	return open()
}

// Collect finds every image for every platform and makes those that are to be
// made. It reads image manifests and configs; layers of existing images are read
// later, through OpenBlob, so ctx must live until then.
func Collect(ctx context.Context, o Options) (*Collection, error) {
	o.CreatedAt = o.CreatedAt.UTC().Truncate(time.Second)
	c := &collector{
		Options: o,
		cache:   layerCache{dir: o.CacheDir},
		roots:   map[string]*root{},
		out:     &Collection{blobs: map[bundle.Digest]opener{}},
	}
	for _, s := range o.Images {
		component, err := c.component(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("collect image %s: %w", s.Reference, err)
		}
		c.out.Components = append(c.out.Components, *component)
	}
	slices.SortFunc(c.out.Components, func(a, b bundle.Component) int { return strings.Compare(a.Reference, b.Reference) })
	return c.out, nil
}

type collector struct {
	Options
	cache layerCache
	roots map[string]*root // by source: asked once, so all platforms of a tag come from one index
	out   *Collection
}

func (c *collector) component(ctx context.Context, s Spec) (*bundle.Component, error) {
	out := &bundle.Component{Reference: s.Reference, Services: slices.Sorted(slices.Values(s.Services))}
	if s.From == "" {
		if err := c.build(ctx, s, out); err != nil {
			return nil, err
		}
	} else if err := c.take(ctx, s, out); err != nil {
		return nil, err
	}
	return out, checkPin(out)
}

// take records an existing image as it is.
func (c *collector) take(ctx context.Context, s Spec, out *bundle.Component) error {
	r, err := c.resolve(ctx, s, s.From)
	if err != nil {
		return err
	}
	if r.index != nil {
		out.Index = c.keep(r.index, r.raw)
	}
	for _, p := range c.Platforms {
		found, err := r.find(p)
		if err != nil {
			return err
		}
		out.Images = append(out.Images, c.record(p, found))
	}
	return nil
}

// record takes the blobs of img into the collection.
func (c *collector) record(p bundle.Platform, img *found) bundle.Image {
	out := bundle.Image{
		Platform: p,
		Manifest: *c.keep(&img.descriptor, img.raw),
		Config:   *c.keep(&img.manifest.Config, img.rawConfig),
	}
	for i, l := range img.manifest.Layers {
		d := describe(l)
		out.Layers = append(out.Layers, bundle.Layer{Descriptor: d, DiffID: bundle.Digest(img.config.RootFS.DiffIDs[i].String())})
		c.out.blobs[d.Digest] = img.layers[i]
	}
	return out
}

// checkPin refuses an image that is not the one its reference names by digest.
func checkPin(c *bundle.Component) error {
	_, pin, pinned := strings.Cut(c.Reference, "@")
	if !pinned || c.Index != nil && string(c.Index.Digest) == pin {
		return nil
	}
	for _, img := range c.Images {
		if string(img.Manifest.Digest) != pin {
			return fmt.Errorf("reference names %s, got %s for %s", pin, img.Manifest.Digest, img.Platform)
		}
	}
	return nil
}

func (c *collector) event(s Spec, p bundle.Platform, a Action, detail string) {
	if c.Progress != nil {
		c.Progress(Event{s.Reference, p, a, detail})
	}
}
