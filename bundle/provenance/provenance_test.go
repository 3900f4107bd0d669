package provenance_test

import (
	"bytes"
	"strings"
	"testing"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/provenance"
)

func release(t *testing.T, version string) *bundle.Manifest {
	m, _ := bundletest.Release(t, bundletest.Spec{Version: version})
	m.Source = &bundle.Source{Repository: "https://github.com/o/r", Commit: strings.Repeat("a", 40), Ref: "refs/tags/v1.0.0"}
	return m
}

func statement(m *bundle.Manifest) *provenance.Statement {
	return provenance.New(m, provenance.ExternalParameters{Project: "valise.yaml",
		Workflow: &provenance.Workflow{Ref: "refs/tags/v1.0.0", Repository: "https://github.com/o/r", Path: ".github/workflows/r.yml"}},
		[]provenance.Resource{{Name: "debian:12", URI: "pkg:oci/debian@sha256%3A00?tag=12", Digest: map[string]string{"sha256": strings.Repeat("0", 64)}}},
		provenance.RunDetails{Builder: provenance.Builder{ID: provenance.GitHubHosted}, Metadata: &provenance.Metadata{InvocationID: "https://github.com/o/r/actions/runs/1"}},
		&provenance.Internal{GitHub: provenance.GitHub{EventName: "push", RepositoryID: "1", RepositoryOwnerID: "2"}})
}

// TestStandard: in-toto's own types take the statement and find nothing missing or
// unknown.
func TestStandard(t *testing.T) {
	b, err := statement(release(t, "1.0.0")).Encode()
	if err != nil {
		t.Fatal(err)
	}
	var s intoto.Statement
	if err := protojson.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	predicate, err := protojson.Marshal(s.Predicate)
	if err != nil {
		t.Fatal(err)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(predicate, &p); err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if d := p.BuildDefinition.ResolvedDependencies; len(d) != 2 || d[0].Uri != "git+https://github.com/o/r@refs/tags/v1.0.0" || d[0].Digest["gitCommit"] != strings.Repeat("a", 40) || d[1].Name != "debian:12" {
		t.Errorf("dependencies: %v", d)
	}
}

func TestAbout(t *testing.T) {
	m := release(t, "1.0.0")
	b, err := statement(m).Encode()
	if err != nil {
		t.Fatal(err)
	}
	s, err := provenance.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	// The statement is not about itself.
	m.Files = append(m.Files, bundle.File{Path: provenance.Name, Digest: bundle.DigestOf(b)})
	if err := s.About(m); err != nil {
		t.Error(err)
	}
	m.Files[0].Digest = bundle.DigestOf([]byte("x"))
	for name, other := range map[string]*bundle.Manifest{"another version": release(t, "1.0.1"), "another file": m} {
		if s.About(other) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	m = release(t, "1.0.0")
	m.Components[0].Images[0].Manifest.Digest = bundle.DigestOf([]byte("x"))
	if s.About(m) == nil {
		t.Error("another image: accepted")
	}
}

func TestParseRefuses(t *testing.T) {
	b, err := statement(release(t, "1.0.0")).Encode()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("no %s in %s", old, b)
		}
		return bytes.Replace(b, []byte(old), []byte(new), 1)
	}
	for name, other := range map[string][]byte{
		"cut off":            b[:len(b)-5],
		"more text":          append(bytes.Clone(b), '\n'),
		"key twice":          replace(`"app": "shop"`, `"app": "other", "app": "shop"`),
		"key in other case":  replace(`"app": "shop"`, `"App": "shop"`),
		"unknown key":        replace(`"app": "shop"`, `"app": "shop", "x": 1`),
		"another predicate":  replace(provenance.PredicateType, "https://slsa.dev/provenance/v0.2"),
		"another build type": replace(`"buildType": "`+provenance.BuildType, `"buildType": "https://example.org`),
		"too big":            bytes.Repeat([]byte(" "), provenance.MaxSize+1),
	} {
		if _, err := provenance.Parse(other); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
