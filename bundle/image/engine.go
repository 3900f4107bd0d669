package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/valise-ota/valise/bundle"
)

// API versions of the engine.
const (
	apiSavePlatform    = "1.48" // one platform of several can be saved
	apiInspectPlatform = "1.49" // and looked at
)

// UnreachableError says that no engine answers at Host.
type UnreachableError struct {
	Host string
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("reach Docker engine at %s: %v", e.Host, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// engineImages returns the images called name that the local engine has for the
// platforms of the release. An engine streams an image as docker save writes it;
// only a layer whose diffID nobody knows beforehand is put down on the way.
func (c *collector) engineImages(ctx context.Context, s Spec, name string) ([]candidate, error) {
	host := c.DockerHost
	if host == "" {
		host = client.DefaultDockerHost
	}
	engine, err := client.New(client.WithHost(host))
	if err != nil {
		return nil, fmt.Errorf("connect to Docker engine at %s: %w", host, err)
	}
	defer engine.Close()
	if _, err := engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, &UnreachableError{host, err}
	}
	first, err := engine.ImageInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("the engine at %s has no image %s (docker pull or docker build puts it there)", host, name)
	}
	if err != nil {
		return nil, err
	}
	images := []candidate{{platform: platformOfEngine(first)}}
	for _, p := range c.Platforms {
		image := first
		if normal(images[0].platform) != normal(p) {
			if versions.LessThan(engine.ClientVersion(), apiInspectPlatform) {
				continue
			}
			image, err = engine.ImageInspect(ctx, name, client.ImageInspectWithPlatform(ociPlatform(p)))
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("image for %s: %w", p, err)
			}
			if normal(platformOfEngine(image)) != normal(p) {
				continue // an engine that knows one platform answers with that
			}
		}
		img, err := c.engineImage(ctx, s, engine, image, p)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", p, err)
		}
		images = append(images, candidate{img.descriptor, p, img})
	}
	if len(images) > 1 && images[0].found == nil && slices.ContainsFunc(images[1:], func(i candidate) bool { return normal(i.platform) == normal(images[0].platform) }) {
		images = images[1:]
	}
	return images, nil
}

func ociPlatform(p bundle.Platform) *ocispec.Platform {
	return &ocispec.Platform{OS: p.OS(), Architecture: p.Arch(), Variant: p.Variant()}
}

func platformOfEngine(i client.ImageInspectResult) bundle.Platform {
	return platformOf(&v1.Platform{OS: i.Os, Architecture: i.Architecture, Variant: i.Variant})
}

// engineImage makes an image of what the engine has. When the config and every
// layer are in the cache, nothing is read from the engine.
func (c *collector) engineImage(ctx context.Context, s Spec, engine *client.Client, image client.ImageInspectResult, p bundle.Platform) (*found, error) {
	id, err := v1.NewHash(image.ID)
	if err != nil {
		return nil, fmt.Errorf("image ID: %w", err)
	}
	diffIDs := make([]v1.Hash, len(image.RootFS.Layers))
	for i, l := range image.RootFS.Layers {
		if diffIDs[i], err = v1.NewHash(l); err != nil {
			return nil, fmt.Errorf("diffID of layer %d: %w", i, err)
		}
	}
	img, err := c.cachedImage(ctx, s, p, id, diffIDs)
	if img != nil || err != nil {
		return img, err
	}
	var options []client.ImageSaveOption
	if !versions.LessThan(engine.ClientVersion(), apiSavePlatform) {
		options = append(options, client.ImageSaveWithPlatforms(*ociPlatform(p)))
	}
	// By ID, because a tag may move between two questions.
	stream, err := engine.ImageSave(ctx, []string{image.ID}, options...)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	img, err = c.savedStream(ctx, s, p, stream, diffIDs)
	if err != nil {
		return nil, fmt.Errorf("save it: %w", err)
	}
	return img, c.cache.addConfig(id, p, img.rawConfig)
}

// cachedImage returns an image whose parts are all in the cache, or nil.
func (c *collector) cachedImage(ctx context.Context, s Spec, p bundle.Platform, id v1.Hash, diffIDs []v1.Hash) (*found, error) {
	raw, err := c.cache.findConfig(id, p)
	if raw == nil || err != nil {
		return nil, err
	}
	img, err := newSaved(savedImage{Layers: make([]string, len(diffIDs))}, raw)
	if err != nil || !slices.Equal(img.config.RootFS.DiffIDs, diffIDs) {
		return nil, nil
	}
	layers := make([]*layer, len(diffIDs))
	err = each(ctx, len(diffIDs), max(1, len(diffIDs)), func(ctx context.Context, i int) error {
		done, err := c.busy(ctx)
		if err != nil {
			return err
		}
		defer done()
		layers[i], err = c.cache.find(ctx, diffIDs[i])
		return err
	})
	if err != nil || slices.Contains(layers, nil) {
		return nil, err
	}
	for i := range layers {
		c.event(s, p, Reuse, diffIDs[i].String())
	}
	return img, img.useLayers(layers)
}

