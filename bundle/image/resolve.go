package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
)

// PlatformError says that a source has no image for a platform of the release.
type PlatformError struct {
	Source string
	Want   bundle.Platform
	Have   []bundle.Platform
}

func (e *PlatformError) Error() string {
	have := "none"
	if len(e.Have) > 0 {
		have = strings.Trim(fmt.Sprint(e.Have), "[]")
	}
	return fmt.Sprintf("%s has no image for %s (it has: %s)", e.Source, e.Want, have)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *PlatformError) Kind() string { return "image-platform" }

// root is what a source has: one image, or one for each of several platforms.
type root struct {
	text   string
	digest v1.Hash        // of what the source stands for; empty where images are made here of what it has
	index  *v1.Descriptor // nil for a single image, and where no index was found
	raw    []byte         // of index
	images []candidate
	nested int // indexes in it
	source source
	ctx    context.Context // also bounds reads that come after resolve
	cache  *layerCache

	once sync.Once
	err  error
	mu   sync.Mutex // of find
}

// candidate is an image of a root. Image manifests are read when they are asked
// for, except where only the config tells the platform.
type candidate struct {
	descriptor v1.Descriptor
	platform   bundle.Platform
	found      *found
}

// found is an image with everything but the content of its layers.
type found struct {
	descriptor v1.Descriptor
	raw        []byte
	manifest   *v1.Manifest
	rawConfig  []byte
	config     *v1.ConfigFile
	layers     []opener // in the order of manifest.Layers
	root       *root    // nil for an image made here
}

// resolve asks the source named text which images it has, once for all images of
// the release.
func (c *collector) resolve(ctx context.Context, s Spec, text string) (*root, error) {
	key := text
	if strings.HasPrefix(text, archivePrefix) {
		key += " " + s.Reference // an archive may have several images
	}
	c.mu.Lock()
	r, ok := c.roots[key]
	if !ok {
		r = &root{text: text, ctx: c.ctx, cache: c.cache}
		c.roots[key] = r
	}
	c.mu.Unlock()
	r.once.Do(func() {
		c.event(s, "", Resolve, text)
		r.err = c.open(ctx, s, r)
	})
	return r, r.err
}

// open fills r with the images of the source that it names.
func (c *collector) open(ctx context.Context, s Spec, r *root) (err error) {
	if engineName, ok := strings.CutPrefix(r.text, enginePrefix); ok {
		r.images, err = c.engineImages(ctx, s, engineName)
	} else if file, ok := strings.CutPrefix(r.text, archivePrefix); ok {
		err = c.openArchive(ctx, s, file, r)
	} else if r.source, err = c.source(r.text); err != nil {
		return err
	} else {
		err = r.load()
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", r.text, err)
	}
	return nil
}

func (r *root) load() error {
	d, raw, err := r.source.root(r.ctx)
	if err != nil {
		return err
	}
	r.digest = d.Digest
	if d.MediaType.IsImage() {
		img, err := r.read(d, raw)
		if err != nil {
			return err
		}
		r.images = []candidate{{d, platformOf(img.config.Platform()), img}}
		return nil
	}
	if !d.MediaType.IsIndex() {
		return fmt.Errorf("media type %s is neither an image nor an image index", d.MediaType)
	}
	r.index, r.raw = &d, raw
	return r.list(raw, maxIndexDepth)
}

// maxIndexDepth is how deep indexes lie in indexes.
const maxIndexDepth = 3

// errNotImage is what an artifact is: a manifest of something else.
var errNotImage = errors.New("this is not an image")

// list adds the images that an index has, and those of indexes in it: then there is
// no one index that a bundle could have.
func (r *root) list(raw []byte, depth int) error {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	for _, m := range index.Manifests {
		if m.MediaType.IsIndex() {
			if some, ok := r.source.(partial); ok && !some.has(m) {
				continue
			}
			if depth == 0 {
				return fmt.Errorf("indexes lie in indexes more than %d deep", maxIndexDepth)
			}
			if r.nested++; r.nested > bundle.MaxPlatforms {
				return fmt.Errorf("more than %d indexes in an index", bundle.MaxPlatforms)
			}
			inner, err := r.source.document(r.ctx, m)
			if err != nil {
				return fmt.Errorf("image index: %w", err)
			}
			if r.index = nil; len(inner) > 0 {
				err = r.list(inner, depth-1)
			}
			if err != nil {
				return err
			}
			continue
		}
		if t := types.MediaType(m.ArtifactType); !m.MediaType.IsImage() || t != "" && !t.IsConfig() {
			continue // attestations and artifacts of other kinds
		}
		if some, ok := r.source.(partial); ok && !some.has(m) {
			continue
		}
		next := candidate{descriptor: m}
		if m.Platform != nil {
			next.platform = platformOf(m.Platform)
		} else {
			if next.found, err = r.read(m, nil); errors.Is(err, errNotImage) {
				continue
			} else if err != nil {
				return err
			}
			next.platform = platformOf(next.found.config.Platform())
		}
		if next.platform != "unknown/unknown" { // BuildKit's mark for provenance
			r.images = append(r.images, next)
		}
	}
	return nil
}

