package verify

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/provenance"
)

// ProvenancePolicy is what a policy wants to know of a release beyond who signed it.
// An empty field wants nothing.
//
// Two things may say where a release comes from. The certificate of a keyless
// signature is the stronger one: there its authority vouches for the workflow
// that signed. The bundle's provenance.json is what the signer says. Each that
// says something about a field must say what the policy wants, and at least one
// must.
type ProvenancePolicy struct {
	// Builder is the platform that built: for GitHub's own machines
	// https://github.com/actions/runner/github-hosted.
	Builder    string `json:"builder,omitempty" yaml:"builder,omitempty"`
	Repository string `json:"repository,omitempty" yaml:"repository,omitempty"` // of the source: https://github.com/OWNER/REPO
	Ref        string `json:"ref,omitempty" yaml:"ref,omitempty"`               // of the source: refs/tags/v1.2.3
	RefRegexp  string `json:"ref_regexp,omitempty" yaml:"ref_regexp,omitempty"` // must match the whole ref
	Workflow   string `json:"workflow,omitempty" yaml:"workflow,omitempty"`     // .github/workflows/release.yml
	SBOM       bool   `json:"sbom,omitempty" yaml:"sbom,omitempty"`             // a list of what every image is made of is in the bundle
}

// Lines are what p wants, for people.
func (p ProvenancePolicy) Lines() []string {
	var lines []string
	for _, f := range []struct{ name, want string }{{"builder", p.Builder}, {"repository", p.Repository}, {"ref", p.Ref}, {"ref like", p.RefRegexp}, {"workflow", p.Workflow}} {
		if f.want != "" {
			lines = append(lines, f.name+" "+f.want)
		}
	}
	if p.SBOM {
		lines = append(lines, "what its images are made of")
	}
	return lines
}

// githubRunner is how GitHub's provenance names the machines of GitHub Actions;
// certificates have the last part only.
const githubRunner = "https://github.com/actions/runner/"

// validate says what is wrong with what a policy wants.
func (p ProvenancePolicy) validate() error {
	if p.Ref != "" && p.RefRegexp != "" {
		return fmt.Errorf("provenance: ref and ref_regexp exclude each other")
	}
	if _, err := regexp.Compile(p.RefRegexp); err != nil {
		return fmt.Errorf("provenance: ref_regexp: %w", err)
	}
	return nil
}

func (p ProvenancePolicy) check(rel *Release) error {
	if p.SBOM {
		if err := checkSBOM(rel); err != nil {
			return err
		}
	}
	if p.SBOM = false; p == (ProvenancePolicy{}) {
		return nil
	}
	said, err := statement(rel)
	if err != nil {
		return err
	}
	certified := map[string]string{}
	if c := rel.by.certificate; c != nil {
		certified["repository"], certified["ref"] = c.SourceRepositoryURI, c.SourceRepositoryRef
		// https://github.com/OWNER/REPO/.github/workflows/release.yml@refs/tags/v1.2.3
		workflow, _, _ := strings.Cut(c.BuildConfigURI, "@")
		certified["workflow"] = strings.TrimPrefix(workflow, c.SourceRepositoryURI+"/")
		if c.RunnerEnvironment != "" {
			certified["builder"] = githubRunner + c.RunnerEnvironment
		}
	}
	ref := regexp.QuoteMeta(p.Ref)
	if p.RefRegexp != "" {
		ref = p.RefRegexp
	}
	for _, field := range []struct{ name, want, pattern string }{
		{"builder", p.Builder, regexp.QuoteMeta(p.Builder)},
		{"repository", p.Repository, regexp.QuoteMeta(p.Repository)},
		{"ref", p.Ref + p.RefRegexp, ref},
		{"workflow", p.Workflow, regexp.QuoteMeta(p.Workflow)},
	} {
		if field.want == "" {
			continue
		}
		whole, err := regexp.Compile(`\A(?:` + field.pattern + `)\z`)
		if err != nil {
			return fmt.Errorf("trust policy: provenance: %w", err)
		}
		known := false
		for _, source := range []struct {
			name  string
			claim string
		}{{"the certificate of its signature", certified[field.name]}, {provenance.Name + " in it", said[field.name]}} {
			if source.claim == "" {
				continue
			}
			if known = true; !whole.MatchString(source.claim) {
				return refuse(CheckProvenance, nil, "signed by %s, but %s says its %s is %.200q, and this policy wants %q", rel.Signer(), source.name, field.name, source.claim, field.want)
			}
		}
		if !known {
			return refuse(CheckProvenance, nil, "signed by %s, but it does not say what its %s is, and this policy wants %q", rel.Signer(), field.name, field.want)
		}
	}
	return nil
}

// statement returns what provenance.json in a release says, by field; nothing
// when there is none.
func statement(rel *Release) (map[string]string, error) {
	i := slices.IndexFunc(rel.Manifest().Files, func(f bundle.File) bool { return f.Path == provenance.Name })
	if i < 0 {
		return nil, nil
	}
	f, err := rel.OpenFile(provenance.Name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, provenance.MaxSize+1))
	if err != nil {
		return nil, err
	}
	s, err := provenance.Parse(b)
	if err == nil {
		err = s.About(rel.Manifest())
	}
	if err != nil {
		return nil, refuse(CheckProvenance, err, "signed by %s, but %s in it does not say how this release was built: %v", rel.Signer(), provenance.Name, err)
	}
	said := map[string]string{"builder": s.Predicate.RunDetails.Builder.ID}
	if w := s.Predicate.BuildDefinition.ExternalParameters.Workflow; w != nil {
		said["repository"], said["ref"], said["workflow"] = w.Repository, w.Ref, w.Path
	}
	return said, nil
}

// checkSBOM: there is a list for every image and platform, in one of the two
// standards; of an app without images one document will do. What the lists say is
// for people.
func checkSBOM(rel *Release) error {
	if missing := missingSBOM(rel.Manifest()); missing != "" {
		return refuse(CheckSBOM, nil, "signed by %s, but it has no SBOM of %s, which this policy wants; ask its maker for one made with \"valise build --sbom\"", rel.Signer(), missing)
	}
	return nil
}

func missingSBOM(m *bundle.Manifest) string {
	has := func(prefix string, suffixes ...string) bool {
		return slices.ContainsFunc(m.Files, func(f bundle.File) bool {
			end, ok := strings.CutPrefix(f.Path, prefix)
			return ok && (len(suffixes) == 0 || slices.Contains(suffixes, end))
		})
	}
	for _, c := range m.Components {
		for _, img := range c.Images {
			if !has("sbom/"+c.Services[0]+"-"+img.Platform.Dashed(), ".spdx.json", ".cdx.json") {
				return fmt.Sprintf("image %s for %s", c.Reference, img.Platform)
			}
		}
	}
	if len(m.Components) == 0 && !has("sbom/") {
		return "it"
	}
	return ""
}
