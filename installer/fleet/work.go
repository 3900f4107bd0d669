package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
)

// What is done of what the server wants.

// admit makes an action known that the server has now, unless it is. What may not be asked for
// has its end at once.
func (g *Agent) admit(ctx context.Context, id string, d deployment) (*Action, error) {
	version, err := g.wanted(d)
	a := g.find(id)
	if a != nil && a.Version == version {
		if a.Closed && a.Confirm != "denied" { // it did not hear how it ended
			if a.Closed = false; a.Canceled {
				a.Canceled, a.Final = false, &Feedback{execClosed, failure, 1, []string{"it was canceled before"}}
			}
			return a, g.save(ctx, a)
		}
		return a, nil
	}
	st, serr := g.App.State(ctx)
	if serr != nil {
		return nil, serr
	}
	if a != nil && !a.Closed { // another one under the same name: the old one ends first
		return nil, g.supersede(ctx, a)
	}
	a = &Action{ID: id, Version: version}
	end := func(finished string, code int, text string) *Feedback {
		return &Feedback{execClosed, finished, code, []string{text}}
	}
	switch {
	case err != nil:
		a.Final = end(failure, 4, err.Error())
	case version == st.Current:
		a.Final = end(success, 0, version+" runs already")
	case version == st.Previous && g.Config.allows(Rollback):
		a.Record, a.Rollback = g.App.NewID(), true
	case !g.Config.allows(Update):
		a.Final = end(failure, 4, "this device lets the server ask for rollbacks only")
	case st.Floor != "" && !bundle.Newer(version, st.Floor) && version != st.Floor:
		a.Final = end(failure, 4, fmt.Sprintf("downgrade: %s is older than %s, which was installed here", version, st.Floor))
	default:
		if err := st.Refused(version); err != nil {
			a.Final = end(failure, 4, err.Error())
		} else {
			a.Record = g.App.NewID()
		}
	}
	if err := g.add(ctx, a); err != nil {
		return nil, err
	}
	if a.Final != nil {
		g.Log.Warn("fleet server", "action", id, "version", version, "answer", a.Final.Details[0])
	}
	return a, nil
}

// wanted is the version that the server names for this app. An action that is about more
// than this app would not be done when this app is updated.
func (g *Agent) wanted(d deployment) (string, error) {
	if len(d.Chunks) != 1 || d.Chunks[0].Name != g.Name {
		var names []string
		for _, c := range d.Chunks[:min(len(d.Chunks), 5)] {
			names = append(names, fmt.Sprintf("%.40q", c.Name))
		}
		return "", fmt.Errorf("it has %d modules (%s), want one that is called %s", len(d.Chunks), strings.Join(names, ", "), g.Name)
	}
	v := strings.TrimPrefix(d.Chunks[0].Version, "v")
	if _, err := bundle.ParseVersion(v); err != nil {
		return "", fmt.Errorf("its version is %.80q, want one such as 1.2.0", d.Chunks[0].Version)
	}
	return v, nil
}

// supersede ends an action that waits in favour of another one.
func (g *Agent) supersede(ctx context.Context, a *Action) error {
	r, err := g.App.Record(ctx, a.Record)
	if err != nil || a.Final != nil || r.ended() && !r.Cut {
		return err
	}
	if a.Known && (r.Status == pending && !r.Queued || r.Cut) {
		_, err = g.App.Cancel(ctx, a.Record, "another action of the server came")
	} else if a.Known {
		return nil // it goes on
	}
	if err != nil {
		return err
	}
	a.Final = &Feedback{execClosed, failure, 1, []string{"another action of the server came"}}
	if err := g.save(ctx, a); err != nil {
		return err
	}
	return g.tell(ctx, a)
}

// deploy does what is due of the action that the server has now. Nothing is done of one that it
// has no more.
func (g *Agent) deploy(ctx context.Context, id string) (*Action, error) {
	d, err := g.Client.deployment(ctx, id)
	if over(err) && err != nil {
		return nil, nil // it went meanwhile
	}
	if err != nil {
		return nil, err
	}
	a, err := g.admit(ctx, id, d)
	if err != nil || a == nil || a.Closed || a.Stop != "" {
		return a, err
	}
	if a.Final != nil {
		return a, g.tell(ctx, a)
	}
	for _, other := range slices.Clone(g.actions) {
		if other != a && !other.Closed {
			return a, g.supersede(ctx, other) // one after the other
		}
	}
	if a.Confirm == "confirmed" {
		d.Update = forced // a person wants it
	}
	return a, g.work(ctx, a, d)
}

