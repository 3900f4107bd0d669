package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/fleet"
)

// byFleet is who asked for what a fleet server wants.
const byFleet = "fleet"

// halted is the reason of a release that its rollout file halted.
const halted = "halted"

// errCanceled is why a job ends that a server does not want any more.
var errCanceled = &installer.Failure{Reason: "canceled", Err: errors.New("canceled by the server")}

// doing is the job that is done.
type doing struct {
	record    string
	cancel    context.CancelCauseFunc
	switching bool // what runs is being stopped: it is too late to cancel
}

// cancelable does a job that Cancel can end.
func (a *app) cancelable(ctx context.Context, j job) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.mu.Lock()
	a.doing = &doing{record: j.record, cancel: cancel}
	a.mu.Unlock()
	a.do(ctx, j)
	a.mu.Lock()
	a.doing = nil
	a.mu.Unlock()
}

func (a *app) switching() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.doing != nil {
		a.doing.switching = true
	}
}

// stage downloads the bundle of a record and verifies it. Then the record waits.
func (a *app) stage(ctx context.Context, r installer.Record) {
	a.hub.begin(r.ID)
	r, err := a.withBundle(ctx, r)
	if err == nil {
		a.become(ctx, r.ID, installer.Verifying, nil)
		err = a.look(ctx, r)
	}
	ctx = context.WithoutCancel(ctx)
	switch {
	case err == nil:
		b := *r.Bundle
		b.Verified = true
		if err := a.records.SetBundle(ctx, r.ID, &b, ""); err != nil {
			a.log().Error("write record", "err", err)
		}
		a.become(ctx, r.ID, installer.Pending, nil)
	case installer.ReasonOf(err) == "check.version" || a.refusedBy(err) != "":
		a.forgetFile(ctx, r.ID)
		a.fail(ctx, r.ID, a.told(err))
	default:
		a.obstructed(ctx, r, err)
	}
}

// look verifies the bundle of a record. What keeps a good one from being applied may be
// mended first.
func (a *app) look(ctx context.Context, r installer.Record) error {
	path, err := a.pathOf(r)
	if err != nil {
		return err
	}
	offer, err := a.plan(ctx, path, false)
	switch {
	case err != nil && (offer.Version == "" || a.refusedBy(err) != ""):
		return err
	case offer.Version != r.To.Version:
		return &installer.Failure{Reason: "check.version", Err: fmt.Errorf("the source gave %s under the name of %s", offer.Version, r.To.Version)}
	}
	return nil
}

// newAgent has the server of the configuration steer the app.
func (a *app) newAgent(ctx context.Context) (*fleet.Agent, error) {
	c, err := fleet.NewClient(a.config.Fleet, a.config.Fleet.ID, a.Agent, a.Fleet)
	if err != nil {
		return nil, err
	}
	s := &steered{a}
	g := &fleet.Agent{Config: a.config.Fleet, Client: c, App: s, Store: s, Name: a.name, Facts: a.config.Facts, Log: a.log(), Now: a.Now}
	return g, g.Load(ctx)
}

// steered is an app as its fleet server sees it.
type steered struct{ *app }

func (s *steered) NewID() string { return s.Daemon.NewID() }

func (s *steered) Notes(ctx context.Context) (map[string]string, error) {
	return s.records.FleetNotes(ctx)
}

func (s *steered) Note(ctx context.Context, key, value string) error {
	return s.records.SetFleetNote(ctx, key, value)
}

func (s *steered) State(ctx context.Context) (out fleet.State, err error) {
	st, err := s.records.Load(ctx)
	if err != nil {
		return out, err
	}
	tried, _, err := s.records.Find(ctx, []installer.Status{installer.Failed}, -1, 0)
	if err != nil {
		return out, err
	}
	out.Floor = st.Floor
	if st.Current != nil {
		out.Current = st.Current.Version
	}
	if st.Previous != nil {
		out.Previous = st.Previous.Version
	}
	out.Refused = func(version string) error {
		if v, err := bundle.ParseVersion(version); err != nil {
			return err
		} else if first, _, _ := strings.Cut(v.Prerelease(), "."); first != "" && first != s.settings().Channel {
			return fmt.Errorf("channel: %s is a pre-release of %s, and this device takes those of %q", version, first, s.settings().Channel)
		}
		if wentBack(st, version) {
			return fmt.Errorf("%s was rolled back by hand: a person may apply it", version)
		}
		for _, bad := range st.Bad {
			if bad == version {
				return fmt.Errorf("%s failed on this device: a person may force it", version)
			}
		}
		for _, r := range tried {
			if r.To.Version == version && refusedFor(r.Reason) {
				return fmt.Errorf("%s was refused before: %s", version, r.Error)
			}
		}
		return nil
	}
	return out, nil
}

