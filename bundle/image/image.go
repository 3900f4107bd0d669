// Package image collects the images of a release. What exists in a registry or an
// OCI image layout is taken verbatim, so that its registry digest, digest pins and
// signatures stay true. What a Docker engine or a docker archive has is taken with
// its config, but with an image manifest and compressed layers made here, because
// "docker save" gives neither. What is made here is files or a Go program on a
// base, or a Dockerfile built by BuildKit.
//
// Memory use does not depend on the size of an image: layers are never held, and
// blobs are opened where they are when the bundle is written. The exception is a
// Go program, which ko packs in memory.
package image

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/valise-ota/valise/bundle"
)

// Scratch is the base of an image that holds only its own files.
const Scratch = "scratch"

// Prefixes of sources that are no registry references.
const (
	layoutPrefix  = "oci:"     // directory of an OCI image layout
	archivePrefix = "archive:" // file written by docker save, or an OCI image layout in a tar
	enginePrefix  = "docker:"  // image of the local Docker engine
)

// maxImages is how many images are collected at the same time. It bounds
// connections to registries; Options.Parallel bounds work.
const maxImages = 8

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
	// needed and may be deleted at any time when no build runs.
	CacheDir string
	// Held opens a blob that this machine has, or returns nil; a registry is not asked
	// for it then. What it opens is intact. May be nil.
	Held func(ctx context.Context, d bundle.Digest) io.ReadCloser
	// Keychain has the credentials for registries; nil means none.
	Keychain authn.Keychain
	// Transport reaches registries; nil means the default one of the library.
	Transport http.RoundTripper
	// Mirrors are asked before a registry, in order: HOST or HOST/PATH by the
	// registry's host, which for docker.io is index.docker.io.
	Mirrors map[string][]string
	// Plain are hosts of registries that speak HTTP. No password is sent there.
	Plain []string
	// Roots returns who may certify a host besides the authorities that this system
	// knows, or nil. May be nil.
	Roots func(host string) (*x509.CertPool, error)
	// DockerHost is the address of the engine of docker: sources, and of the one
	// that docker buildx builds with; empty means the usual one.
	DockerHost string
	// BuildKitHost is the address of a buildkitd that builds Dockerfiles with
	// buildctl; empty means docker buildx.
	BuildKitHost string
	// BuildKit is said to it for every Dockerfile.
	BuildKit BuildKit
	// Parallel is how many layers or programs are made at the same time; 0 means
	// as many as there are cores.
	Parallel int
	// Progress, if not nil, is told what begins, from one goroutine at a time.
	// Images are collected side by side: the order of events means nothing.
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
	Build    Action = "build"    // a program or a Dockerfile is built
	Log      Action = "log"      // a line that the build of a Dockerfile prints
)

// Spec is one image of the release. From, FromEach or Dockerfile is set, or Base.
//
// A source is a registry reference, oci:DIR, archive:FILE or docker:NAME.
type Spec struct {
	Reference  string                     // name in the release, recorded as it is
	Services   []string                   // compose services that run it
	From       string                     // source that is taken as it is
	FromEach   map[bundle.Platform]string // a source of its own for every platform
	Dockerfile *Dockerfile                // built for all platforms
	Base       string                     // made from: a source or Scratch
	Go         *Go                        // program put on Base
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
	Sources    []Source           // what the images are or were made from, sorted by name

	blobs   map[bundle.Digest]opener
	origins map[bundle.Digest]*root // by image manifest, of images that were not made here
	temp    []string                // directories
}

// Source is where images of a collection came from, or an image that BuildKit says it
// took for a Dockerfile.
type Source struct {
	Name string // as Spec has it
	URI  string // package URL, for what comes from a registry
	// Digest is that of the image index or image manifest; for an image that has
	// none (docker:, archive:) the image ID, which is the digest of its config.
	Digest bundle.Digest
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

// Close removes what was built for this collection only. No blob can be opened
// after it.
func (c *Collection) Close() error {
	var errs []error
	for _, dir := range c.temp {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// Collect finds every image for every platform and makes those that are to be
// made. It reads image manifests and configs; layers of existing images are read
// later, through OpenBlob, so ctx must live until then. The caller closes the
// collection.
func Collect(ctx context.Context, o Options) (*Collection, error) {
	o.CreatedAt = o.CreatedAt.UTC().Truncate(time.Second)
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	c := &collector{
		Options: o,
		ctx:     ctx,
		cache:   &layerCache{dir: o.CacheDir, locks: map[v1.Hash]*sync.Mutex{}},
		cores:   make(chan struct{}, o.Parallel),
		roots:   map[string]*root{},
		hosts:   &hosts{roots: o.Roots, next: map[string]http.RoundTripper{}},
		out:     &Collection{blobs: map[bundle.Digest]opener{}, origins: map[bundle.Digest]*root{}},
	}
	if err := c.checkBuilder(ctx); err != nil {
		return nil, err
	}
	components := make([]*bundle.Component, len(o.Images))
	err := each(ctx, len(o.Images), maxImages, func(ctx context.Context, i int) (err error) {
		if components[i], err = c.component(ctx, o.Images[i]); err != nil {
			return fmt.Errorf("collect image %s: %w", o.Images[i].Reference, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, c.out.Close())
	}
	for _, component := range components {
		c.out.Components = append(c.out.Components, *component)
	}
	slices.SortFunc(c.out.Components, func(a, b bundle.Component) int { return strings.Compare(a.Reference, b.Reference) })
	c.out.Sources = c.sources()
	return c.out, nil
}

type collector struct {
	Options
	ctx   context.Context // of Collect: it bounds reads that come after it
	cache *layerCache
	hosts *hosts
	cores chan struct{} // holds a value for everyone who keeps a core busy

	mu       sync.Mutex       // of the fields below
	roots    map[string]*root // by source: asked once, so all platforms of a tag come from one index
	bases    []Source         // of Dockerfiles
	out      *Collection
	progress sync.Mutex
}

// each calls do for 0 to n-1, at most limit at a time, and waits. Every call
// after a failed one gets a context that has ended. The error is that of the
// lowest number that did not merely end with the context, so that it does not
// depend on timing where several calls would fail alone.
func each(ctx context.Context, n, limit int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, n)
	slots := make(chan struct{}, limit)
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = do(ctx, i)
			}
			if errs[i] != nil {
				cancel()
			}
		})
	}
	all.Wait()
	var ended error
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		if ended == nil {
			ended = err
		}
	}
	return ended
}

