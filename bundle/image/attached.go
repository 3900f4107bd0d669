package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/valise-ota/valise/bundle"
)

// SBOMKind is a standard for software bills of materials.
type SBOMKind string

// What is taken along.
const (
	SPDX      SBOMKind = "spdx"      // SPDX 2, JSON
	CycloneDX SBOMKind = "cyclonedx" // JSON
)

// maxSBOM bounds an attached document, in bytes.
const maxSBOM = 64 << 20

// sbomKinds are the media types, artifact types and predicate types of SBOMs.
var sbomKinds = map[string]SBOMKind{
	"application/spdx+json":          SPDX,
	"text/spdx+json":                 SPDX, // cosign
	"https://spdx.dev/Document":      SPDX, // BuildKit
	"application/vnd.cyclonedx+json": CycloneDX,
	"https://cyclonedx.org/bom":      CycloneDX,
}

// SBOMs returns what is attached to an image of the collection where it comes from,
// at most one document of a kind: BuildKit's attestations in the image index,
// referrers of the image manifest (OCI 1.1), and cosign's tag sha256-HEX.sbom. Who
// wrote the documents is not checked. An image made here has none.
func (c *Collection) SBOMs(ctx context.Context, manifest bundle.Digest) (map[SBOMKind][]byte, error) {
	r, ok := c.origins[manifest]
	if !ok || r.source == nil {
		return nil, nil
	}
	found := map[SBOMKind][]byte{}
	if err := r.attestations(ctx, manifest, found); err != nil {
		return nil, fmt.Errorf("read attestations of %s: %w", r.text, err)
	}
	if registry, ok := r.source.(*registrySource); ok {
		if err := registry.referrers(ctx, manifest, found); err != nil {
			return nil, fmt.Errorf("read what is attached to %s: %w", r.text, err)
		}
	}
	return found, nil
}

// attestations looks for BuildKit's: images of the index for no platform, whose
// layers are in-toto statements.
func (r *root) attestations(ctx context.Context, manifest bundle.Digest, found map[SBOMKind][]byte) error {
	if r.index == nil {
		return nil
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(r.raw))
	if err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" || d.Annotations["vnd.docker.reference.digest"] != string(manifest) {
			continue
		}
		raw, err := r.source.document(ctx, d)
		if err != nil {
			return err
		}
		m, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		for _, l := range m.Layers {
			kind := sbomKinds[l.Annotations["in-toto.io/predicate-type"]]
			if kind == "" {
				continue
			}
			b, err := readSBOM(l, r.source.layer(ctx, l))
			if err != nil {
				return err
			}
			var statement struct {
				Predicate json.RawMessage `json:"predicate"`
			}
			if err := json.Unmarshal(b, &statement); err != nil {
				return err
			}
			take(found, kind, statement.Predicate)
		}
	}
	return nil
}

// referrers asks the registry, which may know nothing of such things.
func (r *registrySource) referrers(ctx context.Context, manifest bundle.Digest, found map[SBOMKind][]byte) error {
	repository := r.reference.Context()
	index, err := remote.Referrers(repository.Digest(string(manifest)), r.with(ctx)...)
	if err == nil {
		list, err := index.IndexManifest()
		if err != nil {
			return err
		}
		for _, d := range list.Manifests {
			if sbomKinds[d.ArtifactType] != "" {
				if err := r.artifact(ctx, repository.Digest(d.Digest.String()), d.ArtifactType, found); err != nil {
					return err
				}
			}
		}
	} else if !refused(err) {
		return err
	}
	err = r.artifact(ctx, repository.Tag(strings.Replace(string(manifest), ":", "-", 1)+".sbom"), "", found)
	if refused(err) {
		return nil
	}
	return err
}

// artifact takes the first layer of an image manifest when it is an SBOM.
func (r *registrySource) artifact(ctx context.Context, reference name.Reference, artifactType string, found map[SBOMKind][]byte) error {
	got, err := remote.Get(reference, r.with(ctx)...)
	if err != nil {
		return err
	}
	m, err := v1.ParseManifest(bytes.NewReader(got.Manifest))
	if err != nil {
		return err
	}
	if len(m.Layers) == 0 {
		return nil
	}
	kind := sbomKinds[string(m.Layers[0].MediaType)]
	if kind == "" {
		kind = sbomKinds[artifactType]
	}
	if kind == "" {
		return nil
	}
	b, err := readSBOM(m.Layers[0], r.layer(ctx, m.Layers[0]))
	if err != nil {
		return err
	}
	take(found, kind, b)
	return nil
}

// take keeps the first document of a kind that is one.
func take(found map[SBOMKind][]byte, kind SBOMKind, b []byte) {
	var head struct {
		SPDX string `json:"spdxVersion"`
		CDX  string `json:"bomFormat"`
	}
	good := json.Unmarshal(b, &head) == nil && (kind == SPDX && strings.HasPrefix(head.SPDX, "SPDX-2.") || kind == CycloneDX && head.CDX == "CycloneDX")
	if _, ok := found[kind]; !ok && good {
		found[kind] = b
	}
}

func readSBOM(d v1.Descriptor, open opener) ([]byte, error) {
	if d.Size > maxSBOM {
		return nil, fmt.Errorf("SBOM %s has %d bytes, limit %d", d.Digest, d.Size, maxSBOM)
	}
	rc, err := open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxSBOM+1))
	if err != nil {
		return nil, err
	}
	if got := hashOf(b); got != d.Digest {
		return nil, fmt.Errorf("SBOM has digest %s, want %s", got, d.Digest)
	}
	return b, nil
}

// refused reports that a registry has no such thing, or does not say.
func refused(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) && answer.StatusCode >= 400 && answer.StatusCode < 500
}
