package sign_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/valise-ota/valise/bundle/sign"
)

// tufRepository writes a TUF repository that publishes one trusted root, and
// returns its root.json.
func tufRepository(t *testing.T, dir string, trustedRoot []byte, expires time.Time) []byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, private, err := ed25519.GenerateKey(nil)
	must(err)
	key, err := metadata.KeyFromPublicKey(private.Public())
	must(err)
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	must(err)
	root := metadata.Root(expires)
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		must(root.Signed.AddKey(key, role))
	}
	must(os.MkdirAll(filepath.Join(dir, "targets"), 0o755))
	file, err := metadata.TargetFile().FromBytes("trusted_root.json", trustedRoot, "sha256")
	must(err)
	targets := metadata.Targets(expires)
	targets.Signed.Targets["trusted_root.json"] = file
	must(os.WriteFile(filepath.Join(dir, "targets", file.Hashes["sha256"].String()+".trusted_root.json"), trustedRoot, 0o644))
	for _, sign := range []func() error{
		func() error { _, err := root.Sign(signer); return err },
		func() error { _, err := targets.Sign(signer); return err },
	} {
		must(sign())
	}
	snapshot, timestamp := metadata.Snapshot(expires), metadata.Timestamp(expires)
	_, err = snapshot.Sign(signer)
	must(err)
	_, err = timestamp.Sign(signer)
	must(err)
	must(root.ToFile(filepath.Join(dir, "1.root.json"), false))
	must(targets.ToFile(filepath.Join(dir, "1.targets.json"), false))
	must(snapshot.ToFile(filepath.Join(dir, "1.snapshot.json"), false))
	must(timestamp.ToFile(filepath.Join(dir, "timestamp.json"), false))
	b, err := root.ToBytes(false)
	must(err)
	return b
}

func TestFetchTrustedRoot(t *testing.T) {
	want := []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)
	dir := t.TempDir()
	root := tufRepository(t, dir, want, time.Now().Add(time.Hour))
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	got, err := sign.FetchTrustedRoot(server.URL, root)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %q: %v", got, err)
	}
	// A repository of others, one that publishes something else, and one that has
	// not been signed for too long.
	if _, err := sign.FetchTrustedRoot(server.URL, nil); err == nil {
		t.Error("a repository that the public root does not know was taken")
	}
	files, err := filepath.Glob(filepath.Join(dir, "targets/*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], bytes.Replace(want, []byte("0.1"), []byte("0.2"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := sign.FetchTrustedRoot(server.URL, root); err == nil {
		t.Error("a target that was exchanged was taken")
	}
	old := t.TempDir()
	root = tufRepository(t, old, want, time.Now().Add(-time.Hour))
	stale := httptest.NewServer(http.FileServer(http.Dir(old)))
	defer stale.Close()
	if _, err := sign.FetchTrustedRoot(stale.URL, root); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a repository that expired: %v", err)
	}
}
