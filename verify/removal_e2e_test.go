//go:build e2e

package verify_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/removal.json anew")

const removalFile = "testdata/removal.json"

// TestRemoval takes away one refusal after the other and runs the attacks of this
// package again: exactly those that testdata/removal.json names must then be
// accepted. A refusal whose absence nobody notices has no test, and one whose
// absence lets in what another one is there for is in the wrong place.
func TestRemoval(t *testing.T) {
	var want map[string][]string
	if !*update {
		if err := json.Unmarshal(mustRead(t, removalFile), &want); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string][]string{}
	for name, m := range removals(t) {
		t.Run(name, func(t *testing.T) {
			got[name] = m.failures(t)
			if len(got[name]) == 0 {
				t.Error("without it every test passes")
			}
			if !*update && !slices.Equal(got[name], want[name]) {
				t.Errorf("without it these fail:\n%s\nwant\n%s", strings.Join(got[name], "\n"), strings.Join(want[name], "\n"))
			}
			delete(want, name)
		})
	}
	for name := range want {
		t.Errorf("%s is in %s and not in the code", name, removalFile)
	}
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(removalFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
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

// failures are the tests that fail with the changed file. Where one has parts,
// only those are named.
func (m removal) failures(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
	abs, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{abs: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{changed: []byte(m.text), overlay: b} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, "-json", "-vet=off", ".").Output()
	if err == nil {
		return nil
	}
	failed := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		var e struct{ Action, Test string }
		if json.Unmarshal([]byte(line), &e) == nil && e.Action == "fail" && e.Test != "" {
			failed[e.Test] = true
		}
		if e.Action == "build-fail" {
			t.Fatalf("it does not compile:\n%s", out)
		}
	}
	var list []string
	for name := range failed {
		whole := false
		for other := range failed {
			whole = whole || strings.HasPrefix(other, name+"/")
		}
		if !whole {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}
