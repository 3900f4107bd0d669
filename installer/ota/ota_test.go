package ota

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// backend answers as the daemon does, and remembers what it was asked.
type backend struct {
	asked []string
	actor string
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.asked, b.actor = append(b.asked, r.Method+" "+r.URL.Path), r.Header.Get(daemon.ActorHeader)
	if r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" {
		panic("a secret was passed on")
	}
	var v any = daemon.Done{Status: "success"}
	notes := "# New\n<script>alert(1)</script><img src=x onerror=alert(1)>\n[x](javascript:alert(1)) **bold**"
	version := "2.0.0"
	switch r.URL.Path {
	case apiPrefix + "/apps":
		v = []string{"shop"}
	case apiPrefix + "/state":
		v = daemon.State{App: "shop", Current: &installer.Release{Version: "1.0.0", Signer: "<b>me</b>"}, Signers: []string{"key"}, Source: "GitHub releases of acme/shop"}
	case apiPrefix + "/check":
		v = daemon.Check{CurrentVersion: "1.0.0", LatestVersion: &version, GitHubLatestVersion: &version, UpdateAvailable: true, GitHubNotes: &notes}
	case apiPrefix:
		why, now, from := "<script>alert(2)</script>", time.Now(), "<b>me"
		v = daemon.Page{Page: 1, PageSize: 10, Total: 1, Data: []daemon.Update{{PublicID: "A", Version: "1.0.0", Status: installer.Failed, ErrorMessage: &why, CreatedOn: &now, FromVersion: &from, Action: installer.ActionUpdate, Steps: []installer.Step{}}}}
	case apiPrefix + "/backups", apiPrefix + "/doctor":
		v = []any{}
	}
	_ = json.NewEncoder(w).Encode(v)
}

func newServer(t *testing.T, c *clock, config Config) (*httptest.Server, *backend, *List) {
	t.Helper()
	_, web, b, list := newPage(t, c, config)
	return web, b, list
}

func newPage(t *testing.T, c *clock, config Config) (*Server, *httptest.Server, *backend, *List) {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "daemon.sock"))
	if err != nil {
		t.Fatal(err)
	}
	b := new(backend)
	go http.Serve(l, b)
	t.Cleanup(func() { l.Close() })
	list := new(List)
	for name, role := range map[string]Role{"ann": Admin, "olga": Operator, "vic": Viewer} {
		if err := list.SetUser(name, role, name+" has a long password"); err != nil {
			t.Fatal(err)
		}
	}
	save(t, dir, list)
	s, err := New(Server{Config: config, Socket: filepath.Join(dir, "daemon.sock"), Users: filepath.Join(dir, "users.json"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.Handler())
	t.Cleanup(web.Close)
	return s, web, b, list
}

func save(t *testing.T, dir string, l *List) {
	t.Helper()
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "users.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func send(t *testing.T, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func logIn(t *testing.T, url, name string) (cookie string) {
	t.Helper()
	res, _ := send(t, "POST", url+"/login", "user="+name+"&password="+strings.ReplaceAll(name+" has a long password", " ", "+"), "Content-Type", "application/x-www-form-urlencoded")
	if res.StatusCode != http.StatusSeeOther || len(res.Cookies()) != 2 {
		t.Fatalf("log in as %s: %s", name, res.Status)
	}
	c := res.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" {
		t.Fatalf("cookie %v", c)
	}
	return c.Name + "=" + c.Value
}

func status(t *testing.T, method, url, cookie string) int {
	t.Helper()
	res, _ := send(t, method, url, "", "Cookie", cookie)
	return res.StatusCode
}

