package source

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// maxToken is how many bytes the answer of a token server has.
const maxToken = 64 << 10

// logins are users and passwords of registries.
type logins struct {
	own    *url.Userinfo            // of the registry itself
	byHost map[string]*url.Userinfo // as docker login keeps them
}

// readLogins reads USER:PASSWORD, a token, or the config.json that docker login writes.
func readLogins(secret string) (l logins, err error) {
	if !strings.HasPrefix(secret, "{") {
		if user, password, ok := strings.Cut(secret, ":"); ok {
			l.own = url.UserPassword(user, password)
		} else if secret != "" {
			l.own = url.UserPassword("token", secret)
		}
		return l, nil
	}
	var config struct {
		Auths map[string]struct{ Auth string } `json:"auths"`
	}
	if err := json.Unmarshal([]byte(secret), &config); err != nil {
		return l, errors.New("source: the token is neither one line nor what docker login writes")
	}
	l.byHost = map[string]*url.Userinfo{}
	for host, entry := range config.Auths {
		b, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			continue // a credential helper has it
		}
		host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		l.byHost[host] = url.UserPassword(user, password)
	}
	return l, nil
}

// of returns what a host gets to see, which may be nothing.
func (l logins) of(host string, own bool) *url.Userinfo {
	if own && l.own != nil {
		return l.own
	}
	if host == "registry-1.docker.io" {
		host = "index.docker.io"
	}
	return l.byHost[host]
}

// loginError means that a registry does not let this device read.
type loginError struct{ Host, Reason string }

func (e *loginError) Kind() string  { return "source" }
func (e *loginError) Error() string { return fmt.Sprintf("log in to %s: %s", e.Host, e.Reason) }

// withLogin is c that logs in to the registry at base when it asks for that, with user,
// which may be nil.
func (c *client) withLogin(base *url.URL, user *url.Userinfo) *client {
	own, h := *c, *c.http
	h.Transport = &login{next: c.http.Transport, base: base, user: user, scope: "repository:" + repositoryOf(base) + ":pull"}
	own.http, own.host, own.bad = &h, base.Host, new(atomic.Bool)
	return &own
}

// login is a RoundTripper. Only requests to the registry itself carry anything secret,
// and only over TLS. What it sends to the server that a challenge names is what the
// registry could have asked for itself.
type login struct {
	next  http.RoundTripper
	base  *url.URL
	user  *url.Userinfo // may be nil
	scope string

	mu     sync.Mutex
	header string // what was good for the last request
}

func (l *login) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != l.base.Scheme || req.URL.Host != l.base.Host {
		return l.next.RoundTrip(req)
	}
	l.mu.Lock()
	used := l.header
	l.mu.Unlock()
	res, err := l.send(req, used)
	if err != nil || res.StatusCode != http.StatusUnauthorized {
		return res, err
	}
	res.Body.Close()
	now, err := l.renew(req.Context(), used, res.Header.Values("WWW-Authenticate"))
	if err != nil {
		return nil, err
	}
	if res, err = l.send(req, now); err == nil && res.StatusCode == http.StatusUnauthorized {
		res.Body.Close()
		return nil, l.refused("it")
	}
	return res, err
}

func (l *login) send(req *http.Request, authorization string) (*http.Response, error) {
	req = req.Clone(req.Context())
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return l.next.RoundTrip(req)
}

var parameter = lazyregexp.New(`(?i)([a-z]+)="([^"]*)"`)

// renew answers a challenge, unless another request did that meanwhile.
func (l *login) renew(ctx context.Context, used string, challenges []string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.header != used {
		return l.header, nil
	}
	basic, bearer := false, ""
	for _, c := range challenges {
		switch scheme, rest, _ := strings.Cut(c, " "); strings.ToLower(scheme) {
		case "basic":
			basic = true
		case "bearer":
			bearer = cmp.Or(bearer, rest)
		}
	}
	var err error
	switch {
	case bearer != "":
		l.header, err = l.token(ctx, bearer)
	case l.user == nil:
		err = l.refused("it")
	case !basic || l.base.Scheme != "https":
		err = &loginError{l.base.Host, "it asks for something else than a token, or for a password over TLS"}
	default:
		l.header = basicHeader(l.user)
	}
	return l.header, err
}

// refused says that a server does not let this device read.
func (l *login) refused(who string) error {
	if l.user == nil {
		return &loginError{l.base.Host, who + " wants a user and password, and token_file has none for it"}
	}
	return &loginError{l.base.Host, who + " does not accept the user and password in token_file"}
}

func basicHeader(u *url.Userinfo) string {
	password, _ := u.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password))
}

// token asks the server that a challenge names for a token to read, and for no more.
func (l *login) token(ctx context.Context, challenge string) (string, error) {
	said := map[string]string{}
	for _, m := range parameter.FindAllStringSubmatch(challenge, -1) {
		said[strings.ToLower(m[1])] = cmp.Or(said[strings.ToLower(m[1])], m[2])
	}
	realm, err := url.Parse(said["realm"])
	if err != nil || realm.Host == "" || realm.User != nil || realm.Scheme != "https" && (realm.Scheme != "http" || l.base.Scheme != "http") {
		return "", &loginError{l.base.Host, fmt.Sprintf("it names %.200q as its token server; want an address that begins with https://", said["realm"])}
	}
	query := realm.Query()
	if said["service"] != "" {
		query.Set("service", said["service"])
	}
	query.Set("scope", l.scope)
	realm.RawQuery = query.Encode()
	req := (&http.Request{Method: http.MethodGet, URL: realm, Header: http.Header{}}).WithContext(ctx)
	if l.user != nil && realm.Scheme == "https" {
		req.Header.Set("Authorization", basicHeader(l.user))
	}
	res, err := l.next.RoundTrip(req) // without redirects
	if err != nil {
		return "", fmt.Errorf("ask %s for a token: %w", realm.Host, err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return "", l.refused(realm.Host)
	default:
		return "", statusError(res)
	}
	var answer struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	err = json.NewDecoder(io.LimitReader(res.Body, maxToken)).Decode(&answer)
	token := cmp.Or(answer.Token, answer.Access)
	if err != nil || token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", &loginError{l.base.Host, realm.Host + " answers with something else than a token"}
	}
	return "Bearer " + token, nil
}
