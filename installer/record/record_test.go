package record

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/verify"
)

// at is minute n of the test's clock.
func at(n int) time.Time { return time.Date(2026, 3, 1, 12, n, 0, 123456789, time.UTC) }

func openAt(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, "shop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t *testing.T) *Store { return openAt(t, filepath.Join(t.TempDir(), "record.db")) }

func release(version string) installer.Release {
	return installer.Release{Version: version, Dir: "v" + version, Manifest: "sha256:aa", Signer: "https://example.com/w.yml"}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Fatalf("got error %v, want one with %q", err, part)
	}
}

func load(t *testing.T, s *Store) installer.State {
	t.Helper()
	state, err := s.Load(t.Context())
	ok(t, err)
	return state
}

// begin begins record id from what is current to version.
func begin(t *testing.T, s *Store, id string, action installer.Action, version string) {
	t.Helper()
	ok(t, s.Begin(t.Context(), installer.Record{ID: id, Action: action, From: load(t, s).Current, To: release(version), Created: at(0)}))
}

// commit brings the app to version in one record.
func commit(t *testing.T, s *Store, id string, action installer.Action, version string, minute int) {
	t.Helper()
	begin(t, s, id, action, version)
	ok(t, s.Commit(t.Context(), id, at(minute)))
}

func version(r *installer.Release) string {
	if r == nil {
		return ""
	}
	return r.Version
}

func kept(state installer.State) string {
	var all []string
	for _, r := range state.Kept {
		all = append(all, r.Version)
	}
	return strings.Join(all, " ")
}

func statuses(t *testing.T, s *Store) string {
	t.Helper()
	records, err := s.History(t.Context(), -1, 0)
	ok(t, err)
	var all []string
	for _, r := range records {
		all = append(all, r.ID+"="+string(r.Status))
	}
	return strings.Join(all, " ")
}

func TestLifeOfAnApp(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "record.db")
	s := openAt(t, path)
	check := func(current, previous, wantKept, floor, history string) {
		t.Helper()
		// Everything must be the same for whoever opens the file next.
		ok(t, s.Close())
		s = openAt(t, path)
		st := load(t, s)
		if version(st.Current) != current || version(st.Previous) != previous || kept(st) != wantKept || st.Floor != floor {
			t.Errorf("current %q, previous %q, kept %q, floor %q\nwant %q, %q, %q, %q",
				version(st.Current), version(st.Previous), kept(st), st.Floor, current, previous, wantKept, floor)
		}
		if got := statuses(t, s); got != history {
			t.Errorf("history %s\nwant    %s", got, history)
		}
	}
	check("", "", "", "", "")
	commit(t, s, "r1", installer.ActionInstall, "2.9.0", 1)
	check("2.9.0", "", "2.9.0", "2.9.0", "r1=completed")
	commit(t, s, "r2", installer.ActionUpdate, "2.10.0", 2)
	check("2.10.0", "2.9.0", "2.10.0 2.9.0", "2.10.0", "r2=completed r1=completed")

	// A rollback swaps, keeps the floor, and marks the update it takes back.
	commit(t, s, "r3", installer.ActionRollback, "2.9.0", 3)
	check("2.9.0", "2.10.0", "2.9.0 2.10.0", "2.10.0", "r3=completed r2=rolled_back r1=completed")
	if h, err := s.History(ctx, 9, 0); err != nil || h[1].Error != "rolled back by hand to 2.9.0" {
		t.Errorf("the update that was taken back says %q, %v", h[1].Error, err)
	}
	commit(t, s, "r4", installer.ActionRollback, "2.10.0", 4)
	check("2.10.0", "2.9.0", "2.10.0 2.9.0", "2.10.0", "r4=completed r3=rolled_back r2=rolled_back r1=completed")

	// An update that fails changes nothing but the list of bad versions.
	begin(t, s, "r5", installer.ActionUpdate, "2.11.0")
	ok(t, s.Fail(ctx, "r5", errors.New("probe 2.11.0: no answer"), true))
	ok(t, s.End(ctx, "r5", installer.RolledBack, at(5)))
	check("2.10.0", "2.9.0", "2.10.0 2.9.0", "2.10.0", "r5=rolled_back r4=completed r3=rolled_back r2=rolled_back r1=completed")
	if got := load(t, s).Bad; !reflect.DeepEqual(got, []string{"2.11.0"}) {
		t.Errorf("bad %v", got)
	}
	commit(t, s, "r6", installer.ActionUpdate, "2.11.0", 6)
	if got := load(t, s).Bad; got != nil {
		t.Errorf("bad %v after its commit", got)
	}
	commit(t, s, "r7", installer.ActionUpdate, "2.11.0", 7) // the same one again
	check("2.11.0", "2.10.0", "2.11.0 2.10.0 2.9.0", "2.11.0",
		"r7=completed r6=completed r5=rolled_back r4=completed r3=rolled_back r2=rolled_back r1=completed")

	wantErr(t, s.Forget(ctx, []string{"v2.9.0", "v2.11.0"}), "current or the previous")
	wantErr(t, s.Forget(ctx, []string{"v2.9.0", "v2.10.0"}), "current or the previous")
	if got := kept(load(t, s)); got != "2.11.0 2.10.0 2.9.0" {
		t.Errorf("kept %s: a refused call forgot something", got)
	}
	for range 2 {
		ok(t, s.Forget(ctx, []string{"v2.9.0", "unknown"}))
	}
	ok(t, s.Forget(ctx, nil))
	if got := kept(load(t, s)); got != "2.11.0 2.10.0" {
		t.Errorf("kept %s", got)
	}
	if got := load(t, s).Current.CommittedAt; !got.Equal(at(7)) {
		t.Errorf("committed at %v", got)
	}
	got, err := s.History(ctx, 2, 1)
	if err != nil || len(got) != 2 || got[0].ID != "r6" || got[1].ID != "r5" {
		t.Errorf("page: %v, %v", got, err)
	}
	if got, err := s.History(ctx, 2, 100); got != nil || err != nil {
		t.Errorf("page past the end: %v, %v", got, err)
	}
}

