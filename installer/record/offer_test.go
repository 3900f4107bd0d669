package record

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/valise-ota/valise/installer"
)

// The files were written by the programs that knew schema 1 to 7: two updates,
// one taken back by hand, one that failed, one that a power cut left half-way, and
// what waited.
func TestMigrateOld(t *testing.T) {
	for schema, waiting := range map[int]string{1: "", 2: "r7=downloading r6=pending ", 3: "r7=downloading r6=pending ", 4: "r7=downloading r6=pending ", 5: "r7=downloading r6=pending ", 6: "r7=downloading r6=pending ", 7: "r7=downloading r6=pending "} {
		old, err := os.ReadFile(fmt.Sprintf("testdata/schema%d.db", schema))
		ok(t, err)
		path := filepath.Join(t.TempDir(), "record.db")
		ok(t, os.WriteFile(path, old, 0o600))
		if _, err := OpenReadOnly(t.Context(), path, "shop"); !errors.Is(err, ErrOlder) {
			t.Fatalf("schema %d, read only: got %v", schema, err)
		}
		s := openAt(t, path)
		if got, want := statuses(t, s), waiting+"r5=applying r4=completed r3=rolled_back r2=rolled_back r1=completed"; got != want {
			t.Fatalf("schema %d: got  %s\nwant %s", schema, got, want)
		}
		st := load(t, s)
		if version(st.Current) != "1.0.0" || version(st.Previous) != "1.1.0" || st.Floor != "1.1.0" || !reflect.DeepEqual(st.Bad, []string{"1.2.0"}) || st.Rotation != nil {
			t.Fatalf("schema %d: %+v", schema, st)
		}
		u := st.Unfinished
		if u == nil || len(u.Steps) != 2 || u.Steps[1].State != installer.StepBegun || string(u.Steps[1].Undo) != `{"env":"A=2"}` {
			t.Fatalf("schema %d: what recovery needs is gone: %+v", schema, u)
		}
		if schema > 1 {
			r, err := s.Get(t.Context(), "r6")
			if err != nil || r.By != "ann" || r.Changelog != "news" || !reflect.DeepEqual(r.Bundle, &installer.Bundle{File: "r6.bundle", Size: 7, Digest: "aa"}) {
				t.Fatalf("schema %d: %+v, %v", schema, r, err)
			}
		}
		// It goes on as if it had always been of this schema.
		ok(t, s.StepUndone(t.Context(), "r5", "activate", at(9)))
		ok(t, s.End(t.Context(), "r5", installer.RolledBack, at(9)))
		commit(t, s, "r8", installer.ActionUpdate, "1.4.0", 10)
	}
	// Whoever adds a schema adds a file of the one before.
	for schema := 1; schema < len(migrations); schema++ {
		if _, err := os.Stat(fmt.Sprintf("testdata/schema%d.db", schema)); err != nil {
			t.Error(err)
		}
	}
}

