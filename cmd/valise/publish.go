package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/publish"
	"github.com/valise-ota/valise/bundle/push"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/verify"
)

// manifestSuffix stands in place of a bundle's .tar.gz in the name of the
// manifest that is published beside it: for thin bundles, and for whoever wants
// to read it without the bundle.
const manifestSuffix = ".manifest.json"

// stem is the path of a bundle without .tar.gz or the like.
func stem(path string) string { return strings.TrimSuffix(path, compressionOf(path).Suffix()) }

type publishFlags struct {
	trust      cli.Trust
	repository string
	tag        string
	draft      bool
	prerelease string
	notes      string
	attach     []string
	thinFrom   int
	project    string
	oci        string
}

func publishCommand(a *app) *cobra.Command {
	var f publishFlags
	c := &cobra.Command{
		Use:   "publish BUNDLE...",
		Short: "Publish a signed release on GitHub",
		Long: "publish verifies the bundles and uploads them to a draft release, with all files named\n" +
			"BUNDLE.* beside them and the public key or trusted root of the flags. Then it downloads and\n" +
			"verifies everything again, and publishes the draft in one step. If it is interrupted, run it\n" +
			"again and it continues. A published release never changes: publishing the same release again\n" +
			"is \"done\", another one is an error.\n\n" +
			"The token is GITHUB_TOKEN or GH_TOKEN, with the permission contents: write. For a GitHub\n" +
			"Enterprise Server, set GITHUB_API_URL (https://HOST/api/v3) and GITHUB_SERVER_URL. In a job\n" +
			"of GitHub Actions, all but the token are set.\n\n" +
			"The notes are the changelog in the bundle, else the commits since the previous release, and\n" +
			"the commands to verify and install it. A version with a pre-release part becomes a\n" +
			"pre-release.",
		Example: "  valise publish dist/shop-1.2.3.tar.gz --repository acme/shop --key cosign.pub\n" +
			"  valise publish dist/shop-1.2.3.tar.gz --thin-from 3 --draft \\\n" +
			"    --identity https://github.com/acme/shop/.github/workflows/release.yml@refs/tags/v1.2.3",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			result, err := a.publish(cmd.Context(), args, f)
			if err != nil {
				return a.publishHint(err)
			}
			return a.Result(result, result.print)
		},
	}
	f.trust.Register(c.Flags())
	c.Flags().StringVar(&f.repository, "repository", "", "OWNER/NAME (default GITHUB_REPOSITORY)")
	c.Flags().StringVar(&f.tag, "tag", "", "tag of the release, created if it is missing (default: the tag that the bundle was built from, else v and the version)")
	c.Flags().BoolVar(&f.draft, "draft", false, "upload and check, but leave the release as a draft")
	c.Flags().StringVar(&f.prerelease, "prerelease", "auto", "whether it is a pre-release: auto (according to the version), true or false")
	c.Flags().StringVar(&f.notes, "notes", "", "Markdown file with release notes, instead of the changelog or commits")
	c.Flags().StringSliceVar(&f.attach, "attach", nil, "also publish this file, with the signatures beside it (repeatable)")
	c.Flags().StringVar(&f.project, "project", project.DefaultFile, "project file, if it exists: files that git ignores are not published without its public: true")
	c.Flags().StringVar(&f.oci, "oci", "", "also push the bundles to this registry once they are published: oci://HOST/REPOSITORY (see push)")
	c.Flags().IntVar(&f.thinFrom, "thin-from", 0, "make and publish thin bundles for this many previous releases (only for apps with images)")
	return c
}

// publishResult is the result of publish.
type publishResult struct {
	*publish.Result
	Version  string         `json:"version"`
	Manifest bundle.Digest  `json:"manifest"` // of the first bundle
	Signer   verify.Signer  `json:"signer"`
	Files    []string       `json:"files"` // names
	Thin     []thinResult   `json:"thin"`
	Diff     *difference    `json:"diff,omitempty"`   // to the release before
	Before   []comparison   `json:"before,omitempty"` // to releases before, newest first
	Install  string         `json:"install"`          // command lines of a first installation
	Pushed   []*push.Result `json:"pushed,omitempty"`
}

