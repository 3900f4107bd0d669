// Package hook runs a release's own programs on the device.
package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
)

// waitDelay is how long the pipes of a program may stay open after its end: it may
// have left a child behind, which runs on.
const waitDelay = 5 * time.Second

// Run runs a program in dir with argv and nothing but env as its environment. At
// the end of timeout it is killed, with everything it started in its process
// group. Its output, both kinds, goes to out. What it leaves running when it ends by
// itself is its own affair.
func Run(ctx context.Context, path string, argv []string, dir string, env []string, timeout time.Duration, out io.Writer) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, path, argv...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, out, out
	if env == nil {
		cmd.Env = []string{} // nil would be our own
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = waitDelay
	err := trace.Run(limited, filepath.Base(path), cmd)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && errors.Is(limited.Err(), context.DeadlineExceeded):
		return fmt.Errorf("not done after %s: killed", timeout)
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it ended well, and a child of its has our pipe
	}
	return err
}

// Tail keeps the last Limit bytes written to it.
type Tail struct {
	Limit int
	b     []byte
}

func (t *Tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - 2*t.Limit; over > 0 {
		t.b = append(t.b[:0], t.b[len(t.b)-t.Limit:]...)
	}
	return len(p), nil
}

// Bytes is what is kept.
func (t *Tail) Bytes() []byte { return t.b[max(0, len(t.b)-t.Limit):] }