func TestFloor(t *testing.T) {
	for _, tc := range []struct{ commits, floor string }{
		{"2.9.0 2.10.0", "2.10.0"},
		{"2.10.0 2.9.0", "2.10.0"},
		{"2.1.0-rc.1 2.1.0", "2.1.0"},
		{"2.1.0 2.1.0-rc.1", "2.1.0"},
		{"2.1.0-rc.9 2.1.0-rc.10", "2.1.0-rc.10"},
		{"2.1.0-rc.10 2.1.0-rc.9", "2.1.0-rc.10"},
		{"2.1.0-alpha 2.1.0-1", "2.1.0-alpha"},
		{"2.1.0+a 2.1.0+b", "2.1.0+b"}, // equal in SemVer: that of the operator's choice
		{"1.0.0 0.9.0 3.0.0 2.0.0", "3.0.0"},
	} {
		s := newStore(t)
		for i, v := range strings.Fields(tc.commits) {
			commit(t, s, fmt.Sprint("r", i), installer.ActionUpdate, v, i)
		}
		if got := load(t, s).Floor; got != tc.floor {
			t.Errorf("%s: floor %s, want %s", tc.commits, got, tc.floor)
		}
	}
}

func TestSteps(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "record.db")
	s := openAt(t, path)
	commit(t, s, "r1", installer.ActionInstall, "1.0.0", 0)
	begin(t, s, "r2", installer.ActionUpdate, "2.0.0")
	undo := json.RawMessage(`{"env":"A=1\n"}`)
	ok(t, s.StepBegun(ctx, "r2", "stage", nil, at(1)))
	ok(t, s.StepDone(ctx, "r2", "stage", at(2)))
	ok(t, s.StepDone(ctx, "r2", "stage", at(3))) // again: nothing new
	ok(t, s.StepBegun(ctx, "r2", "activate", undo, at(4)))
	ok(t, s.StepBegun(ctx, "r2", "activate", json.RawMessage(`{"env":"A=2\n"}`), at(5)))

	ok(t, s.Close())
	s = openAt(t, path)
	r1 := release("1.0.0")
	r1.CommittedAt = at(0)
	want := &installer.Record{ID: "r2", Action: installer.ActionUpdate, From: &r1, To: release("2.0.0"), Status: installer.Applying, Created: at(0), Started: at(0), Steps: []installer.Step{
		{Name: "stage", State: installer.StepDone, Begun: at(1), Ended: at(2)},
		{Name: "activate", State: installer.StepBegun, Undo: undo, Begun: at(4)},
	}}
	if got := load(t, s).Unfinished; !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}

	wantErr(t, s.StepDone(ctx, "r2", "probe", at(6)), "never began")
	wantErr(t, s.StepUndone(ctx, "r2", "probe", at(6)), "never began")
	wantErr(t, s.StepBegun(ctx, "r9", "stage", nil, at(6)), "no such record")
	wantErr(t, s.StepDone(ctx, "r9", "stage", at(6)), "no such record")
	wantErr(t, s.StepBegun(ctx, "r2", "x", json.RawMessage(`{`), at(6)), "undo")
	ok(t, s.StepUndone(ctx, "r2", "activate", at(6)))
	ok(t, s.StepUndone(ctx, "r2", "activate", at(7)))
	wantErr(t, s.StepDone(ctx, "r2", "activate", at(8)), "is undone")
	ok(t, s.StepBegun(ctx, "r2", "activate", nil, at(9))) // an undone step that begins again must be undone again
	got := load(t, s).Unfinished.Steps[1]
	if got.State != installer.StepBegun || string(got.Undo) != string(undo) || !got.Begun.Equal(at(4)) || !got.Ended.IsZero() {
		t.Fatalf("begun again: %+v", got)
	}

	ok(t, s.Commit(ctx, "r2", at(10)))
	wantErr(t, s.StepUndone(ctx, "r2", "activate", at(11)), "completed")
	ok(t, s.StepBegun(ctx, "r2", "prune", nil, at(11))) // work that goes forward only
	ok(t, s.StepDone(ctx, "r2", "prune", at(12)))
	records, err := s.History(ctx, 1, 0)
	ok(t, err)
	var states []string
	for _, st := range records[0].Steps {
		states = append(states, fmt.Sprintf("%s=%s@%d", st.Name, st.State, st.Ended.Minute()))
		if st.Undo != nil {
			t.Errorf("undo data of %s stayed after the commit", st.Name)
		}
	}
	if got := strings.Join(states, " "); got != "stage=done@2 activate=done@10 prune=done@12" {
		t.Errorf("steps %s", got)
	}
	if r := records[0]; !r.Ended.Equal(at(10)) || r.Status != installer.Completed || !r.To.CommittedAt.Equal(at(10)) {
		t.Errorf("record %+v", r)
	}
}

