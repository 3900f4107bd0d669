package docker

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
)

// TaggedImage is an image and the tag it gets on the device, see Tag.
type TaggedImage struct {
	Tag   string
	Image bundle.Image
}

// archive is an image archive every engine loads: an OCI image layout for the
// containerd store with docker's own manifest.json for graph drivers, over the
// same blobs. Blobs an engine has may be left out on both.
type archive struct {
	images []TaggedImage       // sorted by tag
	small  []bundle.Descriptor // configs and image manifests, in the order of the caller's images
	layers []bundle.Descriptor // those that are sent, in that order: a bundle has them in it too
	total  int64               // bytes of small and layers
}

func newArchive(images []TaggedImage, skip map[bundle.Digest]bool) (*archive, error) {
	a := &archive{}
	seen := map[bundle.Digest]bool{}
	add := func(to *[]bundle.Descriptor, d bundle.Descriptor) error {
		if !d.Digest.Valid() {
			return fmt.Errorf("load images: digest is %.80q", d.Digest)
		}
		if !seen[d.Digest] {
			seen[d.Digest] = true
			*to = append(*to, d)
			a.total += d.Size
		}
		return nil
	}
	tags := map[string]bool{}
	for _, img := range images {
		if tags[img.Tag] {
			continue // the same image used by two components
		}
		tags[img.Tag] = true
		a.images = append(a.images, img)
		for _, d := range []bundle.Descriptor{img.Image.Manifest, img.Image.Config} {
			if err := add(&a.small, d); err != nil {
				return nil, err
			}
		}
		for _, l := range img.Image.Layers {
			if skip[l.Digest] {
				continue
			}
			if err := add(&a.layers, l.Descriptor); err != nil {
				return nil, err
			}
		}
	}
	order.By(a.images, func(x, y TaggedImage) int { return strings.Compare(x.Tag, y.Tag) })
	return a, nil
}

// write writes the archive to w. Small entries come first, so that an engine
// that reads a stream knows what follows.
func (a *archive) write(w io.Writer, open func(bundle.Descriptor) (io.ReadCloser, error), progress func(done, total int64)) error {
	tw := tar.NewWriter(w)
	index, docker, err := a.indexes()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		body []byte
	}{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index}, {"manifest.json", docker}} {
		if err := tw.WriteHeader(header(f.name, int64(len(f.body)))); err != nil {
			return err
		}
		if _, err := tw.Write(f.body); err != nil {
			return err
		}
	}
	out := &counter{w: tw, total: a.total, progress: progress}
	for _, d := range slices.Concat(a.small, a.layers) {
		if err := tw.WriteHeader(header(blobPath(d.Digest), d.Size)); err != nil {
			return err
		}
		if err := copyBlob(out, d, open); err != nil {
			return err
		}
	}
	return tw.Close()
}

// copyBlob writes exactly the bytes of d. Reading goes on to the end of the
// source, because only there can a verifying reader report a wrong digest.
func copyBlob(w io.Writer, d bundle.Descriptor, open func(bundle.Descriptor) (io.ReadCloser, error)) error {
	r, err := open(d)
	if err != nil {
		return fmt.Errorf("open blob %s: %w", d.Digest, err)
	}
	defer r.Close()
	n, err := io.Copy(w, r)
	if err != nil {
		return fmt.Errorf("copy blob %s: %w", d.Digest, err)
	}
	if n != d.Size {
		return fmt.Errorf("copy blob %s: got %d bytes, want %d", d.Digest, n, d.Size)
	}
	return nil
}

// indexes returns index.json and docker's manifest.json.
func (a *archive) indexes() (index, docker []byte, err error) {
	type descriptor struct {
		bundle.Descriptor
		Annotations map[string]string `json:"annotations"`
	}
	type dockerImage struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	manifests := []descriptor{}
	list := []dockerImage{}
	for _, img := range a.images {
		_, tag, _ := strings.Cut(img.Tag, ":")
		manifests = append(manifests, descriptor{img.Image.Manifest, map[string]string{
			"io.containerd.image.name":          "docker.io/" + img.Tag,
			"org.opencontainers.image.ref.name": tag,
		}})
		layers := []string{}
		for _, l := range img.Image.Layers {
			layers = append(layers, blobPath(l.Digest))
		}
		list = append(list, dockerImage{blobPath(img.Image.Config.Digest), []string{img.Tag}, layers})
	}
	index, err = json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{2, "application/vnd.oci.image.index.v1+json", manifests})
	if err != nil {
		return nil, nil, err
	}
	docker, err = json.Marshal(list)
	return index, docker, err
}

func blobPath(d bundle.Digest) string { return "blobs/sha256/" + d.Hex() }

func header(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
}

// counter reports the bytes written through it.
type counter struct {
	w           io.Writer
	done, total int64
	progress    func(done, total int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}
