package environ

import (
	"bytes"
	"strings"
	"unicode"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// statement is where one KEY=value stands in a file.
type statement struct {
	key        string
	value      string // systemd's grammar only
	start, end int    // of the value, with its quotes
	inherited  bool   // a KEY without "=": start and end are where "=value" goes
}

var (
	bom          = []byte("\uFEFF")
	exportPrefix = lazyregexp.New(`^export\s+`)
)

// scan finds the statements of a file that dotenv accepts. dotenv does not say
// where a value stands, so this follows its parser step by step; Set proves each
// edit with dotenv itself, and a fuzz test that both find the same keys.
func scan(data []byte) []statement {
	src := string(data)
	pos := len(data) - len(bytes.TrimPrefix(data, bom))
	var all []statement
	for {
		pos = skipToStatement(src, pos)
		if pos == len(src) {
			return all
		}
		st, next := scanStatement(src, pos)
		all = append(all, st)
		pos = next
	}
}

// skipToStatement skips white space and comments.
func skipToStatement(src string, pos int) int {
	for {
		pos += len(src[pos:]) - len(strings.TrimLeftFunc(src[pos:], unicode.IsSpace))
		if !strings.HasPrefix(src[pos:], "#") {
			return pos
		}
		pos = lineEnd(src, pos)
	}
}

// lineEnd is the position of the next line feed, or of the end.
func lineEnd(src string, pos int) int {
	if i := strings.IndexByte(src[pos:], '\n'); i >= 0 {
		return pos + i
	}
	return len(src)
}

func scanStatement(src string, pos int) (st statement, next int) {
	if exportPrefix.MatchString(src[pos:]) {
		pos = skipBlanks(src, pos+len("export"))
	}
	valuePos := pos // a last line without a separator is a value without a key
	if i := strings.IndexAny(src[pos:], "=:\n"); i >= 0 {
		st.key = strings.TrimRightFunc(src[pos:pos+i], unicode.IsSpace)
		st.inherited = src[pos+i] == '\n'
		valuePos = pos + i + 1
	}
	if st.inherited {
		st.start = pos + len(st.key)
		st.end = st.start
		return st, valuePos
	}
	st.start = skipBlanks(src, valuePos)
	if st.start < len(src) && (src[st.start] == '"' || src[st.start] == '\'') {
		st.end = quoteEnd(src, st.start)
		return st, st.end
	}
	next = lineEnd(src, st.start)
	value, _, _ := strings.Cut(src[st.start:next], " #")
	value = strings.TrimRightFunc(value, unicode.IsSpace)
	if value == "" {
		st.start = valuePos // before the carriage return, if there is one
	}
	st.end = st.start + len(value)
	return st, min(next+1, len(src))
}

// quoteEnd is the position after the closing quote of the value at pos.
func quoteEnd(src string, pos int) int {
	escaped := false
	for i := pos + 1; i < len(src); i++ {
		switch {
		case escaped:
			escaped = false
		case src[i] == '\\':
			escaped = true
		case src[i] == src[pos]:
			return i + 1
		}
	}
	return len(src)
}

// skipBlanks skips the white space that does not end a line.
func skipBlanks(src string, pos int) int {
	rest := strings.TrimLeftFunc(src[pos:], func(r rune) bool {
		return strings.ContainsRune("\t\v\f\r \u0085\u00a0", r)
	})
	return len(src) - len(rest)
}

// Comments returns the comment right above each key that has one, without its
// number signs: in an example file it says what the key is for.
func (f *File) Comments() map[string]string {
	comments := map[string]string{}
	for _, st := range f.grammar.scan(f.data) {
		var lines []string
		above := f.data[:bytes.LastIndexByte(f.data[:st.start], '\n')+1]
		for len(above) > 0 {
			start := bytes.LastIndexByte(above[:len(above)-1], '\n') + 1
			text, ok := strings.CutPrefix(strings.TrimSpace(string(above[start:])), "#")
			if !ok {
				break
			}
			lines = append([]string{strings.TrimSpace(strings.TrimLeft(text, "#"))}, lines...)
			above = above[:start]
		}
		if help := strings.TrimSpace(strings.Join(lines, "\n")); help != "" {
			comments[st.key] = help
		}
	}
	return comments
}
