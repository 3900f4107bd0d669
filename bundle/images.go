package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// GeneratedFile is a file of images.tar that follows from the components.
type GeneratedFile struct {
	Path string
	Data []byte
}

// Media types this package writes or looks into.
const (
	mediaTypeIndex  = "application/vnd.oci.image.index.v1+json"
	annotationName  = "io.containerd.image.name"
	annotationRef   = "org.opencontainers.image.ref.name"
	imageLayoutFile = `{"imageLayoutVersion":"1.0.0"}`
)

// ArchiveEntries returns the files that make images.tar loadable by hand on every
// engine: an OCI image layout whose index names every image, and a docker archive
// manifest in which the first platform has the tag and every other platform
// TAG-OS-ARCH, so that a load never silently gives the wrong architecture.
func (m *Manifest) ArchiveEntries() ([]GeneratedFile, error) {
	type ociDescriptor struct {
		Descriptor
		Annotations map[string]string `json:"annotations,omitempty"`
		Platform    *ociPlatform      `json:"platform,omitempty"`
	}
	index := struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     []ociDescriptor `json:"manifests"`
	}{2, mediaTypeIndex, []ociDescriptor{}}
	type dockerImage struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	archive := []dockerImage{}
	for _, c := range m.Components {
		name, tag := tagFor(c)
		names := func(tag string) map[string]string {
			return map[string]string{annotationName: fullName(name) + ":" + tag, annotationRef: tag}
		}
		if c.Index != nil {
			index.Manifests = append(index.Manifests, ociDescriptor{*c.Index, names(tag), nil})
		}
		for i, img := range c.Images {
			t := tag
			if i > 0 {
				t += "-" + img.Platform.Dashed()
			}
			if c.Index == nil {
				p := platformOf(img.Platform)
				index.Manifests = append(index.Manifests, ociDescriptor{img.Manifest, names(t), &p})
			}
			d := dockerImage{Config: blobPath(img.Config.Digest), RepoTags: []string{name + ":" + t}}
			for _, l := range img.Layers {
				d.Layers = append(d.Layers, blobPath(l.Digest))
			}
			archive = append(archive, d)
		}
	}
	indexJSON, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	archiveJSON, err := json.Marshal(archive)
	if err != nil {
		return nil, err
	}
	return []GeneratedFile{{"index.json", indexJSON}, {"manifest.json", archiveJSON}, {"oci-layout", []byte(imageLayoutFile)}}, nil
}

// archive lists what ArchiveEntries returns.
func (m *Manifest) archive() ([]File, error) {
	generated, err := m.ArchiveEntries()
	if err != nil {
		return nil, err
	}
	var list []File
	for _, g := range generated {
		list = append(list, File{Path: g.Path, Size: int64(len(g.Data)), Mode: 0o644, Digest: DigestOf(g.Data)})
	}
	return list, nil
}

type ociPlatform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

func platformOf(p Platform) ociPlatform { return ociPlatform{p.Arch(), p.OS(), p.Variant()} }

// tagFor splits the reference of c into name and tag. What is referenced by
// digest alone gets a tag made from the digest, because an archive has no other
// way to name it.
func tagFor(c Component) (name, tag string) {
	name, digest, _ := strings.Cut(c.Reference, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	if digest != "" {
		return name, strings.ReplaceAll(digest, ":", "-")[:min(len(digest), 19)]
	}
	return name, "latest"
}

// fullName adds the registry and directory that Docker leaves out.
func fullName(name string) string {
	first, _, found := strings.Cut(name, "/")
	switch {
	case !found:
		return "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		return "docker.io/" + name
	}
	return name
}

func blobPath(d Digest) string { return "blobs/sha256/" + d.Hex() }

// blobs returns every blob of m once, in the order they have in images.tar:
// image indexes, image manifests and configs, then layers, each in the order of
// platforms first and components second, so that what one platform needs lies
// together.
func (m *Manifest) blobs() []Descriptor {
	small, layers := m.blobsByKind()
	return append(small, layers...)
}

// mayBeMissing reports whether a thin bundle may leave f out: a device that updates
// has an installer and an engine.
func (f File) mayBeMissing() bool {
	return strings.HasPrefix(f.Path, InstallerDir) || strings.HasPrefix(f.Path, EngineDir)
}

// blobsByKind divides blobs into those that every bundle holds and the layers,
// which a thin bundle may leave out.
func (m *Manifest) blobsByKind() (small, layers []Descriptor) {
	seen := map[Digest]bool{}
	add := func(list *[]Descriptor, d Descriptor) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			*list = append(*list, d)
		}
	}
	for _, c := range m.Components {
		if c.Index != nil {
			add(&small, *c.Index)
		}
	}
	for i := range m.Platforms {
		for _, c := range m.Components {
			add(&small, c.Images[i].Manifest)
			add(&small, c.Images[i].Config)
		}
	}
	for i := range m.Platforms {
		for _, c := range m.Components {
			for _, l := range c.Images[i].Layers {
				add(&layers, l.Descriptor)
			}
		}
	}
	return small, layers
}

// imagesSize is the length of an images.tar with these entries.
func imagesSize(archive []File, blobs []Descriptor) int64 {
	n := int64(2 * blockSize)
	for _, f := range archive {
		n += blockSize + f.Size + padding(f.Size)
	}
	for _, b := range blobs {
		n += blockSize + b.Size + padding(b.Size)
	}
	return n
}

// checkImageBlob compares an image manifest or config with what the signed
// manifest says of it: a device that trusts the one must get the other.
func (m *Manifest) checkImageBlob(d Digest, b []byte) error {
	for _, c := range m.Components {
		for _, img := range c.Images {
			var err error
			switch d {
			case img.Manifest.Digest:
				err = img.checkManifest(b)
			case img.Config.Digest:
				err = img.checkConfig(b)
			}
			if err != nil {
				return formatErr("image", fmt.Sprintf("image %s for %s", c.Reference, img.Platform), "%v", err)
			}
		}
	}
	return nil
}

func (img *Image) checkManifest(b []byte) error {
	var got struct {
		Config Descriptor   `json:"config"`
		Layers []Descriptor `json:"layers"`
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&got); err != nil {
		return fmt.Errorf("image manifest: %w", err)
	}
	if got.Config.Digest != img.Config.Digest || len(got.Layers) != len(img.Layers) {
		return fmt.Errorf("image manifest names config %s and %d layers, want %s and %d", got.Config.Digest, len(got.Layers), img.Config.Digest, len(img.Layers))
	}
	for i, l := range got.Layers {
		if l != img.Layers[i].Descriptor {
			return fmt.Errorf("image manifest names layer %d as %s, want %s", i, l.Digest, img.Layers[i].Digest)
		}
	}
	return nil
}

func (img *Image) checkConfig(b []byte) error {
	var got struct {
		ociPlatform
		RootFS struct {
			DiffIDs []Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&got); err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	if got.OS != img.Platform.OS() || got.Architecture != img.Platform.Arch() {
		return fmt.Errorf("image config is for %s/%s", got.OS, got.Architecture)
	}
	if len(got.RootFS.DiffIDs) != len(img.Layers) {
		return fmt.Errorf("image config lists %d diffIDs for %d layers", len(got.RootFS.DiffIDs), len(img.Layers))
	}
	for i, d := range got.RootFS.DiffIDs {
		if d != img.Layers[i].DiffID {
			return fmt.Errorf("image config lists diffID %s for layer %d, want %s", d, i, img.Layers[i].DiffID)
		}
	}
	return nil
}
