package verify_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

func check(t *testing.T, p verify.Policy, b []byte, want verify.Want) (*verify.Release, error) {
	t.Helper()
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	v, err := verify.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return v.Release(context.Background(), r, want, nil)
}

func TestZeroReleaseIsRefused(t *testing.T) {
	if new(verify.Release).Valid() {
		t.Error("the zero value counts as verified")
	}
}

func TestAccepted(t *testing.T) {
	s := verifytest.NewSigner(t)
	m, c := bundletest.Release(t, bundletest.Spec{})
	b := s.Bundle(t, m, c)
	for _, want := range []verify.Want{
		{},
		{App: "shop", Version: "1.2.3", Platform: "linux/arm64", Floor: "1.2.3"},
		{Floor: "1.2.3-rc.1", Bad: []string{"1.2.2"}},
		{Floor: "2.0.0", Bad: []string{"1.2.3"}, Forced: true},
	} {
		rel, err := check(t, s.Policy(), b, want)
		if err != nil {
			t.Errorf("%+v: %v", want, err)
		} else if !rel.Valid() || rel.Signer().Key != s.PublicPEM() {
			t.Errorf("%+v: signer is %v", want, rel.Signer())
		}
	}
	other := verifytest.NewSigner(t)
	both := verify.Policy{Signers: append(other.Policy().Signers, s.Policy().Signers...)}
	if _, err := check(t, both, b, verify.Want{}); err != nil {
		t.Errorf("second signer of a policy: %v", err)
	}
}

func TestRefused(t *testing.T) {
	s, other := verifytest.NewSigner(t), verifytest.NewSigner(t)
	m, c := bundletest.Release(t, bundletest.Spec{})
	good := s.Bundle(t, m, c)
	unsigned := bundletest.Write(t, m, c)
	m2, c2 := bundletest.Release(t, bundletest.Spec{Version: "1.2.4"})
	newer := s.Bundle(t, m2, c2)
	m3, c3 := bundletest.Release(t, bundletest.Spec{Version: "1.0.0"})
	m3.Version = "1.0.0+x" // a tag has no +
	built := s.Bundle(t, m3, c3)
	m4, c4 := bundletest.Release(t, bundletest.Spec{Version: "1.0.0"})
	plain := s.Bundle(t, m4, c4)
	reseal := func(b, signature []byte) []byte {
		r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := bundle.Seal(context.Background(), &out, r, signature); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	signatureOf := func(b []byte) []byte {
		r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		return r.Signature()
	}
	for _, tc := range []struct {
		name  string
		b     []byte
		want  verify.Want
		check string
		says  string
	}{
		{"unsigned", unsigned, verify.Want{}, verify.CheckUnsigned, ""},
		{"another signer", other.Bundle(t, m, c), verify.Want{}, verify.CheckSignature, ""},
		{"signature of another bundle", reseal(unsigned, signatureOf(newer)), verify.Want{}, verify.CheckSignature, ""},
		{"signature is not one", reseal(unsigned, []byte(`{}`)), verify.Want{}, verify.CheckSignature, ""},
		{"attested, not signed", reseal(unsigned, s.Attest(t, encoded(t, m))), verify.Want{}, verify.CheckSignature, ""},
		{"another app", good, verify.Want{App: "till"}, verify.CheckApp, "and not of \"till\": get one of \"till\""},
		{"renamed version", good, verify.Want{Version: "2.0.0"}, verify.CheckVersion, "2.0.0 was asked for: the file was renamed or is the wrong one"},
		{"another platform", good, verify.Want{Platform: "linux/arm/v7"}, verify.CheckPlatform, "this machine is linux/arm/v7"},
		{"downgrade", good, verify.Want{Floor: "1.10.0"}, verify.CheckDowngrade, "older than 1.10.0, the newest that ran here"},
		{"pre-release below its release", good, verify.Want{Floor: "1.2.4-rc.1"}, verify.CheckDowngrade, "older than 1.2.4-rc.1"},
		{"other build metadata", built, verify.Want{Floor: "1.0.0"}, verify.CheckDowngrade, "in build metadata only"},
		{"back from build metadata", plain, verify.Want{Floor: "1.0.0+x"}, verify.CheckDowngrade, "in build metadata only"},
		{"version with other content", good, verify.Want{Known: map[string]bundle.Digest{"1.2.3": bundle.DigestOf(nil)}}, verify.CheckVersion, "two releases of one version"},
		{"failed before", good, verify.Want{Bad: []string{"1.2.3"}}, verify.CheckBad, "version 1.2.3 failed on this device before"},
		{"forced does not touch trust", other.Bundle(t, m, c), verify.Want{Forced: true}, verify.CheckSignature, ""},
		{"forced does not touch the app", good, verify.Want{App: "till", Forced: true}, verify.CheckApp, "till"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rel, err := check(t, s.Policy(), tc.b, tc.want)
			var v *verify.Error
			says := []string{tc.says}
			if tc.says != "" { // a good signature was not enough: whose it is
				says = append(says, s.Policy().Signers[0].String())
			}
			for _, text := range says {
				if !errors.As(err, &v) || v.Check != tc.check || !strings.Contains(err.Error(), text) {
					t.Errorf("got %v, want check %s and %q", err, tc.check, text)
				}
			}
			if rel != nil {
				t.Error("a release came back with the refusal")
			}
			rel, err = checkRemote(t, s.Policy(), tc.b, tc.want)
			if !errors.As(err, &v) || v.Check != tc.check || rel != nil {
				t.Errorf("remote: got %v, want check %s", err, tc.check)
			}
		})
	}
}