// savedStream makes an image of what docker save writes, read once.
func (c *collector) savedStream(ctx context.Context, s Spec, p bundle.Platform, stream io.Reader, diffIDs []v1.Hash) (*found, error) {
	known := map[string]v1.Hash{}
	for _, d := range diffIDs {
		known[d.Hex] = d
	}
	documents, links, layers := map[string][]byte{}, map[string]string{}, map[string]*layer{}
	total := 0
	err := walkTar(contextReader{ctx, stream}, func(name string, h *tar.Header, content io.Reader) error {
		if len(links) > maxArchiveEntries {
			return fmt.Errorf("more than %d entries", maxArchiveEntries)
		}
		links[name] = linkOf(name, h)
		raw, content, err := readJSON(content, h)
		if err != nil || links[name] != "" {
			return err
		}
		if raw != nil {
			if total += len(raw); total > maxArchiveDocuments {
				return fmt.Errorf("more than %d bytes of JSON files", maxArchiveDocuments)
			}
			documents[name] = raw
			// A layer may look like JSON, if hardly.
			if _, ok := known[path.Base(name)]; !ok {
				return nil
			}
		}
		switch base := path.Base(name); {
		case known[base] != v1.Hash{}: // the engine names layers by diffID
			layers[name], err = c.layer(ctx, s, p, base, known[base], func(w io.Writer) error { return inflate(ctx, w, content) })
		case base == "layer.tar" || hexName.MatchString(base):
			layers[name], err = c.unknownLayer(ctx, s, p, content)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	images, err := parseSaved(documents["manifest.json"])
	if err != nil {
		return nil, err
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("got %d images, want 1", len(images))
	}
	entry := func(name string) (string, bool) { l, ok := links[name]; return l, ok }
	configName, err := follow(entry, images[0].Config)
	if err != nil {
		return nil, err
	}
	img, err := newSaved(images[0], documents[configName])
	if err != nil {
		return nil, err
	}
	if !slices.Equal(img.config.RootFS.DiffIDs, diffIDs) {
		return nil, errors.New("its layers are not those that the engine named")
	}
	list := make([]*layer, len(diffIDs))
	for i, l := range images[0].Layers {
		file, err := follow(entry, l)
		if err != nil {
			return nil, err
		}
		if list[i] = layers[file]; list[i] == nil {
			return nil, fmt.Errorf("%.80q is not a layer", file)
		}
		if list[i].diffID != diffIDs[i] {
			return nil, &diffIDError{list[i].diffID, diffIDs[i]}
		}
	}
	return img, img.useLayers(list)
}

// unknownLayer makes a layer of which only the content is known: what old
// engines save, and engines that keep layers compressed. It is put down before
// it is compressed, because mostly it is in the cache already, and finding that
// out takes a hundredth of the time.
func (c *collector) unknownLayer(ctx context.Context, s Spec, p bundle.Platform, content io.Reader) (*layer, error) {
	if err := os.MkdirAll(c.CacheDir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(c.CacheDir, ".raw-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	diffID := newDigestWriter(f)
	if err := inflate(ctx, diffID, content); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return c.layer(ctx, s, p, diffID.sum().String(), diffID.sum(), func(w io.Writer) error {
		_, err := io.Copy(w, contextReader{ctx, f})
		return err
	})
}

// configName is the file of the config of an engine's image. An image ID may
// stand for several platforms.
func (c *layerCache) configName(id v1.Hash, p bundle.Platform, digest string) string {
	return filepath.Join(c.dir, "configs", id.Hex+"-"+p.Dashed()+"."+digest+".json")
}

// findConfig returns the config of the image that an engine calls id, or nil.
func (c *layerCache) findConfig(id v1.Hash, p bundle.Platform) ([]byte, error) {
	names, err := filepath.Glob(c.configName(id, p, "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err == nil && filepath.Base(name) == filepath.Base(c.configName(id, p, hashOf(raw).Hex)) {
			return raw, nil
		}
	}
	return nil, nil
}

func (c *layerCache) addConfig(id v1.Hash, p bundle.Platform, raw []byte) error {
	name := c.configName(id, p, hashOf(raw).Hex)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// Torn by a power cut, the file does not have the digest in its name.
	return os.WriteFile(name, raw, 0o644)
}
