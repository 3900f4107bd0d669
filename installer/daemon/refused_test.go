package daemon

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer"
)

// refusing refuses every bundle, and calls it by the path it has.
type refusing struct{ *shop }

func (refusing) Plan(_ context.Context, _, path string, _ bool, _ func(installer.Event)) (Offer, error) {
	return Offer{}, fmt.Errorf("open %s: no bundle", path)
}
func (refusing) Explain(err error) (string, string) { return err.Error(), "format" }

// TestRefusedName: the record of a refused upload names the file that came, not the one
// that it was kept in meanwhile.
func TestRefusedName(t *testing.T) {
	for name, want := range map[string]string{
		"shop-1.1.0.tar.gz": "open shop-1.1.0.tar.gz: no bundle", "": "open the file: no bundle", "../../etc/x": "open x: no bundle",
		"a\x1b[2Jb": `open a\x1b[2Jb: no bundle`, strings.Repeat("x", 300): "open the file: no bundle",
	} {
		d := newShop(t, Apply)
		a := d.boot()
		t.Cleanup(a.close)
		a.Device = refusing{d}
		u, err := a.begin("ann", NewUpload{Name: name, Size: 4})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.write(u, 0, strings.NewReader("data")); err != nil {
			t.Fatal(err)
		}
		r, err := a.finish(t.Context(), u)
		if err == nil || r.Error != want || err.Error() != want {
			t.Errorf("%q: record says %q, the answer %v, want %q", name, r.Error, err, want)
		}
	}
}
