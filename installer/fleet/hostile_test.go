package fleet

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/installer/fleet/fleettest"
)

// TestHostileAction: whatever a server assigns, only a newer version of this app, of the
// channel of the device, makes it fetch anything. The rest is answered with a failure.
func TestHostileAction(t *testing.T) {
	for name, tc := range map[string]struct {
		action fleettest.Action
		want   string
	}{
		"older than the floor": {fleettest.Action{Version: "1.0.5"}, "downgrade: 1.0.5 is older than 1.1.0"},
		"another channel":      {fleettest.Action{Version: "2.0.0-nightly.1"}, "channel: "},
		"no version":           {fleettest.Action{Version: "../../etc/passwd"}, "its version is "},
		"an address":           {fleettest.Action{Version: "https://evil.example/1.2.0"}, "its version is "},
		"empty":                {fleettest.Action{}, "its version is "},
		"endless":              {fleettest.Action{Version: "1." + strings.Repeat("9", 100_000) + ".0"}, "its version is "},
		"control characters":   {fleettest.Action{Version: "1.2.0\x1b[2J"}, "its version is "},
		"another app":          {fleettest.Action{Version: "1.2.0", Module: "till"}, "it has 1 modules"},
		"two apps":             {fleettest.Action{Version: "1.2.0", More: []fleettest.Chunk{{Name: "till", Version: "1.0.0"}}}, "it has 2 modules"},
		"the app twice":        {fleettest.Action{Version: "1.2.0", More: []fleettest.Chunk{{Name: "shop", Version: "1.3.0"}}}, "it has 2 modules"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
				d.floor = "1.1.0"
				if tc.action.Target = "d1"; tc.action.Module == "" {
					tc.action.Module = "shop"
				}
				id := s.Assign(tc.action)
				rounds(t, g, 4)
				has(t, s.Action(id), "error", "closed/failure 4 | "+tc.want)
				if len(d.records) > 0 || d.fetched > 0 || d.current != "1.0.0" || len(s.Action(id).Messages[0]) > 600 {
					t.Errorf("%d records, %d downloads", len(d.records), d.fetched)
				}
			})
		})
	}
}

// TestHostileAnswer: answers that are endless, garbage, lead elsewhere, or come with a
// redirect end a round with an error, and nothing is asked of another place.
func TestHostileAnswer(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was asked of another server, with %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	links := func(what, href string) string {
		return fmt.Sprintf(`{"config":{"polling":{"sleep":"00:01:00"}},"_links":{%q:{"href":%q}}}`, what, href)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		serve func(w http.ResponseWriter, r *http.Request)
		want  string // of the error; empty: there is none
	}{
		"endless": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, endless{}) }, "has more than 1048576 bytes"},
		"deep":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("[", 500_000)) }, "exceeded max depth"},
		"no JSON": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "invalid character"},
		"a list":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "[]") }, "cannot unmarshal"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "answered 307"},
		"other server":  {serveOne(links("deploymentBase", elsewhere.URL+"/deploymentBase/7")), ""},
		"up and away":   {serveOne(links("deploymentBase", "http://x/../../..")), "as the address of an action"},
		"escaped":       {serveOne(links("deploymentBase", "/a/7%2f..%2f..%2fb?x")), ""},
		"long":          {serveOne(links("cancelAction", "/"+strings.Repeat("a", 65))), "as the address of an action"},
		"unauthorized":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, "answered 401 (Unauthorized)"},
		"unknown calls": {serveOne(links("selfDestruct", "/now")), ""},
		"nothing": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, "{}")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			paths := []string{}
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if paths = append(paths, r.URL.Path); r.Header.Get("Authorization") != "TargetToken secret" {
					t.Errorf("%s with %q", r.URL, r.Header)
				}
				tc.serve(w, r)
			}))
			defer s.Close()
			d := newDevice(t, "1.0.0")
			c := Config{HawkBit: s.URL, ID: "d1", TokenFile: token}
			client, err := NewClient(c, c.ID, "test", nil)
			if err != nil {
				t.Fatal(err)
			}
			g := &Agent{Config: c, Client: client, App: d, Store: d, Name: "shop", Log: slog.New(slog.DiscardHandler), Now: time.Now}
			if err := g.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			err = g.Round(t.Context(), true)
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if len(d.records) > 0 || g.pause() < defaultMinPoll {
				t.Errorf("%v, %s", d.records, g.pause())
			}
			for _, p := range paths {
				if !strings.HasPrefix(p, "/DEFAULT/controller/v1/d1") {
					t.Errorf("it asked for %s", p)
				}
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// serveOne answers the first call, and nothing else.
func serveOne(answer string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/d1") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, answer)
	}
}

