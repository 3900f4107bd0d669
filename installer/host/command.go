package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
)

// outputLimit bounds what is kept of what a command prints, in bytes.
const outputLimit = 4 << 10

// look finds a command in the machine's PATH.
func (m *Machine) look(name string) string {
	for _, dir := range filepath.SplitList(m.Path) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(p) {
			return p
		}
	}
	return ""
}

// output runs a command to its end and returns what it printed, which is also
// part of the error.
func (m *Machine) output(ctx context.Context, name string, args ...string) (string, error) {
	line := strings.Join(append([]string{name}, args...), " ")
	program := m.look(name)
	if program == "" {
		return "", fmt.Errorf("run %s: %s is not in PATH", line, name)
	}
	c := exec.CommandContext(ctx, program, args...)
	c.Env = []string{"PATH=" + m.Path, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	// dpkg and apt-get end in order when they are asked to.
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 30 * time.Second
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := trace.Run(ctx, line, c)
	if ctx.Err() != nil {
		return "", fmt.Errorf("run %s: %w", line, context.Cause(ctx))
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) { // a service that a package started may have our pipe
		text := strings.TrimSpace(out.String())
		if len(text) > outputLimit {
			text = text[len(text)-outputLimit:]
		}
		return "", fmt.Errorf("run %.200s: %w: %s", line, err, text)
	}
	return out.String(), nil
}
