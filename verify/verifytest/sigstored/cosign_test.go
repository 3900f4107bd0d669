package main

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestCosign has cosign itself check what sigstore-go signed, and the other way
// round. It needs a cosign:
//
//	VALISE_COSIGN=$(../../../scripts/sigstore.sh cosign) go test -run Cosign .
func TestCosign(t *testing.T) {
	binary := os.Getenv("VALISE_COSIGN")
	if binary == "" {
		t.Skip("VALISE_COSIGN names no cosign")
	}
	o, key := both(t)
	dir := t.TempDir()
	cosign := func(args ...string) (string, error) {
		c := exec.CommandContext(t.Context(), binary, args...)
		c.Dir = dir
		c.Env = []string{
			"HOME=" + dir, "PATH=" + os.Getenv("PATH"),
			"ACTIONS_ID_TOKEN_REQUEST_URL=" + o.OIDCRequestURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + o.OIDCRequestToken,
			// for what has no trusted root
			"SIGSTORE_ROOT_FILE=" + o.FulcioCertificates, "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=" + o.CTPublicKey,
			"SIGSTORE_REKOR_PUBLIC_KEY=" + key,
		}
		b, err := c.CombinedOutput()
		return string(b), err
	}
	for _, name := range []string{"release", "another"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// check wants verify-blob with the arguments to accept the file as what it is and
	// as nothing else. changed is part of what it says to another file.
	check := func(t *testing.T, changed string, args ...string) {
		t.Helper()
		for _, test := range []struct{ identity, issuer, file, want string }{
			{release, githubIssuer, "release", ""},
			{fork, githubIssuer, "release", "expected"},
			{release, "https://accounts.google.com", "release", "expected"},
			{release, githubIssuer, "another", changed},
		} {
			out, err := cosign(append(append([]string{"verify-blob"}, args...),
				"--certificate-identity", test.identity, "--certificate-oidc-issuer", test.issuer, test.file)...)
			if (err == nil) != (test.want == "") || !strings.Contains(out, test.want) {
				t.Errorf("cosign verify-blob %q: %v\n%s", test, err, out)
			}
		}
	}

	for name, config := range map[string]string{"Rekor v1": o.SigningConfigRekor1, "Rekor v2": o.SigningConfig} {
		t.Run(name, func(t *testing.T) {
			// By itself it takes the time from Rekor v1 only.
			verify := []string{"--new-bundle-format", "--trusted-root", o.TrustedRoot, "--use-signed-timestamps", "--bundle"}

			ours, err := protojson.Marshal(o.sign(t, config, "", "", sha256.Sum256([]byte("release"))))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "ours.json"), ours, 0o644); err != nil {
				t.Fatal(err)
			}
			check(t, "invalid signature", append(verify, "ours.json")...)

			if out, err := cosign("sign-blob", "--yes", "--new-bundle-format", "--bundle", "theirs.json",
				"--signing-config", config, "--trusted-root", o.TrustedRoot, "release"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			check(t, "invalid signature", append(verify, "theirs.json")...)
			theirs, err := os.ReadFile(filepath.Join(dir, "theirs.json"))
			if err != nil {
				t.Fatal(err)
			}
			b := new(bundlepb.Bundle)
			if err := protojson.Unmarshal(theirs, b); err != nil {
				t.Fatal(err)
			}
			if _, err := o.verify(b, expectation{}); err != nil {
				t.Errorf("sigstore-go refuses what cosign signed: %v", err)
			}
		})
	}

	// The format before, and the files that it left behind, through Fulcio's legacy
	// interface. Those files alone need the log to be asked.
	t.Run("legacy", func(t *testing.T) {
		if out, err := cosign("sign-blob", "--yes", "--fulcio-url", o.FulcioURL, "--rekor-url", o.Rekor1URL,
			"--bundle", "legacy.json", "--output-signature", "release.sig", "--output-certificate", "release.cert", "release"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		check(t, "matching bundle to payload", "--offline", "--bundle", "legacy.json")
		check(t, "invalid signature", "--signature", "release.sig", "--certificate", "release.cert", "--rekor-url", o.Rekor1URL)
	})
}
