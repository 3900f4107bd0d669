package project

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Error is a mistake in a file of the project. Line and Column count from 1; they
// are 0 when the mistake is that something is missing.
type Error struct {
	File   string
	Line   int
	Column int
	Detail string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Detail)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Detail)
}

// document is a YAML file with the positions of its keys and values.
type document struct {
	file string
	data []byte
	root *yaml.Node
}

func parseDocument(file string, data []byte) (*document, error) {
	d := &document{file: file, data: data}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, &Error{File: file, Detail: "empty, want at least app, compose, platforms and health"}
	}
	var node yaml.Node
	if err := yaml.Load(data, &node, yaml.WithUniqueKeys()); err != nil {
		return nil, d.wrap(err)
	}
	root := &node
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	if root.Kind != yaml.MappingNode {
		return nil, &Error{file, max(root.Line, 1), max(root.Column, 1), "want keys and values"}
	}
	d.root = root
	return d, nil
}

// decode fills v, a pointer to a struct. It looks for unknown keys itself: only
// the types say what could have been meant.
func (d *document) decode(v any) error {
	if err := d.knownKeys(d.root, reflect.TypeOf(v)); err != nil {
		return err
	}
	if err := yaml.Load(d.data, v, yaml.WithUniqueKeys(), yaml.WithKnownFields()); err != nil {
		return d.wrap(err)
	}
	return nil
}

func (d *document) knownKeys(n *yaml.Node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case n.Kind == yaml.AliasNode || n.Tag == "!!merge":
		return nil // the anchor is checked where it stands
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for _, c := range n.Content {
			if err := d.knownKeys(c, t.Elem()); err != nil {
				return err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 1; i < len(n.Content); i += 2 {
			if err := d.knownKeys(n.Content[i], t.Elem()); err != nil {
				return err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		fields := map[string]reflect.Type{}
		var names []string
		for i := range t.NumField() {
			if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" {
				fields[name] = t.Field(i).Type
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			return nil // a type that reads itself
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			field, ok := fields[key.Value]
			if !ok {
				return d.errorAt(key, "unknown key %q%s", key.Value, didYouMean(key.Value, names))
			}
			if err := d.knownKeys(n.Content[i+1], field); err != nil {
				return err
			}
		}
	}
	return nil
}

// at returns an error at the value that path leads to, or at the nearest one
// above it that exists. A path element is a key or an index. What is longer than
// a word is shown at its key: people look for names.
func (d *document) at(path []any, format string, args ...any) error {
	n := d.root
	show := n
	for _, step := range path {
		key, value := child(n, step)
		if value == nil {
			break
		}
		n, show = value, value
		if key != nil && value.Kind != yaml.ScalarNode {
			show = key
		}
	}
	if n == d.root {
		return &Error{File: d.file, Detail: fmt.Sprintf(format, args...)}
	}
	return d.errorAt(show, format, args...)
}

// child returns the member of n that step names, and its key if n has keys.
func child(n *yaml.Node, step any) (key, value *yaml.Node) {
	switch step := step.(type) {
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i], n.Content[i+1]
			}
		}
	case int:
		if n.Kind == yaml.SequenceNode && step < len(n.Content) {
			return nil, n.Content[step]
		}
	}
	return nil, nil
}

func (d *document) errorAt(n *yaml.Node, format string, args ...any) error {
	return &Error{d.file, n.Line, n.Column, fmt.Sprintf(format, args...)}
}

// otherKind is how the YAML library says that a value is not of the kind that belongs there.
var otherKind = lazyregexp.New("^cannot construct !!.* into (\\[\\]|map|bool|int|string)")

var kinds = map[string]string{"[]": "a list, such as [one, two]", "map": "keys and values", "bool": "true or false", "int": "a whole number", "string": "a text"}

// wrap gives an error of the YAML library our form. The first mistake is enough.
func (d *document) wrap(err error) error {
	var first *yaml.LoadError
	if !errors.As(err, &first) {
		return &Error{File: d.file, Detail: err.Error()}
	}
	detail := strings.TrimPrefix(first.Message, "yaml: ")
	if detail == "expected single document, found multiple" {
		detail = "more than one document"
	}
	if m := otherKind.FindStringSubmatch(detail); m != nil {
		detail = "want " + kinds[m[1]]
	}
	return &Error{d.file, first.Mark.Line, first.Mark.Column, detail}
}

// didYouMean returns a question naming the candidate nearest to word, or nothing
// when none is near.
func didYouMean(word string, candidates []string) string {
	best, distance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if n := editDistance(word, c); n < distance {
			best, distance = c, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// editDistance counts the bytes to insert, delete or replace to turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
