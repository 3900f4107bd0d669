package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What is told: how an action goes on, how it ended until that was heard, and what runs.

// tell tells the server what became of an action: how it ended until that was heard, and
// in between how it goes on.
func (g *Agent) tell(ctx context.Context, a *Action) error {
	if a.Closed && a.Stop == "" {
		return nil
	}
	r, err := g.App.Record(ctx, a.Record)
	if err != nil {
		return err
	}
	if done, err := g.tellConfirmed(ctx, a, r); done || err != nil {
		return err
	}
	if a.Known && a.Final == nil && r.Status == pending && !r.Queued {
		st, err := g.App.State(ctx)
		if err != nil {
			return err
		}
		if a.Version == st.Current { // it came another way
			a.Final = &Feedback{execClosed, success, 0, []string{a.Version + " runs already"}}
			if err := g.save(ctx, a); err != nil {
				return err
			}
			if _, err := g.App.Cancel(ctx, a.Record, a.Version+" runs already"); err != nil {
				return err
			}
		}
	}
	end := g.end(a, r)
	if a.Stop != "" {
		return g.tellCanceled(ctx, a, r, end)
	}
	if end == nil {
		return g.tellProgress(ctx, a, r)
	}
	if a.Record != "" && r.ended() {
		text, err := g.App.Receipt(ctx, a.Record)
		if err != nil { // how it ended counts more
			g.Log.Error("write receipt", "err", err)
		}
		end = &Feedback{end.Execution, end.Finished, end.Code, append(slices.Clone(end.Details), text)}
	}
	err = g.Client.feedback(ctx, "deploymentBase", a.ID, *end)
	if !over(err) {
		return err
	}
	if err == nil && end.Finished == success {
		if err := g.noteTold(ctx, a.Version); err != nil {
			return err
		}
	}
	a.Closed = true
	delete(g.said, a.ID)
	delete(g.saidAt, a.ID)
	return g.save(ctx, a)
}

// end is how an action ended; nil while it has not.
func (g *Agent) end(a *Action, r Record) *Feedback {
	switch {
	case a.Final != nil:
		return a.Final
	case r.Status == "" && a.Known:
		return &Feedback{execClosed, failure, 1, []string{"a person deleted it on the device"}}
	case !r.ended() || r.Cut && !a.Rollback && a.Tries < maxTries:
		return nil
	case r.Attention != "":
		return &Feedback{execClosed, failure, r.Code, []string{"needs a person: " + r.Attention}}
	case r.Status == completed:
		return &Feedback{execClosed, success, 0, []string{a.Version + " runs"}}
	}
	return &Feedback{execClosed, failure, cmp.Or(r.Code, 1), []string{r.Error, r.Left}}
}

// tellProgress tells how it goes on, when that is new. It is not told again when it is
// lost, and what the server makes of it does not count.
func (g *Agent) tellProgress(ctx context.Context, a *Action, r Record) error {
	f := Feedback{Execution: execProceeding, Finished: none}
	switch {
	case !a.Known || a.Confirm == "asked" || a.Confirm == "denied":
		return nil
	case r.Status == "downloading":
		f.Execution, f.Details = execDownload, []string{"downloads " + a.Version}
	case r.Status == pending && r.Error != "":
		f.Details = []string{fmt.Sprintf("try %d of %d: %s", a.Tries, maxTries, r.Error)}
	case r.Status == pending && r.Staged && !r.Queued:
		f.Execution, f.Details = execDownloaded, []string{a.Version + " is on the device, and verified"}
	case r.Status == pending:
		f.Details = []string{"waits for its turn"}
	default:
		f.Details = []string{strings.TrimSpace(r.Status + " " + r.Step)}
	}
	return g.say(ctx, a, f)
}

