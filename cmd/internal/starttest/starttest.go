// Package starttest looks at what a program does before its main function runs.
package starttest

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Packages may allocate this much when they are initialized: every start of
// every command pays for it.
const (
	ours    = 64 << 10
	foreign = 256 << 10
)

var line = regexp.MustCompile(`(?m)^init (\S+) @.* ms clock, (\d+) bytes, \d+ allocs$`)

// Check runs the test program and has its runtime say what each package
// allocates before main. Packages over the limit are in reasons, with why that
// cannot be helped. Bytes are counted and not time, which a busy machine changes.
func Check(t *testing.T, reasons map[string]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found := line.FindAllStringSubmatch(string(out), -1)
	if len(found) < 20 {
		t.Fatalf("%d packages are initialized, want more:\n%s", len(found), out)
	}
	over := map[string]bool{}
	for _, m := range found {
		limit := foreign
		if strings.HasPrefix(m[1], "github.com/valise-ota/valise/") {
			limit = ours
		}
		bytes, _ := strconv.Atoi(m[2])
		if bytes <= limit {
			continue
		}
		over[m[1]] = true
		if reasons[m[1]] == "" {
			t.Errorf("%s allocates %d bytes at every start, want at most %d: see bundle/lazyregexp and sync.OnceValue", m[1], bytes, limit)
		}
	}
	for name := range reasons {
		if !over[name] {
			t.Errorf("%s is no longer over the limit: remove its reason", name)
		}
	}
}
