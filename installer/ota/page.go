package ota

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	g "maragu.dev/gomponents"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

// The page is made of parts. A part is asked of the daemon anew whenever the
// script learns that something happened, so what it shows is what the records
// say.

const historySize = 10 // records on a page

// view is what the page and its parts are drawn from.
type view struct {
	T    func(key string, args ...any) string
	Note func(n installer.Note) string // a sentence of a plan
	Lang string
	// Texts are those of the script, as JSON.
	Texts string
	Me    *who

	App     string
	Apps    []string
	State   daemon.State
	Check   *daemon.Check
	History *history
	Waiting []daemon.Update
	Backups []daemon.Backup
	Health  []daemon.Finding // those that failed first
	Failed  int              // of Health
	Plan    *installer.Plan
	Update  *daemon.Update
	Trouble *failure // why there is nothing to show
	Login   *loginError
}

type history struct {
	daemon.Page
	Filter string
	Pages  int
}

// failure is an error as the page shows it: a sentence, and what is folded under it.
type failure struct{ Sentence, Details, Text string }

// Why is a failure of a kind, in the page's language.
func (v view) Why(reason, text string) *failure {
	sentence := v.T("why." + reason)
	if sentence == "why."+reason {
		sentence = v.T("why.")
	}
	return &failure{sentence, v.T("details"), text}
}

// WhyOf is why an update failed, or waits; nil when nothing is wrong. What runs now is said of one that was undone.
func (v view) WhyOf(u daemon.Update) *failure {
	if u.ErrorMessage == nil {
		return nil
	}
	f := v.Why(value(u.Reason), *u.ErrorMessage)
	if from := value(u.FromVersion); from != "" && u.Status == installer.RolledBack && value(u.Reason) != "by-hand" {
		f.Sentence += " " + v.T("why.back", from)
	}
	return f
}

// Wrong is all that speaks against a plan.
func (v view) Wrong() (all []*failure) {
	err := v.Plan.Check()
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			all = append(all, v.Why(installer.ReasonOf(err), v.details(err)))
		}
	}
	return all
}

// details are an error's sentences in the page's language, as far as it has some.
func (v view) details(err error) string {
	var notes []installer.Note
	switch e := err.(type) {
	case *installer.LacksError:
		notes = e.What
	case *installer.DataLeftError:
		notes = e.What
	default:
		return err.Error()
	}
	var said []string
	for _, n := range notes {
		said = append(said, v.Note(n))
	}
	return strings.Join(said, "; ")
}

// By is who asked for an update: a user, or one of ours.
func (v view) By(who string) string {
	if said := v.T("by." + who); said != "by."+who {
		return said
	}
	return who
}

// May is whether who looks may do something.
func (v view) May(scope string) bool { return v.Me.may(Scope(scope)) }

// What names what a record did. A rollback to what runs was about the data.
func (v view) What(r daemon.Update) string {
	if r.Action == installer.ActionRollback && value(r.FromVersion) == r.Version {
		return v.T("action.restore")
	}
	return v.T("action." + string(r.Action))
}

// Every says how often in words.
func (v view) Every(interval string) string {
	key := "every." + interval
	if text := v.T(key); text != key {
		return text
	}
	return v.T("every", interval)
}

// parts can be asked for alone: what they need, and how they look.
var parts = map[string]struct {
	fill func(*Server, context.Context, *http.Request, *view) error
	draw func(*view) g.Node
}{
	"version":  {(*Server).fillState, (*view).version},
	"activity": {(*Server).fillState, (*view).activity},
	"settings": {(*Server).fillState, (*view).settings},
	"release": {func(s *Server, ctx context.Context, r *http.Request, v *view) error {
		if !v.May(string(check)) {
			return nil
		}
		if err := s.fillState(ctx, r, v); err != nil || v.State.Source == "" {
			return err
		}
		v.Check = new(daemon.Check)
		return s.daemon.Get(ctx, "/check", v.App, nil, v.Check)
	}, (*view).release},
	"waiting": {func(s *Server, ctx context.Context, r *http.Request, v *view) error {
		var p daemon.Page
		err := s.daemon.Get(ctx, "", v.App, url.Values{"status": {string(installer.Pending)}}, &p)
		v.Waiting = p.Data
		return err
	}, (*view).waiting},
	"history": {(*Server).fillHistory, (*view).history},
	"backups": {func(s *Server, ctx context.Context, r *http.Request, v *view) error {
		return s.daemon.Get(ctx, "/backups", v.App, nil, &v.Backups)
	}, (*view).backups},
	"health": {func(s *Server, ctx context.Context, r *http.Request, v *view) error {
		err := s.daemon.Get(ctx, "/doctor", v.App, nil, &v.Health)
		for i, f := range v.Health {
			v.Health[i] = s.texts.finding(v.Lang, f)
		}
		failed := slices.DeleteFunc(slices.Clone(v.Health), func(f daemon.Finding) bool { return f.OK })
		v.Failed = len(failed)
		v.Health = append(failed, slices.DeleteFunc(v.Health, func(f daemon.Finding) bool { return !f.OK })...)
		return err
	}, (*view).health},
}

