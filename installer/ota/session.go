package ota

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
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

// session is a browser that is logged in.
type session struct {
	User     string    `json:"user"`
	Password string    `json:"password"` // digest of the hash that let it in: another password ends it
	Began    time.Time `json:"began"`
	Used     time.Time `json:"used"`
	Named    time.Time `json:"named"`   // when it got its name
	Expires  time.Time `json:"expires"` // an old name, in its grace
}

// sessions are kept by the digest of their cookie, in memory and in a file: what
// leaks lets nobody in.
type sessions struct {
	now  func() time.Time
	log  *slog.Logger
	path string // none when it is empty: after a restart everybody logs in again
	mu   sync.Mutex
	all  map[string]*session
}

func newSessions(now func() time.Time, path string, log *slog.Logger) *sessions {
	s := &sessions{now: now, log: log, path: path, all: map[string]*session{}}
	if path == "" {
		return s
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &s.all)
	}
	broken := slices.Contains(slices.Collect(maps.Values(s.all)), nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || broken || s.all == nil {
		log.Warn("all sessions ended", "err", err)
		s.all = map[string]*session{}
	}
	return s
}

// save writes the file. Not each use of a session is worth it: after a crash one
// may end up to rotateAfter too early.
func (s *sessions) save() {
	if s.path == "" {
		return
	}
	b, err := json.Marshal(s.all)
	if err == nil {
		err = writeFile(s.path, b)
	}
	if err != nil {
		s.log.Error("save sessions", "err", err)
	}
}

// writeFile replaces a file that nobody else may read.
func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (s *sessions) open(u *User) (cookie string) {
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
	s.all[tokenHash(cookie)] = &session{User: u.Name, Password: tokenHash(u.Hash), Began: now, Used: now, Named: now}
	s.save()
	return cookie
}

func (v *session) over(now time.Time) bool {
	return now.Sub(v.Used) > idleLimit || now.Sub(v.Began) > absoluteLimit || !v.Expires.IsZero() && now.After(v.Expires)
}

// get returns a session, and another name for it when the one it has is old.
func (s *sessions) get(cookie string, rotate bool) (found session, next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, key := s.now(), tokenHash(cookie)
	v := s.all[key]
	if v == nil || v.over(now) {
		delete(s.all, key)
		return session{}, ""
	}
	v.Used = now
	if rotate && v.Expires.IsZero() && now.Sub(v.Named) > rotateAfter {
		next = rand.Text()
		renamed := *v
		renamed.Named = now
		s.all[tokenHash(next)] = &renamed
		v.Expires = now.Add(rotateGrace)
		s.save()
	}
	return *v, next
}

func (s *sessions) close(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, tokenHash(cookie))
	s.save()
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

// take counts a failure for each of the keys before it is known whether it is one:
// of those that come at once no more are judged than of those that come one after
// the other. When a key has to wait, nothing is counted, and take says how long.
func (l *limiter) take(keys ...string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, k := range keys {
		if f := l.all[k]; f != nil {
			wait = max(wait, f.until.Sub(now))
		}
	}
	if wait > 0 {
		return wait
	}
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
	return 0
}

// good forgets what take counted for the last of the keys, and for the first,
// which others share, what both of them have in common: that is the second.
func (l *limiter) good(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(keys) == 3 {
		if shared, own := l.all[keys[0]], l.all[keys[1]]; shared != nil && own != nil {
			shared.count -= own.count
			shared.until = l.now()
		}
		delete(l.all, keys[1])
	}
	delete(l.all, keys[len(keys)-1])
}

// back takes back what take counted.
func (l *limiter) back(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range keys {
		if f := l.all[k]; f != nil {
			f.count--
			f.until = l.now() // there was no pause, or take would have said so
		}
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
		t, err := s.lists.token(bearer, s.Now())
		if err != nil {
			s.Log.Error("users", "err", err)
		}
		if t == nil {
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
	found, next := s.sessions.get(c.Value, r.Method == http.MethodGet && r.URL.Path == "/")
	if found.User == "" {
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
		if u.Name == found.User && tokenHash(u.Hash) == found.Password {
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

// deviceMAC is of the cookie of a browser in which u logged in once. The cookie lets
// nobody in, and is worth nothing after a change of the password.
func deviceMAC(u *User, id string) string {
	h := hmac.New(sha256.New, []byte(u.Hash))
	h.Write([]byte(u.Name + " " + id))
	return hex.EncodeToString(h.Sum(nil))
}

// device is the name of a browser in which user logged in before, or empty.
func (s *Server) device(r *http.Request, user string) string {
	c, err := r.Cookie(s.cookieName(r) + "-device")
	if err != nil {
		return ""
	}
	list, err := s.lists.get()
	if err != nil {
		return ""
	}
	id, mac, _ := strings.Cut(c.Value, ".")
	for _, u := range list.Users {
		if u.Name == user && hmac.Equal([]byte(mac), []byte(deviceMAC(&u, id))) {
			return id
		}
	}
	return ""
}

func (s *Server) setDevice(w http.ResponseWriter, r *http.Request, u *User) {
	if s.device(r, u.Name) != "" {
		return
	}
	id := rand.Text()
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(r) + "-device", Value: id + "." + deviceMAC(u, id), Path: "/", MaxAge: 365 * 86400, HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteStrictMode,
	})
}

func (s *Server) getLogin(w http.ResponseWriter, r *http.Request) {
	s.showLogin(w, r, http.StatusOK, nil)
}

func (s *Server) postLogin(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if err := r.ParseForm(); err != nil {
		s.showLogin(w, r, http.StatusBadRequest, &loginError{"why.invalid", 0})
		return
	}
	name, password := r.PostForm.Get("user"), r.PostForm.Get("password")
	address, user := "address "+networkOf(s.client(r)), "user "+name[:min(len(name), 64)]
	keys, waiting := []string{address, address + " " + user, user}, s.strangers
	// A browser in which this user was logged in before has a count and a queue of
	// its own: no stranger's guesses lock it out.
	if id := s.device(r, name); id != "" {
		keys, waiting = []string{"device " + id}, s.known
	}
	if wait := s.logins.take(keys...); wait > 0 {
		seconds := int(wait.Seconds()) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		s.audit(r, "login refused", "user", name, "reason", "too many failures")
		s.showLogin(w, r, http.StatusTooManyRequests, &loginError{"login.wait", seconds})
		return
	}
	u, err := s.lists.login(r.Context(), waiting, name, password)
	switch {
	case r.Context().Err() != nil: // whoever asked is gone
		return
	case errors.Is(err, errBusy):
		s.logins.back(keys...)
		w.Header().Set("Retry-After", "5")
		s.showLogin(w, r, http.StatusServiceUnavailable, &loginError{"login.busy", 0})
		return
	case err != nil:
		s.logins.back(keys...)
		s.Log.Error("users", "err", err)
		s.showLogin(w, r, http.StatusInternalServerError, &loginError{"login.broken", 0})
		return
	}
	if u == nil {
		s.audit(r, "login failed", "user", name)
		s.showLogin(w, r, http.StatusUnauthorized, &loginError{"login.wrong", 0})
		return
	}
	s.logins.good(keys...)
	if old, err := r.Cookie(s.cookieName(r)); err == nil {
		s.sessions.close(old.Value)
	}
	s.setCookie(w, r, s.sessions.open(u))
	s.setDevice(w, r, u)
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
