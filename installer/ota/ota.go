// Package ota is the update page of a device and the door to its update API: who
// comes from the network is asked here who they are and what they may do, and
// everything they may do is asked of the daemon, on its local socket.
//
// The process needs no privilege but that socket. Users, tokens and its settings
// are files of the administrator, which it only reads; the one file it writes has
// digests of sessions. A hole in it
// gives away what the socket can do: hand over a bundle, which the daemon verifies
// against the device's own policy, have a verified one applied, roll back, read the
// history. It gives away no shell, no key and no file of the device.
//
// Who may attack: who is in the network, with any browser of a user who is
// logged in (other sites, DNS rebinding), and the text of release notes, which is
// not trusted and is shown without its HTML.
package ota

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/installer/daemon"
)

//go:embed assets i18n openapi.json
var files embed.FS

// Config is the page's configuration file. The zero value listens nowhere.
type Config struct {
	// Listen is a TCP address, such as :8443; empty for none.
	Listen string `yaml:"listen,omitempty"`
	// TLS names a certificate chain and its key. Without it only 127.0.0.1 and
	// ::1 may be listened on.
	TLS struct {
		Certificate string `yaml:"certificate,omitempty"`
		Key         string `yaml:"key,omitempty"`
	} `yaml:"tls,omitempty"`
	// Hosts are the names under which browsers reach this device, beside its
	// addresses, localhost and its own name.
	Hosts []string `yaml:"hosts,omitempty"`
	// TrustedProxies are the addresses or networks of reverse proxies whose
	// X-Forwarded headers are believed.
	TrustedProxies []string `yaml:"trusted_proxies,omitempty"`
	// Sockets are for backends of apps that have users of their own: who can
	// open the socket is served as the role, without a login.
	Sockets []Socket `yaml:"sockets,omitempty"`
}

// Socket is a unix socket with a role.
type Socket struct {
	Path string `yaml:"path"`
	Role Role   `yaml:"role"`
}

// Validate says what is wrong with a configuration.
func (c Config) Validate() error {
	if c.Listen != "" && c.TLS.Certificate == "" {
		host, _, err := net.SplitHostPort(c.Listen)
		ip := net.ParseIP(host)
		if err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("listen is %q without tls: passwords would cross the network in clear; set tls, or listen on 127.0.0.1 behind a proxy", c.Listen)
		}
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		return errors.New("tls needs certificate and key")
	}
	for _, p := range c.TrustedProxies {
		if _, err := parsePrefix(p); err != nil {
			return fmt.Errorf("trusted_proxies: %w", err)
		}
	}
	for _, s := range c.Sockets {
		if _, ok := roleScopes[s.Role]; !ok || s.Path == "" {
			return fmt.Errorf("sockets: %+v: want a path and role viewer, operator or admin", s)
		}
	}
	return nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// Server is the page.
type Server struct {
	Config Config
	Socket string // path of the daemon's socket
	Users  string // path of the users file
	// Sessions is the path of a file that keeps who is logged in over a restart;
	// empty for none.
	Sessions string
	Log      *slog.Logger
	Now      func() time.Time

	daemon   *daemon.Client
	proxy    http.Handler
	sessions *sessions
	logins   *limiter
	// Who waits for a password to be judged: browsers that are known, and others.
	known, strangers queue

	lists    *lists
	texts    *catalogues
	proxies  []netip.Prefix
	patience time.Duration // of tests
	hosts    []string
}

// New prepares a server.
func New(s Server) (*Server, error) {
	if err := s.Config.Validate(); err != nil {
		return nil, err
	}
	s.daemon = newClient(s.Socket)
	s.proxy = newProxy(s.daemon)
	s.sessions, s.logins = newSessions(s.Now, s.Sessions, s.Log), newLimiter(s.Now)
	s.known, s.strangers = make(queue, maxWaiting), make(queue, maxWaiting)
	s.lists = &lists{path: s.Users}
	for _, p := range s.Config.TrustedProxies {
		prefix, _ := parsePrefix(p) // Validate was here
		s.proxies = append(s.proxies, prefix)
	}
	name, _ := os.Hostname()
	s.hosts = []string{"localhost"}
	for _, h := range append(s.Config.Hosts, name, name+".local") {
		s.hosts = append(s.hosts, strings.ToLower(h))
	}
	var err error
	s.texts, err = loadCatalogues(files)
	return &s, err
}

