package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
)

// The OTA API, on the local socket.

const maxJSON = 64 << 10 // bytes of a request

// Handler serves the API.
func (d *Daemon) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range Routes() {
		switch {
		case r.serve != nil:
			mux.HandleFunc(r.Method+" "+r.path(), func(w http.ResponseWriter, req *http.Request) { d.serve(w, req, r) })
		case r.whole != nil:
			mux.HandleFunc(r.Method+" "+r.path(), func(w http.ResponseWriter, req *http.Request) { r.whole(d, w, req) })
		}
	}
	mux.HandleFunc("POST "+Prefix+"/{command}", d.noCall)
	return Bounded{Next: mux, Now: time.Now, Bundle: func(r *http.Request) bool {
		return r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, "/uploads/")
	}, Patience: d.Timing.Patience}
}

func (d *Daemon) serve(w http.ResponseWriter, req *http.Request, r Route) {
	a, err := d.appOf(req)
	var v any
	if err == nil {
		v, err = r.serve(a, w, req)
	}
	if r.Method != http.MethodGet && r.InMedia == "" { // not each piece of an upload
		d.audit(req, a, v, err)
	}
	switch {
	case err != nil:
		d.problem(w, req, err)
	case r.Out != nil:
		reply(w, r.Status(), v)
	}
}

// atDevice are the commands that no call has: docs/page.md says why.
var atDevice = []string{"install BUNDLE", "adopt --root /opt/APP", "recover", "trust", "receipts", "usb", "self-update", "uninstall"}

// noCall names the command to whoever looks for a call in its place.
func (d *Daemon) noCall(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("command")
	err := refuse(http.StatusMethodNotAllowed, "there is no call POST /%.20s", name)
	for _, command := range atDevice {
		if first, _, _ := strings.Cut(command, " "); first == name {
			err = refuse(http.StatusMethodNotAllowed, "there is no call POST /%s: on the device, use \"sudo valise-installer %s\"", name, command)
		}
	}
	d.problem(w, r, err)
}

func (d *Daemon) getApps(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, d.names()) }

func (d *Daemon) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := []string{}
	for n := range d.apps {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// appOf is the app that ?app= names, or the only one.
func (d *Daemon) appOf(r *http.Request) (*app, error) {
	name, names := r.URL.Query().Get("app"), d.names()
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	if a := d.app(name); a != nil {
		return a, nil
	}
	if name == "" && len(names) > 1 {
		return nil, refuse(http.StatusBadRequest, "several apps are installed: name one with ?app=, one of %s", strings.Join(names, ", "))
	}
	if len(names) == 0 {
		return nil, refuse(http.StatusNotFound, "no app is installed here: on the device, use \"sudo valise-installer %s\", or for one that runs already \"%s\"", atDevice[0], atDevice[1])
	}
	return nil, refuse(http.StatusNotFound, "app %q is not installed here", name)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (d *Daemon) problem(w http.ResponseWriter, r *http.Request, err error) {
	p := Problem{Type: "about:blank", Status: http.StatusInternalServerError, Detail: err.Error()}
	if no := new(refusal); errors.As(err, &no) {
		p.Status, p.Check, p.Reason = no.status, no.check, no.reason
	} else if errors.Is(err, installer.ErrNoRecord) {
		p.Status, p.Detail = http.StatusNotFound, "there is no such update"
	} else {
		d.Log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
		p.Detail, p.Check = d.Device.Explain(err)
		p.Reason = installer.ReasonOf(err)
		if p.Check != "" {
			p.Status = http.StatusUnprocessableEntity
		}
	}
	p.Title, p.Detail, p.Reason = http.StatusText(p.Status), plain.Text(p.Detail), cmp.Or(p.Reason, ReasonFor(p.Status))
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// audit writes down who asked for what, and what came of it.
func (d *Daemon) audit(r *http.Request, a *app, v any, err error) {
	line := map[string]any{"time": d.Now().UTC().Format(time.RFC3339), "actor": actor(r), "call": r.Method + " " + strings.TrimPrefix(r.URL.Path, Prefix)}
	if a != nil {
		line["app"] = a.name
	}
	if s, is := v.(Settings); is && err == nil {
		line["settings"] = s
	}
	if err != nil {
		line["refused"] = err.Error()
	}
	b, _ := json.Marshal(line)
	b = []byte(plain.Text(string(b)))
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.Audit.Write(append(b, '\n')); err != nil {
		d.Log.Error("write audit log", "err", err)
	}
}

func actor(r *http.Request) string {
	s := r.Header.Get(ActorHeader)
	return s[:min(len(s), 100)]
}

// body decodes a request of known members. An empty one is fine where nothing
// is required.
func body(r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxJSON))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return refuse(http.StatusUnprocessableEntity, "malformed request: %v", err)
	}
	return nil
}

