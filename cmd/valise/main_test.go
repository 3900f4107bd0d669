package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"valise": main, "mklayout": makeLayout})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/.cache")
			e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
			fixtures, err := filepath.Abs("../../verify/testdata/keyless")
			e.Setenv("FIXTURES", fixtures)
			e.Setenv("CONSUMERS", filepath.Join(fixtures, "../../../cmd/valise/testdata/consumers"))
			e.Setenv("PUBLICGOOD", filepath.Join(fixtures, "../../trustroot/public-good.json"))
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "github": githubDouble, "registry": startRegistry},
		Condition: func(name string) (bool, error) {
			if name != "busybox" {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			// It asks its own "id", so root must be real.
			_, err := exec.LookPath(name)
			if os.Getenv("CI") != "true" {
				return err == nil && os.Getuid() == 0, nil
			}
			return os.Getuid() == 0, err
		},
	})
}

// exits CODE PROGRAM ARG... runs a program that must exit with CODE.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// startRegistry is registry: one in memory, at $REGISTRY, until the script ends.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(s.Close)
	ts.Setenv("REGISTRY", strings.TrimPrefix(s.URL, "http://"))
}

// makeLayout is mklayout DIR SEED PLATFORM...: it writes an OCI image layout with
// an image index whose images have two small layers, one of them common to all
// images of the same platform.
func makeLayout() {
	if err := writeLayout(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "mklayout:", err)
		os.Exit(1)
	}
}

func writeLayout(dir, seed string, platforms []string) error {
	index := v1.ImageIndex(empty.Index)
	for _, text := range platforms {
		p, err := v1.ParsePlatform(text)
		if err != nil {
			return err
		}
		img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
		config := &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, RootFS: v1.RootFS{Type: "layers"}}
		if img, err = mutate.ConfigFile(img, config); err != nil {
			return err
		}
		for _, s := range []string{"common " + text, seed + " " + text} {
			var b bytes.Buffer
			t := tar.NewWriter(&b)
			text := strings.Repeat(s+"\n", 1000)
			if err := t.WriteHeader(&tar.Header{Name: "usr/share/" + s, Mode: 0o644, Size: int64(len(text))}); err != nil {
				return err
			}
			io.WriteString(t, text)
			if err := t.Close(); err != nil {
				return err
			}
			if img, err = mutate.AppendLayers(img, static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)); err != nil {
				return err
			}
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendIndex(index)
}

func TestChangelogSection(t *testing.T) {
	const text = "# Changelog\r\n\n## [Unreleased]\n- x\n\n## [1.2.3](https://a/b) - 2026-01-02\n\n### Added\n- one\n```\n# no heading\n```\n#hash\n\n## v1.2.2\n- old\n"
	for version, want := range map[string]string{
		"1.2.3": "### Added\n- one\n```\n# no heading\n```\n#hash",
		"1.2.2": "- old",
		"1.2":   "",
	} {
		if got := changelogSection(text, version); got != want {
			t.Errorf("%s: got %q, want %q", version, got, want)
		}
	}
	if got := changelogSection("# 2.0.0 (January)\nall new\n# 1.0.0\n", "2.0.0"); got != "all new" {
		t.Errorf("got %q", got)
	}
}

func TestChangelogOf(t *testing.T) {
	for name, tc := range map[string]struct {
		subjects []string
		want     string
	}{
		"none":    {nil, ""},
		"plain":   {[]string{"Add b", "Add a"}, "- Add b\n- Add a"},
		"all":     {[]string{"feat(api)!: new paths", "fix: a crash", "chore: tidy", "feat: carts", "wip: x", "Hello"}, "### Breaking changes\n\n- api: new paths\n\n### Features\n\n- carts\n\n### Fixes\n\n- a crash\n\n### Changes\n\n- wip: x\n- Hello"},
		"hostile": {[]string{"a\x1b[2Jb\xff"}, "- a[2Jb?"},
	} {
		if got := changelogOf(tc.subjects); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
	many := slices.Repeat([]string{strings.Repeat("x", 10_000)}, 100)
	if got := changelogOf(many); len(got) > bundle.MaxChangelog || !strings.HasSuffix(got, "- and older changes") {
		t.Errorf("%d bytes", len(got))
	}
}

func TestPublicURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://github.com/a/b.git":                 "https://github.com/a/b",
		"https://user:secret@example.org:8443/a/b":   "https://example.org:8443/a/b",
		"git@github.com:a/b.git":                     "https://github.com/a/b",
		"ssh://git@example.org:2222/a/b.git":         "https://example.org/a/b",
		"https://x-access-token:ghs@github.com/a/b/": "https://github.com/a/b/",
		"/srv/git/b.git":                             "",
		"file:///srv/git/b.git":                      "",
		"../b":                                       "",
	} {
		if got := publicURL(in); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestParseMirrors(t *testing.T) {
	got, err := parseMirrors("docker.io=mirror.gcr.io,docker.io=localhost:5000/hub ghcr.io=cache.example.com/ghcr")
	want := map[string][]string{"index.docker.io": {"mirror.gcr.io", "localhost:5000/hub"}, "ghcr.io": {"cache.example.com/ghcr"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"docker.io", "docker.io=", "=mirror.gcr.io", "docker.io=https://mirror.gcr.io", "a b"} {
		if got, err := parseMirrors(bad); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

// TestVectors runs the format's vectors through the real command: what is refused is
// refused with exit code 4, one line that names the rule or check, and the section
// about it.
func TestVectors(t *testing.T) {
	const dir = "../../testdata/vectors"
	files, err := filepath.Glob(filepath.Join(dir, "*.bundle"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, data, _ := strings.Cut(string(b), "\n\n")
		path := filepath.Join(t.TempDir(), "bundle.tar.gz")
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		refusedBy, section := "", cli.Docs+"main/docs/troubleshooting.md#"
		for line := range strings.Lines(head) {
			switch key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); {
			case key == "expect" && value != "success":
				refusedBy, section = fmt.Sprintf("(rule %s)", value), section+"not-an-acceptable-bundle\n"
			case key == "verify":
				refusedBy, section = fmt.Sprintf("check %q", value), section+"check-"+value+"\n"
			}
		}
		want := cli.ExitDone
		if refusedBy != "" {
			want = cli.ExitRefused
		}
		var stdout, stderr strings.Builder
		got := run(t.Context(), cli.Env{
			Args:   []string{"verify", path, "--key", filepath.Join(dir, "signer.pub"), "--progress", "none"},
			Stdin:  strings.NewReader(""),
			Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now,
		})
		if got != want {
			t.Errorf("%s: exit code %d, want %d: %s", filepath.Base(file), got, want, &stderr)
		}
		if lines := strings.Count(stderr.String(), "\n"); want == cli.ExitRefused && (lines != 2 || !strings.Contains(stderr.String(), "\nhint: see "+section) || stdout.String() != "" || !strings.HasPrefix(stderr.String(), "valise: ") || !strings.Contains(stderr.String(), refusedBy)) {
			t.Errorf("%s: want one line with %q and a hint that names a section, got %q and %q", filepath.Base(file), refusedBy, &stderr, &stdout)
		}
	}
}
