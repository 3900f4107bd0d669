package workflows

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// program stands for valise: it says what it is called with, and its signature is
// good when it says so.
const program = "#!/bin/sh\necho \"called: $*\" >&2\n[ \"$1\" != verify ] || [ \"$(cat \"$2.sigstore.json\")\" = good ]\n"

// TestActionScript: scripts/action.sh runs nothing but the program that action.pin
// names, and says what to do when it cannot. make e2e-action runs it with a real
// program and a real signature.
func TestActionScript(t *testing.T) {
	platform := "linux-" + runtime.GOARCH
	if platform != "linux-amd64" && platform != "linux-arm64" || runtime.GOOS != "linux" {
		t.Skip("the Action is for Linux, x64 and arm64")
	}
	for name, test := range map[string]struct {
		files   map[string]string // of the release
		offline bool
		change  func(pin string) string
		code    int
		says    string
		calls   string // first words of what the program was called with
	}{
		"good":         {code: 0, calls: "verify action"},
		"tampered":     {files: map[string]string{"valise-" + platform: program + "#"}, code: 1, says: "::error title=valise::the downloaded valise-" + platform + " is not the one that this Action was released with"},
		"truncated":    {files: map[string]string{"valise-" + platform: program[:30]}, code: 1, says: "is not the one that this Action was released with"},
		"not signed":   {files: map[string]string{"valise-" + platform + ".sigstore.json": "bad"}, code: 1, says: "is not signed by the release workflow", calls: "verify"},
		"no signature": {files: map[string]string{"valise-" + platform + ".sigstore.json": ""}, code: 1, says: "cannot download http"},
		"no release":   {files: map[string]string{"valise-" + platform: ""}, code: 1, says: "/v1.2.3/valise-" + platform + " (why is above): let the runner reach it, or check valise out"},
		"no network":   {offline: true, code: 1, says: "let the runner reach it"},
		"no digest": {change: func(pin string) string { return strings.Replace(pin, platform, "linux-s390x", 1) },
			code: 1, says: "action.pin has no digest for " + platform},
		"digest is an option": {change: func(pin string) string { return pin[:strings.Index(pin, platform)] + platform + " --help\n" },
			code: 1, says: "action.pin has no digest for " + platform},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"valise-" + platform: program, "valise-" + platform + ".sigstore.json": "good"}
			for file, content := range test.files {
				files[file] = content
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				content := files[strings.TrimPrefix(r.URL.Path, "/v1.2.3/")]
				if content == "" {
					http.NotFound(w, r)
					return
				}
				fmt.Fprint(w, content)
			}))
			defer server.Close()
			if test.offline {
				server.Close()
			}
			pin := fmt.Sprintf("version v1.2.3\nsigner https://github.com/x@refs/tags/v1.2.3\nreleases %s\n%s %x\n", server.URL, platform, sha256.Sum256([]byte(program)))
			if test.change != nil {
				pin = test.change(pin)
			}
			out, code := runAction(t, t.TempDir(), pin)
			if code != test.code || !strings.Contains(out, test.says) {
				t.Errorf("exit code %d, want %d and %q: %s", code, test.code, test.says, out)
			}
			var calls []string
			for line := range strings.Lines(out) {
				if call, ok := strings.CutPrefix(line, "called: "); ok {
					calls = append(calls, strings.Fields(call)[0])
				}
			}
			if got := strings.Join(calls, " "); got != test.calls {
				t.Errorf("called %q, want %q: %s", got, test.calls, out)
			}
		})
	}
	t.Run("used as ./", func(t *testing.T) { // the pin of a commit is not the program of a change to it
		workspace, tools := t.TempDir(), t.TempDir() // and no Go
		for _, tool := range []string{"bash", "dirname", "mktemp", "realpath", "rm", "uname"} {
			path, err := exec.LookPath(tool)
			if err == nil {
				err = os.Symlink(path, filepath.Join(tools, tool))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		out, code := runAction(t, workspace, "version v1.2.3\n", "GITHUB_WORKSPACE="+workspace, "PATH="+tools)
		if code != 1 || !strings.Contains(out, "there is no Go: add a step with actions/setup-go") {
			t.Errorf("exit code %d: %s", code, out)
		}
	})
}

// runAction runs the script as the Action in dir with an action.pin.
func runAction(t *testing.T, dir, pin string, env ...string) (string, int) {
	t.Helper()
	script, err := os.ReadFile("../action.sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "scripts"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"scripts/action.sh": string(script), "action.pin": pin} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	temp := t.TempDir()
	cmd := exec.Command("bash", filepath.Join(dir, "scripts/action.sh")) // executing what was just written may fail while another test forks
	cmd.Env = append(append(os.Environ(), "RUNNER_TEMP="+temp), env...)
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
