package depcheck

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDocs: what others build on says what it is: each exported name of these
// packages has a comment. The values of a type have that of the type, functions of
// one line that follow one another have one together, and methods of an interface
// are explained there.
func TestDocs(t *testing.T) {
	for _, dir := range []string{"bundle", "verify", "installer", "installer/device"} {
		files, err := filepath.Glob("../../../" + dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		packageDoc, looked := "", 0
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			packageDoc += f.Doc.Text()
			want := func(name *ast.Ident, docs ...*ast.CommentGroup) {
				if !name.IsExported() {
					return
				}
				looked++
				for _, d := range docs {
					if d.Text() != "" {
						return
					}
				}
				t.Errorf("%s: %s has no comment", strings.TrimPrefix(fset.Position(name.Pos()).String(), "../../../"), name.Name)
			}
			line := func(p token.Pos) int { return fset.Position(p).Line }
			together := 0 // line behind a function that has a comment, or follows one that has
			for _, d := range f.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Recv != nil && (!receiver(d).IsExported() || receiver(d).Name == "Device") || slices.Contains([]string{"Error", "Unwrap", "String", "MarshalText", "UnmarshalText"}, d.Name.Name) {
						continue
					}
					if line(d.Pos()) != together {
						want(d.Name, d.Doc)
					}
					together = line(d.End()) + 1
				case *ast.GenDecl:
					for _, s := range d.Specs {
						switch s := s.(type) {
						case *ast.TypeSpec:
							want(s.Name, s.Doc, s.Comment, d.Doc)
						case *ast.ValueSpec:
							if s.Type != nil && d.Tok == token.CONST {
								continue
							}
							want(s.Names[0], s.Doc, s.Comment, d.Doc)
						}
					}
				}
			}
		}
		if packageDoc == "" || looked < 10 {
			t.Errorf("%s: package comment %.40q, %d names", dir, packageDoc, looked)
		}
	}
}

func receiver(d *ast.FuncDecl) *ast.Ident {
	e := d.Recv.List[0].Type
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	return e.(*ast.Ident)
}

// clocks are the files of libraries that look at a clock, and for what: to measure
// how long something takes or to end a wait. What a time is written down or compared
// for comes from the caller.
var clocks = map[string]string{
	"installer/source/file.go":     "how long a chunk took",
	"installer/daemon/bounded.go":  "deadlines of connections",
	"installer/daemon/settings.go": "how long a change of the settings waits for the app",
	"installer/daemon/schedule.go": "when a failed download is tried again",
	"installer/fleet/agent.go":     "pauses between polls",
	"installer/fleet/tell.go":      "pauses between messages",
	"installer/fleet/work.go":      "pauses between downloads",
	"installer/docker/engine.go":   "deadlines of connections",
	"installer/release/release.go": "the time of a directory that is moved aside, which orders those",
	"installer/health/health.go":   "how long a release is healthy",
	"installer/backup/backup.go":   "how long a service may take to start",
	"installer/daemon/api.go":      "deadlines of connections",
}

func TestClocks(t *testing.T) {
	for _, dir := range []string{"bundle", "verify", "installer"} {
		err := filepath.WalkDir("../../../"+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || strings.HasSuffix(path, "test") && d.IsDir() || d.Name() == "testdata" {
				return cmp.Or(err, map[bool]error{true: filepath.SkipDir}[d.IsDir() && d.Name() != dir])
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && fmt.Sprint(sel.X) == "time" && slices.Contains([]string{"Now", "Since", "Until"}, sel.Sel.Name) {
					if name := strings.TrimPrefix(path, "../../../"); clocks[name] == "" {
						t.Errorf("%s looks at the clock: take the time from the caller", name)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
