package sbom_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/klauspost/compress/zstd"
	"github.com/package-url/packageurl-go"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/sbom"
)

type entry struct {
	name, text string
	kind       byte
}

// layer is a tar of entries that are executable, pressed by press.
func layer(t *testing.T, press func(io.Writer) io.WriteCloser, entries ...entry) func() (io.ReadCloser, error) {
	t.Helper()
	var b bytes.Buffer
	z := press(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o755, Size: int64(len(e.text)), Typeflag: e.kind}
		if e.kind == tar.TypeSymlink {
			h.Linkname, h.Size, e.text = e.text, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []io.Closer{w, z} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

func plain(w io.Writer) io.WriteCloser   { return plainWriter{w} }
func gzipped(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
func zstded(w io.Writer) io.WriteCloser {
	z, err := zstd.NewWriter(w)
	if err != nil {
		panic(err)
	}
	return z
}

func wheel(name string) entry {
	return entry{name: "usr/lib/python3/site-packages/" + name + "-1.0.dist-info/METADATA", text: "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\nLicense: MIT\n"}
}

func packages(t *testing.T, layers ...func() (io.ReadCloser, error)) []sbom.Package {
	t.Helper()
	dir := t.TempDir()
	list, problems, err := sbom.Packages(t.Context(), sbom.Image{Name: "x:1", Platform: "linux/amd64", Layers: layers}, dir)
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	return list
}

func purls(list []sbom.Package) string {
	var s []string
	for _, p := range list {
		s = append(s, p.PURL)
	}
	slices.Sort(s)
	return strings.Join(s, "\n")
}

const (
	osRelease = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"
	status    = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
)

// TestPackages: what the layers together have, under every compression.
func TestPackages(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	got := packages(t,
		layer(t, gzipped, entry{name: "./usr/lib/os-release", text: osRelease}, entry{name: "etc/os-release", text: "../usr/lib/os-release", kind: tar.TypeSymlink},
			entry{name: "var/lib/dpkg/status", text: "Package: old\nStatus: install ok installed\nVersion: 1\n\n"}),
		layer(t, zstded, entry{name: "var/lib/dpkg/status", text: status}, entry{name: "lib/apk/db/installed", text: "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\n"}),
		layer(t, plain, entry{name: "app/node_modules/left-pad/package.json", text: `{"name":"left-pad","version":"1.3.0","license":"WTFPL"}`}, wheel("requests"),
			entry{name: "usr/bin/self", text: string(self)}, entry{name: "usr/bin/self-again", text: string(self)}),
	)
	all := purls(got) + "\n"
	for _, want := range []string{
		"pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=bookworm&source=glibc", "pkg:npm/left-pad@1.3.0\n", "pkg:pypi/requests@1.0\n",
		"pkg:golang/github.com/valise-ota/valise\n", "pkg:golang/stdlib@1.", "pkg:apk/debian/musl@1.2.4-r2?",
	} {
		if strings.Count(all, want) != 1 {
			t.Errorf("%d times %s in\n%s", strings.Count(all, want), want, all)
		}
	}
	for _, not := range []string{"gone", "pkg:deb/debian/old"} {
		if strings.Contains(all, not) {
			t.Errorf("%s in\n%s", not, all)
		}
	}
}

// TestAgreesWithDpkg: the packages that are found in this machine's database are those
// that dpkg itself lists.
func TestAgreesWithDpkg(t *testing.T) {
	database, err := os.ReadFile("/var/lib/dpkg/status")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("this machine is not Debian")
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version} ${Architecture}\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "installed "); ok {
			want = append(want, p)
		}
	}
	var got []string
	for _, p := range packages(t, layer(t, plain, entry{name: "etc/os-release", text: osRelease}, entry{name: "var/lib/dpkg/status", text: string(database)})) {
		u, err := packageurl.FromString(p.PURL)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, u.Name+" "+u.Version+" "+u.Qualifiers.Map()["arch"])
	}
	sameLists(t, got, want)
}

