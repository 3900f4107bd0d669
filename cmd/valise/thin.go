package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

func thinCommand(a *app) *cobra.Command {
	var from, file string
	c := &cobra.Command{
		Use:   "thin BUNDLE --from BASE",
		Short: "Leave out the layers that a device on an older release has",
		Long: "thin writes a smaller bundle of the same release: without the layers that BASE lists. It\n" +
			"keeps the signature, and the device checks it like the full one; a device that lacks a\n" +
			"layer after all refuses it before anything is touched.\n\n" +
			"BASE is a bundle or a manifest.json.",
		Example: "  valise thin dist/shop-1.1.0.tar.gz --from dist/shop-1.0.0.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.thin(cmd.Context(), args[0], from, file) },
	}
	c.Flags().StringVar(&from, "from", "", "bundle or manifest.json of the release that devices run")
	c.Flags().StringVarP(&file, "file", "o", "", "bundle to write (default NAME-from-VERSION.tar.gz beside BUNDLE)")
	c.MarkFlagRequired("from")
	return c
}

// thinResult is the result of thin.
type thinResult struct {
	Bundle  string `json:"bundle"`
	From    string `json:"from"`
	Size    int64  `json:"size"`
	Full    int64  `json:"full_size"`
	Omitted int    `json:"omitted_layers"`
}

func (a *app) thin(ctx context.Context, path, from, file string) error {
	base, err := readManifest(from)
	if err != nil {
		return err
	}
	r, f, err := cli.OpenBundle(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if base.App != r.Manifest().App {
		return cli.WithHint(fmt.Errorf("thin %s: it is a release of %q, %s is one of %q", path, r.Manifest().App, from, base.App), "name an older release of the same app")
	}
	if r.Manifest().Kind == bundle.KindTree {
		return fmt.Errorf("thin %s: a file tree has no layers to leave out", path)
	}
	if file == "" {
		file = strings.TrimSuffix(path, ".tar.gz") + "-from-" + base.Version + ".tar.gz"
	}
	have := layersOf(base)
	update, finish := a.UI.Track("check " + filepath.Base(path))
	err = r.Check(ctx, update)
	finish(err)
	if err != nil {
		return fmt.Errorf("thin %s: %w", path, err)
	}
	omitted := map[bundle.Digest]bool{}
	for d := range layersOf(r.Manifest()) {
		if _, ok := have[d]; ok && r.HasBlob(d) {
			omitted[d] = true
		}
	}
	out, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	defer out.Cleanup()
	update, finish = a.UI.Track("write " + filepath.Base(file))
	err = bundle.Thin(ctx, out, r, func(d bundle.Digest) bool { return omitted[d] }, update)
	finish(err)
	if err != nil {
		return fmt.Errorf("thin %s: %w", path, err)
	}
	info, err := out.Stat()
	if err == nil {
		err = out.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	result := thinResult{file, base.Version, info.Size(), r.Size(), len(omitted)}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "thin   %s\n  size   %s of %s; %d layers are expected on the device\n", file, ui.Bytes(result.Size), ui.Bytes(result.Full), result.Omitted)
	})
}

// readManifest reads the manifest of a bundle, or one that lies by itself.
func readManifest(path string) (*bundle.Manifest, error) {
	if strings.HasSuffix(path, ".json") {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		m, err := bundle.ParseManifest(b)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return m, nil
	}
	r, f, err := cli.OpenBundle(path)
	if err != nil {
		return nil, err
	}
	f.Close()
	return r.Manifest(), nil
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
