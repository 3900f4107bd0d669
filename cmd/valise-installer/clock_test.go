package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// TestClock installs with a clock that is years wrong, before and after. What is
// trusted gets as far as looking for an engine. The certificates have expired
// long ago, and what does not prove when it was signed is refused at any time.
func TestClock(t *testing.T) {
	const keyless, vectors = "../../verify/testdata/keyless/", "../../testdata/vectors/"
	dir := t.TempDir()
	byKey, untimed := filepath.Join(dir, "key.tar.gz"), filepath.Join(dir, "untimed.tar.gz")
	vector, err := os.ReadFile(vectors + "good.bundle")
	if err != nil {
		t.Fatal(err)
	}
	_, good, _ := bytes.Cut(vector, []byte("\n\n"))
	if err := os.WriteFile(byKey, good, 0o600); err != nil {
		t.Fatal(err)
	}
	withoutTimestamp(t, keyless+"shop-1.2.3.tar.gz", untimed)
	identity := []string{"--identity=https://github.com/valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0", "--trusted-root=" + keyless + "trusted_root.json"}

	try := func(t *testing.T, now func() time.Time) {
		for _, tc := range []struct {
			name, file string
			trust      []string
			code       int
			says       string
		}{
			{"key", byKey, []string{"--key", vectors + "signer.pub"}, cli.ExitFailed, "reach container engine"},
			{"identity", keyless + "shop-1.2.3.tar.gz", identity, cli.ExitFailed, "reach container engine"},
			{"identity without a timestamp", untimed, identity, cli.ExitRefused, `check "time"`},
		} {
			device := t.TempDir()
			var stdout, stderr strings.Builder
			code := run(t.Context(), cli.Env{
				Args:  append([]string{"--root", device, "--progress", "none", "install", tc.file}, tc.trust...),
				Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Now: now,
				Getenv: func(k string) string { return map[string]string{"DOCKER_HOST": "unix:///nowhere/docker.sock"}[k] },
			})
			if code != tc.code || !strings.Contains(stderr.String(), tc.says) {
				t.Errorf("%s in %d: exit code %d, want %d and %q\n%s", tc.name, now().Year(), code, tc.code, tc.says, &stderr)
			}
		}
	}
	for _, year := range []int{1970, 2099} {
		try(t, func() time.Time { return time.Date(year, 1, 2, 0, 0, 0, 0, time.UTC) })
	}
	// The clock of the whole process, for code that does not ask ours: in a
	// bubble it is the year 2000, and sleeping costs nothing.
	synctest.Test(t, func(t *testing.T) {
		try(t, time.Now)
		time.Sleep(time.Until(time.Date(2099, 1, 2, 0, 0, 0, 0, time.UTC)))
		try(t, time.Now)
	})
}

// withoutTimestamp copies a bundle, less the timestamps of its signature.
func withoutTimestamp(t *testing.T, from, to string) {
	t.Helper()
	r, f, err := parts.OpenBundle(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var signature map[string]any
	if err := json.Unmarshal(r.Signature(), &signature); err != nil {
		t.Fatal(err)
	}
	delete(signature["verificationMaterial"].(map[string]any), "timestampVerificationData")
	changed, err := json.Marshal(signature)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := bundle.Seal(t.Context(), &out, r, changed); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
