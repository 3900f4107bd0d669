package ota

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"html"
	"strings"
	"sync"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Release notes are whatever somebody wrote. They are Markdown, whose parsers take
// a time that grows with the square of some inputs and make much of little: a row
// of a table has all the columns of its head. So it is estimated first what notes
// would cost, and those that cost too much, or give too much, are shown as text.

const (
	maxNotes   = 64 << 10  // bytes that are shown
	maxHTML    = 512 << 10 // bytes that come of them
	maxWork    = 128 << 20 // characters with a meaning, times the bytes of their paragraph
	maxCells   = 20_000    // of all tables
	maxNesting = 16        // quotes and lists that one line opens
	maxDepth   = 100_000   // lines, times the deepest list or quote
	maxWord    = 1000      // bytes without a space: an address may be repeated by each link to it
	keptNotes  = 8         // that were rendered
)

// markdown leaves HTML out and addresses that are no web addresses.
var markdown = sync.OnceValue(func() goldmark.Markdown {
	return goldmark.New(goldmark.WithExtensions(extension.Linkify, extension.Strikethrough, extension.Table))
})

// rendered keeps what notes are rendered to: they are the same for everybody and
// each view. It is rendered under the lock, so once.
var rendered struct {
	mu    sync.Mutex
	html  map[[sha256.Size]byte]string
	order [][sha256.Size]byte
	count int // how often something was rendered
}

// notes are release notes as HTML.
func notes(s *string) string {
	text := value(s)
	text = text[:min(len(text), maxNotes)]
	key := sha256.Sum256([]byte(text))
	r := &rendered
	r.mu.Lock()
	defer r.mu.Unlock()
	if html, ok := r.html[key]; ok {
		return html
	}
	if r.html == nil {
		r.html = map[[sha256.Size]byte]string{}
	}
	if len(r.order) >= keptNotes {
		delete(r.html, r.order[0])
		r.order = r.order[1:]
	}
	r.count++
	r.html[key], r.order = renderNotes(text), append(r.order, key)
	return r.html[key]
}

func renderNotes(text string) string {
	var b bytes.Buffer
	if !cheap(text) || markdown().Convert([]byte(text), &limited{&b, maxHTML}) != nil {
		return "<pre>" + html.EscapeString(text) + "</pre>"
	}
	return b.String()
}

// cheap estimates what text costs, from above: as if all lines up to an empty one
// or to the next of a list were one paragraph, and a table.
func cheap(text string) bool {
	work, cells, all, deepest := 0, 0, 0, 0
	size, marks, lines, columns := 0, 0, 0, 0
	for line := range strings.SplitSeq(text+"\n", "\n") {
		line = strings.TrimSuffix(line, "\r")
		all++
		inner := strings.TrimLeft(line, " \t")
		if inner == "" || item.MatchString(line) {
			work += marks * size
			cells += lines * columns
			size, marks, lines, columns = 0, 0, 0, 0
		}
		n := nesting(line)
		if n > maxNesting {
			return false
		}
		deepest = max(deepest, n, (len(line)-len(inner)+1)/2)
		for word := range strings.FieldsSeq(line) {
			if len(word) > maxWord {
				return false
			}
		}
		size += len(line) + 1
		lines++
		columns = max(columns, strings.Count(line, "|"))
		for i := range len(line) {
			if strings.IndexByte("*_~[]!<&`(\r", line[i]) >= 0 {
				marks++
			}
		}
	}
	return work <= maxWork && cells <= maxCells && all*deepest <= maxDepth
}

// item begins an item of a list, wherever it stands.
var item = lazyregexp.New(`^ {0,3}[-*+] +\S`)

// nesting is how many quotes and lists a line may open.
func nesting(line string) (n int) {
	for i := range len(line) {
		switch c := line[i]; {
		case c == '>':
			n++
		case strings.IndexByte("-+*.)", c) >= 0:
			if i+1 < len(line) && (line[i+1] == ' ' || line[i+1] == '\t') {
				n++
			}
		case c == ' ', c == '\t', c >= '0' && c <= '9':
		default:
			return n
		}
	}
	return n
}

// limited is a writer that takes so many bytes.
type limited struct {
	b    *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("too much")
	}
	return l.b.Write(p)
}
