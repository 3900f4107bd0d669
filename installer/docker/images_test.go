package docker

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"io"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
)

// blobs stands for a bundle in tests: it opens blobs by digest.
type blobs map[bundle.Digest][]byte

func (b blobs) open(d bundle.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b[d.Digest])), nil
}

type file struct {
	name string
	mode int64
	body []byte
}

// layer returns a gzip layer with files, or with one random file of 20 KiB.
func layer(t *testing.T, files ...file) v1.Layer {
	return layerOf(t, compression.GZip, types.OCILayer, files...)
}

func layerOf(t *testing.T, c compression.Compression, mediaType types.MediaType, files ...file) v1.Layer {
	t.Helper()
	if files == nil {
		body := make([]byte, 20<<10)
		rand.Read(body)
		files = []file{{"data-" + rand.Text(), 0o644, body}}
	}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.body)), ModTime: time.Unix(1e9, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithCompression(c), tarball.WithMediaType(mediaType))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// image makes an image of layers for the platform p and puts its blobs in b.
func (b blobs) image(t *testing.T, p bundle.Platform, cfg v1.Config, layers ...v1.Layer) bundle.Image {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	img, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), &v1.ConfigFile{
		OS: p.OS(), Architecture: p.Arch(), Variant: p.Variant(), Created: v1.Time{Time: time.Unix(1e9, 0)},
		RootFS: v1.RootFS{Type: "layers"}, Config: cfg,
	})
	must(err)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err = mutate.AppendLayers(img, layers...)
	must(err)
	rawManifest, err := img.RawManifest()
	must(err)
	rawConfig, err := img.RawConfigFile()
	must(err)
	m, err := img.Manifest()
	must(err)
	c, err := img.ConfigFile()
	must(err)
	out := bundle.Image{
		Platform: p,
		Manifest: bundle.Descriptor{MediaType: string(m.MediaType), Digest: bundle.DigestOf(rawManifest), Size: int64(len(rawManifest))},
		Config:   bundle.Descriptor{MediaType: string(m.Config.MediaType), Digest: bundle.DigestOf(rawConfig), Size: int64(len(rawConfig))},
	}
	b[out.Manifest.Digest], b[out.Config.Digest] = rawManifest, rawConfig
	for i, l := range layers {
		r, err := l.Compressed()
		must(err)
		raw, err := io.ReadAll(r)
		must(err)
		d := bundle.DigestOf(raw)
		b[d] = raw
		out.Layers = append(out.Layers, bundle.Layer{
			Descriptor: bundle.Descriptor{MediaType: string(m.Layers[i].MediaType), Digest: d, Size: int64(len(raw))},
			DiffID:     bundle.Digest(c.RootFS.DiffIDs[i].String()),
		})
	}
	return out
}

func tagged(app string, images ...bundle.Image) []TaggedImage {
	var list []TaggedImage
	for _, img := range images {
		list = append(list, TaggedImage{Tag(app, img), img})
	}
	return list
}
