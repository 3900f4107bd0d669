package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/provenance"
	"github.com/valise-ota/valise/bundle/sbom"
)

// maxDocument bounds an SBOM or provenance statement that is looked into, in bytes.
const maxDocument = 64 << 20

// locate finds content in a bundle that nobody has to trust yet: by the table of
// contents, and when that is of no use by reading all of it.
func locate(ctx context.Context, r *bundle.Reader) error {
	if r.Locate() == nil {
		return nil
	}
	return r.Check(ctx, nil)
}

func readFile(r *bundle.Reader, f bundle.File) ([]byte, error) {
	if f.Size > maxDocument {
		return nil, fmt.Errorf("%s has %d bytes, limit %d", f.Path, f.Size, maxDocument)
	}
	rc, err := r.OpenFile(f.Path)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// origin is what the provenance of a bundle says.
type origin struct {
	Builder  string               `json:"builder"`
	Workflow *provenance.Workflow `json:"workflow,omitempty"`
	Run      string               `json:"run,omitempty"`
}

// originOf returns nil for a bundle without provenance.
func originOf(r *bundle.Reader) (*origin, error) {
	for _, f := range r.Manifest().Files {
		if f.Path != provenance.Name {
			continue
		}
		b, err := readFile(r, f)
		if err != nil {
			return nil, err
		}
		s, err := provenance.Parse(b)
		if err == nil {
			err = s.About(r.Manifest())
		}
		if err != nil {
			return nil, err
		}
		o := &origin{Builder: s.Predicate.RunDetails.Builder.ID, Workflow: s.Predicate.BuildDefinition.ExternalParameters.Workflow}
		if m := s.Predicate.RunDetails.Metadata; m != nil {
			o.Run = m.InvocationID
		}
		return o, nil
	}
	return nil, nil
}

// sbomSummary is one document.
type sbomSummary struct {
	Path     string `json:"path"`
	Packages int    `json:"packages"`

	list []sbom.Package
}

func sbomsOf(r *bundle.Reader) ([]sbomSummary, error) {
	var all []sbomSummary
	for _, f := range r.Manifest().Files {
		if !strings.HasPrefix(f.Path, sbom.Dir) {
			continue
		}
		b, err := readFile(r, f)
		if err != nil {
			return nil, err
		}
		list, err := sbom.Read(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		all = append(all, sbomSummary{f.Path, len(list), list})
	}
	return all, nil
}

// sbomFor returns a document about the image that a service runs, nil if there is
// none.
func sbomFor(docs []sbomSummary, service string, p bundle.Platform) *sbomSummary {
	for i := range docs {
		if suffix, ok := strings.CutPrefix(docs[i].Path, sbom.Dir+service+"-"+p.Dashed()); ok && (suffix == sbom.SuffixSPDX || suffix == sbom.SuffixCycloneDX) {
			return &docs[i]
		}
	}
	return nil
}

// issuerOID is where Fulcio writes the issuer into a certificate.
var issuerOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}

// claimedSigner is who a signature says it is from. Anybody can write that.
func claimedSigner(signature []byte) string {
	var s struct {
		Material struct {
			PublicKey   struct{ Hint string }
			Certificate struct{ RawBytes []byte }
		} `json:"verificationMaterial"`
	}
	const unknown = "an unknown signer"
	if json.Unmarshal(signature, &s) != nil {
		return unknown
	}
	if hint := s.Material.PublicKey.Hint; hint != "" {
		if sum, err := base64.StdEncoding.DecodeString(hint); err == nil && len(sum) == 32 {
			return "key sha256:" + hex.EncodeToString(sum)[:16]
		}
		return "key " + printable(hint)
	}
	cert, err := x509.ParseCertificate(s.Material.Certificate.RawBytes)
	if err != nil {
		return unknown
	}
	name := unknown
	if len(cert.URIs) > 0 {
		name = cert.URIs[0].String()
	} else if len(cert.EmailAddresses) > 0 {
		name = cert.EmailAddresses[0]
	}
	issuer := ""
	for _, e := range cert.Extensions {
		if e.Id.Equal(issuerOID) {
			asn1.Unmarshal(e.Value, &issuer)
		}
	}
	return fmt.Sprintf("%s (issuer %s)", printable(name), printable(cmp.Or(issuer, "unknown")))
}

// printable keeps text that nobody has checked from steering a terminal.
func printable(s string) string {
	if len(s) > 300 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s[:min(len(s), 300)])
	}
	return s
}
