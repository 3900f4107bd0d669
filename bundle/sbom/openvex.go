package sbom

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/package-url/packageurl-go"
)

// Statement is what an OpenVEX document says of one vulnerability.
type Statement struct {
	Vulnerability string `json:"vulnerability"`
	Status        string `json:"status"` // not_affected, affected, fixed, under_investigation
	Justification string `json:"justification,omitempty"`
	Impact        string `json:"impact,omitempty"`
	Action        string `json:"action,omitempty"`

	aliases  []string
	products []vexProduct
}

type vexComponent struct {
	ID          string            `json:"@id"`
	Identifiers map[string]string `json:"identifiers"`
}

type vexProduct struct {
	vexComponent
	Subcomponents []vexComponent `json:"subcomponents"`
}

// IsOpenVEX reports whether a file of a release is an OpenVEX document by its name.
func IsOpenVEX(path string) bool {
	base := strings.ToLower(path[strings.LastIndexByte(path, '/')+1:])
	return base == "openvex.json" || base == "vex.json" || strings.HasSuffix(base, ".openvex.json") || strings.HasSuffix(base, ".vex.json")
}

// ReadOpenVEX returns the statements of an OpenVEX document of version 0.2.
func ReadOpenVEX(b []byte) ([]Statement, error) {
	var doc struct {
		Context    string `json:"@context"`
		Statements []struct {
			Vulnerability struct {
				ID      string   `json:"@id"`
				Name    string   `json:"name"`
				Aliases []string `json:"aliases"`
			} `json:"vulnerability"`
			Products      []vexProduct `json:"products"`
			Status        string       `json:"status"`
			Justification string       `json:"justification"`
			Impact        string       `json:"impact_statement"`
			Action        string       `json:"action_statement"`
		} `json:"statements"`
	}
	var head struct {
		Context string `json:"@context"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("read OpenVEX: %w", err)
	}
	if version, ok := strings.CutPrefix(head.Context, "https://openvex.dev/ns/v0.2."); !ok || version == "" {
		return nil, fmt.Errorf("read OpenVEX: its @context is %.80q, want https://openvex.dev/ns/v0.2.0", head.Context)
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("read OpenVEX: %w", err)
	}
	var list []Statement
	for _, s := range doc.Statements {
		list = append(list, Statement{cmp.Or(s.Vulnerability.Name, s.Vulnerability.ID), s.Status, s.Justification, s.Impact, s.Action, append(s.Vulnerability.Aliases, s.Vulnerability.ID), s.Products})
	}
	return list, nil
}

// Text is a statement in one line: CVE-2026-1 not_affected (vulnerable_code_not_present).
func (s Statement) Text() string {
	text := s.Vulnerability + " " + s.Status
	if why := cmp.Or(s.Justification, s.Action, s.Impact); why != "" {
		text += " (" + why + ")"
	}
	return text
}

// About reports whether a statement is about a package: one that it names, as product
// or as a part of one. Without a version it names every one.
func (s Statement) About(p Package) bool {
	kind, names := p.names()
	if p.Source != "" {
		names = append(names, folded(p.Source))
	}
	for _, c := range s.components() {
		other, err := c.purl()
		if err != nil {
			continue
		}
		about := Package{PURL: other.ToString()}
		k, n := about.names()
		if k == kind && slices.ContainsFunc(n, func(name string) bool { return slices.Contains(names, name) }) &&
			(other.Version == "" || sameVersion(other.Version, p.Version) || sameVersion(other.Version, p.SourceVersion)) {
			return true
		}
	}
	return false
}

// sameVersion compares without an epoch that only one of both has: documents write it
// into the version, beside it, or nowhere.
func sameVersion(a, b string) bool {
	if strings.Contains(a, ":") != strings.Contains(b, ":") {
		a, b = a[strings.IndexByte(a, ':')+1:], b[strings.IndexByte(b, ':')+1:]
	}
	return a == b
}

// Is reports whether a statement is about a vulnerability, by any of its names.
func (s Statement) Is(vulnerability string) bool {
	return slices.ContainsFunc(append(s.aliases, s.Vulnerability), func(name string) bool { return strings.EqualFold(name, vulnerability) })
}

// Whole reports whether a statement names products only, such as an image, and no
// package in one.
func (s Statement) Whole() bool {
	return !slices.ContainsFunc(s.products, func(p vexProduct) bool { return len(p.Subcomponents) > 0 })
}

func (s Statement) components() (all []vexComponent) {
	for _, p := range s.products {
		if all = append(all, p.Subcomponents...); len(p.Subcomponents) == 0 {
			all = append(all, p.vexComponent)
		}
	}
	return all
}

func (c vexComponent) purl() (packageurl.PackageURL, error) {
	if strings.HasPrefix(c.ID, "pkg:") {
		return packageurl.FromString(c.ID)
	}
	return packageurl.FromString(c.Identifiers["purl"])
}
