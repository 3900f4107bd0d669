package depcheck

import (
	"go/ast"
	"go/parser"
	"go/token"
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
