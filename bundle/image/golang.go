package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ko "github.com/google/ko/pkg/build"

	"github.com/valise-ota/valise/bundle"
)

// Go is a program built from source by ko: a static binary in /ko-app, and what
// the package's directory kodata holds in /var/run/ko.
type Go struct {
	Package string   // directory of the main package, relative to Options.Dir
	Ldflags []string // of go build; nil means -s -w
	Env     map[string]string
}

// addGo builds the program for p and puts it on img, with the program as its
// entry point.
func (c *collector) addGo(ctx context.Context, s Spec, p bundle.Platform, img *found) error {
	dir := c.path(s.Go.Package)
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	c.event(s, p, Build, s.Go.Package)
	built, err := c.runKo(ctx, s.Go, dir, p)
	if err != nil {
		return err
	}
	config, err := built.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := built.Layers()
	if err != nil {
		return err
	}
	if len(layers) != 2 || len(config.Config.Entrypoint) != 1 {
		return fmt.Errorf("got %d layers and entry point %q from ko", len(layers), config.Config.Entrypoint)
	}
	program := config.Config.Entrypoint[0]
	if _, err := os.Stat(filepath.Join(dir, "kodata")); err != nil {
		layers = layers[1:] // only directories, and one of them hides /var/run of the base
	} else {
		Config{Env: map[string]string{"KO_DATA_PATH": "/var/run/ko"}}.apply(&img.config.Config)
	}
	for _, made := range layers {
		diffID, err := made.DiffID()
		if err != nil {
			return err
		}
		l, err := c.layer(ctx, s, p, program, diffID, func(w io.Writer) error {
			r, err := made.Uncompressed()
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(w, contextReader{ctx, r})
			return err
		})
		if err != nil {
			return err
		}
		c.append(img, l, "valise: go build "+s.Go.Package)
	}
	img.config.Config.Entrypoint, img.config.Config.Cmd = []string{program}, nil
	return nil
}

// runKo builds the program on an empty base: the real base is put under it
// verbatim, with its own layers.
func (c *collector) runKo(ctx context.Context, g *Go, dir string, p bundle.Platform) (v1.Image, error) {
	base, err := emptyFor(p)
	if err != nil {
		return nil, err
	}
	// The last value of a variable counts, so the platform cannot be changed by
	// the environment of this process, from which the Go command takes the rest.
	env := []string{}
	for _, key := range slices.Sorted(maps.Keys(g.Env)) {
		env = append(env, key+"="+g.Env[key])
	}
	env = append(env, "CGO_ENABLED=0", "GOOS="+p.OS(), "GOARCH="+p.Arch())
	ldflags := []string{"-s", "-w"}
	if g.Ldflags != nil {
		ldflags = nil
	}
	for _, flag := range g.Ldflags { // ko would take them for templates
		ldflags = append(ldflags, strings.ReplaceAll(flag, "{{", `{{"{{"}}`))
	}
	builder, err := ko.NewGo(ctx, dir,
		ko.WithBaseImages(func(context.Context, string) (name.Reference, ko.Result, error) {
			return name.MustParseReference("valise.invalid/scratch:latest"), base, nil
		}),
		ko.WithPlatforms("all"), // of base, which has one
		ko.WithDisabledSBOM(),
		ko.WithTrimpath(true),
		// A commit in the program would make it a new layer in every release.
		ko.WithDefaultFlags([]string{"-buildvcs=false"}),
		ko.WithDefaultLdflags(ldflags),
		ko.WithDefaultEnv(env),
	)
	if err != nil {
		return nil, err
	}
	done, err := c.busy(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	pkg, err := builder.QualifyImport(".")
	if err != nil {
		return nil, err
	}
	if err := builder.IsSupportedReference(pkg); err != nil {
		return nil, err
	}
	result, err := builder.Build(ctx, pkg)
	if err != nil {
		return nil, err
	}
	img, ok := result.(v1.Image)
	if !ok {
		return nil, errors.New("ko made an image index of one platform")
	}
	return img, nil
}

// emptyFor is an index with an empty image for p: only an index tells ko about
// the variant.
func emptyFor(p bundle.Platform) (v1.ImageIndex, error) {
	platform := v1.Platform{OS: p.OS(), Architecture: p.Arch(), Variant: p.Variant()}
	img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		&v1.ConfigFile{OS: p.OS(), Architecture: p.Arch(), Variant: p.Variant(), RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}}), nil
}