func TestFailure(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	commit(t, s, "r1", installer.ActionInstall, "1.0.0", 0)
	begin(t, s, "r2", installer.ActionUpdate, "2.0.0")
	ok(t, s.StepBegun(ctx, "r2", "activate", json.RawMessage(`1`), at(1)))
	ok(t, s.Fail(ctx, "r2", errors.New("first"), false))
	ok(t, s.Fail(ctx, "r2", errors.New("second"), true))
	ok(t, s.Fail(ctx, "r2", errors.New("third"), true))
	ok(t, s.Attention(ctx, "r2", "undo once"))
	ok(t, s.Attention(ctx, "r2", "undo twice"))
	st := load(t, s)
	if u := st.Unfinished; u == nil || u.Error != "first" || u.Attention != "undo twice" || u.Status != installer.Applying || string(u.Steps[0].Undo) != "1" {
		t.Fatalf("unfinished %+v", u)
	}
	if !reflect.DeepEqual(st.Bad, []string{"2.0.0"}) {
		t.Fatalf("bad %v", st.Bad)
	}
	ok(t, s.StepUndone(ctx, "r2", "activate", at(2)))
	ok(t, s.End(ctx, "r2", installer.RolledBack, at(3)))
	records, err := s.History(ctx, 1, 0)
	ok(t, err)
	r := records[0]
	if r.Status != installer.RolledBack || r.Error != "first" || r.Attention != "" || !r.Ended.Equal(at(3)) || r.Steps[0].Undo != nil {
		t.Fatalf("ended %+v", r)
	}
	if st := load(t, s); st.Unfinished != nil || version(st.Current) != "1.0.0" || st.Floor != "1.0.0" {
		t.Fatalf("state %+v", st)
	}
	begin(t, s, "r3", installer.ActionUpdate, "2.0.0")
	ok(t, s.End(ctx, "r3", installer.Failed, at(4)))
	// A commit that happened although its answer was lost stays as it is.
	commit(t, s, "r4", installer.ActionUpdate, "2.0.0", 5)
	ok(t, s.Fail(ctx, "r4", errors.New("commit: input/output error"), true))
	records, err = s.History(ctx, 1, 0)
	ok(t, err)
	if r := records[0]; r.Status != installer.Completed || r.Error != "" || load(t, s).Bad != nil {
		t.Fatalf("committed record became %+v", r)
	}
}

