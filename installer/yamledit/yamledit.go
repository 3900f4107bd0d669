// Package yamledit changes members of YAML documents and leaves all else, comments
// too, as people wrote it.
package yamledit

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// Text is a node with a text, on lines of its own when it has several.
func Text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.Contains(s, "\n") {
		n.Style = yaml.LiteralStyle
	}
	return n
}

// Member is a member of a map; nil when there is none, or m is not a map.
func Member(m *yaml.Node, key string) *yaml.Node {
	for i := 0; m.Kind == yaml.MappingNode && i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// Set sets a member of a map; nil removes it.
func Set(m *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value != key {
			continue
		}
		if value == nil {
			m.Content = append(m.Content[:i], m.Content[i+2:]...)
			return
		}
		m.Content[i+1] = value
		return
	}
	if value != nil {
		m.Content = append(m.Content, Text(key), value)
	}
}