// busy waits for a core; done gives it back. Nobody waits for others in between.
func (c *collector) busy(ctx context.Context) (done func(), err error) {
	select {
	case c.cores <- struct{}{}:
		return func() { <-c.cores }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *collector) component(ctx context.Context, s Spec) (*bundle.Component, error) {
	out := &bundle.Component{Reference: s.Reference, Services: slices.Sorted(slices.Values(s.Services))}
	var r *root // where all platforms come from
	var err error
	find := func(_ context.Context, p bundle.Platform) (*found, error) { return r.find(p) }
	switch {
	case s.Dockerfile != nil:
		r, err = c.dockerfile(ctx, s)
	case s.From != "":
		r, err = c.resolve(ctx, s, s.From)
	case s.FromEach != nil:
		find = func(ctx context.Context, p bundle.Platform) (*found, error) { return c.findEach(ctx, s, p) }
	default:
		find = func(ctx context.Context, p bundle.Platform) (*found, error) { return c.makeFor(ctx, s, p) }
	}
	if err != nil {
		return nil, err
	}
	images := make([]*found, len(c.Platforms))
	err = each(ctx, len(images), len(images), func(ctx context.Context, i int) (err error) {
		images[i], err = find(ctx, c.Platforms[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, p := range c.Platforms {
		out.Images = append(out.Images, c.record(p, images[i]))
		if len(out.Images[i].Layers) == 0 {
			return nil, fmt.Errorf("the image for %s has no layers, and so no program: COPY one into it, or leave its service out", p)
		}
	}
	switch {
	case r != nil && r.index != nil:
		out.Index = c.keep(r.index, r.raw)
	case len(images) > 1:
		d, raw, err := IndexOver(out.Images)
		if err != nil {
			return nil, err
		}
		out.Index = c.keep(&d, raw)
	}
	return out, checkPin(out)
}

// findEach finds the image for p in the source that p has for itself.
func (c *collector) findEach(ctx context.Context, s Spec, p bundle.Platform) (*found, error) {
	text, ok := s.FromEach[p]
	if !ok {
		return nil, fmt.Errorf("no source for %s", p)
	}
	r, err := c.resolve(ctx, s, text)
	if err != nil {
		return nil, err
	}
	return r.find(p)
}

// record takes the blobs of img into the collection.
func (c *collector) record(p bundle.Platform, img *found) bundle.Image {
	out := bundle.Image{
		Platform: p,
		Manifest: *c.keep(&img.descriptor, img.raw),
		Config:   *c.keep(&img.manifest.Config, img.rawConfig),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if img.root != nil {
		c.out.origins[out.Manifest.Digest] = img.root
	}
	for i, l := range img.manifest.Layers {
		d := describe(l)
		out.Layers = append(out.Layers, bundle.Layer{Descriptor: d, DiffID: bundle.Digest(img.config.RootFS.DiffIDs[i].String())})
		c.out.blobs[d.Digest] = img.layers[i]
	}
	return out
}

// tempDir returns a new directory that lives as long as the collection. It is
// beside the layers, where there is room.
func (c *collector) tempDir() (string, error) {
	if c.CacheDir == "" {
		return "", errors.New("no cache directory")
	}
	if err := os.MkdirAll(c.CacheDir, 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(c.CacheDir, ".build-*")
	if err == nil {
		c.mu.Lock()
		c.out.temp = append(c.out.temp, dir)
		c.mu.Unlock()
	}
	return dir, err
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
		c.progress.Lock()
		defer c.progress.Unlock()
		c.Progress(Event{s.Reference, p, a, detail})
	}
}
