package device

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/installer/source"
)

// released are the releases of a source, written VERSION or VERSION<LOWEST, in a
// directory; of VERSION! the bundle is damaged at its end.
func (s *shop) released(list string) string {
	s.t.Helper()
	dir := s.t.TempDir()
	for _, r := range strings.Fields(list) {
		r, damaged := strings.CutSuffix(r, "!")
		version, from, _ := strings.Cut(r, "<")
		b, err := os.ReadFile(s.bundle(version, func(m *bundle.Manifest) {
			if from != "" {
				m.Requires = &bundle.Requires{From: from}
			}
		}))
		if damaged {
			b[len(b)-300] ^= 1
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "shop-"+version+".tar.gz"), b, 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return dir
}

// from is a device whose releases come from a source.
func (s *shop) from(source string) *shop {
	s.t.Helper()
	config, err := os.ReadFile(s.ConfigPath("shop"))
	if err == nil {
		err = os.WriteFile(s.ConfigPath("shop"), fmt.Appendf(config, "source: {%s}\n", source), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return s
}

// walk takes what, and what follows, as the command does. before each it calls what it
// was given.
func (s *shop) walk(what string, before ...func(version string)) (over []string, err error) {
	s.t.Helper()
	for len(over) <= installer.MaxHops {
		c, err := s.Verify(s.t.Context(), what, Options{})
		if err != nil {
			return over, err
		}
		if err = s.Plan(s.t.Context(), c, Options{}); err == nil {
			for _, f := range before {
				f(c.Plan.To)
			}
			var res installer.Result
			res, err = s.Apply(s.t.Context(), c, Options{})
			err = errors.Join(err, res.Err)
		}
		next := c.Next()
		c.Close()
		if err != nil {
			return over, err
		}
		if over = append(over, c.Plan.To); next == "" {
			return over, nil
		}
		what = next
	}
	s.t.Fatal("it never ends")
	return nil, nil
}

// TestWalk: what requires others is reached over them, from each kind of source, and
// from files beside it.
func TestWalk(t *testing.T) {
	const stops = "1.1.0 1.2.0<1.1.0 1.2.1<1.1.0 1.3.0<1.2.0"
	for name, tc := range map[string]struct {
		releases, sick, source, what, want string
	}{
		"newest":          {stops, "", "path", "", "1.1.0 1.2.1 1.3.0"},
		"by name":         {stops, "", "path", "v1.2.0", "1.1.0 1.2.0"},
		"directory":       {stops, "", "", "DIR", "1.1.0 1.2.1 1.3.0"},
		"file beside":     {stops, "", "", "DIR/shop-1.3.0.tar.gz", "1.1.0 1.2.1 1.3.0"},
		"web":             {stops, "", "url", "", "1.1.0 1.2.1 1.3.0"},
		"whole files":     {stops, "", "whole", "", "1.1.0 1.2.1 1.3.0"},
		"one fails":       {stops, "1.2.1", "path", "", "1.1.0 then probe 1.2.1: \"1.2.1\" runs and is not a healthy 1.2.1"},
		"damaged on it":   {"1.1.0 1.2.0<1.1.0! 1.3.0<1.2.0", "", "path", "", "1.1.0 then not an acceptable bundle"},
		"not reached":     {"1.0.5 1.1.0 2.0.0<1.9.0", "", "path", "", "1.1.0"},
		"none by name":    {"1.1.0 2.0.0<1.9.0", "", "path", "v2.0.0", " then an update to 2.0.0 starts from 1.9.0 or a newer version, 1.0.0 is installed, and no release between"},
		"none for a file": {"2.0.0<1.9.0", "", "", "DIR/shop-2.0.0.tar.gz", " then an update to 2.0.0 starts from 1.9.0 or a newer version, and 1.0.0 is installed: update to 1.9.0 first"},
	} {
		t.Run(name, func(t *testing.T) {
			s := installed(t)
			dir := s.released(tc.releases)
			switch tc.source {
			case "path":
				s.from("path: " + dir)
			case "url", "whole":
				files := http.FileServer(http.Dir(dir))
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if tc.source == "whole" {
						r.Header.Del("Range")
					}
					files.ServeHTTP(w, r)
				}))
				t.Cleanup(srv.Close)
				s.from("url: " + srv.URL)
			}
			s.Sick[tc.sick] = true
			over, err := s.walk(strings.Replace(tc.what, "DIR", dir, 1))
			got := strings.Join(over, " ")
			if err != nil {
				got += " then " + err.Error()
			}
			if got != tc.want && (err == nil || !strings.HasPrefix(got, tc.want)) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			st, err := s.State(t.Context(), "shop")
			if last := slices.Concat([]string{"1.0.0"}, over)[len(over)]; err != nil || st.Current.Version != last || s.Running != last {
				t.Errorf("%+v runs, not %s, %v", st.Current, last, err)
			}
			if tc.sick != "" { // what failed is passed over, and the rest of the way found
				if over, err := s.walk(""); err != nil || strings.Join(over, " ") != "1.2.0 1.3.0" {
					t.Errorf("%v, %v", over, err)
				}
			}
		})
	}
}

