// Package depcheck keeps imports going one way. A rule here changes only with a
// reason.
package depcheck

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/valise-ota/valise/"

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

func list(t *testing.T) map[string]listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Deps,Standard", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

func under(path string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		p = strings.TrimSuffix(p, "/")
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// own are packages of this module, given without the module's name.
func own(paths ...string) []string {
	for i, p := range paths {
		paths[i] = module + p
	}
	return paths
}

// onlyImportedBy: a package below what is imported directly by nobody but
// packages below by.
var onlyImportedBy = []struct {
	what   string
	by     []string
	reason string
}{
	{"github.com/sigstore", own("verify", "bundle/sign"), "one place decides trust, one makes signatures"},
	{"github.com/sigstore/cosign", own("bundle/sign"), "cosign's Go API has no stability promise"},
	{"github.com/google/go-containerregistry", own("bundle/image", "bundle/push", "cmd/valise", "scripts"), "images are made, read and pushed on the release side"},
	{"github.com/mholt/archives", own("bundle/unpack"), "a dozen decoders, for what people hand to a build"},
	{"github.com/google/go-github", own("bundle/publish"), "one place makes GitHub releases; a device reads them with two calls"},
	{"github.com/sethvargo/go-githubactions", own("cmd/valise"), "libraries do not print"},
	{"github.com/moby/moby", own("installer/docker", "bundle/image"), "one place talks to the engine of a device, one to that of a laptop"},
	{"modernc.org/sqlite", own("installer/record", "installer/backup"), "the journal is the only database of ours; the other is an app's, which only SQLite can copy"},
	{"github.com/google/osv-scalibr", own("bundle/sbom"), "one place looks into images"},
	{"github.com/spf13/cobra", own("cmd"), "flags belong to the programs"},
	{"github.com/fsnotify/fsnotify", own("installer/daemon"), "one place watches folders"},
	{"github.com/tus/tusd", own("installer/ota"), "uploads come in by the page"},
	{"github.com/yuin/goldmark", own("installer/ota"), "only a page shows release notes"},
	{"maragu.dev/gomponents", own("installer/ota"), "one place makes HTML"},
	{"github.com/coreos/go-systemd", own("cmd/valise-installer"), "services are what the program runs as"},
	{"github.com/vbauerster/mpb", own("cmd/internal/ui"), "libraries do not print"},
	{"os/exec", own("installer/device", "installer/docker", "installer/host", "installer/hook", "installer/systemd", "installer/tree", "bundle/image", "cmd", "scripts"), "commands are run in few places"},
	{"go.yaml.in/yaml", own("bundle/project", "installer/yamledit", "installer/device", "installer/compose", "installer/docker", "cmd"), "the format and the device's records are JSON"},
}

// reachNothing: a package never reaches one of these, directly or not.
var reachNothing = []struct {
	from   string
	not    []string
	reason string
}{
	{module + "bundle", []string{"net/http", "os/exec", "github.com/sigstore", module + "verify"}, "third parties read the format with the standard library, the compressor and SemVer"},
	{module + "verify", []string{"github.com/sigstore/cosign", module + "installer", module + "bundle/image", module + "bundle/sign"}, "the device verifies with what it links anyway"},
	{module + "installer/source", own("verify", "installer"), "what it finds is a stranger's"},
	{module + "installer/fleet", own("verify", "installer/source", "installer/docker", "installer/record", "cmd"), "a server names a version, and decides nothing else"},
	{module + "installer", own("installer/docker", "installer/record", "installer/release", "cmd"), "the transaction knows interfaces only"},
	{module + "cmd/valise-installer", append(own("bundle/image", "bundle/unpack", "bundle/sbom", "bundle/sign", "bundle/publish", "bundle/push", "bundle/project"), "github.com/sigstore/cosign", "github.com/google/go-containerregistry/pkg/v1/remote", "github.com/compose-spec/compose-go/v2/loader", "k8s.io/api", "k8s.io/client-go"), "every megabyte counts on a device"},
	{module + "installer/daemon", own("installer/docker", "installer/record", "installer/release", "cmd"), "the daemon decides when, the commands' code does it"},
	{module + "installer/device", append(own("cmd", "bundle/image", "bundle/sign", "bundle/publish", "bundle/push", "bundle/project", "installer/ota"), "github.com/spf13/cobra"), "what can be done on a device has no command line"},
	{module + "installer/ota", own("installer/docker", "installer/record", "installer/release", "installer/source", "cmd"), "the page asks the daemon, and can do nothing itself"},
}

// floors: nothing below a directory imports what is above it, directly or not.
var floors = []struct {
	dir   string
	above []string
}{
	{"bundle", own("verify", "installer", "cmd")},
	{"verify", own("installer", "cmd")},
	{"installer", own("cmd")},
}

func TestImports(t *testing.T) {
	all := list(t)
	for _, p := range all {
		if !strings.HasPrefix(p.ImportPath, module) {
			continue
		}
		for _, imported := range p.Imports {
			for _, rule := range onlyImportedBy {
				if under(imported, rule.what) && !under(p.ImportPath, rule.by...) {
					t.Errorf("%s imports %s: %s", strings.TrimPrefix(p.ImportPath, module), imported, rule.reason)
				}
			}
		}
	}
	for _, dep := range all[module+"cmd/valise"].Deps {
		if under(dep, own("installer")...) && dep != module+"installer/receipt" {
			t.Errorf("cmd/valise reaches %s: it runs on Windows too, and devices do not", dep)
		}
	}
	for path, p := range all {
		for _, f := range floors {
			if !under(path, own(f.dir)...) {
				continue
			}
			for _, dep := range p.Deps {
				if under(dep, f.above...) {
					t.Errorf("%s reaches %s, which is above it", path, dep)
				}
			}
		}
	}
	for _, rule := range reachNothing {
		p, ok := all[rule.from]
		if !ok {
			t.Errorf("%s does not exist: fix the rule", rule.from)
		}
		for _, dep := range p.Deps {
			if under(dep, rule.not...) {
				t.Errorf("%s reaches %s: %s", rule.from, dep, rule.reason)
			}
		}
	}
}
