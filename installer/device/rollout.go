package device

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/rollout"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/receipt"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/verify"
)

// A rollout file says which part of the devices may take a release by themselves, and
// which releases nobody may take. A source has it, or it lies beside a bundle. It holds
// back and nothing else: what is not held back is verified as ever. One that cannot be
// had, or that is refused, changes nothing: the newest one that was accepted counts on.

// rolloutTimeout is how long a source that is not asked for a release may take.
const rolloutTimeout = 5 * time.Second

// turns is what is known about whose turn it is.
type turns struct {
	app    string
	policy verify.Policy // who may sign a rollout file
	config RolloutConfig
	used   bool // rollout files are in use here

	file   *rollout.File // nil: none was accepted
	signer verify.Signer // of file
	device rollout.Device
	idOf   string // where the ID of the device is from, for people
}

// held says why a release is held back, nil when it is not.
func (t *turns) held(version string) *installer.HeldError {
	var r *rollout.Release
	if t.file != nil {
		r = t.file.Of(version)
	}
	switch {
	case r == nil && t.config.Required:
		return &installer.HeldError{Version: version, Unnamed: true}
	case r == nil:
	case r.Halted:
		return &installer.HeldError{Version: version, Halted: true}
	case !t.file.Turn(*r, t.device):
		percent, group := r.Share(t.device)
		return &installer.HeldError{Version: version, Percent: percent, Group: group}
	}
	return nil
}

// split takes those out of releases, the newest first, that are newer than what runs and
// held back, and says why the newest release is.
// Those that were brought wait for no turn.
func (t *turns) split(all []source.Release, current string, brought bool) (left []source.Release, newest error) {
	for _, rel := range all {
		if held := t.held(rel.Version); held != nil && (held.Halted || !brought) && bundle.Newer(rel.Version, current) {
			if len(left) == 0 && newest == nil {
				newest = advise(held, UnmetCondition)
			}
			continue
		}
		left = append(left, rel)
	}
	return left, newest
}

// waits says why the newest release is held back, of those that the file names; nil when
// it is not, or runs.
func (t *turns) waits(st installer.State) *installer.HeldError {
	if t.file == nil || st.Current == nil {
		return nil
	}
	if all := t.file.Releases; len(all) > 0 && bundle.Newer(all[0].Version, st.Current.Version) {
		return t.held(all[0].Version)
	}
	return nil
}

// Held says why a newer release of an app is held back, as far as is known without asking
// its source; empty when none is.
func (m *Machine) Held(ctx context.Context, app string) (string, error) {
	policy, err := m.Policy(ctx, app)
	if err != nil {
		return "", err
	}
	t, st, err := m.turnsHere(ctx, app, policy)
	if err != nil {
		return "", err
	}
	if held := t.waits(st); held != nil {
		return held.Error(), nil
	}
	return "", nil
}

// examineRollout says whose turn it is, after the source was asked for its releases.
func (m *Machine) examineRollout(ctx context.Context, f *findings, app string, src *source.Source) {
	policy, err := m.Policy(ctx, app)
	if err != nil {
		return // it is told already
	}
	t, st, err := m.turnsHere(ctx, app, policy)
	if err == nil && src != nil {
		t, err = m.turns(ctx, app, policy, src)
	}
	switch {
	case err != nil:
		f.add(app, "rollout", FindingFailed, do(MendFile, m.ConfigPath(app)), "%v", err)
	case !t.used:
	case t.file == nil && t.config.Required:
		f.add(app, "rollout", FindingWarning, do(PublishRollout, m.ConfigPath(app)), "no rollout file was accepted yet, and this device takes no release by itself without one")
	case t.file == nil:
		f.add(app, "rollout", FindingOK, do(""), "no rollout file was accepted yet: no release is held back")
	default:
		if held := t.waits(st); held != nil {
			f.add(app, "rollout", FindingOK, do(""), "%s; place %d of 10000 by %s, which copies of one disk share", held.Error(), 1+rollout.Place(app, held.Version, t.device.ID), t.idOf)
			return
		}
		f.add(app, "rollout", FindingOK, do(""), "no newer release is held back; the rollout file has sequence %d and is signed by %s", t.file.Sequence, t.signer)
	}
}

// turnsHere is what is known without asking anybody. policy is that for releases.
func (m *Machine) turnsHere(ctx context.Context, app string, policy verify.Policy) (*turns, installer.State, error) {
	c, err := m.ReadConfig(app)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, installer.State{}, err
	}
	r := c.Rollout
	for _, group := range r.Groups {
		if !rollout.ValidGroup(group) {
			return nil, installer.State{}, fmt.Errorf("read %s: rollout: %.80q is not a name of a group", m.ConfigPath(app), group)
		}
	}
	policy.Provenance = verify.ProvenancePolicy{}
	if len(r.Signers) > 0 {
		policy.Signers = r.Signers
		if _, err := verify.New(policy); err != nil {
			return nil, installer.State{}, fmt.Errorf("read %s: rollout: %w", m.ConfigPath(app), err)
		}
	}
	st, err := m.State(ctx, app)
	if err != nil {
		return nil, st, err
	}
	t := &turns{app: app, policy: policy, config: r, used: st.Rollout != nil || !reflect.ValueOf(r).IsZero()}
	if st.Rollout != nil { // who may sign now decides about it, too
		if err := m.accept(t, *st.Rollout); err != nil {
			m.Note("the rollout file that this device knows does not count any more: %v", err)
		}
	}
	return t, st, nil
}