func TestRefusals(t *testing.T) {
	ctx := t.Context()
	one := release("1.0.0")
	record := func(id string, change func(*installer.Record)) installer.Record {
		r := installer.Record{ID: id, Action: installer.ActionUpdate, From: &one, To: release("2.0.0"), Created: at(0)}
		if change != nil {
			change(&r)
		}
		return r
	}
	for _, tc := range []struct {
		name, part string
		do         func(*Store) error
	}{
		{"begin without id", "no id", func(s *Store) error { return s.Begin(ctx, record("", nil)) }},
		{"begin without directory", "no release directory", func(s *Store) error {
			return s.Begin(ctx, record("r2", func(r *installer.Record) { r.To.Dir = "" }))
		}},
		{"begin with used id", "completed and cannot become applying", func(s *Store) error { return s.Begin(ctx, record("r1", nil)) }},
		{"begin with unknown action", "CHECK", func(s *Store) error {
			return s.Begin(ctx, record("r2", func(r *installer.Record) { r.Action = "erase" }))
		}},
		{"begin with v", "not SemVer", func(s *Store) error {
			return s.Begin(ctx, record("r2", func(r *installer.Record) { r.To.Version = "v2.0.0" }))
		}},
		{"begin with stale plan", `begins at release "v0.9.0", but current is "v1.0.0"`, func(s *Store) error {
			return s.Begin(ctx, record("r2", func(r *installer.Record) { old := release("0.9.0"); r.From = &old }))
		}},
		{"begin as if first", `begins at release "", but current is "v1.0.0"`, func(s *Store) error {
			return s.Begin(ctx, record("r2", func(r *installer.Record) { r.From = nil }))
		}},
		{"commit unknown", "no such record", func(s *Store) error { return s.Commit(ctx, "r9", at(1)) }},
		{"commit twice", "completed and cannot become completed", func(s *Store) error { return s.Commit(ctx, "r1", at(1)) }},
		{"commit failed one", "failed and cannot become completed", func(s *Store) error { return s.Commit(ctx, "failed", at(1)) }},
		{"end unknown", "no such record", func(s *Store) error { return s.End(ctx, "r9", installer.Failed, at(1)) }},
		{"end committed", "it is committed", func(s *Store) error { return s.End(ctx, "r1", installer.RolledBack, at(1)) }},
		{"end twice", "failed and cannot become rolled_back", func(s *Store) error { return s.End(ctx, "failed", installer.RolledBack, at(1)) }},
		{"fail ended", "failed and cannot become failed", func(s *Store) error { return s.Fail(ctx, "failed", errors.New("x"), true) }},
		{"fail unknown", "no such record", func(s *Store) error { return s.Fail(ctx, "r9", errors.New("x"), true) }},
		{"attention committed", "it is completed", func(s *Store) error { return s.Attention(ctx, "r1", "x") }},
		{"attention unknown", "no such record", func(s *Store) error { return s.Attention(ctx, "r9", "x") }},
		{"step of ended one", "it is failed", func(s *Store) error { return s.StepBegun(ctx, "failed", "x", nil, at(1)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			commit(t, s, "r1", installer.ActionInstall, "1.0.0", 0)
			begin(t, s, "failed", installer.ActionUpdate, "2.0.0")
			ok(t, s.End(ctx, "failed", installer.Failed, at(0)))
			before, history := load(t, s), statuses(t, s)
			wantErr(t, tc.do(s), tc.part)
			if after := load(t, s); !reflect.DeepEqual(before, after) || statuses(t, s) != history {
				t.Errorf("refused, yet it changed %+v to %+v", before, after)
			}
		})
	}
	t.Run("unfinished", func(t *testing.T) {
		s := newStore(t)
		begin(t, s, "r1", installer.ActionInstall, "1.0.0")
		err := s.Begin(ctx, installer.Record{ID: "r2", Action: installer.ActionInstall, To: release("2.0.0")})
		if !errors.Is(err, installer.ErrUnfinished) {
			t.Fatalf("got %v", err)
		}
		for _, status := range []installer.Status{installer.Completed, installer.Applying, installer.Pending, "x"} {
			wantErr(t, s.End(ctx, "r1", status, at(1)), "end record r1")
		}
		// The index holds even where the code would not.
		_, err = s.db.Exec("INSERT INTO record (id, action, to_release, status, created) VALUES ('r2', 'install', '{}', 'applying', '')")
		wantErr(t, err, "UNIQUE")
	})
	t.Run("cancelled", func(t *testing.T) {
		s := newStore(t)
		begin(t, s, "r1", installer.ActionInstall, "1.0.0")
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		if err := s.Commit(cancelled, "r1", at(1)); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		if load(t, s).Current != nil {
			t.Fatal("committed")
		}
		ok(t, s.Commit(ctx, "r1", at(1)))
	})
}

func TestOpen(t *testing.T) {
	ctx := t.Context()
	valid := func(t *testing.T, path string) {
		s, err := Open(ctx, path, "shop")
		ok(t, err)
		for i := range 50 { // several pages
			commit(t, s, fmt.Sprint("r", i), installer.ActionUpdate, fmt.Sprintf("1.%d.0", i), 0)
		}
		ok(t, s.Close())
	}
	exec := func(t *testing.T, path, statements string) {
		db, err := sql.Open("sqlite", path)
		ok(t, err)
		_, err = db.Exec(statements)
		ok(t, err)
		ok(t, db.Close())
	}
	for _, tc := range []struct {
		name, part string
		is         error
		prepare    func(t *testing.T, path string)
	}{
		{"text", "damaged", ErrDamaged, func(t *testing.T, path string) {
			ok(t, os.WriteFile(path, []byte(strings.Repeat("not a database\n", 1000)), 0o600))
		}},
		{"zeroes inside", "damaged", ErrDamaged, func(t *testing.T, path string) {
			valid(t, path)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			ok(t, err)
			defer f.Close()
			info, err := f.Stat()
			ok(t, err)
			_, err = f.WriteAt(make([]byte, info.Size()-4096), 4096)
			ok(t, err)
		}},
		{"cut short", "damaged", ErrDamaged, func(t *testing.T, path string) {
			valid(t, path)
			ok(t, os.Truncate(path, 3*4096))
		}},
		{"newer", "has schema 99, this program knows up to 8", ErrNewer, func(t *testing.T, path string) {
			valid(t, path)
			exec(t, path, "PRAGMA user_version = 99")
		}},
		{"another app", `record of app "shop", want "other"`, nil, valid},
		{"another program", "another program's database", nil, func(t *testing.T, path string) {
			exec(t, path, "CREATE TABLE users (name TEXT)")
		}},
		{"a directory", "open record", nil, func(t *testing.T, path string) { ok(t, os.Mkdir(path, 0o755)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "record.db")
			tc.prepare(t, path)
			app := "shop"
			if tc.name == "another app" {
				app = "other"
			}
			for _, f := range []func(context.Context, string, string) (*Store, error){Open, OpenReadOnly} {
				_, err := f(ctx, path, app)
				wantErr(t, err, tc.part)
				if tc.is != nil && !errors.Is(err, tc.is) {
					t.Errorf("%v is not %v", err, tc.is)
				}
			}
		})
	}
	t.Run("missing directory", func(t *testing.T) {
		_, err := Open(ctx, filepath.Join(t.TempDir(), "none", "record.db"), "shop")
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("odd name and mode", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a b?mode=memory#%41;.db")
		s := openAt(t, path)
		begin(t, s, "r1", installer.ActionInstall, "1.0.0")
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			ok(t, err)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%q has mode %v", suffix, info.Mode())
			}
		}
	})
	t.Run("settings", func(t *testing.T) {
		s := newStore(t)
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
			var got string
			ok(t, s.db.QueryRow("PRAGMA "+pragma).Scan(&got))
			if got != want {
				t.Errorf("%s is %s, want %s", pragma, got, want)
			}
		}
	})
}