// find returns the image for p, or else the best that runs there too.
func (r *root) find(p bundle.Platform) (*found, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var match *candidate
	for _, runs := range compatible(p) {
		for i := range r.images {
			c := &r.images[i]
			if normal(c.platform) != runs {
				continue
			}
			if match != nil && match.descriptor.Digest != c.descriptor.Digest {
				return nil, fmt.Errorf("%s has several images for %s: name one by digest", r.text, c.platform)
			}
			match = c
		}
		if match != nil {
			break
		}
	}
	if match == nil {
		var have []bundle.Platform
		for _, c := range r.images {
			if !slices.Contains(have, c.platform) {
				have = append(have, c.platform)
			}
		}
		return nil, &PlatformError{r.text, p, have}
	}
	if match.found == nil {
		img, err := r.read(match.descriptor, nil)
		if err != nil {
			return nil, fmt.Errorf("read %s for %s: %w", r.text, p, err)
		}
		match.found = img
	}
	// An index may claim what the image is not; the device would find out last.
	if got := platformOf(match.found.config.Platform()); got.OS() != p.OS() || got.Arch() != p.Arch() {
		return nil, fmt.Errorf("%s: the image for %s is for %s according to its config", r.text, p, got)
	}
	return match.found, nil
}

// took notes an image that a Dockerfile was built from.
func (c *collector) took(s Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bases = append(c.bases, s)
}

// sources lists what was resolved, and what BuildKit took.
func (c *collector) sources() []Source {
	list := slices.Clone(c.bases)
	for _, r := range c.roots {
		s := Source{Name: r.text}
		if r.digest.Hex == "" {
			for _, candidate := range r.images {
				if candidate.found != nil {
					s.Digest = bundle.Digest(candidate.found.manifest.Config.Digest.String())
					list = append(list, s)
				}
			}
			continue
		}
		s.Digest = bundle.Digest(r.digest.String())
		if remote, ok := r.source.(*registrySource); ok {
			s.URI = packageURL(remote.reference, s.Digest)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Source) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	return slices.Compact(list)
}

// packageURL names an image in a registry as the purl specification does.
func packageURL(reference name.Reference, d bundle.Digest) string {
	repository := reference.Context()
	u := "pkg:oci/" + path.Base(repository.RepositoryStr()) + "@" + url.QueryEscape(string(d)) + "?repository_url=" + repository.Name()
	if tag, ok := reference.(name.Tag); ok {
		u += "&tag=" + tag.TagStr()
	}
	return u
}

// read reads the image manifest d, unless raw has it, and the config.
func (r *root) read(d v1.Descriptor, raw []byte) (*found, error) {
	img := &found{descriptor: d, raw: raw, root: r}
	var err error
	if raw == nil {
		if img.raw, err = r.source.document(r.ctx, d); err != nil {
			return nil, fmt.Errorf("image manifest: %w", err)
		}
	}
	if img.manifest, err = v1.ParseManifest(bytes.NewReader(img.raw)); err != nil {
		return nil, fmt.Errorf("image manifest: %w", err)
	}
	if d.MediaType.IsSchema1() || img.manifest.SchemaVersion != 2 {
		return nil, fmt.Errorf("image manifest has the old schema 1")
	}
	if t := img.manifest.Config.MediaType; !t.IsConfig() {
		return nil, fmt.Errorf("config has media type %s: %w", t, errNotImage)
	}
	if img.rawConfig, err = r.source.document(r.ctx, img.manifest.Config); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if img.config, err = v1.ParseConfigFile(bytes.NewReader(img.rawConfig)); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if layers, ids := len(img.manifest.Layers), len(img.config.RootFS.DiffIDs); layers != ids {
		return nil, fmt.Errorf("image has %d layers and %d diffIDs", layers, ids)
	}
	for i, l := range img.manifest.Layers {
		if err := checkLayer(l); err != nil {
			return nil, err
		}
		img.layers = append(img.layers, r.cache.checked(r.ctx, l, img.config.RootFS.DiffIDs[i], r.source.layer(r.ctx, l)))
	}
	return img, nil
}

// checkLayer refuses what cannot be carried to a place without network.
func checkLayer(l v1.Descriptor) error {
	switch l.MediaType {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer:
	default:
		return fmt.Errorf("layer %s has media type %s, which must not be distributed or is unknown", l.Digest, l.MediaType)
	}
	if len(l.URLs) > 0 {
		return fmt.Errorf("layer %s is to be fetched from %s: a foreign layer cannot be distributed", l.Digest, l.URLs[0])
	}
	return nil
}

// platformOf writes p as the manifest does.
func platformOf(p *v1.Platform) bundle.Platform {
	if p == nil || p.OS == "" || p.Architecture == "" {
		return "unknown/unknown"
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" && !(p.Architecture == "arm64" && p.Variant == "v8") {
		s += "/" + p.Variant
	}
	return bundle.Platform(s)
}

// normal adds the variant that is meant when none is written.
func normal(p bundle.Platform) bundle.Platform {
	switch p {
	case "linux/arm":
		return "linux/arm/v7"
	case "linux/amd64/v1":
		return "linux/amd64"
	}
	return p
}

// compatible are the platforms whose images run on p, the best first: older variants
// of the processor, as container engines choose.
func compatible(p bundle.Platform) []bundle.Platform {
	p = normal(p)
	list := []bundle.Platform{p}
	base := bundle.Platform(p.OS() + "/" + p.Arch())
	least := map[string]int{"arm": 5, "amd64": 1, "arm64": 8}[p.Arch()]
	newest, err := strconv.Atoi(strings.TrimPrefix(p.Variant(), "v"))
	if err != nil || least == 0 {
		return list
	}
	for v := min(newest, 16) - 1; v >= least; v-- {
		older := normal(base + bundle.Platform(fmt.Sprintf("/v%d", v)))
		if v == 8 && p.Arch() == "arm64" {
			older = base
		}
		list = append(list, older)
	}
	return list
}
