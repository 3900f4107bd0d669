package ota

import (
	"regexp"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
	source "github.com/yuin/goldmark/text"
)

// hostileNotes cost a parser, a renderer or a browser far more than they have
// bytes.
var hostileNotes = map[string]string{
	"wide table":      strings.Repeat("|a", 1500) + "|\n" + strings.Repeat("|-", 1500) + "|\n" + strings.Repeat("|\n", 2000),
	"long table":      "|a|b|c|d\n|-|-|-|-\n" + strings.Repeat("|\n", 30_000),
	"quoted table":    "> " + strings.Repeat("|a", 500) + "|\n> " + strings.Repeat("|-", 500) + "|\n" + strings.Repeat("> |\n", 2000),
	"emphasis":        strings.Repeat("*a_", 20_000),
	"emphasis, lines": strings.Repeat("    - *a_ *a_\n", 4000),
	"openers":         strings.Repeat("*a ", 20_000),
	"brackets":        strings.Repeat("[", 60_000),
	"images":          strings.Repeat("![a", 20_000),
	"comments":        strings.Repeat("<!-- ", 12_000),
	"addresses":       strings.Repeat("_a", 30_000) + "@b",
	"one link":        "[a]: http://" + strings.Repeat("b", 30_000) + "\n\n" + strings.Repeat("[a]\n\n", 6000),
	"quotes":          strings.Repeat(">", 30_000),
	"lists":           strings.Repeat("- ", 10_000) + strings.Repeat("\n", 20_000),
	"indented lists":  indented(170) + strings.Repeat("\n", 30_000),
	"numbers":         strings.Repeat("1. ", 10_000),
}

func indented(n int) (s string) {
	for i := range n {
		s += strings.Repeat("  ", i) + "- a\n"
	}
	return s
}

func TestHostileNotes(t *testing.T) {
	for name, s := range hostileNotes {
		if len(s) > maxNotes {
			t.Fatalf("%s is cut anyway", name)
		}
		html := string(notes(&s))
		if !strings.HasPrefix(html, "<pre>") || len(html) > 6*maxNotes {
			t.Errorf("%s: %d bytes of HTML, and not as text: %.60q", name, len(html), html)
		}
	}
	// What is not estimated is seen when it comes out.
	short := "[a]: http://" + strings.Repeat("b", 900) + "\n\n" + strings.Repeat("[a]\n\n", 10_000)
	if html := string(notes(&short)); len(html) > maxHTML {
		t.Errorf("%d bytes of HTML", len(html))
	}
}

// What people write is rendered: a long list of changes, a table, links, code.
func TestNotes(t *testing.T) {
	list := "# 1.2.0\n\n## Changes\n" + strings.Repeat("* Fix the `thing_of_all` by **@ann** in https://github.com/acme/shop/pull/12, see [#12](https://github.com/acme/shop/issues/12)\n", 300) +
		"\n| option | default |\n|---|---|\n" + strings.Repeat("| a_b | `1` |\n", 100) + "\n```sh\nmake all | tee log\n```\n> quoted\n>> twice\n\n- a\n  - b\n    - c\n\n----------------------------\n"
	html := string(notes(&list))
	for _, part := range []string{"<h1>", "<code>thing_of_all</code>", "<strong>@ann</strong>", `<a href="https://github.com/acme/shop/pull/12">`, "<td>a_b</td>", "<blockquote>", "<hr>"} {
		if !strings.Contains(html, part) {
			t.Errorf("there is no %s in %.300s", part, html)
		}
	}
	before := rendered.count
	notes(&list)
	if rendered.count != before {
		t.Error("rendered again")
	}
}

// Whatever notes are, no tag of theirs is in the page, and what comes of them is
// bounded, in nodes and in bytes.
func FuzzNotes(f *testing.F) {
	for _, s := range hostileNotes {
		f.Add(s[:min(len(s), 2000)])
	}
	f.Add("# New\n<script>alert(1)</script>\n[x](javascript:alert(1)) **bold**\n|a|b|\n|-|-|\n|1|2|\n")
	tag := regexp.MustCompile(`<[a-zA-Z][a-z0-9]*`)
	ours := regexp.MustCompile(`^<(p|h[1-6]|ul|ol|li|em|strong|del|a|img|code|pre|blockquote|hr|br|table|thead|tbody|tr|th|td)$`)
	f.Fuzz(func(t *testing.T, s string) {
		s = s[:min(len(s), maxNotes)]
		html := string(renderNotes(s))
		if len(html) > maxHTML {
			t.Fatalf("%d bytes of HTML", len(html))
		}
		for _, name := range tag.FindAllString(html, -1) {
			if !ours.MatchString(name) {
				t.Fatalf("%q in %q", name, html)
			}
		}
		if strings.Contains(html, `href="javascript:`) {
			t.Fatal(html)
		}
		if !cheap(s) {
			return
		}
		nodes := 0
		_ = ast.Walk(markdown().Parser().Parse(source.NewReader([]byte(s))), func(_ ast.Node, entering bool) (ast.WalkStatus, error) {
			if entering {
				nodes++
			}
			return ast.WalkContinue, nil
		})
		if most := 3*len(s) + maxCells + 10; nodes > most {
			t.Fatalf("%d nodes of %d bytes", nodes, len(s))
		}
	})
}
