package ota

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestReference: docs/reference/api.md says what openapi.json says.
func TestReference(t *testing.T) {
	raw, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	type value struct {
		Ref                               string `json:"$ref"`
		Type                              any
		Format, Description, Name, In     string
		Enum                              []any
		Items                             *value
		Schema                            *value
		Required                          any
		Properties                        map[string]*value
		Minimum, Maximum                  *float64
		AllOf, AnyOf, OneOf               []*value
		AdditionalProperties              any
		Pattern, ContentEncoding, Example any
	}
	type content map[string]struct{ Schema *value }
	var d struct {
		Servers []struct{ URL string }
		Paths   map[string]map[string]struct {
			Summary, Description string
			Parameters           []value
			RequestBody          *struct{ Content content }
			Responses            map[string]struct {
				Ref         string `json:"$ref"`
				Description string
				Content     content
			}
		}
		Components struct {
			Schemas    map[string]*value
			Parameters map[string]value
			Responses  map[string]struct{ Description string }
		}
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	named := func(ref string) string { return ref[strings.LastIndex(ref, "/")+1:] }
	link := func(name string) string { return "[" + name + "](#" + strings.ToLower(name) + ")" }
	var words func(v *value) string
	words = func(v *value) string {
		switch {
		case v == nil:
			return ""
		case v.Ref != "":
			return link(named(v.Ref))
		case len(v.Enum) > 0:
			var all []string
			for _, e := range v.Enum {
				if e != "" {
					all = append(all, fmt.Sprintf("`%v`", e))
				}
			}
			return strings.Join(all, ", ")
		case v.Items != nil:
			return "list of " + words(v.Items)
		case v.Format != "":
			return v.Format
		}
		var types []string
		list, ok := v.Type.([]any)
		if !ok {
			list = []any{v.Type}
		}
		nullable := false
		for _, x := range list {
			if x == "null" {
				nullable = true
			} else if x != nil {
				types = append(types, fmt.Sprint(x))
			}
		}
		if nullable {
			types = append(types, "null")
		}
		return strings.Join(types, " or ")
	}
	cell := func(s string) string { return strings.NewReplacer("|", `\|`, "<", "&lt;", "\n", " ").Replace(s) }
	properties := func(b *strings.Builder, v *value) {
		if v == nil || len(v.Properties) == 0 {
			return
		}
		b.WriteString("| member | value | |\n|---|---|---|\n")
		required, _ := v.Required.([]any)
		for _, name := range slices.Sorted(maps.Keys(v.Properties)) {
			p := v.Properties[name]
			kind := words(p)
			if slices.Contains(required, any(name)) {
				kind += ", required"
			}
			fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, kind, cell(p.Description))
		}
		b.WriteString("\n")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# API\n\nCalls of the daemon and the page, below `%s`, from [openapi.json](../../installer/ota/openapi.json), which a device serves as `%[1]s/openapi.json`. "+
		"[Page and daemon](../page.md) explains sessions, tokens and scopes. Errors are problem details (RFC 9457) of the form %s. `?app=` names the app when more than one is installed.\n\n", d.Servers[0].URL, link("Problem"))
	b.WriteString("Every call may answer:\n\n| status | when |\n|---|---|\n")
	for _, status := range slices.Sorted(maps.Keys(d.Components.Responses)) {
		fmt.Fprintf(&b, "| %s | %s |\n", status, cell(d.Components.Responses[status].Description))
	}
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			op := d.Paths[path][method]
			fmt.Fprintf(&b, "\n## %s %s\n\n%s. %s.\n\n", strings.ToUpper(method), strings.NewReplacer("{", "", "}", "").Replace(d.Servers[0].URL+path), strings.TrimSuffix(op.Summary, "."), strings.TrimSuffix(op.Description, "."))
			var parameters []value
			for _, p := range op.Parameters {
				if p.Ref == "" {
					parameters = append(parameters, p)
				}
			}
			if len(parameters) > 0 {
				b.WriteString("| parameter | in | value | |\n|---|---|---|---|\n")
				for _, p := range parameters {
					said := p.Description
					if said == "" {
						said = p.Schema.Description
					}
					fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Name, p.In, words(p.Schema), cell(said))
				}
				b.WriteString("\n")
			}
			if op.RequestBody != nil {
				for _, kind := range slices.Sorted(maps.Keys(op.RequestBody.Content)) {
					s := op.RequestBody.Content[kind].Schema
					fmt.Fprintf(&b, "Body: `%s` %s\n\n", kind, words(s))
					properties(&b, s)
				}
			}
			b.WriteString("| status | body | |\n|---|---|---|\n")
			for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
				r := op.Responses[status]
				if r.Ref != "" {
					continue // one of those of every call
				}
				var bodies []string
				for _, kind := range slices.Sorted(maps.Keys(r.Content)) {
					bodies = append(bodies, strings.TrimSpace("`"+kind+"` "+words(r.Content[kind].Schema)))
				}
				fmt.Fprintf(&b, "| %s | %s | %s |\n", status, strings.Join(bodies, ", "), cell(r.Description))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		fmt.Fprintf(&b, "\n## %s\n\n", name)
		properties(&b, d.Components.Schemas[name])
	}
	bundletest.Page(t, "../..", "api.md", b.String(), *update)
}
