package unpack

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mholt/archives"
)

func tarball(t testing.TB, headers ...tar.Header) []byte {
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
		} else {
			body = strings.Repeat("\x00", int(h.Size))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func good(t testing.TB) []byte {
	return tarball(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o700}, tar.Header{Name: "./bin/run", Mode: 0o4755}, tar.Header{Name: "web/a.txt", Mode: 0o600})
}

const (
	testFiles = 10
	testBytes = 1 << 20
)

func unpackTo(t testing.TB, data []byte) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, archive(context.Background(), file, dir, testFiles, testBytes)
}

// packed compresses a tar.
func packed(t testing.TB, c archives.Compressor, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := c.OpenWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, method uint16) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range []string{"bin/run", "web/a.txt"} {
		h := &zip.FileHeader{Name: name, Method: method}
		h.SetMode(0o644)
		body := "content of " + name
		if name == "bin/run" {
			h.SetMode(0o755)
			body = "content of ./bin/run"
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// formats holds the same files in each format.
func formats(t testing.TB) map[string][]byte {
	plain := good(t)
	return map[string][]byte{
		"tar":     plain,
		"tar.gz":  packed(t, archives.Gz{}, plain),
		"tar.bz2": packed(t, archives.Bz2{}, plain),
		"tar.xz":  packed(t, archives.Xz{}, plain),
		"tar.zst": packed(t, archives.Zstd{}, plain),
		"tar.lz4": packed(t, archives.Lz4{}, plain),
		"zip":     zipped(t, zip.Deflate),
	}
}

func TestFormats(t *testing.T) {
	for name, data := range formats(t) {
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

// written is what stands below dir, but for modes.
func written(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var content []byte
			content, err = os.ReadFile(name)
			fmt.Fprintf(&b, "%s %q\n", strings.TrimPrefix(name, dir), content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestFlipped flips a bit of each byte: what is damaged is refused, or the bit meant nothing.
// A bare tar has no checksum of content, and a zip none of its names.
func TestFlipped(t *testing.T) {
	all := formats(t)
	delete(all, "tar")
	for name, data := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := unpackTo(t, data)
			if err != nil {
				t.Fatal(err)
			}
			want := written(t, dir)
			file, refused := filepath.Join(t.TempDir(), "archive"), 0
			step := 1
			if testing.Short() { // the race detector makes it slow, and has nothing to find here
				step = 11
			}
			for i := 0; i < len(data); i += step {
				flipped := bytes.Clone(data)
				flipped[i] ^= 1 << (i % 8)
				if err := os.WriteFile(file, flipped, 0o644); err != nil {
					t.Fatal(err)
				}
				out, err := os.MkdirTemp(filepath.Dir(file), "")
				if err != nil {
					t.Fatal(err)
				}
				if err := archive(t.Context(), file, out, testFiles, testBytes); err != nil {
					refused++
				} else if got := written(t, out); got != want && (name != "zip" || contents(got) != contents(want)) {
					t.Errorf("bit %d of byte %d: wrote %s", i%8, i, got)
				}
				os.RemoveAll(out)
			}
			t.Logf("%d of %d refused", refused, len(data))
		})
	}
}

// contents are the lines of written without names, sorted.
func contents(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		_, lines[i], _ = strings.Cut(l, ` "`)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestCut cuts archives off: they are refused, or what is missing meant nothing.
func TestCut(t *testing.T) {
	for name, data := range formats(t) {
		dir, err := unpackTo(t, data)
		if err != nil {
			t.Fatal(err)
		}
		whole, step := written(t, dir), 5
		if name == "tar" {
			step = 128
		}
		for n := 0; n < len(data); n += step {
			if dir, err := unpackTo(t, data[:n]); err == nil && written(t, dir) != whole {
				t.Errorf("%s: the first %d of %d bytes wrote %s", name, n, len(data), written(t, dir))
			}
		}
	}
}

func TestBehind(t *testing.T) {
	all := formats(t)
	for name, data := range all {
		for what, behind := range map[string][]byte{"text": []byte("hello"), "the same again": data, "another": all["tar.gz"], "a zip": all["zip"]} {
			if dir, err := unpackTo(t, append(bytes.Clone(data), behind...)); err == nil {
				t.Errorf("%s with %s behind it: wrote %s", name, what, written(t, dir))
			}
		}
	}
	// Tapes have blocks.
	if _, err := unpackTo(t, append(bytes.Clone(all["tar"]), make([]byte, 10240)...)); err != nil {
		t.Error(err)
	}
}

func TestHostile(t *testing.T) {
	many := make([]tar.Header, testFiles+1)
	for i := range many {
		many[i] = tar.Header{Name: fmt.Sprint(i), Mode: 0o644}
	}
	dirs := make([]tar.Header, testFiles+1)
	for i := range dirs {
		dirs[i] = tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeDir, Mode: 0o755}
	}
	// The size of the dictionary stands in the first block, with a checksum.
	dictionary := bytes.Clone(formats(t)["tar.xz"])
	block := dictionary[12:][:4*(int(dictionary[12])+1)]
	block[4] = 37 // 1.5 GiB
	binary.LittleEndian.PutUint32(block[len(block)-4:], crc32.ChecksumIEEE(block[:len(block)-4]))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"many directories":                   {tarball(t, dirs...), "too many files"},
		"deep":                               {tarball(t, tar.Header{Name: strings.Repeat("a/", 200_000) + "b", Mode: 0o644}), "want at most 255"},
		"sparse":                             {sparseTar(), "is a sparse file"},
		"sparse by pax":                      {sparsePax(t), "is a sparse file"},
		"bytes":                              {packed(t, archives.Zstd{}, tarball(t, tar.Header{Name: "a", Mode: 0o644}, tar.Header{Name: "zeros", Mode: 0o644, Size: testBytes})), "more than"},
		"tail":                               {packed(t, archives.Zstd{}, append(good(t), make([]byte, testBytes+minLimit)...)), "more than"},
		"7z":                                 {[]byte("7z\xbc\xaf\x27\x1c\x00\x04"), "7z and rar are not read"},
		"rar":                                {[]byte("Rar!\x1a\x07\x01\x00"), "7z and rar are not read"},
		"xz dictionary":                      {dictionary, "dictionary size exceeds max"},
		"zstd window":                        {[]byte("\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00"), "window"},
		"zip by zstd":                        {bytes.ReplaceAll(zipped(t, zip.Deflate), []byte("\x14\x00\x08\x00\x08\x00"), []byte("\x14\x00\x08\x00\x5d\x00")), "compression method 93"},
		"zip with a file that is not listed": {unlisted(t), "its list of entries does not have"},
		"zip behind text":                    {append([]byte("PK\x03\x04"+strings.Repeat("x", 60)), zipped(t, zip.Deflate)...), "two files"},
		"traversal":                          {tarball(t, tar.Header{Name: "../../x", Mode: 0o644}), "leaves the archive"},
		"absolute":                           {tarball(t, tar.Header{Name: "/etc/x", Mode: 0o644}), "leaves the archive"},
		"inner":                              {tarball(t, tar.Header{Name: "a/../../x", Mode: 0o644}), "leaves the archive"},
		"backslash":                          {tarball(t, tar.Header{Name: `..\x`, Mode: 0o644}), "leaves the archive"},
		"symlink":                            {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}), "is a link"},
		"hard link":                          {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), "is a link"},
		"device":                             {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeBlock}), "is a link or a special file"},
		"pipe":                               {tarball(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo}), "is a link or a special file"},
		"twice":                              {tarball(t, tar.Header{Name: "a", Mode: 0o644}, tar.Header{Name: "a", Mode: 0o644}), "exists"},
		"file as directory":                  {tarball(t, tar.Header{Name: "a", Mode: 0o644}, tar.Header{Name: "a/b", Mode: 0o644}), "a"},
		"many":                               {tarball(t, many...), "too many files"},
		"truncated":                          {good(t)[:2100], "unexpected EOF"},
		"text":                               {[]byte("hello"), "not a whole archive of a known kind"},
		"gzip alone":                         {[]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "not a whole archive of a known kind"},
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

