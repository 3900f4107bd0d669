package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
)

var (
	shop     = bundle.Postgres{Service: "db", User: "shop", Database: "orders"}
	shopOnly = []bundle.Backup{{Postgres: &shop}}
	head     = Set{Record: "01-9x", Version: "1.0.0", Created: time.Unix(1700000000, 0).UTC()}
)

// fakeDB answers by the joined command; what nobody expects fails the test.
type fakeDB struct {
	t   *testing.T
	run map[string]func(stdin io.Reader, stdout io.Writer) error
}

func (f fakeDB) Exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout io.Writer) error {
	run := f.run[service+": "+strings.Join(argv, " ")]
	if run == nil {
		f.t.Errorf("unexpected command in %s: %q", service, argv)
		return errors.New("unexpected command")
	}
	return run(stdin, stdout)
}

const (
	cmdDump  = "db: pg_dump -w --lock-wait-timeout=300000 -F c -U shop -d orders"
	cmdCheck = "db: pg_restore -f /dev/null"
	cmdSQL   = "db: pg_restore --clean --if-exists --single-transaction -f -"
	cmdReady = "db: psql -w -X -q -c SELECT 1 -U shop -d orders"
	cmdPsql  = "db: psql -w -X -q -v ON_ERROR_STOP=1 -U shop -d orders"
)

