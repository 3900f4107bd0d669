package web

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestGuardLimit(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/endless", http.StatusFound)
			return
		case "/failed":
			w.WriteHeader(http.StatusInternalServerError)
		case "/exact":
			_, _ = w.Write(make([]byte, 1000))
			return
		}
		for { // without end
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}))
	t.Cleanup(srv.Close)
	blobs := func(r *http.Request) bool {
		return strings.HasPrefix(First(r).URL.Path, "/moved") || r.URL.Path == "/failed"
	}
	client := &http.Client{Transport: &Guard{Next: Transport(), Limit: 1000, Whole: blobs}}
	for path, want := range map[string]int64{"/exact": 1000, "/endless": 1000, "/failed": 1000, "/moved": 50_000} {
		res, err := client.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, io.LimitReader(res.Body, 50_000))
		res.Body.Close()
		if n != want || (err == nil) != (path == "/exact" || path == "/moved") {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
	}
	// Nor a header without end.
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 2*MaxHeader))
	})
	if res, err := client.Get(srv.URL); err == nil {
		res.Body.Close()
		t.Error("a header of 128 KiB is read")
	}
}

func TestGuardStall(t *testing.T) {
	end := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("begun"))
		w.(http.Flusher).Flush()
		<-end
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(end) })
	res, err := (&http.Client{Transport: &Guard{Next: Transport(), Stall: 50 * time.Millisecond}}).Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); !errors.Is(err, ErrStalled) {
		t.Errorf("got %v", err)
	}
}

// TestGuardSecret: no secret leaves the machine unencrypted, whatever form it has and
// whatever a server sends on to.
func TestGuardSecret(t *testing.T) {
	var got []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = append(got, r.Header.Get("Authorization")) }))
	t.Cleanup(srv.Close)
	for name, change := range map[string]func(*http.Request){
		"header":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer secret") },
		"address":  func(r *http.Request) { r.SetBasicAuth("user", "secret") },
		"cookie":   func(r *http.Request) { r.Header.Set("Cookie", "secret=1") },
		"userinfo": func(r *http.Request) { r.URL.User = url.UserPassword("user", "secret") },
	} {
		for _, open := range []bool{false, true} {
			req, err := http.NewRequest("GET", srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			change(req)
			before := len(got)
			res, err := (&http.Client{Transport: &Guard{Next: Transport(), Loopback: open}}).Do(req)
			if err == nil {
				res.Body.Close()
			}
			if open != (err == nil) || open != (len(got) > before) {
				t.Errorf("%s, loopback %v: %v, the server saw %q", name, open, err, got[before:])
			}
			if err != nil && !strings.Contains(err.Error(), "unencrypted: use https") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// Form of a login, another machine.
	req, err := http.NewRequest("POST", "http://192.0.2.1/token", strings.NewReader("password=secret"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if _, err := (&http.Client{Transport: &Guard{Next: Transport(), Loopback: true}}).Do(req); err == nil || !strings.Contains(err.Error(), "unencrypted") {
		t.Errorf("form: %v", err)
	}
}
