package main

import (
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/valise-ota/valise/bundle/publish/publishtest"
)

// TestReadme types what the README says under "Try it in a minute", in an empty
// directory. What it would download and compile is here already.
func TestReadme(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash")
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Try it in a minute\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := commandBlocks(section)
	if len(blocks) != 2 {
		t.Fatalf("found %d blocks of commands, want 2", len(blocks))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The test's own program is valise when it is called so: see TestMain.
	bash := func(in, script string) (string, error) {
		cmd := exec.Command("bash", "-euc", script)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "HOME="+dir, "COSIGN_PASSWORD=example", "REPOSITORY="+repository, "SELF="+self)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := bash(dir, `git() { mkdir valise && cp -r "$REPOSITORY/examples" valise/; }
go() { [ "$*" = "build ./cmd/valise" ] && ln -s "$SELF" valise; }
`+blocks[0])
	if err != nil || !strings.Contains(out, "ok: hello 1.0.0, signed by key sha256:") {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err = bash(filepath.Join(dir, "valise"), blocks[1])
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 4 || !strings.Contains(out, "valise: not an acceptable bundle: ") {
		t.Errorf("%v, want exit code 4\n%s", err, out)
	}
}

// commandBlocks are the commands of a text.
func commandBlocks(text string) (blocks []string) {
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// TestTutorial types what docs/tutorials/release.md says, in an empty directory.
// Docker Hub is a registry of the test's, and GitHub a double.
func TestTutorial(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash")
	}
	text, err := os.ReadFile("../../docs/tutorials/release.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := commandBlocks(string(text))
	if len(blocks) != 6 {
		t.Fatalf("found %d blocks of commands, want 6", len(blocks))
	}
	dir := t.TempDir()
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer hub.Close()
	if err := writeLayout(filepath.Join(dir, "nginx"), "nginx", []string{"linux/amd64", "linux/arm64"}); err != nil {
		t.Fatal(err)
	}
	path, err := layout.FromPath(filepath.Join(dir, "nginx"))
	if err != nil {
		t.Fatal(err)
	}
	outer, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	list, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	index, err := outer.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(hub.URL, "http://") + "/library/nginx:1.29-alpine")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	server := &publishtest.Server{Repository: "acme/shop", Dir: t.TempDir()}
	github := httptest.NewServer(server)
	defer github.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "valise")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-euc", strings.Join(blocks, ""))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+dir, "PATH="+dir+":"+os.Getenv("PATH"), "VALISE_MIRRORS=docker.io="+strings.TrimPrefix(hub.URL, "http://"),
		"GITHUB_API_URL="+github.URL, "GITHUB_SERVER_URL="+github.URL, "GITHUB_TOKEN="+publishtest.Write)
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"wrote valise.yaml for compose.yaml", "ok: shop 1.0.0, signed by key sha256:", "1.0.0 published: ", "1.1.0 published: "} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("%v, want %q\n%s", err, want, out)
		}
	}
	if n := len(server.Releases()); n != 2 {
		t.Errorf("%d releases, want 2", n)
	}
}