func number(r *http.Request, key string, def, low, high int) (int, error) {
	s := r.URL.Query().Get(key)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, refuse(http.StatusUnprocessableEntity, "%s is %q, want %d to %d", key, s, low, high)
	}
	return n, nil
}

func (a *app) getPage(r *http.Request) (out Page, err error) {
	page, err := number(r, "page", 1, 1, 1e6)
	if err != nil {
		return out, err
	}
	size, err := number(r, "page_size", 25, 1, 100)
	if err != nil {
		return out, err
	}
	var states []installer.Status
	for _, s := range r.URL.Query()["status"] {
		states = append(states, installer.Status(s))
	}
	found, total, err := a.records.Find(r.Context(), states, size, (page-1)*size)
	if err != nil {
		return out, err
	}
	p := Page{page, size, total, []Update{}}
	for _, f := range found {
		p.Data = append(p.Data, a.toUpdate(f))
	}
	return p, nil
}

func (a *app) postUpdate(r *http.Request, in Announcement) (out Done, err error) {
	if _, err := bundle.ParseVersion(in.Version); err != nil {
		return out, because("version", http.StatusUnprocessableEntity, "version is %.100q, want a semantic version such as 2.1.0", in.Version)
	}
	old, err := a.open(r.Context(), in.Version)
	if err != nil {
		return out, err
	}
	if old != nil {
		return out, because("here", http.StatusConflict, "version %s is here already, %s", in.Version, old.Status)
	}
	rec := installer.Record{ID: a.NewID(), To: installer.Release{Version: in.Version}, Status: installer.Pending, By: actor(r), Created: a.Now()}
	if in.Changelog != nil {
		rec.Changelog = *in.Changelog
	}
	if err := a.records.Add(r.Context(), rec); err != nil {
		return out, err
	}
	a.changed(rec.ID, installer.Pending)
	return Done{"success", "Update " + in.Version + " is registered.", rec.ID}, nil
}

func (a *app) getUpdate(r *http.Request) (out Update, err error) {
	rec, err := a.records.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return out, err
	}
	return a.toUpdate(rec), nil
}

func (a *app) getCheck(r *http.Request) (out Check, err error) {
	st, err := a.records.Load(r.Context())
	if err != nil {
		return out, err
	}
	var c Check
	if st.Current != nil {
		c.CurrentVersion = st.Current.Version
	}
	// What waits here counts too: it came by upload or stick.
	waiting, _, err := a.records.Find(r.Context(), []installer.Status{installer.Pending}, -1, 0)
	if err != nil {
		return out, err
	}
	best := c.CurrentVersion
	for _, w := range waiting {
		if w.Bundle != nil && w.Bundle.Verified && bundle.Newer(w.To.Version, best) { // not what was only announced
			best = w.To.Version
		}
	}
	l, err := a.check(r.Context())
	switch {
	case err != nil:
		c.GitHubError = known(a.explain(err))
	case l.Version == "":
		// None is published there yet; that is no error.
	default:
		c.GitHubLatestVersion, c.GitHubDownloadURL, c.GitHubReleaseURL = known(l.Version), known(l.DownloadURL), known(l.ReleaseURL)
		c.GitHubPublishedOn, c.GitHubNotes, c.GitHubSizeBytes = known(l.Published), known(l.Notes), known(l.Size)
		if c.Way = l.Way; l.Blocked != nil {
			c.Blocked, c.BlockedReason = known(l.Blocked.Error()), known(installer.ReasonOf(l.Blocked))
		}
		if len(l.Way) > 0 && bundle.Newer(l.Version, best) {
			best = l.Version
		}
	}
	c.LatestVersion, c.UpdateAvailable = known(best), bundle.Newer(best, c.CurrentVersion)
	return c, nil
}

