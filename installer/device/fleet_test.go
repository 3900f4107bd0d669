package device

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/fleet"
	"github.com/valise-ota/valise/installer/receipt"
)

// TestReceipt: a server is told of the receipt that the next stick gets.
func TestReceipt(t *testing.T) {
	m := committed(t, "1.0.0", "1.1.0")
	j, _, err := m.ReadState(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	records, err := j.History(t.Context(), -1, 0)
	if err != nil || len(records) < 2 {
		t.Fatal(records, err)
	}
	newest := records[0]
	text, err := m.Receipt(t.Context(), "shop", newest.ID)
	var told receipt.Mention
	if err == nil {
		err = json.Unmarshal([]byte(text), &told)
	}
	if err != nil || told.Version != "1.1.0" || told.Receipt != 2 || told.App != "shop" {
		t.Fatalf("%s, %v", text, err)
	}
	if text, err := m.Receipt(t.Context(), "shop", "NONE"); text != "" || err != nil {
		t.Errorf("of a record that is not there: %s, %v", text, err)
	}
	key, err := m.deviceKey()
	if err != nil {
		t.Fatal(err)
	}
	files, err := m.sealReceipts(t.Context(), "shop", key)
	if err != nil || len(files) != 2 {
		t.Fatal(len(files), err)
	}
	if told.Digest != bundle.DigestOf(files[1]) || told.Key != receipt.Fingerprint(key.Public().(ed25519.PublicKey)) {
		t.Errorf("told of %+v", told)
	}
}

// TestFleetWithheld: a server that leaves a release alone cannot hide it: status and doctor
// say what the source has.
func TestFleetWithheld(t *testing.T) {
	m := committed(t, "1.0.0", "1.1.0")
	if err := os.MkdirAll(filepath.Join(m.Root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Root, "etc/hostname"), []byte("pump-7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	m.Now = func() time.Time { return now }
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(m.ConfigPath("shop"), []byte("trust: {}\nsource: {path: /srv}\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	j, st, err := m.ReadState(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	configure("")
	if s, err := m.Fleet(t.Context(), "shop", j); s != nil || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	j.Close()
	configure("fleet: {hawkbit: 'https://updates.example/'}\n")
	found := func() Finding {
		t.Helper()
		var f findings
		m.examineFleet(t.Context(), &f, "shop", st)
		if len(f) != 1 {
			t.Fatalf("%+v", f)
		}
		return f[0]
	}
	for _, tc := range []struct {
		seen   fleet.Seen
		status string
		detail string
	}{
		{fleet.Seen{}, FindingOK, "https://updates.example/ wants nothing of pump-7-"},
		{fleet.Seen{Wants: "1.2.0", Action: "7", Newest: "1.2.0", Since: "2026-01-01T00:00:00Z"}, FindingOK, "https://updates.example/ wants 1.2.0 (action 7)"},
		{fleet.Seen{Newest: "1.2.0", Since: "2026-02-28T00:00:00Z"}, FindingOK, "https://updates.example/ wants nothing of "},
		{fleet.Seen{Newest: "1.2.0", Since: "2026-01-01T00:00:00Z"}, FindingWarning, "https://updates.example/ leaves 1.2.0 alone, which the source has since 2026-01-01T00:00:00Z"},
		{fleet.Seen{Wants: "1.1.1", Newest: "1.2.0", Since: "2026-01-01T00:00:00Z"}, FindingWarning, "https://updates.example/ leaves 1.2.0 alone"},
		{fleet.Seen{Newest: "1.1.0", Since: "2026-01-01T00:00:00Z"}, FindingOK, "https://updates.example/ wants nothing of "},
		{fleet.Seen{Trouble: "updates.example answered 401 (Unauthorized)"}, FindingWarning, "https://updates.example/ cannot be asked: updates.example answered 401"},
	} {
		b, err := json.Marshal(tc.seen)
		if err != nil {
			t.Fatal(err)
		}
		j, err := m.openRecords(t.Context(), "shop")
		if err == nil {
			err = j.SetFleetNote(t.Context(), fleet.SeenKey, string(b))
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.Fleet(t.Context(), "shop", j)
		if err != nil || s.Newest != tc.seen.Newest || !strings.HasPrefix(s.ID, "pump-7-") || !strings.HasSuffix(s.ID, "-shop") {
			t.Errorf("%+v, %v", s, err)
		}
		j.Close()
		if f := found(); f.Status != tc.status || !strings.HasPrefix(f.Detail(), tc.detail) {
			t.Errorf("%+v: %s %s", tc.seen, f.Status, f.Detail())
		}
	}
	configure("fleet: {hawkbit: 'http://updates.example/'}\n")
	if f := found(); f.Status != FindingFailed || !strings.Contains(f.Detail(), "use https") {
		t.Errorf("%s %s", f.Status, f.Detail())
	}
	// What the daemon gets, and what a page must not lose of it.
	configure("fleet: {hawkbit: 'https://updates.example/', id: gw2, allow: [rollback], poll: {min: 1m}, attributes: {line: '2'}}\n")
	d := &Device{Machine: m}
	c, err := d.Config("shop")
	if err != nil || c.Fleet.ID != "gw2" || !slices.Equal(c.Fleet.Allow, []string{fleet.Rollback}) || c.Fleet.Poll.Min != time.Minute || c.Fleet.Attributes["line"] != "2" || c.Validate() != nil {
		t.Errorf("%+v, %v", c.Fleet, err)
	}
	c.Check = 6 * 60 * 60 * 1e9
	if err := d.Configure(t.Context(), "shop", c.Settings); err != nil {
		t.Error(err)
	}
	if c, err := d.Config("shop"); err != nil || c.Fleet.ID != "gw2" || c.Check == 0 {
		t.Errorf("%+v, %v", c, err)
	}
}
