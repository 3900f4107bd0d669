package environ

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/valise-ota/valise/bundle"
)

func mustParse(t *testing.T, data string) *File {
	t.Helper()
	f, err := Compose.Parse([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func wantErr(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Fatalf("got error %v, want one with %q", err, part)
	}
}

const sample = "# Shop\r\n" +
	"export APP=shop   # name\r\n" +
	"EMPTY=\r\n" +
	"\r\n" +
	"  URL: http://${APP}.example/${NONE:-none}\r\n" +
	"SINGLE='a # $b \\' c' # why\r\n" +
	"DOUBLE=\"x\\n$$y ${APP} \\\"z\\\"\"\r\n" +
	"INHERITED\r\n" +
	"APP=again\r\n" +
	"LINES='one\ntwo=2'\r\n" +
	"LAST=end"

func TestParse(t *testing.T) {
	f := mustParse(t, "\uFEFF"+sample)
	want := map[string]string{
		"APP": "again", "EMPTY": "", "URL": "http://shop.example/none", "SINGLE": "a # $b ' c",
		"DOUBLE": "x\n$y shop \"z\"", "LINES": "one\ntwo=2", "LAST": "end",
	}
	for key, v := range want {
		if got, ok := f.Lookup(key); !ok || got != v {
			t.Errorf("%s is %q, %v, want %q", key, got, ok, v)
		}
	}
	if got := strings.Join(f.Keys(), " "); got != "APP EMPTY URL SINGLE DOUBLE LINES LAST" {
		t.Errorf("keys %s", got)
	}
	if _, ok := f.Lookup("INHERITED"); ok {
		t.Error("INHERITED is set by a file that does not set it")
	}
	if got := f.Missing([]string{"APP", "EMPTY", "INHERITED", "NOWHERE", "LAST"}); !reflect.DeepEqual(got, []string{"EMPTY", "INHERITED", "NOWHERE"}) {
		t.Errorf("missing %v", got)
	}
	if string(f.Bytes()) != "\uFEFF"+sample {
		t.Error("bytes changed")
	}
	for _, tc := range []struct{ data, part string }{
		{"A=1\nB='hunter2", "line 2"},
		{"A=1\nhunter2 hunter2=x", "line 2"},
		{"A=1\nB;hunter2=x", "line 2"},
		{"A=${hunter2", "in an unknown form"},
		{"A=${B:?hunter2}", "requires one that is missing"},
	} {
		_, err := Compose.Parse([]byte(tc.data))
		wantErr(t, err, tc.part)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a part of the file: %v", err)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".env")
	f, err := Compose.Load(path)
	if err != nil || len(f.Bytes()) != 0 || f.Keys() != nil {
		t.Fatalf("missing file: %+v, %v", f, err)
	}
	// Nothing is run: what a shell would run is text.
	if err := os.WriteFile(path, []byte("A=$(id)\nB=`id`;id\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err = Compose.Load(path)
	if err != nil || f.values["A"] != "$(id)" || f.values["B"] != "`id`;id" {
		t.Fatalf("got %q, %v", f.values, err)
	}
	_, err = Compose.Load(t.TempDir())
	wantErr(t, err, "is a directory")
}

func TestSet(t *testing.T) {
	for _, tc := range []struct{ name, before, key, value, after string }{
		{"empty file", "", "A", "1", "A=1\n"},
		{"at the end", "# c\nB=2\n", "A", "1", "# c\nB=2\nA=1\n"},
		{"no newline at the end", "B=2", "A", "1", "B=2\nA=1\n"},
		{"after a comment without newline", "B=2\n# end", "A", "1", "B=2\n# end\nA=1\n"},
		{"crlf", "B=2\r\nC=3", "A", "x y", "B=2\r\nC=3\r\nA='x y'\r\n"},
		{"crlf in place", "B=2\r\nA=1 # one\r\nC=3\r\n", "A", "2", "B=2\r\nA=2 # one\r\nC=3\r\n"},
		{"crlf empty", "A=\r\nC=3\r\n", "A", "2", "A=2\r\nC=3\r\n"},
		{"comment and spaces stay", "  export A = 1  # one\n", "A", "2", "  export A = 2  # one\n"},
		{"empty value", "A=\nB=2\n", "A", "1", "A=1\nB=2\n"},
		{"empty value at the end", "A=", "A", "1", "A=1"},
		{"to empty", "A=1\n", "A", "", "A=''\n"},
		{"hash in the old value", "A=a#b # c\n", "A", "2", "A=2 # c\n"},
		{"colon", "A: 1\n", "A", "2", "A: 2\n"},
		{"quoted in place", "A=\"x\ny\" # c\nB=2\n", "A", "z", "A=z # c\nB=2\n"},
		{"last of two", "A=1\nB=${A}\nA=2\n", "A", "3", "A=1\nB=${A}\nA=3\n"},
		{"inherited", "A\nB=2\n", "A", "1", "A=1\nB=2\n"},
		{"reference to it stays", "A=1\nB=x${A}y${A:-n}\n", "A", "2", "A=2\nB=x${A}y${A:-n}\n"},
		{"no prefix of a key", "AA=1\nXA=2\n# A=3\n", "A", "4", "AA=1\nXA=2\n# A=3\nA=4\n"},
		{"looks like a key in a value", "B='\nA=1\n'\n", "A", "4", "B='\nA=1\n'\nA=4\n"},
		{"bom", "\uFEFFA=1\n", "A", "2", "\uFEFFA=2\n"},
		{"dollar", "A=1\n", "A", "p$x${y}$$", "A='p$x${y}$$'\n"},
		{"single quote", "A=1\n", "A", "it's", `A='it\'s'` + "\n"},
		{"backslash at the end", "A=1\n", "A", `c:\`, `A="c:\\"` + "\n"},
		{"backslash and quotes", "A=1\n", "A", `\'"$`, `A="\\'\"$$"` + "\n"},
		{"lines", "A=1\nB=2\n", "A", "x\nB=3\n", "A='x\nB=3\n'\nB=2\n"},
		{"comment sign", "A=1\n", "A", "x #y", "A='x #y'\n"},
		{"same", "A='x'\n", "A", "x", "A=x\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := mustParse(t, tc.before)
			if err := f.Set(tc.key, tc.value); err != nil {
				t.Fatal(err)
			}
			if got := string(f.Bytes()); got != tc.after {
				t.Errorf("got  %q\nwant %q", got, tc.after)
			}
			if got, ok := f.Lookup(tc.key); !ok || got != tc.value {
				t.Errorf("reads back %q, %v", got, ok)
			}
		})
	}
	f := mustParse(t, sample)
	for _, tc := range []struct{ key, value, part string }{
		{"", "x", "cannot be a key"}, {"A B", "x", "cannot be a key"}, {"A=1\nB", "x", "cannot be a key"},
		{"1A", "x", "cannot be a key"}, {"A", "a\x00b", "zero byte"},
	} {
		wantErr(t, f.Set(tc.key, tc.value), tc.part)
	}
	if string(f.Bytes()) != sample {
		t.Error("a refused Set changed the file")
	}
}

// nasty holds the characters that mean something to a parser.
var nasty = []string{"a", "B", "0", " ", "\t", "\r", "\n", "\r\n", "#", " #", "'", `"`, `\`, "$", "$$", "${", "}", "${A}", "$A", "=", ":", "`", "\\n", "\\0", "\\$", "%", ";", "ä", "\u00a0", "\u0085", "\xff", "\uFEFF", "export "}

func randomText(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(12) {
		b.WriteString(nasty[r.IntN(len(nasty))])
	}
	return b.String()
}

// Every value can be set, reads back exactly, and leaves the other keys alone.
func TestSetProperty(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	bases := []string{"", sample, "A=1", "# c\nA=\nB=2", "A\nZ='q'\n", "export A=\"x\" B=2\nA='y'#z\n"}
	for i := range 5_000 {
		base := bases[i%len(bases)]
		f := mustParse(t, base)
		before := maps.Clone(f.values)
		key, value := []string{"A", "NEW", "LAST", "INHERITED"}[r.IntN(4)], randomText(r)
		if err := f.Set(key, value); err != nil {
			t.Fatalf("set %s to %q in %q: %v", key, value, base, err)
		}
		after, err := dotenv.Parse(bytes.NewReader(f.Bytes()))
		if err != nil || after[key] != value {
			t.Fatalf("set %s to %q in %q: reads back %q, %v\n%s", key, value, base, after[key], err, f.Bytes())
		}
		delete(before, key)
		delete(after, key)
		if !maps.Equal(before, after) {
			t.Fatalf("set %s to %q in %q: others became %q\n%s", key, value, base, after, f.Bytes())
		}
		// Set again: in place, and back to where it was.
		once := f.Bytes()
		if err := f.Set(key, "other"); err != nil {
			t.Fatal(err)
		}
		if err := f.Set(key, value); err != nil || !bytes.Equal(f.Bytes(), once) {
			t.Fatalf("set %s to %q and back in %q: %v\n%q\n%q", key, value, base, err, once, f.Bytes())
		}
	}
}

func seeds(f *testing.F, add func(data string)) {
	for _, s := range []string{sample, "\uFEFFA=1", "A", "A\n", "export\nA=1", "export A", "A=1 B=2", "A='x' B=2 # c", "=x", ":", "A = 'x'#", "A=\r", "\u0085A=\u00a0x\u00a0\n", "A=\\", "A='\\\\'\nB=\"\\\\\\\"\""} {
		add(s)
	}
}

// scan finds the keys that dotenv finds, where it finds them.
func FuzzScan(f *testing.F) {
	seeds(f, func(data string) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data string) {
		same := func(key string) (string, bool) { return "<" + key + ">", true }
		want, err := parse([]byte(data), same)
		if err != nil {
			return
		}
		found := map[string]bool{}
		pos := 0
		for _, st := range scan([]byte(data)) {
			if st.start < pos || st.end < st.start || st.end > len(data) {
				t.Fatalf("%q: statement %+v after %d", data, st, pos)
			}
			pos = st.end
			if st.key != "" {
				found[st.key] = true
			}
		}
		if got, want := slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(want)); !slices.Equal(got, want) {
			t.Fatalf("%q: scan found %q, dotenv %q", data, got, want)
		}
	})
}

// Set in any file either changes one value or, with an error, nothing.
func FuzzSet(f *testing.F) {
	seeds(f, func(data string) { f.Add(data, "A", "x'\\") })
	f.Fuzz(func(t *testing.T, data, key, value string) {
		file, err := Compose.Parse([]byte(data))
		if err != nil {
			return
		}
		before := maps.Clone(file.values)
		if err := file.Set(key, value); err != nil {
			if string(file.Bytes()) != data || !maps.Equal(before, file.values) {
				t.Fatalf("%q: refused, yet changed to %q", data, file.Bytes())
			}
			return
		}
		after, err := dotenv.Parse(bytes.NewReader(file.Bytes()))
		if err != nil || after[key] != value {
			t.Fatalf("%q: %s reads back %q, %v, want %q", data, key, after[key], err, value)
		}
		if strings.Contains(data, "$") {
			return // others may refer to the key
		}
		delete(after, "")
		delete(before, key)
		delete(after, key)
		if !maps.Equal(before, after) {
			t.Fatalf("%q: others were %q, became %q", data, before, after)
		}
	})
}

func TestGenerate(t *testing.T) {
	for _, tc := range []struct {
		secret       bundle.Secret
		random, want string
	}{
		{bundle.Secret{Hex: 8, Prefix: "Shop-"}, "\x00\x01\xab\xff\x22\x33\x44\x55\x66", "Shop-0001abff22334455"},
		{bundle.Secret{Base64: 8}, "\x00\x01\xab\xff\x22\x33\x44\xfb", "AAGr/yIzRPs="},
		{bundle.Secret{Password: 12}, strings.Repeat("\x00\x38\x39", 4), strings.Repeat("A9A", 4)},
		{bundle.Secret{Password: 12}, "\xe3" + strings.Repeat("\xff", 11) + strings.Repeat("\xe4", 20) + strings.Repeat("\x01", 11), "9BBBBBBBBBBB"},
	} {
		if got, err := Generate(tc.secret, strings.NewReader(tc.random)); err != nil || got != tc.want {
			t.Errorf("%+v: got %q, %v, want %q", tc.secret, got, err, tc.want)
		}
	}
	broken := errors.New("no entropy")
	for _, r := range []struct {
		secret bundle.Secret
		part   string
	}{{bundle.Secret{Hex: 8}, "no entropy"}, {bundle.Secret{}, "want one of"}, {bundle.Secret{Hex: 4}, "want 8 to 128"}} {
		got, err := Generate(r.secret, iotest.ErrReader(broken))
		wantErr(t, err, r.part)
		if got != "" {
			t.Errorf("a secret %q without entropy", got)
		}
	}
	for _, secret := range []bundle.Secret{{Hex: 8}, {Base64: 8}, {Password: 12}} {
		_, err := Generate(secret, strings.NewReader("abc"))
		wantErr(t, err, "unexpected EOF")
	}
}

func TestExpand(t *testing.T) {
	f := mustParse(t, "PORT=8080\nEMPTY=\nDOLLAR='$PORT'\n")
	for _, tc := range []struct{ in, out, err string }{
		{"http://127.0.0.1:${PORT}/health", "http://127.0.0.1:8080/health", ""},
		{"http://127.0.0.1:${NONE:-80}/${EMPTY:-e}${PORT:-no}", "http://127.0.0.1:80/e8080", ""},
		{"${EMPTY}${NONE:-}", "", ""},
		{"${DOLLAR}", "$PORT", ""}, // once only
		{"plain {x}", "plain {x}", ""},
		{"${NONE}/${NADA}", "", "does not set NONE, NADA"},
		{"$PORT", "", "want only"},
		{"$$", "", "want only"},
		{"$${PORT}", "", "want only"},
		{"${PORT", "", "want only"},
		{"${}", "", "want only"},
		{"${PORT-80}", "", "want only"},
		{"${PORT:?x}", "", "want only"},
		{"${NONE:-${PORT}}", "", "want only"},
		{"${PO RT}", "", "want only"},
		{"$(id)", "", "want only"},
	} {
		got, err := f.Expand(tc.in)
		if tc.err != "" {
			wantErr(t, err, tc.err)
		} else if err != nil || got != tc.out {
			t.Errorf("%s: got %q, %v, want %q", tc.in, got, err, tc.out)
		}
	}
}
