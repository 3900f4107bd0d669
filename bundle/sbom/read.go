package sbom

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/package-url/packageurl-go"
)

// component is what we read of a CycloneDX component.
type component struct {
	Group      string      `json:"group"`
	Name       string      `json:"name"`
	Version    string      `json:"version"`
	PURL       string      `json:"purl"`
	Components []component `json:"components"`
	Properties []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"properties"`
}

// Read returns the packages that a document of either kind lists: ours, or one that
// was attached to an image. Nothing is known of who wrote it.
func Read(b []byte) ([]Package, error) {
	var doc struct {
		Packages []struct {
			Name    string `json:"name"`
			Version string `json:"versionInfo"`
			Purpose string `json:"primaryPackagePurpose"`
			Source  string `json:"sourceInfo"`
			Refs    []struct {
				Type    string `json:"referenceType"`
				Locator string `json:"referenceLocator"`
			} `json:"externalRefs"`
		} `json:"packages"`
		Components []component `json:"components"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read SBOM: %w", err)
	}
	var list []Package
	for _, p := range doc.Packages {
		next := Package{Name: p.Name, Version: p.Version}
		for _, r := range p.Refs {
			if r.Type == "purl" {
				next.PURL = r.Locator
			}
		}
		if source, ok := strings.CutPrefix(p.Source, "built package from: "); ok { // trivy
			next.Source, next.SourceVersion, _ = strings.Cut(source, " ")
		}
		if p.Purpose != "CONTAINER" {
			list = append(list, next.withSource())
		}
	}
	return appendComponents(list, doc.Components), nil
}

func appendComponents(list []Package, components []component) []Package {
	for _, c := range components {
		next := Package{Name: c.Name, Version: c.Version, PURL: c.PURL}
		if c.Group != "" && c.PURL == "" {
			next.Name = c.Group + "/" + c.Name
		}
		var release, epoch string
		for _, p := range c.Properties {
			switch p.Name {
			case "aquasecurity:trivy:SrcName":
				next.Source = p.Value
			case "aquasecurity:trivy:SrcVersion":
				next.SourceVersion = p.Value
			case "aquasecurity:trivy:SrcRelease":
				release = "-" + p.Value
			case "aquasecurity:trivy:SrcEpoch":
				epoch = p.Value + ":"
			}
		}
		if next.SourceVersion != "" {
			next.SourceVersion = epoch + next.SourceVersion + release
		}
		list = appendComponents(append(list, next.withSource()), c.Components)
	}
	return list
}

// withSource adds what the package URL says of the source: scanners write it in
// words of their own.
func (p Package) withSource() Package {
	u, err := packageurl.FromString(p.PURL)
	if err != nil {
		return p
	}
	q := u.Qualifiers.Map()
	switch {
	case p.Source != "":
	case q["source"] != "":
		p.Source, p.SourceVersion = q["source"], q["sourceversion"]
	case q["origin"] != "":
		p.Source = q["origin"]
	default: // NAME, NAME@VERSION or NAME-VERSION-RELEASE.src.rpm
		source, isRPM := strings.CutSuffix(cmp.Or(q["upstream"], q["sourcerpm"]), ".src.rpm")
		p.Source, p.SourceVersion, _ = strings.Cut(source, "@")
		if fields := strings.Split(source, "-"); isRPM && len(fields) > 2 {
			p.Source, p.SourceVersion = strings.Join(fields[:len(fields)-2], "-"), strings.Join(fields[len(fields)-2:], "-")
		}
	}
	if e := q["epoch"]; e != "" && !strings.Contains(p.Version, ":") {
		p.Version = e + ":" + p.Version
	}
	return p
}
