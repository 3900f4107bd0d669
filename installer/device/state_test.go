package device

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
)

// TestStateFile: the file that lamps watch follows the records, and nothing waits
// for it or fails because of it.
func TestStateFile(t *testing.T) {
	p := newcomer(t)
	if err := os.MkdirAll(p.stateDir("shop"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, now := t.Context(), time.Unix(1767225600, 0)
	open := func() *record.Store {
		j, err := p.openRecords(ctx, "shop")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { j.Close() })
		return j
	}
	j := open()
	says := func(want string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(p.Root, "run/valise/shop.state"))
		if got := string(b); got != want {
			t.Errorf("it says %q, error %v, want %q", got, err, want)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	says("")
	to := func(v string) installer.Release {
		return installer.Release{Version: v, Dir: v, Manifest: "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
	}
	do(j.Begin(ctx, installer.Record{ID: "1", Action: installer.ActionInstall, To: to("1.0.0"), Status: installer.Applying, Created: now, Started: now}))
	says("applying 1.0.0\n")
	do(j.Commit(ctx, "1", now))
	says("completed 1.0.0\n")
	do(j.Add(ctx, installer.Record{ID: "2", To: installer.Release{Version: "1.1.0"}, Status: installer.Pending, Created: now}))
	says("pending 1.1.0\n")
	do(j.Become(ctx, "2", installer.Verifying, nil, now))
	from := to("1.0.0")
	do(j.Begin(ctx, installer.Record{ID: "2", Action: installer.ActionUpdate, From: &from, To: to("1.1.0"), Status: installer.Applying, Created: now, Started: now}))
	do(j.Fail(ctx, "2", errors.New("not healthy"), false))
	do(j.Attention(ctx, "2", "the old one neither"))
	says("attention 1.1.0\n")
	do(j.End(ctx, "2", installer.RolledBack, now))
	says("rolled_back 1.1.0\n")

	// /run is empty after a reboot; recovery opens the records.
	do(os.RemoveAll(filepath.Join(p.Root, "run")))
	j = open()
	says("rolled_back 1.1.0\n")

	// A place that cannot be written to fails nothing.
	do(os.RemoveAll(filepath.Join(p.Root, "run")))
	do(os.WriteFile(filepath.Join(p.Root, "run"), nil, 0o600))
	do(j.Add(ctx, installer.Record{ID: "3", To: installer.Release{Version: "1.2.0"}, Status: installer.Pending, Created: now}))
}
