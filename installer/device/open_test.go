package device

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/source"
)

// TestFetchRoom: a server that gives whole files only, of a size that it likes, fills
// neither /var/tmp nor the inbox.
func TestFetchRoom(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/r/" {
			fmt.Fprint(w, `[{"name":"shop-1.0.0.tar.gz"}]`)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(int64(900<<30)))
		for { // for as long as it is read
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	p := newcomer(t)
	for _, dir := range []string{"etc/valise", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(p.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(p.ConfigPath("shop"), []byte("source: {url: "+srv.URL+"/r/}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Device{Machine: p}
	src, err := s.sourceOf("shop")
	if err != nil {
		t.Fatal(err)
	}
	rel, err := src.Exactly(t.Context(), "1.0.0", source.Query{Platform: host.Platform()})
	if err != nil {
		t.Fatal(err)
	}
	inbox, err := os.Create(filepath.Join(p.Root, "var/x.unverified"))
	if err != nil {
		t.Fatal(err)
	}
	defer inbox.Close()
	daemon := s.with("shop", "", func(installer.Event) {})
	for name, fetch := range map[string]func() error{
		"command": func() error { _, _, err := daemon.download(t.Context(), src, rel.Bundles[0]); return err },
		"daemon":  func() error { return s.Fetch(t.Context(), "shop", "1.0.0", inbox, func(installer.Event) {}) },
	} {
		if err := fetch(); err == nil || !strings.Contains(err.Error(), "not enough space in "+p.Root) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if info, err := inbox.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes are in the inbox, %v", info.Size(), err)
	}
}

// TestPlanUnhealthy: the plan of the release that runs, and so the daemon that is given its
// bundle, says that it is put back when it looks whole and is not healthy.
func TestPlanUnhealthy(t *testing.T) {
	s := newShop(t)
	file := s.bundle("1.0.0", nil)
	if err := s.take(file, s.first); err != nil {
		t.Fatal(err)
	}
	d := &Device{Machine: s.Machine, Explanation: error.Error}
	for _, c := range []struct {
		runs   string
		action installer.Action
	}{{"1.0.0", ""}, {"", installer.ActionUpdate}} {
		s.Running = c.runs
		offer, err := d.Plan(t.Context(), "shop", file, false, func(installer.Event) {})
		if err != nil || offer.Plan.Action != c.action || (offer.Plan.Repair != "") != (c.action != "") {
			t.Errorf("%q runs: %+v, %v", c.runs, offer.Plan, err)
		}
	}
}
