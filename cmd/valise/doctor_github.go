package main

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/publish"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// askGitHub asks what only GitHub knows.
func (e *examination) askGitHub(ctx context.Context) error {
	token := cmp.Or(e.Getenv("GITHUB_TOKEN"), e.Getenv("GH_TOKEN"))
	if token == "" || e.repository == "" {
		e.add(findingSkipped, "github", "GITHUB_TOKEN=$(gh auth token) valise doctor", "not asked: no token, or no repository")
		return nil
	}
	api := e.Getenv("GITHUB_API_URL")
	if api == "" && e.server != "https://github.com" { // the checkout says so, and it gets no token for that
		e.add(findingSkipped, "github", "GITHUB_API_URL="+e.server+"/api/v3 when that server may have the token", "not asked: the checkout is of %s", e.server)
		return nil
	}
	repo, err := publish.Open(publish.Options{API: cmp.Or(api, "https://api.github.com"), Token: token, Repository: e.repository, UserAgent: "valise/" + cli.Version()})
	if err != nil {
		return cli.Usagef("%w", err)
	}
	about, err := repo.About(ctx)
	if err != nil {
		e.add(cli.FindingFailed, "github", "a token that may read this repository", "%v", err)
		return nil
	}
	switch {
	case about.Archived:
		e.add(cli.FindingFailed, "github", "", "%s is archived: nothing can be released", about.Name)
	case about.Private:
		e.add(findingOK, "github", "", "%s is private: devices need token_file in their source", about.Name)
	default:
		e.add(findingOK, "github", "", "%s is public", about.Name)
	}
	e.allowed(ctx, repo)
	immutable := e.immutable(ctx, repo, about)
	e.tagRules(ctx, repo, immutable)
	e.environments(ctx, repo)
	e.releases(ctx, repo)
	return nil
}

// unknown adds what the token may not know, and other errors.
func (e *examination) unknown(check string, err error) bool {
	switch {
	case err == nil:
		return false
	case publish.Unknown(err):
		e.add(findingSkipped, check, "", "the token may not know (%v)", err)
	default:
		e.add(cli.FindingFailed, check, "", "%v", err)
	}
	return true
}

func (e *examination) allowed(ctx context.Context, repo *publish.Repository) {
	a, err := repo.AllowedActions(ctx)
	if !e.unknown("actions", err) {
		missing := ""
		for _, s := range e.steps {
			name, _, _ := strings.Cut(s.uses, "/")
			if !strings.HasPrefix(e.repository, name+"/") && !a.Allows(s.uses) {
				missing = s.uses
			}
		}
		switch {
		case !a.Enabled:
			e.add(cli.FindingFailed, "actions", "Settings, Actions, General", "GitHub Actions is turned off")
		case missing != "":
			name, _, _ := strings.Cut(missing, "@")
			e.add(cli.FindingFailed, "actions", "Settings, Actions, General: allow "+name+"@*", "the repository does not allow %s", missing)
		default:
			e.add(findingOK, "actions", "", "what the workflows use is allowed")
		}
	}
	if slices.ContainsFunc(e.steps, func(s releasing) bool { return s.publishes && s.contents == levelDefault }) {
		level, err := repo.DefaultPermissions(ctx)
		if !e.unknown("permissions", err) && level != levelWrite {
			e.add(cli.FindingFailed, "permissions", "permissions: {contents: write} in the job that publishes", "a job that names no permission may only read")
		}
	}
}

func (e *examination) immutable(ctx context.Context, repo *publish.Repository, about *publish.About) bool {
	on, err := repo.ImmutableReleases(ctx)
	switch {
	case publish.Unknown(err) && about.Permissions.Admin:
		err = nil // off
	case e.unknown("immutable releases", err):
		return false
	}
	if on {
		e.add(findingOK, "immutable releases", "", "what is published cannot be changed")
	} else {
		e.add(findingWarning, "immutable releases", "Settings, General, Releases: enable release immutability", "files of a published release can be exchanged, and its tag moved; devices refuse what is not signed, but lose the old file")
	}
	return on
}