// turns is what is known when places were asked.
func (m *Machine) turns(ctx context.Context, app string, policy verify.Policy, places ...*source.Source) (*turns, error) {
	t, st, err := m.turnsHere(ctx, app, policy)
	if err != nil {
		return nil, err
	}
	for _, place := range places {
		var known int64
		if t.file != nil {
			known = t.file.Sequence
		}
		got, err := place.Rollout(ctx, known)
		switch {
		case err != nil:
			if t.used {
				m.Note("no rollout file from %s: %v", place, cmp.Or(context.Cause(ctx), err))
			}
			continue
		case got == nil, got.Sequence == known:
			continue
		case got.Sequence < known:
			m.Note("%s in %s is older than the rollout file that this device knows, which has sequence %d: it does not count", got.Name, place, known)
			continue
		}
		next := installer.Rollout{Sequence: got.Sequence, Text: got.Text, Signature: got.Signature}
		if err := m.accept(t, next); err != nil {
			m.Note("%s in %s does not count: %v", got.Name, place, err)
			continue
		}
		if !m.hasRecords(app) { // it is not installed yet
			continue
		}
		var instead int64
		if st.Rollout != nil {
			instead = st.Rollout.Sequence
		}
		if err := m.keepRollout(ctx, app, next, instead); err != nil {
			m.Note("%v", err)
		}
	}
	return t, nil
}

// TakeRollout takes the newest rollout file of an app in a directory, if it counts.
func (m *Machine) TakeRollout(ctx context.Context, app, dir string) error {
	policy, err := m.Policy(ctx, app)
	if err != nil {
		return err
	}
	src, err := source.New(app, source.Config{Path: dir}, source.Options{})
	if err == nil {
		_, err = m.turns(ctx, app, policy, src)
	}
	return err
}

func (m *Machine) keepRollout(ctx context.Context, app string, r installer.Rollout, instead int64) error {
	j, err := record.Open(ctx, m.journalPath(app), app)
	if err != nil {
		return err
	}
	return errors.Join(j.SetRollout(ctx, r, instead), j.Close())
}

// accept makes the decision about a rollout file, which counts from then on.
func (m *Machine) accept(t *turns, r installer.Rollout) error {
	v, err := verify.New(t.policy)
	if err != nil {
		return err
	}
	by, err := v.Text(r.Text, r.Signature)
	if err != nil {
		return err
	}
	f, err := rollout.Parse(r.Text)
	switch {
	case err != nil:
		return fmt.Errorf("signed by %s, and it cannot be read: %w", by, err)
	case f.App != t.app:
		return fmt.Errorf("signed by %s, and it is about %s", by, f.App)
	case f.Sequence != r.Sequence:
		return fmt.Errorf("signed by %s, and its sequence is %d: it was renamed", by, f.Sequence)
	}
	if t.device.ID, t.idOf, err = m.deviceID(t.config); err != nil {
		return err
	}
	t.device.Groups, t.file, t.signer, t.used = t.config.Groups, f, by, true
	return nil
}

var machineID = lazyregexp.New(`^[0-9a-f]{32}\n?$`)

// deviceID is what decides about the turn of this device, and where it is from.
func (m *Machine) deviceID(c RolloutConfig) (id, from string, err error) {
	if c.ID != "" {
		return c.ID, "rollout.id", nil
	}
	if b, err := os.ReadFile(filepath.Join(m.Root, "etc/machine-id")); err == nil && machineID.Match(b) {
		return string(b[:32]), "/etc/machine-id", nil
	}
	key, err := m.deviceKey()
	if err != nil {
		return "", "", err
	}
	return receipt.Fingerprint(key.Public().(ed25519.PublicKey)), "the key of this device", nil
}

// turnsOf asks whose turn it is for a release that was named, or is about to run: who
// has it, if anybody, and where its file lies, if it does. The source of the app is asked
// where rollout files are in use, and asked anew, unless it is src.
func (m *Machine) turnsOf(ctx context.Context, app string, policy verify.Policy, src *source.Source, file string) (*turns, error) {
	t, _, err := m.turnsHere(ctx, app, policy)
	if err != nil {
		return nil, err
	}
	var places []*source.Source
	add := func(c source.Config, o source.Options) {
		if place, err := source.New(app, c, o); err == nil {
			places = append(places, place)
		}
	}
	if dir, err := filepath.Abs(filepath.Dir(file)); file != "" && err == nil {
		add(source.Config{Path: dir}, source.Options{})
	}
	switch c, err := m.ReadConfig(app); {
	case src != nil:
		places = append(places, src)
	case err == nil && t.used && !c.Source.IsZero():
		add(c.Source, m.sourceOptions(app))
	}
	if len(places) == 0 {
		return t, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, rolloutTimeout, fmt.Errorf("no answer within %s", rolloutTimeout))
	defer cancel()
	return m.turns(ctx, app, policy, places...)
}

// halted says why a candidate must not run: it was halted, and is not what runs.
func (c *Candidate) halted(o Options) error {
	if held := c.turns.held(c.Plan.To); held != nil && held.Halted && !o.Forced && c.Plan.From != c.Plan.To {
		return advise(held, UnmetCondition)
	}
	return nil
}

// noteTurn notes in the plan that the release is held back, and carried out all the same.
func (c *Candidate) noteTurn() {
	if held := c.turns.held(c.Plan.To); held != nil && c.Plan.From != c.Plan.To {
		c.Plan.Notes = append(c.Plan.Notes, held.Note("; this update was asked for, and goes on"))
	}
}
