package compose

import (
	"bytes"
	"crypto/rand"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestNextEnv begins the file of a new device as the example, and leaves one that is
// there alone.
func TestNextEnv(t *testing.T) {
	a := &App{Dir: t.TempDir(), Rand: rand.Reader}
	m := &bundle.Manifest{Version: "1.2.3", Device: bundle.Device{VersionEnv: "SHOP_VERSION", RequiredEnv: []string{"URL"}, Secrets: map[string]bundle.Secret{"KEY": {Hex: 8}}}}
	open := func(name string) (io.ReadCloser, error) {
		if name != ".env.example" {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(strings.NewReader("# all\nURL=https://example.org\nLEVEL=info\nKEY=changeme\nDB=x:${KEY}\nSHOP_VERSION=\n")), nil
	}
	env, generated, err := a.nextEnv(m, open)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := env.Lookup("KEY")
	if want := "# all\nURL=''\nLEVEL=info\nKEY=" + key + "\nDB=x:${KEY}\nSHOP_VERSION=1.2.3\n"; string(env.Bytes()) != want || len(key) != 16 || len(generated) != 1 {
		t.Errorf("got\n%s, %q\nwant\n%s", env.Bytes(), generated, want)
	}
	again, _, err := a.nextEnv(m, open)
	if err != nil || !bytes.Equal(again.Bytes(), env.Bytes()) {
		t.Errorf("the second time: %v\n%s", err, again.Bytes())
	}
	if missing := env.Missing(m.Device.RequiredEnv); len(missing) != 1 {
		t.Errorf("missing %q", missing)
	}
	if err := os.WriteFile(filepath.Join(a.Dir, ".env"), []byte("URL=here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if env, _, err = a.nextEnv(m, open); err != nil || strings.Contains(string(env.Bytes()), "LEVEL") {
		t.Errorf("got %v, %v", env, err)
	}
}
