package foreign

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// needsRoot: only root can give a file to somebody else.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("missing: root")
	}
	t.Skip("missing: root")
}

const stranger = 54321

// What somebody else put on the way is not followed, whatever part of it it is; what
// root put there is.
func TestLinks(t *testing.T) {
	needsRoot(t)
	for name, c := range map[string]struct {
		plant func(in, out string) error
		good  bool
	}{
		"no link":           {func(string, string) error { return nil }, true},
		"of root":           {func(in, out string) error { return os.Symlink(out, filepath.Join(in, "a")) }, true},
		"of root, relative": {func(in, _ string) error { return os.Symlink("../out", filepath.Join(in, "a")) }, true},
		"below": {func(in, out string) error {
			return errors.Join(os.Mkdir(filepath.Join(in, "a"), 0o755), os.Symlink(filepath.Join(out, "b"), filepath.Join(in, "a/b")))
		}, true},
		"of a stranger": {func(in, out string) error {
			return errors.Join(os.Symlink(out, filepath.Join(in, "a")), os.Lchown(filepath.Join(in, "a"), stranger, stranger))
		}, false},
		"in a stranger's": {func(in, out string) error {
			return errors.Join(os.Symlink(out, filepath.Join(in, "a")), os.Chown(in, stranger, stranger))
		}, false},
		"where groups write": {func(in, out string) error {
			return errors.Join(os.Symlink(out, filepath.Join(in, "a")), os.Chmod(in, 0o775))
		}, false},
		"where all write": {func(in, out string) error {
			return errors.Join(os.Symlink(out, filepath.Join(in, "a")), os.Chmod(in, 0o1777))
		}, false},
		"last, a stranger's": {func(in, out string) error {
			return errors.Join(os.MkdirAll(filepath.Join(in, "a"), 0o755), os.Symlink(filepath.Join(out, "b"), filepath.Join(in, "a/b")), os.Lchown(filepath.Join(in, "a/b"), stranger, stranger))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			in, out := filepath.Join(top, "in"), filepath.Join(top, "out")
			must(t, os.Mkdir(in, 0o755), os.MkdirAll(filepath.Join(out, "b"), 0o755), c.plant(in, out))
			dir, err := OpenDir(filepath.Join(in, "a/b"), 0o755)
			link := new(LinkError)
			if c.good != (err == nil) || !c.good && !errors.As(err, &link) {
				t.Fatal(err)
			}
			if c.good {
				must(t, dir.WriteFile("file", []byte("content"), 0o600), dir.Close())
			}
			b, err := ReadFile(filepath.Join(in, "a/b/file"), 7)
			if c.good && (err != nil || string(b) != "content") || !c.good && !errors.As(err, &link) {
				t.Errorf("%q, %v", b, err)
			}
			left, err := os.ReadDir(filepath.Join(out, "b"))
			if err != nil || !c.good && len(left) > 0 {
				t.Errorf("outside: %v, %v", left, err)
			}
		})
	}
}

// A link is exchanged for a directory and back all the time.
func TestExchange(t *testing.T) {
	needsRoot(t)
	top := t.TempDir()
	in, out := filepath.Join(top, "in"), filepath.Join(top, "in/out")
	must(t, os.MkdirAll(filepath.Join(in, "a"), 0o755), os.Mkdir(out, 0o755), os.Symlink("out", filepath.Join(in, "b")), os.Chown(in, stranger, stranger))
	end := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			default:
				_ = errors.Join(os.Rename(filepath.Join(in, "a"), filepath.Join(in, "c")), os.Rename(filepath.Join(in, "b"), filepath.Join(in, "a")), os.Rename(filepath.Join(in, "a"), filepath.Join(in, "b")), os.Rename(filepath.Join(in, "c"), filepath.Join(in, "a")))
			}
		}
	}()
	for range 3000 {
		if dir, err := OpenDir(filepath.Join(in, "a"), 0); err == nil {
			must(t, dir.WriteFile("file", nil, 0o600), dir.Close())
		}
	}
	close(end)
	<-done
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

// Pipes and devices are not waited for, and a file without end is not read to it.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.WriteFile(filepath.Join(dir, "large"), make([]byte, 101), 0o600), os.Symlink("/dev/zero", filepath.Join(dir, "zero")), os.Symlink("loop", filepath.Join(dir, "loop")))
	for name, want := range map[string]string{"pipe": "it is not a file", "zero": "it is not a file", ".": "it is not a file", "large": "more than 100 bytes", "loop": "too many levels", "none": "no such file"} {
		if _, err := ReadFile(filepath.Join(dir, name), 100); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if b, err := ReadFile(filepath.Join(dir, "large"), 101); err != nil || len(b) != 101 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := ReadFile("relative", 1); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
}

// What others could have put there is not taken for what this program saved.
func TestOpenOwn(t *testing.T) {
	needsRoot(t)
	for name, c := range map[string]struct {
		plant func(dir string) error
		want  string
	}{
		"good":         {func(dir string) error { return os.Mkdir(dir, 0o700) }, ""},
		"readable":     {func(dir string) error { return os.Mkdir(dir, 0o755) }, ""},
		"a stranger's": {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, stranger, stranger)) }, "belongs to user 54321"},
		"of groups":    {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o770)) }, "has mode 0770"},
		"link": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"-else", 0o700), os.Symlink(filepath.Base(dir)+"-else", dir))
		}, "is a link to"},
		"no directory":  {func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
		"is not there ": {func(string) error { return nil }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			must(t, c.plant(filepath.Join(top, "saved")))
			root, err := os.OpenRoot(top)
			must(t, err)
			defer root.Close()
			dir, err := OpenOwn(root, "saved")
			if c.want == "" {
				must(t, err)
				dir.Close()
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
