package daemon

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
)

const (
	minCheck     = time.Minute
	checkTimeout = 20 * time.Second
	bySchedule   = "schedule"
)

// window is a time of day, from and to in minutes; all day when they are equal.
type window struct{ from, to int }

func parseWindow(s string) (w window, err error) {
	if s == "" {
		return w, nil
	}
	var h1, m1, h2, m2 int
	if n, err := fmt.Sscanf(s, "%d:%d-%d:%d", &h1, &m1, &h2, &m2); n != 4 || err != nil || h1 < 0 || h1 > 23 || h2 < 0 || h2 > 24 || m1 < 0 || m1 > 59 || m2 < 0 || m2 > 59 {
		return w, fmt.Errorf("window is %q, want HH:MM-HH:MM", s)
	}
	return window{h1*60 + m1, h2*60 + m2}, nil
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

// schedule asks the source from time to time. A tenth of the time is left to
// chance, so that a fleet does not ask at once.
func (a *app) schedule(ctx context.Context) {
	if a.config.Check == 0 {
		return
	}
	w, _ := parseWindow(a.config.Window) // Validate was here
	for {
		pause := a.config.Check*9/10 + rand.N(a.config.Check/5)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if _, err := a.check(ctx); err != nil {
			a.log().Warn("check for updates", "err", err)
			continue
		}
		a.mu.Lock()
		latest := a.latest
		a.mu.Unlock()
		if latest == nil || a.config.Auto == "" || a.config.Auto == Off {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(w.wait(a.Now())):
		}
		if err := a.automatic(ctx, latest.Version); err != nil {
			a.log().Warn("update by schedule", "version", latest.Version, "err", err)
		}
	}
}

// automatic stages or applies what a check found. A version is tried once.
func (a *app) automatic(ctx context.Context, version string) error {
	found, _, err := a.records.Find(ctx, nil, -1, 0)
	if err != nil {
		return err
	}
	for _, r := range found {
		if r.To.Version == version {
			return nil
		}
	}
	if a.config.Auto == Stage {
		_, err := a.download(ctx, version, bySchedule)
		return err
	}
	r := installer.Record{ID: a.NewID(), To: installer.Release{Version: version}, Status: installer.Pending, By: bySchedule, Created: a.Now()}
	if err := a.records.Add(ctx, r); err != nil {
		return err
	}
	return a.enqueue(job{record: r.ID})
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
	if st.Current != nil && bundle.Newer(l.Version, st.Current.Version) {
		a.latest = &l
	}
	return l, nil
}

// download fetches a release into the inbox, where it waits for somebody to
// apply it.
func (a *app) download(ctx context.Context, version, by string) (installer.Record, error) {
	if old, err := a.open(ctx, version); err != nil || old != nil && old.Bundle != nil {
		return installer.Record{}, cmp.Or(err, refuse(http.StatusConflict, "version %s is here already", version))
	}
	if !a.fetching.TryLock() {
		return installer.Record{}, refuse(http.StatusConflict, "a download is running already")
	}
	defer a.fetching.Unlock()
	id := a.NewID()
	if err := a.fetch(ctx, id, version); err != nil {
		return installer.Record{}, err
	}
	return a.accept(ctx, id, by)
}

// fetch writes a release to ID.unverified.
func (a *app) fetch(ctx context.Context, id, version string) error {
	f, err := a.inbox.OpenFile(id+unverified, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
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
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "type": "dev.valise.update." + string(r.Status), "source": "/valise/" + a.name, "id": r.ID + "-" + string(r.Status),
		"time": a.Now().UTC().Format(time.RFC3339), "subject": r.To.Version, "datacontenttype": "application/json", "data": toUpdate(r),
	})
	if err != nil {
		return
	}
	for pause := time.Second; ; pause *= 4 {
		if err = post(ctx, a.config.Webhook, body); err == nil {
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

func post(ctx context.Context, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode >= 300 {
		return fmt.Errorf("webhook answered %s", res.Status)
	}
	return nil
}