// TestHostileLearns: a server learns the app, its version, what the configuration lists, and
// how its actions went.
func TestHostileLearns(t *testing.T) {
	inBubble(t, Config{Attributes: map[string]string{"site": "berlin"}}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		g.Facts = map[string]string{"valise.platform": "linux/arm64"}
		var sent []string
		client, err := NewClient(g.Config, "d1", "valise", roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Body != nil && r.Body != http.NoBody {
				b, _ := io.ReadAll(r.Body)
				sent = append(sent, string(b))
				r.Body = io.NopCloser(strings.NewReader(string(b)))
			}
			return direct{s}.RoundTrip(r)
		}))
		if err != nil {
			t.Fatal(err)
		}
		g.Client = client
		s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: "1.1.0"})
		rounds(t, g, 4)
		if got := fmt.Sprint(s.Target("d1").Attributes); got != "map[site:berlin valise.app:shop valise.platform:linux/arm64 valise.version:1.1.0]" {
			t.Error(got)
		}
		for _, body := range sent {
			var m map[string]any
			if err := json.Unmarshal([]byte(body), &m); err != nil || len(m) > 2 || len(body) > 300 {
				t.Errorf("%s, %v", body, err)
			}
		}
	})
}

// TestHostileAlternates: a server that changes its mind at each poll makes a device download
// less and less often.
func TestHostileAlternates(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *device, s *fleettest.Server, g *Agent) {
		for i := range 200 {
			for _, a := range s.Actions() {
				s.Set(a.ID, func(a *fleettest.Action) { a.State = "canceled" })
			}
			s.Assign(fleettest.Action{Target: "d1", Module: "shop", Version: fmt.Sprintf("1.%d.0", 1+i%2), Update: "skip"})
			rounds(t, g, 3)
		}
		if d.fetched > 14 { // of each: at once, after 10 min, 40 min, 160 min, 640 min, and then daily
			t.Errorf("%d downloads in 50 hours", d.fetched)
		}
		if len(g.actions) > maxKept || len(d.notes) > maxKept+2 {
			t.Errorf("%d actions, %d notes are kept", len(g.actions), len(d.notes))
		}
	})
}

// TestConfigRefused: no secret and no order goes over a network in the open, and what cannot
// be meant is refused.
func TestConfigRefused(t *testing.T) {
	good := Config{HawkBit: "https://updates.example/"}
	for name, change := range map[string]func(*Config){
		"no address":       func(c *Config) { c.HawkBit = "" },
		"no host":          func(c *Config) { c.HawkBit = "https://" },
		"in the open":      func(c *Config) { c.HawkBit = "http://updates.example/" },
		"other scheme":     func(c *Config) { c.HawkBit = "ftp://updates.example/" },
		"password":         func(c *Config) { c.HawkBit = "https://user:secret@updates.example/" },
		"escaped":          func(c *Config) { c.HawkBit = "https://updates.example/?a=b" },
		"tenant":           func(c *Config) { c.Tenant = "../admin" },
		"id":               func(c *Config) { c.ID = "a/b" },
		"id of dots":       func(c *Config) { c.ID = ".." },
		"two tokens":       func(c *Config) { c.TokenFile, c.GatewayTokenFile = "/a", "/b" },
		"key alone":        func(c *Config) { c.ClientKey = "/a" },
		"certificate open": func(c *Config) { c.HawkBit, c.ClientCertificate, c.ClientKey = "http://localhost", "/a", "/b" },
		"allow":            func(c *Config) { c.Allow = []string{"install"} },
		"often":            func(c *Config) { c.Poll.Min = time.Second },
		"never":            func(c *Config) { c.Poll.Max = 400 * 24 * time.Hour },
		"crossed":          func(c *Config) { c.Poll = Poll{Min: time.Hour, Max: time.Minute} },
		"long attribute":   func(c *Config) { c.Attributes = map[string]string{"a": strings.Repeat("b", 129)} },
		"nameless":         func(c *Config) { c.Attributes = map[string]string{"": "b"} },
	} {
		c := good
		if change(&c); c.Validate() == nil {
			t.Errorf("%s: %+v is accepted", name, c)
		}
	}
	for _, c := range []Config{good, {HawkBit: "http://127.0.0.1:8080"}, {HawkBit: "https://h/ddi", Tenant: "ACME", ID: "plant7:gw-2.shop", Allow: []string{Rollback}, Poll: Poll{Min: 48 * time.Hour}}} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	// A token with a line end would be a header of its own.
	file := filepath.Join(t.TempDir(), "token")
	for _, text := range []string{"", "\n", "a\nb", "a b", strings.Repeat("a", maxToken+1)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := secretOf("TargetToken ", file); err == nil {
			t.Errorf("%q is a token: %q", text, got)
		}
	}
}