func (r *publishResult) print(w io.Writer) {
	what := "published"
	switch {
	case r.Draft:
		what = "a draft, checked and not published"
	case r.Existed && r.Uploaded == 0:
		what = "published before, checked again"
	case r.Immutable:
		what = "published, immutable"
	}
	fmt.Fprintf(w, "%s %s: %s\n  signed by %s\n  files     %s\n", r.Version, what, r.URL, r.Signer, strings.Join(r.Files, "\n            "))
	printPushed(w, r.Pushed)
}

// publishing is a run of publish.
type publishing struct {
	*app
	publishFlags
	repo     *publish.Repository
	verifier *verify.Verifier
	releases []*verify.Release // of the bundles, in their order
	bundles  []*parts.File     // in the same order
	paths    []string          // of the bundles, without numbers of parts
	dir      string            // for what is downloaded
}

// gitHub is a repository, as whom the environment says.
func (a *app) gitHub(repository string) (*publish.Repository, error) {
	repo, err := publish.Open(publish.Options{
		API:        cmp.Or(a.Getenv("GITHUB_API_URL"), "https://api.github.com"),
		Token:      cmp.Or(a.Getenv("GITHUB_TOKEN"), a.Getenv("GH_TOKEN")),
		Repository: repository,
		UserAgent:  "valise/" + cli.Version(),
	})
	if err != nil {
		return nil, cli.Usagef("%w", err)
	}
	return repo, nil
}