// unlisted is a zip whose list of entries is right, but for the first file.
func unlisted(t testing.TB) []byte {
	b := zipped(t, zip.Deflate)
	list, end := bytes.Index(b, []byte("PK\x01\x02")), bytes.LastIndex(b, []byte("PK\x05\x06"))
	second := list + 4 + bytes.Index(b[list+4:], []byte("PK\x01\x02"))
	tail := bytes.Clone(b[end:])
	binary.LittleEndian.PutUint16(tail[8:], 1)
	binary.LittleEndian.PutUint16(tail[10:], 1)
	binary.LittleEndian.PutUint32(tail[12:], uint32(end-second))
	return slices.Concat(b[:list], b[second:end], tail)
}

// sparseTar has a file of 16 GiB in GNU's old form: a hole and one byte.
func sparseTar() []byte {
	h := make([]byte, 512)
	copy(h, "hole")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000001\x0000000000000\x00")
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "177777777770"+"00000000001\x00")
	copy(h[483:], "177777777771")
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(h, append([]byte("x"), make([]byte, 511+1024)...)...)
}

// sparsePax is the same in the form of pax, which a writer of archive/tar refuses.
func sparsePax(t testing.TB) []byte {
	b := tarball(t, tar.Header{Name: "a", Mode: 0o644, PAXRecords: map[string]string{"GNUxsparse.major": "1"}})
	return bytes.Replace(b, []byte("GNUxsparse"), []byte("GNU.sparse"), 1)
}

// TestContext ends while one large file is written.
func TestContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "archive")
	data := packed(t, archives.Zstd{}, tarball(t, tar.Header{Name: "zeros", Mode: 0o644, Size: 32 << 20}))
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx := &endsLater{Context: t.Context(), left: 20}
	if err := Archive(ctx, file, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "zeros")); err != nil || info.Size() == 32<<20 {
		t.Errorf("got %v, %v: it did not end within the file", info, err)
	}
}

// endsLater ends when it was asked often enough.
type endsLater struct {
	context.Context
	left int
}

func (c *endsLater) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestPanic has a decoder that fails as one for rar did.
func TestPanic(t *testing.T) {
	old := compressions[0].open
	defer func() { compressions[0].open = old }()
	compressions[0].open = func(io.Reader) (io.ReadCloser, error) { panic("index out of range") }
	if _, err := unpackTo(t, formats(t)["tar.gz"]); err == nil || !strings.Contains(err.Error(), "its decoder failed (index out of range)") {
		t.Errorf("got %v", err)
	}
}

// FuzzArchive takes any bytes for an archive: it ends, and writes no more than it may,
// where it may.
func FuzzArchive(f *testing.F) {
	for _, data := range formats(f) {
		f.Add(data)
	}
	f.Add(sparseTar())
	f.Fuzz(func(t *testing.T, data []byte) {
		dir, _ := unpackTo(t, data)
		if outside, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(outside) != 1 {
			t.Errorf("outside: %v, %v", outside, err)
		}
		total, files := int64(0), 0
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				total, files = total+info.Size(), files+1
			}
			if err == nil && !info.Mode().IsRegular() {
				t.Errorf("%s: %v", name, info.Mode())
			}
			return err
		})
		if err != nil || files > testFiles || total > testBytes {
			t.Errorf("%d files of %d bytes, %v", files, total, err)
		}
	})
}
