package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/bundle/web"
	"github.com/valise-ota/valise/installer"
)

const (
	checkTimeout = time.Minute
	bySchedule   = "schedule"
	// longestPause is how long a download that fails waits for its next try, unless
	// the source is asked more seldom.
	longestPause = 24 * time.Hour
)

// window is a time of day, from and to in minutes; all day when they are equal.
type window struct{ from, to int }

var windowPattern = lazyregexp.New(`^([01]?[0-9]|2[0-3]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])$`)

func parseWindow(s string) (w window, err error) {
	if s == "" {
		return w, nil
	}
	m := windowPattern.FindStringSubmatch(s)
	if m == nil {
		return w, fmt.Errorf("window is %.40q, want HH:MM-HH:MM", s)
	}
	minute := func(hour, minute string) int {
		h, _ := strconv.Atoi(hour)
		m, _ := strconv.Atoi(minute)
		return h*60 + m
	}
	return window{minute(m[1], m[2]), minute(m[3], m[4])}, nil
}

// wait is how long it is until the window is open.
func (w window) wait(now time.Time) time.Duration {
	if w.from == w.to {
		return 0
	}
	minute := now.Hour()*60 + now.Minute()
	if w.from < w.to && minute >= w.from && minute < w.to || w.from > w.to && (minute >= w.from || minute < w.to) {
		return 0
	}
	ahead := (w.from - minute + 24*60) % (24 * 60)
	return time.Duration(ahead)*time.Minute - time.Duration(now.Second())*time.Second
}

// length is that of the window.
func (w window) length() time.Duration {
	return time.Duration((w.to-w.from+24*60-1)%(24*60)+1) * time.Minute
}

// schedule asks the source from time to time: soon after the start, since a
// device may be switched off every evening, and then as often as the settings
// say. Chance spreads it, so that a fleet does not ask at once.
func (a *app) schedule(ctx context.Context) {
	for first, failed := true, false; ; {
		var due <-chan time.Time // never
		switch every := time.Duration(a.settings().Check); {
		case every == 0:
		case first:
			due = time.After(rand.N(every / 10))
		case failed:
			due = time.After(soon(every))
		default:
			pause := every*9/10 + rand.N(every/5)
			if left := time.Until(a.late.again); left > 0 {
				pause = min(pause, left)
			}
			due = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.rescheduled:
			first = true
			continue
		case <-a.onward:
			if st, err := a.records.Load(ctx); err != nil || st.Path == nil {
				continue
			}
		case <-due:
		}
		err := a.scheduled(ctx)
		if first, failed = false, err != nil; failed {
			a.log().Warn("update by schedule", "err", err)
		}
	}
}

// soon is the pause after a failure, where the source is asked every so often.
func soon(every time.Duration) time.Duration { return max(time.Duration(minCheck), every/10) }

// late is a version that could not be downloaded or installed, through no fault of its
// own: for want of room, of a network that holds, or of power. It is tried again, each
// time after twice the pause, and at once when another release runs.
type late struct {
	version, from string
	tries         int
	again         time.Time
}

// mayTry reports whether a version that is late has its next try now, from what runs.
// tries are those that are written down: more than once the power may have gone for
// this very update.
func (a *app) mayTry(version, from string, tries int) bool {
	if a.late.version != version || a.late.from != from {
		a.late = late{version: version, from: from, tries: max(0, tries-1)}
		if tries > 1 {
			a.late.again = time.Now().Add(a.pause())
		}
	}
	if time.Until(a.late.again) > 0 {
		return false
	}
	a.late.again = time.Now().Add(a.pause())
	a.late.tries++
	return true
}

// pause is that after the tries of what is late.
func (a *app) pause() time.Duration {
	every := time.Duration(a.settings().Check)
	return min(soon(every)<<min(a.late.tries, 16), max(every, longestPause))
}

// isLate reports whether a record says that its version is late.
func isLate(r installer.Record) bool {
	return r.Status == installer.Pending && r.By == bySchedule && r.Bundle == nil
}

// wasCut reports whether the update of a record ended through no fault of its release.
func wasCut(r installer.Record, st installer.State) bool {
	return (r.Status == installer.Failed || r.Status == installer.RolledBack) && st.Path != nil && st.Path.Version == r.To.Version && st.Current.Version != r.To.Version
}

