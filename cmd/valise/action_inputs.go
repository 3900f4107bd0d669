package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
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
	oci                                      string
	rollout                                  []string // a percent, and GROUP=PERCENT
	prerelease, thinFrom, splitSize          string
	extraFiles                               []string
	notes, compression, builder              string
	sbom                                     bool
	set, buildArgs, cacheFrom, cacheTo       []string
	secrets                                  []string // as --secret takes them
}

func (s *step) readInputs() error {
	get := s.gha.GetInput
	in := inputs{bundle: get("bundle"), project: cmp.Or(get("project"), project.DefaultFile), platforms: strings.Join(list(get("platforms")), ","),
		sign: cmp.Or(get("sign"), signKeyless), trustedRoot: get("trusted-root"), signingConfig: get("signing-config"),
		prerelease: cmp.Or(get("prerelease"), "auto"), thinFrom: cmp.Or(get("thin-from"), "0"), splitSize: get("split-size"),
		notes: get("notes"), oci: get("oci"), rollout: list(get("rollout")), compression: get("compression"), builder: get("builder"),
		set: lines(get("set")), buildArgs: lines(get("build-args")), cacheFrom: lines(get("cache-from")), cacheTo: lines(get("cache-to"))}
	for name, value := range map[string]*bool{"publish": &in.publish, "draft": &in.draft, "dry-run": &in.dryRun, "split-platforms": &in.split, "sbom": &in.sbom} {
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
		return cli.WithHint(cli.Usagef("no version: %s is not a tag", cmp.Or(s.Getenv("GITHUB_REF"), "this run")), "run the workflow for tags, or set the input tag or version")
	}
	for _, pattern := range lines(get("extra-files")) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			return cli.Usagef("input extra-files: nothing is called %q", pattern)
		}
		in.extraFiles = append(in.extraFiles, files...)
	}
	var err error
	if in.secrets, err = s.readSecrets(get("secrets")); err != nil {
		return err
	}
	if of := in.ofBuild(); of != "" && in.bundle != "" {
		return cli.Usagef("input %s with the input bundle: nothing is built; set it in the job that builds", of)
	}
	s.in = in
	if token := get("token"); token != "" {
		s.gha.AddMask(token)
		s.setenv("GITHUB_TOKEN", token)
	}
	return nil
}

// ofBuild names an input that only a build can do something with, or "".
func (in *inputs) ofBuild() string {
	for _, of := range []struct {
		name string
		set  bool
	}{{"compression", in.compression != ""}, {"set", in.set != nil}, {"build-args", in.buildArgs != nil}, {"secrets", in.secrets != nil},
		{"cache-from", in.cacheFrom != nil}, {"cache-to", in.cacheTo != nil}, {"builder", in.builder != ""}} {
		if of.set {
			return of.name
		}
	}
	return ""
}

// readSecrets reads lines ID=VALUE, as docker/build-push-action has them: one in double
// quotes may go on for several. The values go to BuildKit through the environment, and
// the log never shows them.
func (s *step) readSecrets(text string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.FieldsPerRecord, r.LazyQuotes = -1, true
	records, err := r.ReadAll()
	if err != nil {
		return nil, cli.Usagef("input secrets: want a line ID=VALUE for each, in double quotes if a value has several lines")
	}
	var secrets []string
	for i, record := range records {
		id, value, ok := strings.Cut(strings.Join(record, ","), "=")
		name := fmt.Sprintf("VALISE_BUILD_SECRET_%d", i)
		secret := "id=" + strings.TrimSpace(id) + ",env=" + name
		if !ok || checkSecrets([]string{secret}) != nil {
			return nil, cli.Usagef("input secrets, item %d: want ID=VALUE", i+1)
		}
		if value == "" { // of a fork, or misspelt
			return nil, cli.WithHint(cli.Usagef("input secrets: %s is empty", strings.TrimSpace(id)), "does the secret exist for this repository and environment? a pull request from a fork gets none")
		}
		for _, line := range lines(value) {
			if len(line) > 3 { // else it hides half of the log
				s.gha.AddMask(line)
			}
		}
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
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
	case (s.in.publish || s.in.oci != "") && s.in.sign == signNone:
		what := "publish: true"
		if !s.in.publish {
			what = "oci"
		}
		return cli.WithHint(cli.Usagef("%s with sign: none: devices take signed releases only", what), "sign in the job that publishes; give it the bundle of the job that built it with the input bundle")
	case len(s.in.rollout) > 0 && (s.in.sign == signNone || !s.in.publish && s.in.oci == ""):
		return cli.Usagef("rollout without a release that is signed and published: it says who gets that")
	case s.in.publish && s.in.draft && s.in.oci != "":
		return cli.WithHint(cli.Usagef("draft: true with oci: a registry has no drafts"), "run valise push when the draft is published")
	case s.in.sign == signKeyless && s.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL") == "":
		return cli.WithHint(sign.ErrNoToken, "give the job \"permissions: id-token: write\"%s", fork)
	case s.in.sign == signKeyless && s.in.signingConfig == "" && s.server() != "https://github.com":
		return cli.WithHint(cli.Usagef("sign: keyless on %s: Sigstore's public servers know the jobs of github.com only", s.server()), "sign: key, or name a private Sigstore with the inputs signing-config and trusted-root")
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
