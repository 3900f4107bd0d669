package device

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/rollout"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/verify/verifytest"
)

// rollout publishes a rollout file in a directory: VERSION=PERCENT, or VERSION=halted.
func (s *shop) rollout(dir string, sequence int64, list string) {
	s.t.Helper()
	s.signed(dir, rollout.FileName("shop", sequence), encoded(s.t, "shop", sequence, list), s.signer)
}

func encoded(t *testing.T, app string, sequence int64, list string) []byte {
	t.Helper()
	f := &rollout.File{Format: rollout.Format, App: app, Sequence: sequence, Releases: []rollout.Release{}}
	for _, one := range strings.Fields(list) {
		version, percent, _ := strings.Cut(one, "=")
		if percent == "halted" {
			rollout.Halt(f, version)
		} else {
			n, err := rollout.ParsePercent(percent)
			if err != nil {
				t.Fatal(err)
			}
			rollout.Set(f, rollout.Release{Version: version, Percent: n, Groups: map[string]int{"canary": 100}})
		}
	}
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signed puts a file and its signature into a directory.
func (s *shop) signed(dir, name string, text []byte, by *verifytest.Signer) {
	s.t.Helper()
	for file, b := range map[string][]byte{name: text, name + rollout.SignatureSuffix: by.Sign(s.t, text)} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// notes collects what is noted.
func (s *shop) notes() *[]string {
	list := &[]string{}
	s.Machine.Note = func(format string, args ...any) { *list = append(*list, fmt.Sprintf(format, args...)) }
	return list
}

// offered are what an update by itself takes, and why it takes nothing newer.
func (s *shop) offered() (version, held string) {
	s.t.Helper()
	c, err := s.Verify(s.t.Context(), "", Options{})
	if err != nil {
		return "", err.Error()
	}
	defer c.Close()
	if c.Beyond() != nil {
		held = c.Beyond().Error()
	}
	return c.Manifest().Version, held
}

func (s *shop) config(text string) {
	s.t.Helper()
	b, err := os.ReadFile(s.ConfigPath("shop"))
	if err == nil {
		err = os.WriteFile(s.ConfigPath("shop"), append(b, text...), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

const waits = "1.2.0 waits for its turn: 0 % of devices"

// TestRolloutTurn: what a device takes by itself is the newest release whose turn it is;
// what was named goes on, with a note.
func TestRolloutTurn(t *testing.T) {
	s := installed(t)
	dir := s.released("1.1.0 1.2.0")
	s.from("path: " + dir)
	for i, x := range []struct{ rollout, version, held string }{
		{"", "1.2.0", ""},
		{"1.2.0=100%", "1.2.0", ""},
		{"1.2.0=0%", "1.1.0", waits},
		{"1.2.0=0% 1.1.0=halted", "", waits},
		{"1.1.0=100%", "1.2.0", ""},
		{"1.2.0=halted", "1.1.0", "1.2.0 was halted by its rollout file (--force installs it)"},
		{"1.2.0=0%", "1.1.0", waits},
	} {
		if x.rollout != "" {
			s.rollout(dir, int64(i), x.rollout)
		}
		if version, held := s.offered(); version != x.version || held != x.held {
			t.Errorf("%q: offered %q, %q; want %q, %q", x.rollout, version, held, x.version, x.held)
		}
		o, err := s.Look(t.Context())
		if err != nil || o.Held != x.held || x.version != "" && o.Latest != x.version || o.Available != (x.version != "") {
			t.Errorf("%q: %+v, %v", x.rollout, o, err)
		}
		if held, err := s.Held(t.Context(), "shop"); err != nil || held != x.held {
			t.Errorf("%q: status says %q, %v", x.rollout, held, err)
		}
	}
	notes := s.notes()
	if err := s.take("v1.2.0", Options{}); err != nil {
		t.Error(err)
	}
	if all := strings.Join(*notes, "\n"); !strings.Contains(all, waits+"; this update was asked for, and goes on") {
		t.Errorf("notes are %s", all)
	}
}

// TestRolloutRequired: without a file that names it, nothing is taken by itself.
func TestRolloutRequired(t *testing.T) {
	s := installed(t)
	dir := s.released("1.1.0 1.2.0")
	s.from("path: " + dir)
	s.config("rollout: {required: true}\n")
	const unnamed = "1.2.0 waits for its turn: this device requires a rollout file that names it"
	if version, held := s.offered(); version != "" || held != unnamed {
		t.Errorf("without a file: %q, %q", version, held)
	}
	s.rollout(dir, 1, "1.1.0=100%")
	if version, held := s.offered(); version != "1.1.0" || held != unnamed {
		t.Errorf("unnamed: %q, %q", version, held)
	}
	s.rollout(dir, 2, "1.2.0=100%")
	if version, held := s.offered(); version != "1.2.0" || held != "" {
		t.Errorf("named: %q, %q", version, held)
	}
}

// TestRolloutHalted: a release that was halted does not begin, wherever it comes from,
// unless a person forces it. What runs is put back all the same.
func TestRolloutHalted(t *testing.T) {
	halted := func(t *testing.T, err error) {
		t.Helper()
		if held := new(installer.HeldError); !errors.As(err, &held) || !held.Halted {
			t.Errorf("got %v", err)
		}
	}
	s := installed(t)
	dir, stick := s.released("1.1.0"), s.released("1.1.0")
	s.from("path: " + dir)
	file := filepath.Join(stick, "shop-1.1.0.tar.gz")
	t.Run("file beside it", func(t *testing.T) {
		s.rollout(stick, 1, "1.1.0=halted")
		halted(t, s.take(file, Options{}))
		halted(t, s.take(stick, Options{}))
		halted(t, s.take("v1.1.0", Options{})) // it is remembered
	})
	t.Run("stick of the service", func(t *testing.T) {
		other := newShop(t)
		other.signer = s.signer
		if err := other.take(other.bundle("1.0.0", nil), other.first); err != nil {
			t.Fatal(err)
		}
		if err := other.TakeRollout(t.Context(), "shop", stick); err != nil {
			t.Fatal(err)
		}
		halted(t, other.take(other.bundle("1.1.0", nil), Options{}))
	})
	t.Run("file in the source", func(t *testing.T) {
		s.rollout(dir, 2, "1.1.0=5%")
		s.rollout(dir, 3, "1.1.0=halted")
		elsewhere := s.bundle("1.1.0", nil)
		halted(t, s.take(elsewhere, Options{}))
	})
	t.Run("first installation", func(t *testing.T) {
		fresh := newShop(t)
		fresh.signer = s.signer
		o := fresh.first
		halted(t, fresh.take(file, o))
		o.Source, fresh.Machine.App = dir, "shop"
		halted(t, fresh.take("", o))
	})
	t.Run("set again", func(t *testing.T) {
		s.rollout(dir, 4, "1.1.0=0%")
		c, err := s.Verify(t.Context(), file, Options{})
		if err == nil {
			err = s.Plan(t.Context(), c, Options{})
			c.Close()
		}
		if err != nil {
			t.Error(err)
		}
		s.rollout(dir, 5, "1.1.0=halted")
		halted(t, s.take(file, Options{}))
	})
	t.Run("forced", func(t *testing.T) {
		if err := s.take(file, Options{Forced: true}); err != nil {
			t.Error(err)
		}
		if err := s.take(file, Options{}); err != nil {
			t.Errorf("the release that runs: %v", err)
		}
	})
}

// TestRolloutGate: a release that is halted while it is fetched does not begin.
func TestRolloutGate(t *testing.T) {
	s := installed(t)
	dir := s.released("1.1.0")
	s.from("path: " + dir)
	s.rollout(dir, 1, "1.1.0=100%")
	c, err := s.Verify(t.Context(), "", Options{})
	if err == nil {
		err = s.Plan(t.Context(), c, Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.rollout(dir, 2, "1.1.0=halted")
	res, err := s.Apply(t.Context(), c, Options{})
	if err != nil || res.Outcome != installer.Unchanged || res.Record.Reason != "halted" || !strings.HasPrefix(res.Err.Error(), "1.1.0 was halted") {
		t.Errorf("got %+v, %v", res, err)
	}
	st, err := s.State(t.Context(), "shop")
	if err != nil || st.Current.Version != "1.0.0" || len(st.Bad) > 0 || st.Unfinished != nil {
		t.Errorf("%+v, %v", st, err)
	}
	s.rollout(dir, 3, "1.1.0=100%")
	if over, err := s.walk(""); err != nil || len(over) != 1 {
		t.Errorf("set again: %v, %v", over, err)
	}
}

// TestRolloutGateDaemon: in the daemon a release that is halted while it is fetched waits,
// as one does that was halted before.
func TestRolloutGateDaemon(t *testing.T) {
	s := installed(t)
	dir := s.released("1.1.0")
	s.from("path: " + dir)
	s.settings("check: 1m, auto: apply")
	s.rollout(dir, 1, "1.1.0=100%")
	s.staged = func(string) { s.rollout(dir, 2, "1.1.0=halted") }
	d := s.serve()
	var page daemon.Page
	for ; len(page.Data) < 2 || page.Data[0].ErrorMessage == nil; time.Sleep(20 * time.Millisecond) {
		d.call("GET", "", "", &page)
	}
	u := page.Data[0]
	d.arrives("1.0.0 completed", "1.1.0 pending")
	if !strings.Contains(*u.ErrorMessage, "1.1.0 was halted") || *u.Reason != "halted" {
		t.Errorf("%+v", u)
	}
	d.stop()
	s.staged = nil
	s.rollout(dir, 3, "1.1.0=100%")
	d = s.serve()
	if code := d.call("POST", "/"+u.PublicID+"/apply", "", nil); code >= 300 {
		t.Fatal(code)
	}
	d.arrives("1.0.0 completed", "1.1.0 completed")
}

// TestRolloutReplay: the highest sequence that was seen counts, over restarts and places,
// until the one who signed it may not any more.
func TestRolloutReplay(t *testing.T) {
	s := installed(t)
	dir, stick := s.released("1.1.0 1.2.0"), s.released("1.2.0")
	s.from("path: " + dir)
	s.rollout(dir, 5, "1.2.0=halted")
	if version, _ := s.offered(); version != "1.1.0" {
		t.Fatalf("offered %s", version)
	}
	for _, name := range []string{rollout.FileName("shop", 5), rollout.FileName("shop", 5) + rollout.SignatureSuffix} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if version, _ := s.offered(); version != "1.1.0" {
		t.Errorf("the file is gone, and %s is offered", version)
	}
	notes := s.notes()
	s.rollout(dir, 4, "1.2.0=100%")
	s.rollout(stick, 3, "1.2.0=100%")
	if version, _ := s.offered(); version != "1.1.0" {
		t.Errorf("by a replay %s is offered", version)
	}
	if all := strings.Join(*notes, "\n"); !strings.Contains(all, "shop-rollout-4.json in "+dir+" is older than the rollout file that this device knows, which has sequence 5: it does not count") {
		t.Errorf("notes are %s", all)
	}
	if err := s.take(filepath.Join(stick, "shop-1.2.0.tar.gz"), Options{}); !errors.As(err, new(*installer.HeldError)) {
		t.Errorf("by a stick: %v", err)
	}
	// The same name with other content is no newer one.
	s.rollout(dir, 5, "1.2.0=100%")
	if version, _ := s.offered(); version != "1.1.0" {
		t.Errorf("by another file of the sequence %s is offered", version)
	}
	// Another one signs from now on.
	next := verifytest.NewSigner(t)
	s.config("rollout: {signers: [{key: " + fmt.Sprintf("%q", next.PublicPEM()) + "}]}\n")
	s.signed(dir, rollout.FileName("shop", 9), encoded(t, "shop", 9, "1.2.0=halted"), s.signer)
	if version, _ := s.offered(); version != "1.2.0" {
		t.Errorf("nothing of the new signer, and %s is offered", version)
	}
	os.Remove(filepath.Join(dir, rollout.FileName("shop", 9)))
	os.Remove(filepath.Join(dir, rollout.FileName("shop", 5)))
	s.signed(dir, rollout.FileName("shop", 4), encoded(t, "shop", 4, "1.2.0=0%"), next)
	if version, held := s.offered(); version != "1.1.0" || held != waits {
		t.Errorf("by the new signer %s is offered, %s", version, held)
	}
}

// TestRolloutHostile: what is not a rollout file of this app, signed by who may, changes
// nothing; where one is required, nothing is taken.
func TestRolloutHostile(t *testing.T) {
	const name = "shop-rollout-7.json"
	for what, put := range map[string]func(s *shop, dir string){
		"another signer": func(s *shop, dir string) {
			s.signed(dir, name, encoded(s.t, "shop", 7, "1.1.0=0%"), verifytest.NewSigner(s.t))
		},
		"no signature": func(s *shop, dir string) {
			s.rollout(dir, 7, "1.1.0=0%")
			os.Remove(filepath.Join(dir, name+rollout.SignatureSuffix))
		},
		"a statement about it": func(s *shop, dir string) {
			s.rollout(dir, 7, "1.1.0=0%")
			os.WriteFile(filepath.Join(dir, name+rollout.SignatureSuffix), s.signer.Attest(s.t, encoded(s.t, "shop", 7, "1.1.0=0%")), 0o600)
		},
		"another app": func(s *shop, dir string) {
			s.signed(dir, name, encoded(s.t, "pump", 7, "1.1.0=0%"), s.signer)
		},
		"renamed": func(s *shop, dir string) {
			s.signed(dir, name, encoded(s.t, "shop", 6, "1.1.0=0%"), s.signer)
		},
		"changed": func(s *shop, dir string) {
			s.rollout(dir, 7, "1.1.0=0%")
			os.WriteFile(filepath.Join(dir, name), encoded(s.t, "shop", 7, "1.1.0=1%"), 0o600)
		},
		"large": func(s *shop, dir string) {
			s.signed(dir, name, append(encoded(s.t, "shop", 7, "1.1.0=0%"), make([]byte, rollout.MaxSize)...), s.signer)
		},
		"a manifest": func(s *shop, dir string) { s.signed(dir, name, []byte(`{"format":"valise/1"}`), s.signer) },
		"a pipe": func(s *shop, dir string) {
			s.rollout(dir, 7, "1.1.0=0%")
			os.Remove(filepath.Join(dir, name))
			if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
				s.t.Fatal(err)
			}
		},
		"a link": func(s *shop, dir string) {
			s.rollout(dir, 7, "1.1.0=0%")
			os.Rename(filepath.Join(dir, name), filepath.Join(dir, "other"))
			if err := os.Symlink("other", filepath.Join(dir, name)); err != nil {
				s.t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := installed(t)
			dir := s.released("1.1.0")
			s.from("path: " + dir)
			put(s, dir)
			if version, held := s.offered(); version != "1.1.0" || held != "" {
				t.Errorf("offered %q, %q", version, held)
			}
			s.config("rollout: {required: true}\n")
			if version, held := s.offered(); version != "" || !strings.Contains(held, "requires a rollout file") {
				t.Errorf("required, and offered %q, %q", version, held)
			}
		})
	}
}

// TestRolloutDevice: who a device is.
func TestRolloutDevice(t *testing.T) {
	s := installed(t)
	dir := s.released("1.2.0")
	s.from("path: " + dir)
	s.rollout(dir, 1, "1.2.0=0%")
	id := func(c RolloutConfig) string {
		t.Helper()
		id, from, err := s.deviceID(c)
		if err != nil {
			t.Fatal(err)
		}
		return from + " " + id
	}
	if got := id(RolloutConfig{ID: "plant7"}); got != "rollout.id plant7" {
		t.Error(got)
	}
	key := id(RolloutConfig{})
	if !strings.HasPrefix(key, "the key of this device ") || id(RolloutConfig{}) != key {
		t.Errorf("%s, and then %s", key, id(RolloutConfig{}))
	}
	file := filepath.Join(s.Root, "etc/machine-id")
	for _, text := range []string{"uninitialized\n", "", "0123456789abcdef"} {
		os.WriteFile(file, []byte(text), 0o644)
		if got := id(RolloutConfig{}); got != key {
			t.Errorf("by %q it is %s", text, got)
		}
	}
	os.WriteFile(file, []byte("0123456789abcdef0123456789abcdef\n"), 0o644)
	if got := id(RolloutConfig{}); got != "/etc/machine-id 0123456789abcdef0123456789abcdef" {
		t.Error(got)
	}
	s.config("rollout: {groups: [canary]}\n")
	if version, held := s.offered(); version != "1.2.0" || held != "" {
		t.Errorf("a canary is offered %q, %q", version, held)
	}
}

// TestRolloutDaemon: by itself the daemon takes what it is the device's turn for, and what
// waits here does not begin while it is halted.
func TestRolloutDaemon(t *testing.T) {
	s := installed(t)
	dir := s.released("1.1.0 1.2.0")
	s.from("path: " + dir)
	s.rollout(dir, 1, "1.2.0=0%")
	config, err := os.ReadFile(s.ConfigPath("shop"))
	if err != nil {
		t.Fatal(err)
	}
	s.settings("check: 1m, auto: apply")
	d := s.serve()
	d.arrives("1.0.0 completed", "1.1.0 completed")
	var check daemon.Check
	if code := d.call("GET", "/check", "", &check); code != 200 || check.Blocked == nil || *check.Blocked != waits || *check.BlockedReason != "held" || check.UpdateAvailable || len(check.Way) > 0 || *check.GitHubLatestVersion != "1.2.0" {
		t.Errorf("%d %+v", code, check)
	}
	d.stop()
	if err := os.WriteFile(s.ConfigPath("shop"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	s.settings("check: 1m, auto: stage")
	s.rollout(dir, 2, "1.2.0=100%")
	d = s.serve()
	d.arrives("1.0.0 completed", "1.1.0 completed", "1.2.0 pending")
	var page daemon.Page
	d.call("GET", "", "", &page)
	id := page.Data[0].PublicID
	apply := func() {
		t.Helper()
		if code := d.call("POST", "/"+id+"/apply", "", nil); code >= 300 {
			t.Fatal(code)
		}
	}
	s.rollout(dir, 3, "1.2.0=halted")
	apply()
	var u daemon.Update
	for ; u.ErrorMessage == nil; time.Sleep(20 * time.Millisecond) {
		d.call("GET", "/"+id, "", &u)
	}
	if u.Status != installer.Pending || !strings.Contains(*u.ErrorMessage, "1.2.0 was halted") || *u.Reason != "halted" {
		t.Errorf("%+v %s", u, *u.ErrorMessage)
	}
	if code := d.call("GET", "/"+id+"/plan", "", nil); code != 422 {
		t.Errorf("a plan of it: %d", code)
	}
	s.rollout(dir, 4, "1.2.0=10%")
	apply()
	d.arrives("1.0.0 completed", "1.1.0 completed", "1.2.0 completed")
}

// TestRolloutDrop: a release in the drop folder, with a rollout file beside it that halts
// it, waits there; and is taken when it is not halted any more.
func TestRolloutDrop(t *testing.T) {
	s := installed(t)
	dir := s.released("1.1.0")
	s.config("updates: {drop: " + dir + "}\n")
	s.rollout(dir, 1, "1.1.0=halted")
	d := s.serve()
	var page daemon.Page
	for ; len(page.Data) < 2 || page.Data[0].ErrorMessage == nil; time.Sleep(20 * time.Millisecond) {
		d.call("GET", "", "", &page)
	}
	if u := page.Data[0]; u.Status != installer.Pending || !strings.Contains(*u.ErrorMessage, "1.1.0 was halted") {
		t.Errorf("%+v", u)
	}
	d.stop()
	s.rollout(dir, 2, "1.1.0=0%")
	s.serve().arrives("1.0.0 completed", "1.1.0 completed")
}
