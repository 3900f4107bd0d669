package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// A list of images has lines "layer NAME PACKAGE..." and "image NAME LAYER...", lowest layer first. A line that
// begins with a space continues the one before, and # begins a comment. A layer is every file of its packages, and
// nothing says that a program in it has all that it needs: these images are to be moved, not to be run.

// readList returns the recipe of a list.
func readList(file string) (recipe, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return recipe{}, err
	}
	layers, images := map[string][]string{}, map[string][]string{}
	text := strings.ReplaceAll(string(data), "\n ", " ")
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		line, _, _ := strings.Cut(scanner.Text(), "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case len(words) > 2 && words[0] == "layer":
			layers[words[1]] = words[2:]
		case len(words) > 2 && words[0] == "image":
			images[words[1]] = words[2:]
		default:
			return recipe{}, fmt.Errorf("%s: cannot read %q", file, line)
		}
	}
	packages := slices.Concat(slices.Collect(maps.Values(layers))...)
	slices.Sort(packages)
	return recipe{slices.Compact(packages), func(p platform, debs *debs) (map[string]v1.Image, error) {
		return listedImages(p, debs, layers, images)
	}}, nil
}

func listedImages(p platform, debs *debs, layers, images map[string][]string) (map[string]v1.Image, error) {
	made := map[string]v1.Layer{}
	for _, name := range slices.Sorted(maps.Keys(layers)) {
		t := tree{}
		for _, pkg := range layers[name] {
			files, err := debs.unpacked(pkg)
			if err != nil {
				return nil, err
			}
			delete(debs.cache, pkg) // one layer has it, and all together are large
			maps.Copy(t, files)
		}
		layer, err := t.layer()
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
		made[name] = layer
	}
	out := map[string]v1.Image{}
	for name, list := range images {
		image := v1.Image(empty.Image)
		for _, l := range list {
			layer, ok := made[l]
			if !ok {
				return nil, fmt.Errorf("image %s: no layer %s", name, l)
			}
			var err error
			if image, err = addLayer(image, layer, "Debian packages: "+l); err != nil {
				return nil, err
			}
		}
		image, err := configure(image, p, v1.Config{Env: []string{"PATH=/usr/sbin:/usr/bin"}, Cmd: []string{"/usr/bin/bash"}})
		if err != nil {
			return nil, err
		}
		out[name] = image
	}
	return out, nil
}

// writeOne writes one layout whose index.json names an image index for each image.
func writeOne(out string, indexes map[string][]mutate.IndexAddendum) error {
	path, err := layout.Write(out, empty.Index)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(indexes)) {
		named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name})
		if err := path.AppendIndex(mutate.AppendManifests(empty.Index, indexes[name]...), named); err != nil {
			return err
		}
	}
	return nil
}
