package publishtest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What the schemas release and release-asset of GitHub's OpenAPI description require.
var (
	releaseKeys = strings.Fields("assets_url upload_url tarball_url zipball_url created_at published_at draft id node_id author html_url name prerelease tag_name target_commitish assets url")
	assetKeys   = strings.Fields("id name content_type size digest state url node_id download_count label uploader browser_download_url created_at updated_at")
)

// TestShapes: an answer has what GitHub's always have.
func TestShapes(t *testing.T) {
	s := &Server{Repository: "acme/shop", Dir: t.TempDir()}
	srv := httptest.NewServer(s)
	defer srv.Close()
	ask := func(method, url, body string, status int) map[string]any {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+Write)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var answer map[string]any
		if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != status {
			t.Fatalf("%s %s: %s, %v, want %d", method, url, res.Status, err, status)
		}
		return answer
	}
	has := func(answer map[string]any, keys []string) {
		t.Helper()
		for _, key := range keys {
			if _, ok := answer[key]; !ok {
				t.Errorf("no %q in %v", key, answer)
			}
		}
	}
	release := ask(http.MethodPost, srv.URL+"/repos/acme/shop/releases", `{"tag_name":"v1.0.0","draft":true}`, http.StatusCreated)
	has(release, releaseKeys)
	upload, _, _ := strings.Cut(release["upload_url"].(string), "{")
	has(ask(http.MethodPost, upload+"?name=a", "a", http.StatusCreated), assetKeys)
	has(ask(http.MethodPatch, release["url"].(string), `{"draft":false}`, http.StatusOK), releaseKeys)
	has(ask(http.MethodGet, srv.URL+"/repos/acme/shop/releases/tags/v1.1.0", "", http.StatusNotFound), []string{"message", "documentation_url"})
}
