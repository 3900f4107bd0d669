// Command words checks what people read: it refuses the words and constructions of words.txt in Markdown, in the texts
// of the programs and the page, and in doc comments of exported names, and errors of more than 25 words.
//
//	go run ./scripts/words FILE...
package main

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxWords of an error: a person reads it once. Advice stands in the hint.
const maxWords = 25

//go:embed words.txt
var list string

func main() {
	found, err := check(os.Args[1:])
	for _, f := range found {
		fmt.Fprintln(os.Stderr, "words:", f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "words:", err)
	}
	if err != nil || len(found) > 0 {
		os.Exit(1)
	}
}

// rule is a line of words.txt.
type rule struct {
	refused *regexp.Regexp
	instead string // empty: it is allowed, although another rule refuses a part of it
}

func rules() (all []rule, err error) {
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pattern, instead, _ := strings.Cut(line, " -> ")
		re, err := regexp.Compile(`(?i)\b(?:` + strings.ReplaceAll(strings.TrimPrefix(pattern, "allow "), " ", `\s+`) + `)\b`)
		if err != nil {
			return nil, fmt.Errorf("words.txt: %q: %w", line, err)
		}
		if strings.HasPrefix(pattern, "allow ") != (instead == "") {
			return nil, fmt.Errorf("words.txt: %q: want PATTERN -> WHAT TO WRITE, or allow PATTERN", line)
		}
		all = append(all, rule{re, instead})
	}
	return all, nil
}

func check(names []string) (found []string, err error) {
	all, err := rules()
	if err != nil {
		return nil, err
	}
	words := func(where func(line int) string, text string) {
		for _, r := range all {
			if r.instead == "" {
				text = r.refused.ReplaceAllStringFunc(text, blank)
			}
		}
		for _, r := range all {
			for _, at := range r.refused.FindAllStringIndex(text, -1) {
				if r.instead != "" {
					found = append(found, fmt.Sprintf("%s: %q: write %s", where(strings.Count(text[:at[0]], "\n")), text[at[0]:at[1]], r.instead))
				}
			}
		}
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if filepath.Ext(name) != ".go" {
			words(func(line int) string { return fmt.Sprintf("%s:%d", name, line+1) }, prose(filepath.Base(name), string(b)))
			continue
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, name, b, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		at := func(p token.Pos) func(int) string {
			return func(line int) string { return fmt.Sprintf("%s:%d", name, files.Position(p).Line+line) }
		}
		docs, texts := read(f)
		for _, c := range docs {
			words(at(c.Pos()), c.Text())
		}
		for _, t := range texts {
			words(at(t.pos), t.text)
			if n := len(strings.Fields(t.text)); t.failure && n > maxWords {
				found = append(found, fmt.Sprintf("%s: an error of %d words, want %d at most; advice belongs in the hint: %q", at(t.pos)(0), n, maxWords, t.text))
			}
		}
	}
	return slices.Compact(found), nil
}

var (
	blankable = regexp.MustCompile("(?s)```.*?```|`[^`]*`")
	ended     = regexp.MustCompile(`(?m)^## \[?[0-9]`)
)

// prose is a text without code. Of a changelog only what is not released counts.
func prose(name, text string) string {
	if released := ended.FindStringIndex(text); name == "CHANGELOG.md" && released != nil {
		text = text[:released[0]]
	}
	if filepath.Ext(name) == ".md" {
		text = blankable.ReplaceAllStringFunc(text, blank)
	}
	return text
}

// blank keeps lines where they are.
func blank(s string) string { return "·" + strings.Repeat("\n", strings.Count(s, "\n")) }

type text struct {
	pos     token.Pos
	text    string
	failure bool // it is what an error says
}

// failing are functions that make errors of a format.
var failing = regexp.MustCompile(`^(New|[a-z]*Errorf|refuse|[uU]sagef|formatErr)$`)

// read returns doc comments of exported names, and strings that are sentences.
func read(f *ast.File) (docs []*ast.CommentGroup, texts []text) {
	if f.Doc != nil && f.Name.Name != "main" {
		docs = append(docs, f.Doc)
	}
	exported := func(doc *ast.CommentGroup, names ...*ast.Ident) {
		if doc != nil && f.Name.Name != "main" && slices.ContainsFunc(names, func(n *ast.Ident) bool { return n.IsExported() }) {
			docs = append(docs, doc)
		}
	}
	failures := map[*ast.BasicLit]bool{}
	fails := func(args []ast.Expr) {
		for _, a := range args {
			if lit, ok := a.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				failures[lit] = true
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.FuncDecl:
			exported(n.Doc, n.Name)
			if n.Name.Name == "Error" && n.Recv != nil {
				ast.Inspect(n, func(n ast.Node) bool {
					if call, ok := n.(*ast.CallExpr); ok {
						fails(call.Args)
					}
					return true
				})
			}
		case *ast.GenDecl:
			for _, s := range n.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					exported(n.Doc, s.Name)
					exported(s.Doc, s.Name)
				case *ast.ValueSpec:
					exported(n.Doc, s.Names...)
					exported(s.Doc, s.Names...)
				}
			}
		case *ast.Field:
			exported(n.Doc, n.Names...)
			exported(n.Comment, n.Names...)
		case *ast.CallExpr:
			name := ""
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				name = fun.Name
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			}
			if failing.MatchString(name) {
				fails(n.Args)
			}
		case *ast.BasicLit:
			if s, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && strings.Contains(s, " ") {
				texts = append(texts, text{n.Pos(), s, failures[n]})
			}
		}
		return true
	})
	return docs, texts
}