func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.db")
	s := openAt(t, path)
	commit(t, s, "r1", installer.ActionInstall, "1.0.0", 0)
	// One that fails leaves the old schema and all of its data.
	wantErr(t, s.migrate(t.Context(), append(migrations[:len(migrations):len(migrations)], "CREATE TABLE extra (x); DROP TABLE nothing")), fmt.Sprintf("migrate to schema %d", len(migrations)+1))
	ok(t, s.Close())
	s = openAt(t, path)
	ok(t, s.migrate(t.Context(), append(migrations[:len(migrations):len(migrations)], "ALTER TABLE app ADD COLUMN note TEXT", "CREATE TABLE extra (x)")))
	if got := version(load(t, s).Current); got != "1.0.0" {
		t.Fatalf("current %q", got)
	}
	ok(t, s.Close())
	if _, err := Open(t.Context(), path, "shop"); !errors.Is(err, ErrNewer) {
		t.Fatalf("got %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "record.db")
	if _, err := OpenReadOnly(ctx, path, "shop"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a reader made the file: %v", err)
	}
	ok(t, os.WriteFile(path, nil, 0o600)) // power was lost while it was made
	if _, err := OpenReadOnly(ctx, path, "shop"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	w := openAt(t, path)
	commit(t, w, "r1", installer.ActionInstall, "1.0.0", 0)
	r, err := OpenReadOnly(ctx, path, "shop")
	ok(t, err)
	defer r.Close()

	// The update runs on inside a transaction that is open all the while.
	tx, err := w.db.BeginTx(ctx, nil)
	ok(t, err)
	_, err = tx.Exec("UPDATE app SET floor = '9.9.9'")
	ok(t, err)
	if st := load(t, r); st.Floor != "1.0.0" || version(st.Current) != "1.0.0" {
		t.Fatalf("reader saw %+v", st)
	}
	ok(t, tx.Rollback())

	// And a reader in the middle of a transaction does not stop a commit.
	view, err := r.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	ok(t, err)
	var n int
	ok(t, view.QueryRow("SELECT count(*) FROM record").Scan(&n))
	commit(t, w, "r2", installer.ActionUpdate, "2.0.0", 1)
	ok(t, view.Rollback())
	if st := load(t, r); version(st.Current) != "2.0.0" {
		t.Fatalf("reader saw %+v", st)
	}
	for _, err := range []error{
		r.Begin(ctx, installer.Record{ID: "r3", Action: installer.ActionUpdate, From: load(t, r).Current, To: release("3.0.0")}),
		r.Forget(ctx, []string{"v1"}),
	} {
		wantErr(t, err, "readonly")
	}
	ok(t, w.Close())
	if got := statuses(t, r); got != "r2=completed r1=completed" {
		t.Fatalf("after the writer left: %s", got)
	}
}

// A full disk must not stop the way back.
func TestDiskFull(t *testing.T) {
	ctx := t.Context()
	undone := func(t *testing.T, s *Store) {
		t.Helper()
		ok(t, s.Fail(ctx, "r1", errors.New("stage: no space left on device"), false))
		for _, name := range stepNames {
			ok(t, s.StepUndone(ctx, "r1", name, at(2)))
		}
		ok(t, s.End(ctx, "r1", installer.Failed, at(3)))
		if got := statuses(t, s); got != "r1=failed r0=completed" {
			t.Fatalf("history %s", got)
		}
	}
	for _, name := range []string{"same process", "after a restart", "no reserve"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
				t.Skipf("mount tmpfs: %v", err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			path := filepath.Join(dir, "record.db")
			s := openAt(t, path)
			commit(t, s, "r0", installer.ActionInstall, "1.0.0", 0)
			begin(t, s, "r1", installer.ActionUpdate, "2.0.0")
			for _, name := range stepNames {
				ok(t, s.StepBegun(ctx, "r1", name, json.RawMessage(`{}`), at(1)))
			}
			if name == "after a restart" {
				ok(t, s.Close())
			}
			if name == "no reserve" {
				ok(t, os.Remove(path+reserveSuffix))
			}
			fill, err := os.Create(filepath.Join(dir, "fill"))
			ok(t, err)
			defer fill.Close()
			for err == nil {
				_, err = fill.Write(make([]byte, 4096))
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			switch name {
			case "after a restart":
				s = openAt(t, path)
			case "no reserve":
				err = s.Fail(ctx, "r1", errors.New("x"), false)
				for err == nil { // what the log has left
					err = s.Attention(ctx, "r1", "x")
				}
				wantErr(t, err, "full")
				ok(t, fill.Truncate(0)) // and on it goes when there is room
			}
			undone(t, s)
		})
	}
}

// TestRotation: who signs next counts from the commit on, until it is noted that
// the policy has it; the history keeps it.
func TestRotation(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "record.db")
	s := openAt(t, path)
	pending := func() string {
		t.Helper()
		ok(t, s.Close())
		s = openAt(t, path)
		if r := load(t, s).Rotation; r != nil {
			return r.Signers[0].Identity + string(r.TrustedRoot)
		}
		return ""
	}
	want := func(what, identity string) {
		t.Helper()
		if got := pending(); got != identity {
			t.Errorf("%s: %q is to be trusted, want %q", what, got, identity)
		}
	}
	rotate := func(id, v, identity string) {
		t.Helper()
		ok(t, s.Begin(ctx, installer.Record{ID: id, Action: installer.ActionUpdate, From: load(t, s).Current, To: release(v), Created: at(0),
			Rotation: &verify.Rotation{Signers: []verify.Signer{{Issuer: "i", Identity: identity}}, TrustedRoot: json.RawMessage(`{"a":1}`)}}))
	}
	commit(t, s, "r1", installer.ActionInstall, "1.0.0", 1)
	want("no rotation", "")
	rotate("r2", "1.1.0", "failed")
	want("begun", "")
	ok(t, s.Fail(ctx, "r2", errors.New("cause"), true))
	ok(t, s.End(ctx, "r2", installer.RolledBack, at(2)))
	want("undone", "")
	rotate("r3", "1.2.0", "next")
	ok(t, s.Commit(ctx, "r3", at(3)))
	want("committed", `next{"a":1}`)
	commit(t, s, "r4", installer.ActionUpdate, "1.3.0", 4)
	want("after another release", `next{"a":1}`)
	ok(t, s.Rotated(ctx))
	want("noted", "")
	ok(t, s.Rotated(ctx))
	begin(t, s, "r5", installer.ActionRollback, "1.2.0")
	ok(t, s.Commit(ctx, "r5", at(5)))
	want("rolled back to it", "")
	records, err := s.History(ctx, -1, 0)
	ok(t, err)
	if r := records[2]; r.ID != "r3" || r.Rotation == nil || r.Rotation.Signers[0].Identity != "next" {
		t.Errorf("the history says %+v", r)
	}
}

// status must say what is there when nothing can be written, a log that was not
// emptied included.
func TestReadOnFullDisk(t *testing.T) {
	for _, name := range []string{"full", "read-only"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
				t.Skipf("mount tmpfs: %v", err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			path := filepath.Join(dir, "record.db")
			s := openAt(t, path)
			commit(t, s, "r0", installer.ActionInstall, "1.0.0", 0)
			begin(t, s, "r1", installer.ActionUpdate, "2.0.0")
			// As after a power cut: the log holds what the file does not.
			wal, err := os.ReadFile(path + "-wal")
			ok(t, err)
			file, err := os.ReadFile(path)
			ok(t, err)
			ok(t, s.Close())
			ok(t, os.WriteFile(path, file, 0o600))
			ok(t, os.WriteFile(path+"-wal", wal, 0o600))
			if len(wal) == 0 {
				t.Fatal("the log is empty")
			}
			if name == "full" {
				fill, err := os.Create(filepath.Join(dir, "fill"))
				ok(t, err)
				defer fill.Close()
				for err == nil {
					_, err = fill.Write(make([]byte, 4096))
				}
			} else {
				ok(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
			}
			r, err := OpenReadOnly(t.Context(), path, "shop")
			ok(t, err)
			defer r.Close()
			if st := load(t, r); st.Current == nil || st.Current.Version != "1.0.0" || st.Unfinished == nil || st.Unfinished.ID != "r1" {
				t.Errorf("%+v", st)
			}
			if left, _ := filepath.Glob(filepath.Join(memoryDir, "valise-record-*")); left != nil {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// TestOtherSQLite: what support does first with a device's records, with the program
// of its distribution. An older SQLite judges json_valid(NULL) otherwise.
func TestOtherSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.db")
	old, err := os.ReadFile("testdata/schema3.db")
	ok(t, err)
	ok(t, os.WriteFile(path, old, 0o600))
	migrated := openAt(t, path)
	made := newStore(t)
	commit(t, made, "r1", installer.ActionInstall, "1.0.0", 0)
	ok(t, made.Add(t.Context(), installer.Record{ID: "r2", To: release("1.1.0"), Status: installer.Pending, Created: at(1)}))
	schemas := map[string]string{}
	for _, s := range []*Store{migrated, made} {
		for _, check := range []string{"quick_check", "integrity_check"} {
			out, err := exec.Command("sqlite3", s.path, "PRAGMA "+check, ".schema").CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), "ok\n") {
				t.Errorf("%s: %v\n%.2000s", check, err, out)
			}
			schemas[s.path] = string(out)
		}
		// What is no JSON is refused as before, by this connection and the next.
		for _, column := range []string{"from_release", "bundle", "rotation"} {
			if _, err := s.db.Exec("UPDATE record SET " + column + " = 'no'"); err == nil {
				t.Errorf("%s takes what is not JSON", column)
			}
		}
	}
	if schemas[migrated.path] != schemas[made.path] {
		t.Errorf("a migrated file has another schema:\n%s\na new one:\n%s", schemas[migrated.path], schemas[made.path])
	}
}

// TestNoReserve: without room for the records of the way back an update does not
// begin, and says how much it needs; going back may be what makes room.
func TestNoReserve(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "record.db")
	s := openAt(t, path)
	commit(t, s, "r1", installer.ActionInstall, "1.0.0", 0)
	commit(t, s, "r2", installer.ActionUpdate, "2.0.0", 0)
	ok(t, os.Remove(path+reserveSuffix))
	free, err := installer.FreeBytes(dir)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(dir, "fill"), make([]byte, free-reserveSize+8<<10), 0o600))
	r := installer.Record{ID: "r3", Action: installer.ActionUpdate, From: load(t, s).Current, To: release("3.0.0"), Created: at(0)}
	err = s.Begin(t.Context(), r)
	wantErr(t, err, "not enough space for the records in "+dir)
	wantErr(t, err, "1048576 needed")
	if got := statuses(t, s); got != "r2=completed r1=completed" {
		t.Errorf("history %s", got)
	}
	r.Action, r.To = installer.ActionRollback, *load(t, s).Previous
	ok(t, s.Begin(t.Context(), r))
}

