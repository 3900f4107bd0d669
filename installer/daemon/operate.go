package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/valise-ota/valise/installer"
)

// What changes no release: the app is started, stopped, or saved. Such a call answers
// when that has ended, and goes on when who made it is gone.

// maxLogLines is how many lines of each service a call may ask for, maxLog how many
// bytes it gets.
const (
	maxLogLines = 10000
	maxLog      = 8 << 20
)

// logQuery is what a call for logs may say.
type logQuery struct {
	Lines int `json:"lines,omitempty" jsonschema:"lines of each service, 1 to 10000; default 100"`
}

// operate does something to the app, unless something else does.
func (a *app) operate(r *http.Request, action func(ctx context.Context, report func(installer.Event)) error) error {
	a.working.RLock() // the daemon does not end for a newer program meanwhile
	defer a.working.RUnlock()
	err := action(context.WithoutCancel(r.Context()), func(e installer.Event) { a.tell("", e) })
	switch {
	case errors.Is(err, ErrBusy):
		return because("busy", http.StatusConflict, "an update or another command is changing this app: try again when it has ended")
	case errors.Is(err, installer.ErrNothingRuns), errors.Is(err, ErrNoData):
		return refuse(http.StatusConflict, "%v", err)
	}
	return err
}

// started starts the app, and says how it went.
func (a *app) started(r *http.Request, always, stop bool) (out Done, err error) {
	err = a.operate(r, func(ctx context.Context, report func(installer.Event)) error {
		if stop {
			if err := a.Device.Stop(ctx, a.name, report); err != nil {
				return err
			}
		}
		res, err := a.Device.Start(ctx, a.name, always, report)
		if err == nil {
			err = res.Err
		}
		out = Done{Status: "success", Message: res.Record.To.Version + " runs as it is configured, and is healthy."}
		if err == nil && res.Outcome == installer.Done {
			out.PublicID = res.Record.ID
			a.changed(res.Record.ID, res.Record.Status)
		}
		return err
	})
	return out, err
}

func (a *app) postConfigured(r *http.Request) (Done, error) { return a.started(r, true, false) }
func (a *app) postStart(r *http.Request) (Done, error)      { return a.started(r, false, false) }
func (a *app) postRestart(r *http.Request) (Done, error)    { return a.started(r, false, true) }

func (a *app) postStop(r *http.Request) (out Done, err error) {
	return Done{Status: "success", Message: "It is stopped."}, a.operate(r, func(ctx context.Context, report func(installer.Event)) error {
		return a.Device.Stop(ctx, a.name, report)
	})
}

func (a *app) postBackup(r *http.Request) (out Backup, err error) {
	err = a.operate(r, func(ctx context.Context, report func(installer.Event)) (err error) {
		out, err = a.Device.Save(ctx, a.name, report)
		return err
	})
	return out, err
}

// getLogs sends what the app printed last. It may hold what a service prints of its
// secrets.
func (a *app) getLogs(w http.ResponseWriter, r *http.Request) (any, error) {
	lines, err := number(r, "lines", 100, 1, maxLogLines)
	if err != nil {
		return nil, err
	}
	var out tail
	if err := a.operate(r, func(context.Context, func(installer.Event)) error {
		return a.Device.Logs(r.Context(), a.name, lines, &out)
	}); err != nil {
		return nil, err
	}
	a.audit(r, a, nil, nil)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(out.last())
	return nil, nil
}

// tail keeps the last bytes that are written.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p[max(0, len(p)-maxLog):]...)
	if len(*t) > 2*maxLog {
		*t = append((*t)[:0], t.last()...)
	}
	return len(p), nil
}

func (t tail) last() []byte { return t[max(0, len(t)-maxLog):] }

// postRepair is about apps that are not served: their records cannot be read.
func (d *Daemon) postRepair(w http.ResponseWriter, r *http.Request) {
	names, err := d.Device.Repair(context.WithoutCancel(r.Context()))
	d.audit(r, nil, nil, err)
	if errors.Is(err, ErrBusy) {
		err = because("busy", http.StatusConflict, "another command is changing an app: try again when it has ended")
	}
	if err != nil {
		d.problem(w, r, err)
		return
	}
	select {
	case d.gone <- struct{}{}: // they are served soon
	default:
	}
	slices.Sort(names)
	reply(w, http.StatusOK, Done{Status: "success", Message: fmt.Sprintf("Records that were recreated: %d %q.", len(names), names)})
}
