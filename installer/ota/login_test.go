package ota

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const asForm = "application/x-www-form-urlencoded"

// dial sends a request but for the end of its body, and returns how to send that
// and what the answer's status is.
func dial(t *testing.T, url, method, path, body string, headers ...string) (end func(), status func() int) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	kept := body[len(body)-1:]
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n", method, path, asForm, len(body))
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(c, "%s: %s\r\n", headers[i], headers[i+1])
	}
	fmt.Fprintf(c, "\r\n%s", body[:len(body)-1])
	return func() { io.WriteString(c, kept) }, func() int {
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Minute))
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection stays open without an answer")
		}
		if err != nil {
			return 0
		}
		return res.StatusCode
	}
}

// Guesses that are held back by one byte and come at once are not judged more
// often than those that come one after the other.
func TestGuessesAtOnce(t *testing.T) {
	web, _, _ := newServer(t, &clock{time.Now()}, Config{})
	var ends []func()
	var answers []func() int
	for i := range 60 {
		end, answer := dial(t, web.URL, "POST", "/login", fmt.Sprintf("user=ann&password=guess+%d", i))
		ends, answers = append(ends, end), append(answers, answer)
	}
	for _, end := range ends {
		end()
	}
	got := map[int]int{}
	for _, answer := range answers {
		got[answer()]++
	}
	if got[401] != freeFailures || got[429] != len(ends)-freeFailures {
		t.Errorf("of %d guesses were judged and refused: %v", len(ends), got)
	}
}