func TestSessions(t *testing.T) {
	c := &clock{time.Now()}
	web, _, _ := newServer(t, c, Config{})
	ann := logIn(t, web.URL, "ann")
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 200}, {29 * time.Minute, 200}, {31 * time.Minute, 401}} {
		c.t = c.t.Add(step.after)
		if got := status(t, "GET", web.URL+apiPrefix, ann); got != step.want {
			t.Errorf("after %s: %d, want %d", step.after, got, step.want)
		}
	}
	// However busy, after twelve hours it ends.
	ann = logIn(t, web.URL, "ann")
	for range 28 {
		c.t = c.t.Add(25 * time.Minute)
		status(t, "GET", web.URL+apiPrefix, ann)
	}
	if got := status(t, "GET", web.URL+apiPrefix, ann); got != 200 {
		t.Fatalf("before its end: %d", got)
	}
	c.t = c.t.Add(25 * time.Minute)
	if got := status(t, "GET", web.URL+apiPrefix, ann); got != 401 {
		t.Errorf("after its end: %d", got)
	}
	// It gets another name now and then, and the old one soon is nobody's.
	ann = logIn(t, web.URL, "ann")
	c.t = c.t.Add(16 * time.Minute)
	res, _ := send(t, "GET", web.URL+"/", "", "Cookie", ann)
	if len(res.Cookies()) != 1 {
		t.Fatalf("not renamed: %s %v", res.Status, res.Header)
	}
	next := res.Cookies()[0].Name + "=" + res.Cookies()[0].Value
	if next == ann || status(t, "GET", web.URL+apiPrefix, ann) != 200 || status(t, "GET", web.URL+apiPrefix, next) != 200 {
		t.Error("both names are good for a minute")
	}
	c.t = c.t.Add(2 * time.Minute)
	if status(t, "GET", web.URL+apiPrefix, ann) != 401 || status(t, "GET", web.URL+apiPrefix, next) != 200 {
		t.Error("only the new name is good after a minute")
	}
	send(t, "POST", web.URL+"/logout", "", "Cookie", next)
	if got := status(t, "GET", web.URL+apiPrefix, next); got != 401 {
		t.Errorf("after logging out: %d", got)
	}
}