func (g *Agent) say(ctx context.Context, a *Action, f Feedback) error {
	text, was := f.Execution+strings.Join(f.Details, "\n"), g.said[a.ID]
	if slices.Contains(was, text) || len(was) >= maxSaid || len(was) > 0 && time.Since(g.saidAt[a.ID]) < tellEvery {
		return nil
	}
	if err := g.Client.feedback(ctx, "deploymentBase", a.ID, f); err != nil && !errors.As(err, new(*StatusError)) {
		return err
	}
	g.said[a.ID], g.saidAt[a.ID] = append(was, text), time.Now()
	return nil
}

// tellCanceled answers that an action was stopped, or that it is too late.
func (g *Agent) tellCanceled(ctx context.Context, a *Action, r Record, end *Feedback) error {
	f := Feedback{Execution: execClosed, Finished: success}
	switch {
	case a.Canceled || a.Record == "" || r.Status == "" || r.Cut || end != nil && end.Finished != success:
		f.Details = []string{"nothing of it is left on the device"}
		if end != nil {
			f.Details = end.Details
		}
		a.Canceled = true
	case end == nil:
		late, err := g.App.Cancel(ctx, a.Record, "canceled by the server")
		if err != nil || !late {
			return err // what comes of it wakes us
		}
		f = Feedback{execRejected, none, 0, []string{"the release is being switched: how that ends is told"}}
	default:
		f = Feedback{execRejected, none, 0, []string{a.Version + " runs already"}}
	}
	if err := g.Client.feedback(ctx, "cancelAction", a.Stop, f); !over(err) {
		return err
	}
	if a.Stop = ""; f.Execution == execClosed {
		a.Closed = true
	}
	return g.save(ctx, a)
}

// tellConfirmed answers what a person decided. It reports whether there is nothing else
// to tell yet.
func (g *Agent) tellConfirmed(ctx context.Context, a *Action, r Record) (bool, error) {
	if a.Stop != "" {
		return false, nil
	}
	if a.Confirm == "" || a.Told {
		return a.Confirm == "denied", nil
	}
	if a.Confirm == "asked" {
		g.mu.Lock()
		yes := g.pressed[a.Record]
		g.mu.Unlock()
		switch {
		case yes:
			a.Confirm = "confirmed"
		case a.Final != nil || a.Known && (r.Status == "" || r.ended()):
			a.Confirm = "denied"
		default:
			return true, nil
		}
		if err := g.save(ctx, a); err != nil {
			return true, err
		}
	}
	why := []string{"a person on the device decided so"}
	if a.Final != nil {
		why = a.Final.Details
	}
	if err := g.Client.confirmed(ctx, a.ID, a.Confirm == "confirmed", why...); !over(err) {
		return true, err
	}
	a.Told, a.Closed = true, a.Confirm == "denied"
	g.mu.Lock()
	delete(g.pressed, a.Record)
	g.mu.Unlock()
	return a.Closed, g.save(ctx, a)
}

func (g *Agent) noteTold(ctx context.Context, version string) error {
	g.told = version
	return g.Store.Note(ctx, toldKey, version)
}

// tellInstalled tells what runs, where the server cannot know: it came on a stick, by
// hand, or from the factory.
func (g *Agent) tellInstalled(ctx context.Context) error {
	st, err := g.App.State(ctx)
	if err != nil || st.Current == "" || st.Current == g.told || slices.ContainsFunc(g.actions, func(a *Action) bool { return !a.Closed && a.Version == st.Current }) {
		return err
	}
	if err := g.Client.installed(ctx, g.Name, st.Current); !over(err) {
		return err
	} else if err != nil {
		g.Log.Info("the server does not know what runs", "version", st.Current, "err", err)
	}
	return g.noteTold(ctx, st.Current)
}

func (g *Agent) tellAttributes(ctx context.Context) error {
	st, err := g.App.State(ctx)
	if err != nil {
		return err
	}
	data := map[string]string{"valise.app": g.Name, "valise.version": st.Current}
	for _, more := range []map[string]string{g.Facts, g.Config.Attributes} {
		for k, v := range more {
			data[k] = v
		}
	}
	if err := g.Client.attributes(ctx, data); !over(err) {
		return err
	}
	return nil
}