// notDownloaded says when a version is tried again, in its record and the log.
func (a *app) notDownloaded(ctx context.Context, version string, cause error) error {
	pause := time.Until(a.late.again)
	r := installer.Record{
		ID: a.NewID(), To: installer.Release{Version: version}, Status: installer.Pending, By: bySchedule, Created: a.Now(),
		Reason: cmp.Or(installer.ReasonOf(cause), "source"),
		Error:  fmt.Sprintf("not downloaded, try %d: %s; the next one is in %s", a.late.tries, a.explain(cause), pause.Round(time.Minute)),
	}
	if err := a.records.Add(ctx, r); err != nil {
		return errors.Join(cause, err)
	}
	a.changed(r.ID, r.Status)
	return fmt.Errorf("%s is %s", version, r.Error)
}

// scheduled asks the source once, and does with a newer release what the settings
// say, when they say. It looks at the clock each minute: a device may boot with
// a wrong one, and the settings may change.
func (a *app) scheduled(ctx context.Context) error {
	if a.settings().Check == 0 {
		return nil
	}
	if _, err := a.check(ctx); err != nil {
		return err
	}
	for waited := false; ; {
		a.mu.Lock()
		latest, s := a.latest, a.config.Settings
		a.mu.Unlock()
		if latest == nil || s.Auto == "" || s.Auto == Off {
			return nil
		}
		w, _ := parseWindow(s.Window) // Validate was here
		pause := min(w.wait(a.Now()), time.Minute)
		switch {
		case pause > 0:
			waited = true
		case waited: // hours, maybe: ask again, not all devices in the same moment
			waited, pause = false, rand.N(w.length()/10)
			if _, err := a.check(ctx); err != nil {
				return err
			}
		default:
			return a.automatic(ctx, *latest, s.Auto, w)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.rescheduled:
			return a.scheduled(ctx)
		case <-time.After(pause):
		}
	}
}

// automatic downloads what a check found, or what has to come before it, and applies
// it while the window is open. A version that fails or is refused is tried once; what
// was kept from it by something else is tried again, after a pause that grows.
func (a *app) automatic(ctx context.Context, latest Latest, auto Mode, w window) error {
	found, _, err := a.records.Find(ctx, nil, -1, 0)
	if err != nil {
		return err
	}
	st, err := a.records.Load(ctx)
	if err != nil || st.Current == nil {
		return err
	}
	version, from := latest.Way[0], st.Current.Version
	i := slices.IndexFunc(found, func(r installer.Record) bool { return r.To.Version == version })
	again := i >= 0 && isLate(found[i])
	if i >= 0 && wasCut(found[i], st) {
		if !a.mayTry(version, from, st.Path.Try) {
			return nil
		}
		if b := found[i].Bundle; b == nil || b.File == "" {
			i = -1
		} else if err := errors.Join(a.records.Become(ctx, found[i].ID, installer.Pending, nil, a.Now()), a.records.Note(ctx, found[i].ID, bySchedule)); err != nil {
			return err
		} else {
			found[i].Status, found[i].By, found[i].Error = installer.Pending, bySchedule, ""
		}
	} else if (i < 0 || again) && !a.mayTry(version, from, 0) {
		return nil
	}
	if i < 0 || again {
		if again { // what comes of this try is said anew
			if err := a.records.Delete(ctx, found[i].ID); err != nil {
				return err
			}
			found = slices.Delete(found, i, i+1)
		}
		r, err := a.download(ctx, version, bySchedule)
		busy := new(refusal)
		switch {
		case err == nil:
			a.late = late{}
		case ctx.Err() != nil, r.Status == installer.Failed:
			return err
		case errors.As(err, &busy) && busy.status == http.StatusConflict:
			a.late.again = time.Time{}
			return err
		default:
			return a.notDownloaded(ctx, version, err)
		}
		for _, old := range found {
			if old.Status == installer.Pending && old.By == bySchedule {
				a.forgetFile(ctx, old.ID)
				a.fail(ctx, old.ID, &installer.Failure{Reason: "superseded", Err: errors.New("not applied before " + version + " came")})
			}
		}
		found, i = []installer.Record{r}, 0
	}
	r := found[i]
	switch {
	case wentBack(st, version), auto != Apply, r.Status != installer.Pending, r.By != bySchedule, w.wait(a.Now()) > 0:
		return nil
	case r.Error != "" && !a.mayTry(version, from, 0): // something stood in the way
		return nil
	}
	return a.enqueue(job{record: r.ID, on: st.PathTo(latest.Version, len(latest.Way))})
}