// For a password to be judged few wait, and none whose sender is gone; a browser
// that is known waits elsewhere.
func TestLoginQueue(t *testing.T) {
	s, web, _, _ := newPage(t, &clock{time.Now()}, Config{TrustedProxies: []string{"127.0.0.1"}})
	device := known(t, web.URL)
	hashing <- struct{}{} // a long one
	held := true
	defer func() {
		if held {
			<-hashing
		}
	}()
	var gone []net.Conn
	for i := range maxWaiting {
		c, err := net.Dial("tcp", strings.TrimPrefix(web.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		body := fmt.Sprintf("user=u%d&password=guess", i)
		fmt.Fprintf(c, "POST /login HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.100.%d\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", i, asForm, len(body), body)
		gone = append(gone, c)
	}
	until(t, func() bool { return len(s.strangers) == maxWaiting })
	if res, _ := send(t, "POST", web.URL+"/login", "user=vic&password=guess", "Content-Type", asForm, "X-Forwarded-For", "198.51.100.200"); res.StatusCode != 503 {
		t.Errorf("one more waits: %s", res.Status)
	}
	answer := make(chan int)
	go func() {
		res, _ := send(t, "POST", web.URL+"/login", "user=ann&password=ann+has+a+long+password", "Content-Type", asForm, "Cookie", device)
		answer <- res.StatusCode
	}()
	until(t, func() bool { return len(s.known) == 1 })
	for _, c := range gone {
		c.Close()
	}
	until(t, func() bool { return len(s.strangers) == 0 }) // and no hash was made
	<-hashing
	held = false
	if got := <-answer; got != 303 {
		t.Errorf("a known browser: %d", got)
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

// known is the cookie of a browser in which ann logged in once.
func known(t *testing.T, url string) string {
	t.Helper()
	res, _ := send(t, "POST", url+"/login", "user=ann&password=ann+has+a+long+password", "Content-Type", asForm)
	for _, c := range res.Cookies() {
		if strings.HasSuffix(c.Name, "-device") {
			return c.Name + "=" + c.Value
		}
	}
	t.Fatalf("no cookie for the browser: %s", res.Status)
	return ""
}

// Who guesses locks a name for strangers, not for the browsers of its owner.
func TestLock(t *testing.T) {
	c := &clock{time.Now()}
	s, web, _, list := newPage(t, c, Config{})
	device := known(t, web.URL)
	try := func(user, password, cookie string) int {
		res, _ := send(t, "POST", web.URL+"/login", "user="+user+"&password="+strings.ReplaceAll(password, " ", "+"), "Content-Type", asForm, "Cookie", cookie)
		return res.StatusCode
	}
	for try("ann", "wrong", "") != 429 {
	}
	name, value, _ := strings.Cut(device, "=")
	for what, tc := range map[string]struct {
		user, password, cookie string
		want                   int
	}{
		"a stranger":     {"ann", "ann has a long password", "", 429},
		"forged":         {"ann", "ann has a long password", name + "=X" + value, 429},
		"of another":     {"vic", "vic has a long password", device, 429}, // the address has to wait
		"a known one":    {"ann", "ann has a long password", device, 303},
		"no new session": {"ann", "wrong", device, 401},
	} {
		if got := try(tc.user, tc.password, tc.cookie); got != tc.want {
			t.Errorf("%s: %d, want %d", what, got, tc.want)
		}
	}
	for range freeFailures { // it has a count too
		try("ann", "wrong", device)
	}
	if got := try("ann", "ann has a long password", device); got != 429 {
		t.Errorf("who stole the cookie guesses: %d", got)
	}
	if got := status(t, "GET", web.URL+apiPrefix, device); got != 401 {
		t.Errorf("it lets in: %d", got)
	}
	if err := list.SetUser("ann", Admin, "ann has another password"); err != nil {
		t.Fatal(err)
	}
	save(t, filepath.Dir(s.Users), list)
	if got := s.device(withCookie(device), "ann"); got != "" {
		t.Error("it is known after a change of the password")
	}
}

// Who mistypes, or clicks twice, and then gets in, is not held to be guessing; what
// the same address tried for other names still counts.
func TestMistyped(t *testing.T) {
	_, web, _, _ := newPage(t, &clock{time.Now()}, Config{})
	try := func(user, password string) int {
		res, _ := send(t, "POST", web.URL+"/login", "user="+user+"&password="+password, "Content-Type", asForm)
		return res.StatusCode
	}
	for range freeFailures {
		if first, second := try("ann", "ann+has+a+short+password"), try("ann", "ann+has+a+long+password"); first != 401 || second != 303 {
			t.Fatalf("%d and %d, want 401 and 303", first, second)
		}
	}
	for i := range freeFailures {
		if got := try(fmt.Sprint("somebody", i), "guess"); got != 401 {
			t.Errorf("guess %d: %d", i, got)
		}
	}
	if got := try("ann", "ann+has+a+long+password"); got != 429 {
		t.Errorf("an address that guesses: %d, want 429", got)
	}
}

func withCookie(cookie string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", cookie)
	return r
}

// A body that does not come ends its connection, whoever sends it.
func TestDribble(t *testing.T) {
	s, web, _, _ := newPage(t, &clock{time.Now()}, Config{})
	s.patience = 200 * time.Millisecond
	ann := logIn(t, web.URL, "ann")
	for _, call := range []string{"POST /login", "POST " + apiPrefix, "PATCH " + apiPrefix + "/settings", "POST " + apiPrefix + "/A/apply", "GET " + apiPrefix + "/state", "DELETE " + apiPrefix + "/A", "POST /logout"} {
		method, path, _ := strings.Cut(call, " ")
		_, answer := dial(t, web.URL, method, path, "user=ann&password=x", "Cookie", ann)
		if got := answer(); got == 401 || got == 303 && path == "/login" {
			t.Errorf("%s: %d", call, got)
		}
	}
}

// What a client says about itself before our proxy does is not believed, in one
// line or in several.
func TestForwarded(t *testing.T) {
	s, _, _, _ := newPage(t, &clock{time.Now()}, Config{TrustedProxies: []string{"127.0.0.1"}})
	for _, lines := range [][]string{{"10.1.2.3"}, {"6.6.6.6, 10.1.2.3"}, {"6.6.6.6", "10.1.2.3"}, {"6.6.6.6, 7.7.7.7", "8.8.8.8,10.1.2.3"}} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "127.0.0.1:4"
		r.Header["X-Forwarded-For"] = lines
		r.Header["X-Forwarded-Proto"] = []string{"https", "http"}
		if got := s.client(r); got != "10.1.2.3" || s.secure(r) {
			t.Errorf("%q: %s, %v", lines, got, s.secure(r))
		}
	}
	for said, want := range map[string]string{
		"192.0.2.7:4711": "192.0.2.7", "[2001:db8::7]:4711": "2001:db8::7", "[2001:db8::7]": "2001:db8::7", "::ffff:192.0.2.7": "192.0.2.7",
		"unknown": "127.0.0.1", "": "127.0.0.1", "192.0.2.7,": "127.0.0.1", "6.6.6.6 192.0.2.7": "127.0.0.1",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "127.0.0.1:4"
		r.Header.Set("X-Forwarded-For", said)
		if got := s.client(r); got != want {
			t.Errorf("%q: %s, want %s", said, got, want)
		}
	}
	if a, b := networkOf("2001:db8:1:2::1"), networkOf("2001:db8:1:2:ffff::9"); a != b || a == networkOf("2001:db8:1:3::1") || networkOf("192.0.2.1") == networkOf("192.0.2.2") {
		t.Errorf("%s, %s", a, b)
	}
}

// coming is a listener whose connections come from where its names say.
type coming chan string

func (l coming) Accept() (net.Conn, error) {
	from, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	c, _ := net.Pipe()
	a, err := net.ResolveTCPAddr("tcp", from)
	return &pretender{c, a}, err
}
func (coming) Close() error   { return nil }
func (coming) Addr() net.Addr { return nil }

type pretender struct {
	net.Conn
	a net.Addr
}

func (c *pretender) RemoteAddr() net.Addr { return c.a }

// One address has a part of the connections, and all together have a limit.
func TestConnections(t *testing.T) {
	s, _, _, _ := newPage(t, &clock{time.Now()}, Config{TrustedProxies: []string{"192.0.2.1"}})
	in := make(coming, 20_000)
	l := s.Limit(in)
	from := func(n int, address string) {
		for range n {
			in <- address
		}
	}
	from(5200, "198.51.100.7:1")
	from(10, "[2001:db8::1]:1")
	from(300, "192.0.2.1:1") // our proxy
	from(300, "127.0.0.1:1")
	from(5200, "[2001:db8::2]:1")
	from(5200, "127.0.0.1:1")
	close(in)
	var open []net.Conn
	got := map[string]int{}
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		got[c.RemoteAddr().String()]++
		open = append(open, c)
	}
	if got["198.51.100.7:1"] != maxConnectionsEach || got["192.0.2.1:1"] != 300 || got["[2001:db8::1]:1"]+got["[2001:db8::2]:1"] > maxConnectionsEach || len(open) != maxConnections {
		t.Errorf("%d connections: %v", len(open), got)
	}
	for _, c := range open {
		c.Close()
		c.Close()
	}
	if x := l.(*limitedListener); x.all != 0 || len(x.each) != 0 {
		t.Errorf("%d, %v are left", x.all, x.each)
	}
}
