package device

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestLatest: a release that failed here is passed over by the daemon as it is by the
// command, so that an older one that is new here is offered.
func TestLatest(t *testing.T) {
	s := installed(t)
	dir := t.TempDir()
	for _, v := range []string{"1.1.0", "1.2.0"} {
		b, err := os.ReadFile(s.bundle(v, nil))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "shop-"+v+".tar.gz"), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	config, err := os.ReadFile(s.ConfigPath("shop"))
	if err == nil {
		err = os.WriteFile(s.ConfigPath("shop"), fmt.Appendf(config, "source: {path: %s}\n", dir), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &Device{Machine: s.Machine}
	if l, err := d.Latest(t.Context(), "shop"); err != nil || l.Version != "1.2.0" {
		t.Errorf("%+v, %v", l, err)
	}
	s.Sick["1.2.0"] = true
	if err := s.take(filepath.Join(dir, "shop-1.2.0.tar.gz"), Options{}); err == nil {
		t.Fatal("1.2.0 runs")
	}
	if l, err := d.Latest(t.Context(), "shop"); err != nil || l.Version != "1.1.0" {
		t.Errorf("%+v, %v", l, err)
	}
}