func TestOffer(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "record.db")
	s := openAt(t, path)
	commit(t, s, "r1", installer.ActionInstall, "1.0.0", 0)
	b := &installer.Bundle{File: "r2.tar.gz", Size: 7, Digest: "aa"}
	ok(t, s.Add(ctx, installer.Record{ID: "r2", To: installer.Release{Version: "2.0.0"}, Status: installer.Pending, Created: at(1), By: "ann"}))
	ok(t, s.SetBundle(ctx, "r2", b, "news"))
	ok(t, s.Become(ctx, "r2", installer.Verifying, nil, at(2)))
	ok(t, s.Become(ctx, "r2", installer.Failed, errors.New("no space"), at(3)))
	ok(t, s.Become(ctx, "r2", installer.Pending, &installer.Failure{Reason: "halted", Err: errors.New("it was halted")}, at(4)))
	ok(t, s.SetBundle(ctx, "r2", b, "")) // the old text stays
	ok(t, s.Become(ctx, "r2", installer.Verifying, nil, at(5)))
	begin(t, s, "r2", installer.ActionUpdate, "2.0.0")
	wantErr(t, s.Delete(ctx, "r2"), "it is applying")
	wantErr(t, s.Become(ctx, "r2", installer.Failed, errors.New("x"), at(6)), "only a transaction")
	ok(t, s.StepBegun(ctx, "r2", "activate", nil, at(6)))
	ok(t, s.Fail(ctx, "r2", errors.New("probe: sick"), true))
	ok(t, s.End(ctx, "r2", installer.RolledBack, at(7)))
	got, err := s.Get(ctx, "r2")
	ok(t, err)
	r1 := release("1.0.0")
	r1.CommittedAt = at(0)
	want := installer.Record{
		ID: "r2", Action: installer.ActionUpdate, From: &r1, To: release("2.0.0"), Status: installer.RolledBack, Error: "probe: sick",
		Changelog: "news", Bundle: b, By: "ann", Created: at(1), Started: at(0), Ended: at(7),
		Steps: []installer.Step{{Name: "activate", State: installer.StepBegun, Begun: at(6)}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
	// A second try begins with nothing of the first.
	ok(t, s.Become(ctx, "r2", installer.Pending, nil, at(8)))
	if got, err = s.Get(ctx, "r2"); err != nil || got.Error != "" || got.Steps != nil || !got.Ended.IsZero() || !got.Started.IsZero() {
		t.Fatalf("%+v %v", got, err)
	}

	ok(t, s.Add(ctx, installer.Record{ID: "r3", Status: installer.Failed, Error: "refused", Created: at(9)}))
	found, total, err := s.Find(ctx, []installer.Status{installer.Pending, installer.Failed}, 1, 1)
	if err != nil || total != 2 || len(found) != 1 || found[0].ID != "r2" {
		t.Fatalf("%v of %d, %v", found, total, err)
	}
	ok(t, s.Delete(ctx, "r3"))
	if _, err := s.Get(ctx, "r3"); !errors.Is(err, installer.ErrNoRecord) {
		t.Fatalf("got %v", err)
	}
	wantErr(t, s.Add(ctx, installer.Record{ID: "r4", Status: installer.Completed, To: release("2.0.0")}), "want pending")
	wantErr(t, s.Add(ctx, installer.Record{ID: "r4", Status: installer.Pending, To: release("two")}), "two")
	wantErr(t, s.Become(ctx, "r1", installer.Failed, errors.New("x"), at(9)), "completed and cannot become failed")
}

// TestHostileText: what is stored of a stranger's text is what was seen, not what it
// does to a terminal.
func TestHostileText(t *testing.T) {
	ctx := t.Context()
	const in, want = "\x1b[2J\u202etxt", `\x1b[2J\u202etxt`
	s := newStore(t)
	ok(t, s.Add(ctx, installer.Record{ID: "r1", To: installer.Release{Version: in}, Status: installer.Failed, Error: in, By: in, Created: at(0)}))
	ok(t, s.Add(ctx, installer.Record{ID: "r2", To: release("1.0.0"), Status: installer.Pending, Created: at(0)}))
	ok(t, s.Become(ctx, "r2", installer.Failed, errors.New(in), at(1)))
	begin(t, s, "r3", installer.ActionInstall, "1.1.0")
	ok(t, s.Fail(ctx, "r3", errors.New(in), false))
	ok(t, s.Attention(ctx, "r3", in))
	records, err := s.History(ctx, -1, 0)
	ok(t, err)
	for _, r := range records {
		if r.Error != want || r.ID == "r3" && r.Attention != want || r.ID == "r1" && (r.By != want || r.To.Version != want) {
			t.Errorf("%+v", r)
		}
	}
}

func TestRollout(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, filepath.Join(t.TempDir(), "record.db"))
	for _, step := range []struct{ sequence, instead, want int64 }{
		{5, 0, 5},
		{9, 5, 9},
		{7, 5, 9}, // another process was faster
		{8, 9, 8}, // the one that is there counts no more
		{10, 1, 10},
	} {
		ok(t, s.SetRollout(ctx, installer.Rollout{Sequence: step.sequence, Text: []byte("text"), Signature: []byte("by")}, step.instead))
		if r := load(t, s).Rollout; r == nil || r.Sequence != step.want || string(r.Text) != "text" || string(r.Signature) != "by" {
			t.Errorf("%+v: %+v", step, r)
		}
	}
}
