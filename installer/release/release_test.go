package release

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// stage writes and commits a small release.
func stage(t *testing.T, s *Store, name string) {
	t.Helper()
	st, err := s.Stage(name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, st, "docker-compose.yml", name)
	if err := st.Commit(); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, st *Staged, file, content string) {
	t.Helper()
	if err := st.WriteFile(file, 0o644, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s *Store, name, file string) string {
	t.Helper()
	f, err := s.OpenFile(name, file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func list(t *testing.T, s *Store) []string {
	t.Helper()
	names, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// wantErr fails unless err's text holds part.
func wantErr(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Fatalf("got error %v, want one with %q", err, part)
	}
}

func TestStageCommit(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	s := open(t, dir)
	if names := list(t, s); names != nil {
		t.Fatalf("empty root lists %v", names)
	}
	st, err := s.Stage("2.1.0+arm")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.WriteFile("hooks/a/run.sh", 0o755, strings.NewReader("#!")); err != nil {
		t.Fatal(err)
	}
	write(t, st, "hooks/b.txt", "b")
	write(t, st, "compose.yml", "c")
	if names := list(t, s); names != nil {
		t.Fatalf("lists %v before commit", names)
	}
	if err := st.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := st.Abort(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, s); !reflect.DeepEqual(got, []string{"2.1.0+arm"}) {
		t.Fatalf("lists %v", got)
	}
	if got := read(t, s, "2.1.0+arm", "hooks/b.txt"); got != "b" {
		t.Fatalf("read %q", got)
	}
	for file, want := range map[string]fs.FileMode{
		"": 0o755, "hooks": 0o755, "hooks/a": 0o755, "hooks/a/run.sh": 0o755, "compose.yml": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, "releases/2.1.0+arm", file))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %v, want %v whatever the umask", file, got, want)
		}
	}
	wantErr(t, st.WriteFile("late", 0o644, strings.NewReader("")), "committed or aborted")
	wantErr(t, st.Commit(), "committed or aborted")
}

func TestNames(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"", ".", "..", ".hidden", "-x", "a/b", "../x", "a b", "a\x00b", "ä", "a\n", strings.Repeat("a", 202)} {
		_, err := s.Stage(name)
		wantErr(t, err, "name")
		wantErr(t, s.SetCurrent(name), "name")
		wantErr(t, s.Remove(name), "name")
		_, err = s.OpenFile(name, "f")
		wantErr(t, err, "name")
	}
	for _, name := range []string{"v1.0.0", "1.0.0~rc1", "2.0.0-rc.1+b7", "0"} {
		if !ValidName(name) {
			t.Errorf("%q refused", name)
		}
	}
}

func TestWriteRefused(t *testing.T) {
	for _, tc := range []struct {
		file, part string
		mode       fs.FileMode
	}{
		{"../x", "not clean", 0o644},
		{"/etc/x", "not clean", 0o644},
		{"a/../x", "not clean", 0o644},
		{"", "not clean", 0o644},
		{".", "not clean", 0o644},
		{"x", "permission bits", fs.ModeSetuid | 0o755},
		{"twice", "exists", 0o644},
		{"twice/below", "not a directory", 0o644},
	} {
		s := open(t, t.TempDir())
		st, err := s.Stage("1.0.0")
		if err != nil {
			t.Fatal(err)
		}
		write(t, st, "twice", "")
		wantErr(t, st.WriteFile(tc.file, tc.mode, strings.NewReader("x")), tc.part)
		wantErr(t, st.Commit(), "incomplete")
		if err := st.Abort(); err != nil {
			t.Fatal(err)
		}
		if entries, _ := os.ReadDir(filepath.Join(s.root.Name(), "releases")); len(entries) != 0 {
			t.Errorf("abort left %v", entries)
		}
	}
}

