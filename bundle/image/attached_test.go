package image

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
)

const (
	spdxDoc = `{"spdxVersion":"SPDX-2.3","name":"%s"}`
	cdxDoc  = `{"bomFormat":"CycloneDX","serialNumber":"%s"}`
)

// artifact is an image manifest with one layer, as SBOMs are attached.
func artifact(t *testing.T, mediaType types.MediaType, text string, annotations map[string]string) v1.Image {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img, err := mutate.Append(img, mutate.Addendum{Layer: static.NewLayer([]byte(text), mediaType), Annotations: annotations})
	must(t, err)
	return img
}

func TestSBOMs(t *testing.T) {
	index := newIndex(t, "a", amd64, arm64)
	manifests, err := index.IndexManifest()
	must(t, err)
	amd := manifests.Manifests[0]
	statement := artifact(t, "application/vnd.in-toto+json", `{"_type":"x","predicate":`+fmt.Sprintf(spdxDoc, "buildkit")+`}`,
		map[string]string{"in-toto.io/predicate-type": "https://spdx.dev/Document"})
	attested := mutate.AppendManifests(index, mutate.IndexAddendum{Add: statement, Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd.Digest.String()}}})
	cosignTag := func(host string) {
		tag, err := name.NewTag(host + "/a:sha256-" + amd.Digest.Hex + ".sbom")
		must(t, err)
		must(t, remote.Write(tag, artifact(t, "text/spdx+json", fmt.Sprintf(spdxDoc, "cosign"), nil)))
	}
	refer := func(host string) {
		img := artifact(t, "application/vnd.cyclonedx+json", fmt.Sprintf(cdxDoc, "referrer"), nil)
		img = mutate.ConfigMediaType(img, "application/vnd.cyclonedx+json")
		img = mutate.Subject(img, amd).(v1.Image)
		d, err := img.Digest()
		must(t, err)
		ref, err := name.NewDigest(host + "/a@" + d.String())
		must(t, err)
		must(t, remote.Write(ref, img))
	}
	for name, tc := range map[string]struct {
		index     v1.ImageIndex
		attach    []func(host string)
		spdx, cdx string
	}{
		"nothing":   {index, nil, "", ""},
		"buildkit":  {attested, nil, "buildkit", ""},
		"cosign":    {index, []func(string){cosignTag}, "cosign", ""},
		"referrers": {index, []func(string){refer}, "", "referrer"},
		"all":       {attested, []func(string){cosignTag, refer}, "buildkit", "referrer"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
			t.Cleanup(server.Close)
			host := strings.TrimPrefix(server.URL, "http://")
			push(t, host+"/a:1", tc.index, nil)
			for _, attach := range tc.attach {
				attach(host)
			}
			from := map[string]string{"registry": host + "/a:1"}
			if tc.attach == nil {
				from["layout"] = "oci:" + newLayout(t, tc.index)
			}
			for place, source := range from {
				c, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "a:1", From: source}}})
				must(t, err)
				found, err := c.SBOMs(t.Context(), bundle.Digest(amd.Digest.String()))
				must(t, err)
				for kind, want := range map[SBOMKind]string{SPDX: tc.spdx, CycloneDX: tc.cdx} {
					got := string(found[kind])
					if (want == "") != (got == "") || !strings.Contains(got, want) {
						t.Errorf("%s: %s is %q, want %q", place, kind, got, want)
					}
				}
				// Nothing is attached to the other platform.
				if found, err := c.SBOMs(t.Context(), c.Components[0].Images[1].Manifest.Digest); err != nil || len(found) > 0 {
					t.Errorf("%s: arm64 has %v, %v", place, found, err)
				}
			}
		})
	}
	// A registry that fails is no registry without SBOMs.
	backend := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	broken := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	push(t, host+"/a:1", index, nil)
	c, err := Collect(t.Context(), Options{Platforms: both, Images: []Spec{{Reference: "a:1", From: host + "/a:1"}}})
	must(t, err)
	broken = true
	if _, err := c.SBOMs(t.Context(), bundle.Digest(amd.Digest.String())); err == nil {
		t.Error("a registry that fails has no SBOMs")
	}
}
