package docker

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"testing"
)

// fakeEngine is an engine that answers what a test tells it to, for failures a
// real one cannot be made to have. A request nobody expects fails the test.
type fakeEngine map[string]http.HandlerFunc // by "METHOD /path" without the API version

var versionPrefix = regexp.MustCompile(`^/v[0-9.]+/`)

func (f fakeEngine) start(t *testing.T) *Engine {
	t.Helper()
	mux := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_ping" {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		key := r.Method + " " + versionPrefix.ReplaceAllString(r.URL.Path, "/")
		h := f[key]
		if h == nil {
			t.Errorf("unexpected request %s", key)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		h(w, r)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(mux))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	e, err := Connect(t.Context(), "unix://"+socket, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// answer is a handler that sends body with status 200.
func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(body))
	}
}

// Answers of /version and /info, cut down to what is read.
const (
	version2010 = `{"Version":"20.10.24+dfsg1","ApiVersion":"1.41","Os":"linux","Arch":"amd64"}`
	version29   = `{"Version":"29.1.0","ApiVersion":"1.52","Os":"linux","Arch":"arm64"}`
	infoGraph   = `{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]],"DockerRootDir":"/var/lib/docker","Architecture":"x86_64"}`
	infoC8d     = `{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]],"DockerRootDir":"/var/lib/docker","Architecture":"aarch64"}`
)

// testContext is for clean-up, when the context of the test has ended.
var testContext = context.Background()