// Who is logged in stays so over a restart of the page, unless the password
// changed; the file lets nobody in.
func TestSessionsLast(t *testing.T) {
	c, dir := &clock{time.Now()}, t.TempDir()
	path := filepath.Join(dir, "sessions.json")
	var list List
	for _, name := range []string{"ann", "vic"} {
		if err := list.SetUser(name, Admin, name+" has a long password"); err != nil {
			t.Fatal(err)
		}
	}
	save(t, dir, &list)
	begin := func() (*httptest.Server, *Server) {
		s, err := New(Server{Socket: "/nowhere", Users: filepath.Join(dir, "users.json"), Sessions: path, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		web := httptest.NewServer(s.Handler())
		t.Cleanup(web.Close)
		return web, s
	}
	web, s := begin()
	ann, vic := logIn(t, web.URL, "ann"), logIn(t, web.URL, "vic")
	out := logIn(t, web.URL, "vic")
	send(t, "POST", web.URL+"/logout", "", "Cookie", out)
	for range 2 {
		c.t = c.t.Add(20 * time.Minute)
		for _, cookie := range []string{ann, vic} {
			if got := status(t, "GET", web.URL+apiPrefix, cookie); got != 502 { // let in, and there is no daemon
				t.Fatalf("before the restart: %d", got)
			}
		}
	}
	s.Close()
	b, err := os.ReadFile(path)
	if info, _ := os.Stat(path); err != nil || info.Mode() != 0o600 || strings.Contains(string(b), ann[7:]) {
		t.Fatalf("%v, mode %s: %s", err, info.Mode(), b)
	}
	if err := list.SetUser("vic", Admin, "vic has another password"); err != nil {
		t.Fatal(err)
	}
	save(t, dir, &list)
	c.t = c.t.Add(20 * time.Minute)
	web, _ = begin()
	for name, tc := range map[string]struct {
		cookie string
		want   int
	}{"ann": {ann, 502}, "vic, whose password changed": {vic, 401}, "logged out": {out, 401}} {
		if got := status(t, "GET", web.URL+apiPrefix, tc.cookie); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
	if err := os.WriteFile(path, b[:len(b)/2], 0o600); err != nil { // a power cut
		t.Fatal(err)
	}
	web, _ = begin()
	if got := status(t, "GET", web.URL+apiPrefix, ann); got != 401 {
		t.Errorf("from a broken file: %d", got)
	}
	logIn(t, web.URL, "ann")
}

// Every call of the OpenAPI document exists, asks who one is, and lets in whom it
// says and nobody else.
func TestScopes(t *testing.T) {
	c := &clock{time.Now()}
	web, b, _ := newServer(t, c, Config{})
	cookies := map[string]string{"ann": logIn(t, web.URL, "ann"), "olga": logIn(t, web.URL, "olga"), "vic": logIn(t, web.URL, "vic")}
	var doc struct {
		Paths map[string]map[string]struct{ Description string }
	}
	text, _ := files.ReadFile("openapi.json")
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	roles := map[string]Role{"ann": Admin, "olga": Operator, "vic": Viewer}
	calls := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			method, scope := strings.ToUpper(method), Scope(strings.TrimPrefix(op.Description, "Scope: "))
			if !slices.Contains(Scopes, scope) {
				t.Fatalf("%s %s has scope %q", method, path, scope)
			}
			calls++
			url := web.URL + apiPrefix + regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllString(path, "ABCDEFGH")
			if got := status(t, method, url, ""); got != 401 {
				t.Errorf("%s %s by nobody: %d", method, path, got)
			}
			for name, role := range roles {
				got := status(t, method, url, cookies[name])
				if may := slices.Contains(roleScopes[role], scope); may == (got == 403) || got == 401 || may && (got == 404 && path != "/files/{id}" || got == 405) { // there is no such upload
					t.Errorf("%s %s by %s: %d", method, path, role, got)
				}
			}
		}
	}
	if calls < 19 {
		t.Errorf("only %d calls are described", calls)
	}
	if b.actor == "" || slices.ContainsFunc(b.asked, func(s string) bool { return strings.Contains(s, "/login") }) {
		t.Errorf("asked %q for %v", b.actor, b.asked)
	}
	if got := status(t, "POST", web.URL+apiPrefix+"/ABC/apply", cookies["olga"]); got != 200 {
		t.Errorf("an operator applies: %d", got)
	}
	res, _ := send(t, "POST", web.URL+apiPrefix+"/ABC/apply", `{"force":true}`, "Cookie", cookies["olga"])
	if res.StatusCode != 403 {
		t.Errorf("an operator insists: %s", res.Status)
	}
}

func TestTokens(t *testing.T) {
	c := &clock{time.Now()}
	var l List
	good, err := l.NewToken("ci", []Scope{upload}, c.t.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	save(t, dir, &l)
	if text, _ := os.ReadFile(filepath.Join(dir, "users.json")); strings.Contains(string(text), good) {
		t.Error("the token is kept in clear")
	}
	files := &lists{path: filepath.Join(dir, "users.json")}
	for _, tc := range []struct {
		token string
		after time.Duration
		want  bool
	}{{good, 0, true}, {good + "x", 0, false}, {"", 0, false}, {good, 2 * time.Hour, false}} {
		got, err := files.token(tc.token, c.t.Add(tc.after))
		if err != nil || (got != nil) != tc.want {
			t.Errorf("%q after %s: %v %v", tc.token, tc.after, got, err)
		}
	}
	s, err := New(Server{Socket: "/nowhere", Users: files.path, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	for _, tc := range []struct {
		after        time.Duration
		method, path string
		want         int
	}{{0, "GET", "", 502}, {0, "POST", "", 502}, {0, "GET", "/check", 403}, {0, "POST", "/A/apply", 403}, {0, "DELETE", "/A", 403}, {2 * time.Hour, "GET", "", 401}} {
		c.t = c.t.Add(tc.after)
		res, _ := send(t, tc.method, web.URL+apiPrefix+tc.path, "", "Authorization", "Bearer "+good)
		if res.StatusCode != tc.want { // 502: let in, and there is no daemon
			t.Errorf("%s %s after %s: %s, want %d", tc.method, tc.path, tc.after, res.Status, tc.want)
		}
	}
	if _, err := l.NewToken("ci", []Scope{upload}, time.Time{}); err == nil {
		t.Error("two tokens of a name")
	}
	if _, err := l.NewToken("x", []Scope{"all"}, time.Time{}); err == nil {
		t.Error("an unknown scope")
	}
}

func TestGuessing(t *testing.T) {
	c := &clock{time.Now()}
	web, _, _ := newServer(t, c, Config{})
	try := func(password string) int {
		res, _ := send(t, "POST", web.URL+"/login", "user=ann&password="+password, "Content-Type", "application/x-www-form-urlencoded")
		return res.StatusCode
	}
	for i := range freeFailures {
		if got := try("wrong"); got != 401 {
			t.Fatalf("try %d: %d", i, got)
		}
	}
	// Now even the right one has to wait, longer each time.
	if got := try("ann+has+a+long+password"); got != 429 {
		t.Fatalf("after %d failures: %d", freeFailures, got)
	}
	c.t = c.t.Add(2 * time.Second)
	if got := try("wrong"); got != 401 {
		t.Fatal(got)
	}
	c.t = c.t.Add(1500 * time.Millisecond)
	if got := try("wrong"); got != 429 {
		t.Fatal(got)
	}
	c.t = c.t.Add(time.Minute)
	if got := try("ann+has+a+long+password"); got != 303 {
		t.Fatal(got)
	}
}

func TestOuter(t *testing.T) {
	c := &clock{time.Now()}
	web, _, _ := newServer(t, c, Config{Hosts: []string{"Plant.example"}, TrustedProxies: []string{"127.0.0.0/8"}})
	ann := logIn(t, web.URL, "ann")
	for _, tc := range []struct {
		name    string
		headers []string
		want    int
	}{
		{"plain", nil, 200},
		{"name of ours", []string{"Host", "plant.example:8443"}, 200},
		{"DNS rebinding", []string{"Host", "evil.example"}, 421},
		{"another site", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"old browser, another origin", []string{"Origin", "http://evil.example"}, 403},
		{"same origin", []string{"Sec-Fetch-Site", "same-origin"}, 200},
	} {
		res, _ := send(t, "POST", web.URL+apiPrefix, "{}", append([]string{"Cookie", ann}, tc.headers...)...)
		if res.StatusCode != tc.want {
			t.Errorf("%s: %s, want %d", tc.name, res.Status, tc.want)
		}
		for header, part := range map[string]string{"Content-Security-Policy": "default-src 'none'; script-src 'self';", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"} {
			if !strings.Contains(res.Header.Get(header), part) {
				t.Errorf("%s: %s is %q", tc.name, header, res.Header.Get(header))
			}
		}
	}
	// A proxy that is trusted says how the browser came; the cookie is for TLS alone then.
	res, _ := send(t, "POST", web.URL+"/login", "user=ann&password=ann+has+a+long+password", "Content-Type", "application/x-www-form-urlencoded", "X-Forwarded-Proto", "https", "X-Forwarded-For", "6.6.6.6, 10.1.2.3")
	if got := res.Cookies(); len(got) != 2 || !got[0].Secure || !got[1].Secure || got[0].Name != "__Host-valise" || res.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("behind a proxy: %v", got)
	}
	plain, _, _ := newServer(t, c, Config{})
	res, _ = send(t, "POST", plain.URL+"/login", "user=ann&password=ann+has+a+long+password", "Content-Type", "application/x-www-form-urlencoded", "X-Forwarded-Proto", "https")
	if got := res.Cookies(); len(got) != 2 || got[0].Secure || got[1].Secure {
		t.Errorf("a stranger's header was believed: %v", got)
	}
}

func TestValidate(t *testing.T) {
	tls := Config{Listen: ":8443"}
	tls.TLS.Certificate, tls.TLS.Key = "a", "b"
	for _, c := range []Config{{}, {Listen: "127.0.0.1:80"}, {Listen: "[::1]:80"}, tls, {Sockets: []Socket{{"/run/x", Operator}}}} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []Config{{Listen: ":8080"}, {Listen: "0.0.0.0:80"}, {Listen: "192.0.2.1:80"}, {Listen: "x"}, {TrustedProxies: []string{"all"}}, {Sockets: []Socket{{"/run/x", "root"}}}, {Sockets: []Socket{{"", Viewer}}}} {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// What others wrote is shown, and runs nowhere.
func TestForeignText(t *testing.T) {
	c := &clock{time.Now()}
	web, _, _ := newServer(t, c, Config{})
	ann := logIn(t, web.URL, "ann")
	for _, path := range []string{"/", "/ui/release", "/ui/history", "/ui/version", "/ui/waiting", "/ui/activity"} {
		res, body := send(t, "GET", web.URL+path, "", "Cookie", ann)
		if res.StatusCode != 200 || !strings.Contains(body, "1.0.0") && !strings.Contains(body, "2.0.0") {
			t.Fatalf("%s: %s %s", path, res.Status, body)
		}
		for _, bad := range []string{"<script>alert", "onerror=alert(1)>", "javascript:", "<b>me"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s holds %s", path, bad)
			}
		}
	}
	_, body := send(t, "GET", web.URL+"/ui/release", "", "Cookie", ann)
	if !strings.Contains(body, "<strong>bold</strong>") {
		t.Errorf("notes are not rendered: %s", body)
	}
}

// Every text is there in every language, with the same verbs, and every key that
// the page names exists.
func TestCatalogues(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	verbs := regexp.MustCompile(`%[a-z]`)
	for lang, texts := range c.texts {
		for key, want := range c.texts[fallback] {
			got, ok := texts[key]
			if !ok || fmt.Sprint(verbs.FindAllString(got, -1)) != fmt.Sprint(verbs.FindAllString(want, -1)) {
				t.Errorf("%s: %s is %q, want something like %q", lang, key, got, want)
			}
		}
		for key := range texts {
			if _, ok := c.texts[fallback][key]; !ok {
				t.Errorf("%s: %s is nobody's", lang, key)
			}
		}
	}
	for _, name := range []string{"html.go", "parts.go", "page.go"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile(`\bv\.(?:T|text|heading|row|closes)\("([a-z._]+)"[,)]`).FindAllStringSubmatch(string(b), -1)
		if len(named) == 0 {
			t.Errorf("%s names no text", name)
		}
		for _, m := range named {
			if _, ok := c.texts[fallback][m[1]]; !ok {
				t.Errorf("%s: there is no text %s", name, m[1])
			}
		}
	}
	b, _ := files.ReadFile("assets/app.js")
	for _, m := range regexp.MustCompile(`\bt\('([a-z.]+)'`).FindAllStringSubmatch(string(b), -1) {
		if _, ok := c.texts[fallback]["js."+m[1]]; !ok && !strings.HasSuffix(m[1], ".") {
			t.Errorf("app.js: there is no text js.%s", m[1])
		}
	}
}

// Links to the source lead there, and give it nothing of this page; what is no web address is no link.
func TestReleaseLinks(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	card := func(url string) string {
		version := "2.0.0"
		v := &view{T: c.text("en"), Me: &who{scopes: roleScopes[Viewer]}, Check: &daemon.Check{GitHubLatestVersion: &version, LatestVersion: &version, GitHubReleaseURL: &url, GitHubDownloadURL: &url}}
		return drawn(v.release())
	}
	const good = "https://github.com/acme/shop/releases/tag/v2.0.0"
	if got := card(good); !strings.Contains(got, `<a href="`+good+`" target="_blank" rel="noopener noreferrer">Release page</a>`) || strings.Count(got, "<a ") != strings.Count(got, `rel="noopener noreferrer"`) {
		t.Error(got)
	}
	for _, bad := range []string{"", "javascript:alert(1)", " JavaScript:alert(1)", "java\nscript:alert(1)", "data:text/html,x", "mailto:a@acme.example", "file:///etc/passwd", "//acme.example/", "/logout", "https:acme.example", "http://", "\x00"} {
		if got := card(bad); strings.Contains(got, "<a ") {
			t.Errorf("%q is a link: %s", bad, got)
		}
	}
}

func TestPassword(t *testing.T) {
	var l List
	if err := l.SetUser("kim", Viewer, "correct horse"); err != nil {
		t.Fatal(err)
	}
	hash := l.Users[0].Hash
	if !checkPassword(hash, "correct horse") || checkPassword(hash, "correct horsf") || checkPassword(hash, "") {
		t.Error("wrong answer")
	}
	for _, bad := range []string{"", "$argon2i$v=19$m=19456,t=2,p=1$AAAA$AAAA", strings.Replace(hash, "m=19456", "m=99999999", 1), strings.Replace(hash, "t=2", "t=0", 1), "plain"} {
		if checkPassword(bad, "correct horse") {
			t.Errorf("%q lets in", bad)
		}
	}
	if err := l.SetUser("kim", Admin, "another horse"); err != nil || len(l.Users) != 1 || l.Users[0].Hash == hash {
		t.Errorf("%v %v", err, l.Users)
	}
}
