package release

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestMounts makes a mount, spoils it in every way a container could, and finds
// that out.
func TestMounts(t *testing.T) {
	s := open(t, t.TempDir())
	content := map[string]string{"a": "first", "sub/b": "second", "empty": ""}
	var files []bundle.File
	for _, name := range []string{"a", "empty", "sub/b"} {
		files = append(files, bundle.File{Path: name, Size: int64(len(content[name])), Mode: 0o644, Digest: bundle.DigestOf([]byte(content[name]))})
	}
	yield := func(f bundle.File) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content[f.Path])), nil
	}
	at := filepath.Join(s.root.Name(), bundle.MountDir)
	wantErr(t, s.CheckMount("dir-1", files), "no such file")
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"whole", func(string) error { return nil }, ""},
		{"empty ones, where mounts begin", func(d string) error {
			return errors.Join(os.MkdirAll(filepath.Join(d, "x/y"), 0o755), os.WriteFile(filepath.Join(d, "x/z"), nil, 0o644))
		}, ""},
		{"changed", func(d string) error { return os.WriteFile(filepath.Join(d, "a"), []byte("FIRST"), 0o644) }, "dir-1/a was changed"},
		{"longer", func(d string) error { return os.WriteFile(filepath.Join(d, "a"), []byte("first and"), 0o644) }, "dir-1/a was changed"},
		{"removed", func(d string) error { return os.Remove(filepath.Join(d, "sub/b")) }, "sub/b is missing"},
		{"added", func(d string) error { return os.WriteFile(filepath.Join(d, "sub/c"), []byte("x"), 0o644) }, "sub/c was put there"},
		{"link added", func(d string) error { return os.Symlink("/etc/shadow", filepath.Join(d, "l")) }, "dir-1/l was put there"},
		{"link in place", func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "a")), os.Symlink("sub/b", filepath.Join(d, "a")))
		}, "dir-1/a was changed"},
		{"pipe in place", func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "a")), syscall.Mkfifo(filepath.Join(d, "a"), 0o644))
		}, "dir-1/a was changed"},
		{"a file", func(d string) error { return errors.Join(os.RemoveAll(d), os.WriteFile(d, []byte("x"), 0o644)) }, "it is a regular file"},
		{"a link", func(d string) error { return errors.Join(os.RemoveAll(d), os.Symlink("/etc", d)) }, "it is a symbolic link"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := s.AddMount("dir-1", files, yield); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(filepath.Join(at, "dir-1")); err != nil {
				t.Fatal(err)
			}
			err := s.CheckMount("dir-1", files)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if names, err := s.Mounts(); err != nil || len(names) != 1 {
				t.Errorf("mounts are %v, %v", names, err)
			}
			to, err := s.SetMountAside("dir-1")
			if err != nil || !strings.HasPrefix(to, "dir.edited-1") {
				t.Errorf("set aside to %s, %v", to, err)
			}
		})
	}
	// One file, and content that is not what was verified.
	one := []bundle.File{{Path: "", Size: 1, Mode: 0o755, Digest: bundle.DigestOf([]byte("x"))}}
	content[""] = "y"
	wantErr(t, s.AddMount("one-2", one, yield), "was changed")
	if names, err := s.Mounts(); err != nil || len(names) != 0 {
		t.Errorf("what was not whole has a name: %v, %v", names, err)
	}
	content[""] = "x"
	if err := errors.Join(s.AddMount("one-2", one, yield), s.CheckMount("one-2", one)); err != nil {
		t.Error(err)
	}
	if err := s.RemoveMount("one-2"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(at, "one-2")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
