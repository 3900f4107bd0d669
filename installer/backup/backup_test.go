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

	"github.com/valise-ota/valise/bundle"
)

var shop = bundle.Postgres{Service: "db", User: "shop", Database: "orders"}

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
	cmdDump  = "db: pg_dump -w -U shop -F c -d orders"
	cmdCheck = "db: pg_restore -f /dev/null"
	cmdSQL   = "db: pg_restore --clean --if-exists --single-transaction -f -"
	cmdPsql  = "db: psql -X -q -w -v ON_ERROR_STOP=1 -U shop -d orders"
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

func TestDumpAndRestore(t *testing.T) {
	dir := openRoot(t)
	name, err := Name(dir, "0193-a", "2.1.0-rc.1", "db")
	if err != nil {
		t.Fatal(err)
	}
	content := "PGDMP" + strings.Repeat("data", 1000)
	dir.WriteFile(tempPrefix+name, []byte("left by a power cut"), 0o644)
	var progress int64
	info, err := Dump(t.Context(), fakeDB{t, map[string]func(io.Reader, io.Writer) error{cmdDump: write(content), cmdCheck: expect(content)}},
		shop, dir, name, func(n int64) { progress = n })
	want := Info{"000001-0193a-2.1.0-rc.1-db.dump", int64(len(content)), bundle.DigestOf([]byte(content))}
	if err != nil || info != want || progress != want.Size {
		t.Fatalf("Dump: %+v, %v, progress %d", info, err, progress)
	}
	if st, err := dir.Stat(name); err != nil || st.Mode() != 0o600 {
		t.Errorf("file: %v, %v", st.Mode(), err)
	}
	if got := ls(t, dir); !slices.Equal(got, []string{name}) {
		t.Errorf("files: %q", got)
	}

	db := fakeDB{t, map[string]func(io.Reader, io.Writer) error{
		cmdSQL: func(r io.Reader, w io.Writer) error {
			return errors.Join(expect(content)(r, nil), write("the SQL")(nil, w))
		},
		cmdPsql: expect(clearSQL + "the SQL"),
	}}
	if err := Restore(t.Context(), db, shop, dir, info); err != nil {
		t.Errorf("Restore: %v", err)
	}
	f, err := dir.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("x"), 100)
	f.Close()
	err = Restore(t.Context(), fakeDB{t: t}, shop, dir, info)
	if err == nil || !strings.Contains(err.Error(), "restore database orders of service db from "+name+": got ") {
		t.Errorf("Restore of a changed file: %v", err)
	}
}

func TestRestoreFailures(t *testing.T) {
	dir := openRoot(t)
	dir.WriteFile("000001-x-1.0.0-db.dump", []byte("PGDMP"), 0o600)
	info := Info{"000001-x-1.0.0-db.dump", 5, bundle.DigestOf([]byte("PGDMP"))}
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
		if err := Restore(t.Context(), fakeDB{t, run}, shop, dir, info); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDumpFailures(t *testing.T) {
	cause := errors.New("exit status 1: no such database")
	for _, tt := range []struct {
		name        string
		dump, check func(io.Reader, io.Writer) error
		want        string
	}{
		{"pg_dump", func(_ io.Reader, w io.Writer) error { io.WriteString(w, "PGDMPhalf"); return cause }, nil, "no such database"},
		{"empty", write(""), nil, "does not begin with PGDMP"},
		{"plain text", write("--\n-- PostgreSQL database dump\n"), nil, "does not begin with PGDMP"},
		{"structure", write("PGDMPhalf"), func(io.Reader, io.Writer) error { return cause }, "check dump: exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := openRoot(t)
			run := map[string]func(io.Reader, io.Writer) error{cmdDump: tt.dump}
			if tt.check != nil {
				run[cmdCheck] = tt.check
			}
			info, err := Dump(t.Context(), fakeDB{t, run}, shop, dir, "000001-x-1.0.0-db.dump", nil)
			if err == nil || !strings.Contains(err.Error(), "back up database orders of service db: ") || !strings.Contains(err.Error(), tt.want) || info != (Info{}) {
				t.Errorf("Dump: %+v, %v", info, err)
			}
			if got := ls(t, dir); len(got) != 0 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
	for _, name := range []string{"", "x.dump", "../000001-x-1.0.0-db.dump", "a/000001-x-1.0.0-db.dump", "000001-x-1.0.0-db", "1-x-1.0.0-db.dump", "000001-x-a/b-db.dump", "000001--1.0.0-db.dump"} {
		if _, err := Dump(t.Context(), fakeDB{t: t}, shop, openRoot(t), name, nil); err == nil {
			t.Errorf("Dump to %q: nil error", name)
		}
	}
}

// Neither record IDs nor versions sort by time, and clocks are not asked.
func TestNameAndPrune(t *testing.T) {
	dir := openRoot(t)
	create := func(record, version, service string) string {
		t.Helper()
		name, err := Name(dir, record, version, service)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	a := create("ZZZ", "10.0.0", "db")
	b := create("MMM", "2.9.0", "db")
	b2 := create("MMM", "2.9.0", "my-stats")
	c := create("AAA", "2.10.0-rc.1+b", "db")
	if again := create("AAA", "2.10.0-rc.1+b", "db"); again != c {
		t.Errorf("the same dump again: %s, was %s", again, c)
	}
	if want := []string{"000001-ZZZ-10.0.0-db.dump", "000002-MMM-2.9.0-db.dump", "000002-MMM-2.9.0-my-stats.dump", "000003-AAA-2.10.0-rc.1+b-db.dump"}; !slices.Equal(ls(t, dir), want) {
		t.Errorf("names: %q, want %q", ls(t, dir), want)
	}
	if name, err := Name(dir, "a/b", "1.0.0", "db"); err == nil {
		t.Errorf("Name: %q, nil error", name)
	}
	temp := tempPrefix + "000004-BBB-1.0.0-db.dump"
	others := []string{"000000-x-dir-db.dump", "notes.txt"}
	if err := errors.Join(dir.WriteFile(temp, nil, 0o600), dir.WriteFile(others[1], nil, 0o600), dir.Mkdir(others[0], 0o700)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		removed, err := Prune(dir, 2)
		if want := []string{a, temp}; err != nil || removed != nil && !slices.Equal(removed, want) {
			t.Errorf("Prune: %q, %v, want %q", removed, err, want)
		}
		if got, want := ls(t, dir), []string{others[0], b, b2, c, others[1]}; !slices.Equal(got, want) {
			t.Errorf("left: %q, want %q", got, want)
		}
	}
	if next := create("000", "1.0.0", "db"); !strings.HasPrefix(next, "000004-") {
		t.Errorf("next name: %s", next)
	}
	if _, err := Prune(dir, 0); err == nil {
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
		if _, err := Dump(t.Context(), fakeDB{t, run}, shop, dir, "000001-x-1.0.0-db.dump", nil); err != nil {
			t.Fatal(err)
		}
	})
	if n > 200 {
		t.Errorf("%d chunks cost %.0f allocations", chunks, n)
	}
}