// work brings an action on.
func (g *Agent) work(ctx context.Context, a *Action, d deployment) error {
	r, err := g.App.Record(ctx, a.Record)
	if err != nil {
		return err
	}
	if !a.Known && !a.Rollback {
		if r.Status == "" {
			if err := g.App.Announce(ctx, a.Record, a.Version); err != nil {
				return err
			}
		}
		a.Known = true
		if err := g.save(ctx, a); err != nil {
			return err
		}
		if err := g.say(ctx, a, Feedback{execProceeding, none, 0, []string{"accepted"}}); err != nil {
			return err
		}
		if r, err = g.App.Record(ctx, a.Record); err != nil {
			return err
		}
	}
	if a.Staging && r.Staged { // that try was good
		a.Staging, a.Tries = false, max(0, a.Tries-1)
		if err := g.save(ctx, a); err != nil {
			return err
		}
	}
	switch {
	case r.Queued, g.end(a, r) != nil:
		return g.tell(ctx, a)
	case r.Status != pending && !r.Cut && !(a.Rollback && r.Status == ""):
		return g.tell(ctx, a) // it goes on
	case d.Download == skip && !r.Staged:
		return g.say(ctx, a, Feedback{execProceeding, none, 0, []string{"waits until the server lets it download"}})
	}
	now := d.Update == forced && d.MaintenanceWindow != "unavailable"
	opens := g.App.Opens()
	switch {
	case now && opens <= 0:
		return g.try(ctx, a, r, false)
	case a.Rollback:
	case !r.Staged:
		return g.try(ctx, a, r, true)
	}
	if now {
		return g.say(ctx, a, Feedback{execScheduled, none, 0, []string{"updates may begin here at " + g.Now().Add(opens).Format("15:04 MST")}})
	}
	return g.tell(ctx, a)
}

// try begins to download, or to install, unless that was tried too often.
func (g *Agent) try(ctx context.Context, a *Action, r Record, stage bool) error {
	st, err := g.App.State(ctx)
	if err != nil {
		return err
	}
	if !r.Staged || r.Error != "" {
		l := g.late[a.Version]
		if l.from != st.Current {
			l = late{from: st.Current}
		}
		if time.Now().Before(l.again) {
			return g.tell(ctx, a)
		}
		l.again = time.Now().Add(min(firstPause<<(2*min(l.tries, 10)), longestPause))
		l.tries++
		g.late[a.Version] = l
		if len(g.late) > maxKept { // more versions than a source would have above the floor
			clear(g.late)
		}
	}
	if a.From != st.Current { // an update on the way was installed
		a.From, a.Tries = st.Current, 0
	}
	if a.Tries >= maxTries {
		if _, err := g.App.Cancel(ctx, a.Record, cmp.Or(r.Error, "it was interrupted")); err != nil {
			return err
		}
		a.Final = &Feedback{execClosed, failure, cmp.Or(r.Code, 1), []string{fmt.Sprintf("tried %d times: %s", a.Tries, cmp.Or(r.Error, "it was interrupted")), r.Left}}
		if err := g.save(ctx, a); err != nil {
			return err
		}
		return g.tell(ctx, a)
	}
	a.Tries++
	a.Staging = stage
	if err := g.save(ctx, a); err != nil {
		return err
	}
	if a.Rollback {
		return g.App.Rollback(ctx, a.Record, a.Version)
	}
	if stage {
		return g.App.Stage(ctx, a.Record)
	}
	return g.App.Apply(ctx, a.Record)
}

// cancel stops an action, where that is possible.
func (g *Agent) cancel(ctx context.Context, id string) (*Action, error) {
	stop, err := g.Client.canceled(ctx, id)
	if over(err) && err != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := g.find(stop)
	if a == nil {
		a = &Action{ID: stop, Canceled: true}
		if err := g.add(ctx, a); err != nil {
			return nil, err
		}
	}
	a.Stop = id
	if err := g.save(ctx, a); err != nil {
		return a, err
	}
	return a, g.tell(ctx, a)
}

// confirm asks a person whether an action may go on: its record waits for that.
func (g *Agent) confirm(ctx context.Context, id string) (*Action, error) {
	d, err := g.Client.confirmation(ctx, id)
	if over(err) && err != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := g.admit(ctx, id, d)
	if err != nil || a == nil || a.Closed || a.Stop != "" || a.Told {
		return a, err
	}
	if a.Confirm == "" {
		a.Confirm = "asked"
		if err := g.save(ctx, a); err != nil {
			return a, err
		}
	}
	if a.Record != "" && !a.Known {
		r, err := g.App.Record(ctx, a.Record)
		if err == nil && r.Status == "" {
			err = g.App.Announce(ctx, a.Record, a.Version)
		}
		if err != nil {
			return a, err
		}
		a.Known = true
		if err := g.save(ctx, a); err != nil {
			return a, err
		}
	}
	return a, g.tell(ctx, a)
}
