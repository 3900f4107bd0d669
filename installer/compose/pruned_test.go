package compose

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
)

// TestPruned has an engine on which a prune takes an image that was just loaded: before
// it is looked at, and before a container keeps it.
func TestPruned(t *testing.T) {
	m, content := bundletest.Release(t, bundletest.Spec{Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"}})
	image := m.Components[0].Images[0]
	for _, tt := range []struct {
		name          string
		check, create int // how often the image is gone by then
		loads         int
		want          string
		taken         bool // the image is there, and the name of its keeper is taken
	}{
		{"nothing is pruned", 0, 0, 1, "", false},
		{"before the check", 1, 0, 2, "", false},
		{"before it is kept", 0, 1, 2, "", false},
		{"again and again", 0, 9, 2, "images vanish", false},
		{"its keeper cannot be made", 0, 0, 0, "keep image", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			there, loads, check, create := tt.taken, 0, tt.check, tt.create
			gone := func(w http.ResponseWriter) {
				w.WriteHeader(http.StatusNotFound)
				fmt.Fprint(w, `{"message":"No such image"}`)
			}
			e := engine(t, dir, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Api-Version", "1.41")
				switch path := strings.TrimPrefix(r.URL.Path, "/v1.41"); {
				case path == "/_ping":
				case path == "/version":
					fmt.Fprint(w, `{"Version":"20.10.24","Os":"linux","Arch":"amd64"}`)
				case path == "/info":
					fmt.Fprintf(w, `{"DockerRootDir":%q,"Driver":"overlay2"}`, dir)
				case path == "/images/load":
					_, _ = io.Copy(io.Discard, r.Body)
					loads++
					there = check == 0
					check = max(0, check-1)
					fmt.Fprint(w, `{"stream":"Loaded image"}`)
				case path == "/images/json", path == "/containers/json":
					fmt.Fprint(w, "[]")
				case path == "/containers/create" && tt.taken:
					w.WriteHeader(http.StatusConflict)
					fmt.Fprint(w, `{"message":"the name is taken"}`)
				case path == "/containers/create" && create == 0 && there:
					w.WriteHeader(http.StatusCreated)
					fmt.Fprint(w, `{"Id":"kept"}`)
				case path == "/containers/create":
					there, create = false, create-1
					gone(w)
				case strings.HasPrefix(path, "/images/valise/") && there && r.Method == http.MethodGet:
					fmt.Fprintf(w, `{"Id":%q,"Os":"linux","Architecture":"amd64","RootFS":{"Layers":[%q,%q]}}`,
						image.Config.Digest, image.Layers[0].DiffID, image.Layers[1].DiffID)
				default:
					there = there && r.Method != http.MethodDelete
					gone(w)
				}
			}))
			store, err := release.Create(filepath.Join(dir, "shop"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { store.Close() })
			a := &App{Name: "shop", Engine: e, Releases: store}
			images, err := a.images(m, "linux/amd64")
			if err != nil {
				t.Fatal(err)
			}
			err = a.ensure(t.Context(), images, nil, content.OpenBlob)
			switch {
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, new(*installer.DeviceError)) == tt.taken):
				t.Errorf("got %v, want an error of the device with %q", err, tt.want)
			case tt.want == "" && err != nil:
				t.Error(err)
			}
			if loads != tt.loads {
				t.Errorf("%d loads, want %d", loads, tt.loads)
			}
		})
	}
}
