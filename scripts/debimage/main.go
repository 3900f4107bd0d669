// Command debimage makes the two sample images of the tests and the demo from Debian packages:
//
//	base      a shell, the C library, time zone UTC
//	postgres  base plus PostgreSQL 15
//
// Each is an OCI image layout whose index.json points to one image index for linux/amd64 and linux/arm64.
// No package script runs and nothing is emulated: apt downloads and verifies, this program unpacks. So it
// needs neither root nor qemu, and the same packages always give the same bytes.
//
// By hand: go run ./scripts/debimage -out DIR  (scripts/sample-images.sh does it once, into the cache)
//
// With -images FILE it makes other images, for scripts/bench.sh: see list.go.
package main

import (
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of every file and every image, so that builds can be compared.
var epoch = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// platform is one column of the image index.
type platform struct {
	arch    string // as Go, Debian and OCI call it
	machine elf.Machine
}

var platforms = []platform{
	{"amd64", elf.EM_X86_64},
	{"arm64", elf.EM_AARCH64},
}

func main() {
	out := flag.String("out", "", "directory to write the layouts base/ and postgres/ to")
	arch := flag.String("arch", "", "platform to make images for, amd64 or arm64, in place of both")
	list := flag.String("images", "", "file that lists other images; -out becomes one layout of them all")
	sources := flag.String("sources", "", "apt sources (.list or .sources file) to use in place of the machine's own")
	flag.Parse()
	if *out == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(64)
	}
	if *arch != "" {
		platforms = slices.DeleteFunc(platforms, func(p platform) bool { return p.arch != *arch })
	}
	if len(platforms) == 0 {
		flag.Usage()
		os.Exit(64)
	}
	if err := run(*out, *list, *sources); err != nil {
		fmt.Fprintln(os.Stderr, "debimage:", err)
		os.Exit(1)
	}
}

// recipe says how to make images for one platform.
type recipe struct {
	packages []string
	make     func(p platform, debs *debs) (map[string]v1.Image, error)
}

func run(out, list, sources string) error {
	r := recipe{slices.Concat(basePackages, postgresPackages), sampleImages}
	if list != "" {
		var err error
		if r, err = readList(list); err != nil {
			return err
		}
	}
	images := make([]map[string]v1.Image, len(platforms))
	errs := make([]error, len(platforms))
	var all sync.WaitGroup
	for i, p := range platforms {
		all.Go(func() {
			fmt.Fprintf(os.Stderr, "debimage: linux/%s\n", p.arch)
			if images[i], errs[i] = r.buildImages(p, sources); errs[i] != nil {
				errs[i] = fmt.Errorf("linux/%s: %w", p.arch, errs[i])
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	indexes := map[string][]mutate.IndexAddendum{}
	for i, p := range platforms {
		for name, image := range images[i] {
			indexes[name] = append(indexes[name], mutate.IndexAddendum{
				Add:        image,
				Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: p.arch}},
			})
		}
	}
	if list != "" {
		return writeOne(out, indexes)
	}
	for name, addenda := range indexes {
		path, err := layout.Write(filepath.Join(out, name), empty.Index)
		if err != nil {
			return err
		}
		if err := path.AppendIndex(mutate.AppendManifests(empty.Index, addenda...)); err != nil {
			return err
		}
	}
	return nil
}

func (r recipe) buildImages(p platform, sources string) (map[string]v1.Image, error) {
	debs, err := download(p.arch, sources, r.packages)
	if err != nil {
		return nil, err
	}
	defer debs.remove()
	return r.make(p, debs)
}

func sampleImages(p platform, debs *debs) (map[string]v1.Image, error) {
	baseTree, err := makeBase(debs)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	postgresTree, err := makePostgres(debs, baseTree)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	for _, check := range []struct{ tree, below tree }{{baseTree, nil}, {postgresTree, baseTree}} {
		if err := check.tree.check(p.machine, check.below); err != nil {
			return nil, err
		}
	}

	base, err := addTree(empty.Image, baseTree, "Debian: shell, C library")
	if err != nil {
		return nil, err
	}
	postgres, err := addTree(base, postgresTree, "Debian: PostgreSQL 15")
	if err != nil {
		return nil, err
	}
	if base, err = configure(base, p, v1.Config{
		Env: []string{"PATH=/usr/local/bin:/usr/bin", "LANG=C.UTF-8"},
		Cmd: []string{"/bin/sh"},
	}); err != nil {
		return nil, err
	}
	postgres, err = configure(postgres, p, v1.Config{
		Env: []string{
			"PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin", "LANG=C.UTF-8",
			"PGDATA=" + dataDir,
		},
		User:         "100:102",
		WorkingDir:   "/",
		Entrypoint:   []string{"/usr/local/bin/postgres-entrypoint"},
		Cmd:          []string{"postgres"},
		ExposedPorts: map[string]struct{}{"5432/tcp": {}},
		Volumes:      map[string]struct{}{dataDir: {}},
		StopSignal:   "SIGINT", // PostgreSQL's fast shutdown
	})
	return map[string]v1.Image{"base": base, "postgres": postgres}, err
}

func addTree(image v1.Image, t tree, comment string) (v1.Image, error) {
	layer, err := t.layer()
	if err != nil {
		return nil, err
	}
	return addLayer(image, layer, comment)
}

func addLayer(image v1.Image, layer v1.Layer, comment string) (v1.Image, error) {
	return mutate.Append(image, mutate.Addendum{
		Layer:     layer,
		MediaType: types.OCILayer,
		History:   v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "scripts/debimage", Comment: comment},
	})
}

func configure(image v1.Image, p platform, config v1.Config) (v1.Image, error) {
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created, file.Config = "linux", p.arch, v1.Time{Time: epoch}, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return nil, err
	}
	image = mutate.MediaType(image, types.OCIManifestSchema1)
	return mutate.ConfigMediaType(image, types.OCIConfigJSON), nil
}
