package ota

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

var update = flag.Bool("update", false, "write openapi.json again")

// TestOpenAPI: openapi.json is what the table of calls and the types of the API
// say.
func TestOpenAPI(t *testing.T) {
	want, err := document()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("openapi.json is not what the code says: go test ./installer/ota -run TestOpenAPI -update")
	}
}

// components are types that the document names once.
var components = map[string]any{
	"Update": daemon.Update{}, "Page": daemon.Page{}, "Check": daemon.Check{}, "Done": daemon.Done{}, "Problem": daemon.Problem{}, "State": daemon.State{},
	"Backup": daemon.Backup{}, "Finding": daemon.Finding{}, "Plan": installer.Plan{}, "Settings": daemon.Settings{}, "Release": installer.Release{},
}

// texts are types that are JSON strings of a kind.
var texts = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[time.Time]():        {Type: "string", Format: "date-time"},
	reflect.TypeFor[installer.Status](): words("pending", "downloading", "verifying", "applying", "completed", "failed", "rolled_back"),
	reflect.TypeFor[installer.Action](): words("install", "update", "rollback"),
	reflect.TypeFor[daemon.Mode]():      words("", "off", "stage", "apply"),
	reflect.TypeFor[daemon.Interval]():  {Type: "string"},
	reflect.TypeFor[bundle.Digest]():    {Type: "string"},
	reflect.TypeFor[bundle.Duration]():  {Type: "string"},
}

func words(all ...any) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Enum: all} }

// schema is that of v's type. Named types other than that itself are referred to.
func schema(v any) (*jsonschema.Schema, error) {
	types := maps.Clone(texts)
	for name, c := range components {
		// An embedded type is written out.
		if t := reflect.TypeOf(c); t != reflect.TypeOf(v) && !(t == reflect.TypeFor[daemon.Settings]() && reflect.TypeOf(v) == reflect.TypeFor[daemon.State]()) {
			types[t] = &jsonschema.Schema{Ref: "#/components/schemas/" + name}
		}
	}
	s, err := jsonschema.ForType(reflect.TypeOf(v), &jsonschema.ForOptions{TypeSchemas: types})
	if err == nil {
		tidy(s)
	}
	return s, err
}

// tidy lets objects grow members in later versions, and makes a reference that may
// be null one of two.
func tidy(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if s.Type == "object" && s.Properties != nil {
		s.AdditionalProperties = nil
	}
	if s.Ref != "" && slices.Contains(s.Types, "null") {
		*s = jsonschema.Schema{OneOf: []*jsonschema.Schema{{Ref: s.Ref}, {Type: "null"}}}
	}
	for _, p := range s.Properties {
		tidy(p)
	}
	tidy(s.Items)
}

type object = map[string]any

func document() ([]byte, error) {
	schemas := object{}
	for name, v := range components {
		s, err := schema(v)
		if err != nil {
			return nil, err
		}
		schemas[name] = s
	}
	responses := object{}
	for _, r := range daemon.Everywhere {
		responses[strconv.Itoa(r.Status)] = refusal(r)
	}
	paths := map[string]object{}
	for _, r := range daemon.Routes() {
		if !r.Public() {
			continue
		}
		op, err := operation(r)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
		}
		if paths[r.Path] == nil {
			paths[r.Path] = object{}
		}
		paths[r.Path][strings.ToLower(r.Method)] = op
	}
	// One line for each call and each type: short, and fit for a diff.
	var b bytes.Buffer
	b.WriteString(`{"openapi":"3.1.0","info":{"title":"Valise OTA API","version":"1","description":"Updates of the apps on a device. Errors are problem details (RFC 9457).","license":{"name":"Apache-2.0","identifier":"Apache-2.0"}},` + "\n" +
		`"servers":[{"url":"` + daemon.Prefix + `"}],"security":[{"session":[]},{"token":[]}],` + "\n" + `"paths":{`)
	lines(&b, paths)
	b.WriteString("},\n" + `"components":{"securitySchemes":{"session":{"type":"apiKey","in":"cookie","name":"__Host-valise"},"token":{"type":"http","scheme":"bearer"}},` + "\n" +
		`"parameters":{"app":{"name":"app","in":"query","description":"Which app, when more than one is installed","schema":{"type":"string"}}},` + "\n" + `"responses":{`)
	lines(&b, responses)
	b.WriteString("},\n" + `"schemas":{`)
	lines(&b, schemas)
	b.WriteString("}}}\n")
	if !json.Valid(b.Bytes()) {
		return nil, fmt.Errorf("it is not JSON: %s", b.Bytes())
	}
	return b.Bytes(), nil
}

