package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestOperatorFiles has the overrides that docker compose would find, in its order.
func TestOperatorFiles(t *testing.T) {
	a := &App{Dir: t.TempDir()}
	for _, c := range []struct{ add, compose, want string }{
		{"", "compose.yaml", ""},
		{"docker-compose.override.yaml", "compose.yaml", "docker-compose.override.yaml"},
		{"-> docker-compose.override.yml", "compose.yaml", "docker-compose.override.yml docker-compose.override.yaml"},
		{"compose.override.yaml", "compose.yaml", "compose.override.yaml docker-compose.override.yml docker-compose.override.yaml"},
		{"compose.override.yml", "compose.override.yaml", "compose.override.yml docker-compose.override.yml docker-compose.override.yaml"},
	} {
		var err error
		if name, link := strings.CutPrefix(c.add, "-> "); link { // to nothing: docker compose says so
			err = os.Symlink("/nowhere", filepath.Join(a.Dir, name))
		} else if name != "" {
			err = os.WriteFile(filepath.Join(a.Dir, name), []byte("services: {}\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		m := &bundle.Manifest{Device: bundle.Device{Compose: c.compose}}
		var got []string
		for _, file := range a.operatorFiles(m) {
			got = append(got, filepath.Base(file))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("with %s: got %s, want %s", c.add, got, c.want)
		}
		files := a.files(m, "release")
		if want := 1 + min(len(got), 1); len(files) != want {
			t.Errorf("with %s: files are %s", c.add, files)
		}
	}
}
