package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	githubactions "github.com/sethvargo/go-githubactions"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// Values of the input sign.
const (
	signKeyless = "keyless"
	signKey     = "key"
	signNone    = "none"
)

// privateKeyEnv has the key in a job, as cosign calls it.
const privateKeyEnv = "COSIGN_PRIVATE_KEY"

// dryVersion is the version of a dry run that is told none.
const dryVersion = "0.0.0-dryrun"

func actionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "action",
		Short:  "Build, sign and publish as action.yml says",
		Long:   "action is what action.yml runs: it takes the Action's inputs from the environment (INPUT_*)\nand runs build, sign and publish with them.",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.Getenv("GITHUB_OUTPUT") == "" || a.Getenv("GITHUB_STEP_SUMMARY") == "" {
				return cli.Usagef("this is not a step of GitHub Actions: GITHUB_OUTPUT or GITHUB_STEP_SUMMARY is not set")
			}
			s := a.newStep()
			err := s.run(cmd.Context())
			if err != nil {
				s.annotate(err)
			}
			return err
		},
	}
}

// inputs are those of action.yml.
type inputs struct {
	bundle, project, version, platforms string
	sign, trustedRoot, signingConfig    string
	publish, draft, dryRun, split       bool
	prerelease, thinFrom, splitSize     string
	extraFiles                          []string
}

// step is one run of the Action.
type step struct {
	*app
	gha *githubactions.Action
	in  inputs

	built     summaries // one for each of bundles
	bundles   []string
	published *publishResult
}

// summaries is the result of build: one, or a list of several.
type summaries []summary

func (s *summaries) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte("[")) {
		return json.Unmarshal(b, (*[]summary)(s))
	}
	*s = make(summaries, 1)
	return json.Unmarshal(b, &(*s)[0])
}

func (a *app) newStep() *step {
	getenv := func(name string) string {
		if strings.HasPrefix(name, "INPUT_") { // shells do not pass on names with a hyphen
			name = strings.ReplaceAll(name, "-", "_")
		}
		return a.Getenv(name)
	}
	return &step{app: a, gha: githubactions.New(githubactions.WithWriter(a.Stdout), githubactions.WithGetenv(getenv))}
}

func (s *step) run(ctx context.Context) error {
	if err := s.readInputs(); err != nil {
		return err
	}
	if err := s.ready(); err != nil {
		return err
	}
	if err := s.build(ctx); err != nil {
		return err
	}
	if !s.in.dryRun && s.in.sign != signNone {
		trust, err := s.sign(ctx)
		if err != nil {
			return err
		}
		if s.in.publish {
			if err := s.publish(ctx, trust); err != nil {
				return err
			}
		}
	}
	s.outputs()
	s.gha.AddStepSummary(s.summary())
	return nil
}

func (s *step) readInputs() error {
	get := s.gha.GetInput
	in := inputs{bundle: get("bundle"), project: cmp.Or(get("project"), project.DefaultFile), platforms: strings.Join(list(get("platforms")), ","),
		sign: cmp.Or(get("sign"), signKeyless), trustedRoot: get("trusted-root"), signingConfig: get("signing-config"),
		prerelease: cmp.Or(get("prerelease"), "auto"), thinFrom: cmp.Or(get("thin-from"), "0"), splitSize: get("split-size")}
	for name, value := range map[string]*bool{"publish": &in.publish, "draft": &in.draft, "dry-run": &in.dryRun, "split-platforms": &in.split} {
		b, err := strconv.ParseBool(cmp.Or(get(name), "false"))
		if err != nil {
			return cli.Usagef("input %s is %q, want true or false", name, get(name))
		}
		*value = b
	}
	switch in.sign {
	case signKeyless, signKey, signNone:
	default:
		return cli.Usagef("input sign is %q, want %s, %s or %s", in.sign, signKeyless, signKey, signNone)
	}
	if n, err := strconv.Atoi(in.thinFrom); err != nil || n < 0 || n > 20 {
		return cli.Usagef("input thin-from is %q, want how many releases before: 0 to 20", in.thinFrom)
	}
	tag, _ := strings.CutPrefix(s.Getenv("GITHUB_REF"), "refs/tags/")
	if tag == s.Getenv("GITHUB_REF") {
		tag = ""
	}
	in.version = strings.TrimPrefix(cmp.Or(get("version"), tag), "v")
	if in.version == "" && in.dryRun {
		in.version = dryVersion
	}
	if in.version == "" && in.bundle == "" {
		return cli.WithHint(cli.Usagef("no version: %s is no tag", cmp.Or(s.Getenv("GITHUB_REF"), "this run")), "run the workflow for tags, or set the input version")
	}
	for _, pattern := range lines(get("extra-files")) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			return cli.Usagef("input extra-files: nothing is called %q", pattern)
		}
		in.extraFiles = append(in.extraFiles, files...)
	}
	s.in = in
	if token := get("token"); token != "" {
		s.gha.AddMask(token)
		s.setenv("GITHUB_TOKEN", token)
	}
	return nil
}

