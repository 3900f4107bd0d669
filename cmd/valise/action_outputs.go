package main

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// outputs sets the outputs of action.yml. Paths are relative to the workspace.
func (s *step) outputs() {
	var bundles, files, thin []string
	size := s.built[0].Size
	for i, b := range s.bundles {
		bundles = append(bundles, s.workspace(b))
		f, err := parts.Open(b)
		if err != nil {
			files = append(files, s.workspace(b))
			continue
		}
		f.Close()
		for _, file := range f.Paths {
			files = append(files, s.workspace(file))
		}
		if i == 0 {
			size = f.Size()
		}
	}
	signature, manifest, url := "", "", ""
	if s.in.sign != signNone && !s.in.dryRun {
		signature = bundles[0] + ".sigstore.json"
	}
	if p := s.published; p != nil {
		url = p.URL
		manifest = stem(bundles[0]) + manifestSuffix
		for _, t := range p.Thin {
			thin = append(thin, s.workspace(t.Bundle))
		}
	}
	for _, o := range [][2]string{
		{"bundle", bundles[0]}, {"bundles", strings.Join(files, "\n")}, {"version", s.built[0].Version}, {"digest", string(s.built[0].ManifestDigest)},
		{"manifest", manifest}, {"signature", signature}, {"release-url", url}, {"size", strconv.FormatInt(size, 10)}, {"thin-bundles", strings.Join(thin, "\n")},
	} {
		s.gha.SetOutput(o[0], o[1])
	}
}

// workspace returns a path relative to the workspace, or as it is when it is
// somewhere else.
func (s *step) workspace(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(s.Getenv("GITHUB_WORKSPACE"), abs)
	if err != nil || !filepath.IsLocal(rel) {
		return abs
	}
	return filepath.ToSlash(rel)
}

// annotate shows an error on the file and line it is about.
func (s *step) annotate(err error) {
	fields := map[string]string{"title": "valise"}
	text := cli.OneLine(err.Error())
	if at := new(project.Error); errors.As(err, &at) {
		fields["file"] = s.workspace(at.File)
		text = at.Detail
		if at.Line > 0 {
			fields["line"], fields["col"] = strconv.Itoa(at.Line), strconv.Itoa(at.Column)
		}
	}
	if hint := cli.Hint(err); hint != "" {
		text += " (" + hint + ")"
	}
	s.gha.WithFieldsMap(fields).Errorf("%s", text)
}