// refusedFor reports whether a reason is that of a bundle which was refused.
func refusedFor(reason string) bool {
	return strings.HasPrefix(reason, "check.") || reason == "format"
}

func (s *steered) Newest(ctx context.Context) (string, error) {
	l, err := s.check(ctx)
	return l.Version, err
}

func (s *steered) Record(ctx context.Context, id string) (out fleet.Record, err error) {
	r, err := s.records.Get(ctx, id)
	if errors.Is(err, installer.ErrNoRecord) {
		err = nil
	}
	if err != nil || r.ID == "" {
		return out, err
	}
	st, err := s.records.Load(ctx)
	if err != nil {
		return out, err
	}
	out = fleet.Record{Status: string(r.Status), Error: r.Error, Attention: r.Attention, Code: 1, Staged: r.Bundle != nil && r.Bundle.File != "" && r.Bundle.Verified}
	if n := len(r.Steps); n > 0 {
		out.Step = r.Steps[n-1].Name
	}
	switch {
	case r.Attention != "":
		out.Code = 5
	case r.Status == installer.RolledBack:
		out.Code = 3
	case refusedFor(r.Reason), r.Reason == halted, r.Reason == "requirement":
		out.Code = 4
	}
	if st.Current != nil {
		out.Left = st.Current.Version + " runs"
	}
	out.Cut = wasCut(r, st) && r.Reason != errCanceled.Reason
	s.mu.Lock()
	out.Queued = s.queued[id] > 0
	s.mu.Unlock()
	return out, nil
}

func (s *steered) Receipt(ctx context.Context, id string) (string, error) {
	return s.Device.Receipt(ctx, s.name, id)
}

func (s *steered) Announce(ctx context.Context, id, version string) error {
	if err := s.records.Add(ctx, installer.Record{ID: id, To: installer.Release{Version: version}, Status: installer.Pending, By: byFleet, Created: s.Daemon.Now()}); err != nil {
		return err
	}
	s.changed(id, installer.Pending)
	return nil
}

func (s *steered) Stage(ctx context.Context, id string) error { return s.begin(ctx, id, true) }
func (s *steered) Apply(ctx context.Context, id string) error { return s.begin(ctx, id, false) }

func (s *steered) begin(ctx context.Context, id string, stage bool) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	r, err := s.records.Get(ctx, id)
	if err != nil {
		return err
	}
	if r.Status != installer.Pending || r.Error != "" {
		if err := s.records.Become(ctx, id, installer.Pending, nil, s.Daemon.Now()); err != nil {
			return err
		}
	}
	return s.enqueue(job{record: id, stage: stage})
}

func (s *steered) Rollback(_ context.Context, id, _ string) error {
	return s.enqueue(job{record: id, by: byFleet, run: func(ctx context.Context) (installer.Result, error) {
		return s.Device.Rollback(ctx, s.name, id, "", s.report(id))
	}})
}

// Cancel ends a record that waits, or the job that is done for it.
func (s *steered) Cancel(ctx context.Context, id, why string) (late bool, err error) {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	s.mu.Lock()
	if d := s.doing; d != nil && d.record == id {
		defer s.mu.Unlock()
		if !d.switching {
			d.cancel(errCanceled)
		}
		return d.switching, nil
	}
	s.mu.Unlock()
	r, err := s.records.Get(ctx, id)
	if err != nil || !r.Status.CanBecome(installer.Failed) || r.Status == installer.Applying {
		return r.Status == installer.Completed, err
	}
	s.forgetFile(ctx, id)
	if err := s.records.Become(ctx, id, installer.Failed, &installer.Failure{Reason: "canceled", Err: errors.New(cmp.Or(why, "canceled"))}, s.Daemon.Now()); err != nil {
		return false, err
	}
	s.changed(id, installer.Failed)
	return false, nil
}

// Opens is how long it is until the window of the settings.
func (s *steered) Opens() time.Duration {
	w, _ := parseWindow(s.settings().Window) // Validate was here
	return w.wait(s.Daemon.Now())
}