// setenv sets a variable for the commands of this step.
func (s *step) setenv(name, value string) {
	old := s.Getenv
	s.Getenv = func(n string) string {
		if n == name {
			return value
		}
		return old(n)
	}
}

// ready looks for what signing and publishing need, before minutes of building.
func (s *step) ready() error {
	if s.in.dryRun {
		return nil
	}
	const fork = "; a pull request from a fork never gets one: there, use dry-run: true"
	switch {
	case s.in.publish && s.in.sign == signNone:
		return cli.WithHint(cli.Usagef("publish: true with sign: none: devices take signed releases only"), "sign in the job that publishes; give it the bundle of the job that built it with the input bundle")
	case s.in.sign == signKeyless && s.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL") == "":
		return cli.WithHint(sign.ErrNoToken, "give the job \"permissions: id-token: write\"%s", fork)
	case s.in.sign == signKey && s.Getenv(privateKeyEnv) == "":
		return cli.WithHint(fmt.Errorf("sign: key without a key: %s is not set", privateKeyEnv), "set %s and %s from secrets, in env of this step; a pull request from a fork gets no secrets", privateKeyEnv, passwordEnv)
	case s.in.publish && s.Getenv("GITHUB_TOKEN") == "":
		return cli.WithHint(errors.New("publish: true without a token"), "the input token is ${{ github.token }} unless it is set, and the job needs \"permissions: contents: write\"%s", fork)
	}
	return nil
}

// command runs a command line of this program in a group of the log, which begins
// with the line itself: it does the same on any machine.
func (s *step) command(ctx context.Context, out any, args ...string) error {
	var shown []string
	for _, arg := range args {
		if strings.ContainsAny(arg, " \t'\"$`\\*?&;|<>()!#~") {
			arg = strconv.Quote(arg)
		}
		shown = append(shown, arg)
	}
	s.gha.Group("valise " + strings.Join(shown, " "))
	// Nothing that is printed while it runs is a command to the runner.
	stop := rand.Text()
	fmt.Fprintf(s.Stdout, "::stop-commands::%s\n", stop)
	err := s.call(ctx, out, args...)
	fmt.Fprintf(s.Stdout, "::%s::\n", stop)
	s.gha.EndGroup()
	return err
}