func (a *app) getPlan(r *http.Request) (out *installer.Plan, err error) {
	rec, err := a.records.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return out, err
	}
	path, err := a.pathOf(rec)
	if err != nil {
		return out, refuse(http.StatusConflict, "%v", err)
	}
	offer, err := a.plan(r.Context(), path, r.URL.Query().Get("force") == "true")
	if unmet := new(installer.UnmetError); errors.As(err, &unmet) && unmet.From != "" {
		return a.planWay(r.Context(), rec)
	}
	if installer.Obstacle(err) {
		text, check := a.Device.Explain(err)
		return out, &refusal{http.StatusUnprocessableEntity, check, text, installer.ReasonOf(err)}
	}
	if err != nil {
		return out, err
	}
	return offer.Plan, nil
}

// planWay says what it takes to come to a version that others have to come before.
func (a *app) planWay(ctx context.Context, r installer.Record) (*installer.Plan, error) {
	way, err := a.wayTo(ctx, r.To.Version, true)
	if err != nil {
		text, check := a.Device.Explain(err)
		return nil, &refusal{http.StatusUnprocessableEntity, check, text, installer.ReasonOf(err)}
	}
	st, err := a.records.Load(ctx)
	if err != nil || st.Current == nil {
		return nil, err
	}
	p := &installer.Plan{App: a.name, Action: installer.ActionUpdate, From: st.Current.Version, To: r.To.Version, RollbackTo: st.Current.Version, Downtime: installer.DowntimeUnknown}
	for _, h := range way {
		p.Way, p.LoadBytes = append(p.Way, h.Hop), p.LoadBytes+h.Bytes
	}
	return p, nil
}

func (a *app) postApply(r *http.Request, in Application) (out Done, err error) {
	if in.DownloadURL != nil {
		return out, refuse(http.StatusUnprocessableEntity, "this device fetches releases from its configured source only, not from a URL in a request")
	}
	a.deciding.Lock()
	defer a.deciding.Unlock()
	rec, err := a.records.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return out, err
	}
	if rec.Status != installer.Pending {
		if rec.Action != installer.ActionUpdate || !rec.Status.CanBecome(installer.Pending) {
			return out, refuse(http.StatusConflict, "cannot apply: it is %s", rec.Status)
		}
		if rec.Bundle == nil || rec.Bundle.File == "" {
			return out, because("not-kept", http.StatusConflict, "cannot apply again: its bundle is not kept, upload it again")
		}
		if err := a.records.Become(r.Context(), rec.ID, installer.Pending, nil, a.Now()); err != nil {
			return out, err
		}
		a.changed(rec.ID, installer.Pending)
	} else if a.agent != nil && a.agent.Confirm(rec.ID) {
		return Done{"success", "The server is told that " + rec.To.Version + " may be applied.", rec.ID}, nil
	} else if rec.Error != "" { // of the try before
		if err := a.records.Become(r.Context(), rec.ID, installer.Pending, nil, a.Now()); err != nil {
			return out, err
		}
	}
	if err := a.records.Note(r.Context(), rec.ID, actor(r)); err != nil {
		return out, err
	}
	if err := a.enqueue(job{record: rec.ID, forced: in.Force}); err != nil {
		return out, refuse(http.StatusTooManyRequests, "%v", err)
	}
	return Done{"success", "Update " + rec.To.Version + " begins.", rec.ID}, nil
}

func (a *app) postRollback(r *http.Request, in Data) (out Done, err error) {
	if in.Data != "" && in.Data != RestoreData && in.Data != KeepData {
		return out, refuse(http.StatusUnprocessableEntity, "data is %.20q, want restore or keep", in.Data)
	}
	rec, err := a.records.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return out, err
	}
	st, err := a.records.Load(r.Context())
	if err != nil {
		return out, err
	}
	switch {
	case rec.Status != installer.Completed:
		return out, refuse(http.StatusConflict, "cannot roll back: it is %s", rec.Status)
	case st.Current == nil || st.Current.Dir != rec.To.Dir:
		return out, refuse(http.StatusConflict, "cannot roll back: %s does not run", rec.To.Version)
	case st.Previous == nil:
		return out, refuse(http.StatusConflict, "cannot roll back: %v", installer.ErrNoPrevious)
	}
	id := a.NewID()
	if err := a.enqueue(job{record: id, by: actor(r), run: func(ctx context.Context) (installer.Result, error) {
		return a.Device.Rollback(ctx, a.name, id, in.Data, a.report(id))
	}}); err != nil {
		return out, refuse(http.StatusTooManyRequests, "%v", err)
	}
	return Done{"success", "Rollback to " + st.Previous.Version + " begins.", id}, nil
}