func openRoot(t *testing.T) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func ls(t *testing.T, dir *os.Root) (names []string) {
	t.Helper()
	d, err := dir.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if names, err = d.Readdirnames(-1); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func write(s string) func(io.Reader, io.Writer) error {
	return func(_ io.Reader, w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

// expect reads what the command is fed.
func expect(want string) func(io.Reader, io.Writer) error {
	return func(r io.Reader, _ io.Writer) error {
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			return errors.New("fed with " + string(got))
		}
		return nil
	}
}

func TestSaveAndRestore(t *testing.T) {
	dir := openRoot(t)
	const name, index = "000001-019x-1.0.0-db.dump", "000001-019x-1.0.0.json"
	content := "PGDMP" + strings.Repeat("data", 1000)
	dir.WriteFile(tempPrefix+name, []byte("left by a power cut"), 0o644)
	dir.WriteFile("000001-019x-1.0.0-db.tar.gz", []byte("left by an attempt that was interrupted"), 0o600)
	var progress int64
	set, err := Save(t.Context(), Deps{Execer: fakeDB{t, map[string]func(io.Reader, io.Writer) error{cmdDump: write(content), cmdCheck: expect(content)}}},
		dir, head, shopOnly, func(n int64) { progress = n })
	want := Item{name, int64(len(content)), bundle.DigestOf([]byte(content)), shopOnly[0], 0}
	if err != nil || len(set.Items) != 1 || set.Items[0] != want || progress != want.Size || set.Size() != want.Size {
		t.Fatalf("Save: %+v, %v, progress %d", set, err, progress)
	}
	if st, err := dir.Stat(name); err != nil || st.Mode() != 0o600 {
		t.Errorf("file: %v, %v", st.Mode(), err)
	}
	if got := ls(t, dir); !slices.Equal(got, []string{name, index}) {
		t.Errorf("files: %q", got)
	}
	set, ok, err := Find(dir, head.Record)
	if err != nil || !ok || set.Version != "1.0.0" || !set.Created.Equal(head.Created) {
		t.Fatalf("Find: %+v, %t, %v", set, ok, err)
	}

	db := Deps{Execer: fakeDB{t, map[string]func(io.Reader, io.Writer) error{
		cmdReady: write("1"),
		cmdSQL: func(r io.Reader, w io.Writer) error {
			return errors.Join(expect(content)(r, nil), write("the SQL")(nil, w))
		},
		cmdPsql: expect(clearSQL + "the SQL"),
	}}}
	if err := Restore(t.Context(), db, dir, set); err != nil {
		t.Errorf("Restore: %v", err)
	}
	f, err := dir.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("x"), 100)
	f.Close()
	err = Restore(t.Context(), Deps{Execer: fakeDB{t: t}}, dir, set)
	if err == nil || !strings.Contains(err.Error(), "restore postgres database orders of service db from "+name+": got ") {
		t.Errorf("Restore of a changed file: %v", err)
	}
}

func TestRestoreFailures(t *testing.T) {
	dir := openRoot(t)
	dir.WriteFile("000001-x-1.0.0-db.dump", []byte("PGDMP"), 0o600)
	set := Set{Items: []Item{{"000001-x-1.0.0-db.dump", 5, bundle.DigestOf([]byte("PGDMP")), shopOnly[0], 0}}}
	cause := errors.New("exit status 3")
	drain := func(r io.Reader, _ io.Writer) error { _, err := io.Copy(io.Discard, r); return err }
	for name, run := range map[string]map[string]func(io.Reader, io.Writer) error{
		"psql ends in the middle": {
			cmdSQL: func(_ io.Reader, w io.Writer) error {
				for {
					if err := write("SQL")(nil, w); err != nil {
						return err
					}
				}
			},
			cmdPsql: func(r io.Reader, _ io.Writer) error { io.CopyN(io.Discard, r, 5000); return cause },
		},
		"pg_restore fails": {
			cmdSQL:  func(_ io.Reader, w io.Writer) error { write("half")(nil, w); return cause },
			cmdPsql: drain,
		},
		// psql sees an end of its input like any other.
		"pg_restore fails and psql does not notice": {
			cmdSQL:  func(_ io.Reader, w io.Writer) error { return cause },
			cmdPsql: func(r io.Reader, w io.Writer) error { drain(r, w); return nil },
		},
	} {
		run[cmdReady] = write("1")
		if err := Restore(t.Context(), Deps{Execer: fakeDB{t, run}}, dir, set); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSaveFailures(t *testing.T) {
	cause := errors.New("exit status 1: no such database")
	for _, tt := range []struct {
		name        string
		dump, check func(io.Reader, io.Writer) error
		want        string
	}{
		{"pg_dump", func(_ io.Reader, w io.Writer) error { io.WriteString(w, "PGDMPhalf"); return cause }, nil, "no such database"},
		{"empty", write(""), nil, "does not begin with PGDMP"},
		{"plain text", write("--\n-- PostgreSQL database dump\n"), nil, "does not begin with PGDMP"},
		{"structure", write("PGDMPhalf"), func(io.Reader, io.Writer) error { return cause }, "read the dump back: exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := openRoot(t)
			run := map[string]func(io.Reader, io.Writer) error{cmdDump: tt.dump}
			if tt.check != nil {
				run[cmdCheck] = tt.check
			}
			// What was saved before the failure goes too.
			run["app: save"] = write("data")
			list := append([]bundle.Backup{{Command: &bundle.BackupCommand{Service: "app", Save: []string{"save"}, Restore: []string{"load"}}}}, shopOnly...)
			set, err := Save(t.Context(), Deps{Execer: fakeDB{t, run}}, dir, head, list, nil)
			if err == nil || !strings.Contains(err.Error(), "back up postgres database orders of service db: ") || !strings.Contains(err.Error(), tt.want) || set.Items != nil {
				t.Errorf("Save: %+v, %v", set, err)
			}
			if got := ls(t, dir); len(got) != 0 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
	for _, record := range []string{"", "../x", "a/b", "a.b"} {
		if _, err := Save(t.Context(), Deps{Execer: fakeDB{t: t}}, openRoot(t), Set{Record: record, Version: "1.0.0"}, shopOnly, nil); err == nil {
			t.Errorf("Save of record %q: nil error", record)
		}
	}
}

// Neither record IDs nor versions sort by time, and clocks are not asked.
func TestNumbersAndPrune(t *testing.T) {
	dir := openRoot(t)
	save := func(record, version string) (names []string) {
		t.Helper()
		run := map[string]func(io.Reader, io.Writer) error{cmdDump: write("PGDMP"), cmdCheck: expect("PGDMP")}
		set, err := Save(t.Context(), Deps{Execer: fakeDB{t, run}}, dir, Set{Record: record, Version: version}, shopOnly, nil)
		if err != nil {
			t.Fatal(err)
		}
		return []string{set.Items[0].Name, set.prefix() + indexSuffix}
	}
	a := save("ZZZ", "10.0.0")
	b := save("MMM", "2.9.0")
	c := save("AAA", "2.10.0-rc.1+b")
	if again := save("AAA", "2.10.0-rc.1+b"); !slices.Equal(again, c) {
		t.Errorf("the same record again: %s, was %s", again, c)
	}
	if want := slices.Concat(a, b, c); !slices.Equal(ls(t, dir), want) {
		t.Errorf("names: %q, want %q", ls(t, dir), want)
	}
	unfinished := []string{tempPrefix + "000004-BBB-1.0.0-db.dump", "000004-BBB-1.0.0-db.sql.gz"}
	others := []string{"000000-x-dir-db.dump", "notes.txt"}
	for _, name := range append(unfinished, others[1]) {
		if err := dir.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.Mkdir(others[0], 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Prune(dir, 1, "2.10.0-rc.1+b"); err != nil {
			t.Error(err)
		}
		if got, want := ls(t, dir), slices.Concat(others[:1], b, c, others[1:]); !slices.Equal(got, want) {
			t.Errorf("left: %q, want %q", got, want)
		}
	}
	list, err := List(dir)
	if err != nil || len(list) != 2 || list[0].Record != "MMM" || list[1].Record != "AAA" {
		t.Errorf("List: %+v, %v", list, err)
	}
	if _, err := Prune(dir, 1, "3.0.0"); err != nil {
		t.Error(err)
	}
	if got, want := ls(t, dir), slices.Concat(others[:1], c, others[1:]); !slices.Equal(got, want) {
		t.Errorf("left: %q, want %q", got, want)
	}
	if next := save("000", "1.0.0"); !strings.HasPrefix(next[0], "000004-") {
		t.Errorf("next name: %s", next)
	}
	if _, err := Prune(dir, 0, ""); err == nil {
		t.Error("Prune to nothing: nil error")
	}
}

// The dump streams: a large one does not pass through memory.
func TestDumpMemory(t *testing.T) {
	dir := openRoot(t)
	chunk := bytes.Repeat([]byte("PGDMP"), 32<<10)
	const chunks = 400 // 64 MB
	run := map[string]func(io.Reader, io.Writer) error{
		cmdDump: func(_ io.Reader, w io.Writer) error {
			for range chunks {
				if _, err := w.Write(chunk); err != nil {
					return err
				}
			}
			return nil
		},
		cmdCheck: func(r io.Reader, _ io.Writer) error { _, err := io.Copy(io.Discard, r); return err },
	}
	n := testing.AllocsPerRun(1, func() {
		if _, err := Save(t.Context(), Deps{Execer: fakeDB{t, run}}, dir, head, shopOnly, nil); err != nil {
			t.Fatal(err)
		}
	})
	if n > 400 {
		t.Errorf("%d chunks cost %.0f allocations", chunks, n)
	}
}
