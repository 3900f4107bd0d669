package main

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// How a check ended, beside cli.FindingFailed.
const (
	findingOK      = "ok"
	findingWarning = "warning"
	findingSkipped = "skipped" // it was not asked, or the token may not know
)

func doctorCommand(a *app) *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether a repository on GitHub is ready to release",
		Long: "doctor checks valise.yaml, the checkout and its tags, and the workflows that run the Action:\n" +
			"their triggers and permissions, and the signer that devices must trust. With a token in\n" +
			"GITHUB_TOKEN (or GH_TOKEN), it also asks GitHub for allowed actions, tag rules, immutable\n" +
			"releases, environments, leftover drafts, and the signer of the newest release. Checks that\n" +
			"the token may not do are skipped; a token of an owner may do most. doctor changes nothing.\n\n" +
			"The exit code is 1 if a check failed. Warnings do not change it.",
		Example: "  valise doctor\n  GITHUB_TOKEN=$(gh auth token) valise doctor --repository acme/shop --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.doctor(cmd.Context(), f)
			if err != nil {
				return err
			}
			return a.Findings(all)
		},
	}
	c.Flags().StringVar(&f.project, "project", project.DefaultFile, "project file")
	c.Flags().StringVar(&f.repository, "repository", "", "OWNER/NAME (default GITHUB_REPOSITORY, else origin of the checkout)")
	return c
}

type doctorFlags struct{ project, repository string }

// examination collects findings.
type examination struct {
	*app
	all        []cli.Finding
	p          *project.Project
	top        string // of the checkout, "" without one
	path       string // of the project below top
	server     string // https://github.com
	repository string // OWNER/NAME, "" when nothing says it
	tags       []string
	steps      []releasing // that sign or publish
	sample     string      // a tag of the next release
}

func (e *examination) add(status, check, remedy, format string, args ...any) {
	if status == findingOK {
		remedy = ""
	}
	e.all = append(e.all, cli.Finding{Check: check, Status: status, Detail: cli.OneLine(fmt.Sprintf(format, args...)), Remedy: remedy})
}

func (a *app) doctor(ctx context.Context, f doctorFlags) ([]cli.Finding, error) {
	e := &examination{app: a, server: cmp.Or(a.Getenv("GITHUB_SERVER_URL"), "https://github.com")}
	var err error
	if e.p, err = project.Load(ctx, f.project); err != nil {
		e.add(cli.FindingFailed, "project", "valise init writes one; valise schema says what it may hold", "%v", err)
	} else {
		e.add(findingOK, "project", "", "%s is about %s", f.project, e.p.App)
	}
	below := e.checkout(ctx, filepath.Dir(f.project))
	if e.repository = cmp.Or(f.repository, a.Getenv("GITHUB_REPOSITORY"), e.repository); e.repository == "" {
		e.add(findingWarning, "repository", "name it: --repository OWNER/NAME", "the checkout does not say which repository on GitHub this is")
	}
	if e.top != "" {
		e.path = path.Join(below, filepath.Base(f.project))
		e.workflows()
		e.starts()
		e.others()
	}
	return e.all, e.askGitHub(ctx)
}