func (a *app) publish(ctx context.Context, paths []string, flags publishFlags) (*publishResult, error) {
	policy, err := flags.trust.Policy()
	if err != nil {
		return nil, err
	}
	flags.repository = cmp.Or(flags.repository, a.Getenv("GITHUB_REPOSITORY"))
	p := &publishing{app: a, publishFlags: flags}
	if p.verifier, err = verify.New(policy); err != nil {
		return nil, err
	}
	if flags.repository == "" {
		return nil, cli.Usagef("say where to publish: --repository OWNER/NAME")
	}
	var to name.Repository
	if flags.oci != "" {
		if to, err = a.registry(flags.oci, false); err != nil {
			return nil, err
		}
		if flags.draft {
			return nil, cli.WithHint(cli.Usagef("--oci with --draft: a registry has no drafts"), "run valise push when the draft is published")
		}
	}
	if p.repo, err = a.gitHub(flags.repository); err != nil {
		return nil, err
	}
	for i, path := range paths {
		want := verify.Want{}
		if i > 0 {
			want = verify.Want{App: p.manifest().App, Version: p.manifest().Version}
		}
		rel, f, err := p.open(ctx, path, want)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		p.releases, p.bundles, p.paths = append(p.releases, rel), append(p.bundles, f), append(p.paths, f.Name)
	}
	if err := p.checkPrivate(ctx); err != nil {
		return nil, err
	}
	m := p.manifest()
	version, err := bundle.ParseVersion(m.Version)
	if err != nil {
		return nil, err
	}
	q := publish.Request{Tag: cmp.Or(flags.tag, tagOf(m)), Title: m.App + " " + m.Version, Draft: flags.draft, Progress: a.UI.Track, Note: a.Note}
	switch flags.prerelease {
	case "auto":
		q.Prerelease = version.Prerelease() != ""
	case "true", "false":
		q.Prerelease = flags.prerelease == "true"
	default:
		return nil, cli.Usagef("--prerelease is %q, want auto, true or false", flags.prerelease)
	}
	if m.Source != nil {
		q.Commit = m.Source.Commit
	} else {
		a.Note("%s names no commit, so it is not compared with the tag %s", filepath.Base(p.paths[0]), q.Tag)
	}
	if p.dir, err = os.MkdirTemp(filepath.Dir(paths[0]), ".valise-publish-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(p.dir)
	q.TempDir = p.dir

	result := &publishResult{Version: m.Version, Manifest: p.releases[0].Digest(), Signer: p.releases[0].Signer()}
	before, err := p.before(ctx, version, q.Tag)
	if err != nil {
		return nil, err
	}
	if err := p.compare(ctx, before, result); err != nil {
		return nil, err
	}
	if q.Files, err = p.files(result.Thin); err != nil {
		return nil, err
	}
	if q.Notes, err = p.writeNotes(ctx, q, before, result); err != nil {
		return nil, err
	}
	if q.Beside, err = p.checkLegacy(q.Files); err != nil {
		return nil, err
	}
	if result.Result, err = p.repo.Publish(ctx, q); err != nil {
		return nil, err
	}
	result.Files = result.Names
	if flags.oci != "" {
		var list []pushed
		for i, r := range p.releases {
			list = append(list, pushed{r, p.paths[i]})
		}
		result.Pushed, err = a.push(ctx, list, to)
	}
	return result, err
}

// tagOf is the git tag that a bundle was built from, or the usual one.
func tagOf(m *bundle.Manifest) string {
	if m.Source != nil {
		tag, ok := strings.CutPrefix(m.Source.Ref, "refs/tags/")
		if _, version, _ := bundle.SplitTag(tag); ok && version == m.Version {
			return tag
		}
	}
	return "v" + m.Version
}

func (p *publishing) manifest() *bundle.Manifest { return p.releases[0].Manifest() }

// writeNotes writes the notes of the release.
func (p *publishing) writeNotes(ctx context.Context, q publish.Request, before []earlier, result *publishResult) (string, error) {
	m := *p.manifest()
	server := cmp.Or(p.Getenv("GITHUB_SERVER_URL"), "https://github.com")
	facts := publish.Facts{Signer: bundle.Signer(result.Signer), SignedBy: result.Signer.String(), Download: fmt.Sprintf("%s/%s/releases/download/%s/", server, p.repository, q.Tag)}
	if p.trust.Key != "" {
		facts.Key = filepath.Base(p.trust.Key)
	}
	if p.trust.TrustedRoot != "" {
		facts.TrustedRoot = filepath.Base(p.trust.TrustedRoot)
	}
	for _, path := range p.paths {
		facts.Bundles = append(facts.Bundles, filepath.Base(path))
	}
	if f := p.bundles[0]; f.PartSize() > 0 {
		facts.Parts = len(f.Paths)
	}
	for _, t := range result.Thin {
		facts.Thin = append(facts.Thin, publish.Thin{Name: filepath.Base(t.Bundle), From: t.From, Size: ui.Bytes(t.Size)})
	}
	if p.notes != "" {
		text, err := os.ReadFile(p.notes)
		if err != nil {
			return "", fmt.Errorf("read notes: %w", err)
		}
		m.Changelog = strings.TrimSpace(string(text))
	}
	if len(before) > 0 {
		facts.Previous = before[0].version.String()
		if m.Changelog == "" && q.Commit != "" {
			var err error
			if facts.Commits, err = p.repo.Commits(ctx, before[0].Tag, q.Commit); err != nil {
				p.Note("no commits in the notes: %v", err)
			}
		}
	}
	result.Install = publish.Install(&m, facts)
	return publish.Notes(&m, facts), nil
}

// publishHint says what to do next.
func (a *app) publishHint(err error) error {
	var published *publish.PublishedError
	switch {
	case errors.As(err, new(*publish.PermissionError)) && a.Getenv("GITHUB_ACTIONS") != "":
		return cli.WithHint(err, "give the job \"permissions: contents: write\"; a job of a pull request from a fork never gets a token that may write")
	case errors.As(err, new(*publish.PermissionError)):
		return cli.WithHint(err, "set GITHUB_TOKEN to a token of that repository with the permission contents: write")
	case errors.As(err, new(*publish.SizeError)):
		return cli.WithHint(err, "build it in parts, or a bundle for each platform: valise build --split-size 2000MiB, or --split-platforms")
	case errors.As(err, new(*publish.ConflictError)):
		return cli.WithHint(err, "give yours another name, or leave it out of what is published")
	case errors.As(err, &published) && published.Immutable && published.Foreign:
		return cli.WithHint(err, "let what makes the release (release-please, goreleaser, gh release create) leave a draft: draft: true; valise adds its files to it and publishes it")
	case errors.As(err, new(*publish.PublishedError)), errors.As(err, new(*publish.BurntError)):
		return cli.WithHint(err, "give the release a new version and build it again")
	}
	return err
}
