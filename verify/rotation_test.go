package verify_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// TestRotation: who signs next is what a trusted signer says, and nobody else.
func TestRotation(t *testing.T) {
	now, next, stranger := verifytest.NewSigner(t), verifytest.NewSigner(t), verifytest.NewSigner(t)
	named := func(list ...*verifytest.Signer) *bundle.Trust {
		var trust bundle.Trust
		for _, s := range list {
			trust.Signers = append(trust.Signers, bundle.Signer{Key: s.PublicPEM()})
		}
		return &trust
	}
	release := func(by *verifytest.Signer, version string, trust *bundle.Trust) []byte {
		m, c := bundletest.Release(t, bundletest.Spec{Version: version, Trust: trust})
		return by.Bundle(t, m, c)
	}
	rel, err := check(t, now.Policy(), release(now, "2.0.0", named(next)), verify.Want{})
	if err != nil {
		t.Fatal(err)
	}
	after := now.Policy().After(rel.Rotation())
	if !after.Same(next.Policy()) {
		t.Fatalf("after it %v are trusted", after.Signers)
	}
	for _, tc := range []struct {
		name   string
		policy verify.Policy
		b      []byte
		check  string
	}{
		{"rotated signer before", now.Policy(), release(next, "2.1.0", nil), verify.CheckSignature},
		{"rotated signer after", after, release(next, "2.1.0", nil), ""},
		{"revoked signer", after, release(now, "2.1.0", nil), verify.CheckSignature},
		{"stranger names himself", now.Policy(), release(stranger, "3.0.0", named(stranger)), verify.CheckSignature},
		{"next names itself too early", now.Policy(), release(next, "3.0.0", named(next)), verify.CheckSignature},
		{"a key that is none", now.Policy(), release(now, "2.0.0", &bundle.Trust{Signers: []bundle.Signer{{Key: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}}}), verify.CheckTrust},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := check(t, tc.policy, tc.b, verify.Want{})
			refused := new(verify.Error)
			if tc.check == "" && err != nil || tc.check != "" && (!errors.As(err, &refused) || refused.Check != tc.check) {
				t.Errorf("got %v, want check %q", err, tc.check)
			}
		})
	}
	// The same signers again are no change.
	if rel, err := check(t, next.Policy(), release(next, "2.2.0", named(next)), verify.Want{}); err != nil || rel.Rotation() != nil {
		t.Errorf("the same signer: %v, %v", rel.Rotation(), err)
	}
}

// TestRootRotation: a trusted root is replaced along a chain only, never by an
// older one.
func TestRootRotation(t *testing.T) {
	own, public := fixture(t, "trusted_root.json"), verify.PublicGood
	maker := verify.Signer{Issuer: githubIssuer, IdentityRegexp: `https://github\.com/valise-test/app/.*`}
	for _, tc := range []struct {
		name, file string
		policy     verify.Policy
		check      string
		changes    bool
	}{
		{"one that holds both", "root-both", verify.Policy{Signers: []verify.Signer{maker}, TrustedRoot: own}, "", true},
		{"one that does not vouch for the release", "root-other", verify.Policy{Signers: []verify.Signer{maker}, TrustedRoot: own}, verify.CheckTrust, false},
		{"an older one", "root-older", verify.Policy{Signers: []verify.Signer{maker}, TrustedRoot: own}, "", false},
		{"the one that is there", "root-same", verify.Policy{Signers: []verify.Signer{maker}, TrustedRoot: own}, "", false},
		{"none", "root-none", verify.Policy{Signers: []verify.Signer{maker}, TrustedRoot: own}, verify.CheckTrust, false},
		{"one that only vouches for itself", "root-same", verify.Policy{Signers: []verify.Signer{maker}, TrustedRoot: public}, verify.CheckSignature, false},
		{"one that vouches for itself, on the built-in one", "root-same", verify.Policy{Signers: []verify.Signer{maker}}, verify.CheckSignature, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rel, err := check(t, tc.policy, fixture(t, tc.file+".tar.gz"), verify.Want{})
			refused := new(verify.Error)
			if tc.check != "" {
				if !errors.As(err, &refused) || refused.Check != tc.check {
					t.Errorf("got %v, want check %s", err, tc.check)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r := rel.Rotation(); (r != nil) != tc.changes {
				t.Errorf("it changes %v", r)
			} else if tc.changes && (r.TrustedRoot == nil || !slices.Equal(r.Signers, tc.policy.Signers)) {
				t.Errorf("it changes %v", r)
			} else if tc.changes {
				// The chain goes on: the root after accepts the release too.
				if _, err := check(t, tc.policy.After(r), fixture(t, tc.file+".tar.gz"), verify.Want{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestIdentify(t *testing.T) {
	root := fixture(t, "trusted_root.json")
	found, err := verify.Identify(sum, fixture(t, "fork.sigstore.json"), root)
	if err != nil || !strings.Contains(found.Identity, "github.com/evil/app") || found.Issuer != githubIssuer {
		t.Errorf("found %v: %v", found, err)
	}
	s := verifytest.NewSigner(t)
	for name, sig := range map[string][]byte{
		"another file": fixture(t, "of-another-file.sigstore.json"), "no log": fixture(t, "no-entry.sigstore.json"), "no time": fixture(t, "no-timestamp.sigstore.json"),
		"no certificate log": fixture(t, "no-sct.sigstore.json"), "a key": s.Sign(t, []byte("fixture")), "nothing": []byte("{}"),
	} {
		if found, err := verify.Identify(sum, sig, root); !errors.As(err, new(*verify.Error)) {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
	}
	if found, err := verify.Identify(sum, fixture(t, "good.sigstore.json"), nil); err == nil {
		t.Errorf("under the public root: found %v", found)
	}
}
