package ota

import (
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	idleLimit     = 30 * time.Minute
	absoluteLimit = 12 * time.Hour
	rotateAfter   = 15 * time.Minute
	rotateGrace   = time.Minute // requests with the old name that are on their way
	maxSessions   = 1000
)

// who is somebody who was let in.
type who struct {
	name   string
	role   Role // of a user
	scopes []Scope
}

func (w *who) may(s Scope) bool { return w != nil && slices.Contains(w.scopes, s) }

type whoKey struct{}

func whoIs(r *http.Request) *who { w, _ := r.Context().Value(whoKey{}).(*who); return w }

// session is a browser that is logged in. They are kept in memory alone: after a
// restart everybody logs in again.
type session struct {
	user    string
	began   time.Time
	used    time.Time
	named   time.Time // when it got its name
	expires time.Time // an old name, in its grace
}

type sessions struct {
	now func() time.Time
	mu  sync.Mutex
	all map[string]*session // by digest of the cookie: memory that leaks lets nobody in
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, all: map[string]*session{}}
}

func (s *sessions) open(user string) (cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for k, v := range s.all {
		if v.over(now) {
			delete(s.all, k)
		}
	}
	if len(s.all) >= maxSessions {
		for k := range s.all { // any of them
			delete(s.all, k)
			break
		}
	}
	cookie = rand.Text()
	s.all[tokenHash(cookie)] = &session{user: user, began: now, used: now, named: now}
	return cookie
}

func (v *session) over(now time.Time) bool {
	return now.Sub(v.used) > idleLimit || now.Sub(v.began) > absoluteLimit || !v.expires.IsZero() && now.After(v.expires)
}

// get returns whose session it is, and another name for it when the one it has
// is old.
func (s *sessions) get(cookie string, rotate bool) (user, next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, key := s.now(), tokenHash(cookie)
	v := s.all[key]
	if v == nil || v.over(now) {
		delete(s.all, key)
		return "", ""
	}
	v.used = now
	if rotate && v.expires.IsZero() && now.Sub(v.named) > rotateAfter {
		next = rand.Text()
		renamed := *v
		renamed.named = now
		s.all[tokenHash(next)] = &renamed
		v.expires = now.Add(rotateGrace)
	}
	return v.user, next
}

func (s *sessions) close(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, tokenHash(cookie))
}

// limiter slows those down who guess: after some failures, twice as long each
// time, for an address and for a name.
type limiter struct {
	now func() time.Time
	mu  sync.Mutex
	all map[string]*failures
}

type failures struct {
	count int
	until time.Time
}

const (
	freeFailures = 5
	longestPause = time.Minute // a name can be locked by a stranger: not for long
	forgetAfter  = time.Hour
	maxFailures  = 10_000 // remembered
)

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, all: map[string]*failures{}}
}

// wait is how long each of the keys has to wait.
func (l *limiter) wait(keys ...string) (d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range keys {
		if f := l.all[k]; f != nil {
			d = max(d, f.until.Sub(l.now()))
		}
	}
	return d
}

func (l *limiter) failed(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if len(l.all) > maxFailures {
		for k, f := range l.all {
			if now.After(f.until) {
				delete(l.all, k)
			}
		}
	}
	for _, k := range keys {
		f := l.all[k]
		if f == nil || now.Sub(f.until) > forgetAfter {
			f = &failures{until: now}
			l.all[k] = f
		}
		f.count++
		if over := f.count - freeFailures; over >= 0 {
			f.until = now.Add(min(longestPause, time.Second<<min(over, 20)))
		}
	}
}

func (l *limiter) good(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range keys {
		delete(l.all, k)
	}
}

func (s *Server) cookieName(r *http.Request) string {
	if s.secure(r) {
		return "__Host-valise"
	}
	return "valise"
}

func (s *Server) setCookie(w http.ResponseWriter, r *http.Request, value string) {
	c := &http.Cookie{Name: s.cookieName(r), Value: value, Path: "/", HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteStrictMode}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// identify finds out who asks. nil is nobody.
func (s *Server) identify(w http.ResponseWriter, r *http.Request) *who {
	if w := whoIs(r); w != nil { // a socket
		return w
	}
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		key := "address " + s.client(r)
		if s.logins.wait(key) > 0 {
			return nil
		}
		t, err := s.lists.token(bearer, s.Now())
		if err != nil {
			s.Log.Error("users", "err", err)
		}
		if t == nil {
			s.logins.failed(key)
			s.audit(r, "token refused")
			return nil
		}
		// What may be changed may be looked at.
		return &who{name: "token:" + t.Name, scopes: append([]Scope{read}, t.Scopes...)}
	}
	c, err := r.Cookie(s.cookieName(r))
	if err != nil {
		return nil
	}
	name, next := s.sessions.get(c.Value, r.Method == http.MethodGet && r.URL.Path == "/")
	if name == "" {
		return nil
	}
	if next != "" {
		s.setCookie(w, r, next)
	}
	list, err := s.lists.get()
	if err != nil {
		s.Log.Error("users", "err", err)
		return nil
	}
	for _, u := range list.Users { // the role is asked anew: it may have been taken away
		if u.Name == name {
			return &who{name: u.Name, role: u.Role, scopes: roleScopes[u.Role]}
		}
	}
	return nil
}

// need lets those in who may do what scope says.
func (s *Server) need(scope Scope, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		me := s.identify(w, r)
		switch {
		case me == nil && r.URL.Path == "/":
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		case me == nil:
			w.Header().Set("WWW-Authenticate", "Bearer")
			problem(w, http.StatusUnauthorized, "log in, or send a token that is valid")
		case !me.may(scope):
			s.audit(r, "denied", "user", me.name, "scope", scope)
			problem(w, http.StatusForbidden, "this needs the permission to "+string(scope))
		default:
			next(w, r.WithContext(context.WithValue(r.Context(), whoKey{}, me)))
		}
	})
}

func (s *Server) getLogin(w http.ResponseWriter, r *http.Request) {
	s.render(w, r, http.StatusOK, "login.html", nil)
}

func (s *Server) postLogin(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	name, password := r.PostFormValue("user"), r.PostFormValue("password")
	keys := []string{"address " + s.client(r), "user " + name[:min(len(name), 64)]}
	if wait := s.logins.wait(keys...); wait > 0 {
		seconds := int(wait.Seconds()) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		s.audit(r, "login refused", "user", name, "reason", "too many failures")
		s.render(w, r, http.StatusTooManyRequests, "login.html", loginError{"login.wait", seconds})
		return
	}
	u, err := s.lists.login(name, password)
	if err != nil {
		s.Log.Error("users", "err", err)
		s.render(w, r, http.StatusInternalServerError, "login.html", loginError{"login.broken", 0})
		return
	}
	if u == nil {
		s.logins.failed(keys...)
		s.audit(r, "login failed", "user", name)
		s.render(w, r, http.StatusUnauthorized, "login.html", loginError{"login.wrong", 0})
		return
	}
	s.logins.good(keys...)
	if old, err := r.Cookie(s.cookieName(r)); err == nil {
		s.sessions.close(old.Value)
	}
	s.setCookie(w, r, s.sessions.open(u.Name))
	s.audit(r, "login", "user", u.Name)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

type loginError struct {
	Text    string
	Seconds int
}

func (s *Server) postLogout(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(s.cookieName(r)); err == nil {
		s.sessions.close(c.Value)
	}
	s.setCookie(w, r, "")
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
