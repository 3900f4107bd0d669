package main

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// inputs are those of action.yml.
type inputs struct {
	bundle, project, version, tag, platforms string
	sign, trustedRoot, signingConfig         string
	publish, draft, dryRun, split            bool
	prerelease, thinFrom, splitSize          string
	extraFiles                               []string
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
	if err := in.readTag(get, s.Getenv("GITHUB_REF")); err != nil {
		return err
	}
	if in.version == "" && in.dryRun {
		in.version = dryVersion
	}
	if in.version == "" && in.bundle == "" {
		return cli.WithHint(cli.Usagef("no version: %s is no tag", cmp.Or(s.Getenv("GITHUB_REF"), "this run")), "run the workflow for tags, or set the input tag or version")
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

// readTag reads what the run is for: the tag that was pushed, unless an input names
// it, and the version that it ends in. The release is made on that tag.
func (in *inputs) readTag(get func(string) string, ref string) error {
	pushed, ok := strings.CutPrefix(ref, "refs/tags/")
	if !ok {
		pushed = ""
	}
	prefix, version := get("tag-prefix"), get("version")
	if _, v, ok := bundle.SplitTag(version); ok {
		version = v
	}
	in.tag = cmp.Or(get("tag"), pushed)
	if in.tag == "" && prefix != "" && version != "" {
		in.tag = prefix + version
	}
	_, of, ok := bundle.SplitTag(in.tag)
	switch {
	case in.tag == "":
	case !strings.HasPrefix(in.tag, prefix):
		return cli.WithHint(cli.Usagef("tag %s does not begin with %q, the input tag-prefix", in.tag, prefix), "run this job for tags of this app only: on: {push: {tags: ['%s*']}}", prefix)
	case !ok && version == "" && in.bundle == "" && !in.dryRun:
		return cli.WithHint(cli.Usagef("tag %s does not end in a version", in.tag), "a version is MAJOR.MINOR.PATCH without leading zeros, as in 1.2.3, v1.2.3, shop-v1.2.3 and shop@1.2.3-rc.1; or set the input version")
	case ok && version != "" && version != of:
		return cli.WithHint(cli.Usagef("tag %s is version %s, and the input version is %s", in.tag, of, version), "leave the input version out, or name the tag of that version with the input tag")
	case ok:
		version = of
	}
	in.version = version
	return nil
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