// Close saves when sessions were used last.
func (s *Server) Close() {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	s.sessions.save()
}

// contentPolicy allows what this server itself serves, and no script or style
// inside a page.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Handler serves the network.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", s.getLogin)
	mux.HandleFunc("POST /login", s.postLogin)
	mux.HandleFunc("POST /logout", s.postLogout)
	mux.HandleFunc("GET /assets/{name}", s.asset)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /{$}", s.need(read, s.page))
	mux.Handle("GET /ui/{part}", s.need(read, s.part))
	mux.Handle("GET /ui/plan/{id}", s.need(read, s.planPart))
	s.api(mux)
	var csrf http.CrossOriginProtection
	csrf.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.audit(r, "denied", "reason", "request from another site")
		problem(w, http.StatusForbidden, "this request comes from another site")
	}))
	return s.bounded(s.outer(csrf.Handler(s.withFiles(mux))))
}

// SocketHandler serves the API to those who can open a socket.
func (s *Server) SocketHandler(role Role) http.Handler {
	mux := http.NewServeMux()
	s.api(mux)
	api := s.withFiles(mux)
	return s.bounded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "socket"
		if actor := r.Header.Get("X-Valise-Actor"); actor != "" {
			name += ":" + actor
		}
		api.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), whoKey{}, &who{name: name, scopes: roleScopes[role]})))
	}))
}

// outer sets headers and refuses names that are not ours: a foreign name that
// leads to this device's address would let a foreign page act in its users'
// browsers.
func (s *Server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		if s.secure(r) {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !s.knownHost(r.Host) {
			problem(w, http.StatusMisdirectedRequest, fmt.Sprintf("this device is not called %.100q: add the name to hosts in the page's configuration", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) knownHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true // no name, so nobody's but ours
	}
	return slices.Contains(s.hosts, strings.ToLower(strings.TrimSuffix(host, ".")))
}

// last is what our proxy added to a header, at its end: what stands before it, in
// the same line or in others, is anybody's.
func last(r *http.Request, header string) string {
	all := strings.Join(r.Header.Values(header), ",")
	return strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
}

// networkOf is an address, or of IPv6 the network that one customer of a provider
// has: what is limited for an address is limited for all of it.
func networkOf(address string) string {
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() && !a.Is4In6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.String()
	}
	return address
}

// fromProxy reports whether the headers of a proxy are believed.
func (s *Server) fromProxy(r *http.Request) bool {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && slices.ContainsFunc(s.proxies, func(p netip.Prefix) bool { return p.Contains(a.Addr().Unmap()) })
}

// secure reports whether the browser speaks TLS.
func (s *Server) secure(r *http.Request) bool {
	return r.TLS != nil || s.fromProxy(r) && last(r, "X-Forwarded-Proto") == "https"
}

// client is the address that somebody comes from.
func (s *Server) client(r *http.Request) string {
	if s.fromProxy(r) {
		// Some proxies name the port too. All clients of one that is not understood
		// would be one address, and any of them could lock the others out.
		said := last(r, "X-Forwarded-For")
		if a, err := netip.ParseAddrPort(said); err == nil {
			said = a.Addr().String()
		}
		if a, err := netip.ParseAddr(strings.Trim(said, "[]")); err == nil {
			return a.Unmap().String()
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// audit logs what has to do with access.
func (s *Server) audit(r *http.Request, what string, args ...any) {
	s.Log.Info(what, append([]any{"client", s.client(r), "path", r.URL.Path}, args...)...)
}

// asset serves a file that belongs to the page. Its name carries no version, so
// browsers ask again and mostly hear that nothing changed.
func (s *Server) asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	b, err := fs.ReadFile(files, "assets/"+name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", etag(b))
	w.Header().Set("Cache-Control", "no-cache")
	serveCompressed(w, r, name, b)
}
