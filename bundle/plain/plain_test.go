package plain

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"shop 1.0.0\n\tfine, Grüße, 日本, שלום, 🎉": "shop 1.0.0\n\tfine, Grüße, 日本, שלום, 🎉",
		"\x1b]0;owned\a\x1b[2J":                  `\x1b]0;owned\x07\x1b[2J`,
		"good\rbad\b\x7f\u009b31m":               `good\x0dbad\x08\u007f\u009b31m`,
		"gepj.\u202egnp\u2066\u061c\u200f":       `gepj.\u202egnp\u2066\u061c\u200f`,
		"a\u200bb\ufeffc\u00add\u2060e\u3164":    `a\u200bb\ufeffc\u00add\u2060e\u3164`,
		"line\u2028next\u0085":                   `line\u2028next\u0085`,
		"tag\U000e0041 private\ue000":            `tag\udb40\udc41 private\ue000`,
		"cut \xe2\x80 latin \xff\x9b":            `cut \xe2\x80 latin \xff\x9b`,
		"\ufffd":                                 "\ufffd",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", in, got, want)
		}
	}
}

// FuzzText: whatever comes, nothing hidden goes out, however it is cut into writes, and
// JSON means what it meant.
func FuzzText(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31m", "\u202e\u2066", "\\\u200b", "\xe2\x80", "\U000e0041\U0001f389"} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, s string, cut int) {
		got := Text(s)
		if strings.IndexFunc(got, hidden) >= 0 || !utf8.ValidString(got) {
			t.Fatalf("%q comes out as %q", s, got)
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		i := min(max(cut, 0), len(s))
		for _, part := range []string{s[:i], s[i:], "\n"} {
			if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if out.String() != got+"\n" {
			t.Fatalf("%q in parts comes out as %q, want %q", s, out.String(), got)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want, have string
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(Text(string(b))), &have); err != nil || have != want {
			t.Fatalf("%q as JSON comes out as %s (%v)", s, Text(string(b)), err)
		}
	})
}