// checkout looks at what git knows, and returns where dir is in the checkout.
func (e *examination) checkout(ctx context.Context, dir string) (below string) {
	git, err := readGit(ctx, dir, "", "")
	switch {
	case err != nil:
		e.add(cli.FindingFailed, "checkout", "", "%v", err)
		return ""
	case git == nil:
		e.add(cli.FindingFailed, "checkout", "run it in a checkout of the repository", "%s is in no git repository", dir)
		return ""
	}
	e.top, _ = runGit(ctx, dir, "rev-parse", "--show-toplevel")
	if at, name, ok := strings.Cut(strings.TrimPrefix(git.source.Repository, "https://"), "/"); ok && strings.Count(name, "/") == 1 {
		e.repository, e.server = name, "https://"+at
	}
	list, _ := runGit(ctx, dir, "tag", "--list", "--sort=-creatordate")
	e.tags = strings.Fields(list)
	e.add(findingOK, "checkout", "", "%s", strings.TrimSpace(git.source.Repository+" "+git.source.Commit[:12]))
	if shallow, _ := runGit(ctx, dir, "rev-parse", "--is-shallow-repository"); shallow == "true" {
		e.add(findingWarning, "history", "fetch-depth: 0 for actions/checkout, or git fetch --unshallow --tags", "the checkout has no history, so notes without CHANGELOG.md have no commits, and tags are missing here")
	}
	files, _ := runGit(ctx, e.top, "ls-files", "-z", "--", "*.key", "*.pem", "*.priv")
	for _, name := range strings.FieldsFunc(files, func(r rune) bool { return r == 0 }) {
		if isPrivateKey(filepath.Join(e.top, name)) {
			e.add(cli.FindingFailed, "key", "make another one (valise keygen), rotate devices to it (trust in valise.yaml), and keep it in secrets", "%s is a private key, and everybody who reads the repository has it", name)
		}
	}
	return git.prefix
}

