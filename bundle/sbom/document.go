package sbom

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// tool is what documents name as their maker.
const tool = "valise"

// namespace is where identifiers of documents are. Nothing is served there.
const namespace = "https://github.com/valise-ota/valise/sbom/"

// identity is different for different content: image, packages and tool.
func (img Image) identity() string {
	return strings.Join([]string{string(img.Digest), img.Name, string(img.Platform), img.Tool}, " ")
}

// SPDX writes an SPDX 2.3 document in JSON.
func SPDX(img Image, packages []Package) ([]byte, error) {
	root := &v2_3.Package{
		PackageName: img.Name, PackageSPDXIdentifier: "Image", PackageVersion: string(img.Digest),
		PackageDownloadLocation: "NOASSERTION", PrimaryPackagePurpose: "CONTAINER",
		PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: img.Digest.Hex()}},
	}
	doc := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      img.Name + " " + string(img.Platform),
		DocumentNamespace: namespace + uuid.NewSHA1(uuid.NameSpaceURL, []byte(namespace+img.identity())).String(),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: tool + "-" + img.Tool}},
			Created:  img.Created.UTC().Format(time.RFC3339),
		},
		Packages:      []*v2_3.Package{root},
		Relationships: []*v2_3.Relationship{relation("DOCUMENT", "DESCRIBES", "Image")},
	}
	for i, p := range packages {
		id := fmt.Sprintf("Package-%d", i+1)
		next := &v2_3.Package{
			PackageName: p.Name, PackageSPDXIdentifier: common.ElementID(id), PackageVersion: p.Version,
			PackageDownloadLocation: "NOASSERTION", PackageSourceInfo: "found in /" + p.Path,
		}
		// Package managers write licences in words of their own.
		if len(p.Licenses) > 0 {
			next.PackageLicenseComments = "declared as: " + strings.Join(p.Licenses, ", ")
		}
		if p.PURL != "" {
			next.PackageExternalReferences = []*v2_3.PackageExternalReference{{Category: "PACKAGE-MANAGER", RefType: "purl", Locator: p.PURL}}
		}
		doc.Packages = append(doc.Packages, next)
		doc.Relationships = append(doc.Relationships, relation("Image", "CONTAINS", id))
	}
	var b bytes.Buffer
	err := spdxjson.Write(doc, &b, spdxjson.Indent(" "), spdxjson.EscapeHTML(false))
	return b.Bytes(), err
}

func relation(a, kind, b string) *v2_3.Relationship {
	return &v2_3.Relationship{RefA: common.MakeDocElementID("", a), RefB: common.MakeDocElementID("", b), Relationship: kind}
}

// CycloneDX writes a CycloneDX 1.6 document in JSON.
func CycloneDX(img Image, packages []Package) ([]byte, error) {
	components := []cdx.Component{}
	for i, p := range packages {
		c := cdx.Component{BOMRef: fmt.Sprintf("package-%d", i+1), Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: p.PURL,
			Properties: &[]cdx.Property{{Name: "valise:path", Value: "/" + p.Path}}}
		if len(p.Licenses) > 0 {
			licenses := cdx.Licenses{}
			for _, l := range p.Licenses {
				licenses = append(licenses, cdx.LicenseChoice{License: &cdx.License{Name: l}})
			}
			c.Licenses = &licenses
		}
		components = append(components, c)
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = "urn:uuid:" + uuid.NewSHA1(uuid.NameSpaceURL, []byte(namespace+"cdx "+img.identity())).String()
	bom.Metadata = &cdx.Metadata{
		Timestamp: img.Created.UTC().Format(time.RFC3339),
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: tool, Version: img.Tool}}},
		Component: &cdx.Component{BOMRef: "image", Type: cdx.ComponentTypeContainer, Name: img.Name, Version: string(img.Digest),
			Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: img.Digest.Hex()}},
			Properties: &[]cdx.Property{{Name: "valise:platform", Value: string(img.Platform)}}},
	}
	bom.Components = &components
	var b bytes.Buffer
	err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
	return b.Bytes(), err
}
