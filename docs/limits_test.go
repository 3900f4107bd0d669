package docs_test

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	limitRow  = regexp.MustCompile("(?m)^\\| ([a-z/-]+) `([A-Za-z]+)` \\| ([0-9,]+)( [A-Za-z]+)? \\| .+ \\|$")
	limitName = regexp.MustCompile(`^([mM]ax[A-Z].*|[a-z].*Timeout|Spare|reserveSize|stall)$`)
	limitUnit = map[string]int64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "s": 1e9, "min": 60e9, "d": 86400e9}
)

// TestLimits: docs/limits.md has all limits of the code, and their values.
func TestLimits(t *testing.T) {
	found := constants(t)
	listed := map[string]bool{}
	text, err := os.ReadFile("limits.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range limitRow.FindAllStringSubmatch(string(text), -1) {
		name := m[1] + "." + m[2]
		n, err := strconv.ParseInt(strings.ReplaceAll(m[3], ",", ""), 10, 64)
		unit, known := limitUnit[strings.TrimSpace(m[4])]
		c, ok := found[name]
		if !ok || err != nil || !known || !constant.Compare(c.value(), token.EQL, constant.MakeInt64(n*unit)) {
			t.Errorf("limits.md: %s is not %s%s", name, m[3], m[4])
		}
		if listed[name] {
			t.Errorf("limits.md has %s twice", name)
		}
		listed[name] = true
	}
	for name, c := range found {
		if limitName.MatchString(c.name) && !listed[name] && name != "bundle."+c.name { // those are in FORMAT.md
			t.Errorf("limits.md has no row for %s `%s`: %v", c.dir, c.name, c.value())
		}
	}
}

// limit is a constant of the code.
type limit struct {
	all       map[string]limit
	dir, name string
	expr      ast.Expr
}

// constants are those of all packages, by directory and name.
func constants(t *testing.T) map[string]limit {
	all := map[string]limit{}
	for _, top := range []string{"bundle", "verify", "installer", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", top), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.Contains(file, "testdata") || strings.Contains(file, "test/") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				return err
			}
			dir := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(file), ".."+string(filepath.Separator)))
			for _, decl := range parsed.Decls {
				if g, ok := decl.(*ast.GenDecl); ok && g.Tok == token.CONST {
					for _, spec := range g.Specs {
						for i, v := range spec.(*ast.ValueSpec).Values {
							name := spec.(*ast.ValueSpec).Names[i].Name
							all[dir+"."+name] = limit{all, dir, name, v}
						}
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func (l limit) value() constant.Value { return l.eval(l.expr) }

func (l limit) eval(e ast.Expr) constant.Value {
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return l.eval(e.X)
	case *ast.CallExpr: // a conversion
		return l.eval(e.Args[0])
	case *ast.BinaryExpr:
		x, y := l.eval(e.X), l.eval(e.Y)
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, token.SHL, uint(n))
		}
		return constant.BinaryOp(x, e.Op, y)
	case *ast.Ident:
		if c, ok := l.all[l.dir+"."+e.Name]; ok {
			return c.value()
		}
	case *ast.SelectorExpr:
		from := e.X.(*ast.Ident).Name
		if n, ok := map[string]int64{"Millisecond": 1e6, "Second": 1e9, "Minute": 60e9, "Hour": 3600e9}[e.Sel.Name]; ok && from == "time" {
			return constant.MakeInt64(n)
		}
		for _, c := range l.all {
			if c.name == e.Sel.Name && path.Base(c.dir) == from {
				return c.value()
			}
		}
	}
	panic(fmt.Sprintf("%s.%s is more than this test can add up", l.dir, l.name))
}
