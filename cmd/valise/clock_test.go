package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

// TestClock verifies with a clock that is years wrong, before and after: what
// counts is when a certificate was used, as its proofs say.
func TestClock(t *testing.T) {
	const keyless, vectors = "../../verify/testdata/keyless/", "../../testdata/vectors/"
	const fixture = "sha256:f16d05ec6b29248d2c61adb1e9263f78e4f7bace1b955014a2d17872cfe4064d" // of the text "fixture"
	identity := []string{"--identity=https://github.com/valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0", "--trusted-root=" + keyless + "trusted_root.json"}
	vector, err := os.ReadFile(vectors + "good.bundle")
	if err != nil {
		t.Fatal(err)
	}
	byKey := filepath.Join(t.TempDir(), "key.tar.gz")
	_, good, _ := bytes.Cut(vector, []byte("\n\n"))
	if err := os.WriteFile(byKey, good, 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(t *testing.T, now func() time.Time) {
		for _, tc := range []struct {
			args []string
			code int
			says string
		}{
			{[]string{byKey, "--key", vectors + "signer.pub"}, cli.ExitDone, "ok: "},
			{append([]string{keyless + "shop-1.2.3.tar.gz"}, identity...), cli.ExitDone, "ok: "},
			{append([]string{fixture, "--bundle", keyless + "good.sigstore.json"}, identity...), cli.ExitDone, "ok: "},
			{append([]string{fixture, "--bundle", keyless + "no-timestamp.sigstore.json"}, identity...), cli.ExitRefused, `check "time"`},
		} {
			var out strings.Builder
			code := run(t.Context(), cli.Env{
				Args:  append([]string{"verify", "--progress", "none"}, tc.args...),
				Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Now: now, Getenv: func(string) string { return "" },
			})
			if code != tc.code || !strings.Contains(out.String(), tc.says) {
				t.Errorf("%s in %d: exit code %d, want %d and %q\n%s", tc.args[:3], now().Year(), code, tc.code, tc.says, &out)
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
