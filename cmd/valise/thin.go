package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

func thinCommand(a *app) *cobra.Command {
	var f thinFlags
	c := &cobra.Command{
		Use:   "thin BUNDLE (--from BASE | --have INVENTORY)",
		Short: "Make a smaller bundle without what a device has",
		Long: "thin writes a smaller bundle of the same release, without the layers and installers that\n" +
			"BASE lists, or that the device with INVENTORY already has. The signature stays valid, and\n" +
			"devices check it as for the full bundle. A device that lacks one of the layers refuses the\n" +
			"bundle before it changes anything.\n\n" +
			"BASE is a bundle, a manifest.json, or a directory that has one: an unpacked bundle, or a\n" +
			"release on a device. INVENTORY is a list of what one device has (docs/inventory.md); the\n" +
			"result then has the layers of its platform only. The result is compressed and split like\n" +
			"BUNDLE.",
		Example: "  valise thin dist/shop-1.1.0.tar.gz --from dist/shop-1.0.0.tar.gz\n" +
			"  valise thin dist/shop-1.1.0.tar.gz --have /media/usb/inventory.json -o /media/usb/shop-1.1.0.tar.gz",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (f.from == "") == (f.have == "") {
				return cli.Usagef("want --from BASE or --have INVENTORY")
			}
			return a.thin(cmd.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.from, "from", "", "bundle, manifest.json or directory of the release that devices run")
	c.Flags().StringVar(&f.have, "have", "", "inventory.json of the device")
	c.Flags().StringVarP(&f.file, "file", "o", "", "bundle to write (default NAME-from-VERSION.tar.gz beside BUNDLE)")
	return c
}

type thinFlags struct{ from, have, file string }

// thinResult is the result of thin.
type thinResult struct {
	Bundle     string `json:"bundle"`
	From       string `json:"from"`
	Size       int64  `json:"size"`
	Full       int64  `json:"full_size"`
	Omitted    int    `json:"omitted_layers"`
	Installers int    `json:"omitted_installers"`
}

func (a *app) thin(ctx context.Context, path string, f thinFlags) error {
	r, in, err := parts.OpenBundle(path)
	if err != nil {
		return err
	}
	defer in.Close()
	omit, version, err := f.omit(r.Manifest())
	if err != nil {
		return fmt.Errorf("thin %s: %w", path, err)
	}
	if f.file == "" {
		f.file = thinName(r.Manifest().App, in.Name, version)
	}
	update, finish := a.UI.Track("check " + filepath.Base(path))
	err = r.Check(ctx, update)
	finish(err)
	if err != nil {
		return fmt.Errorf("thin %s: %w", path, err)
	}
	out := newBundle(f.file, in.PartSize())
	defer out.Cleanup()
	update, finish = a.UI.Track("write " + filepath.Base(f.file))
	err = bundle.Thin(ctx, out, r, omit, update)
	finish(err)
	if err != nil {
		return fmt.Errorf("thin %s: %w", path, err)
	}
	if err := out.commit(); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	result := thinResult{Bundle: f.file, From: version, Size: out.end, Full: r.Size()}
	for d := range layersOf(r.Manifest()) {
		if r.HasBlob(d) && omit(d) {
			result.Omitted++
		}
	}
	for _, file := range r.Manifest().Files {
		if strings.HasPrefix(file.Path, bundle.InstallerDir) && r.HasFile(file.Path) && omit(file.Digest) {
			result.Installers++
		}
	}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "thin   %s\n  size   %s of %s; %d layers and %d installers are expected on the device\n",
			f.file, ui.Bytes(result.Size), ui.Bytes(result.Full), result.Omitted, result.Installers)
	})
}

// thinName is the name of what is left of a bundle for devices that run version: none
// that an updater older than Valise would take.
func thinName(app, path, version string) string {
	if version == "" {
		version = "inventory"
	}
	path = plainName(app, path)
	suffix := compressionOf(path).Suffix()
	return strings.TrimSuffix(path, suffix) + "-from-" + version + suffix
}

// omit says what to leave out of a release, and which version has it.
func (f thinFlags) omit(m *bundle.Manifest) (func(bundle.Digest) bool, string, error) {
	if m.Kind == bundle.KindTree {
		return nil, "", errors.New("a file tree has no layers to leave out")
	}
	if f.have != "" {
		b, err := readSmall(f.have)
		if err != nil {
			return nil, "", err
		}
		v, err := bundle.ParseInventory(b)
		if err != nil {
			return nil, "", fmt.Errorf("read %s: %w", f.have, err)
		}
		omit, err := v.Omit(m)
		return omit, v.Version, err
	}
	base, err := readManifest(f.from)
	if err != nil {
		return nil, "", err
	}
	omit, err := bundle.OmitFrom(base, m)
	if err != nil {
		return nil, "", cli.WithHint(err, "name an older release of the same app")
	}
	return omit, base.Version, nil
}

// readManifest reads the manifest of a bundle, one that lies by itself, or the one
// in a directory. Nothing but its form is checked.
func readManifest(path string) (*bundle.Manifest, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, bundle.ManifestName)
	}
	if strings.HasSuffix(path, ".json") {
		b, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		m, err := bundle.ParseManifest(b)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return m, nil
	}
	r, f, err := parts.OpenBundle(path)
	if err != nil {
		return nil, err
	}
	f.Close()
	return r.Manifest(), nil
}

// readSmall reads a file that may be as big as a manifest.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, bundle.MaxManifestSize+1))
}

// layersOf returns every layer of a release.
func layersOf(m *bundle.Manifest) map[bundle.Digest]bundle.Layer {
	layers := map[bundle.Digest]bundle.Layer{}
	for _, c := range m.Components {
		for _, img := range c.Images {
			for _, l := range img.Layers {
				layers[l.Digest] = l
			}
		}
	}
	return layers
}
