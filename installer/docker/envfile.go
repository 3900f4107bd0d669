package docker

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/installer/yamledit"
)

// InMemory is a file with content that is on no disk, and the name under which other
// programs open it until it is closed.
func InMemory(content []byte) (*os.File, string, error) {
	fd, err := unix.MemfdCreate("valise", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, "", fmt.Errorf("make file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, "", err
	}
	return f, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), nil
}

// envFileLabel begins labels that stand for env_file. Docker compose before 2.28 reads
// environment files whenever it reads a project, says nothing of them, and fails when
// one is missing. In its JSON a label is what a variable in it means.
const envFileLabel = "dev.valise.env_file."

// namedEnvFiles is c with its files in memory, where labels stand for env_file. The
// caller calls the function that it returns.
func (c *Compose) namedEnvFiles() (*Compose, func(), error) {
	named := *c
	named.Files = nil
	var open []*os.File
	done := func() {
		for _, f := range open {
			f.Close()
		}
	}
	for i, name := range c.Files {
		b, err := readHead(name, maxRemembered)
		if err != nil {
			done()
			return nil, nil, err
		}
		if b = labelled(b, fmt.Sprint(envFileLabel, i, ".")); b != nil {
			var f *os.File
			if f, name, err = InMemory(b); err != nil {
				done()
				return nil, nil, err
			}
			open = append(open, f)
		}
		named.Files = append(named.Files, name)
	}
	return &named, done, nil
}

// labelled is a compose file with labels for env_file; nil for one without, and for
// what only docker compose can judge.
func labelled(b []byte, prefix string) []byte {
	var doc yaml.Node
	if len(b) == maxRemembered || !bytes.Contains(b, []byte("env_file")) || yaml.Unmarshal(b, &doc) != nil || len(doc.Content) != 1 {
		return nil
	}
	services := yamledit.Member(doc.Content[0], "services")
	if services == nil || services.Kind != yaml.MappingNode {
		return nil
	}
	l := labels{prefix, map[*yaml.Node]bool{}}
	for i := 1; i < len(services.Content); i += 2 {
		l.set(services.Content[i])
	}
	b, err := yaml.Marshal(&doc)
	if err != nil {
		return nil
	}
	return b
}

// labels puts labels in the place of env_file.
type labels struct {
	prefix string
	seen   map[*yaml.Node]bool
}

// set changes the map of a service and those that are merged into it.
func (l labels) set(n *yaml.Node) {
	if l.seen[n] {
		return
	}
	l.seen[n] = true
	switch n.Kind {
	case yaml.AliasNode:
		l.set(n.Alias)
	case yaml.SequenceNode: // of merged maps
		for _, m := range n.Content {
			l.set(m)
		}
	case yaml.MappingNode:
		if merged := yamledit.Member(n, "<<"); merged != nil {
			l.set(merged)
		}
		yamledit.Set(n, "labels", nil) // its own would take the place of those of a map that is merged
		files := yamledit.Member(n, "env_file")
		if files == nil {
			return
		}
		if files.Kind == yaml.AliasNode {
			files = files.Alias
		}
		list := []*yaml.Node{files}
		if files.Kind == yaml.SequenceNode {
			list = files.Content
		}
		set := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for i, f := range list {
			mark := "+"
			if f.Kind == yaml.MappingNode {
				if required := yamledit.Member(f, "required"); required != nil && required.Value == "false" {
					mark = "-"
				}
				f = yamledit.Member(f, "path")
			}
			if f != nil && f.Kind == yaml.ScalarNode {
				yamledit.Set(set, fmt.Sprintf("%s%04d", l.prefix, i), yamledit.Text(mark+f.Value))
			}
		}
		yamledit.Set(n, "env_file", nil)
		yamledit.Set(n, "labels", set)
	}
}

// envFiles are those that labels stand for, in their order.
func (s *Service) envFiles(dir string) (files []EnvFile) {
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		if path := s.Labels[key]; strings.HasPrefix(key, envFileLabel) && len(path) > 1 {
			required := path[0] == '+'
			if path = path[1:]; !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			files = append(files, EnvFile{path, &required})
		}
	}
	return files
}
