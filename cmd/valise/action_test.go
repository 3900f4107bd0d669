package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

// TestSharedWorkflow: a reusable workflow of another repository signs for everybody who
// calls it, which is said; one of this repository does not.
func TestSharedWorkflow(t *testing.T) {
	for workflow, warns := range map[string]bool{
		"acme/shop/.github/workflows/release.yml@refs/tags/v1.0.0":   false,
		"acme/shop/.github/workflows/shared.yml@refs/tags/v1.0.0":    false,
		"acme/shared/.github/workflows/valise.yml@refs/heads/main":   true,
		"acme/shop-fork/.github/workflows/release.yml@refs/tags/v1":  true,
		"mallory/shop/.github/workflows/release.yml@refs/tags/v1.0.": true,
	} {
		claims, err := json.Marshal(map[string]string{"iss": cli.GitHubIssuer, "job_workflow_ref": workflow})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			json.NewEncoder(w).Encode(map[string]string{"value": "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"})
		}))
		t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", server.URL+"/?x=1")
		t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t")
		t.Setenv("GITHUB_REPOSITORY", "acme/shop")
		t.Setenv("GITHUB_SERVER_URL", "")
		var out strings.Builder
		s := (&app{App: cli.App{Env: cli.Env{Stdout: &out, Getenv: os.Getenv}}}).newStep()
		identity, issuer, err := s.identity(t.Context())
		server.Close()
		if err != nil || identity != "https://github.com/"+workflow || issuer != cli.GitHubIssuer {
			t.Fatalf("%s: %q %q %v", workflow, identity, issuer, err)
		}
		if got := strings.Contains(out.String(), "::warning::this is signed as "+workflow+", and so is what any other repository signs"); got != warns {
			t.Errorf("%s: %s", workflow, out.String())
		}
	}
}
