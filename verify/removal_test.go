package verify_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const removalFile = "testdata/removal.json"

// TestRemovalNames holds testdata/removal.json, whose tests take minutes, against the
// refusals of the code.
func TestRemovalNames(t *testing.T) {
	var known map[string][]string
	if err := json.Unmarshal(mustRead(t, removalFile), &known); err != nil {
		t.Fatal(err)
	}
	want, got := slices.Sorted(maps.Keys(removals(t))), slices.Sorted(maps.Keys(known))
	if !slices.Equal(got, want) {
		t.Errorf("%s has\n%q, the code refuses in\n%q: go test -tags e2e ./verify -run TestRemoval -update", removalFile, got, want)
	}
}

// removal is a file of the package without one refusal.
type removal struct{ file, text string }

// removals finds every "if" of the package that ends in a refusal.
func removals(t *testing.T) map[string]removal {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]removal{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			count := map[string]int{}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				i, ok := n.(*ast.IfStmt)
				if !ok || refusal(i) == "" {
					return true
				}
				name := f.Name.Name + " " + refusal(i)
				if count[name]++; count[name] > 1 {
					name = fmt.Sprint(name, " ", count[name])
				}
				cond := i.Cond
				i.Cond = &ast.BinaryExpr{X: &ast.ParenExpr{X: cond}, Op: token.LAND, Y: ast.NewIdent("false")}
				var text bytes.Buffer
				if err := format.Node(&text, set, parsed); err != nil {
					t.Fatal(err)
				}
				i.Cond = cond
				all[name] = removal{file, text.String()}
				return true
			})
		}
	}
	return all
}

// refusal is the check that an "if" refuses by.
func refusal(i *ast.IfStmt) string {
	last, ok := i.Body.List[len(i.Body.List)-1].(*ast.ReturnStmt)
	if !ok || len(last.Results) == 0 {
		return ""
	}
	call, ok := last.Results[len(last.Results)-1].(*ast.CallExpr)
	if !ok {
		return ""
	}
	if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "refuse" {
		return call.Args[0].(*ast.Ident).Name
	}
	return ""
}
