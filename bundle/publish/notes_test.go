package publish

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

var update = flag.Bool("update", false, "write golden files again")

const workflow = "https://github.com/acme/shop/.github/workflows/release.yml@refs/tags/v1.2.3"

func manifest(t *testing.T) *bundle.Manifest {
	t.Helper()
	m, _ := bundletest.Release(t, bundletest.Spec{})
	return m
}

func TestNotesGolden(t *testing.T) {
	m := manifest(t)
	m.Changelog = "### Added\n\n- orders"
	m.Files = append(m.Files, bundle.File{Path: "install.sh", Digest: bundle.DigestOf([]byte("#!/bin/sh\n"))})
	got := Notes(m, Facts{
		Signer: bundle.Signer{Issuer: "https://token.actions.githubusercontent.com", Identity: workflow}, SignedBy: workflow + " (issuer https://token.actions.githubusercontent.com)",
		Download: "https://github.com/acme/shop/releases/download/v1.2.3/", Bundles: []string{"shop-1.2.3.tar.gz"}, Previous: "1.2.2",
		Thin: []Thin{{"shop-1.2.3-from-1.2.2.tar.gz", "1.2.2", "3.1 MiB"}},
	})
	const golden = "testdata/notes.golden.md"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s", got)
	}
}

// TestNotesAreNotAShell: people copy the commands, and names in them may be
// anything that git takes.
func TestNotesAreNotAShell(t *testing.T) {
	m := manifest(t)
	m.Changelog = ""
	evil := "https://github.com/acme/shop/.github/workflows/r.yml@refs/heads/$(touch${IFS}x)'`id`;\"&|"
	notes := Notes(m, Facts{Signer: bundle.Signer{Issuer: "https://issuer.example/$(id)", Identity: evil}, SignedBy: evil, Download: "https://x.example/$(id)/", Bundles: []string{"shop-1.2.3.tar.gz"},
		Commits: []string{"fix @acme/team <img src=x> [a](javascript:b) `c`\n# no"}, Previous: "1.2.2", TrustedRoot: "trusted_root.json"})
	found := 0
	for line := range strings.Lines(notes) {
		if !strings.HasPrefix(line, "curl ") && !strings.Contains(line, "valise verify") && !strings.HasPrefix(line, "valise-installer install") {
			continue
		}
		// A shell gives the words back as they were.
		out, err := exec.Command("sh", "-c", "printf '%s\\n' "+line).Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for _, want := range []string{"https://x.example/$(id)/shop-1.2.3.tar.gz", evil, "https://issuer.example/$(id)"} {
			if strings.Contains("\n"+string(out), "\n"+want+"\n") {
				found++
			}
		}
	}
	if found != 4 { // the URL, the identity, the issuer twice; install has an expression
		t.Errorf("found %d words unchanged, want 4:\n%s", found, notes)
	}
	if !strings.Contains(notes, `- fix @<!-- -->acme/team \<img src=x\> \[a\](javascript:b) \`+"`c\\` \\# no") {
		t.Errorf("a commit is not plain text:\n%s", notes)
	}
}

func TestLasting(t *testing.T) {
	if got, want := lasting(workflow, "1.2.3"), `https://github\.com/acme/shop/\.github/workflows/release\.yml@refs/tags/v.+`; got != want {
		t.Errorf("got %s", got)
	}
	for tag, want := range map[string]string{"1.2.3": `[0-9].+`, "2026.11.29": `2026\.11\.29`, "app/v1.2.3": `app/v.+`, "shop-v1.2.3": `shop-v.+`, "shop@1.2.3": `shop@.+`, "v1": `v1`} {
		if got := lasting("w@refs/tags/"+tag, "1.2.3"); got != "w@refs/tags/"+want {
			t.Errorf("%s: got %s", tag, got)
		}
	}
	if got := lasting("a.b@refs/heads/main", "1.2.3"); got != `a\.b@refs/heads/main` {
		t.Errorf("got %s", got)
	}
}
