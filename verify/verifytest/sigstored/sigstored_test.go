package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/proto"
)

// The default job, and one of a fork.
const (
	release = "https://github.com/valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0"
	fork    = "https://github.com/mallory/app/.github/workflows/release.yml@refs/tags/v1.0.0"
)

// The test binary is sigstored, too.
func TestMain(m *testing.M) {
	if os.Getenv("SIGSTORED_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a program that prints a line when it is up.
type process struct {
	*exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	line   []byte
}

func program(t testing.TB, name string, args ...string) *process {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "SIGSTORED_CHILD=1")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: c, stdin: stdin, stdout: bufio.NewReader(stdout)}
	if p.line, err = p.stdout.ReadBytes('\n'); err != nil {
		p.Wait()
		t.Fatalf("%s did not start: %v\n%s", name, err, &stderr)
	}
	t.Cleanup(func() {
		stdin.Close()
		p.Wait()
		if t.Failed() {
			t.Logf("log of %s:\n%s", filepath.Base(name), &stderr)
		}
	})
	return p
}

func sigstored(t testing.TB, args ...string) (*output, *process) {
	t.Helper()
	p := program(t, os.Args[0], append([]string{"-dir", t.TempDir()}, args...)...)
	o := new(output)
	if err := json.Unmarshal(p.line, o); err != nil {
		t.Fatal(err)
	}
	return o, p
}

// rekor1 builds the program once for all.
var rekor1 = sync.OnceValues(func() (string, error) {
	b, err := exec.Command("../../../scripts/sigstore.sh", "rekor1").Output()
	return strings.TrimSpace(string(b)), err
})

// both starts sigstored with a Rekor v1 beside its v2, and names the file with the
// key of v1.
func both(t testing.TB) (*output, string) {
	t.Helper()
	binary, err := rekor1()
	if err != nil {
		t.Fatal(err)
	}
	var old struct {
		RekorURL  string `json:"rekor_url"`
		PublicKey string `json:"public_key"`
	}
	if err := json.Unmarshal(program(t, binary, "-dir", t.TempDir()).line, &old); err != nil {
		t.Fatal(err)
	}
	o, _ := sigstored(t, "-rekor1", old.RekorURL)
	return o, old.PublicKey
}

