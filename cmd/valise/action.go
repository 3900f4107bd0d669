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
	"regexp"
	"strconv"
	"strings"

	githubactions "github.com/sethvargo/go-githubactions"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/bundle/push"
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
			if dir := a.Getenv("GITHUB_WORKSPACE"); dir != "" {
				if err := trustCheckout(dir); err != nil {
					return err
				}
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

// step is one run of the Action.
type step struct {
	*app
	gha *githubactions.Action
	in  inputs

	built     summaries // one for each of bundles
	bundles   []string
	published *publishResult
	pushed    []*push.Result
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
		// Before the release, so that no device is too early.
		if err := s.rollout(ctx, trust); err != nil {
			return err
		}
		if s.in.publish {
			if err := s.publish(ctx, trust); err != nil {
				return err
			}
		} else if s.in.oci != "" {
			args := append(append([]string{"push"}, s.bundles...), s.in.oci)
			if err := s.command(ctx, &s.pushed, append(args, trust...)...); err != nil {
				return err
			}
		}
	}
	s.outputs()
	s.gha.AddStepSummary(plain.Text(s.summary()))
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
		if err := s.join(ctx); err != nil {
			return err
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
	version := s.in.version
	if _, _, ok := bundle.SplitTag(s.in.tag); ok {
		version = s.in.tag
	}
	args := []string{"build", version, "--project", s.in.project}
	if s.in.platforms != "" {
		args = append(args, "--platform", s.in.platforms)
	}
	if s.in.split {
		args = append(args, "--split-platforms")
	}
	if s.in.splitSize != "" {
		args = append(args, "--split-size", s.in.splitSize)
	}
	if s.in.compression != "" {
		args = append(args, "--compression", s.in.compression)
	}
	if s.in.sbom {
		args = append(args, "--sbom")
	}
	for _, list := range []struct {
		flag   string
		values []string
	}{{"--set", s.in.set}, {"--build-arg", s.in.buildArgs}, {"--secret", s.in.secrets}, {"--cache-from", s.in.cacheFrom}, {"--cache-to", s.in.cacheTo}} {
		for _, value := range list.values {
			args = append(args, list.flag, value)
		}
	}
	if s.in.builder != "" {
		args = append(args, "--builder", s.in.builder)
	}
	if err := s.command(ctx, &s.built, args...); err != nil {
		return err
	}
	for _, b := range s.built {
		s.bundles = append(s.bundles, b.Path)
	}
	if s.built[0].Source == nil {
		s.gha.Warningf("the bundle names no commit, so it is not compared with the tag; the log of the build says why")
	}
	return nil
}

// join makes one bundle of several that have one name: those of jobs for a platform
// each. Under one name nothing could publish them.
func (s *step) join(ctx context.Context) error {
	names := map[string]bool{}
	for _, b := range s.bundles {
		names[filepath.Base(b)] = true
	}
	if len(s.bundles) < 2 || len(names) > 1 {
		return nil
	}
	args := append([]string{"join"}, s.bundles...)
	if s.in.splitSize != "" {
		args = append(args, "--split-size", s.in.splitSize)
	}
	var one summary
	if err := s.command(ctx, &one, args...); err != nil {
		return err
	}
	s.bundles = []string{one.Path}
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

// rollout says who gets the release by itself. The file before was signed with the same
// key, or by the same workflow at another tag.
func (s *step) rollout(ctx context.Context, trust []string) error {
	if len(s.in.rollout) == 0 {
		return nil
	}
	args := []string{"rollout", "set", s.built[0].Version, s.in.rollout[0], "--app", s.built[0].App}
	for _, group := range s.in.rollout[1:] {
		args = append(args, "--group", group)
	}
	if s.in.oci != "" {
		args = append(args, "--oci", s.in.oci)
	}
	if s.in.publish {
		args = append(args, "--repository", s.Getenv("GITHUB_REPOSITORY"))
	}
	if s.in.sign == signKey {
		args = append(args, "--key", "env://"+privateKeyEnv)
	} else {
		if s.in.signingConfig != "" {
			args = append(args, "--signing-config", s.in.signingConfig)
		}
		workflow, _, _ := strings.Cut(trust[1], "@") // trust is --identity IDENTITY ...
		args = append(append(args, "--identity-regexp", regexp.QuoteMeta(workflow)+"@.+"), trust[2:]...)
	}
	var ignored any
	return s.command(ctx, &ignored, args...)
}

func (s *step) checksums() string { return filepath.Join(filepath.Dir(s.bundles[0]), checksumsName) }

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
	if own := s.Getenv("GITHUB_REPOSITORY"); !strings.HasPrefix(claims.Workflow, own+"/") {
		s.gha.Warningf("this is signed as %s, and so is what any other repository signs that calls this workflow: let devices ask for trust: {provenance: {repository: %s/%s}}, too",
			claims.Workflow, s.server(), own)
	}
	return s.server() + "/" + claims.Workflow, claims.Issuer, nil
}

// server is the GitHub that this is a run of.
func (s *step) server() string { return cmp.Or(s.Getenv("GITHUB_SERVER_URL"), "https://github.com") }

func (s *step) publish(ctx context.Context, trust []string) error {
	args := append([]string{"publish"}, s.bundles...)
	args = append(args, trust...)
	args = append(args, "--prerelease", s.in.prerelease, "--thin-from", s.in.thinFrom, "--project", s.in.project)
	if s.in.tag != "" {
		args = append(args, "--tag", s.in.tag)
	}
	if s.in.draft {
		args = append(args, "--draft")
	}
	if s.in.oci != "" {
		args = append(args, "--oci", s.in.oci)
	}
	if s.in.notes != "" {
		args = append(args, "--notes", s.in.notes)
	}
	for _, f := range append([]string{s.checksums()}, s.in.extraFiles...) {
		args = append(args, "--attach", f)
	}
	s.published = new(publishResult)
	err := s.command(ctx, s.published, args...)
	s.pushed = s.published.Pushed
	return err
}
