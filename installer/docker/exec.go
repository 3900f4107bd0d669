package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle/trace"
)

// ExitError says how a command in a container ended.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// NotRunningError says that a service in which something is to be run does not run.
type NotRunningError struct{ Service string }

func (e *NotRunningError) Error() string { return fmt.Sprintf("service %q is not running", e.Service) }

// Exec runs argv in the running container of service. stdin may be nil. An
// error of stdout is the error returned, whatever argv made of its closed pipe; that of
// a command that failed is an *ExitError. When ctx ends the command inside the
// container may run on.
//
// It asks the engine and not compose, whose programs take longer to start than most
// commands take to run.
func (c *Compose) Exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout io.Writer) error {
	if len(argv) == 0 {
		return fmt.Errorf("run in service %s: no command", service)
	}
	var stderr tail
	out := &firstError{w: stdout}
	inside, span := trace.Begin(ctx, trace.Child, argv[0]+" in "+service)
	code, err := c.exec(inside, service, argv, stdin, out, &stderr)
	span.Count(out.n)
	span.End(err)
	switch {
	case out.err != nil:
		return fmt.Errorf("run %s in service %s: write its output: %w", argv[0], service, out.err)
	case ctx.Err() != nil:
		return fmt.Errorf("run %s in service %s: %w", argv[0], service, context.Cause(ctx))
	case err == nil && code != 0:
		err = &ExitError{code}
	}
	if err != nil {
		return fmt.Errorf("run %s in service %s: %w", argv[0], service, withOutput(err, &stderr))
	}
	return nil
}

func (c *Compose) exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout, stderr io.Writer) (code int, err error) {
	engine := c.Engine.client
	// The first one, as docker compose exec takes it.
	list, err := engine.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("status", "running").
		Add("label", projectLabel+"="+c.Project, oneOffLabel+"=False", serviceLabel+"="+service)})
	if err != nil {
		return 0, fmt.Errorf("list its containers: %w", err)
	}
	if len(list.Items) == 0 {
		return 0, &NotRunningError{service}
	}
	first := list.Items[0]
	for _, s := range list.Items[1:] {
		if number(s.Labels) < number(first.Labels) {
			first = s
		}
	}
	made, err := engine.ExecCreate(ctx, first.ID, client.ExecCreateOptions{Cmd: argv, AttachStdin: stdin != nil, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, err
	}
	attached, cancel := context.WithCancel(context.WithValue(ctx, patient{}, true))
	defer cancel()
	conn, err := engine.ExecAttach(attached, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, err
	}
	if stdin != nil {
		sent, in := make(chan struct{}), &firstReadError{r: stdin}
		go func() {
			defer close(sent)
			_, _ = io.Copy(conn.Conn, in) // a command need not read all of it
			_ = conn.CloseWrite()
		}()
		// stdin is its caller's again afterwards, unless it has nothing to say for long.
		defer func() {
			cancel()
			select {
			case <-sent:
				if err == nil && code == 0 && in.err != nil { // for the command it was the end
					err = fmt.Errorf("read its input: %w", in.err)
				}
			case <-time.After(waitDelay):
			}
		}()
	}
	output := &watched{r: conn.Reader, after: cmp.Or(c.lostAfter, lostAfter), ended: make(chan struct{})}
	go output.watch(func() bool {
		state, err := engine.ExecInspect(attached, made.ID, client.ExecInspectOptions{})
		return errdefs.IsNotFound(err) || err == nil && !state.Running
	}, conn.Close)
	_, err = stdcopy.StdCopy(stdout, stderr, output)
	close(output.ended)
	if output.lost.Load() {
		return 0, errLost
	}
	if err != nil && (stdin == nil || !errors.Is(err, syscall.ECONNRESET)) { // which is how it ends when input was left over
		return 0, err
	}
	// The engine closes the streams a moment before it notes the end.
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		state, err := engine.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
		if err != nil || !state.Running {
			return state.ExitCode, err
		}
		if err := trace.Sleep(ctx, "until the engine notes the end", pause); err != nil {
			return 0, err
		}
	}
}

// errLost is the end of a command that an engine forgets, as Docker 20.10 does when its
// container is restarted just then: it does not run, and its output never ends.
var errLost = errors.New("the container engine says that it does not run, and does not end its output")

// lostAfter is how long that must last.
const lostAfter = 30 * time.Second

// watched is the output of a command.
type watched struct {
	r     io.Reader
	after time.Duration
	n     atomic.Int64 // bytes so far
	ended chan struct{}
	lost  atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.n.Add(int64(n))
	return n, err
}

// watch ends the output with give when the command is gone and nothing comes any more.
func (w *watched) watch(gone func() bool, give func()) {
	const looks = 10
	for seen, idle := int64(-1), 0; ; {
		select {
		case <-w.ended:
			return
		case <-time.After(w.after / looks):
		}
		if n := w.n.Load(); n != seen || !gone() {
			seen, idle = n, 0
		} else if idle++; idle == looks {
			w.lost.Store(true)
			give()
			return
		}
	}
}

// patient in a context marks a connection that may be silent, for as long as a command
// of the app has nothing to say, and that ends with the context.
type patient struct{}

// number is a container's among those of its service.
func number(labels map[string]string) int {
	n, _ := strconv.Atoi(labels[numberLabel])
	return n
}

// firstError remembers why writing failed.
type firstError struct {
	w   io.Writer
	n   int64 // bytes so far
	err error
}

func (f *firstError) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.n += int64(n)
	if err != nil && f.err == nil {
		f.err = err
	}
	return n, err
}

// firstReadError remembers why reading failed.
type firstReadError struct {
	r   io.Reader
	err error
}

func (f *firstReadError) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF && f.err == nil {
		f.err = err
	}
	return n, err
}