// isPrivateKey looks at the beginning of a file.
func isPrivateKey(name string) bool {
	head, _ := readHead(name, 256)
	return regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`).Match(head)
}

// workflows looks at what runs the Action, and with which permissions.
func (e *examination) workflows() {
	steps, calls, problems, err := readWorkflows(e.top)
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, problem := range problems {
		e.add(cli.FindingFailed, "workflow", "actionlint says where", "%s", problem)
	}
	steps = e.ofProject(steps)
	unpinned := map[string]bool{}
	for _, s := range steps {
		if _, ref, _ := strings.Cut(s.uses, "@"); !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(ref) && !unpinned[s.uses] {
			unpinned[s.uses] = true
			e.add(findingWarning, "action", "name the commit of a release, as valise init --github does", "%s uses %s, which its owner can change", s.file, s.uses)
		}
		if always := s.dryRun && !slices.Contains(s.on.events, "push"); !always && (s.publishes || s.sign != signNone) {
			e.steps = append(e.steps, s)
		}
	}
	for _, c := range calls {
		if len(e.steps) == 0 || strings.Contains(c.uses, "valise") {
			name, ref, _ := strings.Cut(c.uses, "@")
			e.add(findingWarning, "workflow", "when it signs, let devices ask for trust: {provenance: {repository: "+e.url()+"}} too: every repository that calls it signs so",
				"job %s of %s is %s of another repository, which is not looked into; what it signs is signed as %s/%s@%s", c.job, c.file, path.Base(name), e.server, name, ref)
		}
	}
	if len(e.steps) == 0 && len(calls) == 0 {
		e.add(findingWarning, "workflow", "valise init --github writes one", "no workflow signs or publishes with the Action")
	}
	for _, s := range e.steps {
		lacks := map[string]string{}
		if s.publishes {
			lacks["contents"] = s.contents
		}
		if s.sign == signKeyless {
			lacks["id-token"] = s.idToken
		}
		fine := true
		for _, permission := range sortedKeys(lacks) {
			remedy := fmt.Sprintf("permissions: {%s: write} in job %s", permission, s.job)
			switch level := lacks[permission]; {
			case level == levelWrite:
			case level == levelDefault:
				fine = false
				e.add(findingWarning, "permissions", remedy, "job %s of %s does not say that it needs %s: write, so the repository's setting decides", s.job, s.file, permission)
			default:
				fine = false
				e.add(cli.FindingFailed, "permissions", remedy, "job %s of %s has no %s: write", s.job, s.file, permission)
			}
		}
		if s.sign == signKey && !s.key {
			fine = false
			e.add(cli.FindingFailed, "permissions", "env: {COSIGN_PRIVATE_KEY: ${{ secrets.COSIGN_PRIVATE_KEY }}, COSIGN_PASSWORD: ...} of that step", "job %s of %s signs with a key and is given none", s.job, s.file)
		}
		if fine {
			e.add(findingOK, "permissions", "", "job %s of %s has what it needs", s.job, s.file)
		}
	}
}

func (e *examination) url() string { return e.server + "/" + cmp.Or(e.repository, "OWNER/NAME") }

// ofProject leaves out workflows that build other apps of the repository only.
func (e *examination) ofProject(steps []releasing) []releasing {
	own := func(top string) bool {
		others := false
		for _, s := range steps {
			if s.top == top && s.project == e.path {
				return true
			}
			others = others || s.top == top && s.project != ""
		}
		return !others
	}
	return slices.DeleteFunc(slices.Clone(steps), func(s releasing) bool { return !own(s.top) })
}

// starts looks at what starts the workflows, and says whom devices must trust.
func (e *examination) starts() {
	seen := map[string]bool{}
	for _, s := range e.steps {
		start := cmp.Or(s.prefix, "v")
		if len(s.on.tags) > 0 && s.prefix == "" {
			start = tagStart(s.on.tags[0])
		}
		e.trusts(s, start, seen)
		if seen[s.top] {
			continue
		}
		seen[s.top] = true
		if slices.Contains(s.on.events, "pull_request_target") {
			e.add(cli.FindingFailed, "start", "on: pull_request and dry-run: true", "%s runs what strangers propose with the permissions of the repository (pull_request_target)", s.top)
		}
		if slices.Contains(s.on.events, "pull_request") && !s.dryRun {
			e.add(findingWarning, "start", "dry-run: ${{ github.event_name == 'pull_request' }}", "%s runs for pull requests, which get neither identity nor secrets when they come from a fork", s.top)
		}
		if s.on.any && !s.named {
			e.add(cli.FindingFailed, "start", "on: {push: {tags: ['v*']}}", "%s runs for every branch, and has no version there", s.top)
		}
		if len(s.on.tags) == 0 && !s.on.any && !s.named && !slices.Contains(s.on.events, "release") {
			e.add(findingWarning, "start", "on: {push: {tags: ['v*']}}, or the input tag", "no tag starts %s", s.top)
		}
		var versions, own []string
		for _, tag := range e.tags {
			if _, _, ok := bundle.SplitTag(tag); ok {
				versions = append(versions, tag)
				if s.on.startsFor(tag) && strings.HasPrefix(tag, s.prefix) {
					own = append(own, tag)
				}
			}
		}
		if len(versions) > 0 && len(own) == 0 && len(s.on.tags) > 0 {
			e.add(findingWarning, "tags", "write the pattern as the tags are", "the newest tag is %s, and %s starts for %s", versions[0], s.top, strings.Join(s.on.tags, ", "))
		}
		if e.sample == "" {
			e.sample = append(own, start+"1.2.3")[0]
		}
	}
}

// trusts says once what devices must trust to take what a step signs.
func (e *examination) trusts(s releasing, start string, said map[string]bool) {
	text := ""
	switch s.sign {
	case signKey:
		text = "devices trust the key: valise-installer install BUNDLE --key cosign.pub"
	case signKeyless:
		text = fmt.Sprintf("devices trust %s: --identity-regexp '%s'", s.file, e.identity(s, start))
	}
	if text != "" && !said[text] {
		said[text] = true
		e.add(findingOK, "trust", "", "%s", text)
	}
}

// identity is the expression for what signs as a workflow.
func (e *examination) identity(s releasing, start string) string {
	workflow := regexp.QuoteMeta(fmt.Sprintf("%s/.github/workflows/%s@refs/", e.url(), s.file))
	switch {
	case len(s.on.tags) == 0 && !slices.Contains(s.on.events, "release"):
		return workflow + "heads/" + cmp.Or(s.on.branch, "BRANCH")
	case start == "":
		return workflow + "tags/[0-9].+"
	}
	return workflow + "tags/" + regexp.QuoteMeta(start) + ".+"
}

// others looks at programs that make tags and releases too.
func (e *examination) others() {
	for _, note := range releaseTools(e.top) {
		status := findingWarning
		for _, s := range e.steps {
			if s.named || slices.Contains(s.on.events, "workflow_dispatch") || slices.Contains(s.on.events, "release") {
				status = findingOK
			}
		}
		e.add(status, "other tools", "on: {workflow_dispatch: } in the workflow that releases, or the input tag", "%s", note)
	}
}