// TestWalkCut: power is lost in each of the three updates that lead to a release, at
// any effect of it: it is undone, and the way goes on from the last good release.
func TestWalkCut(t *testing.T) {
	count := installed(t)
	count.from("path: " + count.released("1.1.0"))
	before := count.Count
	if _, err := count.walk(""); err != nil {
		t.Fatal(err)
	}
	effects := count.Count - before
	if effects < 10 {
		t.Fatalf("%d effects in an update", effects)
	}
	for at := 1; at <= effects; at += 4 {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			s := installed(t)
			s.from("path: " + s.released("1.1.0 1.2.0<1.1.0 1.3.0<1.2.0"))
			cut := map[string]bool{}
			var err error
			for len(cut) < 3 || err != nil {
				func() {
					defer func() {
						if c := recover(); c != nil {
							if _, ok := c.(installertest.Crash); !ok {
								panic(c)
							}
							err = errors.New("power cut")
						}
					}()
					_, err = s.walk("", func(version string) {
						if !cut[version] {
							cut[version], s.At, s.Fault = true, s.Count+at, installertest.CrashAfter
						}
					})
				}()
				if newest := new(NewestError); errors.As(err, &newest) {
					break // the cut came after the last commit
				}
				st, loadErr := s.State(t.Context(), "shop")
				if loadErr != nil {
					t.Fatal(loadErr)
				}
				if u := st.Unfinished; u != nil && (st.Path == nil || st.Path.Target != "1.3.0" || st.Path.Version != u.To.Version) {
					t.Fatalf("%s was interrupted, and the path is %v", u.To.Version, st.Path)
				}
				if _, err := s.Recover(t.Context()); err != nil {
					t.Fatal(err)
				}
				if st, _ = s.State(t.Context(), "shop"); st.Current.Version != s.Running {
					t.Fatalf("%s runs, %s is committed", s.Running, st.Current.Version)
				}
			}
			st, err := s.State(t.Context(), "shop")
			if err != nil || len(cut) != 3 || st.Current.Version != "1.3.0" || s.Running != "1.3.0" || st.Path != nil || len(st.Bad) > 0 {
				t.Errorf("cut in %v: %+v, %s runs, %v", cut, st, s.Running, err)
			}
		})
	}
}

// TestHeads: no more heads are read than the limit, however many files are here.
func TestHeads(t *testing.T) {
	s := installed(t)
	src, err := source.New("shop", source.Config{Path: s.released("2.0.0")}, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := src.Releases(t.Context(), source.Query{Platform: host.Platform()})
	if err != nil {
		t.Fatal(err)
	}
	r := s.router("1.0.0")
	for i := range 2 * maxHeads {
		r.addFile(t.Context(), &bundle.Manifest{Version: fmt.Sprintf("1.%d.0", i+1)})
	}
	for i := range maxHeads + 1 {
		version := fmt.Sprintf("2.%d.0", i)
		r.byName[version] = hop{all[0], src}
		if _, err := r.look(t.Context(), version); (err != nil) != (i == maxHeads) {
			t.Fatalf("head %d: %v", i, err)
		}
	}
}

// TestWalkPlan: a plan shows every update of a way.
func TestWalkPlan(t *testing.T) {
	s := installed(t)
	s.from("path: " + s.released("1.1.0 1.2.0<1.1.0 1.3.0<1.2.0 9.0.0<8.0.0"))
	c, err := s.Verify(t.Context(), "", Options{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := s.Plan(t.Context(), c, Options{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range c.Plan.Way {
		got = append(got, h.Version)
		if h.Downtime == "" || len(got) > 1 && h.Bytes == 0 {
			t.Errorf("%+v", h)
		}
	}
	if strings.Join(got, " ") != "1.1.0 1.2.0 1.3.0" || c.Beyond() == nil || !strings.Contains(c.Beyond().Error(), "9.0.0 starts from 8.0.0") {
		t.Errorf("%v, beyond it: %v", got, c.Beyond())
	}
	if st, _ := s.State(t.Context(), "shop"); st.Current.Version != "1.0.0" {
		t.Errorf("%s runs", st.Current.Version)
	}
}
