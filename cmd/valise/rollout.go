package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/publish"
	"github.com/valise-ota/valise/bundle/push"
	"github.com/valise-ota/valise/bundle/rollout"
	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/verify"
)

type rolloutFlags struct {
	signFlags
	trust                                   cli.Trust
	app, project, repository, registry, dir string
	groups                                  []string
	anew, plainHTTP                         bool
}

const rolloutPlaces = "The file is in a separate release on GitHub (--repository), beside the releases in a registry (--oci), or\n" +
	"in a directory of a web server or stick (--dir)."

func rolloutCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "rollout", Short: "Release to some devices first, or halt a release"}
	c.AddCommand(rolloutSetCommand(a), rolloutHaltCommand(a), rolloutStatusCommand(a))
	return c
}

func rolloutSetCommand(a *app) *cobra.Command {
	var f rolloutFlags
	c := &cobra.Command{
		Use:   "set VERSION PERCENT%",
		Short: "Set which devices may install a release automatically",
		Long: "set publishes a signed rollout file that offers VERSION to PERCENT of all devices, and to\n" +
			"other percentages of groups. Other releases, and groups that you do not name, keep what the\n" +
			"file says about them. A device that is included at 5% is also included at 10%. set ends a\n" +
			"halt. Run it before you publish the release, so that no device installs it too early.\n\n" + rolloutPlaces,
		Example: "  valise rollout set 1.2.0 10% --group canary=100 --repository acme/shop --key cosign.key\n" +
			"  valise rollout set 1.2.0 100% --oci oci://ghcr.io/acme/shop --identity-regexp 'https://github.com/acme/shop/.*'",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			percent, err := rollout.ParsePercent(args[1])
			if err != nil {
				return cli.Usagef("%w", err)
			}
			groups := map[string]int{}
			for _, g := range f.groups {
				name, text, _ := strings.Cut(g, "=")
				if !rollout.ValidGroup(name) {
					return cli.Usagef("--group is %.80q, want NAME=PERCENT", g)
				}
				if groups[name], err = rollout.ParsePercent(text); err != nil {
					return cli.Usagef("--group %s: %w", name, err)
				}
			}
			return a.rolloutChange(cmd.Context(), args[0], f, func(file *rollout.File, version string) {
				r := rollout.Release{Version: version, Percent: percent, Groups: groups}
				if old := file.Of(version); old != nil {
					if percent < old.Percent && !old.Halted {
						a.Note("%s was at %d%%: a device that has it keeps it", version, old.Percent)
					}
					r.Groups = maps.Clone(old.Groups)
					if r.Groups == nil {
						r.Groups = map[string]int{}
					}
					maps.Copy(r.Groups, groups)
				}
				rollout.Set(file, r)
			})
		},
	}
	c.Flags().StringArrayVar(&f.groups, "group", nil, "NAME=PERCENT of the devices in that group (repeatable)")
	f.registerChange(c)
	return c
}

func rolloutHaltCommand(a *app) *cobra.Command {
	var f rolloutFlags
	c := &cobra.Command{
		Use:   "halt VERSION",
		Short: "Keep all devices from installing a release",
		Long: "halt publishes a signed rollout file that offers VERSION to no device. Devices that already\n" +
			"run it keep it. \"set\" ends the halt.\n\n" + rolloutPlaces,
		Example: "  valise rollout halt 1.2.0 --repository acme/shop --key cosign.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.rolloutChange(cmd.Context(), args[0], f, rollout.Halt)
		},
	}
	f.registerChange(c)
	return c
}

func rolloutStatusCommand(a *app) *cobra.Command {
	var f rolloutFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the published rollout file",
		Long: "status shows the newest rollout file of each place. If flags say who must have signed it,\n" +
			"status checks its signature.\n\n" + rolloutPlaces,
		Example: "  valise rollout status --repository acme/shop --key cosign.pub",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.rolloutStatus(cmd.Context(), f) },
	}
	f.registerPlaces(c)
	f.trust.Register(c.Flags())
	return c
}

func (f *rolloutFlags) registerPlaces(c *cobra.Command) {
	c.Flags().StringVar(&f.app, "app", "", "name of the app (default, that of the project file)")
	c.Flags().StringVar(&f.project, "project", project.DefaultFile, "project file")
	c.Flags().StringVar(&f.repository, "repository", "", "OWNER/NAME on GitHub (default GITHUB_REPOSITORY, unless you pass another place)")
	c.Flags().StringVar(&f.registry, "oci", "", "registry: oci://HOST/REPOSITORY (see push)")
	c.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "the registry has no TLS; no password is sent there")
	c.Flags().StringVar(&f.dir, "dir", "", "directory, for example of a web server")
}

