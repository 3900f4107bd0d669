package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/image"
	"github.com/valise-ota/valise/bundle/sbom"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// addSBOMs puts a document of each kind for every image and platform into the
// release: those that are attached to the image where it comes from, else ours.
func (a *app) addSBOMs(ctx context.Context, m *bundle.Manifest, c *content) error {
	var mu sync.Mutex // of the progress and of what is added
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range m.Components {
		component := &m.Components[i]
		for j := range component.Images {
			img := &component.Images[j]
			g.Go(func() error {
				step := func(what string) {
					mu.Lock()
					defer mu.Unlock()
					a.UI.Step(fmt.Sprintf("%-8s", "sbom"), fmt.Sprintf("%s %s %s", component.Reference, img.Platform, what))
				}
				attached, err := c.SBOMs(ctx, img.Manifest.Digest)
				if err != nil {
					return err
				}
				documents := map[string][]byte{}
				if len(attached) > 0 {
					step("attached")
					documents = map[string][]byte{sbom.SuffixSPDX: attached[image.SPDX], sbom.SuffixCycloneDX: attached[image.CycloneDX]}
				} else if err := a.describe(ctx, c, component.Reference, img, documents, step); err != nil {
					return fmt.Errorf("list packages: %w", err)
				}
				mu.Lock()
				defer mu.Unlock()
				for suffix, b := range documents {
					if b == nil {
						continue
					}
					if err := c.add(m, sbom.Path(component, img.Platform, suffix), b); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// catalogued is what the cache keeps of an image.
type catalogued struct {
	Packages []sbom.Package `json:"packages"`
	Problems []string       `json:"problems,omitempty"`
}

// describe writes the documents of one image.
func (a *app) describe(ctx context.Context, c *content, reference string, img *bundle.Image, documents map[string][]byte, step func(string)) error {
	config, err := readBlob(c, img.Config.Digest)
	if err != nil {
		return err
	}
	var created struct {
		Created time.Time `json:"created"`
	}
	if err := json.Unmarshal(config, &created); err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	about := sbom.Image{Name: reference, Platform: img.Platform, Digest: img.Manifest.Digest, Created: created.Created.Truncate(time.Second), Tool: cli.Version()}
	for _, l := range img.Layers {
		about.Layers = append(about.Layers, func() (io.ReadCloser, error) { return c.OpenBlob(l.Digest) })
	}
	dir := filepath.Join(filepath.Dir(a.layerCache()), "sbom", sbom.Finder)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var found catalogued
	cached := filepath.Join(dir, img.Manifest.Digest.Hex()+".json")
	if b, err := os.ReadFile(cached); err == nil && json.Unmarshal(b, &found) == nil {
		step("known")
	} else {
		step("read")
		if found.Packages, found.Problems, err = sbom.Packages(ctx, about, dir); err != nil {
			return err
		}
		b, err := json.Marshal(found)
		if err != nil {
			return err
		}
		if err := writeFile(cached, b); err != nil {
			return err
		}
	}
	for _, p := range found.Problems {
		step("skip " + cli.OneLine(p))
	}
	if documents[sbom.SuffixSPDX], err = sbom.SPDX(about, found.Packages); err != nil {
		return err
	}
	documents[sbom.SuffixCycloneDX], err = sbom.CycloneDX(about, found.Packages)
	return err
}

// readBlob reads a small blob: an image config.
func readBlob(c *content, d bundle.Digest) ([]byte, error) {
	rc, err := c.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(io.LimitReader(rc, bundle.MaxImageManifest+1))
}