func lines[V any](b *bytes.Buffer, m map[string]V) {
	for i, k := range slices.Sorted(maps.Keys(m)) {
		v, err := json.Marshal(m[k])
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(b, "%s\n%q:%s", map[bool]string{true: ","}[i > 0], k, v)
	}
}

func refusal(r daemon.Refusal) object {
	return object{"description": r.When, "content": object{"application/problem+json": object{"schema": object{"$ref": "#/components/schemas/Problem"}}}}
}

var braces = regexp.MustCompile(`\{([a-z]+)\}`)

func operation(r daemon.Route) (object, error) {
	parameters := []object{}
	add := func(in string, v any) error {
		s, err := schema(v)
		if err != nil {
			return err
		}
		for _, name := range s.PropertyOrder {
			p := object{"name": name, "in": in, "schema": s.Properties[name]}
			if slices.Contains(s.Required, name) {
				p["required"] = true
			}
			parameters = append(parameters, p)
		}
		return nil
	}
	if r.Path != "/apps" && r.Path != "/metrics" {
		parameters = append(parameters, object{"$ref": "#/components/parameters/app"})
	}
	for _, name := range braces.FindAllStringSubmatch(r.Path, -1) {
		parameters = append(parameters, object{"name": name[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for in, v := range map[string]any{"query": r.Query, "header": r.Headers} {
		if v != nil {
			if err := add(in, v); err != nil {
				return nil, err
			}
		}
	}
	success := object{"description": cmp.Or(r.Answer, "OK")}
	switch {
	case r.OutMedia != "":
		success["content"] = object{r.OutMedia: object{}}
	case r.Out != nil:
		s, err := schema(r.Out)
		if t := reflect.TypeOf(r.Out); err == nil {
			for t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			for name, c := range components {
				if t == reflect.TypeOf(c) {
					s = &jsonschema.Schema{Ref: "#/components/schemas/" + name}
				}
			}
		}
		if err != nil {
			return nil, err
		}
		if s.Items != nil {
			s.Types, s.Type = nil, "array"
		}
		success["content"] = object{"application/json": object{"schema": s}}
	}
	responses := object{strconv.Itoa(r.Status()): success}
	for _, e := range daemon.Everywhere {
		responses[strconv.Itoa(e.Status)] = object{"$ref": "#/components/responses/" + strconv.Itoa(e.Status)}
	}
	for _, e := range r.Refuses {
		responses[strconv.Itoa(e.Status)] = refusal(e)
	}
	if strings.HasPrefix(r.Path, "/files") { // tus says what it refuses by itself in its own way
		for _, e := range append(slices.Clone(daemon.Everywhere), r.Refuses...) {
			said := refusal(e)
			said["content"].(object)["text/plain"] = object{}
			responses[strconv.Itoa(e.Status)] = said
		}
	}
	for _, e := range r.Also {
		responses[strconv.Itoa(e.Status)] = object{"description": e.When}
	}
	op := object{"summary": r.Summary, "description": "Scope: " + string(r.Scope), "parameters": parameters, "responses": responses}
	if r.In != nil && r.InMedia == "application/offset+octet-stream" {
		op["requestBody"] = object{"required": true, "content": object{r.InMedia: object{}}}
	} else if r.In != nil {
		s, err := schema(r.In)
		if err != nil {
			return nil, err
		}
		if r.Method == http.MethodPatch {
			s.Required = nil // what is not there stays
		}
		s.AdditionalProperties = &jsonschema.Schema{Not: &jsonschema.Schema{}}
		op["requestBody"] = object{"required": len(s.Required) > 0, "content": object{cmp.Or(r.InMedia, "application/json"): object{"schema": s}}}
	}
	return op, nil
}

// TestStatuses: each status that a handler refuses with is in the table of calls.
// Handlers are followed through the functions that they call, by name.
func TestStatuses(t *testing.T) {
	statuses, calls, handlers := map[string][]int{}, map[string][]string{}, map[string]string{}
	names := map[string]int{}
	for code := 400; code < 600; code++ {
		if text := http.StatusText(code); text != "" {
			names["Status"+strings.NewReplacer(" ", "", "-", "", "'", "").Replace(text)] = code
		}
	}
	for _, dir := range []string{".", "../daemon"} {
		found, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					name := dir + " " + fn.Name.Name
					if name == "../daemon Routes" {
						readRoutes(fn, handlers)
						continue
					}
					ast.Inspect(fn, func(n ast.Node) bool {
						call, ok := n.(*ast.CallExpr)
						if !ok {
							return true
						}
						called := ""
						switch f := call.Fun.(type) {
						case *ast.Ident:
							called = f.Name
						case *ast.SelectorExpr:
							called = f.Sel.Name
						}
						calls[name] = append(calls[name], dir+" "+called)
						for _, arg := range call.Args[:min(2, len(call.Args))] {
							if sel, ok := arg.(*ast.SelectorExpr); ok && (called == "refuse" || called == "problem") && names[sel.Sel.Name] > 0 {
								statuses[name] = append(statuses[name], names[sel.Sel.Name])
							}
						}
						return true
					})
				}
			}
		}
	}
	reach := func(name string) (all []int) {
		seen := map[string]bool{}
		var walk func(string)
		walk = func(n string) {
			if !seen[n] {
				seen[n] = true
				all = append(all, statuses[n]...)
				for _, c := range calls[n] {
					walk(c)
				}
			}
		}
		walk(name)
		return all
	}
	var uploads []int
	for call, h := range handlers {
		if strings.Contains(call, " /uploads") {
			uploads = append(uploads, reach("../daemon "+h)...)
		}
	}
	looked := 0
	for _, r := range daemon.Routes() {
		if !r.Public() {
			continue
		}
		call := r.Method + " " + r.Path
		can := reach("../daemon " + handlers[call])
		switch call {
		case "POST /{id}/apply":
			can = append(can, reach(". postApply")...)
		case "POST /upload":
			can = append(reach(". postUpload"), uploads...)
		case "POST /files", "PATCH /files/{id}":
			can = slices.Clone(uploads)
		}
		if r.In != nil {
			can = append(can, http.StatusUnprocessableEntity)
		}
		said := []int{r.Status()}
		for _, e := range append(r.Refuses, daemon.Everywhere...) {
			said = append(said, e.Status)
		}
		slices.Sort(can)
		for _, code := range slices.Compact(can) {
			looked++
			if !slices.Contains(said, code) {
				t.Errorf("%s can answer %d %s, and its row does not say so", call, code, http.StatusText(code))
			}
		}
	}
	if looked < 30 {
		t.Errorf("only %d statuses were found", looked)
	}
}

// TestStatusesInText: docs/page.md has a row for each call, with each status of its own,
// and names those that any call may answer.
func TestStatusesInText(t *testing.T) {
	b, err := os.ReadFile("../../docs/page.md")
	if err != nil {
		t.Fatal(err)
	}
	row, code := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([0-9, ]+) \\|"), regexp.MustCompile("[1-5][0-9][0-9]")
	rows := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		rows[m[1]] = code.FindAllString(m[2], -1)
	}
	for _, r := range daemon.Routes() {
		if !r.Public() {
			continue
		}
		call := strings.TrimSpace(r.Method + " " + braces.ReplaceAllStringFunc(r.Path, func(s string) string { return strings.ToUpper(strings.Trim(s, "{}")) }))
		want := []string{strconv.Itoa(r.Status())}
		for _, e := range append(slices.Clone(r.Also), r.Refuses...) {
			want = append(want, strconv.Itoa(e.Status))
		}
		slices.Sort(want)
		if !slices.Equal(rows[call], want) {
			t.Errorf("docs/page.md has %v for %q, want a row | `%s` | %s |", rows[call], call, call, strings.Join(want, ", "))
		}
		delete(rows, call)
	}
	if len(rows) > 0 {
		t.Errorf("docs/page.md has rows of no call: %v", rows)
	}
	_, text, _ := strings.Cut(string(b), "Any call may answer ")
	text, _, _ = strings.Cut(text, ".\n")
	for _, e := range daemon.Everywhere {
		if !strings.Contains(text, strconv.Itoa(e.Status)) {
			t.Errorf("docs/page.md does not say that any call may answer %d", e.Status)
		}
	}
}

// readRoutes reads from the table which handler answers a call.
func readRoutes(fn *ast.FuncDecl, handlers map[string]string) {
	ast.Inspect(fn, func(n ast.Node) bool {
		row, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		fields, handler := map[string]string{}, ""
		for _, e := range row.Elts {
			kv, ok := e.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key := kv.Key.(*ast.Ident).Name
			ast.Inspect(kv.Value, func(n ast.Node) bool {
				switch v := n.(type) {
				case *ast.BasicLit:
					if s, err := strconv.Unquote(v.Value); err == nil {
						fields[key] += s
					}
				case *ast.Ident:
					if key == "Path" && v.Name == "uploads" {
						fields[key] += "/uploads"
					}
				case *ast.SelectorExpr:
					if key == "endpoint" {
						handler = v.Sel.Name
					}
				}
				return true
			})
		}
		if fields["Method"] != "" {
			handlers[fields["Method"]+" "+fields["Path"]] = handler
		}
		return fields["Method"] == ""
	})
}
