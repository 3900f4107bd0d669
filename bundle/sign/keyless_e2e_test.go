//go:build e2e

package sign_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/verify"
)

// These tests need the services that scripts/sigstore.sh runs; make e2e does.
// -update writes the fixtures that the tests of package verify read: signatures
// by real servers, which stay what they are when the certificates have expired.
var update = flag.Bool("update", false, "write verify/testdata/keyless again")

const fixtureDir = "../../verify/testdata/keyless"

// services is the JSON line of the private Sigstore.
type services struct {
	Fulcio       string `json:"fulcio_url"`
	FulcioNoSCT  string `json:"fulcio_no_sct_url"`
	Token        string `json:"oidc_request_url"`
	Bearer       string `json:"oidc_request_token"`
	TrustedRoot  string `json:"trusted_root"`
	Config       string `json:"signing_config"`
	ConfigRekor1 string `json:"signing_config_rekor1"`
}

func load(t *testing.T) services {
	t.Helper()
	var s services
	if err := json.Unmarshal(read(t, os.Getenv("VALISE_SIGSTORE_JSON")), &s); err != nil {
		t.Fatalf("VALISE_SIGSTORE_JSON: %v; eval \"$(scripts/sigstore.sh up DIR)\"", err)
	}
	return s
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// token asks for the token of a job that the parameters describe.
func (s services) token(t *testing.T, parameters string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Token+"&audience=sigstore"+parameters, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "bearer "+s.Bearer)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", res.Status, b, err)
	}
	var answer struct{ Value string }
	if err := json.Unmarshal(b, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Value
}

func (s services) sign(t *testing.T, config []byte, parameters, text string) *sign.Signature {
	t.Helper()
	signer, err := sign.Keyless(config, s.token(t, parameters), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sig, err := signer.Sign(t.Context(), sha256.Sum256([]byte(text)))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestKeyless(t *testing.T) {
	s := load(t)
	root := read(t, s.TrustedRoot)
	for name, config := range map[string]string{"rekor 2": s.Config, "rekor 1": s.ConfigRekor1} {
		sig := s.sign(t, read(t, config), "", "manifest")
		if !strings.HasPrefix(string(sig.Certificate), "-----BEGIN CERTIFICATE-----\n") {
			t.Errorf("%s: certificate is %.40q", name, sig.Certificate)
		}
		v, err := verify.New(verify.Policy{Signers: []verify.Signer{{Issuer: "https://token.actions.githubusercontent.com", IdentityRegexp: "https://github.com/.*"}}, TrustedRoot: root})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Digest(sha256.Sum256([]byte("manifest")), sig.Sigstore); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := v.Digest(sha256.Sum256([]byte("another")), sig.Sigstore); !errors.As(err, new(*verify.Error)) {
			t.Errorf("%s: another file: %v", name, err)
		}
	}
}

// joinRoots returns a trusted root with what is in both.
func joinRoots(t *testing.T, a, b []byte) []byte {
	t.Helper()
	var both, more map[string]any
	if err := errors.Join(json.Unmarshal(a, &both), json.Unmarshal(b, &more)); err != nil {
		t.Fatal(err)
	}
	for key, list := range more {
		if old, ok := both[key].([]any); ok {
			both[key] = append(old, list.([]any)...)
		}
	}
	out, err := json.Marshal(both)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFixtures writes one signature for every row of the table in package
// verify's identity_test.go.
func TestFixtures(t *testing.T) {
	if !*update {
		t.Skip("only with -update")
	}
	s := load(t)
	if err := os.MkdirAll(fixtureDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(fixtureDir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("trusted_root.json", read(t, s.TrustedRoot))
	rekor1, rekor2 := read(t, s.ConfigRekor1), read(t, s.Config)
	const text = "fixture"
	for name, parameters := range map[string]string{
		"good": "", "fork": "&repository=evil/app", "branch": "&ref=refs/heads/main", "other-workflow": "&workflow=evil.yml", "other-issuer": "&enterprise=evil",
	} {
		write(name+".sigstore.json", s.sign(t, rekor2, parameters, text).Sigstore)
		if name == "good" {
			write("good-rekor1.sigstore.json", s.sign(t, rekor1, parameters, text).Sigstore)
		}
	}
	write("blob", []byte(text))
	blob := s.sign(t, rekor2, "", text)
	write("blob.sigstore.json", blob.Sigstore)
	write("blob.sig", blob.Legacy)
	write("blob.cert", blob.Certificate)
	// A whole bundle: the unsigned vector, signed.
	_, vector, _ := bytes.Cut(read(t, "../../testdata/vectors/good-unsigned.bundle"), []byte("\n\n"))
	r, err := bundle.Open(bytes.NewReader(vector), int64(len(vector)))
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	if err := bundle.Seal(t.Context(), &sealed, r, s.sign(t, rekor2, "", string(r.ManifestBytes())).Sigstore); err != nil {
		t.Fatal(err)
	}
	write("shop-1.2.3.tar.gz", sealed.Bytes())
	// Releases that carry a trusted root.
	own, public := read(t, s.TrustedRoot), read(t, "../../verify/trustroot/public-good.json")
	for name, root := range map[string][]byte{
		"both": joinRoots(t, own, public), "other": bytes.Replace(public, []byte(`"start": "20`), []byte(`"start": "21`), 1), "older": public, "same": own, "none": []byte("{}"),
	} {
		m, c := bundletest.Release(t, bundletest.Spec{Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"},
			Files: map[string]string{"trusted_root.json": string(root)}, Trust: &bundle.Trust{TrustedRoot: "trusted_root.json"}})
		b := bundletest.Write(t, m, c)
		r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		var sealed bytes.Buffer
		if err := bundle.Seal(t.Context(), &sealed, r, s.sign(t, rekor2, "", string(r.ManifestBytes())).Sigstore); err != nil {
			t.Fatal(err)
		}
		write("root-"+name+".tar.gz", sealed.Bytes())
	}
	noSCT := bytes.ReplaceAll(rekor2, []byte(s.Fulcio), []byte(s.FulcioNoSCT))
	write("no-sct.sigstore.json", s.sign(t, noSCT, "", text).Sigstore)
	write("of-another-file.sigstore.json", s.sign(t, rekor2, "", "another").Sigstore)

	type object = map[string]any
	change := func(name string, do func(good, other object)) {
		var good, other object
		for _, v := range []struct {
			file string
			to   *object
		}{{"good", &good}, {"of-another-file", &other}} {
			if err := json.Unmarshal(read(t, filepath.Join(fixtureDir, v.file+".sigstore.json")), v.to); err != nil {
				t.Fatal(err)
			}
		}
		do(good, other)
		b, err := json.Marshal(good)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".sigstore.json", b)
	}
	material := func(o object) object { return o["verificationMaterial"].(object) }
	change("no-entry", func(good, _ object) { delete(material(good), "tlogEntries") })
	change("no-timestamp", func(good, _ object) { delete(material(good), "timestampVerificationData") })
	change("entry-of-another", func(good, other object) { material(good)["tlogEntries"] = material(other)["tlogEntries"] })
	change("timestamp-of-another", func(good, other object) {
		material(good)["timestampVerificationData"] = material(other)["timestampVerificationData"]
	})
	change("certificate-of-another", func(good, other object) { material(good)["certificate"] = material(other)["certificate"] })
	change("no-proof", func(good, _ object) {
		delete(material(good)["tlogEntries"].([]any)[0].(object), "inclusionProof")
	})
}
