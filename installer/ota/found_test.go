package ota

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

// TestFound: what the device finds, what can be done about it, and each note, is on the
// page in its language.
func TestFound(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	verbs := func(s string) int { return strings.Count(s, "%") }
	english, notes := map[string]int{}, 0 // verbs of each sentence
	steps := map[string]bool{}
	sources, err := filepath.Glob("../*/*.go")
	own, err2 := filepath.Glob("../*.go")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	for _, file := range append(sources, own...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr: // f.add(app, check, status, remedy, format, ...), Notef(format, ...), say(format, ...) that calls it, held.Note(more)
				called := ""
				if id, ok := n.Fun.(*ast.Ident); ok {
					called = id.Name
				} else if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
					called = sel.Sel.Name
				}
				if len(n.Args) == 0 {
					break
				}
				switch called {
				case "Notef", "say":
					if lit, ok := n.Args[0].(*ast.BasicLit); ok {
						s, _ := strconv.Unquote(lit.Value)
						english[s] = verbs(s)
						notes++
					}
				case "Note":
					if lit, ok := n.Args[0].(*ast.BasicLit); ok && lit.Value != `""` && len(n.Args) == 1 {
						more, _ := strconv.Unquote(lit.Value)
						for _, held := range []installer.HeldError{{Halted: true}, {Unnamed: true}, {Group: "x"}, {}} {
							s := held.Note(more).Format
							english[s] = verbs(s)
							notes++
						}
					}
				case "add":
					if len(n.Args) < 5 {
						break
					}
					for _, i := range []int{1, 4} { // names have no verbs
						if lit, ok := n.Args[i].(*ast.BasicLit); ok {
							s, _ := strconv.Unquote(lit.Value)
							english[s] = verbs(s)
						}
					}
				}
			case *ast.KeyValueExpr: // Event{Step: step}
				if id, ok := n.Key.(*ast.Ident); ok && id.Name == "Step" {
					if lit, ok := n.Value.(*ast.BasicLit); ok {
						s, _ := strconv.Unquote(lit.Value)
						steps[s] = true
					}
				}
			case *ast.AssignStmt: // status, format := ...
				for i, l := range n.Lhs {
					if id, ok := l.(*ast.Ident); ok && id.Name == "format" && i < len(n.Rhs) {
						if lit, ok := n.Rhs[i].(*ast.BasicLit); ok {
							s, _ := strconv.Unquote(lit.Value)
							english[s] = verbs(s)
						}
					}
				}
			case *ast.GenDecl: // the second group of advices
				if strings.Contains(n.Doc.Text(), "Finding") && n.Tok == token.CONST {
					for _, spec := range n.Specs {
						v := spec.(*ast.ValueSpec)
						s, _ := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
						args := strings.TrimSpace(v.Comment.Text())
						n := 0
						if args != "" {
							n = 1 + strings.Count(args, ",")
						}
						english[s] = n
					}
				}
			}
			return true
		})
	}
	delete(english, "%v") // what other programs say
	delete(english, "%s")
	if len(english) < 60 || notes < 30 || len(steps) < 14 {
		t.Fatalf("only %d sentences were found, %d notes of plans, %d steps", len(english), notes, len(steps))
	}
	for lang, texts := range c.texts {
		for s := range steps {
			if texts["step."+s] == "" && texts["js."+s] == "" {
				t.Errorf("%s: there is no text for step %s", lang, s)
			}
		}
	}
	for lang, texts := range c.found {
		for s, n := range english {
			if got, ok := texts[s]; !ok || verbs(got) != n {
				t.Errorf("%s: %q is %q, want %d things in it", lang, s, got, n)
			}
		}
		for s, got := range texts { // arguments are texts
			if strings.ContainsAny(strings.ReplaceAll(strings.ReplaceAll(got, "%%", ""), "%s", ""), "%") {
				t.Errorf("%s: %q is %q, want %%s only", lang, s, got)
			}
		}
	}
	got := c.finding("de", daemon.Finding{Name: "environment", Format: "%s has mode %04o: others can read its passwords", Args: []string{"/opt/shop/.env", "0644"}, Advice: "hide the file", AdviceArgs: []string{"/opt/shop/.env"}})
	if got.Name != "Umgebungsdatei" || !strings.HasPrefix(got.Text, "/opt/shop/.env hat die Rechte 0644") || got.Remedy != "chmod 600 /opt/shop/.env" {
		t.Errorf("%+v", got)
	}
	n := installer.Notef("%s waits for its turn: %d %% of group %s; this update was asked for, and goes on", "1.2.0", 10, "canary")
	if de := c.say("de", n.Format, n.Args, n.Text); !strings.HasPrefix(de, "1.2.0 ist noch nicht an der Reihe: 10 % der Gruppe canary;") {
		t.Errorf("%+v is %q", n, de)
	}
	if en := c.finding("en", daemon.Finding{Name: "clock", Text: "it is late", Remedy: "sleep"}); en.Text != "it is late" || en.Remedy != "sleep" {
		t.Errorf("%+v", en)
	}
}
