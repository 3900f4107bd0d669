package bundle_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/gzip"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// Vectors are files under testdata/vectors at the top of the repository: header
// lines, an empty line, and the bytes of a bundle. "expect:" is success or the
// rule of FORMAT.md that refuses it; "verify:" is what package verify says of it
// with the key signer.pub beside it, when that differs. go test -update writes
// them anew: what did not change stays the same, byte for byte.
var update = flag.Bool("update", false, "write testdata/vectors anew")

const vectorDir = "../testdata/vectors"

type vector struct {
	name, expect, verify, comment string
	data                          []byte
}

func TestVectors(t *testing.T) {
	made := makeVectors(t)
	if *update {
		writeVectors(t, made)
	}
	kept, err := filepath.Glob(filepath.Join(vectorDir, "*"))
	if err != nil || len(kept) != len(made) {
		t.Errorf("%d files in %s, want %d (%v): write them with -update", len(kept), vectorDir, len(made), err)
	}
	for name, want := range made {
		if got, err := os.ReadFile(filepath.Join(vectorDir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what this test makes (%v): write it with -update and read the diff", name, err)
		}
	}
	key, err := os.ReadFile(filepath.Join(vectorDir, "signer.pub"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.New(verify.Policy{Signers: []verify.Signer{{Key: string(key)}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, vec := range readVectors(t) {
		t.Run(vec.name, func(t *testing.T) {
			r, err := open(vec.data)
			if got := ruleOf(err); got != vec.expect {
				t.Errorf("bundle says %s (%v), want %s", got, err, vec.expect)
			}
			if err == nil {
				var rel *verify.Release
				rel, err = v.Release(t.Context(), r, verify.Want{}, nil)
				if (err == nil) != rel.Valid() {
					t.Error("a release and an error at once, or neither")
				}
			}
			want := vec.verify
			if want == "" {
				want = vec.expect
			}
			if got := ruleOf(err); got != want {
				t.Errorf("verify says %s (%v), want %s", got, err, want)
			}
		})
	}
}

func ruleOf(err error) string {
	var f *bundle.FormatError
	var v *verify.Error
	switch {
	case err == nil:
		return "success"
	case errors.As(err, &f):
		return f.Rule
	case errors.As(err, &v):
		return v.Check
	}
	return "another error: " + err.Error()
}

// TestEveryRuleHasAVector: the rules of the code, of FORMAT.md and of the vectors
// are the same.
func TestEveryRuleHasAVector(t *testing.T) {
	inCode := map[string]bool{}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`(?:formatErr\(|bad\((?:c, )?)"([a-z0-9-]+)"`)
	for _, file := range sources {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			inCode[m[1]] = true
		}
	}
	for _, field := range []string{"compose", "project", "version_env", "required_env", "health", "backup", "secrets", "keep", "tree", "env", "hooks", "migration", "rollback", "mounts", "local", "limits", "create", "volumes"} {
		delete(inCode, field) // parts of the rule device
	}
	format, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	inText, numbers := map[string]bool{}, map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\*\\*(R[0-9]+) `([a-z0-9-]+)`").FindAllStringSubmatch(string(format), -1) {
		number, rule := m[1], m[2]
		if inText[rule] {
			t.Errorf("FORMAT.md has the rule %s twice", rule)
		}
		if numbers[number] != "" {
			t.Errorf("FORMAT.md has the number %s twice: %s and %s", number, numbers[number], rule)
		}
		inText[rule], numbers[number] = true, rule
	}
	for i := range numbers {
		if n, err := strconv.Atoi(i[1:]); err != nil || n > len(numbers) {
			t.Errorf("FORMAT.md has %d rules and a rule %s: a number below it is free", len(numbers), i)
		}
	}
	inVectors := map[string]bool{}
	for _, v := range readVectors(t) {
		inVectors[v.expect] = true
	}
	delete(inVectors, "success")
	for rule := range inCode {
		if !inText[rule] {
			t.Errorf("rule %s is in the code and not in FORMAT.md", rule)
		}
		if !inVectors[rule] {
			t.Errorf("rule %s has no vector", rule)
		}
	}
	for rule := range inText {
		if !inCode[rule] {
			t.Errorf("rule %s is in FORMAT.md and not in the code", rule)
		}
	}
	for rule := range inVectors {
		if !inCode[rule] {
			t.Errorf("a vector names %s, which is no rule", rule)
		}
	}
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.bundle"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	var list []vector
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, data, ok := bytes.Cut(b, []byte("\n\n"))
		if !ok {
			t.Fatalf("%s: no empty line", file)
		}
		v := vector{name: strings.TrimSuffix(filepath.Base(file), ".bundle"), data: data}
		for line := range strings.Lines(string(head)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch key {
			case "expect":
				v.expect = value
			case "verify":
				v.verify = value
			case "comment":
				v.comment = value
			default:
				t.Fatalf("%s: unknown header %q", file, key)
			}
		}
		list = append(list, v)
	}
	return list
}

// makeVectors makes every vector from the same small release, and the key it is
// signed with, by file name.
func makeVectors(t *testing.T) map[string][]byte {
	signer := verifytest.FixedSigner(t, "vectors")
	files := map[string][]byte{"signer.pub": []byte(signer.PublicPEM())}
	for _, v := range vectors(t, signer) {
		head := "expect: " + v.expect + "\n"
		if v.verify != "" {
			head += "verify: " + v.verify + "\n"
		}
		head += "comment: " + v.comment + "\n\n"
		if files[v.name+".bundle"] != nil {
			t.Errorf("two vectors are called %s", v.name)
		}
		files[v.name+".bundle"] = append([]byte(head), v.data...)
	}
	return files
}

func writeVectors(t *testing.T, files map[string][]byte) {
	if err := errors.Join(os.RemoveAll(vectorDir), os.MkdirAll(vectorDir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(vectorDir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func vectors(t *testing.T, signer *verifytest.Signer) []vector {
	spec := bundletest.Spec{Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"}, Installer: 30}
	m, c := bundletest.Release(t, spec)
	good := signer.Bundle(t, m, c)
	var list []vector
	add := func(name, expect, comment string, data []byte) *vector {
		list = append(list, vector{name: name, expect: expect, comment: comment, data: data})
		return &list[len(list)-1]
	}
	// with forges a signed bundle and changes it.
	with := func(name, expect, comment string, change func(*forged)) {
		f := forge(t, m, c, signer.Sign(t, encode(t, m)))
		change(f)
		add(name, expect, comment, f.bytes(t))
	}
	// manifest replaces text of the manifest's JSON. Nobody signed that, so what
	// refuses it must stand before the signature.
	manifest := func(name, expect, old, new string) {
		with(name, expect, fmt.Sprintf("in the manifest %.30q is replaced by %.60q", old, new), func(f *forged) {
			e := f.find(t, bundle.ManifestName)
			b := bytes.Replace(e.data, []byte(old), []byte(new), 1)
			if bytes.Equal(b, e.data) {
				t.Fatalf("%s: the manifest does not contain %q:\n%s", name, old, e.data)
			}
			e.data = b
		})
	}
	// valid is a manifest changed as a value, canonical and signed, that still
	// breaks a rule.
	valid := func(name, expect, comment string, change func(*bundle.Manifest)) {
		other := clone(t, m)
		change(other)
		f := forge(t, m, c, signer.Sign(t, encode(t, other)))
		f.mtime = other.CreatedAt.Unix()
		f.find(t, bundle.ManifestName).data = encode(t, other)
		add(name, expect, comment, f.bytes(t))
	}

	add("good", "success", "signed, as valise writes it", good)
	key := bundle.Signer{Key: signer.PublicPEM()}
	for name, trust := range map[string]bundle.Trust{
		"trust-nobody":       {},
		"trust-half":         {Signers: []bundle.Signer{{Issuer: "https://example.com"}}},
		"trust-both":         {Signers: []bundle.Signer{{Key: key.Key, Issuer: "https://example.com", Identity: "x"}}},
		"trust-twice":        {Signers: []bundle.Signer{key, key}},
		"trust-many":         {Signers: make([]bundle.Signer, bundle.MaxSigners+1)},
		"trust-expression":   {Signers: []bundle.Signer{{Issuer: "https://example.com", IdentityRegexp: "("}}},
		"trust-escape":       {Signers: []bundle.Signer{{Issuer: "https://example.com", Identity: "\x1b[2J"}}},
		"trust-root-missing": {TrustedRoot: "trusted_root.json"},
	} {
		valid(name, "trust", "what it says about the signers after it is malformed", func(m *bundle.Manifest) { m.Trust = &trust })
	}
	with("good-stored", "success", "signed, everything stored, an empty table of contents", func(*forged) {})
	add("good-unsigned", "success", "a well-formed bundle that nobody signed", bundletest.Write(t, m, c)).verify = verify.CheckUnsigned
	f := forge(t, m, c, signer.Sign(t, []byte("another text")))
	add("signature-of-another", "success", "the signature is over other bytes", f.bytes(t)).verify = verify.CheckSignature
	f = forge(t, m, c, verifytest.FixedSigner(t, "somebody else").Sign(t, encode(t, m)))
	add("signer-unknown", "success", "signed by somebody else", f.bytes(t)).verify = verify.CheckSignature
	f = forge(t, m, c, []byte("{}"))
	add("signature-empty", "success", "the signature is an empty object", f.bytes(t)).verify = verify.CheckSignature
	with("thin", "success", "a layer is left out", func(f *forged) {
		f.images = slices.DeleteFunc(f.images, func(e forgedEntry) bool {
			return e.name == bundle.BlobPath(m.Components[0].Images[0].Layers[0].Digest)
		})
	})
	with("thin-installer", "success", "the installer is left out", func(f *forged) {
		f.entries = slices.DeleteFunc(f.entries, func(e forgedEntry) bool { return strings.HasPrefix(e.name, bundle.InstallerDir) })
	})
	with("installer-size", "entry", "the installer has another size than the manifest says", func(f *forged) {
		e := f.find(t, "installer/linux-amd64/valise-installer")
		e.data = append(e.data, 'x')
	})
	with("installer-swapped", "digest", "the installer has other content of the same length", func(f *forged) {
		e := f.find(t, "installer/linux-amd64/valise-installer")
		e.data = bytes.ToLower(e.data)
	})
	with("toc-lies", "success", "the table of contents points to nowhere: it is only a hint", func(f *forged) {
		f.toc = []byte(`{"format":"valise-toc/1","entries":[{"name":"compose.yaml","members":[5,-1,99999999],"end":-3}]}`)
	})
	with("toc-not-json", "success", "the table of contents is no JSON: it is only a hint", func(f *forged) { f.toc = []byte("?") })

	// The other compressions.
	for _, compression := range []bundle.Compression{bundle.Zstd, bundle.None} {
		name := string(compression)
		data := signer.BundleAs(t, compression, m, c)
		as := func(change func(*forged)) func(*forged) {
			return func(f *forged) { f.format = compression; change(f) }
		}
		add("good-"+name, "success", name+", signed, as valise writes it", data)
		with("good-"+name+"-stored", "success", name+", everything stored, an empty table of contents", as(func(*forged) {}))
		with("toc-lies-"+name, "success", name+", the table of contents points to nowhere", as(func(f *forged) {
			f.toc = []byte(`{"format":"valise-toc/1","entries":[{"name":"compose.yaml","members":[5,-1,99999999],"end":-3}]}`)
		}))
		with("no-footer-"+name, "footer", name+", the footer is missing", as(func(f *forged) { f.noFooter = true }))
		with("appended-"+name, "footer", name+", bytes behind the end", as(func(f *forged) { f.tail = make([]byte, 512) }))
		add("appended-bundle-"+name, "footer", name+", a second bundle behind the first", append(bytes.Clone(data), data...))
		add("truncated-last-byte-"+name, "footer", name+", the last byte is missing", data[:len(data)-1])
		add("truncated-in-layer-"+name, "truncated", name+", cut inside a layer", data[:bytes.Index(data, c.Blobs[m.Components[0].Images[0].Layers[1].Digest])+100])
		with("manifest-second-"+name, "manifest-first", name+", another file stands first", as(func(f *forged) {
			f.entries[0], f.entries[2] = f.entries[2], f.entries[0]
		}))
		with("entry-symlink-"+name, "entry", name+", a symbolic link", as(func(f *forged) {
			f.find(t, "compose.yaml").header = func(h []byte) { h[156] = '2'; copy(h[157:], "/etc/passwd") }
		}))
		with("layer-flipped-"+name, map[bundle.Compression]string{bundle.Zstd: "zstd", bundle.None: "digest"}[compression], name+", a bit of a layer is another one", as(func(f *forged) {
			layer := c.Blobs[m.Components[0].Images[0].Layers[1].Digest]
			f.member = func(p []byte) []byte {
				b := bundle.StoredMember(compression, p)
				if bytes.Equal(p, layer) {
					b[100] ^= 1
				}
				return b
			}
		}))
	}
	// frame puts something else in the place of the frame with the compose file.
	frame := func(name, expect, comment string, change func(good []byte) []byte) {
		with(name, expect, comment, func(f *forged) {
			f.format = bundle.Zstd
			f.member = func(p []byte) []byte {
				b := bundle.StoredMember(bundle.Zstd, p)
				if bytes.Equal(p, c.Files["compose.yaml"]) {
					b = change(b)
				}
				return b
			}
		})
	}
	const magic = "\x28\xb5\x2f\xfd"
	frame("zstd-checksum", "zstd", "the checksum of a frame is wrong", func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	frame("zstd-no-checksum", "zstd", "a frame without a checksum", func(b []byte) []byte { b[4] &^= 4; return b[:len(b)-4] })
	frame("zstd-dictionary", "zstd", "a frame that names a dictionary", func(b []byte) []byte {
		return slices.Concat([]byte(magic+"\x87\x38\x01\x02\x03\x04"), b[6:])
	})
	frame("zstd-window", "zstd", "a frame with a window of 128 MiB", func(b []byte) []byte { b[5] = 0x88; return b })
	frame("zstd-no-size", "zstd", "a frame that does not say how much it holds", func(b []byte) []byte {
		return slices.Concat([]byte(magic+"\x04\x38"), b[10:])
	})
	frame("zstd-large", "zstd", "a frame that claims more than a member may hold", func(b []byte) []byte { b[8] = 0x41; return b })
	frame("zstd-size-lies", "zstd", "a frame that holds more than it says", func(b []byte) []byte { b[6]--; return b })
	frame("zstd-reserved-block", "zstd", "a block of the reserved type", func(b []byte) []byte { b[10] |= 6; return b })
	frame("zstd-large-block", "zstd", "a block larger than the format allows", func(b []byte) []byte { b[12] = 0xff; return b })
	frame("zstd-skippable", "zstd", "a skippable frame inside the tar", func(b []byte) []byte {
		return append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00evil"), b...)
	})
	frame("zstd-gzip", "zstd", "a gzip member inside a zstd file", func([]byte) []byte { return storedMember(c.Files["compose.yaml"]) })
	frame("zstd-bomb", "digest", "32 blocks that repeat a byte 128 KiB times", func([]byte) []byte {
		b := []byte(magic + "\xa4\x00\x00\x40\x00")
		for i := range 32 {
			last := byte(0)
			if i == 31 {
				last = 1
			}
			b = append(b, 2|last, 0, 0x10, 'x')
		}
		sum := xxhash.Sum64(bytes.Repeat([]byte{'x'}, bundle.MemberSize))
		return binary.LittleEndian.AppendUint32(b, uint32(sum))
	})
	goodZstd := signer.BundleAs(t, bundle.Zstd, m, c)
	footer := func(name, comment string, at int, to byte) {
		b := bytes.Clone(goodZstd)
		b[len(b)+at] = to
		add(name, "footer", comment, b)
	}
	footer("zstd-table-count", "the seek table claims more frames than there are", -9, 0xff)
	footer("zstd-table-many", "the seek table claims four thousand million frames", -6, 0xff)
	footer("zstd-table-reserved", "the seek table sets reserved bits", -5, 0x7c)
	footer("zstd-table-magic", "the seek table does not end as one", -1, 0)
	with("gzip-zstd", "gzip", "a zstd frame inside a gzip file", func(f *forged) {
		f.member = func(p []byte) []byte {
			if bytes.Equal(p, c.Files["compose.yaml"]) {
				return bundle.StoredMember(bundle.Zstd, p)
			}
			return storedMember(p)
		}
	})

	// The outer file.
	add("not-a-bundle", "framing", "plain text", []byte("not a bundle at all\n"))
	add("empty", "framing", "no bytes", nil)
	with("gzip-name", "gzip", "a member has a file name in its header", func(f *forged) {
		f.member = func(p []byte) []byte {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Name = "x"
			z.Write(p)
			z.Close()
			return b.Bytes()
		}
	})
	with("gzip-checksum", "gzip", "the checksum of the first member is wrong", func(f *forged) {
		first := true
		f.member = func(p []byte) []byte {
			b := storedMember(p)
			if first {
				b[len(b)-5] ^= 1
				first = false
			}
			return b
		}
	})
	with("gzip-bomb", "entry", "a deflated member of 64 MiB of zeros where a header belongs", func(f *forged) {
		var b bytes.Buffer
		b.Write(make([]byte, 64<<20))
		bomb := deflatedMember(t, b.Bytes())
		n := 0
		f.member = func(p []byte) []byte {
			if n++; n == 7 {
				return bomb
			}
			return storedMember(p)
		}
	})
	add("truncated-in-manifest", "truncated", "cut inside the manifest", good[:400])
	add("truncated-in-layer", "truncated", "cut inside a layer", good[:bytes.Index(good, c.Blobs[m.Components[0].Images[0].Layers[1].Digest])+100])
	add("truncated-last-byte", "footer", "the last byte is missing", good[:len(good)-1])
	with("no-footer", "footer", "the footer is missing", func(f *forged) { f.noFooter = true })
	with("appended", "footer", "bytes behind the end", func(f *forged) { f.tail = []byte("x") })
	add("appended-bundle", "footer", "a second bundle behind the first", append(bytes.Clone(good), good...))
	with("manifest-second", "manifest-first", "another file stands first", func(f *forged) {
		f.entries[0], f.entries[2] = f.entries[2], f.entries[0]
	})
	with("manifest-twice", "entry", "a second manifest behind the signature", func(f *forged) {
		f.entries = slices.Insert(f.entries, 2, f.entries[0])
	})
	with("member-shared", "member", "the compose file shares a gzip member with its header", func(f *forged) { f.find(t, "compose.yaml").joined = true })
	with("head-shared", "member", "the head and what follows share a gzip member", func(f *forged) {
		n := 0
		var held []byte
		f.member = func(p []byte) []byte {
			n++
			switch n {
			case 6: // the padding behind the signature
				held = bytes.Clone(p)
				return nil
			case 7:
				return storedMember(append(held, p...))
			}
			return storedMember(p)
		}
	})
	with("file-added", "entry", "a file that is not listed", func(f *forged) {
		f.entries = slices.Insert(f.entries, 3, forgedEntry{name: "extra.sh", data: []byte("echo")})
	})
	with("file-added-last", "unlisted", "a file behind images.tar that is not listed", func(f *forged) {
		f.entries = append(f.entries, forgedEntry{name: "extra.sh", data: []byte("echo")})
	})
	with("file-removed", "entry", "a listed file is missing", func(f *forged) { f.entries = slices.Delete(f.entries, 2, 3) })
	with("compose-swapped", "digest", "the compose file has other content of the same length", func(f *forged) {
		e := f.find(t, "compose.yaml")
		e.data = bytes.ToUpper(e.data)
	})
	with("layer-swapped", "digest", "a layer has other content of the same length", func(f *forged) {
		e := &f.images[len(f.images)-1]
		e.data = bytes.Repeat([]byte("x"), len(e.data))
	})
	with("config-missing", "missing", "an image config is left out", func(f *forged) {
		f.images = slices.DeleteFunc(f.images, func(e forgedEntry) bool {
			return e.name == bundle.BlobPath(m.Components[0].Images[0].Config.Digest)
		})
	})
	with("blobs-missing", "missing", "every blob is left out", func(f *forged) { f.images = f.images[:3] })
	with("layer-added", "unlisted", "images.tar holds a blob that is not listed", func(f *forged) {
		b := []byte("more")
		f.images = append(f.images, forgedEntry{name: bundle.BlobPath(bundle.DigestOf(b)), data: b})
	})
	with("layer-twice", "unlisted", "a blob stands twice", func(f *forged) { f.images = append(f.images, f.images[len(f.images)-1]) })
	with("layers-disordered", "unlisted", "two blobs are exchanged", func(f *forged) {
		n := len(f.images)
		f.images[n-1], f.images[n-2] = f.images[n-2], f.images[n-1]
	})
	for _, kind := range []struct {
		flag byte
		name string
	}{{'1', "hard-link"}, {'2', "symlink"}, {'3', "character-device"}, {'4', "block-device"}, {'5', "directory"}, {'6', "pipe"}, {'S', "sparse"}, {'x', "pax-header"}, {'g', "pax-global"}, {'L', "gnu-long-name"}} {
		with("entry-"+kind.name, "entry", "an entry of type "+string(kind.flag), func(f *forged) {
			f.find(t, "compose.yaml").header = func(h []byte) {
				h[156] = kind.flag
				if kind.flag == '1' || kind.flag == '2' {
					copy(h[157:], "/etc/passwd")
				}
			}
		})
	}
	with("entry-traversal", "entry", "the header of a listed file names a path outside", func(f *forged) {
		f.find(t, "compose.yaml").header = func(h []byte) { clear(h[:100]); copy(h, "../../etc/cron.d/x") }
	})
	with("entry-setuid", "entry", "the header of a listed file has other mode bits", func(f *forged) {
		f.find(t, "compose.yaml").header = func(h []byte) { copy(h[100:], "0004755\x00") }
	})
	with("entry-owner", "entry", "the header of a listed file has another owner", func(f *forged) {
		f.find(t, "compose.yaml").header = func(h []byte) { copy(h[108:], "0001750\x00") }
	})
	with("blobs-symlink", "missing", "blobs in images.tar is a symbolic link", func(f *forged) {
		f.images = slices.Insert(f.images, 3, forgedEntry{name: "blobs", header: func(h []byte) { h[156] = '2'; copy(h[157:], "/etc") }})
	})
	with("size-lies", "entry", "a header claims more bytes than the manifest", func(f *forged) { f.find(t, "compose.yaml").size = 1 << 32 })
	with("images-size-lies", "entry-size", "the header of images.tar claims fewer bytes than there are", func(f *forged) { f.find(t, bundle.ImagesName).size = 1024 })
	with("images-size-not-octal", "entry-size", "the size of images.tar is no number", func(f *forged) {
		f.find(t, bundle.ImagesName).header = func(h []byte) { copy(h[124:], "zzzzzzzzzzz") }
	})
	with("manifest-too-large", "entry-size", "the manifest claims to have a gibibyte", func(f *forged) { f.find(t, bundle.ManifestName).size = 1 << 30 })
	with("signature-too-large", "entry-size", "the signature claims to have a gibibyte", func(f *forged) { f.find(t, bundle.SignatureName).size = 1 << 30 })
	with("padding", "padding", "the bytes behind the compose file are not zero", func(f *forged) {
		n := 0
		f.member = func(p []byte) []byte {
			if bytes.Equal(p, make([]byte, len(p))) && len(p) < 512 {
				if n++; n == 3 {
					p = bytes.Repeat([]byte{1}, len(p))
				}
			}
			return storedMember(p)
		}
	})
	with("images-trailer", "unlisted", "bytes behind the last entry of images.tar", func(f *forged) { f.imageEnd = bytes.Repeat([]byte{'x'}, 512) })
	with("image-config-swapped", "image", "the image manifest names a config and layers other than the signed manifest", func(*forged) {})
	list[len(list)-1].data = swappedImage(t, signer, spec)

	// The manifest.
	manifest("manifest-unknown-key", "manifest-json", `"app": "shop",`, `"app": "shop", "evil": 1,`)
	manifest("manifest-not-json", "manifest-json", `{`, `[`)
	manifest("manifest-deep", "manifest-json", `"platforms": [`, `"platforms": `+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+`, "files2": [`)
	manifest("manifest-trailing", "manifest-json", "\n}\n", "\n}\n{}\n")
	manifest("manifest-duplicate-key", "manifest-canonical", `"app": "shop",`, `"app": "till", "app": "shop",`)
	manifest("manifest-key-case", "manifest-canonical", `"digest":`, `"Digest":`)
	manifest("manifest-white-space", "manifest-canonical", "{\n", "{\n\n")
	manifest("manifest-invalid-utf8", "manifest-canonical", `"first\n"`, "\"fi\xffst\\n\"")
	valid("format-newer", "format", "made for a newer installer", func(m *bundle.Manifest) { m.Format = "valise/2" })
	valid("app-traversal", "app", "the name of the app is a path", func(m *bundle.Manifest) { m.App = "../shop" })
	valid("kind-unknown", "kind", "an unknown kind", func(m *bundle.Manifest) { m.Kind = "vm" })
	valid("version-calendar", "version", "a version with leading zeros", func(m *bundle.Manifest) { m.Version = "2024.11.05" })
	valid("version-traversal", "version", "a version that is a path", func(m *bundle.Manifest) { m.Version = "1.0.0/../../x" })
	valid("created-before-1970", "created-at", "created before 1970", func(m *bundle.Manifest) { m.CreatedAt = m.CreatedAt.AddDate(-100, 0, 0) })
	list[len(list)-1].data = createdBefore1970(t, m, c, signer)
	valid("changelog-escape", "changelog", "a terminal's escape code in the changelog", func(m *bundle.Manifest) { m.Changelog = "\x1b[2J" })
	valid("images-sha256", "images-sha256", "the digest of images.tar is none", func(m *bundle.Manifest) { m.ImagesSHA256 = "x" })
	valid("platforms-none", "platforms", "no platform", func(m *bundle.Manifest) { m.Platforms = []bundle.Platform{} })
	valid("platform-twice", "platforms", "a platform twice", func(m *bundle.Manifest) { m.Platforms = append(m.Platforms, m.Platforms[0]) })
	valid("source-escape", "source", "an escape code in the repository's name", func(m *bundle.Manifest) { m.Source = &bundle.Source{Repository: "\x1b]0;x\a"} })
	for _, p := range []struct{ name, path string }{
		{"absolute", "/etc/passwd"}, {"traversal", "../x"}, {"inner-traversal", "a/../../x"}, {"dot", "./x"}, {"slash", "a/"}, {"empty", ""},
		{"backslash", `a\b`}, {"drive", "c:x"}, {"newline", "a\nb"}, {"combining", "e\u0301"}, {"long", strings.Repeat("a/", 200) + "x"},
	} {
		valid("path-"+p.name, "path", "the path of a file is "+fmt.Sprintf("%.20q", p.path), func(m *bundle.Manifest) { m.Files[0].Path = p.path })
	}
	valid("path-case-collision", "path-collision", "two paths that differ in case alone", func(m *bundle.Manifest) { m.Files[0].Path = "Compose.yaml" })
	valid("path-kelvin-collision", "path-collision", "two paths that differ in a Kelvin sign alone", func(m *bundle.Manifest) {
		m.Files = append([]bundle.File{{Path: "K", Mode: 0o644, Digest: bundle.DigestOf(nil)}}, append(m.Files[1:], bundle.File{Path: "\u212a", Mode: 0o644, Digest: bundle.DigestOf(nil)})...)
	})
	valid("path-reserved", "path-collision", "a file with the name of the table of contents", func(m *bundle.Manifest) { m.Files[2].Path = "toc.json" })
	valid("path-file-as-directory", "path-collision", "a file used as a directory", func(m *bundle.Manifest) { m.Files[2].Path = "compose.yaml/x" })
	valid("files-disordered", "file-order", "files out of order", func(m *bundle.Manifest) { m.Files[0], m.Files[1] = m.Files[1], m.Files[0] })
	valid("file-twice", "file-order", "a file listed twice", func(m *bundle.Manifest) { m.Files[1] = m.Files[0] })
	valid("file-negative", "file-size", "a negative size", func(m *bundle.Manifest) { m.Files[0].Size = -1 })
	valid("file-setuid", "file-mode", "a setuid file", func(m *bundle.Manifest) { m.Files[0].Mode = 0o4755 })
	valid("file-digest", "digest", "a digest that is a path", func(m *bundle.Manifest) { m.Files[0].Digest = "sha256:../../../../etc/passwd" })
	many := func(name, expect, comment string, change func(*bundle.Manifest)) {
		add(name, expect, comment, deflated(t, m, c, signer, change))
	}
	many("files-many", "files", "more files than there may be", func(m *bundle.Manifest) {
		for i := range bundle.MaxFiles {
			m.Files = append(m.Files, bundle.File{Path: fmt.Sprintf("f%06d", i), Mode: 0o644, Digest: bundle.DigestOf(nil)})
		}
	})
	many("platforms-many", "platforms", "more platforms than there may be", func(m *bundle.Manifest) {
		for i := range bundle.MaxPlatforms {
			m.Platforms = append(m.Platforms, bundle.Platform(fmt.Sprintf("linux/a%02d", i)))
		}
	})
	many("components-many", "components", "more images than there may be", func(m *bundle.Manifest) {
		for i := range bundle.MaxComponents {
			other := m.Components[0]
			other.Reference, other.Services = fmt.Sprintf("t%03d", i), []string{fmt.Sprintf("s%03d", i)}
			m.Components, m.Images = append(m.Components, other), append(m.Images, other.Reference)
		}
	})
	many("layers-many", "layers", "an image with more layers than there may be", func(m *bundle.Manifest) {
		layers := &m.Components[0].Images[0].Layers
		for range bundle.MaxLayers {
			*layers = append(*layers, (*layers)[0])
		}
	})
	valid("archive-other", "archive", "an index of images.tar with another digest", func(m *bundle.Manifest) { m.Archive[0].Digest = m.Archive[1].Digest })
	valid("archive-none", "archive", "no entries of images.tar", func(m *bundle.Manifest) { m.Archive = nil })
	valid("components-none", "components", "no image", func(m *bundle.Manifest) { m.Components, m.Images = nil, []string{} })
	valid("images-fewer", "images", "images lists fewer references than there are", func(m *bundle.Manifest) { m.Images = []string{} })
	valid("reference-malformed", "reference", "a reference that is an option", func(m *bundle.Manifest) { m.Components[0].Reference = "--privileged" })
	valid("component-twice", "component-order", "an image listed twice", func(m *bundle.Manifest) {
		m.Components, m.Images = append(m.Components, m.Components[0]), append(m.Images, m.Images[0])
	})
	valid("services-none", "services", "an image that no service runs", func(m *bundle.Manifest) { m.Components[0].Services = nil })
	valid("service-twice", "services", "a service with two images", func(m *bundle.Manifest) { m.Components[0].Services = []string{"api", "api"} })
	valid("platform-missing", "component-platforms", "an image that lacks a platform", func(m *bundle.Manifest) { m.Platforms = append(m.Platforms, "linux/arm64") })
	valid("layers-none", "layers", "an image without layers", func(m *bundle.Manifest) { m.Components[0].Images[0].Layers = []bundle.Layer{} })
	valid("descriptor-size", "descriptor", "a blob with two sizes", func(m *bundle.Manifest) {
		m.Components[0].Images[0].Layers[1].Descriptor.Digest = m.Components[0].Images[0].Layers[0].Digest
	})
	valid("descriptor-zero", "descriptor", "a blob of no bytes", func(m *bundle.Manifest) { m.Components[0].Images[0].Config.Size = 0 })
	valid("device-no-health", "device", "no health check", func(m *bundle.Manifest) { m.Device.Health.Compose = nil })
	valid("device-backup-option", "device", "a database whose name is an option", func(m *bundle.Manifest) {
		m.Device.Backup = []bundle.Backup{{Postgres: &bundle.Postgres{Service: "api", User: "-c", Database: "x"}}}
	})
	valid("device-env-escape", "device", "an escape code in the text of an environment key", func(m *bundle.Manifest) {
		m.Device.Env = map[string]bundle.EnvKey{"A": {Help: "\x1b[2J"}}
	})
	valid("kind-mixed", "kind", "a compose app with a prefix", func(m *bundle.Manifest) { m.Prefix = "shop" })
	valid("device-backup-two", "device", "a backup that is two", func(m *bundle.Manifest) {
		m.Device.Backup = []bundle.Backup{{SQLite: &bundle.SQLite{Service: "api", Path: "/data/a.db"}, Volume: &bundle.Volume{Service: "api", Path: "/data"}}}
	})
	valid("device-backup-path", "device", "a database file that is named from where somebody stands", func(m *bundle.Manifest) {
		m.Device.Backup = []bundle.Backup{{SQLite: &bundle.SQLite{Service: "api", Path: "../a.db"}}}
	})
	valid("device-hook-unlisted", "device", "a hook that is not in the bundle", func(m *bundle.Manifest) {
		m.Device.Hooks = map[string]bundle.Hook{"pre-activate": {Run: []string{"/bin/sh"}, Timeout: bundle.Duration(time.Minute)}}
	})
	valid("device-hook-moment", "device", "a hook at a moment that does not exist", func(m *bundle.Manifest) {
		m.Device.Hooks = map[string]bundle.Hook{"boot": {Service: "api", Run: []string{"x"}, Timeout: bundle.Duration(time.Minute)}}
	})
	valid("device-rollback-never", "device", "an irreversible migration that nobody can go back from", func(m *bundle.Manifest) {
		m.Device.Migration, m.Device.Rollback = bundle.Irreversible, &bundle.Rollback{RestoreData: bundle.RestoreNever}
	})
	valid("device-rollback-nothing", "device", "data that come back from nowhere", func(m *bundle.Manifest) {
		m.Device.Rollback = &bundle.Rollback{RestoreData: bundle.RestoreAlways}
	})
	valid("device-secret-two", "device", "a secret of two kinds", func(m *bundle.Manifest) {
		m.Device.Secrets = map[string]bundle.Secret{"KEY": {Hex: 16, Password: 16}}
	})
	valid("device-secret-short", "device", "a password that can be guessed", func(m *bundle.Manifest) {
		m.Device.Secrets = map[string]bundle.Secret{"KEY": {Password: 6}}
	})
	valid("device-mount-nothing", "device", "a mount of what is not in the bundle", func(m *bundle.Manifest) { m.Device.Mounts = []string{"nginx.conf"} })
	valid("device-mount-part", "device", "a mount of a part of a name", func(m *bundle.Manifest) { m.Device.Mounts = []string{m.Device.Compose[:3]} })
	valid("device-mount-outside", "device", "a mount that leads out of the bundle", func(m *bundle.Manifest) { m.Device.Mounts = []string{"../x"} })
	valid("device-mount-twice", "device", "a mount listed twice", func(m *bundle.Manifest) {
		m.Device.Mounts = []string{m.Device.Compose, m.Device.Compose}
	})
	valid("device-local-updates", "device", "a file of the app where the installer keeps its own", func(m *bundle.Manifest) { m.Device.Local = []string{"updates/x"} })
	valid("device-local-outside", "device", "a file of the app outside of its directory", func(m *bundle.Manifest) { m.Device.Local = []string{"../x"} })
	valid("device-local-twice", "device", "a file of the app that is listed twice", func(m *bundle.Manifest) { m.Device.Local = []string{"x", "x"} })
	valid("device-create-nothing", "device", "networks and volumes to make, and none is named", func(m *bundle.Manifest) { m.Device.Create = &bundle.Create{} })
	valid("device-create-twice", "device", "a network to make that is listed twice", func(m *bundle.Manifest) {
		m.Device.Create = &bundle.Create{Networks: []string{"proxy", "proxy"}}
	})
	valid("device-create-name", "device", "a volume to make whose name is an option", func(m *bundle.Manifest) {
		m.Device.Create = &bundle.Create{Volumes: []string{"a b"}}
	})
	valid("device-volume-itself", "device", "a volume whose data come from itself", func(m *bundle.Manifest) {
		m.Device.Volumes = map[string]bundle.Origin{"data": {From: "data"}}
	})
	valid("device-volume-both", "device", "a volume that is copied and empty", func(m *bundle.Manifest) {
		m.Device.Volumes = map[string]bundle.Origin{"new": {From: "data", Empty: true}}
	})
	valid("device-secret-file", "device", "a secret that is written over releases", func(m *bundle.Manifest) {
		m.Device.Secrets = map[string]bundle.Secret{"KEY": {Hex: 16, File: "releases/x"}}
	})
	valid("device-secret-file-twice", "device", "two secrets in one file", func(m *bundle.Manifest) {
		m.Device.Secrets = map[string]bundle.Secret{"A": {Hex: 16, File: "x"}, "B": {Hex: 16, File: "x"}}
	})
	valid("device-secret-user", "device", "an owner of a secret that is in no file", func(m *bundle.Manifest) {
		m.Device.Secrets = map[string]bundle.Secret{"A": {Hex: 16, User: 999}}
	})
	valid("requires-from", "requires", "an update from something that is no version", func(m *bundle.Manifest) { m.Requires = &bundle.Requires{From: "v1"} })
	valid("requires-nothing", "requires", "requires that says nothing", func(m *bundle.Manifest) { m.Requires = &bundle.Requires{} })
	valid("device-compose-missing", "device", "a compose file that is not in the bundle", func(m *bundle.Manifest) { m.Device.Compose = "other.yaml" })
	return append(list, treeVectors(t, signer)...)
}

// treeVectors are releases that are file trees.
func treeVectors(t *testing.T, signer *verifytest.Signer) []vector {
	files := bundletest.TreeFiles("cloud", "1.2.3")
	m, c := bundletest.Tree(t, bundletest.Spec{}, files)
	var list []vector
	add := func(name, expect, comment string, data []byte) {
		list = append(list, vector{name: "tree-" + name, expect: expect, comment: comment, data: data})
	}
	with := func(name, expect, comment string, change func(*forged)) {
		f := forge(t, m, c, signer.Sign(t, encode(t, m)))
		change(f)
		add(name, expect, comment, f.bytes(t))
	}
	valid := func(name, expect, comment string, change func(*bundle.Manifest)) {
		other := clone(t, m)
		change(other)
		f := forge(t, m, c, signer.Sign(t, encode(t, other)))
		f.find(t, bundle.ManifestName).data = encode(t, other)
		add(name, expect, comment, f.bytes(t))
	}
	add("good", "success", "a file tree for one platform", signer.Bundle(t, m, c))
	both := map[string]string{"linux-arm64/bin/cloud": "\x7fELF arm64", "installer/linux-amd64/valise-installer": "\x7fELF"}
	for p, text := range files {
		if p == "bin/cloud" {
			both["linux-amd64/"+p] = text
			continue
		}
		both["all/"+p] = text
	}
	several, content := bundletest.Tree(t, bundletest.Spec{Platforms: []bundle.Platform{"linux/amd64", "linux/arm64"}}, both)
	add("good-platforms", "success", "a file tree for two platforms", signer.Bundle(t, several, content))
	with("good-stored", "success", "everything stored, an empty table of contents", func(*forged) {})
	with("prefix-other", "entry", "the entries are in another directory than the manifest says", func(f *forged) { f.prefix = "cloud-v9" })
	with("prefix-nested", "entry", "the manifest is in a directory of the directory", func(f *forged) { f.entries[0].name = "x/manifest.json" })
	with("file-outside", "entry", "a file beside the directory", func(f *forged) { f.find(t, "bin/cloud").name = "../bin/cloud" })
	with("file-added", "unlisted", "a file that is not listed", func(f *forged) {
		f.entries = append(f.entries, forgedEntry{name: "web/x.html", data: []byte("x")})
	})
	with("file-missing", "entry", "a listed file is missing", func(f *forged) { f.entries = slices.Delete(f.entries, 3, 4) })
	with("file-swapped", "digest", "the program has other content of the same length", func(f *forged) {
		e := f.find(t, "bin/cloud")
		e.data = bytes.ToUpper(e.data)
	})
	with("symlink", "entry", "a symbolic link in place of a file", func(f *forged) {
		f.find(t, "bin/cloud").header = func(h []byte) { h[156] = '2'; copy(h[157:], "/bin/sh") }
	})
	valid("images", "kind", "a tree with a list of images", func(m *bundle.Manifest) { m.Images = []string{"a"} })
	valid("null", "manifest-canonical", "an empty list where the key must not be", func(m *bundle.Manifest) {})
	f := forge(t, m, c, nil)
	e := f.find(t, bundle.ManifestName)
	e.data = bytes.Replace(e.data, []byte(`"prefix"`), []byte(`"images": [], "prefix"`), 1)
	list[len(list)-1].data = f.bytes(t)
	valid("prefix", "prefix", "a prefix that is a path", func(m *bundle.Manifest) { m.Prefix = "../.." })
	valid("directory", "device", "a bundle of two platforms in which no tree has the unit", func(m *bundle.Manifest) { m.Platforms = append(m.Platforms, "linux/arm64") })
	valid("reserved", "path-collision", "a file for all platforms with the name of the manifest", func(m *bundle.Manifest) {
		*m = *clone(t, several)
		m.Files[0].Path = "all/Manifest.json"
	})
	valid("collision", "path-collision", "a file of one platform that is a directory for all", func(m *bundle.Manifest) {
		*m = *clone(t, several)
		m.Files[len(m.Files)-1].Path = "linux-arm64/web"
	})
	valid("twice", "file-order", "a file both for all platforms and for one", func(m *bundle.Manifest) {
		*m = *clone(t, several)
		m.Files[len(m.Files)-1].Path = "linux-arm64/web/index.html"
	})
	valid("version", "tree-version", "VERSION is that of another release", func(m *bundle.Manifest) { m.Version = "1.2.4" })
	valid("required", "tree-required", "a required path is missing", func(m *bundle.Manifest) { m.Device.Tree.Required = []string{"scripts/run"} })
	valid("unit-missing", "device", "the unit is not in the tree", func(m *bundle.Manifest) { m.Device.Tree.Units = []string{"cloud.service"} })
	valid("unit-name", "device", "a unit whose name is that of something else", func(m *bundle.Manifest) { m.Device.Tree.Units = []string{"web/index.html"} })
	valid("unit-instance", "device", "an instance of a template that is not there", func(m *bundle.Manifest) { m.Device.Tree.Instances = []string{"sshd@1.service"} })
	for _, p := range []struct{ name, path string }{
		{"shadow", "/etc/shadow"}, {"trust", "/etc/valise/cloud.yaml"}, {"systemd", "/etc/systemd/system/x.service"}, {"traversal", "/etc/cloud/../shadow"}, {"releases", "/opt/cloud/releases/x"}, {"relative", "etc/cloud/cloud.env"}, {"root", "/root/.ssh/authorized_keys"},
	} {
		valid("env-file-"+p.name, "device", "the environment file is "+p.path, func(m *bundle.Manifest) { m.Device.Tree.EnvFile = p.path })
	}
	valid("template-to-env", "device", "a template that replaces the environment file", func(m *bundle.Manifest) {
		m.Device.Tree.Templates = []bundle.Template{{From: "web/index.html", To: m.Device.Tree.EnvFile, Mode: 0o644}}
	})
	valid("template-mode", "device", "a template with a setuid mode", func(m *bundle.Manifest) {
		m.Device.Tree.Templates = []bundle.Template{{From: "web/index.html", To: "/etc/cloud/x", Mode: 0o4755}}
	})
	return list
}

// swappedImage is a bundle whose manifest lists one layer fewer than the image
// manifest it pins.
func swappedImage(t *testing.T, signer *verifytest.Signer, spec bundletest.Spec) []byte {
	m, c := bundletest.Release(t, spec)
	img := &m.Components[0].Images[0]
	img.Layers = img.Layers[:1]
	if err := m.Finish(); err != nil {
		t.Fatal(err)
	}
	return forge(t, m, c, signer.Sign(t, encode(t, m))).bytes(t)
}

// deflated is a bundle whose manifest is changed, and deflated because it is large.
func deflated(t *testing.T, m *bundle.Manifest, c *bundletest.Content, signer *verifytest.Signer, change func(*bundle.Manifest)) []byte {
	other := clone(t, m)
	change(other)
	f := forge(t, m, c, signer.Sign(t, encode(t, other)))
	f.find(t, bundle.ManifestName).data = encode(t, other)
	f.member = func(p []byte) []byte {
		if len(p) > 64<<10 {
			return deflatedMember(t, p)
		}
		return storedMember(p)
	}
	return f.bytes(t)
}

func createdBefore1970(t *testing.T, m *bundle.Manifest, c *bundletest.Content, signer *verifytest.Signer) []byte {
	other := clone(t, m)
	other.CreatedAt = other.CreatedAt.AddDate(-100, 0, 0)
	f := forge(t, m, c, signer.Sign(t, encode(t, other)))
	f.find(t, bundle.ManifestName).data = encode(t, other)
	return f.bytes(t)
}

func encode(t testing.TB, m *bundle.Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func clone(t testing.TB, m *bundle.Manifest) *bundle.Manifest {
	t.Helper()
	other := new(bundle.Manifest)
	if err := json.Unmarshal(encode(t, m), other); err != nil {
		t.Fatal(err)
	}
	return other
}

func deflatedMember(t testing.TB, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, 9)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(p)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	out := b.Bytes()
	copy(out, bundle.GzipHeader)
	return out
}

// FuzzOpen takes any bytes for a bundle. Bombs and large seeds are left out: making
// one of those smaller takes the fuzzer a minute.
func FuzzOpen(f *testing.F) {
	for _, v := range readVectors(f) {
		if len(v.data) < 6<<10 {
			f.Add(v.data)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 64<<10 {
			checkFuzzed(t, b)
		}
	})
}

// FuzzDamage puts bytes in the place of others in bundles that are good. So it gets
// behind checksums and into every framing with small inputs.
func FuzzDamage(f *testing.F) {
	var good [][]byte
	for _, v := range readVectors(f) {
		if v.expect == "success" && v.verify == "" && len(v.data) < 32<<10 {
			f.Add(uint8(len(good)), uint16(600), uint16(1), []byte{0})
			good = append(good, v.data)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, at, cut uint16, put []byte) {
		b := good[int(which)%len(good)]
		from := int(at) % (len(b) + 1)
		to := min(from+int(cut), len(b))
		if len(put) < 8<<10 {
			checkFuzzed(t, slices.Concat(b[:from], put, b[to:]))
		}
	})
}

// checkFuzzed: a file is refused, or everything in it is what its manifest says,
// whichever way it is read.
func checkFuzzed(t *testing.T, b []byte) {
	r, err := open(b)
	if err != nil {
		if !errors.As(err, new(*bundle.FormatError)) {
			t.Errorf("%v is no refusal", err)
		}
		return
	}
	m := r.Manifest()
	all, err := readAll(r, m)
	for _, f := range m.Files {
		if r.HasFile(f.Path) && bundle.DigestOf(all[f.Path]) != f.Digest {
			t.Errorf("%s is not what the manifest says: %v", f.Path, err)
		}
	}
	for _, d := range m.Blobs() {
		if r.HasBlob(d.Digest) && bundle.DigestOf(all[string(d.Digest)]) != d.Digest {
			t.Errorf("%s is not what the manifest says: %v", d.Digest, err)
		}
	}
	remote, err := located(b)
	if err != nil {
		return // the table of contents is no use
	}
	some, _ := readAll(remote, m)
	for name, data := range some {
		if !bytes.Equal(data, all[name]) {
			t.Errorf("%s differs when it is found by the table of contents", name)
		}
	}
}