// TestAgreesWithGo: the modules that are found in a program are those that go version
// -m lists.
func TestAgreesWithGo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/valise-installer").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(out), "\n")
	_, version, _ := strings.Cut(head, ": go")
	version, _, _ = strings.Cut(version, " ") // of the toolchain, before its experiments
	want := []string{"stdlib " + version}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 2 && f[0] == "dep":
			want = append(want, strings.ToLower(f[1])+" "+strings.TrimPrefix(f[2], "v")) // as package URLs have it
		case len(f) > 1 && f[0] == "mod":
			want = append(want, f[1]+" ")
		}
	}
	var got []string
	for _, p := range packages(t, layer(t, plain, entry{name: "usr/bin/program", text: string(text)})) {
		u, err := packageurl.FromString(p.PURL)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimPrefix(u.Namespace+"/"+u.Name, "/")+" "+strings.TrimPrefix(u.Version, "v"))
	}
	sameLists(t, got, want)
}

func sameLists(t *testing.T, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if len(want) < 10 {
		t.Errorf("only %d packages to compare with", len(want))
	}
	for _, p := range want {
		if _, ok := slices.BinarySearch(got, p); !ok {
			t.Errorf("not found: %s", p)
		}
	}
	for _, p := range got {
		if _, ok := slices.BinarySearch(want, p); !ok {
			t.Errorf("found, and not there: %s", p)
		}
	}
}

// TestRemoved: what an upper layer takes away or replaces is not in the image.
func TestRemoved(t *testing.T) {
	base := layer(t, gzipped, wheel("a"), wheel("b"))
	const dir = "usr/lib/python3/site-packages/"
	for name, tc := range map[string]struct {
		upper []entry
		want  string
	}{
		"nothing":              {nil, "pkg:pypi/a@1.0\npkg:pypi/b@1.0"},
		"a directory":          {[]entry{{name: dir + ".wh.a-1.0.dist-info"}}, "pkg:pypi/b@1.0"},
		"a file":               {[]entry{{name: dir + "a-1.0.dist-info/.wh.METADATA"}}, "pkg:pypi/b@1.0"},
		"opaque":               {[]entry{wheel("c"), {name: dir + ".wh..wh..opq"}}, "pkg:pypi/c@1.0"},
		"replaced":             {[]entry{{name: wheel("a").name, text: "Name: a\nVersion: 2.0\n"}}, "pkg:pypi/a@2.0\npkg:pypi/b@1.0"},
		"replaced by a link":   {[]entry{{name: "usr/lib/python3", text: "/x", kind: tar.TypeSymlink}}, ""},
		"replaced by nonsense": {[]entry{{name: wheel("a").name, text: "?"}}, "pkg:pypi/b@1.0"},
		"all":                  {[]entry{{name: ".wh.usr"}}, ""},
	} {
		var list []sbom.Package
		upper := layer(t, gzipped, tc.upper...)
		list, _, err := sbom.Packages(t.Context(), sbom.Image{Layers: []func() (io.ReadCloser, error){base, upper}}, t.TempDir())
		if got := purls(list); err != nil || got != tc.want {
			t.Errorf("%s: got\n%s\nwant\n%s\n%v", name, got, tc.want, err)
		}
	}
	// A database goes with its file.
	db := layer(t, gzipped, entry{name: "var/lib/dpkg/status", text: status})
	if got := packages(t, db, layer(t, gzipped, entry{name: "var/lib/dpkg/.wh.status"})); len(got) != 0 {
		t.Errorf("a database that is gone has %v", got)
	}
}