// atOnce are the parts that the page has when it is loaded; the script asks for
// the others, which take time.
var atOnce = []string{"version", "waiting", "history", "backups"}

func (s *Server) fillState(ctx context.Context, r *http.Request, v *view) error {
	if err := s.daemon.Get(ctx, "/state", v.App, nil, &v.State); err != nil {
		return err
	}
	v.Update = v.State.Running
	if v.Update == nil {
		var p daemon.Page
		q := url.Values{"page_size": {"1"}, "status": {string(installer.Completed), string(installer.Failed), string(installer.RolledBack)}}
		if err := s.daemon.Get(ctx, "", v.App, q, &p); err != nil {
			return err
		}
		if len(p.Data) > 0 {
			v.Update = &p.Data[0]
		}
	}
	return nil
}

func (s *Server) fillHistory(ctx context.Context, r *http.Request, v *view) error {
	h := &history{Filter: r.URL.Query().Get("status")}
	n, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || n < 1 {
		n = 1
	}
	q := url.Values{"page": {strconv.Itoa(n)}, "page_size": {strconv.Itoa(historySize)}}
	if h.Filter != "" {
		q.Set("status", h.Filter)
	}
	if err := s.daemon.Get(ctx, "", v.App, q, &h.Page); err != nil {
		return err
	}
	if err := s.daemon.Get(ctx, "/state", v.App, nil, &v.State); err != nil {
		return err
	}
	h.Pages = max(1, (h.Total+historySize-1)/historySize)
	v.History = h
	return nil
}

// newView is a view of the app that is asked for, or of the first.
func (s *Server) newView(ctx context.Context, r *http.Request) (v *view, err error) {
	v = s.plainView(r)
	if err := s.daemon.Get(ctx, "/apps", "", nil, &v.Apps); err != nil {
		return v, err
	}
	v.App = r.URL.Query().Get("app")
	if v.App == "" && len(v.Apps) > 0 {
		v.App = v.Apps[0]
	}
	if !slices.Contains(v.Apps, v.App) {
		return v, errNoApp
	}
	return v, nil
}

func (s *Server) plainView(r *http.Request) *view {
	lang := s.texts.choose(r)
	note := func(n installer.Note) string { return s.texts.say(lang, n.Format, n.Args, n.Text) }
	return &view{T: s.texts.text(lang), Note: note, Lang: lang, Texts: s.texts.forScript(lang), Me: whoIs(r)}
}

// failed is an error in the page's language.
func (v *view) failed(err error) *failure {
	if errors.Is(err, errNoApp) {
		return &failure{Sentence: v.T("none.installed")}
	}
	reason := "unreachable"
	if p := new(daemon.Problem); errors.As(err, &p) {
		reason = p.Reason
	}
	return v.Why(reason, err.Error())
}

var errNoApp = errors.New("no app is installed")

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	if lang := r.URL.Query().Get("lang"); lang != "" {
		http.SetCookie(w, &http.Cookie{Name: "lang", Value: url.QueryEscape(lang), Path: "/", MaxAge: 365 * 86400, HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteStrictMode})
	}
	v, err := s.newView(r.Context(), r)
	for _, name := range atOnce {
		if err == nil {
			err = parts[name].fill(s, r.Context(), r, v)
		}
	}
	if err != nil {
		v.Trouble = v.failed(err)
	}
	s.show(w, r, http.StatusOK, v, (*view).page)
}

