//go:build e2e

package device

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/valise-ota/valise/verify"
)

// TestRolloutKeyless: a rollout file that valise signed keylessly, against real servers, counts
// where the policy names its identity, and nowhere else. scripts/e2e.sh makes it, with 1.2.0 at 0 %.
func TestRolloutKeyless(t *testing.T) {
	files, root := os.Getenv("VALISE_TEST_ROLLOUTS"), os.Getenv("VALISE_TRUSTED_ROOT")
	if files == "" || root == "" {
		t.Fatal("VALISE_TEST_ROLLOUTS or VALISE_TRUSTED_ROOT is not set: scripts/e2e.sh sets them")
	}
	trusted, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	const issuer, identity = "https://token.actions.githubusercontent.com", "https://github.com/valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0"
	for name, tc := range map[string]struct{ signers, version, held, note string }{
		"its identity":        {"identity: " + identity, "1.1.0", waits, ""},
		"its repository":      {"identity_regexp: https://github\\.com/valise-test/app/.*", "1.1.0", waits, ""},
		"another identity":    {"identity: " + identity + ".1", "1.2.0", "", "was signed by " + identity},
		"a part of it":        {"identity_regexp: valise-test", "1.2.0", "", "was signed by " + identity},
		"signers of releases": {"", "1.2.0", "", "does not count"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			s.first.Trust = Trust{Policy: func() (verify.Policy, error) {
				p := s.signer.Policy()
				p.TrustedRoot = trusted
				return p, nil
			}}
			if err := s.take(s.bundle("1.0.0", nil), s.first); err != nil {
				t.Fatal(err)
			}
			dir := s.released("1.1.0 1.2.0")
			s.from("path: " + dir)
			if err := os.CopyFS(dir, os.DirFS(files)); err != nil {
				t.Fatal(err)
			}
			if tc.signers != "" {
				s.config(fmt.Sprintf("rollout: {signers: [{%s, issuer: %s}]}\n", tc.signers, issuer))
			} else {
				s.config("rollout: {id: d1}\n")
			}
			notes := s.notes()
			if version, held := s.offered(); version != tc.version || held != tc.held {
				t.Errorf("offered %q, %q; want %q, %q", version, held, tc.version, tc.held)
			}
			if all := strings.Join(*notes, "\n"); !strings.Contains(all, tc.note) || (tc.note == "") != (all == "") {
				t.Errorf("notes are %q, want %q", all, tc.note)
			}
		})
	}
}
