package project

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestReference: docs/reference/valise-yaml.md has all keys of the schema, and
// the examples.
func TestReference(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Keys of valise.yaml\n\nEvery key that `valise build` reads; `valise schema` prints the same as a JSON Schema. " +
		"[valise.yaml](../valise-yaml.md) explains them. `NAME` stands for a name that you choose, `[]` for each item of a list.\n")
	s := Schema()
	for _, name := range s.PropertyOrder {
		fmt.Fprintf(&b, "\n## %s\n\n", name)
		b.WriteString("| key | value | |\n|---|---|---|\n")
		rows(&b, name, s.Properties[name], false)
	}
	for _, example := range []string{"hello", "cloud", "shop"} {
		text, err := os.ReadFile("../../examples/" + example + "/valise.yaml")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\n## Example: %s\n\n[examples/%[1]s/valise.yaml](../../examples/%[1]s/valise.yaml); tests build it.\n\n```yaml\n%s```\n", example, text)
	}
	bundletest.Page(t, "../..", "valise-yaml.md", b.String(), *update)
}

// rows are those of a value and of what is in it.
func rows(b *strings.Builder, path string, s *jsonschema.Schema, required bool) {
	value := kind(s)
	if required {
		value += ", required"
	}
	fmt.Fprintf(b, "| `%s` | %s | %s |\n", path, value, cell(s.Description))
	for _, one := range append([]*jsonschema.Schema{s}, s.AnyOf...) {
		for _, name := range one.PropertyOrder {
			rows(b, path+"."+name, one.Properties[name], slices.Contains(one.Required, name))
		}
		for suffix, each := range map[string]*jsonschema.Schema{"[]": one.Items, ".NAME": one.AdditionalProperties} {
			if each != nil && each.Not == nil && (len(each.PropertyOrder) > 0 || len(each.AnyOf) > 0 || each.Items != nil || each.Description != "") {
				rows(b, path+suffix, each, false)
			}
		}
	}
}

// kind is what a value is, for people.
func kind(s *jsonschema.Schema) string {
	var all []string
	for _, one := range s.AnyOf {
		all = append(all, kind(one))
	}
	if len(all) > 0 {
		return strings.Join(slices.Compact(all), " or ")
	}
	if len(s.Enum) > 0 {
		for _, v := range s.Enum {
			if v != "" {
				all = append(all, fmt.Sprintf("`%v`", v))
			}
		}
		return strings.Join(all, ", ")
	}
	limits := ""
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		limits = fmt.Sprintf(" from %v to %v", *s.Minimum, *s.Maximum)
	case s.Minimum != nil:
		limits = fmt.Sprintf(" from %v", *s.Minimum)
	}
	switch {
	case s.Type == "array" && s.Items != nil && len(s.Items.PropertyOrder) == 0:
		return "list of " + kind(s.Items)
	case s.Type == "array":
		return "list"
	case s.Type == "object" && s.AdditionalProperties != nil && s.AdditionalProperties.Not == nil:
		return "map"
	case s.Type == "object":
		return "object"
	case s.Type == "boolean":
		return "true or false"
	case s.Type == "integer":
		return "number" + limits
	case strings.Contains(s.Pattern, "ns|us|ms|s|m|h"):
		return "time, like `30m`"
	}
	return "text"
}

// verbatim is what a key replaces, and is not to be read as anything else.
var verbatim = regexp.MustCompile(`\{\{[^}]*\}\}|\$\{[^}]*\}|<[^>]*>`)

// cell is a text in a table.
func cell(s string) string {
	return verbatim.ReplaceAllString(strings.NewReplacer("|", `\|`, "*", `\*`).Replace(s), "`$0`")
}
