package unpack

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func tarball(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		body := ""
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			body = "content of " + h.Name
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Flush()
	return b.Bytes()
}

func good(t *testing.T) []byte {
	return tarball(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o700}, tar.Header{Name: "./bin/run", Mode: 0o4755}, tar.Header{Name: "web/a.txt", Mode: 0o600})
}

const testFiles = 10

func unpackTo(t *testing.T, data []byte) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, archive(context.Background(), file, dir, testFiles)
}

// TestFormats writes the same files in several formats.
func TestFormats(t *testing.T) {
	plain := good(t)
	gz := new(bytes.Buffer)
	w := gzip.NewWriter(gz)
	w.Write(plain)
	w.Close()
	zs := new(bytes.Buffer)
	z, _ := zstd.NewWriter(zs)
	z.Write(plain)
	z.Close()
	zipped := new(bytes.Buffer)
	zw := zip.NewWriter(zipped)
	for name, mode := range map[string]os.FileMode{"bin/run": 0o755, "web/a.txt": 0o644} {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(mode)
		f, err := zw.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		prefix := "content of "
		if name == "bin/run" {
			prefix += "./"
		}
		io.WriteString(f, prefix+name)
	}
	zw.Close()
	all := map[string][]byte{"tar": plain, "tar.gz": gz.Bytes(), "tar.zst": zs.Bytes(), "zip": zipped.Bytes()}
	if _, err := exec.LookPath("xz"); err == nil {
		c := exec.Command("xz", "-c")
		c.Stdin = bytes.NewReader(plain)
		if all["tar.xz"], err = c.Output(); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range all {
		t.Run(name, func(t *testing.T) {
			dir, err := unpackTo(t, data)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(dir, "bin/run"))
			if err != nil || string(b) != "content of ./bin/run" {
				t.Errorf("got %q, %v", b, err)
			}
			for file, want := range map[string]os.FileMode{"bin/run": 0o755, "web/a.txt": 0o644} {
				if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode() != want {
					t.Errorf("%s: %v, %v, want %v", file, info, err, want)
				}
			}
		})
	}
}

func TestHostile(t *testing.T) {
	many := make([]tar.Header, testFiles+1)
	for i := range many {
		many[i] = tar.Header{Name: fmt.Sprint(i), Mode: 0o644}
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"traversal":         {tarball(t, tar.Header{Name: "../../x", Mode: 0o644}), "leaves the archive"},
		"absolute":          {tarball(t, tar.Header{Name: "/etc/x", Mode: 0o644}), "leaves the archive"},
		"inner":             {tarball(t, tar.Header{Name: "a/../../x", Mode: 0o644}), "leaves the archive"},
		"backslash":         {tarball(t, tar.Header{Name: `..\x`, Mode: 0o644}), "leaves the archive"},
		"symlink":           {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}), "is a link"},
		"hard link":         {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), "is a link"},
		"device":            {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeBlock}), "is a link or a special file"},
		"pipe":              {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo}), "is a link or a special file"},
		"twice":             {tarball(t, tar.Header{Name: "a", Mode: 0o644}, tar.Header{Name: "a", Mode: 0o644}), "exists"},
		"file as directory": {tarball(t, tar.Header{Name: "a", Mode: 0o644}, tar.Header{Name: "a/b", Mode: 0o644}), "a"},
		"many":              {tarball(t, many...), "too many files"},
		"truncated":         {good(t)[:1550], "unexpected EOF"},
		"text":              {[]byte("hello"), "no archive of a known kind"},
		"gzip alone":        {[]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "no archive of a known kind"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := unpackTo(t, c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			outside, err := os.ReadDir(filepath.Dir(dir))
			if err != nil || len(outside) != 1 {
				t.Errorf("outside: %v, %v", outside, err)
			}
		})
	}
}