// A reader that fails in the middle must not leave a release that looks whole.
func TestPartialWrite(t *testing.T) {
	s := open(t, t.TempDir())
	st, err := s.Stage("1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("stick pulled")
	err = st.WriteFile("f", 0o644, io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { return 0, broken })))
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if err := st.Commit(); !errors.Is(err, broken) {
		t.Fatalf("commit: got %v", err)
	}
	// The next attempt starts afresh, without an Abort in between.
	st, err = s.Stage("1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	write(t, st, "g", "whole")
	if err := st.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenFile("1.0.0", "f"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("left-over file: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCommitExisting(t *testing.T) {
	s := open(t, t.TempDir())
	stage(t, s, "1.0.0")
	// An empty directory is what rename(2) alone would replace.
	if err := s.root.Mkdir("releases/2.0.0", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"1.0.0", "2.0.0"} {
		st, err := s.Stage(name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, st, "new", "new")
		if err := st.Commit(); !errors.Is(err, ErrExists) {
			t.Fatalf("commit over %s: got %v, want ErrExists", name, err)
		}
		if err := s.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := st.Commit(); err != nil {
			t.Fatal(err)
		}
		if got := read(t, s, name, "new"); got != "new" {
			t.Fatalf("read %q", got)
		}
	}
}

func TestCurrent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	stage(t, s, "1.0.0")
	stage(t, s, "2.0.0")
	check := func(want string) {
		t.Helper()
		name, ok, err := s.Current()
		if err != nil || name != want || ok != (want != "") {
			t.Fatalf("current is %q, %v, %v, want %q", name, ok, err, want)
		}
	}
	check("")
	for _, name := range []string{"1.0.0", "2.0.0", "2.0.0", "1.0.0"} {
		if err := s.SetCurrent(name); err != nil {
			t.Fatal(err)
		}
		check(name)
	}
	b, err := os.ReadFile(filepath.Join(dir, "current/docker-compose.yml"))
	if err != nil || string(b) != "1.0.0" {
		t.Fatalf("through current: %q, %v", b, err)
	}
	wantErr(t, s.SetCurrent("3.0.0"), "no such file")
	wantErr(t, s.Remove("1.0.0"), "it is current")
	check("1.0.0")
	for range 2 {
		if err := s.ClearCurrent(); err != nil {
			t.Fatal(err)
		}
		check("")
	}
	for range 2 {
		if err := s.Remove("1.0.0"); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, s); !reflect.DeepEqual(got, []string{"2.0.0"}) {
		t.Fatalf("lists %v", got)
	}
}

func TestForeignCurrent(t *testing.T) {
	for name, plant := range map[string]func(string) error{
		"absolute":  func(c string) error { return os.Symlink("/etc", c) },
		"outside":   func(c string) error { return os.Symlink("../x", c) },
		"deeper":    func(c string) error { return os.Symlink("releases/1.0.0/sub", c) },
		"staging":   func(c string) error { return os.Symlink("releases/.staging-1.0.0", c) },
		"directory": func(c string) error { return os.Mkdir(c, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			stage(t, s, "1.0.0")
			if err := plant(filepath.Join(dir, "current")); err != nil {
				t.Fatal(err)
			}
			_, _, err := s.Current()
			wantErr(t, err, "read current")
			// What runs is unknown, so nothing may be removed.
			wantErr(t, s.Remove("1.0.0"), "read current")
			if name == "directory" {
				wantErr(t, s.SetCurrent("1.0.0"), "it is a directory")
				wantErr(t, s.ClearCurrent(), "it is a directory")
			} else if err := s.SetCurrent("1.0.0"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestClean(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Clean(); err != nil {
		t.Fatal(err)
	}
	stage(t, s, "1.0.0")
	for _, left := range []string{".staging-2.0.0/a/b", ".trash-0.9.0/a", "unrelated"} {
		if err := os.MkdirAll(filepath.Join(dir, "releases", left), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Clean(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, s); !reflect.DeepEqual(got, []string{"1.0.0", "unrelated"}) {
		t.Fatalf("lists %v", got)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "releases"))
	if err != nil || len(entries) != 2 {
		t.Fatalf("left %v, %v", entries, err)
	}
}

func TestCreate(t *testing.T) {
	base := t.TempDir()
	for range 2 {
		s, err := Create(filepath.Join(base, "opt/a/shop"))
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	if err := os.Symlink("opt/a/shop", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	s, err := Create(filepath.Join(base, "link"))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(filepath.Join(base, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open of a missing root: %v", err)
	}
	if err := os.WriteFile(filepath.Join(base, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Create(filepath.Join(base, "file/shop"))
	wantErr(t, err, "not a directory")
}

// What an attacker with a foot inside the root plants must never lead a write
// or a read somewhere else.
func TestPlantedLinks(t *testing.T) {
	setup := func(t *testing.T) (s *Store, dir, outside string) {
		base := t.TempDir()
		dir, outside = filepath.Join(base, "root"), filepath.Join(base, "outside")
		for _, d := range []string{dir, outside} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("p"), 0o600); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		t.Cleanup(func() {
			entries, _ := os.ReadDir(outside)
			if b, err := os.ReadFile(filepath.Join(outside, "precious")); string(b) != "p" || len(entries) != 1 {
				t.Errorf("outside was touched: %v, %q, %v", entries, b, err)
			}
		})
		return s, dir, outside
	}
	link := func(t *testing.T, target, name string) {
		t.Helper()
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("staging", func(t *testing.T) {
		s, dir, outside := setup(t)
		stage(t, s, "1.0.0")
		link(t, outside, filepath.Join(dir, "releases/.staging-2.0.0"))
		link(t, outside, filepath.Join(dir, "releases/.trash-1.0.0"))
		stage(t, s, "2.0.0")
		if err := s.Remove("1.0.0"); err != nil {
			t.Fatal(err)
		}
		if got := read(t, s, "2.0.0", "docker-compose.yml"); got != "2.0.0" {
			t.Fatalf("read %q", got)
		}
	})
	t.Run("inside staging", func(t *testing.T) {
		s, dir, outside := setup(t)
		st, err := s.Stage("2.0.0")
		if err != nil {
			t.Fatal(err)
		}
		link(t, outside, filepath.Join(dir, "releases/.staging-2.0.0/sub"))
		link(t, filepath.Join(outside, "precious"), filepath.Join(dir, "releases/.staging-2.0.0/file"))
		wantErr(t, st.WriteFile("sub/x", 0o644, strings.NewReader("x")), "escapes")
		wantErr(t, st.WriteFile("file", 0o644, strings.NewReader("x")), "exists")
	})
	t.Run("releases", func(t *testing.T) {
		s, dir, outside := setup(t)
		link(t, outside, filepath.Join(dir, "releases"))
		_, err := s.Stage("2.0.0")
		wantErr(t, err, "symbolic link")
		_, err = s.List()
		wantErr(t, err, "escapes")
		wantErr(t, s.Clean(), "escapes")
	})
	t.Run("release", func(t *testing.T) {
		s, dir, outside := setup(t)
		stage(t, s, "1.0.0")
		link(t, outside, filepath.Join(dir, "releases/2.0.0"))
		link(t, "1.0.0", filepath.Join(dir, "releases/3.0.0"))
		for _, name := range []string{"2.0.0", "3.0.0"} {
			wantErr(t, s.SetCurrent(name), "symbolic link")
			_, err := s.OpenFile(name, "precious")
			wantErr(t, err, "symbolic link")
			st, err := s.Stage(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Commit(); !errors.Is(err, ErrExists) {
				t.Fatalf("got %v", err)
			}
		}
		if got := list(t, s); !reflect.DeepEqual(got, []string{"1.0.0"}) {
			t.Fatalf("lists %v", got)
		}
		if err := s.Remove("2.0.0"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("file", func(t *testing.T) {
		s, dir, outside := setup(t)
		stage(t, s, "1.0.0")
		if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("SECRET=1"), 0o600); err != nil {
			t.Fatal(err)
		}
		link(t, filepath.Join(outside, "precious"), filepath.Join(dir, "releases/1.0.0/a"))
		link(t, "../../.env", filepath.Join(dir, "releases/1.0.0/b"))
		for _, file := range []string{"a", "b", "../../.env"} {
			_, err := s.OpenFile("1.0.0", file)
			wantErr(t, err, "escapes")
		}
	})
	t.Run("durable functions", func(t *testing.T) {
		s, dir, outside := setup(t)
		link(t, filepath.Join(outside, "precious"), filepath.Join(dir, ".env"))
		wantErr(t, WriteFile(s.root, ".env", []byte("x"), 0o600), "symbolic link")
		wantErr(t, ReplaceFile(s.root, ".env", []byte("x"), 0o600), "symbolic link")
		link(t, filepath.Join(outside, "precious"), filepath.Join(dir, ".new.tmp"))
		if err := WriteFile(s.root, "new", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		link(t, outside, filepath.Join(dir, "sub"))
		wantErr(t, WriteFile(s.root, "sub/f", []byte("x"), 0o600), "escapes")
		wantErr(t, Symlink(s.root, "x", "sub/l"), "escapes")
		wantErr(t, Mkdir(s.root, "sub/d", 0o755), "escapes")
		wantErr(t, RemoveAll(s.root, "sub/precious"), "escapes")
		wantErr(t, Rename(s.root, "new", "sub/new"), "escapes")
		wantErr(t, Mkdir(s.root, "../x", 0o755), "escapes")
	})
}