// TestPath: the path is that of the last update, until its last hop is committed, its
// release fails, or something else is done. A hop that was cut off is counted.
func TestPath(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "record.db")
	s := openAt(t, path)
	commit(t, s, "r1", installer.ActionInstall, "1.0.0", 0)
	hop := func(id, to string, n int) {
		t.Helper()
		from := load(t, s).Current
		ok(t, s.Begin(ctx, installer.Record{ID: id, Action: installer.ActionUpdate, From: from, To: release(to), Created: at(1), Path: &installer.Path{Target: "1.3.0", Hop: n, Hops: 3}}))
	}
	want := func(hop, try int, version string) {
		t.Helper()
		ok(t, s.Close())
		s = openAt(t, path)
		got := load(t, s).Path
		if try == 0 && got != nil || try > 0 && (got == nil || *got != installer.Path{Target: "1.3.0", Hop: hop, Hops: 3, Version: version, Try: try}) {
			t.Errorf("got %+v, want hop %d of %s, try %d", got, hop, version, try)
		}
	}
	want(0, 0, "")
	hop("r2", "1.1.0", 1)
	ok(t, s.Commit(ctx, "r2", at(2)))
	want(1, 1, "1.1.0")
	for try := 1; try <= 2; try++ {
		id := fmt.Sprint("r3.", try)
		hop(id, "1.2.0", 2)
		want(2, try, "1.2.0")
		ok(t, s.Fail(ctx, id, errors.New("power was lost"), false))
		ok(t, s.End(ctx, id, installer.RolledBack, at(3)))
		want(2, try, "1.2.0")
	}
	hop("r4", "1.2.0", 2)
	ok(t, s.Commit(ctx, "r4", at(4)))
	if r, err := s.Get(ctx, "r4"); err != nil || r.Path == nil || r.Path.String() != "2 of 3 to 1.3.0" || r.Path.Try != 3 {
		t.Errorf("%+v, %v", r.Path, err)
	}
	hop("r5", "1.3.0", 3)
	want(3, 1, "1.3.0")
	ok(t, s.Fail(ctx, "r5", errors.New("probe: sick"), true))
	ok(t, s.End(ctx, "r5", installer.RolledBack, at(5)))
	want(0, 0, "")
	hop("r6", "1.3.0", 3)
	ok(t, s.Commit(ctx, "r6", at(6)))
	want(0, 0, "")
	hop("r7", "1.4.0", 1)
	ok(t, s.Commit(ctx, "r7", at(7)))
	commit(t, s, "r8", installer.ActionUpdate, "1.5.0", 8) // by somebody else
	want(0, 0, "")
}