func (a *app) postRestore(r *http.Request, in Restoration) (out Done, err error) {
	b, err := a.backup(r)
	if err != nil {
		return out, err
	}
	id := a.NewID()
	if err := a.enqueue(job{record: id, by: actor(r), run: func(ctx context.Context) (installer.Result, error) {
		return a.Device.Restore(ctx, a.name, id, b.ID, in.Discard, a.report(id))
	}}); err != nil {
		return out, refuse(http.StatusTooManyRequests, "%v", err)
	}
	return Done{"success", "Restoring the backup of " + b.Created.UTC().Format(time.RFC3339) + ".", id}, nil
}

func (a *app) backup(r *http.Request) (Backup, error) {
	list, err := a.Device.Backups(a.name)
	if err != nil {
		return Backup{}, err
	}
	i := slices.IndexFunc(list, func(b Backup) bool { return b.ID == r.PathValue("id") })
	if i < 0 {
		return Backup{}, refuse(http.StatusNotFound, "there is no backup %.40q", r.PathValue("id"))
	}
	return list[i], nil
}

// getBackup sends one file of a backup: a name of ours, never the caller's.
func (a *app) getBackup(w http.ResponseWriter, r *http.Request) (any, error) {
	b, err := a.backup(r)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(b.Files, func(f BackupFile) bool { return f.Name == r.PathValue("file") })
	if i < 0 {
		return nil, refuse(http.StatusNotFound, "there is no such file in that backup")
	}
	f, err := a.Device.OpenBackup(a.name, b.ID, b.Files[i].Name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a.audit(r, a, nil, nil)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", b.Files[i].Name))
	w.Header().Set("Content-Length", strconv.FormatInt(b.Files[i].Size, 10))
	_, _ = io.Copy(w, f) // a client that hears less than the length knows
	return nil, nil
}

func (a *app) deleteUpdate(r *http.Request) (out Done, err error) {
	a.deciding.Lock()
	defer a.deciding.Unlock()
	rec, err := a.records.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return out, err
	}
	switch {
	case a.toUpdate(rec).Queued:
		return out, because("busy", http.StatusConflict, "cannot delete: it waits for its turn to be applied")
	case rec.Status == installer.Downloading, rec.Status == installer.Verifying, rec.Status == installer.Applying:
		return out, because("busy", http.StatusConflict, "cannot delete: it is %s", rec.Status)
	}
	if name := dropName(rec); name != "" {
		if err := a.moveDropped(name, failedDir, rec.To.Version, "deleted by "+actor(r)); err != nil {
			return out, refuse(http.StatusConflict, "cannot delete: %s cannot be moved out of the drop folder, take it away first: %v", name, err)
		}
	} else {
		a.forgetFile(r.Context(), rec.ID)
	}
	if err := a.records.Delete(r.Context(), rec.ID); err != nil {
		return out, refuse(http.StatusConflict, "%v", err)
	}
	a.hub.send(Event{Type: "deleted", Record: rec.ID})
	if a.agent != nil {
		a.agent.Wake()
	}
	return Done{"success", "Update " + rec.To.Version + " is deleted.", rec.ID}, nil
}

func (a *app) getState(r *http.Request) (out State, err error) {
	st, err := a.records.Load(r.Context())
	if err != nil {
		return out, err
	}
	s := State{
		App: a.name, Current: st.Current, Previous: st.Previous, Bad: st.Bad, Queued: len(a.jobs), Signers: a.config.Signers, Source: a.config.Source,
		Drop: a.config.Drop, DropMode: a.config.DropMode, Upload: a.config.Upload, Settings: a.settings(), MaxUpload: a.config.MaxUpload,
	}
	if st.Current != nil && st.Previous != nil {
		if s.OnRollback, err = a.Device.OnRollback(a.name, *st.Current); err != nil {
			return out, err
		}
	}
	if a.agent != nil {
		seen := a.agent.Seen()
		s.Fleet = &seen
	}
	a.mu.Lock()
	s.CheckedOn = known(a.checked)
	a.mu.Unlock()
	if s.FreeBytes, err = installer.FreeBytes(a.config.Inbox); err != nil {
		return out, err
	}
	busy, _, err := a.records.Find(r.Context(), []installer.Status{installer.Downloading, installer.Verifying, installer.Applying}, 1, 0)
	if err != nil {
		return out, err
	}
	if len(busy) > 0 {
		u := a.toUpdate(busy[0])
		s.Running = &u
	}
	return s, nil
}