func (f *rolloutFlags) registerChange(c *cobra.Command) {
	f.registerPlaces(c)
	f.signFlags.register(c)
	c.Flags().StringVar(&f.trust.Identity, "identity", "", "identity that must have signed the previous file, if it was signed keyless")
	c.Flags().StringVar(&f.trust.IdentityRegexp, "identity-regexp", "", "regular expression that the whole identity must match")
	c.Flags().StringVar(&f.trust.Issuer, "issuer", cli.GitHubIssuer, "OIDC issuer that must vouch for it")
	c.Flags().StringVar(&f.trust.TrustedRoot, "trusted-root", "", "Sigstore trusted_root.json (default: the public instance's, built in)")
	c.Flags().BoolVar(&f.anew, "new", false, "start a new file, without the content of the previous one")
}

// published is a rollout file somewhere.
type publishedRollout struct {
	Place  string         `json:"place"`
	Name   string         `json:"name"`
	Signer *verify.Signer `json:"signer,omitempty"` // nil: its signature was not checked
	File   *rollout.File  `json:"file"`             // nil: there is none
}

func (p publishedRollout) print(w io.Writer) {
	if p.File == nil {
		fmt.Fprintf(w, "%s: no rollout file\n", p.Place)
		return
	}
	by := "its signature was not checked"
	if p.Signer != nil {
		by = "signed by " + p.Signer.String()
	}
	fmt.Fprintf(w, "%s: %s, %s\n%s", p.Place, p.Name, by, rolloutLines(p.File))
}