// TestHostile: names and files that mean harm are an error or nothing.
func TestHostile(t *testing.T) {
	outside := t.TempDir() + "/outside"
	for name, entries := range map[string][]entry{
		"traversal": {{name: "../../../../../../.." + outside, text: status}, {name: "var/lib/dpkg/status.d/../../../../../../x", text: status}},
		"symlink":   {{name: "var", text: "/tmp", kind: tar.TypeSymlink}, {name: "var/lib/dpkg/status", text: status}},
		"no jar":    {{name: "x.jar", text: "PK\x03\x04"}},
		"no elf":    {{name: "bin/x", text: "\x7fELF" + strings.Repeat("\xff", 5000)}},
		"no rpm db": {{name: "var/lib/rpm/rpmdb.sqlite", text: "SQLite format 3\x00" + strings.Repeat("\xff", 9000)}},
		"no status": {{name: "var/lib/dpkg/status", text: "\x00\x01: \n\n\n:::\n"}},
	} {
		dir := t.TempDir()
		list, _, err := sbom.Packages(t.Context(), sbom.Image{Layers: []func() (io.ReadCloser, error){layer(t, gzipped, entries...)}}, dir)
		if _, serr := os.Stat(outside); serr == nil {
			t.Errorf("%s: wrote outside", name)
		}
		if left, rerr := os.ReadDir(dir); rerr != nil || len(left) > 0 {
			t.Errorf("%s: left behind %v", name, left)
		}
		t.Logf("%s: %v %v", name, list, err)
	}
	bad := func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Repeat("no tar ", 200))), nil
	}
	if _, _, err := sbom.Packages(t.Context(), sbom.Image{Layers: []func() (io.ReadCloser, error){bad}}, t.TempDir()); err == nil {
		t.Error("a layer that is not a tar: accepted")
	}
}

// TestDocuments: the same bytes every time, which the libraries' readers take.
func TestDocuments(t *testing.T) {
	img := sbom.Image{Name: "shop/api:1", Platform: "linux/arm64", Digest: bundle.DigestOf([]byte("x")), Created: time.Unix(1767225600, 0), Tool: "1.0.0"}
	list := []sbom.Package{{Name: "libc6", Version: "2.36", PURL: "pkg:deb/debian/libc6@2.36?arch=amd64", Path: "var/lib/dpkg/status"}, {Name: "x", Licenses: []string{"MIT", "GPL"}, Path: "y"}}
	for name, write := range map[string]func(sbom.Image, []sbom.Package) ([]byte, error){"spdx": sbom.SPDX, "cdx": sbom.CycloneDX} {
		one, err := write(img, list)
		if err != nil {
			t.Fatal(err)
		}
		two, err := write(img, list)
		if err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: other bytes the second time (%v)", name, err)
		}
		other := img
		other.Platform = "linux/amd64"
		if three, _ := write(other, list); bytes.Equal(one, three) {
			t.Errorf("%s: the platform makes no difference", name)
		}
		if got, err := sbom.Read(one); err != nil || len(got) != 2 || got[0].Name != "libc6" || got[0].Version != "2.36" || got[0].PURL != list[0].PURL {
			t.Errorf("%s: read back %v %v", name, got, err)
		}
	}
	b, err := sbom.SPDX(img, list)
	if err != nil {
		t.Fatal(err)
	}
	if doc, err := spdxjson.Read(bytes.NewReader(b)); err != nil || len(doc.Packages) != 3 || doc.CreationInfo.Created != "2026-01-01T00:00:00Z" {
		t.Errorf("SPDX: %v", err)
	}
	if b, err = sbom.CycloneDX(img, list); err != nil {
		t.Fatal(err)
	}
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(b), cdx.BOMFileFormatJSON).Decode(bom); err != nil || len(*bom.Components) != 2 || bom.SpecVersion != cdx.SpecVersion1_6 {
		t.Errorf("CycloneDX: %v", err)
	}
}

// TestFinder: a new version of the library may find other packages.
func TestFinder(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "github.com/google/osv-scalibr").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if !strings.HasPrefix(sbom.Finder, "osv-scalibr-"+version+"-") {
		t.Errorf("Finder is %s, go.mod has %s: set Finder again", sbom.Finder, version)
	}
}