// getEvents sends what happens as server-sent events: first all of the
// transaction that runs or was last, then everything new.
func (a *app) getEvents(w http.ResponseWriter, r *http.Request) (any, error) {
	past, next, ok := a.hub.watch(actor(r))
	if !ok {
		return nil, refuse(http.StatusServiceUnavailable, "%q watches %d times already, or %d watch", actor(r), maxWatchersEach, maxWatchers)
	}
	defer a.hub.leave(next)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	send := func(name string, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, b); err != nil {
			return err
		}
		return rc.Flush()
	}
	if past == nil {
		past = []Event{}
	}
	err := send("past", past)
	alive := time.NewTicker(15 * time.Second)
	defer alive.Stop()
	for err == nil {
		select {
		case <-r.Context().Done():
			return nil, nil
		case <-alive.C:
			err = send("alive", struct{}{})
		case e, open := <-next:
			if !open {
				return nil, nil
			}
			err = send("now", e)
		}
	}
	return nil, nil // whoever watched is gone
}

func (a *app) getBackups(*http.Request) (out []Backup, err error) {
	list, err := a.Device.Backups(a.name)
	if list == nil {
		list = []Backup{}
	}
	return list, err
}

func (a *app) getDoctor(r *http.Request) (out []Finding, err error) {
	return a.Device.Doctor(r.Context(), a.name), nil
}

func (a *app) postDownload(r *http.Request) (out Update, err error) {
	a.mu.Lock()
	latest := a.latest
	a.mu.Unlock()
	if latest == nil {
		return out, because("check-first", http.StatusConflict, "check for updates first: nothing newer is known")
	}
	rec, err := a.download(context.WithoutCancel(r.Context()), latest.Version, actor(r))
	if err != nil {
		return out, err
	}
	return a.toUpdate(rec), nil
}

func (a *app) postUpload(r *http.Request, in NewUpload) (out Upload, err error) {
	u, err := a.begin(actor(r), in)
	if err != nil {
		return out, err
	}
	return Upload{u.id, u.size, 0}, nil
}

func (a *app) getUpload(r *http.Request) (out Upload, err error) {
	u, err := a.upload(r.PathValue("id"))
	if err != nil {
		return out, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return Upload{u.id, u.size, u.offset}, nil
}

func (a *app) patchUpload(r *http.Request) (out Upload, err error) {
	u, err := a.upload(r.PathValue("id"))
	if err != nil {
		return out, err
	}
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil {
		return out, refuse(http.StatusUnprocessableEntity, "offset: %v", err)
	}
	n, err := a.write(u, offset, r.Body)
	if err != nil {
		return out, err
	}
	return Upload{u.id, u.size, n}, nil
}

func (a *app) finishUpload(r *http.Request) (out Update, err error) {
	u, err := a.upload(r.PathValue("id"))
	if err != nil {
		return out, err
	}
	if s := r.URL.Query().Get("size"); s != "" {
		if err := a.shrink(u, s); err != nil {
			return out, err
		}
	}
	// It goes on when whoever sent it has no patience or loses the connection.
	rec, err := a.finish(context.WithoutCancel(r.Context()), u)
	if err != nil {
		return out, err
	}
	return a.toUpdate(rec), nil
}

func (a *app) deleteUpload(r *http.Request) (out Done, err error) {
	u, err := a.upload(r.PathValue("id"))
	if err != nil {
		return out, err
	}
	a.abandon(u)
	return Done{Status: "success", Message: "The upload is gone."}, nil
}

// AuditFile opens the audit log in dir for appending.
func AuditFile(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "audit.jsonl"), os.O_WRONLY|os.O_CREATE|os.O_APPEND|noFollow, 0o600)
}
