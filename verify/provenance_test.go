package verify_test

import (
	"errors"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/provenance"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// TestProvenance: what a policy wants to know must be said, by the certificate of
// the signature or by the signer, and must be right.
func TestProvenance(t *testing.T) {
	s := verifytest.NewSigner(t)
	plain := func(files map[string]string) (*bundle.Manifest, *bundletest.Content) {
		return bundletest.Release(t, bundletest.Spec{Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"}, Files: files})
	}
	// with is a release signed with a key, with the provenance that change makes.
	with := func(change func(*provenance.Statement)) []byte {
		files := map[string]string{"sbom/api-linux-amd64.cdx.json": "{}"}
		m, _ := plain(files)
		p := provenance.New(m, provenance.ExternalParameters{Project: "valise.yaml", Workflow: &provenance.Workflow{
			Ref: "refs/tags/v1.0.0", Repository: "https://github.com/valise-test/app", Path: ".github/workflows/release.yml",
		}}, nil, provenance.RunDetails{Builder: provenance.Builder{ID: provenance.GitHubHosted}}, nil)
		change(p)
		b, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		files[provenance.Name] = string(b)
		m, c := plain(files)
		return s.Bundle(t, m, c)
	}
	m, c := plain(nil)
	bare := s.Bundle(t, m, c)
	said := with(func(*provenance.Statement) {})
	keyless := fixture(t, "shop-1.2.3.tar.gz")
	byKey := func(p verify.ProvenancePolicy) verify.Policy {
		return verify.Policy{Signers: s.Policy().Signers, Provenance: p}
	}
	byIdentity := func(p verify.ProvenancePolicy) verify.Policy {
		return verify.Policy{Signers: []verify.Signer{releaseTag}, TrustedRoot: fixture(t, "trusted_root.json"), Provenance: p}
	}
	all := verify.ProvenancePolicy{
		Builder: provenance.GitHubHosted, Repository: "https://github.com/valise-test/app", RefRegexp: `refs/tags/v[0-9.]+`, Workflow: ".github/workflows/release.yml",
	}
	for _, tc := range []struct {
		name   string
		policy verify.Policy
		b      []byte
		check  string
	}{
		{"nothing wanted", byKey(verify.ProvenancePolicy{}), bare, ""},
		{"the signer says it", byKey(all), said, ""},
		{"the certificate says it", byIdentity(all), keyless, ""},
		{"nobody says it", byKey(all), bare, verify.CheckProvenance},
		{"nobody says who built", byKey(verify.ProvenancePolicy{Builder: provenance.GitHubHosted}), bare, verify.CheckProvenance},
		{"another builder", byKey(verify.ProvenancePolicy{Builder: provenance.SelfHosted}), said, verify.CheckProvenance},
		{"another builder, certified", byIdentity(verify.ProvenancePolicy{Builder: provenance.SelfHosted}), keyless, verify.CheckProvenance},
		{"another repository", byKey(verify.ProvenancePolicy{Repository: "https://github.com/evil/app"}), said, verify.CheckProvenance},
		{"another repository, certified", byIdentity(verify.ProvenancePolicy{Repository: "https://github.com/evil/app"}), keyless, verify.CheckProvenance},
		{"another ref", byKey(verify.ProvenancePolicy{Ref: "refs/heads/main"}), said, verify.CheckProvenance},
		{"another ref, certified", byIdentity(verify.ProvenancePolicy{Ref: "refs/heads/main"}), keyless, verify.CheckProvenance},
		{"a part of the ref", byIdentity(verify.ProvenancePolicy{RefRegexp: "tags"}), keyless, verify.CheckProvenance},
		{"another workflow", byKey(verify.ProvenancePolicy{Workflow: ".github/workflows/test.yml"}), said, verify.CheckProvenance},
		{"another workflow, certified", byIdentity(verify.ProvenancePolicy{Workflow: ".github/workflows/test.yml"}), keyless, verify.CheckProvenance},
		{"provenance of another release", byKey(all), with(func(p *provenance.Statement) {
			p.Predicate.BuildDefinition.ExternalParameters.Version = "1.0.0"
		}), verify.CheckProvenance},
		{"provenance that is none", byKey(all), func() []byte {
			m, c := plain(map[string]string{provenance.Name: "{}"})
			return s.Bundle(t, m, c)
		}(), verify.CheckProvenance},
		{"inventory", byKey(verify.ProvenancePolicy{SBOM: true}), said, ""},
		{"inventory of another image", byKey(verify.ProvenancePolicy{SBOM: true}), func() []byte {
			m, c := plain(map[string]string{"sbom/web-linux-amd64.cdx.json": "{}"})
			return s.Bundle(t, m, c)
		}(), verify.CheckSBOM},
		{"no inventory", byKey(verify.ProvenancePolicy{SBOM: true}), bare, verify.CheckSBOM},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := check(t, tc.policy, tc.b, verify.Want{})
			refused := new(verify.Error)
			if tc.check == "" && err != nil || tc.check != "" && (!errors.As(err, &refused) || refused.Check != tc.check) {
				t.Errorf("got %v, want check %q", err, tc.check)
			}
		})
	}
	for name, p := range map[string]verify.ProvenancePolicy{"two refs": {Ref: "x", RefRegexp: "x"}, "broken expression": {RefRegexp: "("}, "escaping the group": {RefRegexp: ")|(.*"}} {
		if _, err := verify.New(byKey(p)); err == nil {
			t.Errorf("policy with %s: accepted", name)
		}
	}
}