func TestProcess(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*process)
	}{
		{"closed standard input", func(p *process) { p.stdin.Close() }},
		{"SIGTERM", func(p *process) { p.Process.Signal(syscall.SIGTERM) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, p := sigstored(t)
			test.end(p)
			rest, err := io.ReadAll(p.stdout) // to its end
			if err != nil || len(rest) > 0 {
				t.Errorf("more than one line: %q, %v", rest, err)
			}
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRestartInTheSameDirectory(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		p := program(t, os.Args[0], "-dir", dir)
		o := new(output)
		if err := json.Unmarshal(p.line, o); err != nil {
			t.Fatal(err)
		}
		b := o.sign(t, o.SigningConfig, "", "", sha256.Sum256([]byte("release")))
		if _, err := o.verify(b, expectation{}); err != nil {
			t.Fatal(err)
		}
		p.stdin.Close()
		p.Wait()
	}
}

func TestSignAndVerify(t *testing.T) {
	o, _ := both(t)
	stranger, _ := sigstored(t)
	digest := sha256.Sum256([]byte("release"))

	for _, log := range []struct {
		version int
		config  string
	}{
		{1, o.SigningConfigRekor1},
		{2, o.SigningConfig},
	} {
		t.Run(fmt.Sprint("Rekor v", log.version), func(t *testing.T) {
			var (
				good       = o.sign(t, log.config, "", "", digest)
				again      = o.sign(t, log.config, "", "", digest)
				another    = o.sign(t, log.config, "", "", sha256.Sum256([]byte("another")))
				noSCT      = o.sign(t, log.config, "", o.FulcioNoSCTURL, digest)
				ofFork     = o.sign(t, log.config, "&repository=mallory/app", "", digest)
				ofBranch   = o.sign(t, log.config, "&ref=refs/heads/main", "", digest)
				ofWorkflow = o.sign(t, log.config, "&workflow=test.yml", "", digest)
				ofIssuer   = o.sign(t, log.config, "&enterprise=acme", "", digest)
			)
			for _, test := range []struct {
				name   string
				signed *bundlepb.Bundle // good
				change func(*bundlepb.VerificationMaterial, *commonpb.MessageSignature)
				expect expectation
				want   string // the reason of a refusal
				want1  string // that with Rekor v1, if another
			}{
				{name: "as it is", signed: good},
				{name: "signed twice", signed: again},

				{name: "another identity", signed: good, expect: expectation{identity: fork},
					want: "expected SAN value"},
				{name: "another issuer", signed: good, expect: expectation{issuer: "https://accounts.google.com"},
					want: "expected issuer value"},
				{name: "another file", signed: good, expect: expectation{file: "another"},
					want: "artifact does not match digest"},
				{name: "another trusted root", signed: good, expect: expectation{root: stranger.TrustedRoot},
					want: "not enough verified log entries"},

				{name: "digest of another file", signed: good, expect: expectation{file: "another"},
					change: func(_ *bundlepb.VerificationMaterial, s *commonpb.MessageSignature) {
						d := sha256.Sum256([]byte("another"))
						s.MessageDigest.Digest = d[:]
					},
					want: "calculated root", want1: "entry digest"},
				{name: "signature of another file", signed: good,
					change: func(_ *bundlepb.VerificationMaterial, s *commonpb.MessageSignature) {
						s.Signature = another.GetMessageSignature().Signature
					},
					want: "calculated root", want1: "log signature does not match"},
				{name: "entry of another file", signed: good,
					change: func(m *bundlepb.VerificationMaterial, _ *commonpb.MessageSignature) {
						m.TlogEntries = another.VerificationMaterial.TlogEntries
					},
					want: "calculated root", want1: "log signature does not match"},
				{name: "entry of another signature of the file", signed: good,
					change: func(m *bundlepb.VerificationMaterial, _ *commonpb.MessageSignature) {
						m.TlogEntries = again.VerificationMaterial.TlogEntries
					},
					want: "calculated root", want1: "log signature does not match"},
				{name: "certificate of another signature of the file", signed: good,
					change: func(m *bundlepb.VerificationMaterial, _ *commonpb.MessageSignature) {
						m.Content = again.VerificationMaterial.Content
					},
					want: "calculated root", want1: "log certificate does not match"},
				{name: "no entry", signed: good,
					change: func(m *bundlepb.VerificationMaterial, _ *commonpb.MessageSignature) {
						m.TlogEntries = nil
					},
					want: "not enough verified log entries"},
				{name: "no inclusion proof", signed: good,
					change: func(m *bundlepb.VerificationMaterial, _ *commonpb.MessageSignature) {
						m.TlogEntries[0].InclusionProof = nil
					},
					want: "inclusion proof missing"},

				// Rekor v1 signs the time of an entry: one source is enough.
				{name: "no timestamp", signed: good,
					change: func(m *bundlepb.VerificationMaterial, _ *commonpb.MessageSignature) {
						m.TimestampVerificationData = nil
					},
					want: "threshold not met", want1: accepted},
				{name: "timestamp of another file", signed: good,
					change: func(m *bundlepb.VerificationMaterial, _ *commonpb.MessageSignature) {
						m.TimestampVerificationData = another.VerificationMaterial.TimestampVerificationData
					},
					want: "hashed messages don't match", want1: accepted},

				{name: "certificate without SCT", signed: noSCT,
					want: "only able to verify 0 SCT"},
				{name: "certificate without SCT where none is asked for", signed: noSCT, expect: expectation{noSCT: true}},
				{name: "fork", signed: ofFork,
					want: "expected SAN value"},
				{name: "fork that is trusted", signed: ofFork, expect: expectation{identity: fork}},
				{name: "branch", signed: ofBranch,
					want: "expected SAN value"},
				{name: "workflow", signed: ofWorkflow,
					want: "expected SAN value"},
				{name: "issuer of an enterprise", signed: ofIssuer,
					want: "expected issuer value"},
				{name: "issuer of an enterprise that is trusted", signed: ofIssuer, expect: expectation{issuer: githubIssuer + "/acme"}},
			} {
				t.Run(test.name, func(t *testing.T) {
					b := proto.CloneOf(test.signed)
					if test.change != nil {
						test.change(b.VerificationMaterial, b.GetMessageSignature())
					}
					_, err := o.verify(b, test.expect)
					want := test.want
					if log.version == 1 && test.want1 != "" {
						want = test.want1
					}
					if want == accepted {
						want = ""
					}
					if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
						t.Errorf("got error %v, want %q", err, want)
					}
				})
			}
		})
	}
}

const accepted = "accepted"

// The certificate tells what the token told, where policies look for it.
func TestCertificate(t *testing.T) {
	o, _ := sigstored(t)
	b := o.sign(t, o.SigningConfig, "&repository=acme/tool&ref=refs/heads/main&event_name=workflow_dispatch&environment=prod&run_id=77"+
		"&job_workflow_ref="+url.QueryEscape("acme/shared/.github/workflows/sign.yml@refs/tags/v2"), "", sha256.Sum256([]byte("release")))
	result, err := o.verify(b, expectation{identity: "https://github.com/acme/shared/.github/workflows/sign.yml@refs/tags/v2"})
	if err != nil {
		t.Fatal(err)
	}
	c := result.Signature.Certificate
	for name, is := range map[string][2]string{
		"trigger":           {c.BuildTrigger, "workflow_dispatch"},
		"build config":      {c.BuildConfigURI, "https://github.com/acme/tool/.github/workflows/release.yml@refs/heads/main"},
		"owner":             {c.SourceRepositoryOwnerURI, "https://github.com/acme"},
		"ref":               {c.SourceRepositoryRef, "refs/heads/main"},
		"repository":        {c.SourceRepositoryURI, "https://github.com/acme/tool"},
		"repository's id":   {c.SourceRepositoryIdentifier, number("acme/tool")},
		"run":               {c.RunInvocationURI, "https://github.com/acme/tool/actions/runs/77/attempts/1"},
		"runner":            {c.RunnerEnvironment, "github-hosted"},
		"visibility":        {c.SourceRepositoryVisibilityAtSigning, "public"},
		"legacy repository": {c.GithubWorkflowRepository, "acme/tool"},
	} {
		if is[0] != is[1] {
			t.Errorf("%s: got %q, want %q", name, is[0], is[1])
		}
	}
	if at := result.VerifiedTimestamps[0].Timestamp; time.Since(at).Abs() > time.Minute {
		t.Errorf("signed at %v", at)
	}
}

func TestClaims(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		query string
		want  map[string]any // nil: an error
	}{
		{"audience=sigstore&api-version=2.0", map[string]any{
			"aud": "sigstore", "iss": githubIssuer, "ref_type": "tag",
			"sub":              "repo:valise-test/app:ref:refs/tags/v1.0.0",
			"workflow_ref":     "valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0",
			"job_workflow_ref": "valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0",
		}},
		{"", map[string]any{"aud": "https://github.com/valise-test"}},
		{"event_name=pull_request", map[string]any{
			"sub": "repo:valise-test/app:pull_request", "ref": "refs/pull/1/merge", "base_ref": "main", "ref_type": "branch",
		}},
		{"environment=prod", map[string]any{"sub": "repo:valise-test/app:environment:prod", "environment": "prod"}},
		{"repository=a/b&sha=0f&job_workflow_ref=x", map[string]any{
			"repository_owner": "a", "sha": "0f", "workflow_sha": "0f", "job_workflow_ref": "x",
		}},
		{"enterprise=acme", map[string]any{"iss": githubIssuer + "/acme"}},
		{"runner_environment=self-hosted", map[string]any{"runner_environment": "self-hosted"}},
		{"repositroy=a/b", nil},
		{"repository=a", nil},
		{"iss=https://example.test", nil},
		{"exp=0", nil},
	} {
		q, err := url.ParseQuery(test.query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := claims(q, now)
		if (err == nil) != (test.want != nil) {
			t.Errorf("%q: error %v", test.query, err)
		}
		for name, want := range test.want {
			if got[name] != want {
				t.Errorf("%q: %s: got %v, want %v", test.query, name, got[name], want)
			}
		}
	}
}

func TestTokensRefused(t *testing.T) {
	o, _ := sigstored(t)
	thief := *o
	thief.OIDCRequestToken = "guess"
	if _, err := thief.token(t.Context(), "sigstore", ""); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a guessed bearer token: %v", err)
	}

	good, err := o.token(t.Context(), "sigstore", "")
	if err != nil {
		t.Fatal(err)
	}
	forWhom, err := o.token(t.Context(), "somebody", "")
	if err != nil {
		t.Fatal(err)
	}
	parts, others := strings.Split(good, "."), strings.Split(forWhom, ".")
	for name, token := range map[string]string{
		"another audience":           forWhom,
		"signature of another token": parts[0] + "." + parts[1] + "." + others[2],
	} {
		keypair, err := newDigestKeypair(sha256.Sum256(nil))
		if err != nil {
			t.Fatal(err)
		}
		_, err = sign.NewFulcio(&sign.FulcioOptions{BaseURL: o.FulcioURL}).
			GetCertificate(t.Context(), keypair, &sign.CertificateProviderOptions{IDToken: token})
		if err == nil || !strings.Contains(err.Error(), "identity token") {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}
