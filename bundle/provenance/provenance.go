// Package provenance says how a release was built: in the bundle's file
// provenance.json stands an in-toto statement with SLSA provenance about
// everything else in the bundle. The manifest lists that file, so who signs the
// release signs its provenance, and a device can compare it with a policy offline.
package provenance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
)

// Name is the path of the statement in a bundle.
const Name = "provenance.json"

// MaxSize bounds the statement, in bytes.
const MaxSize = bundle.MaxManifestSize

// Types of what Name holds. BuildType is where its parameters are described.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	BuildType     = "https://github.com/valise-ota/valise/blob/main/docs/provenance.md"
)

// Builders: who vouches for the rest of the statement. GitHub's own provenance
// calls its runners the same.
const (
	GitHubHosted = "https://github.com/actions/runner/github-hosted"
	SelfHosted   = "https://github.com/actions/runner/self-hosted"
	Local        = BuildType + "#local"
)

// Statement is an in-toto statement, version 1.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Predicate  `json:"predicate"`
}

// Resource is something that has a digest. The keys of Digest are sha256 and
// gitCommit.
type Resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// Predicate is SLSA provenance, version 1.
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says what was built from what.
type BuildDefinition struct {
	BuildType            string             `json:"buildType"`
	ExternalParameters   ExternalParameters `json:"externalParameters"`
	InternalParameters   *Internal          `json:"internalParameters,omitempty"`
	ResolvedDependencies []Resource         `json:"resolvedDependencies,omitempty"`
}

// ExternalParameters are what the person or workflow that builds can choose.
type ExternalParameters struct {
	App       string            `json:"app"`
	Version   string            `json:"version"`
	Platforms []bundle.Platform `json:"platforms"`
	Project   string            `json:"project"` // valise.yaml, from the top of the repository
	Workflow  *Workflow         `json:"workflow,omitempty"`
}

// Workflow is the GitHub Actions workflow that built, as GitHub's own provenance
// names it.
type Workflow struct {
	Ref        string `json:"ref"`        // refs/tags/v1.2.3
	Repository string `json:"repository"` // https://github.com/OWNER/REPO
	Path       string `json:"path"`       // .github/workflows/release.yml
}

// Internal are parameters that the platform sets.
type Internal struct {
	GitHub GitHub `json:"github"`
}

// GitHub is what GitHub Actions says of a run.
type GitHub struct {
	EventName         string `json:"event_name"`
	RepositoryID      string `json:"repository_id"`
	RepositoryOwnerID string `json:"repository_owner_id"`
}

// RunDetails says who built. There are no times in it: the same inputs give the
// same bytes.
type RunDetails struct {
	Builder  Builder   `json:"builder"`
	Metadata *Metadata `json:"metadata,omitempty"`
}

// Builder is the platform that built, and the versions of its parts.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// Metadata names the run.
type Metadata struct {
	InvocationID string `json:"invocationId"` // URL of the workflow run
}

// New returns the statement about a release whose manifest has everything but Name.
// source may be nil; dependencies are what the images were made from.
func New(m *bundle.Manifest, p ExternalParameters, dependencies []Resource, run RunDetails, internal *Internal) *Statement {
	p.App, p.Version, p.Platforms = m.App, m.Version, m.Platforms
	s := &Statement{Type: StatementType, PredicateType: PredicateType, Subject: subject(m)}
	s.Predicate.RunDetails = run
	s.Predicate.BuildDefinition = BuildDefinition{BuildType: BuildType, ExternalParameters: p, InternalParameters: internal}
	if src := m.Source; src != nil && src.Commit != "" {
		r := Resource{Digest: map[string]string{"gitCommit": src.Commit}}
		if src.Repository != "" {
			r.URI = "git+" + src.Repository
			if src.Ref != "" {
				r.URI += "@" + src.Ref
			}
		}
		dependencies = append([]Resource{r}, dependencies...)
	}
	s.Predicate.BuildDefinition.ResolvedDependencies = dependencies
	return s
}

// subject is every image of a release, by the digest of its image index or its only
// image manifest, and every file but the statement itself.
func subject(m *bundle.Manifest) []Resource {
	sum := func(d bundle.Digest) map[string]string { return map[string]string{"sha256": d.Hex()} }
	var list []Resource
	for _, c := range m.Components {
		d := c.Images[0].Manifest.Digest
		if c.Index != nil {
			d = c.Index.Digest
		}
		list = append(list, Resource{Name: c.Reference, Digest: sum(d)})
	}
	for _, f := range m.Files {
		if f.Path != Name {
			list = append(list, Resource{Name: f.Path, Digest: sum(f.Digest)})
		}
	}
	order.By(list, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Encode returns the canonical bytes of s.
func (s *Statement) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		return nil, fmt.Errorf("encode provenance: %w", err)
	}
	return b.Bytes(), nil
}

// Parse reads what Encode wrote. Other bytes are refused, so they cannot be read
// in another way.
func Parse(b []byte) (*Statement, error) {
	s := new(Statement)
	if len(b) > MaxSize {
		return nil, fmt.Errorf("read provenance: %d bytes, limit %d", len(b), MaxSize)
	}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("read provenance: %w", err)
	}
	if d := s.Predicate.BuildDefinition; s.Type != StatementType || s.PredicateType != PredicateType || d.BuildType != BuildType {
		return nil, fmt.Errorf("read provenance: it is a %.80q about a %.80q of type %.80q, want %q, %q and %q", s.Type, s.PredicateType, d.BuildType, StatementType, PredicateType, BuildType)
	}
	again, err := s.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("read provenance: not in canonical form")
	}
	return s, nil
}

// About reports why s is not the provenance of m, nil when it is: the statement of
// another release must not speak for this one.
func (s *Statement) About(m *bundle.Manifest) error {
	p := s.Predicate.BuildDefinition.ExternalParameters
	if p.App != m.App || p.Version != m.Version {
		return fmt.Errorf("provenance is about %.80q %.80q, want %q %q", p.App, p.Version, m.App, m.Version)
	}
	want := subject(m)
	same := func(a, b Resource) bool {
		return a.Name == b.Name && a.URI == b.URI && len(a.Digest) == 1 && a.Digest["sha256"] == b.Digest["sha256"]
	}
	if !slices.EqualFunc(s.Subject, want, same) {
		return fmt.Errorf("provenance is about %d images and files that are not the %d of this release", len(s.Subject), len(want))
	}
	return nil
}