func (s *step) build(ctx context.Context) error {
	if s.in.bundle != "" {
		for _, pattern := range lines(s.in.bundle) {
			files, err := filepath.Glob(pattern)
			if err != nil || len(files) == 0 {
				return cli.Usagef("input bundle: nothing is called %q", pattern)
			}
			for _, file := range files {
				name, part := parts.Split(file)
				if part < 2 { // the first one stands for all
					s.bundles = append(s.bundles, name)
				}
			}
		}
		for _, b := range s.bundles {
			var one summary
			if err := s.command(ctx, &one, "inspect", b); err != nil {
				return err
			}
			if s.in.version != "" && s.in.version != one.Version && s.in.version != dryVersion {
				return fmt.Errorf("%s is version %s, this is a run for %s", b, one.Version, s.in.version)
			}
			s.built = append(s.built, one)
		}
		return nil
	}
	args := []string{"build", s.in.version, "--project", s.in.project}
	if s.in.platforms != "" {
		args = append(args, "--platform", s.in.platforms)
	}
	if s.in.split {
		args = append(args, "--split-platforms")
	}
	if s.in.splitSize != "" {
		args = append(args, "--split-size", s.in.splitSize)
	}
	if err := s.command(ctx, &s.built, args...); err != nil {
		return err
	}
	for _, b := range s.built {
		s.bundles = append(s.bundles, b.Path)
	}
	return nil
}

// sign signs bundles, extra files, and the list of their checksums. It returns
// the flags that name the signer: who this job is, or the key it has.
func (s *step) sign(ctx context.Context) ([]string, error) {
	args := append([]string{"sign"}, s.bundles...)
	args = append(args, s.in.extraFiles...)
	args = append(args, "--checksums", s.checksums())
	var trust []string
	if s.in.sign == signKey {
		password := s.Getenv(passwordEnv)
		s.gha.AddMask(password)
		public, err := sign.PublicKey([]byte(s.Getenv(privateKeyEnv)), []byte(password))
		if err != nil {
			return nil, err
		}
		key := filepath.Join(filepath.Dir(s.bundles[0]), "cosign.pub")
		if err := os.WriteFile(key, public, 0o644); err != nil {
			return nil, fmt.Errorf("write public key: %w", err)
		}
		args = append(args, "--key", "env://"+privateKeyEnv)
		trust = []string{"--key", key}
	} else {
		identity, issuer, err := s.identity(ctx)
		if err != nil {
			return nil, err
		}
		if s.in.signingConfig != "" {
			args = append(args, "--signing-config", s.in.signingConfig)
		}
		trust = []string{"--identity", identity, "--issuer", issuer}
		if s.in.trustedRoot != "" {
			trust = append(trust, "--trusted-root", s.in.trustedRoot)
		}
	}
	var ignored any
	return trust, s.command(ctx, &ignored, args...)
}

func (s *step) checksums() string { return filepath.Join(filepath.Dir(s.bundles[0]), "CHECKSUMS.txt") }

// identity asks GitHub who this job is: what a certificate must say that Fulcio
// issues for it.
func (s *step) identity(ctx context.Context) (identity, issuer string, err error) {
	token, err := sign.AmbientToken(ctx)
	if err != nil {
		return "", "", err
	}
	s.gha.AddMask(token)
	var claims struct {
		Issuer   string `json:"iss"`
		Workflow string `json:"job_workflow_ref"`
	}
	parts := strings.Split(token, ".")
	if len(parts) == 3 {
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(b, &claims) // what it cannot say is missing below
		}
	}
	if claims.Issuer == "" || claims.Workflow == "" {
		return "", "", errors.New("the OIDC token of this job does not say which workflow it is")
	}
	return cmp.Or(s.Getenv("GITHUB_SERVER_URL"), "https://github.com") + "/" + claims.Workflow, claims.Issuer, nil
}

func (s *step) publish(ctx context.Context, trust []string) error {
	args := append([]string{"publish"}, s.bundles...)
	args = append(args, trust...)
	args = append(args, "--prerelease", s.in.prerelease, "--thin-from", s.in.thinFrom)
	if s.in.draft {
		args = append(args, "--draft")
	}
	for _, f := range append([]string{s.checksums()}, s.in.extraFiles...) {
		args = append(args, "--attach", f)
	}
	s.published = new(publishResult)
	return s.command(ctx, s.published, args...)
}

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

// list takes words apart that stand on lines or between commas.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == '\n' || r == ' ' || r == '\r' })
}

// lines are the lines of s that are not empty.
func lines(s string) []string {
	var all []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}
