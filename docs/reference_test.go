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

// TestTroubleshooting: each exit code, each check and each kind of refusal has its
// section, which the hint names.
func TestTroubleshooting(t *testing.T) {
	sections := anchors(read(t, "troubleshooting.md"))
	want := []string{"not-an-acceptable-bundle"}
	for _, code := range exitCodes(t) {
		want = append(want, "exit-code-"+code)
	}
	checks := regexp.MustCompile(`(?m)^\tCheck[A-Za-z]+ += "([a-z-]+)"`).FindAllStringSubmatch(read(t, "../verify/verify.go"), -1)
	if len(checks) < 14 {
		t.Errorf("found only %d checks", len(checks))
	}
	for _, m := range checks {
		want = append(want, "check-"+m[1])
	}
	kinds := map[string]bool{}
	for _, m := range regexp.MustCompile(`"([a-z-]+)"[,:]`).FindAllStringSubmatch(strings.SplitN(read(t, "../cmd/internal/cli/see.go"), "func explained", 2)[1], -1) {
		kinds[m[1]] = true
		want = append(want, "refusal-"+m[1])
	}
	for _, pattern := range []string{"../installer/*.go", "../*/*/*.go", "../bundle/*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			for _, m := range regexp.MustCompile(`(?s)Kind\(\) string +\{(.*?)\}`).FindAllStringSubmatch(read(t, file), -1) {
				for _, kind := range regexp.MustCompile(`return "([a-z-]+)"`).FindAllStringSubmatch(m[1], -1) {
					if !strings.HasSuffix(file, "_test.go") && kind[1] != "format" && !kinds[kind[1]] {
						t.Errorf("%s: no hint names the section about %q", file, kind[1])
					}
				}
			}
		}
	}
	for _, anchor := range want {
		if !slices.Contains(sections, anchor) {
			t.Errorf("troubleshooting.md has no %s", anchor)
		}
	}
	for _, anchor := range sections {
		if (strings.HasPrefix(anchor, "check-") || strings.HasPrefix(anchor, "refusal-") || strings.HasPrefix(anchor, "exit-code-")) && !slices.Contains(want, anchor) {
			t.Errorf("troubleshooting.md has %s, which nothing answers with", anchor)
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

// TestExitCodes: device.md has each.
func TestExitCodes(t *testing.T) {
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(read(t, "device.md"), -1) {
		listed = append(listed, m[1])
	}
	if codes := exitCodes(t); !slices.Equal(listed, codes) {
		t.Errorf("device.md has exit codes %v, the programs have %v", listed, codes)
	}
}

// TestHelpers: testdata/README.md lists the commands that our test scripts have.
func TestHelpers(t *testing.T) {
	files, err := filepath.Glob("../cmd/*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		all.WriteString(read(t, file))
	}
	listed := map[string]bool{"in": true, "mklayout": true} // programs
	found := 0
	for _, m := range regexp.MustCompile("(?:`|`, `)(?:! )?([a-z]+)[^`]*`").FindAllStringSubmatch(tables(read(t, "../testdata/README.md")), -1) {
		listed[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`"([a-z]+)"(?:: +|\] = )([a-zA-Z]+)\b`).FindAllStringSubmatch(all.String(), -1) {
		if !strings.Contains(all.String(), "\nfunc "+m[2]+"(ts *testscript.TestScript, neg bool, args []string)") {
			continue
		}
		if found++; !listed[m[1]] {
			t.Errorf("testdata/README.md does not have %s", m[1])
		}
	}
	if found < 35 {
		t.Errorf("found %d commands, want at least 35: does the expression still find them?", found)
	}
}

// tables are the first cells of the tables of a text.
func tables(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			b.WriteString(cells[1])
		}
	}
	return b.String()
}
