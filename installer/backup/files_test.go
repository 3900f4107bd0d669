package backup

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/valise-ota/valise/bundle"
)

// onHost says that host is mounted at the root of a container, and counts pauses.
func onHost(host string, paused *int) Deps {
	return Deps{
		HostPath: func(_ context.Context, _, path string) (string, string, error) { return host, path[1:], nil },
		Pause: func(context.Context, string) (func() error, error) {
			*paused++
			return func() error { *paused--; return nil }, nil
		},
	}
}

func execute(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

// A database in WAL mode that is written to while it is saved, and after.
func TestSQLite(t *testing.T) {
	dir, host, paused := openRoot(t), t.TempDir(), 0
	file := filepath.Join(host, "app.db")
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	execute(t, db, "PRAGMA journal_mode=wal")
	execute(t, db, "CREATE TABLE item (name TEXT)")
	execute(t, db, "INSERT INTO item VALUES ('tea')")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	d := onHost(host, &paused)
	list := []bundle.Backup{{SQLite: &bundle.SQLite{Service: "app", Path: "/app.db"}}}
	set, err := Save(t.Context(), d, dir, head, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := ls(t, dir); len(got) != 2 || got[0] != "000001-019x-1.0.0-app.sqlite.gz" {
		t.Errorf("files: %q", got)
	}
	execute(t, db, "DROP TABLE item") // still in the log
	db.Close()
	if err := os.WriteFile(file+"-journal", []byte("of the old file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Restore(t.Context(), d, dir, set); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(file + "-journal"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("journal of the old file: %v", err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode() != 0o640 {
		t.Errorf("mode: %v, %v", fi.Mode(), err)
	}
	db, err = sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var name string
	if err := db.QueryRow("SELECT name FROM item").Scan(&name); err != nil || name != "tea" {
		t.Errorf("got %q, %v", name, err)
	}
	// What is no database, or a link out of the volume, is not saved.
	for path, make := range map[string]func(string) error{
		"text": func(p string) error {
			return os.WriteFile(p, []byte(strings.Repeat("no database", 100)), 0o600)
		},
		"link": func(p string) error { return os.Symlink("/etc/passwd", p) },
		"none": func(string) error { return nil },
	} {
		if err := make(filepath.Join(host, path)); err != nil {
			t.Fatal(err)
		}
		list[0].SQLite.Path = "/" + path
		if _, err := Save(t.Context(), d, dir, Set{Record: path, Version: "1.0.0"}, list, nil); err == nil {
			t.Errorf("%s: nil error", path)
		}
		if _, err := os.Lstat(filepath.Join(host, "none")); err == nil {
			t.Error("a database was made where none was")
		}
	}
	if got := ls(t, dir); len(got) != 2 {
		t.Errorf("files: %q", got)
	}
}

func TestVolume(t *testing.T) {
	dir, host, paused := openRoot(t), t.TempDir(), 0
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(host, "data", name) }
	must(os.MkdirAll(in("a/empty"), 0o755))
	must(os.WriteFile(in("a/file"), []byte("content"), 0o640))
	must(os.Chmod(in("a/file"), 0o4640))
	must(os.WriteFile(in("big"), bytes.Repeat([]byte("0123456789"), 1<<20), 0o600))
	must(os.Symlink("/etc/passwd", in("link")))
	before := tree(t, in(""))
	d := onHost(host, &paused)
	seen := 0
	pause := d.Pause
	d.Pause = func(ctx context.Context, path string) (func() error, error) {
		if seen++; path != in("") {
			t.Errorf("pauses users of %s", path)
		}
		return pause(ctx, path)
	}
	list := []bundle.Backup{{Volume: &bundle.Volume{Service: "app", Path: "/data"}}}
	set, err := Save(t.Context(), d, dir, head, list, nil)
	if err != nil || seen != 1 || paused != 0 {
		t.Fatalf("Save: %v, paused %d times, now %d", err, seen, paused)
	}
	must(os.RemoveAll(in("a")))
	must(os.WriteFile(in("new"), nil, 0o600))
	must(os.Remove(in("big")))
	must(os.Mkdir(in("big"), 0o700))
	for range 2 {
		must(Restore(t.Context(), d, dir, set))
		if got := tree(t, in("")); !slices.Equal(got, before) {
			t.Errorf("got  %q\nwant %q", got, before)
		}
	}
	// One that cannot be resumed is no backup.
	d.Pause = func(context.Context, string) (func() error, error) {
		return func() error { return errors.New("the engine is gone") }, nil
	}
	if _, err := Save(t.Context(), d, dir, Set{Record: "B", Version: "1.0.0"}, list, nil); err == nil {
		t.Error("not resumed: nil error")
	}
}

func tree(t *testing.T, root string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprint(rel, " ", info.Mode())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprint(" ", info.ModTime().UnixNano(), " ", bundle.DigestOf(b))
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestMySQLDump(t *testing.T) {
	list := []bundle.Backup{{MySQL: &bundle.MySQL{Service: "db", User: "shop", Database: "orders"}}}
	dump := func(text string) Deps {
		return Deps{Execer: execer(func(argv []string, stdin io.Reader, stdout io.Writer) error {
			_, err := io.WriteString(stdout, text)
			return err
		})}
	}
	whole := strings.Repeat("INSERT\n", 10000) + mysqlEnd + " on 2026-01-01\n"
	dir := openRoot(t)
	set, err := Save(t.Context(), dump(whole), dir, head, list, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cut off": whole[:len(whole)-30], "empty": "", "end in the middle": mysqlEnd + strings.Repeat("x", 5000)} {
		if _, err := Save(t.Context(), dump(text), dir, Set{Record: "B", Version: "1.0.0"}, list, nil); err == nil {
			t.Errorf("%s: nil error", name)
		}
	}
	var got strings.Builder
	d := Deps{Execer: execer(func(argv []string, stdin io.Reader, _ io.Writer) error {
		if strings.Join(argv[4:8], " ") != "shop orders mysql mariadb" {
			t.Errorf("command: %q", argv)
		}
		if stdin != nil {
			_, err := io.Copy(&got, stdin)
			return err
		}
		return nil
	})}
	if err := Restore(t.Context(), d, dir, set); err != nil || got.String() != whole {
		t.Errorf("Restore: %v, %d bytes", err, got.Len())
	}
}

type execer func(argv []string, stdin io.Reader, stdout io.Writer) error

func (f execer) Exec(_ context.Context, _ string, argv []string, stdin io.Reader, stdout io.Writer) error {
	return f(argv, stdin, stdout)
}

// Every byte of a compressed backup that is cut off is missed.
func TestInflateCut(t *testing.T) {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	fmt.Fprint(zw, "some data")
	zw.Close()
	for n := range b.Len() {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		f.Write(b.Bytes()[:n])
		f.Seek(0, io.SeekStart)
		if err := (command{}).check(t.Context(), f); err == nil {
			t.Errorf("cut at %d of %d: nil error", n, b.Len())
		}
		f.Close()
	}
}