func (s *Server) part(w http.ResponseWriter, r *http.Request) {
	p, ok := parts[r.PathValue("part")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	v, err := s.newView(r.Context(), r)
	if err == nil {
		err = p.fill(s, r.Context(), r, v)
	}
	if err != nil {
		v.Trouble = v.failed(err)
		status := http.StatusInternalServerError
		if errors.Is(err, daemon.ErrUnreachable) {
			status = http.StatusBadGateway
		}
		s.show(w, r, status, v, (*view).trouble)
		return
	}
	s.show(w, r, http.StatusOK, v, p.draw)
}

// planPart shows what an update would do, before anybody can apply it.
func (s *Server) planPart(w http.ResponseWriter, r *http.Request) {
	ctx, id, force := r.Context(), url.PathEscape(r.PathValue("id")), r.URL.Query().Get("force")
	v, err := s.newView(ctx, r)
	if err == nil {
		v.Update = new(daemon.Update)
		err = s.daemon.Get(ctx, "/"+id, v.App, nil, v.Update)
	}
	if err == nil {
		v.Plan = new(installer.Plan)
		err = s.daemon.Get(ctx, "/"+id+"/plan", v.App, url.Values{"force": {force}}, v.Plan)
	}
	if err != nil {
		v.Trouble, v.Plan = v.failed(err), nil
	}
	s.show(w, r, http.StatusOK, v, (*view).plan)
}

func (s *Server) showLogin(w http.ResponseWriter, r *http.Request, status int, e *loginError) {
	v := s.plainView(r)
	v.Login = e
	s.show(w, r, status, v, (*view).login)
}

func (s *Server) show(w http.ResponseWriter, r *http.Request, status int, v *view, draw func(*view) g.Node) {
	var b bytes.Buffer
	if n := draw(v); n != nil {
		_ = n.Render(&b) // a buffer takes everything
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Language", v.Lang)
	h.Set("Vary", "Accept-Language, Accept-Encoding, Cookie")
	if status != http.StatusOK {
		h.Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_, _ = w.Write(b.Bytes())
		return
	}
	serveCompressed(w, r, "page.html", b.Bytes())
}

// serveCompressed sends text as small as the browser takes it.
func serveCompressed(w http.ResponseWriter, r *http.Request, name string, b []byte) {
	h := w.Header()
	h.Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	if tag := h.Get("ETag"); tag != "" && r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") || len(b) < 512 {
		_, _ = w.Write(b)
		return
	}
	h.Set("Content-Encoding", "gzip")
	_, _ = w.Write(compress(b))
}

// gzips are as many as compress at a time: each has 800 KiB.
var gzips = make(chan *gzip.Writer, 2)

func init() {
	for range cap(gzips) {
		gzips <- gzip.NewWriter(nil)
	}
}

// compress does not send: who reads slowly must not keep others from it.
func compress(b []byte) []byte {
	z := <-gzips
	defer func() { gzips <- z }()
	var out bytes.Buffer
	z.Reset(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

func etag(b []byte) string {
	sum := sha256.Sum256(b)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

var statuses = []installer.Status{installer.Pending, installer.Downloading, installer.Verifying, installer.Applying, installer.Completed, installer.Failed, installer.RolledBack}

// times are the choices of how often to check: ours, and what is set.
func times(set daemon.Interval) []string {
	list := []string{"", "15m", "1h", "6h", "24h", "168h"}
	if s := set.String(); !slices.Contains(list, s) {
		list = append(list, s)
	}
	return list
}

// clockTime is one end of a window, as an input of type time wants it.
func clockTime(window string, end int) string {
	list := strings.Split(window, "-")
	if end >= len(list) || list[end] == "" {
		return ""
	}
	if hour, minute, _ := strings.Cut(list[end], ":"); len(hour) < 2 {
		return "0" + hour + ":" + minute
	} else if hour == "24" {
		return "00:" + minute
	}
	return list[end]
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func took(from, to *time.Time) string {
	if from == nil || to == nil {
		return ""
	}
	d := to.Sub(*from)
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func byteSize(n int64) string {
	f, unit := float64(n), 0
	for f >= 1023.95 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d\u00a0B", n)
	}
	return fmt.Sprintf("%.1f\u00a0%ciB", f, "KMGT"[unit-1])
}