// check asks the source for its newest release and keeps the answer when that is
// newer than what runs.
func (a *app) check(ctx context.Context) (Latest, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	l, err := a.Device.Latest(ctx, a.name)
	if err != nil {
		return l, err
	}
	st, err := a.records.Load(ctx)
	if err != nil {
		return l, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checked, a.latest = a.Now(), nil
	if st.Current != nil && len(l.Way) > 0 && bundle.Newer(l.Version, st.Current.Version) {
		a.latest = &l
	}
	return l, nil
}

// download fetches a release into the inbox, where it waits for somebody to
// apply it.
func (a *app) download(ctx context.Context, version, by string) (installer.Record, error) {
	if old, err := a.open(ctx, version); err != nil || old != nil && old.Bundle != nil {
		return installer.Record{}, cmp.Or(err, because("here", http.StatusConflict, "version %s is here already", version))
	}
	if err := a.keepable(ctx); err != nil && by != bySchedule { // a schedule's bundle takes the place of the one before
		return installer.Record{}, err
	}
	if !a.fetching.TryLock() {
		return installer.Record{}, because("busy", http.StatusConflict, "a download is running already")
	}
	defer a.fetching.Unlock()
	id := a.NewID()
	if err := a.fetch(ctx, id, version); err != nil {
		text, check := a.Device.Explain(err)
		if check == "" {
			return installer.Record{}, err
		}
		r := installer.Record{ID: id, To: installer.Release{Version: version}, Status: installer.Failed, Error: text, Reason: installer.ReasonOf(err), By: by, Created: a.Now()}
		if err := a.records.Add(ctx, r); err != nil {
			return r, err
		}
		a.changed(id, installer.Failed)
		return r, &refusal{http.StatusUnprocessableEntity, check, text, r.Reason}
	}
	return a.accept(ctx, id, by, "", version)
}

// fetch writes a release to ID.unverified.
func (a *app) fetch(ctx context.Context, id, version string) error {
	f, err := a.inbox.OpenFile(id+unverified, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) // Thin reads again what it wrote
	if err != nil {
		return err
	}
	err = a.Device.Fetch(ctx, a.name, version, f, func(e installer.Event) {
		if !e.Ended {
			a.hub.send(Event{Type: "download", Detail: version, Done: e.Done, Total: e.Total})
		}
	})
	if err = errors.Join(err, f.Close()); err != nil {
		a.removeFile(id + unverified)
	}
	return err
}

// webhook tells somebody that a record has another status. It is tried a few
// times; who needs all of them reads the records.
func (a *app) webhook(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := a.records.Get(ctx, id)
	if err != nil {
		return
	}
	body, err := json.Marshal(a.cloudEvent(r, a.Now()))
	if err != nil {
		return
	}
	for pause := time.Second; ; pause *= 4 {
		if err = post(ctx, a.config.Webhook, plain.Text(string(body))); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			a.log().Warn("webhook", "err", err)
			return
		case <-time.After(pause):
		}
	}
}

// cloudEvent is what a webhook gets.
func (a *app) cloudEvent(r installer.Record, now time.Time) map[string]any {
	return map[string]any{
		"specversion": "1.0", "type": "dev.valise.update." + string(r.Status), "source": "/valise/" + a.name, "id": r.ID + "-" + string(r.Status),
		"time": now.UTC().Format(time.RFC3339), "subject": r.To.Version, "datacontenttype": "application/json", "data": a.toUpdate(r),
	}
}

// hooks sends no password in the open, and nothing to where an answer points.
var hooks = &http.Client{
	Transport:     &web.Guard{Next: web.Transport()},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func post(ctx context.Context, url, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	res, err := hooks.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode >= 300 {
		return fmt.Errorf("webhook answered %s", res.Status)
	}
	return nil
}
