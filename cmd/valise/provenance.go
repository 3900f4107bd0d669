package main

import (
	"path"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/provenance"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// addProvenance puts the statement how the release was built into it, as its last
// file: it is about all the others.
func (a *app) addProvenance(m *bundle.Manifest, c *content, p *project.Project, git *gitInfo) error {
	params := provenance.ExternalParameters{Project: filepath.Base(p.File)}
	if git != nil {
		params.Project = git.prefix + params.Project
	}
	run := provenance.RunDetails{Builder: provenance.Builder{ID: provenance.Local, Version: map[string]string{"valise": cli.Version()}}}
	internal := a.githubActions(&params, &run)
	var dependencies []provenance.Resource
	for _, s := range c.Sources {
		dependencies = append(dependencies, provenance.Resource{Name: s.Name, URI: s.URI, Digest: map[string]string{"sha256": s.Digest.Hex()}})
	}
	b, err := provenance.New(m, params, dependencies, run, internal).Encode()
	if err != nil {
		return err
	}
	return c.add(m, provenance.Name, b)
}

// githubActions says what the environment of a GitHub Actions job says of it;
// nothing elsewhere.
func (a *app) githubActions(params *provenance.ExternalParameters, run *provenance.RunDetails) *provenance.Internal {
	if a.Getenv("GITHUB_ACTIONS") != "true" {
		return nil
	}
	repository := a.Getenv("GITHUB_REPOSITORY")
	url := a.Getenv("GITHUB_SERVER_URL") + "/" + repository
	// OWNER/REPO/.github/workflows/release.yml@refs/tags/v1.2.3
	workflow, ref, _ := strings.Cut(a.Getenv("GITHUB_WORKFLOW_REF"), "@")
	params.Workflow = &provenance.Workflow{Ref: ref, Repository: url, Path: strings.TrimPrefix(workflow, repository+"/")}
	run.Builder.ID = provenance.SelfHosted
	if a.Getenv("RUNNER_ENVIRONMENT") == "github-hosted" {
		run.Builder.ID = provenance.GitHubHosted
	}
	run.Metadata = &provenance.Metadata{InvocationID: url + "/" + path.Join("actions/runs", a.Getenv("GITHUB_RUN_ID"))}
	return &provenance.Internal{GitHub: provenance.GitHub{
		EventName:         a.Getenv("GITHUB_EVENT_NAME"),
		RepositoryID:      a.Getenv("GITHUB_REPOSITORY_ID"),
		RepositoryOwnerID: a.Getenv("GITHUB_REPOSITORY_OWNER_ID"),
	}}
}
