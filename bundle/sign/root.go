package sign

import (
	"fmt"
	"net/http"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
)

// PublicMirror is where the public Sigstore instance publishes its trusted root.
const PublicMirror = tuf.DefaultMirror

// fetchTimeout is for one file of a TUF repository.
const fetchTimeout = 30 * time.Second

// FetchTrustedRoot returns the trusted_root.json that a TUF repository publishes
// now. tufRoot is the root.json to begin with, nil for the public instance's,
// which is built in; the repository proves every later one by the one before.
// Nothing is kept on disk.
func FetchTrustedRoot(mirror string, tufRoot []byte) ([]byte, error) {
	if tufRoot == nil {
		tufRoot = tuf.DefaultRoot()
	}
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPClient(&http.Client{Timeout: fetchTimeout})
	client, err := tuf.New(&tuf.Options{RepositoryBaseURL: mirror, Root: tufRoot, Fetcher: f, DisableLocalCache: true})
	if err != nil {
		return nil, fmt.Errorf("update from %s: %w", mirror, err)
	}
	b, err := client.GetTarget("trusted_root.json")
	if err != nil {
		return nil, fmt.Errorf("update from %s: %w", mirror, err)
	}
	return b, nil
}