func (e *examination) tagRules(ctx context.Context, repo *publish.Repository, immutable bool) {
	rules, err := repo.TagRules(ctx)
	if e.unknown("tag rules", err) {
		return
	}
	tag := cmp.Or(e.sample, "v1.2.3")
	var has []string
	for _, r := range rules {
		if r.Covers(tag) {
			has = append(has, r.Rules...)
		}
	}
	remedy := fmt.Sprintf("Settings, Rules: a ruleset for tags %s* that restricts creations, updates and deletions, with the people who release in its bypass list", strings.TrimRight(tag, "0123456789."))
	switch {
	case !slices.Contains(has, "creation"):
		e.add(findingWarning, "tag rules", remedy, "everybody who may write can push a tag such as %s, and so release what devices accept", tag)
	case !immutable && !(slices.Contains(has, "update") && slices.Contains(has, "deletion")):
		e.add(findingWarning, "tag rules", remedy, "tags such as %s can be moved or deleted", tag)
	default:
		e.add(findingOK, "tag rules", "", "who may make tags such as %s is restricted", tag)
	}
}

func (e *examination) environments(ctx context.Context, repo *publish.Repository) {
	for _, s := range e.steps {
		if s.environment == "" || strings.Contains(s.environment, "${{") {
			continue
		}
		protected, err := repo.Protected(ctx, s.environment)
		if publish.Unknown(err) {
			err = nil // GitHub makes it when a job first names it
		}
		if e.unknown("environment", err) {
			continue
		}
		if protected {
			e.add(findingOK, "environment", "", "%s has rules", s.environment)
		} else {
			e.add(findingWarning, "environment", "Settings, Environments: required reviewers, and which tags may use it", "%s, which job %s of %s names, has no rule", s.environment, s.job, s.file)
		}
	}
}

// releases looks at drafts that are left and at who signed the newest release.
func (e *examination) releases(ctx context.Context, repo *publish.Repository) {
	all, err := repo.Releases(ctx)
	if e.unknown("releases", err) {
		return
	}
	prefix, _, _ := bundle.SplitTag(cmp.Or(e.sample, "v1.2.3"))
	newest := true
	for _, rel := range all {
		own, _, ok := bundle.SplitTag(rel.Tag)
		if !ok || tagFamily(own) != tagFamily(prefix) {
			continue
		}
		if rel.Draft {
			e.add(findingWarning, "releases", "run its workflow again, or delete the draft", "%s is a draft that was never published (%s)", rel.Tag, rel.URL)
		} else if newest {
			newest = false
			e.signer(ctx, repo, rel)
		}
	}
	if newest {
		e.add(findingOK, "releases", "", "none is published yet")
	}
}

// signer compares who signed the newest release with who will sign the next one.
func (e *examination) signer(ctx context.Context, repo *publish.Repository, rel publish.Release) {
	assets, err := repo.Assets(ctx, rel.ID)
	if e.unknown("releases", err) {
		return
	}
	i := slices.IndexFunc(assets, func(a publish.Asset) bool {
		return strings.HasSuffix(a.Name, manifestSuffix+sigstoreSuffix) && a.Size <= bundle.MaxSignatureSize && (e.p == nil || strings.HasPrefix(a.Name, e.p.App+"-"))
	})
	if i < 0 {
		e.add(findingWarning, "releases", "publish it with the Action or valise publish", "the newest, %s, has no signed manifest: devices do not see it", rel.Tag)
		return
	}
	var b strings.Builder
	if e.unknown("releases", repo.Download(ctx, assets[i], &b)) {
		return
	}
	was := claimedSigner([]byte(b.String()))
	for _, s := range e.steps {
		want := regexp.MustCompile("^" + regexp.QuoteMeta(fmt.Sprintf("%s/.github/workflows/%s@", e.url(), s.file)))
		if s.sign == signKeyless && want.MatchString(was) || s.sign == signKey && strings.HasPrefix(was, "key ") {
			e.add(findingOK, "releases", "", "the newest, %s, was signed as the next one will be", rel.Tag)
			return
		}
	}
	if len(e.steps) > 0 {
		e.add(cli.FindingFailed, "releases", "sign one more release as before, with the new signer in valise.yaml (trust: {signers: [...]})", "the newest, %s, was signed by %s, and no workflow here signs so: devices would refuse the next release", rel.Tag, was)
	}
}
