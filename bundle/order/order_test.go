package order_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle/order"
)

func TestBy(t *testing.T) {
	type pair struct{ key, place int }
	var list []pair
	for i := range 1000 {
		list = append(list, pair{i * 7 % 10, i})
	}
	order.By(list, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	for i, p := range list[1:] {
		if before := list[i]; before.key > p.key || before.key == p.key && before.place > p.place {
			t.Fatalf("%v comes before %v", before, p)
		}
	}
	order.By([]pair(nil), func(a, b pair) int { return 0 })
}

// TestUsed: the installer sorts its structs by this package. Text has the code that is there
// anyway; entries of directories, which package os sorts, too.
func TestUsed(t *testing.T) {
	found := 0
	for _, dir := range []string{"../../installer", "../../cmd/valise-installer"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) != 2 {
					return true
				}
				switch name := fmt.Sprint(call.Fun); name {
				case "&{order By}":
					found++
				case "&{slices SortFunc}", "&{slices SortStableFunc}":
					if by, ok := call.Args[1].(*ast.FuncLit); ok {
						switch kind := fmt.Sprint(by.Type.Params.List[0].Type); kind {
						case "string", "&{fs DirEntry}", "&{os DirEntry}":
							return true
						}
					}
					t.Errorf("%s: sort it with order.By", files.Position(call.Pos()))
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 10 {
		t.Errorf("only %d calls were found", found)
	}
}
