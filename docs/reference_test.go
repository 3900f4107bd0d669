package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEnvironmentVariables: the list of the reference has the variables that the
// programs read, and no others.
func TestEnvironmentVariables(t *testing.T) {
	variable := regexp.MustCompile(`^[A-Z][A-Z0-9]*_?[A-Z0-9_]+$`)
	used := map[string]bool{}
	for _, top := range []string{"cmd", "installer", "bundle", "verify"} {
		err := filepath.WalkDir("../"+top, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.Contains(file, "testdata") || strings.Contains(file, "test/") || strings.HasSuffix(file, "man.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr: // Getenv("NAME")
					name := ""
					switch f := n.Fun.(type) {
					case *ast.SelectorExpr:
						name = f.Sel.Name
					case *ast.Ident:
						name = f.Name
					}
					if name := strings.ToLower(name); name == "getenv" || name == "lookupenv" {
						if lit, ok := n.Args[0].(*ast.BasicLit); ok {
							s, _ := strconv.Unquote(lit.Value)
							used[s] = true
						}
					}
				case *ast.ValueSpec: // const someEnv = "NAME"
					if strings.Contains(file, "installer/") || strings.Contains(file, "project/") {
						return true // keys of an app's environment file
					}
					for i, v := range n.Values {
						if lit, ok := v.(*ast.BasicLit); ok && strings.HasSuffix(n.Names[i].Name, "Env") {
							if s, _ := strconv.Unquote(lit.Value); variable.MatchString(s) {
								used[s] = true
							}
						}
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
	list := read(t, "reference/environment-variables.md")
	for name := range used {
		if !strings.Contains(list, "`"+name+"`") {
			t.Errorf("the list does not have %s", name)
		}
	}
	for _, m := range regexp.MustCompile("`([A-Z_]+)`").FindAllStringSubmatch(list, -1) {
		if name := m[1]; !used[name] && !slices.Contains([]string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}, name) { // the standard library's
			t.Errorf("no program reads %s", name)
		}
	}
}

// exitCodes are the constants of package cli.
func exitCodes(t *testing.T) []string {
	var codes []string
	for _, m := range regexp.MustCompile(`(?m)^\tExit[A-Z][a-z]+ += (\d+)`).FindAllStringSubmatch(read(t, "../cmd/internal/cli/cli.go"), -1) {
		codes = append(codes, m[1])
	}
	if len(codes) < 7 {
		t.Fatalf("found only %v", codes)
	}
	return codes
}

// TestExitCodes: device.md has each, and troubleshooting.md says what to do.
func TestExitCodes(t *testing.T) {
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(read(t, "device.md"), -1) {
		listed = append(listed, m[1])
	}
	if codes := exitCodes(t); !slices.Equal(listed, codes) {
		t.Errorf("device.md has exit codes %v, the programs have %v", listed, codes)
	}
}
