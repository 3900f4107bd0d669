package verify_test

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/verify"
)

// moduleDir is where Go keeps a module that this one requires.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil || len(out) < 2 {
		t.Fatalf("find the files of %s: %v; go mod download %s", module, err, module)
	}
	return strings.TrimSpace(string(out))
}

// TestPublished checks signatures that other projects published through the
// public Sigstore, with the root that is built in, offline. They are read from
// where their modules are.
func TestPublished(t *testing.T) {
	library := filepath.Join(moduleDir(t, "github.com/sigstore/sigstore-go"), "pkg/testing/data")
	cosign := filepath.Join(moduleDir(t, "github.com/sigstore/cosign/v2"), "pkg/cosign/testdata")
	text := sha256.Sum256([]byte("test content"))
	npm := verify.Signer{Issuer: githubIssuer, Identity: "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main"}
	person := verify.Signer{Issuer: "https://github.com/login/oauth", Identity: "brian@dehamer.com"}
	const (
		npmSum     = "sha512:46d4e2f74c4877316640000a6fdf8a8b59f1e0847667973e9859f774dd31b8f1e0937813b777fb66a2ac67d50540fe34640966eee9fc2ccca387082b4c85cd3c"
		slsaSum    = "sha512:bbfd372fc9beeb777fe35d05bb10c0c70a9733d366a75fed7dd18866c7391de3ee7e88ba74dd47abf3e15c845e547fcf0e5c3da80854c751554224d3a6d4e55f"
		privateSum = "sha256:bc103b4a84971ef6459b294a2b98568a2bfb72cded09d4acd1e16366a401f95b"
	)
	textSum := "sha256:" + hex.EncodeToString(text[:])
	key := string(mustRead(t, filepath.Join(library, "public-keys/public-key-validity.pem")))
	for _, tc := range []struct {
		name, file, root string
		signer           verify.Signer
		digest           string
		check            string // empty: accepted
	}{
		{"provenance of an npm package", library + "/bundles/sigstore.js@2.0.0-provenance.sigstore.json", "", npm, npmSum, ""},
		{"of another package", library + "/bundles/sigstore.js@2.0.0-provenance.sigstore.json", "", npm, slsaSum, verify.CheckSignature},
		{"by another workflow", library + "/bundles/sigstore.js@2.0.0-provenance.sigstore.json", "", releaseTag, npmSum, verify.CheckSigner},
		{"an example of the library", filepath.Dir(filepath.Dir(filepath.Dir(library))) + "/examples/bundle-provenance.json", "", npm, "sha512:76176ffa33808b54602c7c35de5c6e9a4deb96066dba6533f50ac234f4f1f4c6b3527515dc17c06fbe2860030f410eee69ea20079bd3a2c6f3dcf3b329b10751", ""},
		{"signed by a person", library + "/bundles/dsse.sigstore.json", "", person, slsaSum, ""},
		{"two signatures in one envelope", library + "/bundles/dsse-2sigs.sigstore.json", "", person, slsaSum, verify.CheckSignature},
		{"an image, attested with cosign", cosign + "/oci-attestation.sigstore.json", "", verify.Signer{Issuer: "https://github.com/login/oauth", Identity: "cody@soyland.com"}, "sha256:732112270d7e59418a8c080b134b24cabd67d250d0d0147a97ed95ba5c280aa4", ""},
		{"a Sigstore of somebody's own", library + "/bundles/othername.sigstore.json", library + "/trusted-roots/scaffolding.json", verify.Signer{Issuer: "http://oidc.local:8080", Identity: "foo!oidc.local"}, privateSum, ""},
		{"the same under the public root", library + "/bundles/othername.sigstore.json", "", verify.Signer{Issuer: "http://oidc.local:8080", Identity: "foo!oidc.local"}, privateSum, verify.CheckSignature},
		{"a key of somebody's own", library + "/bundles/public-key-validity.sigstore.json", "", verify.Signer{Key: key}, textSum, ""},
		{"a key, another file", library + "/bundles/public-key-validity.sigstore.json", "", verify.Signer{Key: key}, privateSum, verify.CheckSignature},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policy := verify.Policy{Signers: []verify.Signer{tc.signer}}
			if tc.root != "" {
				policy.TrustedRoot = mustRead(t, tc.root)
			}
			v, err := verify.New(policy)
			if err != nil {
				t.Fatal(err)
			}
			name, digits, _ := strings.Cut(tc.digest, ":")
			sum, err := hex.DecodeString(digits)
			if err != nil {
				t.Fatal(err)
			}
			sig := mustRead(t, tc.file)
			hash, err := verify.HashOf(sig)
			if want := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha512": crypto.SHA512}[name]; err != nil || hash != want {
				t.Errorf("it is over a %s: %v, want %s", hash, err, want)
			}
			found, err := v.File(hash, sum, sig)
			refused := new(verify.Error)
			switch {
			case tc.check == "" && (err != nil || found != tc.signer):
				t.Errorf("found %v: %v", found, err)
			case tc.check != "" && (!errors.As(err, &refused) || refused.Check != tc.check):
				t.Errorf("got %v, want check %s", err, tc.check)
			}
		})
	}
}
