package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/valise-ota/valise/bundle/web"
)

// Limits of what is downloaded for a build, besides its size.
const (
	downloadStall   = 30 * time.Second // it may be silent for so long
	downloadTimeout = time.Hour        // all of it, with every try
	downloadTries   = 3
)

// client reads answers of at most limit bytes. It does not go from https to http.
func client(limit int64) *http.Client {
	return &http.Client{Transport: &web.Guard{Next: web.Transport(), Limit: limit, Stall: downloadStall},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return fmt.Errorf("redirect to %s, which is not https, refused", req.URL.Host)
			}
			return nil
		}}
}

// download downloads a file of at most limit bytes, and returns its SHA-256. It must be
// want unless that is empty: what has another one is never there under its name.
func download(ctx context.Context, url, want, path string, limit int64) (sum string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	return backoff.Retry(ctx, func() (string, error) { return downloadOnce(ctx, url, want, path, limit) }, backoff.WithMaxTries(downloadTries))
}

func downloadOnce(ctx context.Context, url, want, path string, limit int64) (string, error) {
	body, err := get(ctx, url, limit)
	if err != nil {
		return "", err
	}
	defer body.Close()
	f, err := newFile(path)
	if err != nil {
		return "", backoff.Permanent(err)
	}
	defer f.Cleanup()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, hash), body); err != nil {
		return "", err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	if want != "" && sum != want {
		return "", backoff.Permanent(fmt.Errorf("it has sha256:%s, want sha256:%s", sum, want))
	}
	return sum, f.CloseAtomicallyReplace()
}

// get asks for a document. An error that another try does not mend is a permanent one.
func get(ctx context.Context, url string, limit int64) (io.ReadCloser, error) {
	return getBy(ctx, client(limit), url)
}

func getBy(ctx context.Context, c *http.Client, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, backoff.Permanent(err)
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, errors.Unwrap(err) // the URL is said
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	res.Body.Close()
	err = fmt.Errorf("the server answers %s", res.Status)
	if res.StatusCode < 500 && res.StatusCode != http.StatusTooManyRequests {
		err = backoff.Permanent(err)
	}
	return nil, err
}
