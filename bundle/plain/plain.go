// Package plain shows text of strangers as what it is: a file name, an error text of a
// server or a certificate may hold characters that move a terminal's cursor, turn the
// order of what follows, or cannot be seen.
package plain

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Text returns s with every character that cannot be seen as itself written as an
// escape: \x1b, \u202e. Line ends and tabs stay. JSON stays the JSON of the same
// values: what it may hold of such characters is in its strings, and means the same
// there as the escape.
func Text(s string) string {
	if strings.IndexFunc(s, hidden) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1, hidden(r) && r < ' ':
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case hidden(r) && r > 0xffff: // as JSON does
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		case hidden(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// hidden are controls, and what has no form of its own: bidirectional and zero-width
// ones, private and unassigned ones, and the letters that are blank.
func hidden(r rune) bool {
	switch r {
	case '\n', '\t':
		return false
	case '\u034f', '\u115f', '\u1160', '\u17b4', '\u17b5', '\u2800', '\u3164', '\uffa0':
		return true
	}
	return !unicode.IsGraphic(r)
}

// Writer writes what is Text of what it gets. It may be used by several goroutines.
type Writer struct {
	out io.Writer

	mu   sync.Mutex
	rest []byte // the beginning of a character
}

// NewWriter returns a Writer to out, which is returned when it is one already.
func NewWriter(out io.Writer) *Writer {
	if w, ok := out.(*Writer); ok {
		return w
	}
	return &Writer{out: out}
}

func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(w.rest, p...)
	end := len(all)
	for i := max(0, end-utf8.UTFMax+1); i < end; i++ {
		if utf8.RuneStart(all[i]) && !utf8.FullRune(all[i:]) {
			end = i
		}
	}
	w.rest = append([]byte(nil), all[end:]...)
	if _, err := io.WriteString(w.out, Text(string(all[:end]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Raw is the writer below a Writer, or w itself.
func Raw(w io.Writer) io.Writer {
	if c, ok := w.(*Writer); ok {
		return c.out
	}
	return w
}
