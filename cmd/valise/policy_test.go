package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/verify"
)

// TestStrictestPolicy: the most that docs/device.md has a device ask for is met by what
// the Action makes with the inputs that it has when a workflow sets none, as that of the
// README. Only the signature is by a key here: make e2e-action has an identity.
func TestStrictestPolicy(t *testing.T) {
	text, err := os.ReadFile("../../docs/device.md")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Trust struct {
			Provenance verify.ProvenancePolicy
		}
	}
	block := regexp.MustCompile("(?s)```yaml\n(trust:\n[^`]*provenance:.*?)```").FindSubmatch(text)
	if block == nil || yaml.Load(block[1], &config) != nil || !config.Trust.Provenance.SBOM || config.Trust.Provenance.Builder == "" {
		t.Fatalf("docs/device.md shows no policy: %s", block)
	}
	var action struct {
		Inputs map[string]struct{ Default string }
	}
	b, err := os.ReadFile("../../action.yml")
	if err == nil {
		err = yaml.Load(b, &action)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	env := map[string]string{"HOME": dir, "GITHUB_ACTIONS": "true", "RUNNER_ENVIRONMENT": "github-hosted", "GITHUB_REPOSITORY": "acme/shop", "GITHUB_SERVER_URL": "https://github.com",
		"GITHUB_REF": "refs/tags/v1.0.0", "GITHUB_WORKFLOW_REF": "acme/shop/.github/workflows/release.yml@refs/tags/v1.0.0", "GITHUB_RUN_ID": "1",
		"GITHUB_WORKSPACE": dir, "GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"), "COSIGN_PASSWORD": "example"}
	for name, input := range action.Inputs {
		env["INPUT_"+strings.ReplaceAll(strings.ToUpper(name), "-", "_")] = input.Default
	}
	env["INPUT_SIGN"], env["INPUT_PUBLISH"] = "key", "false" // no Sigstore and no GitHub here
	for file, text := range map[string]string{
		"valise.yaml":  "app: shop\ninstaller: none\ncompose: compose.yaml\nplatforms: [linux/amd64, linux/arm64]\nimages: {a: {from: \"oci:image\"}}\nhealth: {compose: [web]}\n",
		"compose.yaml": "services: {web: {image: a, restart: always}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeLayout(filepath.Join(dir, "image"), "a", []string{"linux/amd64", "linux/arm64"}); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	valise := func(args ...string) {
		var out strings.Builder
		if code := run(t.Context(), cli.Env{Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Getenv: func(name string) string { return env[name] }, Now: time.Now}); code != 0 {
			t.Fatalf("valise %s: exit code %d: %s", args, code, out.String())
		}
	}
	valise("keygen")
	key, err := os.ReadFile("cosign.key")
	if err != nil {
		t.Fatal(err)
	}
	env["COSIGN_PRIVATE_KEY"] = string(key)
	valise("action")

	policy, err := (&cli.Trust{Key: "dist/cosign.pub"}).Policy()
	if err != nil {
		t.Fatal(err)
	}
	policy.Provenance = config.Trust.Provenance
	v, err := verify.New(policy)
	if err != nil {
		t.Fatal(err)
	}
	r, f, err := parts.OpenBundle("dist/shop-1.0.0.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := v.Release(t.Context(), r, verify.Want{App: "shop", Version: "1.0.0"}, func(done, total int64) {}); err != nil {
		t.Error(err)
	}
	if m := r.Manifest(); m.Kind != bundle.KindCompose {
		t.Error(m.Kind)
	}
}
