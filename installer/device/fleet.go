package device

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/fleet"
	"github.com/valise-ota/valise/installer/receipt"
	"github.com/valise-ota/valise/installer/record"
)

// withheldAfter is how long a server may leave a newer release of the source alone before
// that is worth a warning.
const withheldAfter = 7 * 24 * time.Hour

// fleetID is what a fleet server calls an app of this machine: the name under which its
// receipts lie, and the app, unless the configuration has another one.
func (m *Machine) fleetID(app string, c fleet.Config) (string, error) {
	if c.ID != "" {
		return c.ID, nil
	}
	key, err := m.deviceKey()
	if err != nil {
		return "", err
	}
	return m.deviceName() + "-" + receipt.Fingerprint(key.Public().(ed25519.PublicKey))[:8] + "-" + app, nil
}

// Fleet is what is known of the server that steers an app; nil where none does.
func (m *Machine) Fleet(ctx context.Context, app string, j *record.Store) (*fleet.Seen, error) {
	c, err := m.ReadConfig(app)
	if err != nil || c.Fleet.IsZero() {
		return nil, nil // what reads the policy says so
	}
	notes, err := j.FleetNotes(ctx)
	if err != nil {
		return nil, err
	}
	var s fleet.Seen
	_ = json.Unmarshal([]byte(notes[fleet.SeenKey]), &s) // there is none before the first answer
	s.Server = c.Fleet.HawkBit
	s.ID, err = m.fleetID(app, c.Fleet)
	return &s, err
}

// Withheld reports whether a newer release is in the source for long, and the server
// wants another one, or none.
func Withheld(s fleet.Seen, st installer.State, now time.Time) bool {
	since, err := time.Parse(time.RFC3339, s.Since)
	return err == nil && st.Current != nil && bundle.Newer(s.Newest, st.Current.Version) && s.Wants != s.Newest && now.Sub(since) > withheldAfter
}

func (m *Machine) examineFleet(ctx context.Context, f *findings, app string, st installer.State) {
	c, err := m.ReadConfig(app)
	if err != nil || c.Fleet.IsZero() {
		return
	}
	u, err := (&Device{Machine: m}).Config(app)
	if err == nil {
		err = u.Validate()
	}
	if err != nil {
		f.add(app, "fleet", FindingFailed, do(MendFile, m.ConfigPath(app)), "%v", err)
		return
	}
	j, _, err := m.ReadState(ctx, app)
	if err != nil {
		return // the records are looked at elsewhere
	}
	defer j.Close()
	s, err := m.Fleet(ctx, app, j)
	if err != nil {
		f.add(app, "fleet", FindingFailed, do(""), "%v", err)
		return
	}
	sayFleet(f, app, m.ConfigPath(app), *s, Withheld(*s, st, m.Now()))
}
