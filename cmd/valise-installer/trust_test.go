package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

// TestKeylessTrust installs a bundle that a workflow signed. There is no engine:
// what is trusted gets as far as looking for one.
func TestKeylessTrust(t *testing.T) {
	const fixtures = "../../verify/testdata/keyless/"
	const identity = "https://github.com/valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0"
	root := "--trusted-root=" + fixtures + "trusted_root.json"
	policy := func(text string) string {
		return "trust:\n  signers:\n" + text + "  trusted_root: shop.trusted_root.json\n"
	}
	for _, tc := range []struct {
		name   string
		policy string // /etc/valise/shop.yaml
		flags  []string
		code   int
		says   string
	}{
		{"nobody", "", nil, cli.ExitFailed, "no signer is trusted yet"},
		{"identity", "", []string{"--identity", identity, root}, cli.ExitFailed, "reach container engine"},
		{"expression", "", []string{"--identity-regexp", `https://github\.com/valise-test/.*@refs/tags/.*`, root}, cli.ExitFailed, "reach container engine"},
		{"expression of a part", "", []string{"--identity-regexp", "valise-test", root}, cli.ExitRefused, `check "signer"`},
		{"another identity", "", []string{"--identity", "https://github.com/acme/shop", root}, cli.ExitRefused, `it was signed by ` + identity},
		{"another issuer", "", []string{"--identity", identity, "--issuer", "https://example.com", root}, cli.ExitRefused, `check "signer"`},
		{"public root", "", []string{"--identity", identity}, cli.ExitRefused, `check "signature"`},
		{"two ways", "", []string{"--identity", identity, "--key", "x.pub"}, cli.ExitUsage, "exclude each other"},
		{"policy file", policy("    - issuer: https://token.actions.githubusercontent.com\n      identity: " + identity + "\n"), nil, cli.ExitFailed, "reach container engine"},
		{"policy file names another", policy("    - issuer: https://token.actions.githubusercontent.com\n      identity: x\n"), nil, cli.ExitRefused, `this policy trusts x (issuer`},
		{"flags do not widen the policy file", policy("    - issuer: https://token.actions.githubusercontent.com\n      identity: x\n"), []string{"--identity", identity, root}, cli.ExitFailed, "is not trusted here"},
		{"policy without issuer", policy("    - identity: x\n"), nil, cli.ExitFailed, "a signer has a key, or an issuer with identity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			device := t.TempDir()
			if tc.policy != "" {
				etc := filepath.Join(device, "etc/valise")
				raw, err := os.ReadFile(fixtures + "trusted_root.json")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(etc, 0o755); err != nil {
					t.Fatal(err)
				}
				for name, b := range map[string][]byte{"shop.yaml": []byte(tc.policy), "shop.trusted_root.json": raw} {
					if err := os.WriteFile(filepath.Join(etc, name), b, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			env := map[string]string{"DOCKER_HOST": "unix:///nowhere/docker.sock"}
			var stdout, stderr strings.Builder
			code := run(t.Context(), cli.Env{
				Args:   append([]string{"--root", device, "--progress", "none", "install", fixtures + "shop-1.2.3.tar.gz"}, tc.flags...),
				Stdin:  strings.NewReader(""),
				Stdout: &stdout, Stderr: &stderr, Now: time.Now, Getenv: func(k string) string { return env[k] },
			})
			if code != tc.code || !strings.Contains(stderr.String(), tc.says) || stdout.String() != "" {
				t.Errorf("exit code %d, want %d and %q\n%s%s", code, tc.code, tc.says, &stdout, &stderr)
			}
			if _, err := os.Stat(filepath.Join(device, "opt")); err == nil {
				t.Error("it left something in /opt")
			}
		})
	}
}