func checkRemote(t *testing.T, p verify.Policy, b []byte, want verify.Want) (*verify.Release, error) {
	t.Helper()
	v, err := verify.New(p)
	if err != nil {
		t.Fatal(err)
	}
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return v.Remote(r, want)
}

// TestRemote: a release whose file was not read as a whole gives what the signer
// signed, or an error that names what is something else.
func TestRemote(t *testing.T) {
	s := verifytest.NewSigner(t)
	m, c := bundletest.Release(t, bundletest.Spec{})
	good := s.Bundle(t, m, c)
	api, web := m.Components[0].Images[0].Layers[1].Digest, m.Components[1].Images[0].Layers[1].Digest
	damaged := bytes.Clone(good)
	at := bytes.Index(damaged, c.Blobs[web][:32])
	if at < 0 {
		t.Fatal("the layer is not in the file as it is")
	}
	damaged[at] ^= 1
	rel, err := checkRemote(t, s.Policy(), damaged, verify.Want{App: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if !rel.Valid() || rel.Signer() != s.Policy().Signers[0] || rel.Digest() != bundle.DigestOf(encoded(t, m)) {
		t.Errorf("release is %v", rel)
	}
	read := func(d bundle.Digest) ([]byte, error) {
		rc, err := rel.OpenBlob(d)
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		return io.ReadAll(rc)
	}
	if got, err := read(api); err != nil || !bytes.Equal(got, c.Blobs[api]) {
		t.Errorf("a good layer: %v", err)
	}
	if _, err := read(web); !errors.As(err, new(*bundle.FormatError)) || !strings.Contains(err.Error(), web.Hex()) {
		t.Errorf("a damaged layer: %v", err)
	}
	// Without its end there is no table of contents. That is no refusal.
	rel, err = checkRemote(t, s.Policy(), good[:len(good)-1], verify.Want{})
	if !errors.Is(err, bundle.ErrTOC) || errors.As(err, new(*bundle.FormatError)) || rel != nil {
		t.Errorf("cut off: %v", err)
	}
}

func encoded(t *testing.T, m *bundle.Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestText: a text is taken for what its signer signed, and for nothing that was said of it.
func TestText(t *testing.T) {
	s := verifytest.NewSigner(t)
	v, err := verify.New(s.Policy())
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("text")
	if by, err := v.Text(text, s.Sign(t, text)); err != nil || by.Key != s.PublicPEM() {
		t.Errorf("got %v, %v", by, err)
	}
	for what, signature := range map[string][]byte{
		"a statement": s.Attest(t, text), "of another text": s.Sign(t, []byte("other")), "of another signer": verifytest.NewSigner(t).Sign(t, text), "nothing": nil,
	} {
		refused := new(verify.Error)
		if _, err := v.Text(text, signature); !errors.As(err, &refused) || refused.Check != verify.CheckSignature {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// TestAttestation: of a file that is no release, a statement of the signer is
// accepted as what cosign accepts it as.
func TestAttestation(t *testing.T) {
	s := verifytest.NewSigner(t)
	v, err := verify.New(s.Policy())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Digest(sha256.Sum256([]byte("file")), s.Attest(t, []byte("file"))); err != nil {
		t.Error(err)
	}
	if _, err := v.Digest(sha256.Sum256([]byte("other")), s.Attest(t, []byte("file"))); err == nil {
		t.Error("a statement about another file was accepted")
	}
}

// TestTampered: whatever is changed behind a good signature is refused and named.
func TestTampered(t *testing.T) {
	s := verifytest.NewSigner(t)
	m, c := bundletest.Release(t, bundletest.Spec{Compose: "services: {web: {image: shop/web}}\n"})
	good := s.BundleAs(t, bundle.None, m, c) // everything is in it as it is
	layer := c.Blobs[m.Components[0].Images[0].Layers[1].Digest]
	for name, part := range map[string][]byte{"a layer": layer[:32], "the manifest": []byte(`"version": "1.2.3"`)} {
		b := bytes.Clone(good)
		at := bytes.Index(b, part)
		if at < 0 {
			t.Fatalf("%s is not in the file as it is", name)
		}
		b[at] ^= 1
		if _, err := check(t, s.Policy(), b, verify.Want{}); err == nil {
			t.Errorf("%s changed: accepted", name)
		} else if name == "a layer" && !strings.Contains(err.Error(), "images.tar") {
			t.Errorf("%s changed: %v does not name it", name, err)
		}
	}
}

func TestPolicy(t *testing.T) {
	for name, p := range map[string]verify.Policy{
		"empty":     {},
		"no key":    {Signers: []verify.Signer{{}}},
		"not a key": {Signers: []verify.Signer{{Key: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}}},
	} {
		if _, err := verify.New(p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
