package environ

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/dotenv"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Systemd is the grammar of EnvironmentFile=, as the environment file of a file
// tree has it: nothing is expanded, a number sign behind a value belongs to it, and
// a line that is not an assignment is passed over.
var Systemd = &Grammar{parse: parseSystemd, scan: func(data []byte) []statement {
	statements, _, _ := scanSystemd(string(data), false)
	return statements
}, quote: quoteSystemd}

// parseSystemd refuses what versions of systemd read differently: until 254 a
// backslash at the end of a comment made the next line a part of it.
func parseSystemd(data []byte, _ dotenv.LookupFn) (map[string]string, error) {
	text := string(data)
	if strings.ContainsRune(text, 0) {
		return nil, errors.New("parse: it has a zero byte")
	}
	statements, _, err := scanSystemd(text, false)
	if err != nil {
		return nil, err
	}
	if older, _, err := scanSystemd(text, true); err != nil || !slices.Equal(assignments(older), assignments(statements)) {
		return nil, fmt.Errorf("parse: line %d: a comment ends with a backslash, and some versions of systemd then take the next line for a part of it", continuedComment(text))
	}
	values := map[string]string{}
	for _, st := range statements {
		if !validText(st.key) || !validText(st.value) {
			return nil, fmt.Errorf("parse: line %d is not UTF-8, and systemd then reads nothing of the file", lineOf(text, st.start))
		}
		if st.sets() {
			values[st.key] = st.value
		}
	}
	return values, nil
}

// sets reports whether systemd takes the statement over: others it warns of, and
// passes over.
func (st statement) sets() bool { return bundle.ValidEnvKey(st.key) }

func assignments(statements []statement) (list []string) {
	for _, st := range statements {
		if st.sets() {
			list = append(list, st.key+"="+st.value)
		}
	}
	return list
}

// validText reports whether systemd takes s for UTF-8: it has no noncharacters.
func validText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE })
}

func lineOf(text string, pos int) int { return 1 + strings.Count(text[:pos], "\n") }

// continuedComment is the line of the first comment that ends with a backslash.
func continuedComment(text string) int {
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); (strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";")) && strings.HasSuffix(line, `\`) {
			return i + 1
		}
	}
	return 1
}

// scanSystemd finds the statements of a file, and the positions of lines that
// assign nothing. continued is how systemd before 254 reads comments.
func scanSystemd(text string, continued bool) (all []statement, idle []int, err error) {
	for pos := 0; ; {
		pos += len(text[pos:]) - len(strings.TrimLeft(text[pos:], " \t\r\n"))
		if pos == len(text) {
			return all, idle, nil
		}
		if text[pos] == '#' || text[pos] == ';' {
			pos = commentEnd(text, pos, continued)
			continue
		}
		i := 1 + strings.IndexAny(text[pos+1:], "=\r\n") // the first character is one of the key, even =
		if i == 0 || text[pos+i] != '=' {
			idle = append(idle, pos)
			if i == 0 {
				return all, idle, nil
			}
			pos += i
			continue
		}
		st := statement{key: strings.TrimRight(text[pos:pos+i], " \t")}
		if !st.scanValue(text, pos+i+1) {
			return nil, nil, fmt.Errorf("parse: the quotes that begin in line %d do not end", lineOf(text, pos))
		}
		all = append(all, st)
		pos = st.end
	}
}

// commentEnd is where the comment at pos ends.
func commentEnd(text string, pos int, continued bool) int {
	for ; pos < len(text); pos++ {
		switch {
		case text[pos] == '\n' || text[pos] == '\r':
			return pos
		case text[pos] == '\\' && continued:
			pos++
		}
	}
	return len(text)
}

// scanValue reads the value that begins at pos and reports whether its quotes end.
// Quotes count before other text only, one after the other.
func (st *statement) scanValue(text string, pos int) bool {
	blanks := len(text[pos:]) - len(strings.TrimLeft(text[pos:], " \t"))
	st.start, st.end = pos+blanks, pos+blanks
	if rest := text[st.start:]; rest == "" || rest[0] == '\n' || rest[0] == '\r' {
		st.start, st.end = pos, pos
		return true
	}
	var value []byte
	for pos = st.start; pos < len(text) && strings.IndexByte(" \t'\"", text[pos]) >= 0; {
		if text[pos] == ' ' || text[pos] == '\t' {
			pos++
			continue
		}
		inner, next, ok := unquoteSystemd(text, pos)
		if !ok {
			return false
		}
		value = append(value, inner...)
		pos, st.end = next, next
	}
	// Bare text goes to the end of the line. A backslash keeps the character after it, or
	// joins the next line. Blanks at the end are no part of it.
	keep := len(value)
	for ; pos < len(text) && text[pos] != '\n' && text[pos] != '\r'; pos++ {
		switch c := text[pos]; {
		case c == '\\':
			pos++
			if pos < len(text) && text[pos] != '\n' && text[pos] != '\r' {
				value = append(value, text[pos])
			}
			keep, st.end = len(value), min(pos+1, len(text))
		case c == ' ' || c == '\t':
			value = append(value, c)
		default:
			value = append(value, c)
			keep, st.end = len(value), pos+1
		}
	}
	st.value = string(value[:keep])
	return true
}

// unquoteSystemd reads what is in the quotes at pos: as it is in single ones; in
// double ones a backslash counts before what a shell would replace, and at the end
// of a line.
func unquoteSystemd(text string, pos int) (inner []byte, next int, ok bool) {
	quote := text[pos]
	for i := pos + 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == quote:
			return inner, i + 1, true
		case c == '\\' && quote == '"' && i+1 < len(text):
			i++
			switch text[i] {
			case '"', '\\', '`', '$':
				inner = append(inner, text[i])
			case '\n':
			default:
				inner = append(inner, '\\', text[i])
			}
		default:
			inner = append(inner, c)
		}
	}
	return nil, 0, false
}

// quoteSystemd writes a value so that every version of systemd, and a shell that
// reads the file, has the same of it.
func quoteSystemd(value string) (ways []string) {
	if plainValue.MatchString(value) {
		ways = append(ways, value)
	}
	if !strings.ContainsAny(value, `'\`) {
		ways = append(ways, "'"+value+"'")
	}
	return append(ways, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(value)+`"`)
}

var lateComment = lazyregexp.New(`(?m)[ \t]#`)

// Remarks says of which lines systemd makes something else than they look like. A
// file in compose's grammar has none: what it cannot read there is an error.
func (f *File) Remarks() (remarks []string) {
	if f.grammar != Systemd {
		return nil
	}
	text := string(f.data)
	statements, idle, _ := scanSystemd(text, false)
	lines := map[int]string{}
	for _, pos := range idle {
		lines[lineOf(text, pos)] = "is not KEY=VALUE, and systemd passes it over"
	}
	for _, st := range statements {
		switch line := lineOf(text, st.start); {
		case strings.HasPrefix(st.key, "export "):
			lines[line] = "begins with export, and systemd passes it over"
		case !bundle.ValidEnvKey(st.key):
			lines[line] = "has a key that can be none, and systemd passes it over"
		case lateComment.MatchString(text[st.start:st.end]) && !strings.ContainsAny(text[st.start:st.start+1], `'"`):
			lines[line] = "has a # behind its value: systemd takes it for a part of the value of " + st.key
		}
	}
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		remarks = append(remarks, fmt.Sprintf("line %d %s", line, lines[line]))
	}
	return remarks
}