// rolloutLines say what a file says.
func rolloutLines(f *rollout.File) string {
	var b strings.Builder
	for _, r := range f.Releases {
		fmt.Fprintf(&b, "  %-12s ", r.Version)
		if r.Halted {
			b.WriteString("halted\n")
			continue
		}
		fmt.Fprintf(&b, "%d%% of devices", r.Percent)
		for _, group := range slices.Sorted(maps.Keys(r.Groups)) {
			fmt.Fprintf(&b, ", %d%% of group %s", r.Groups[group], group)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// rolloutPlace is where rollout files are.
type rolloutPlace struct {
	name string
	// read returns the newest file, nothing when there is none; with an error, its sequence where that is known.
	read func(ctx context.Context) (sequence int64, text, signature []byte, err error)
	// write publishes one, and says where.
	write func(ctx context.Context, sequence int64, text, signature []byte) (string, error)
}

// places are those that the flags name, and the app that they are for.
func (a *app) rolloutPlaces(ctx context.Context, f rolloutFlags) (app string, places []rolloutPlace, err error) {
	if app = f.app; app == "" {
		p, err := project.Load(ctx, f.project)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil, cli.Usagef("say which app: --app NAME, or run it beside %s", f.project)
		}
		if err != nil {
			return "", nil, err
		}
		app = p.App
	}
	if !bundle.ValidApp(app) {
		return "", nil, cli.Usagef("--app is %.80q, which is not a name of an app", app)
	}
	if f.registry != "" {
		to, err := a.registry(f.registry, f.plainHTTP)
		if err != nil {
			return "", nil, err
		}
		place, err := a.rolloutRegistry(to)
		if err != nil {
			return "", nil, err
		}
		places = append(places, place)
	}
	if f.dir != "" {
		places = append(places, rolloutDir(app, f.dir))
	}
	if repository := cmp.Or(f.repository, a.Getenv("GITHUB_REPOSITORY")); f.repository != "" || len(places) == 0 && repository != "" {
		repo, err := a.gitHub(repository)
		if err != nil {
			return "", nil, err
		}
		places = append(places, a.rolloutGitHub(app, repository, repo))
	}
	if len(places) == 0 {
		return "", nil, cli.Usagef("say where the rollout file is: --repository, --oci or --dir")
	}
	return app, places, nil
}

func (a *app) rolloutRegistry(to name.Repository) (rolloutPlace, error) {
	options, err := a.registryOptions(to)
	return rolloutPlace{
		"oci://" + to.Name(),
		func(ctx context.Context) (int64, []byte, []byte, error) {
			n, text, signature, err := push.ReadRollout(ctx, to, options...)
			return n, text, signature, pushHint(err, to)
		},
		func(ctx context.Context, n int64, text, signature []byte) (string, error) {
			where, err := push.Rollout(ctx, to, n, text, signature, append([]remote.Option{remote.WithContext(ctx)}, options...)...)
			return where, pushHint(err, to)
		},
	}, err
}

func rolloutDir(app, dir string) rolloutPlace {
	return rolloutPlace{
		dir,
		func(ctx context.Context) (int64, []byte, []byte, error) {
			root, err := os.OpenRoot(dir)
			if err != nil {
				return 0, nil, nil, err
			}
			defer root.Close()
			files, err := fs.ReadDir(root.FS(), ".")
			if err != nil {
				return 0, nil, nil, err
			}
			var sequence int64
			for _, f := range files {
				if n, ok := rollout.ParseFileName(app, f.Name()); ok {
					sequence = max(sequence, n)
				}
			}
			if sequence == 0 {
				return 0, nil, nil, nil
			}
			file := rollout.FileName(app, sequence)
			text, err := readRegular(root, file, rollout.MaxSize)
			if err != nil {
				return sequence, nil, nil, err
			}
			signature, err := readRegular(root, file+rollout.SignatureSuffix, bundle.MaxSignatureSize)
			return sequence, text, signature, err
		},
		func(_ context.Context, n int64, text, signature []byte) (string, error) {
			path := filepath.Join(dir, rollout.FileName(app, n))
			// The signature first: a file under its final name never lacks it.
			return path, errors.Join(writeFile(path+rollout.SignatureSuffix, signature), writeFile(path, text))
		},
	}
}

func (a *app) rolloutGitHub(app, repository string, repo *publish.Repository) rolloutPlace {
	prefix := "rollout-"
	read := func(ctx context.Context) (sequence int64, text, signature []byte, err error) {
		all, err := repo.Releases(ctx)
		if err != nil {
			return 0, nil, nil, err
		}
		var newest publish.Release
		for _, r := range all {
			if n, ok := rollout.ParseFileName(app, app+"-rollout-"+strings.TrimPrefix(r.Tag, prefix+app+"-")+".json"); ok && strings.HasPrefix(r.Tag, prefix) && !r.Draft && n > sequence {
				sequence, newest = n, r
			}
		}
		if sequence == 0 {
			return 0, nil, nil, nil
		}
		assets, err := repo.Assets(ctx, newest.ID)
		if err != nil {
			return sequence, nil, nil, err
		}
		var both [2]bytes.Buffer
		for i, name := range []string{rollout.FileName(app, sequence), rollout.FileName(app, sequence) + rollout.SignatureSuffix} {
			at := slices.IndexFunc(assets, func(s publish.Asset) bool { return s.Name == name })
			if at < 0 {
				return sequence, nil, nil, fmt.Errorf("release %s has no %s", newest.Tag, name)
			}
			if limit := []int64{rollout.MaxSize, bundle.MaxSignatureSize}[i]; assets[at].Size > limit {
				return sequence, nil, nil, fmt.Errorf("%s of release %s has %d bytes, limit %d", name, newest.Tag, assets[at].Size, limit)
			}
			if err := repo.Download(ctx, assets[at], &both[i]); err != nil {
				return sequence, nil, nil, err
			}
		}
		return sequence, both[0].Bytes(), both[1].Bytes(), nil
	}
	return rolloutPlace{
		"https://github.com/" + repository,
		func(ctx context.Context) (int64, []byte, []byte, error) {
			n, text, signature, err := read(ctx)
			return n, text, signature, a.publishHint(err)
		},
		func(ctx context.Context, n int64, text, signature []byte) (string, error) {
			dir, err := os.MkdirTemp("", "valise-rollout-")
			if err != nil {
				return "", err
			}
			defer os.RemoveAll(dir)
			if _, err := rolloutDir(app, dir).write(ctx, n, text, signature); err != nil {
				return "", err
			}
			file, err := rollout.Parse(text)
			if err != nil {
				return "", err
			}
			q := publish.Request{
				Tag: fmt.Sprintf("%s%s-%d", prefix, app, n), Title: app + ": rollout", Prerelease: true, TempDir: dir, Progress: a.UI.Track, Note: a.Note,
				Notes: "Which part of the devices takes which release by itself:\n\n```\n" + rolloutLines(file) + "```\n",
			}
			for _, name := range []string{rollout.FileName(app, n), rollout.FileName(app, n) + rollout.SignatureSuffix} {
				q.Files = append(q.Files, publish.File{Name: name, Path: filepath.Join(dir, name)})
			}
			result, err := repo.Publish(ctx, q)
			if err != nil {
				return "", a.publishHint(err)
			}
			return result.URL, nil
		},
	}
}

// readRollout reads the file of a place, and checks its signature where v is not nil.
func readRollout(ctx context.Context, app string, p rolloutPlace, v *verify.Verifier) (published publishedRollout, err error) {
	published.Place = p.name
	n, text, signature, err := p.read(ctx)
	if err != nil || n == 0 {
		return published, err
	}
	published.Name = rollout.FileName(app, n)
	bad := func(err error) error { return fmt.Errorf("%s in %s: %w", published.Name, p.name, err) }
	if v != nil {
		by, err := v.Text(text, signature)
		if err != nil {
			return published, bad(err)
		}
		published.Signer = &by
	}
	if published.File, err = rollout.Parse(text); err != nil {
		return published, bad(err)
	}
	if published.File.App != app || published.File.Sequence != n {
		return published, bad(fmt.Errorf("it is file %d of %s", published.File.Sequence, published.File.App))
	}
	return published, nil
}

func (a *app) rolloutStatus(ctx context.Context, f rolloutFlags) error {
	app, places, err := a.rolloutPlaces(ctx, f)
	if err != nil {
		return err
	}
	var v *verify.Verifier
	if f.trust.Given() {
		policy, err := f.trust.Policy()
		if err != nil {
			return err
		}
		if v, err = verify.New(policy); err != nil {
			return err
		}
	}
	var all []publishedRollout
	for _, p := range places {
		one, err := readRollout(ctx, app, p, v)
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	return a.Result(all, func(w io.Writer) {
		for _, one := range all {
			one.print(w)
		}
	})
}

// rolloutSigners are who signs, and who must have signed the file before: what others say
// is not signed again. The second is nil where that is not known.
func (a *app) rolloutSigners(ctx context.Context, f rolloutFlags) (signer sign.Signer, before *verify.Verifier, err error) {
	var policy verify.Policy
	if f.key == "" {
		signer, err = a.signer(ctx, f.signFlags)
	} else {
		var private, password, public []byte
		if private, err = a.readKey(f.key); err != nil {
			return nil, nil, err
		}
		if password, err = a.password("password for " + f.key + ": "); err != nil {
			return nil, nil, err
		}
		if public, err = sign.PublicKey(private, password); err != nil {
			return nil, nil, err
		}
		policy.Signers = []verify.Signer{{Key: string(public)}}
		signer, err = sign.LoadKey(private, password)
	}
	if err == nil && f.trust.Given() {
		policy, err = f.trust.Policy()
	}
	if err != nil || policy.Signers == nil {
		return signer, nil, err
	}
	before, err = verify.New(policy)
	return signer, before, err
}

// rolloutChange publishes the next rollout file.
func (a *app) rolloutChange(ctx context.Context, version string, f rolloutFlags, change func(*rollout.File, string)) error {
	version = strings.TrimPrefix(version, "v")
	if _, err := bundle.ParseVersion(version); err != nil {
		return cli.Usagef("%w", err)
	}
	app, places, err := a.rolloutPlaces(ctx, f)
	if err != nil {
		return err
	}
	signer, before, err := a.rolloutSigners(ctx, f)
	if err != nil {
		return err
	}
	next := &rollout.File{Format: rollout.Format, App: app, Releases: []rollout.Release{}}
	for _, p := range places {
		if f.anew { // only its number counts: devices take none below
			n, _, _, err := p.read(ctx)
			if err != nil && n == 0 {
				return err
			}
			next.Sequence = max(next.Sequence, n)
			continue
		}
		old, err := readRollout(ctx, app, p, before)
		if err == nil && old.File != nil && before == nil {
			err = fmt.Errorf("%s in %s: say who must have signed it: --identity or --identity-regexp", old.Name, p.name)
		}
		if err != nil {
			return cli.WithHint(err, "with --new it counts no more, and neither does what it says of other releases")
		}
		if old.File != nil && old.File.Sequence > next.Sequence {
			next = old.File
		}
	}
	change(next, version)
	next.Sequence = max(next.Sequence+1, a.Now().Unix())
	text, err := next.Encode()
	if err != nil {
		return err
	}
	signature, err := signer.Sign(ctx, sha256.Sum256(text))
	if err != nil {
		return err
	}
	result := struct {
		Places []string      `json:"places"`
		File   *rollout.File `json:"file"`
	}{nil, next}
	for _, p := range places {
		where, err := p.write(ctx, next.Sequence, text, signature.Sigstore)
		if err != nil {
			return err
		}
		result.Places = append(result.Places, where)
	}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "published %s\n%s", strings.Join(result.Places, "\n          "), rolloutLines(next))
	})
}
